"""A relaxation whose worker is killed before the launchpad knows of its end is not done again."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from jobflow import CURRENT_JOB, Flow, Job, JobConfig, OnMissing, Response, job
from launchpads import Campaign

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import BEGIN_KEY, CLAIM_KEY, END_KEY, ERRORS_KEY
from e3relax_flows.places.submission import submit_many
from e3relax_flows.stores.opening import open_job_store

FAILING = 7


@job(data="big")
def relax_copper(log: str) -> dict[str, object]:
    with Path(log).open("a", encoding="utf-8") as stream:
        stream.write("relaxed\n")
    return {"big": [1, 2, 3], "energy": -1.0}


@job
def replace_by_relaxation(log: str) -> Response:
    inner = relax_copper(log)
    inner.update_metadata({CLAIM_KEY: "a claim"})
    return Response(replace=Flow([inner], output=inner.output))


def test_a_stored_relaxation_is_not_run_again(campaign: Campaign, settings: E3RelaxSettings) -> None:
    """Also one that was born in another job; one whose large part is missing is run again."""
    log = campaign.folder / "log"
    flow = Flow([first := replace_by_relaxation(str(log))])
    submit_many({"one": flow}, "fireworks")
    campaign.drain()
    assert log.read_text() == "relaxed\n"
    with closing((pad := campaign.open_pad()).connection), open_job_store(settings) as store:
        (number,) = [item["fw_id"] for item in pad.fireworks.find({"name": "relax_copper"}, {"fw_id": 1})]
        pad.rerun_fw(number)
        campaign.drain()
        assert log.read_text() == "relaxed\n"
        assert store.get_output(first.uuid, load=True) == {"big": [1, 2, 3], "energy": -1.0}
        store.additional_stores["data"].remove_docs({})
        pad.rerun_fw(number)
        campaign.drain()
        assert log.read_text() == "relaxed\nrelaxed\n"
        assert store.get_output(first.uuid, load=True)["big"] == [1, 2, 3]
        assert {workflow["state"] for workflow in pad.workflows.find({})} == {"COMPLETED"}


@job
def calculate(number: int, log: str, before: dict | None = None) -> dict[str, int]:  # noqa: ARG001
    with Path(log).open("a", encoding="utf-8") as stream:
        stream.write(f"{number} ")
    if number == FAILING:
        raise ValueError(f"calculation {number} fails")
    return {"number": number}


@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def record(documents: list[dict | None], log: str) -> list[dict | None]:
    errors = CURRENT_JOB.job.metadata.get(ERRORS_KEY, {})
    with Path(log).open("a", encoding="utf-8") as stream:
        stream.write(f"recorded, errors: {' '.join(errors.values()) or 'none'}")
    return documents


@job
def claim(numbers: list[int], log: str) -> Response:
    calculations: list[Job] = []
    for number in numbers:
        before = calculations[-1].output if calculations else None
        calculations.append(calculate(number, log, before))
    last = record([made.output for made in calculations], log)
    flow = Flow([*calculations, last])
    flow.update_config({"on_missing_references": OnMissing.NONE})
    last.metadata[END_KEY] = True
    return Response(replace=flow)


@pytest.mark.parametrize(
    ("numbers", "expected", "states"),
    [
        ([1], "1 recorded, errors: none", {"claim": "COMPLETED"}),
        ([1, 2], "1 2 recorded, errors: none", {"claim": "COMPLETED", "calculate": "COMPLETED"}),
        ([FAILING], "7 recorded, errors: ValueError: calculation 7 fails", {"claim": "COMPLETED"}),
        ([1, FAILING], "1 7 recorded, errors: ValueError: calculation 7 fails",
         {"claim": "COMPLETED", "calculate": "FIZZLED"}),
    ],
)  # fmt: skip
def test_the_first_calculation_runs_with_the_claim_and_the_outcome_with_the_last(
    campaign: Campaign, numbers: list[int], expected: str, states: dict[str, str]
) -> None:
    log = campaign.folder / "log"
    first = claim(numbers, str(log))
    first.metadata[BEGIN_KEY] = True
    submit_many({"one": Flow([first])}, "fireworks")
    campaign.drain()
    assert log.read_text() == expected
    with closing((pad := campaign.open_pad()).connection):
        assert {item["name"]: item["state"] for item in pad.fireworks.find({}, {"name": 1, "state": 1})} == states


def test_a_calculation_for_other_workers_is_a_firework_of_its_own(campaign: Campaign) -> None:
    log = campaign.folder / "log"
    first = claim([1], str(log))
    first.metadata[BEGIN_KEY] = True
    first.update_config({"manager_config": {"_priority": 3}}, name_filter="calculate", dynamic=True)
    submit_many({"one": Flow([first])}, "fireworks")
    campaign.drain()
    assert log.read_text() == "1 recorded, errors: none"
    with closing((pad := campaign.open_pad()).connection):
        assert sorted(item["name"] for item in pad.fireworks.find({}, {"name": 1})) == ["calculate", "claim"]
