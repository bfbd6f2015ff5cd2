"""A campaign given to jobflow-remote, whose calls are recorded: one flow, of which all that follows is born."""

from __future__ import annotations

from pathlib import Path

from emt_campaigns import prepare, register

from e3relax_flows.campaigns.control import start_campaign
from e3relax_flows.campaigns.store import find_campaign, load_generations, open_campaign_stores
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
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
