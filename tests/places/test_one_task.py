"""A relaxation whose worker is killed before the launchpad knows of its end is not done again."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from jobflow import Flow, Response, job
from launchpads import Campaign

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import CLAIM_KEY
from e3relax_flows.places.submission import submit_many
from e3relax_flows.stores.opening import open_job_store


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
