"""The figure of DFT savings is that of the committed results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import plot_savings as plotting  # noqa: E402

sys.path.pop(0)


def test_refused_predictions_cost_what_the_initial_start_does_and_other_minima_are_marked(tmp_path: Path) -> None:
    lines = plotting.RESULTS.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    two = sorted({record["case"]["rank"] for record in records})[:2]
    kept = [record for record in records if record["case"]["rank"] in two and record["arm"] in ("initial", "polished")]
    for record in kept:
        if record["arm"] == "polished" and record["case"]["rank"] == two[0]:
            record |= {"refused": True, "converged": False}
        elif record["arm"] == "polished":
            record |= {"refused": False, "converged": True, "n_scf": 7, "energy_per_atom": -99.0}
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in kept))
    first, second = plotting.read_savings(path, "polished").crystals
    assert first.is_refused
    assert first.served == first.initial
    assert (second.served, second.reaches_same, second.is_refused) == (7, False, False)
    with pytest.raises(ValueError, match="sevennet"):
        plotting.read_savings(path, "sevennet")


def test_figures_are_those_of_the_results(tmp_path: Path) -> None:
    savings = plotting.read_savings(plotting.RESULTS, plotting.ARM)
    assert savings.ratio.n == len(savings.crystals)
    total = sum(row.served for row in savings.crystals) / sum(row.initial for row in savings.crystals)
    assert savings.ratio.ratio == pytest.approx(total)
    for theme in ("light", "dark"):
        committed = (ROOT / "docs" / "assets" / f"savings-{theme}.svg").read_text(encoding="utf-8")
        path = tmp_path / f"{theme}.svg"
        plotting.draw_savings(savings, theme, path)
        for text in (committed, path.read_text(encoding="utf-8")):
            assert plotting.describe_total(savings) in text
            assert plotting.INK[theme] in text
            assert all(f">{row.formula}<" in text for row in savings.crystals)
            assert text.count("<use ") > 2 * len(savings.crystals)
