"""A candidate relaxed in one launch by two calculations: stopped after the first, it goes on with the second."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from atomate2.ase.jobs import EmtRelaxMaker
from jobflow import Flow, Maker
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.store import find_outcomes, open_outcome_store
from e3relax_flows.prerelax.relax import leave_out_recorded, name_jobs
from e3relax_flows.schemas.outcomes import RelaxationResult
from e3relax_flows.screening.control import resume_screen
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import load_screen, open_screen_stores
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

FOLDER = "E3RELAX_TEST_FOLDER"


@dataclass
class StepMaker(EmtRelaxMaker):
    """Writes its name down, and is interrupted where a file of its name says so."""

    def run_ase(self, mol_or_struct: Any, prev_dir: str | Path | None = None) -> Any:
        folder = Path(os.environ[FOLDER])
        with (folder / "log").open("a", encoding="utf-8") as stream:
            stream.write(f"{self.name}\n")
        if (folder / f"stop {self.name}").exists():
            raise KeyboardInterrupt
        return super().run_ase(mol_or_struct, prev_dir)


@dataclass
class TwoStepMaker(Maker):
    """A coarse relaxation and a fine one."""

    name: str = "two steps"

    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Flow:
        coarse = StepMaker(name="coarse", relax_kwargs={"fmax": 0.5}, steps=5).make(structure, prev_dir)
        fine = StepMaker(name="fine", relax_kwargs={"fmax": 0.02}, steps=100).make(coarse.output.structure)
        return Flow([coarse, fine], output=fine.output, name=self.name)


@dataclass
class TwoStepEngine(EmtEngine):
    """Both; the fine one's document tells the result."""

    maker: Maker = field(default_factory=TwoStepMaker)

    def read(self, documents: list[Any]) -> RelaxationResult:
        assert None not in documents
        coarse, fine = (super(TwoStepEngine, self).read([document]) for document in documents)
        return fine.model_copy(update={"initial": coarse.initial})


def make_copper() -> Structure:
    half = EMT_LATTICES["Cu"] * 1.03 / 2
    return Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), ["Cu"], [[0, 0, 0]])


def count_steps(folder: Path) -> Counter[str]:
    return Counter((folder / "log").read_text().split())


@pytest.mark.usefixtures("predictor")
def test_an_interrupted_launch_goes_on_after_its_last_calculation(
    settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    maker = ScreenMaker(engine=TwoStepEngine(), control=1, paired_controls=False, chunk_size=2)
    with open_screen_stores(settings) as stores:
        items = [ReadItem("Cu", make_copper(), None)]
        screen, _ = register_screen(stores, maker, items, load_settings(MODEL="table"))
    screen_id = str(screen.screen_id)
    (tmp_path / "stop fine").touch()
    for n_tried in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run_screen_here(screen_id, settings, tmp_path / "jobs")
        assert count_steps(tmp_path) == {"coarse": 1, "fine": n_tried}
        resume_screen(screen_id, settings)
    (tmp_path / "stop fine").unlink()
    run_screen_here(screen_id, settings, tmp_path / "jobs")
    with open_screen_stores(settings) as stores, open_outcome_store(settings) as outcomes:
        (outcome,) = find_outcomes(outcomes).values()
        assert load_screen(stores, screen_id).counts == {"successful": 1}, outcome.message
    assert count_steps(tmp_path) == {"coarse": 1, "fine": 3}
    assert (outcome.state, len(outcome.job_uuids)) == ("successful", 2)


def test_jobs_are_named_by_words_and_still_refer_to_each_other(settings: E3RelaxSettings) -> None:
    first, again = (name_jobs(TwoStepEngine().make(make_copper()), "a candidate") for _ in range(2))
    other = name_jobs(TwoStepEngine().make(make_copper()), "another")
    assert first.all_uuids == again.all_uuids
    assert not set(first.all_uuids) & set(other.all_uuids)
    coarse, fine = first.jobs
    assert [reference.uuid for reference in fine.input_references] == [coarse.uuid]
    assert (first.output.uuid, coarse.hosts) == (fine.uuid, [first.uuid])
    with open_job_store(settings) as store:
        leave_out_recorded(first, store)
    assert len(first.jobs) == 2  # nothing is recorded
