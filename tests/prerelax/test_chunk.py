"""Chunks of relaxations in one process: real relaxations by EMT and CHGNet, real stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from atomate2.ase.jobs import EmtRelaxMaker
from jobflow import Maker
from pymatgen.core import Lattice, Structure

from e3relax_flows import Engine, open_workspace
from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines import get_engine
from e3relax_flows.ledger.claims import ClaimDoc, find_claims, take_claim
from e3relax_flows.ledger.store import find_outcomes, open_outcome_store, save_predictions
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.prerelax.chunk import ChunkEntry, relax_chunk
from e3relax_flows.prerelax.relax import claim_relaxation
from e3relax_flows.schemas.outcomes import StartKind, identify_outcome
from e3relax_flows.schemas.predictions import Prediction, PredictionDoc, PredictOptions
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.testing import EMT_LATTICES, EmtEngine, TablePredictor


@dataclass
class ChunkEngine(EmtEngine):
    """EMT, many structures in one job."""

    relaxes_chunks: ClassVar[bool] = True


@dataclass
class StoppableMaker(EmtRelaxMaker):
    """EMT's maker, which is interrupted at gold while there is a file `stop`."""

    def run_ase(self, mol_or_struct: Any, prev_dir: Any = None) -> Any:
        """Relax."""
        if mol_or_struct.composition.reduced_formula == "Au" and Path("stop").exists():
            raise KeyboardInterrupt
        return super().run_ase(mol_or_struct, prev_dir)


@dataclass
class StoppableEngine(ChunkEngine):
    """EMT that can be interrupted."""

    maker: Maker = field(default_factory=lambda: StoppableMaker(relax_kwargs={"fmax": 0.02}, relax_cell=True))


def make_cell(element: str) -> Structure:
    half = EMT_LATTICES.get(element, 4.0) * 1.03 / 2
    return Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), [element], [[0, 0, 0]])


def predict(element: str) -> PredictionDoc:
    volumes = {name: (1.005 * a) ** 3 / 4 for name, a in EMT_LATTICES.items()}
    (prediction,) = TablePredictor("m-1", volumes).predict([make_cell(element)], ids=[element])
    fields = {name: getattr(prediction, name) for name in Prediction.model_fields}
    return PredictionDoc(**fields, prediction_id=f"p-{element}", structure_id=f"s-{element}", options=PredictOptions())


def make_entries(*elements: str, retry_failed: bool = False) -> list[ChunkEntry]:
    return [
        ChunkEntry(
            predict(element),
            StartKind.PREDICTED,
            f"test:{element}",
            flow="f-1",
            retry_failed=retry_failed,
        )
        for element in elements
    ]


@pytest.fixture
def workspace(settings: E3RelaxSettings) -> Iterator[Workspace]:
    with open_workspace(settings) as opened:
        yield opened


def test_each_is_relaxed_once_and_failures_are_their_own(workspace):
    engine: Engine = ChunkEngine()
    outcomes = relax_chunk(engine, make_entries("Cu", "W", "Ag", "Cu"), workspace, workspace.jobs)
    states = [outcome.state.value for outcome in outcomes.values()]
    assert states == ["successful", "failed", "successful"]
    copper, tungsten, _ = outcomes.values()
    assert "No EMT-potential for W" in tungsten.message
    assert copper.result.relaxed.volume == pytest.approx(EMT_LATTICES["Cu"] ** 3 / 4, rel=0.01)
    stored = find_outcomes(workspace.outcomes)
    assert {key: outcome.state for key, outcome in stored.items()} == {
        key: outcome.state for key, outcome in outcomes.items()
    }
    assert find_claims(workspace.claims) == {}
    (document,) = workspace.jobs.query({"uuid": copper.job_uuids[0]}, load=True)
    assert engine.read([document["output"]]).energy == copper.result.energy
    assert document["metadata"]["candidate"] == "Cu"
    # again: nothing is relaxed, the failed one only where that is asked for
    again = relax_chunk(engine, make_entries("Cu", "W"), workspace, workspace.jobs)
    assert [outcome.last_updated for outcome in again.values()] == [copper.last_updated, tungsten.last_updated]


def test_documents_are_those_of_jobs_of_their_own(settings, tmp_path):
    (entry,) = make_entries("Pt")
    alone: Engine = EmtEngine()
    with open_workspace(settings) as workspace:
        save_predictions(workspace.predictions, [entry.prediction])
        (ours,) = relax_chunk(ChunkEngine(), [entry], workspace, workspace.jobs).values()
    with open_job_store(settings) as jobs:
        run_flow_locally(claim_relaxation(alone, entry.prediction, entry.kind), jobs, tmp_path / "jobs")
    with open_outcome_store(settings) as outcomes:
        (other,) = find_outcomes(outcomes, criteria={"engine_id": alone.engine_id}).values()
    left = {"job_uuids", "hosts", "metadata", "last_updated", "engine_id", "outcome_id", "result"}
    assert ours.model_dump(exclude=left) == other.model_dump(exclude=left)
    volatile = {"wall_time_s", "dir_name"}
    assert ours.result.model_dump(exclude=volatile) == other.result.model_dump(exclude=volatile)


def test_an_interrupted_chunk_goes_on_behind_its_last_outcome(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine: Engine = StoppableEngine()
    Path("stop").touch()
    with pytest.raises(KeyboardInterrupt):
        relax_chunk(engine, make_entries("Cu", "Au", "Ag"), workspace, workspace.jobs)
    (first,) = find_outcomes(workspace.outcomes).values()
    assert find_claims(workspace.claims) == {}
    Path("stop").unlink()
    outcomes = list(relax_chunk(engine, make_entries("Cu", "Au", "Ag"), workspace, workspace.jobs).values())
    assert [outcome.state.value for outcome in outcomes] == ["successful"] * 3
    assert outcomes[0].last_updated == first.last_updated
    assert workspace.jobs.count() == 3


def test_what_another_flow_relaxes_is_left_to_it(workspace):
    engine: Engine = ChunkEngine()
    first, second = make_entries("Cu", "Ag")
    key = identify_outcome(first.prediction.prediction_id, engine.engine_id, first.kind)
    assert take_claim(workspace.claims, ClaimDoc(claim_id=key, owner="other", flow="f-2", manager="fireworks")) is None
    outcomes = relax_chunk(engine, [first, second], workspace, workspace.jobs)
    assert outcomes[key] is None
    assert [outcome.state.value for outcome in outcomes.values() if outcome] == ["successful"]
    assert list(find_claims(workspace.claims)) == [key]


def test_large_parts_are_where_a_job_of_its_own_leaves_them(settings, tmp_path):
    """A database that takes no document over 16 MB takes the trajectory of one."""
    (entry,) = make_entries("Pt")
    maker = EmtRelaxMaker(relax_kwargs={"fmax": 0.02}, store_trajectory="full")
    with open_workspace(settings) as workspace:
        save_predictions(workspace.predictions, [entry.prediction])
        relax_chunk(ChunkEngine(maker=maker), [entry], workspace, workspace.jobs)
    with open_job_store(settings) as jobs:
        run_flow_locally(
            claim_relaxation(EmtEngine(maker=maker), entry.prediction, entry.kind), jobs, tmp_path / "jobs"
        )
        ours, other = jobs.query({"name": maker.name}, ["output"])
        assert "blob_uuid" in ours["output"]["objects"]["trajectory"]
        assert ours["output"]["objects"]["trajectory"].keys() == other["output"]["objects"]["trajectory"].keys()
        ours, other = jobs.query({"name": maker.name}, ["output"], load=True)
        frames = [document["output"]["objects"]["trajectory"]["frame_properties"] for document in (ours, other)]
        assert frames[0] == frames[1]


def test_what_was_killed_between_its_records_is_not_relaxed_again(workspace, tmp_path, monkeypatch):
    """Copper was recorded and its claim was not released; of silver there is the document alone."""
    monkeypatch.chdir(tmp_path)
    engine: Engine = StoppableEngine()
    entries = make_entries("Cu", "Ag")
    first = relax_chunk(engine, entries, workspace, workspace.jobs)
    copper, silver = first
    claim = ClaimDoc(claim_id=copper, owner=entries[0].owner, flow="f-1", manager="fireworks")
    assert take_claim(workspace.claims, claim) is None
    workspace.outcomes.remove_docs({"outcome_id": silver})
    before = {raw["uuid"]: raw["completed_at"] for raw in workspace.jobs.query({}, ["uuid", "completed_at"])}
    again = relax_chunk(engine, entries, workspace, workspace.jobs)
    after = {raw["uuid"]: raw["completed_at"] for raw in workspace.jobs.query({}, ["uuid", "completed_at"])}
    assert (after, len(after)) == (before, 2)
    assert again[silver].result.energy == first[silver].result.energy
    assert again[silver].result.relaxed == first[silver].result.relaxed
    assert find_claims(workspace.claims) == {}


def test_what_cannot_begin_costs_no_other(workspace):
    """A prediction without a structure, and a check that breaks."""

    @dataclass
    class Fragile(ChunkEngine):
        def check(self, structure: Structure) -> None:
            if structure[0].specie.symbol == "Pt":
                raise ZeroDivisionError("of the check")

    entries = make_entries("Cu", "Pt", "Al", "Ag")
    lost = entries[2].prediction.model_copy(update={"structure": None, "message": "it was lost"})
    entries[2] = replace(entries[2], prediction=lost)
    with pytest.raises(StoreError, match=r"^1 of 4 outcomes .*\('Al': StructureError: "):
        relax_chunk(Fragile(), entries, workspace, workspace.jobs)
    outcomes = {outcome.prediction_id: outcome for outcome in find_outcomes(workspace.outcomes).values()}
    assert {name: outcome.state.value for name, outcome in outcomes.items()} == {
        "p-Cu": "successful",
        "p-Pt": "failed",
        "p-Ag": "successful",
    }
    assert outcomes["p-Pt"].message == "ZeroDivisionError: of the check"
    assert find_claims(workspace.claims) == {}


def test_a_potential_relaxes_a_chunk_and_keeps_to_its_limits(workspace):
    pytest.importorskip("chgnet")
    entries = make_entries("Cu", "Ag", "Po")  # CHGNet was not trained on polonium
    outcomes = list(relax_chunk(get_engine("chgnet"), entries, workspace, workspace.jobs).values())
    assert [outcome.state.value for outcome in outcomes] == ["successful", "successful", "failed"]
    assert "was not trained on Po" in outcomes[2].message
    assert outcomes[0].result.potential.label == "CHGNet-0.3.0"
    stopped = list(relax_chunk(get_engine("chgnet", time_limit_s=0.0), entries[:2], workspace, workspace.jobs).values())
    assert [outcome.state.value for outcome in stopped] == ["unconverged"] * 2
