"""PrerelaxFlowMaker for one structure: verdicts, outcomes that exist already, failures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from atomate2.ase.jobs import EmtRelaxMaker
from jobflow import Flow, JobStore, Maker, job
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import ConfigError, EngineError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.store import find_outcomes, open_stores
from e3relax_flows.places.local import LocalRun, run_flow_locally
from e3relax_flows.prerelax.flow import PrerelaxFlowMaker
from e3relax_flows.schemas.outcomes import OutcomeDoc
from e3relax_flows.testing import EMT_LATTICES, EmtEngine, TablePredictor


def make_fcc(element: str, stretch: float = 1.04) -> Structure:
    a = EMT_LATTICES.get(element, 3.6) * stretch / 2
    return Structure(Lattice([[0, a, a], [a, 0, a], [a, a, 0]]), [element], [[0, 0, 0]])


@job(name="look")
def look_at(outcome: OutcomeDoc) -> float:
    """What a user's job after the flow would do."""
    return outcome.result.relaxed.volume


def run(flow: Flow, root: Path) -> tuple[LocalRun, JobStore, list[str]]:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    names: list[str] = []
    return run_flow_locally(flow, store, root, lambda report: names.append(report.name)), store, names


def read_outcomes(settings: E3RelaxSettings) -> list[OutcomeDoc]:
    with open_stores(settings) as stores:
        return list(find_outcomes(stores.outcomes).values())


def test_the_outcome_is_the_output_and_others_can_use_it(
    settings: E3RelaxSettings, predictor: TablePredictor, tmp_path: Path
) -> None:
    flow = PrerelaxFlowMaker(engine=EmtEngine()).make(make_fcc("Cu"))
    after = look_at(flow.output)
    local, store, names = run(Flow([flow, after]), tmp_path)
    assert names == ["e3r predict", "e3r dispatch", "e3r claim", "EMT relax", "e3r outcome", "look"]
    assert (local.n_finished, local.failures) == (6, [])
    outcome = OutcomeDoc.model_validate(store.get_output(flow.output.uuid, load=True))
    (stored,) = read_outcomes(settings)
    assert outcome.outcome_id == stored.outcome_id
    assert stored.start_kind == "predicted"
    assert stored.model_id == predictor.model_id
    assert store.get_output(after.uuid) == pytest.approx(EMT_LATTICES["Cu"] ** 3 / 4, rel=3e-3)


def test_a_known_outcome_is_returned_and_not_relaxed_again(
    settings: E3RelaxSettings, predictor: TablePredictor, tmp_path: Path
) -> None:
    maker = PrerelaxFlowMaker(engine=EmtEngine())
    run(maker.make(make_fcc("Cu")), tmp_path)
    flow = maker.make(make_fcc("Cu"))
    _, store, names = run(flow, tmp_path)
    assert names == ["e3r predict", "e3r dispatch"]
    assert predictor.n_predicted == 1
    outcome = OutcomeDoc.model_validate(store.get_output(flow.output.uuid, load=True))
    assert [outcome.outcome_id] == [doc.outcome_id for doc in read_outcomes(settings)]


@pytest.mark.usefixtures("predictor")
def test_a_failed_relaxation_is_an_outcome(settings: E3RelaxSettings, tmp_path: Path) -> None:
    maker = PrerelaxFlowMaker(engine=EmtEngine())
    local, _, names = run(maker.make(make_fcc("Fe")), tmp_path)
    assert [failure.name for failure in local.failures] == ["EMT relax"]
    assert names[-2:] == ["EMT relax", "e3r outcome"]
    (outcome,) = read_outcomes(settings)
    assert (outcome.state, outcome.result) == ("failed", None)
    assert "left no document" in str(outcome.message)
    assert run(maker.make(make_fcc("Fe")), tmp_path)[2] == ["e3r predict", "e3r dispatch"]
    assert (
        "EMT relax" in run(PrerelaxFlowMaker(engine=EmtEngine(), retry_failed=True).make(make_fcc("Fe")), tmp_path)[2]
    )


def test_after_a_refusal_the_initial_structure_is_relaxed(
    settings: E3RelaxSettings, predictor: TablePredictor, tmp_path: Path
) -> None:
    predictor.refused = {"Cu"}
    initial = make_fcc("Cu")
    run(PrerelaxFlowMaker(engine=EmtEngine()).make(initial), tmp_path)
    (outcome,) = read_outcomes(settings)
    assert outcome.start_kind == "initial"
    assert outcome.result.initial.volume == pytest.approx(initial.volume, rel=1e-6)


def test_after_a_refusal_nothing_runs_when_it_is_skipped(
    settings: E3RelaxSettings, predictor: TablePredictor, tmp_path: Path
) -> None:
    predictor.refused = {"Cu"}
    flow = PrerelaxFlowMaker(engine=EmtEngine(), on_refuse="skip").make(make_fcc("Cu"))
    local, _, names = run(Flow([flow, look_at(flow.output)]), tmp_path)
    assert names == ["e3r predict", "e3r dispatch"]
    assert (local.failures, read_outcomes(settings)) == ([], [])


def test_a_refusal_can_be_a_failure(settings: E3RelaxSettings, predictor: TablePredictor, tmp_path: Path) -> None:
    predictor.refused = {"Cu"}
    flow = PrerelaxFlowMaker(engine=EmtEngine(), on_refuse="fail").make(make_fcc("Cu"))
    (failure,) = run(flow, tmp_path)[0].failures
    assert failure.name == "e3r dispatch"
    assert "the prediction was refused: the score of Cu is above its threshold" in str(failure.error)
    assert read_outcomes(settings) == []


@pytest.mark.usefixtures("predictor")
def test_an_error_says_why(tmp_path: Path) -> None:
    flow = PrerelaxFlowMaker(engine=EmtEngine()).make("POSCAR")
    (failure,) = run(flow, tmp_path)[0].failures
    assert failure.name == "e3r predict"
    assert "str is not a structure; give a pymatgen Structure" in str(failure.error)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="'never'"):
        PrerelaxFlowMaker(engine=EmtEngine(), on_refuse="never")


def test_keyword_updates_and_serialisation() -> None:
    maker: Any = PrerelaxFlowMaker(engine=EmtEngine(), on_refuse="skip")
    changed = maker.update_kwargs({"steps": 7}, class_filter=type(maker.engine.maker))
    assert changed.engine.maker.steps == 7
    assert changed.engine.engine_id != maker.engine.engine_id
    copy = json.loads(json.dumps(maker, cls=MontyEncoder), cls=MontyDecoder)
    assert (copy.on_refuse, copy.prerelax, copy.engine.engine_id) == ("skip", maker.prerelax, maker.engine.engine_id)
    # users aim at DFT jobs by a part of their name
    assert maker.update_kwargs({"steps": 8}, name_filter="relax").engine.maker.steps == 8
    flow = maker.make(make_fcc("Cu"))
    flow.update_maker_kwargs({"steps": 7}, class_filter=type(maker.engine.maker))
    assert flow.jobs[1].maker.engine.maker.steps == 7
    copy = Flow.from_dict(json.loads(json.dumps(flow, cls=MontyEncoder)))
    assert [job.name for job in copy.jobs] == ["e3r predict", "e3r dispatch"]
    assert copy.jobs[1].maker.engine.maker.steps == 7


@dataclass
class NoSilverEngine(EmtEngine):
    """Refuses silver when the relaxation is built."""

    def check(self, structure: Structure) -> None:
        if "Ag" in structure.symbol_set:
            raise EngineError("silver is not treated")


@pytest.mark.usefixtures("predictor")
def test_what_the_engine_refuses_fails_and_is_recorded(settings: E3RelaxSettings, tmp_path: Path) -> None:
    local, _, names = run(PrerelaxFlowMaker(engine=NoSilverEngine()).make(make_fcc("Ag")), tmp_path)
    assert names == ["e3r predict", "e3r dispatch"]
    (failure,) = local.failures
    assert "silver is not treated" in str(failure.error)
    (outcome,) = read_outcomes(settings)
    assert (outcome.state, outcome.message) == ("failed", "silver is not treated")


@dataclass
class TwiceMaker(Maker):
    """Two relaxations in a row, as double relaxations are."""

    name: str = "twice"
    first: Maker = field(default_factory=lambda: EmtEngine().maker)
    second: Maker = field(default_factory=lambda: EmtEngine().maker)

    def make(self, structure: Structure) -> Flow:
        first = self.first.make(structure)
        second = self.second.make(first.output.structure)
        return Flow([first, second], output=second.output)


@pytest.mark.usefixtures("predictor")
def test_a_failure_reaches_the_outcome_through_the_jobs_between(settings: E3RelaxSettings, tmp_path: Path) -> None:
    """Other managers let the child of a failed job wait for ever, so it is run and fails; the outcome is recorded."""
    local, _, _ = run(PrerelaxFlowMaker(engine=EmtEngine(maker=TwiceMaker())).make(make_fcc("Fe")), tmp_path)
    assert [failure.name for failure in local.failures] == ["EMT relax", "EMT relax"]
    (outcome,) = read_outcomes(settings)
    assert outcome.state == "failed"
    assert "2 of 2 jobs of the engine left no document" in str(outcome.message)
    assert outcome.job_uuids == [failure.uuid for failure in local.failures]


@pytest.mark.usefixtures("predictor")
def test_a_half_finished_relaxation_is_unconverged(settings: E3RelaxSettings, tmp_path: Path) -> None:
    maker = TwiceMaker(second=EmtRelaxMaker(name="EMT relax", relax_kwargs={"unknown": 1}))
    local, _, _ = run(PrerelaxFlowMaker(engine=EmtEngine(maker=maker)).make(make_fcc("Cu")), tmp_path)
    assert len(local.failures) == 1
    (outcome,) = read_outcomes(settings)
    assert outcome.state == "unconverged"
    assert "1 of 2 jobs of the engine left no document" in str(outcome.message)
    assert outcome.prediction_errors is None
