"""Screens whose engine relaxes many candidates in one job, in this process and on a launchpad's terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.store import find_outcomes, open_outcome_store
from e3relax_flows.places.local import JobReport
from e3relax_flows.schemas.screens import ScreenDoc, ScreenLimits
from e3relax_flows.screening import chunks
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import load_screen, open_screen_stores
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

METALS = ("Cu", "Ag", "Au", "Pt", "Pd", "Al", "W")  # EMT does not know the last one


@dataclass
class ChunkEngine(EmtEngine):
    """EMT, many structures in one job."""

    relaxes_chunks: ClassVar[bool] = True


def register(settings: E3RelaxSettings, engine: EmtEngine) -> str:
    items = []
    for element in METALS:
        half = EMT_LATTICES.get(element, 4.0) * 1.03 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        items.append(ReadItem(element, Structure(lattice, [element], [[0, 0, 0]]), None))
    maker = ScreenMaker(engine=engine, control=1.0, paired_controls=True)
    with open_screen_stores(settings) as stores:
        screen, _ = register_screen(stores, maker, items, load_settings(MODEL="table"))
    return str(screen.screen_id)


def load(settings: E3RelaxSettings, screen_id: str) -> ScreenDoc:
    with open_screen_stores(settings) as stores:
        return load_screen(stores, screen_id)


@pytest.mark.usefixtures("predictor")
def test_a_screen_in_chunks_ends_as_one_by_one(settings: E3RelaxSettings, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(chunks, "LAUNCHES", 2)  # three candidates in one job, from both starts
    reports: list[JobReport] = []
    one, many = register(settings, EmtEngine()), register(settings, ChunkEngine())
    run_screen_here(one, settings, tmp_path / "one")
    run_screen_here(many, settings, tmp_path / "many", reports.append)
    alone, together = load(settings, one), load(settings, many)
    assert together.counts == alone.counts == {"successful": 6, "failed": 1}
    assert [row.id for row in together.candidates] == [row.id for row in alone.candidates]
    steps = [[planned.n_ionic_steps for planned in row.outcomes] for row in together.candidates]
    assert steps == [[planned.n_ionic_steps for planned in row.outcomes] for row in alone.candidates]
    assert "No EMT-potential for W" in str(together.candidates[-1].outcomes[0].message)
    assert [report.name for report in reports].count("e3r outcome") == 14
    assert sum(report.error is not None for report in reports) == 2
    with open_outcome_store(settings) as outcomes:
        assert len(find_outcomes(outcomes, criteria={"engine_id": ChunkEngine().engine_id})) == 14


def test_where_hours_are_counted_each_is_alone() -> None:
    rows = list(range(100))
    engine = ChunkEngine()
    maker = ScreenMaker(engine=engine)
    screen = ScreenDoc.model_construct(limits=ScreenLimits())
    sizes = [len(part) for part in chunks.split_rows(screen, maker, rows)]  # type: ignore[arg-type]
    assert (sizes[:16], sum(sizes)) == ([6] * 16, 100)
    limited = ScreenDoc.model_construct(limits=ScreenLimits(core_hours=1.0))
    assert len(chunks.split_rows(limited, maker, rows)) == 100  # type: ignore[arg-type]
    assert len(chunks.split_rows(screen, ScreenMaker(engine=EmtEngine()), rows)) == 100  # type: ignore[arg-type]
