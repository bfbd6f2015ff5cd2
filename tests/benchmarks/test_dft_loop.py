"""The benchmark of a campaign with a real DFT code: its holdout, and its table; without DFT."""

from __future__ import annotations

import sys
from pathlib import Path

from e3relax_flows import COMMON, enumerate_candidates, label_prototype

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

sys.path.insert(0, str(FOLDER))
import dft_loop as loop  # noqa: E402

sys.path.pop(0)


def make_row(generation: int, n_now: int, n_first: int, refused: tuple[bool, bool] = (False, False)) -> loop.Row:
    return loop.Row(generation, f"model-{generation}", f"c{n_now}", n_now, n_first, n_now == n_first, *refused)


def test_no_prototype_is_on_both_sides():
    family = enumerate_candidates(COMMON, 60)
    known, pool = loop.split_family(family, 4)
    held, free = ({label_prototype(structure) for _, structure in items} for items in (known, pool))
    assert 0 < len(known) <= 4 < len(pool) < 60
    assert not held & free
    assert loop.split_family(family[::-1], 4)[1] == pool  # whatever the order of the table


def test_the_table_compares_each_generation_with_the_first_model():
    rows = [make_row(0, 20, 20)] * 3 + [make_row(1, n, 20, (False, True)) for n in (10, 12, 14, 16, 18)]
    (first, second) = loop.measure_generations(rows)
    assert (first[2].ratio, first[2].low) == (1.0, None)  # three are too few for an interval
    assert second[2].ratio == 70 / 100
    assert 0.5 < second[2].low < 0.7 < second[2].high < 0.9
    lines = loop.write_table(rows, ["promote", "none"]).splitlines()
    assert lines[2] == "| 0 | model-0 | 3 | 0 (0) | 60 (60) | **1.00** |  | promote |"
    assert lines[3].startswith("| 1 | model-1 | 5 | 0 (5) | 70 (100) | **0.70** | 0.5")


def test_the_figure_is_drawn_the_same_again(tmp_path):
    rows = [make_row(0, 20, 20)] * 5 + [make_row(1, n, 20) for n in (10, 12, 14, 16, 18)]
    loop.draw(rows, tmp_path / "a.svg")
    loop.draw(rows, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_text() == (tmp_path / "b.svg").read_text()
    assert "SCF iterations" in (tmp_path / "a.svg").read_text()
