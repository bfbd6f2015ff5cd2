"""`e3relax campaign`: new, run, status, resume, stop; the example configuration; the script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from emt_campaigns import ALIAS, CONFIG, make_candidates, prepare
from monty.json import jsanitize

from e3relax_flows.campaigns import register as campaigns
from e3relax_flows.campaigns.store import load_generations, open_campaign_stores
from e3relax_flows.cli.config_files import load_campaign_config
from e3relax_flows.core.model_folders import find_model
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.registry.aliases import promote
from e3relax_flows.schemas.campaigns import Mix
from e3relax_flows.testing import EmtEngine

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def config(settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file of a campaign whose engine is effective medium theory."""
    prepare(settings)
    monkeypatch.setattr(campaigns, "get_engine", lambda name, **settings: EmtEngine())  # noqa: ARG005
    structures = {item.id: item.structure.as_dict() for item in make_candidates() if item.structure is not None}
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "pool.json").write_text(json.dumps(jsanitize(structures, recursive_msonable=True)))
    path = tmp_path / "files" / "campaign.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"inputs": ["pool.json"], "stop": {"labels": 4, "core_hours": 99.0}}))
    return path


def test_the_example_configuration_is_read() -> None:
    content = load_campaign_config(CONFIGS / "campaign.yaml")
    assert content.inputs == [str(CONFIGS.parent / "candidates")]
    assert (content.labels, content.stop.labels, content.retraining.alias) == (100, 1000, "default")
    assert content.mix == Mix() == Mix(scored=0, diverse=0, random=1)


def test_from_a_file_to_a_table(e3relax: Callable, config: Path, settings: E3RelaxSettings) -> None:
    # a dry run keeps nothing
    planned = e3relax("campaign", "new", config, "--dry-run")
    assert planned.code == 0, planned.stderr
    assert "nothing was stored" in planned.stdout
    assert "no campaigns yet" in e3relax("campaign", "status").stdout

    made = e3relax("campaign", "new", config, "--json")
    assert made.code == 0, made.stderr
    plan = json.loads(made.stdout)
    assert (plan["n_pool"], plan["labels"], plan["generations"], plan["prediction_jobs"]) == (20, 4, 1, 3)
    assert plan["relaxations"] == 6  # half of them are controls, in pairs
    assert plan["core_hours"] is None
    assert plan["training_hours"] > 0
    name = plan["campaign_id"]
    again = e3relax("campaign", "new", config)
    assert "was stored before" in again.stderr
    assert f"next: e3relax campaign run {name}" in again.stdout

    for command in ("run", "resume", "stop"):
        dry = json.loads(e3relax("campaign", command, name, "--dry-run", "--json").stdout)
        assert (dry["state"], dry["generations"], dry["dry_run"]) == ("new", [], True)
        assert "nothing was done" in e3relax("campaign", command, name, "--dry-run").stdout
    ended = e3relax("campaign", "run", name[:6], "--out", "jobs")
    assert ended.code == 0, ended.stderr
    assert "is finished (4 labels, the budget is 4)" in ended.stdout
    status = e3relax("campaign", "status", "alloys", "--json")
    document = json.loads(status.stdout)
    (generation,) = document["generations"]
    assert document["state"] == "finished"
    assert generation["retrain"]["decision"] in ("promote", "keep", "reject")
    shown = e3relax("campaign", "status", name).stdout
    assert generation["conclude"]["model_id"][:8] in shown
    assert f"{generation['conclude']['error']['mean']:.3f}" in shown

    # what is finished says what to type
    for more in ((), ("--dry-run",)):
        assert "--labels N" in e3relax("campaign", "resume", name, *more).stderr
        assert e3relax("campaign", "run", name, *more).code == 2
    assert "is finished already" in e3relax("campaign", "stop", name).stdout
    with open_campaign_stores(settings) as stores:
        assert len(load_generations(stores, name)) == 1


def test_a_stopped_campaign_does_not_run_until_it_is_resumed(e3relax: Callable, config: Path) -> None:
    name = json.loads(e3relax("campaign", "new", config, "--json").stdout)["campaign_id"]
    told = json.loads(e3relax("campaign", "stop", name, "--json").stdout)
    assert (told["campaign_id"], told["state"]) == (name, "stopped")
    assert "is stopped" in told["done"]
    refused = e3relax("campaign", "run", name)
    assert refused.code == 2
    assert f"resume {name}" in refused.stderr.replace("\n", "")


def test_an_engine_of_another_functional_is_noticed(
    e3relax: Callable, config: Path, settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    promote(ALIAS, find_model("base").model_id, "one of PBE", settings=settings)
    for functional, is_noticed in (("PBE+U", False), ("RPBE", True)):
        caplog.clear()
        monkeypatch.setattr(EmtEngine, "functional", functional)
        assert e3relax("campaign", "new", config, "--dry-run").code == 0
        assert ("ends with RPBE, but model base predicts" in caplog.text) == is_noticed


def test_errors_say_what_to_type(e3relax: Callable, config: Path) -> None:
    unknown = e3relax("campaign", "status", "none-such")
    assert unknown.code == 2
    assert "e3relax campaign new" in unknown.stderr
    content = yaml.safe_load(config.read_text())
    wrong = {
        "label": ({"label": 3}, "known keys"),
        "source": ({"sources": [{"type": "web"}]}, "docs/candidates.md"),
        "holdout": ({"retraining": content["retraining"] | {"holdout": "none"}}, "e3relax data freeze"),
        "dft": ({"retraining": content["retraining"] | {"dataset": {}}}, "dft_only"),
        "mix": ({"mix": {"scored": 0.9}}, "sum to"),
    }
    for name, (changes, hint) in wrong.items():
        path = config.with_name(f"{name}.yaml")
        path.write_text(yaml.safe_dump(content | changes))
        result = e3relax("campaign", "new", path)
        assert result.code == 2, name
        assert hint in result.stderr, name
    assert e3relax("campaign", "run", "none", "--submit", "moon").code == 2
