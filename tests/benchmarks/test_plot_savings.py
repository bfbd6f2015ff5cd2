"""The figure of DFT savings is that of the committed table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("plot_savings", ROOT / "benchmarks" / "plot_savings.py")
plotting = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = plotting  # where its dataclasses look for their own names
spec.loader.exec_module(plotting)

TEXT = plotting.TABLE.read_text(encoding="utf-8")


def test_the_table_is_read_with_refused_predictions_and_other_minima() -> None:
    savings = plotting.read_savings(TEXT)
    rows = {row.formula: row for row in savings.crystals}
    assert len(rows) == 23
    assert savings.ratio == pytest.approx(1152 / 1802)
    assert (savings.low, savings.high) == (0.50, 0.76)
    assert (rows["RbBr"].initial, rows["RbBr"].predicted) == (92, 24)
    assert [name for name, row in rows.items() if row.is_refused] == ["Sr3(LiAs)4", "LiGeAs"]
    assert rows["LiGeAs"].predicted == rows["LiGeAs"].initial == 155
    assert sum(row.reaches_same for row in rows.values()) == 18
    assert not rows["LiSiP"].reaches_same


def test_a_table_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match=r"total is 0\.64"):
        plotting.read_savings(TEXT.replace("| 92 / 24 / 21 |", "| 920 / 24 / 21 |"))
    with pytest.raises(ValueError, match="RbBr"):
        plotting.read_savings(TEXT.replace("| 92 / 24 / 21 |", "| 92 / (24) / 21 |"))
    with pytest.raises(ValueError, match=r"table\.md"):
        plotting.read_savings("no table")


def test_figures_are_those_of_the_table(tmp_path: Path) -> None:
    savings = plotting.read_savings(TEXT)
    title = "All 23 crystals: 36 % fewer SCF iterations (95 % interval 24 to 50 %)"
    for theme in ("light", "dark"):
        committed = (ROOT / "docs" / "assets" / f"savings-{theme}.svg").read_text(encoding="utf-8")
        path = tmp_path / f"{theme}.svg"
        plotting.draw_savings(savings, theme, path)
        for text in (committed, path.read_text(encoding="utf-8")):
            assert title in text
            assert plotting.INK[theme] in text
            assert all(f">{row.formula}<" in text for row in savings.crystals)
            assert text.count("<use ") > 2 * 23
