"""An engine that writes down every relaxation, and stops in the middle of one when it is told to; screens of it."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from atomate2.ase.jobs import EmtRelaxMaker
from jobflow import CURRENT_JOB
from jobflow import Maker as JobflowMaker
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import find_claims, open_claim_store
from e3relax_flows.ledger.store import find_outcomes, find_predictions, open_stores
from e3relax_flows.schemas.screens import ScreenDoc, ScreenLimits
from e3relax_flows.screening.control import resume_screen, start_screen
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import load_screen, open_screen_stores
from e3relax_flows.testing import EMT_LATTICES, EmtEngine, TablePredictor

FOLDER = "E3RELAX_TEST_FOLDER"  # of the log, and of what tells a relaxation to wait
LOG, HOLD, HELD = "relaxations.log", "hold", "held"
ELEMENTS = ("Cu", "Ag", "Au", "Pt", "Pd", "Al")
FINAL = {"successful", "unconverged", "failed", "skipped", "duplicate", "error"}


def note(folder: Path, station: str) -> None:
    """Append a line on the relaxation of the current job."""
    job: Any = CURRENT_JOB.job
    line = f"{station} {job.metadata['prediction_id']} {job.metadata['start_kind']}\n"
    descriptor = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@dataclass
class WatchedRelaxMaker(EmtRelaxMaker):
    """EMT's relaxation between two notes; while there is a file `hold`, it waits in the middle."""

    name: str = "EMT relax"

    def run_ase(self, mol_or_struct: Any, prev_dir: str | Path | None = None) -> Any:
        """Relax."""
        folder = Path(os.environ[FOLDER])
        note(folder, "begun")
        while (folder / HOLD).exists():
            (folder / HELD).touch()
            time.sleep(0.05)
        result = super().run_ase(mol_or_struct, prev_dir)
        note(folder, "ended")
        return result


@dataclass
class WatchedEngine(EmtEngine):
    """Effective medium theory with notes."""

    maker: JobflowMaker = field(
        default_factory=lambda: WatchedRelaxMaker(relax_kwargs={"fmax": 0.02}, steps=100, relax_cell=True)
    )


def make_items(elements: Sequence[str] = ELEMENTS) -> list[ReadItem]:
    """Strained metals, one that EMT does not know, one that nobody can predict, and a file that is no structure."""
    items = []
    for element in (*elements, "W"):
        half = EMT_LATTICES.get(element, 3.9) * 1.03 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        items.append(ReadItem(element, Structure(lattice, [element], [[0, 0, 0]]), None))
    half_and_half = Structure(Lattice.cubic(3.7), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    return [*items, ReadItem("disordered", half_and_half, None), ReadItem("unreadable", None, "no structure")]


def register(
    settings: E3RelaxSettings, place: str = "local", limits: ScreenLimits | None = None, **changes: Any
) -> str:
    """Register a screen of these; its id."""
    maker = ScreenMaker(**{"engine": WatchedEngine(), "control": 0, "chunk_size": 4, **changes})
    with open_screen_stores(settings) as stores:
        screen, _ = register_screen(stores, maker, make_items(), settings, place=place)
    if limits is not None:
        resume_screen(str(screen.screen_id), settings, limits)
    return str(screen.screen_id)


def count_relaxations(folder: Path, station: str) -> Counter[str]:
    """How often each relaxation was at a station."""
    lines = (folder / LOG).read_text().splitlines() if (folder / LOG).exists() else []
    return Counter(line.partition(" ")[2] for line in lines if line.startswith(station))


def check_ledger(
    settings: E3RelaxSettings, folder: Path, screen_id: str, n_successful: int = len(ELEMENTS)
) -> ScreenDoc:
    """Every candidate is in one final state, nothing was relaxed twice, nothing that was acknowledged is lost."""
    with open_screen_stores(settings) as stores:
        screen = load_screen(stores, screen_id)
    assert set(screen.counts) <= FINAL, screen.counts
    assert screen.counts == {"successful": n_successful, "failed": 1, "error": 2}
    assert len({row.id for row in screen.candidates}) == len(screen.candidates) == n_successful + 3
    with open_stores(settings) as documents:
        outcomes = find_outcomes(documents.outcomes)
        named = {planned.outcome_id for row in screen.candidates for planned in row.outcomes}
        assert named == set(outcomes)
        assert documents.outcomes.count() == n_successful + 1
        predicted = [row.prediction_id for row in screen.candidates if row.outcomes]
        assert len(find_predictions(documents.predictions, predicted)) == n_successful + 1
    ended = count_relaxations(folder, "ended")
    good = [f"{doc.prediction_id} {doc.start_kind}" for doc in outcomes.values() if doc.state == "successful"]
    assert ended == Counter(good), (ended - Counter(good), Counter(good) - ended)
    with open_claim_store(settings) as claims:
        assert find_claims(claims) == {}
    return screen


def use_table(settings: E3RelaxSettings) -> None:
    """Predict by a table in this process, since no network is needed to lose things."""
    from e3relax_flows.core.model_folders import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE, read_model_folder

    folder = settings.DATA_DIR / "models" / "table"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / WEIGHTS_FILE).exists():
        (folder / CONFIG_FILE).write_text(f'{{"format_version": {FORMAT_VERSION}}}')
        (folder / WEIGHTS_FILE).write_bytes(b"none")
    volumes = {element: (1.005 * a) ** 3 / 4 for element, a in EMT_LATTICES.items()}
    table = OrderedTable(read_model_folder(folder).model_id, volumes)
    module = SimpleNamespace(Predictor=SimpleNamespace(load=lambda *_, **__: table))
    sys.modules["e3relax_flows.predict.predictor"] = module  # type: ignore[assignment]


class OrderedTable(TablePredictor):
    """As the real one, it cannot predict what is disordered."""

    def _predict_one(self, initial: Any, name: str | None) -> Any:
        return super()._predict_one(initial if initial.is_ordered else None, name)


def type_command(place: str) -> None:
    """What `e3relax screen` does with these candidates, here or on a launchpad."""
    settings = load_settings(MODEL="table")
    use_table(settings)
    screen_id = register(settings, place)
    resume_screen(screen_id, settings)
    if place == "local":
        run_screen_here(screen_id, settings, Path(os.environ[FOLDER]) / "jobs")
    else:
        print(*start_screen(screen_id, settings).lines)
