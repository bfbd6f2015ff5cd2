"""Relaxations on a real launchpad: two flows of one candidate, two workers, launches that are repeated."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jobflow import CURRENT_JOB, Flow, JobStore
from launchpads import Campaign
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import ClaimDoc, find_claims, open_claim_store, take_claim
from e3relax_flows.ledger.store import find_outcomes, open_stores, save_outcomes
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.places.submission import submit_many
from e3relax_flows.prerelax.predict import predict_stored
from e3relax_flows.prerelax.relax import claim_relaxation
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, RelaxationResult, StartKind, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions
from e3relax_flows.schemas.screens import ScreenDoc
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.testing import EmtEngine, TablePredictor


def make_fcc(element: str, a: float) -> Structure:
    return Structure(Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]), [element], [[0, 0, 0]])


@pytest.fixture
def prediction(predictor: TablePredictor) -> PredictionDoc:  # noqa: ARG001
    return predict_stored([make_fcc("Cu", 3.8)], ["copper"], "default", "auto", PredictOptions())[0][0]


def make_flow(prediction: PredictionDoc, retry_failed: bool = False, engine: EmtEngine | None = None) -> Flow:
    claim = claim_relaxation(engine or EmtEngine(), prediction, StartKind.PREDICTED, retry_failed)
    return Flow([claim], output=claim.output)


def count_jobs(settings: E3RelaxSettings) -> Counter[str]:
    with open_job_store(settings) as store:
        return Counter(document["name"] for document in store.query({}, ["name"]))


def read_outcomes(settings: E3RelaxSettings) -> list[OutcomeDoc]:
    with open_stores(settings) as stores:
        return list(find_outcomes(stores.outcomes).values())


def list_claims(settings: E3RelaxSettings) -> list[str]:
    with open_claim_store(settings) as claims:
        return list(find_claims(claims))


def test_two_workers_relax_two_flows_of_one_candidate_once(
    campaign: Campaign, settings: E3RelaxSettings, prediction: PredictionDoc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a claim that was launched, and its worker killed before the launchpad knew, is launched again."""
    killed = make_flow(prediction)
    submit_many({"killed": killed, "other": make_flow(prediction)}, "fireworks")
    (campaign.folder / "FW.json").touch()
    monkeypatch.chdir(campaign.folder)
    with open_job_store(settings) as store:
        killed.jobs[0].run(store)
    CURRENT_JOB.reset()
    assert len(list_claims(settings)) == 1
    (campaign.folder / "FW.json").unlink()
    with closing((pad := campaign.open_pad()).connection):
        campaign.drain(2)
        assert {workflow["state"] for workflow in pad.workflows.find({})} == {"COMPLETED"}
        assert count_jobs(settings) == {"e3r claim": 2, "EMT relax": 1, "e3r outcome": 1}
        (outcome,) = read_outcomes(settings)
        assert (outcome.state, outcome.metadata["claim"]) == ("successful", killed.jobs[0].uuid)
        assert list_claims(settings) == []
        with open_job_store(settings) as store:
            assert store.get_output(killed.jobs[0].uuid, load=True)["outcome_id"] == outcome.outcome_id
        # a third flow finds it known
        late = make_flow(prediction)
        submit_many({"late": late}, "fireworks")
        campaign.drain()
    assert count_jobs(settings) == {"e3r claim": 3, "EMT relax": 1, "e3r outcome": 1}
    with open_job_store(settings) as store:
        assert store.get_output(late.jobs[0].uuid, load=True)["outcome_id"] == outcome.outcome_id


def run_claim(flow: Flow) -> Any:
    """Run the claim job alone; its response."""
    return run_job(flow.jobs[0])


def run_job(job: Any) -> Any:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    response = job.run(store)
    CURRENT_JOB.reset()
    return response


def test_of_claims_at_the_same_moment_one_relaxes(settings: E3RelaxSettings, prediction: PredictionDoc) -> None:
    flows = [make_flow(prediction) for _ in range(2)]
    first, second = (run_claim(flow) for flow in flows)
    assert [job.name for job in first.replace.jobs[0].jobs] == ["EMT relax"]
    outcome_job = first.replace.jobs[1]
    assert (outcome_job.uuid, outcome_job.index) == (flows[0].jobs[0].uuid, 2)
    assert (second.replace, second.output) == (None, None)
    assert run_claim(flows[0]).replace is not None  # launched again
    assert len(list_claims(settings)) == 1


def test_a_failure_is_tried_again_by_another_flow_only(settings: E3RelaxSettings, prediction: PredictionDoc) -> None:
    first = make_flow(prediction)
    response = run_claim(first)
    (outcome_job,) = response.replace.jobs[1:]
    failed = run_job(outcome_job).output  # the engine has left no document
    assert failed.state == OutcomeState.FAILED
    assert list_claims(settings) == []
    # launched again it stays failed, even where failures are to be tried again: this was the try
    assert run_claim(first).output.state == OutcomeState.FAILED
    assert run_claim(make_flow(prediction)).output.state == OutcomeState.FAILED
    again = make_flow(prediction, retry_failed=True)
    assert run_claim(again).replace is not None
    # a claim whose owner was killed between recording the failure and giving it back holds nobody up
    with open_claim_store(settings) as claims, open_stores(settings) as stores:
        claims.remove_docs({})
        take_claim(claims, ClaimDoc(claim_id=failed.outcome_id, owner=first.jobs[0].uuid, manager="fireworks"))
        assert save_outcomes(stores.outcomes, [failed]) == 0
    assert run_claim(make_flow(prediction, retry_failed=True)).replace is not None


@dataclass
class StoppedEngine(EmtEngine):
    """Its user loses patience while the result is read."""

    def read(self, documents: list[Any]) -> RelaxationResult:  # noqa: ARG002
        raise KeyboardInterrupt


def test_a_run_that_is_interrupted_gives_its_claims_back(
    settings: E3RelaxSettings, prediction: PredictionDoc, tmp_path: Path
) -> None:
    """The process may live on, as that of a notebook does, and run the same again."""
    with JobStore(MemoryStore(), additional_stores={"data": MemoryStore()}) as store:
        with pytest.raises(KeyboardInterrupt):
            run_flow_locally(make_flow(prediction, engine=StoppedEngine()), store, tmp_path / "run")
        CURRENT_JOB.reset()
    with open_claim_store(settings) as claims:
        assert claims.collection_name == "outcomes_claims"
        assert list_claims(settings) == []
    assert run_claim(make_flow(prediction, engine=StoppedEngine())).replace is not None
    assert len(list_claims(settings)) == 1


def test_a_screen_leaves_what_another_one_is_at(
    settings: E3RelaxSettings,
    predictor: TablePredictor,  # noqa: ARG001
    prediction: PredictionDoc,
    tmp_path: Path,
) -> None:
    """The same command typed twice: the second says what the first is at, and relaxes the rest."""
    maker = ScreenMaker(engine=EmtEngine(), control=0)
    outcome_id = identify_outcome(prediction.prediction_id, maker.engine.engine_id, StartKind.PREDICTED)
    with open_claim_store(settings) as claims:
        take_claim(claims, ClaimDoc(claim_id=outcome_id, owner="another", flow="f"))
    structures = {"copper": prediction.initial, "silver": make_fcc("Ag", 4.2)}

    def run() -> tuple[Counter[str], ScreenDoc]:
        names: Counter[str] = Counter()
        flow = maker.make(list(structures.values()), list(structures))
        with JobStore(MemoryStore(), additional_stores={"data": MemoryStore()}) as store:
            run_flow_locally(flow, store, tmp_path / "run", lambda report: names.update([report.name]))
            return names, ScreenDoc.model_validate(store.get_output(flow.output.uuid, load=True))

    names, screen = run()
    assert (names["e3r claim"], names["EMT relax"]) == (2, 1)
    assert screen.counts == {"held": 1, "successful": 1}
    assert str(screen.candidates[0].message).startswith("is being relaxed by another on ")
    with open_claim_store(settings) as claims:
        assert list(find_claims(claims)) == [outcome_id]
        claims.remove_docs({})  # the other one was stopped
    names, screen = run()
    assert (names["e3r claim"], names["EMT relax"]) == (1, 1)
    assert screen.counts == {"successful": 2}
