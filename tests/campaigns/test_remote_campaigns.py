"""A campaign given to jobflow-remote, whose calls are recorded: one flow, of which all that follows is born."""

from __future__ import annotations

from pathlib import Path

import pytest
from emt_campaigns import prepare, register
from remote_manager import Sent

from e3relax_flows.campaigns.control import resume_campaign, start_campaign
from e3relax_flows.campaigns.store import find_campaign, load_generations, open_campaign_stores
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import ClaimDoc, find_claims, open_claim_store, take_claim
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.stores.opening import open_job_store


def test_a_campaign_is_one_flow_whose_jobs_go_to_their_workers(
    settings: E3RelaxSettings, sent: list, tmp_path: Path
) -> None:
    prepare(settings)
    campaign_id = register(settings, stop={"labels": 4}).campaign_id
    with open_campaign_stores(settings) as stores:
        start_campaign(stores, find_campaign(stores, campaign_id), load_settings(), "remote")
        campaign = find_campaign(stores, campaign_id)
    assert (campaign.state, campaign.place, len(sent)) == ("running", "remote", 1)
    (job, *_), *_ = sent[0].iterflow()
    workers = {update["config"]["manager_config"].get("worker") for update in job.config_updates}
    assert workers == {None, "gpu", "cpu"}  # written for what is born of it, by its name
    with open_job_store(settings) as jobs:
        assert run_flow_locally(sent[0], jobs, tmp_path / "jobs").failures == []
    with open_campaign_stores(settings) as stores:
        campaign = find_campaign(stores, campaign_id)
        assert (campaign.state, campaign.reason) == ("finished", "labels")
        (generation,) = load_generations(stores, campaign_id)
    assert generation.retrain is not None


@pytest.mark.parametrize("is_at_work", [False, True])
def test_resuming_frees_relaxations_that_a_worker_lost(settings: E3RelaxSettings, sent: Sent, is_at_work: bool) -> None:
    """Without a command of its own; what another job of the flow may be at stays claimed."""
    prepare(settings)
    campaign_id = register(settings, stop={"labels": 4}).campaign_id
    with open_campaign_stores(settings) as stores:
        start_campaign(stores, find_campaign(stores, campaign_id), load_settings(), "remote")
        flow = sent[0].uuid
        with open_claim_store(settings) as claims:
            take_claim(claims, ClaimDoc(claim_id="lost", owner="a job", flow=flow, manager="remote"))
            take_claim(claims, ClaimDoc(claim_id="elsewhere", owner="a job", flow="another", manager="remote"))
        sent.set_state(flow, "FAILED", "REMOTE_ERROR")
        if is_at_work:
            sent.controller.jobs.insert_one({"job": {"hosts": [flow]}, "state": "RUNNING", "uuid": "another job"})
        resume_campaign(stores, find_campaign(stores, campaign_id))
        start_campaign(stores, find_campaign(stores, campaign_id), load_settings(), "remote")
    assert len(sent) == 2
    with open_claim_store(settings) as claims:
        assert set(find_claims(claims)) == {"elsewhere", *(["lost"] if is_at_work else [])}
