"""The script of a campaign runs, in a size that says nothing."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from e3relax_flows.campaigns.store import list_campaigns, load_generations, open_campaign_stores
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.schemas.campaigns import CampaignState, Phase

SCRIPT = Path(__file__).resolve().parents[2] / "workflows" / "06_campaign.py"


def test_the_campaign_of_the_script_has_two_generations(
    settings: E3RelaxSettings,  # noqa: ARG001
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("chgnet", reason="its engine is an extra: pip install 'e3relax-flows[mlip]'")
    monkeypatch.setenv("E3RELAX_MODEL", str(small_model))
    monkeypatch.setattr("sys.argv", [SCRIPT.name, "--smoke", "--out", str(tmp_path / "out")])
    for name in ("E3RELAX_CONFIG_FILE", "E3RELAX_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "own"))  # put back afterwards
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not stop.value.code
    assert "is finished (2 labels, the budget is 2)" in capsys.readouterr().out
    with open_campaign_stores(load_settings(DATA_DIR=tmp_path / "out" / "data")) as stores:
        (campaign,) = list_campaigns(stores)
        generations = load_generations(stores, campaign.campaign_id)
    assert campaign.state == CampaignState.FINISHED
    assert [item.phases for item in generations] == [list(Phase)] * 2
    assert len({one.structure_id for item in generations for one in item.select.selected}) == 2  # type: ignore[union-attr]
    assert all(item.conclude.error.mean > 0 for item in generations)  # type: ignore[union-attr]
