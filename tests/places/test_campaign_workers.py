"""A campaign on a launchpad: carried by workers in processes of their own, submitted twice, a worker killed."""

from __future__ import annotations

import time
from collections import Counter

from emt_campaigns import prepare, register
from launchpads import Campaign

from e3relax_flows.campaigns.control import resume_campaign, start_campaign
from e3relax_flows.campaigns.store import find_campaign, load_generations, open_campaign_stores
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.places.recovery import recover_launchpad
from e3relax_flows.schemas.campaigns import CampaignState, Phase, StopReason
from e3relax_flows.schemas.outcomes import OutcomeState
from e3relax_flows.stores.opening import open_job_store


def test_workers_carry_a_campaign_and_a_killed_one_costs_nothing(campaign: Campaign, settings: E3RelaxSettings) -> None:
    prepare(settings)
    name = register(settings, stop={"labels": 2}, labels=2, control=0).campaign_id
    with open_campaign_stores(settings) as stores:
        first = start_campaign(stores, find_campaign(stores, name), settings, "fireworks")
        again = start_campaign(stores, find_campaign(stores, name), settings, "fireworks")
    assert (len(first.added), len(again.added), len(again.known)) == (1, 0, 1)

    # killed when something was chosen
    worker = campaign.start("rapidfire", "--nlaunches", "0")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with open_campaign_stores(settings) as stores:
            generations = load_generations(stores, name)
        if generations and Phase.SELECT in generations[0].phases:
            break
        time.sleep(0.05)
    worker.kill()
    worker.communicate()
    recover_launchpad(settings, workers_stopped=True, pause_s=0.3)
    with open_campaign_stores(settings) as stores:
        chosen = load_generations(stores, name)[0].select
        resume_campaign(stores, find_campaign(stores, name))
        resumed = start_campaign(stores, find_campaign(stores, name), settings, "fireworks")
    assert len(resumed.added) == 1
    campaign.drain()

    with open_campaign_stores(settings) as stores:
        document, generations = find_campaign(stores, name), load_generations(stores, name)
    assert (document.state, document.reason) == (CampaignState.FINISHED, StopReason.LABELS), document.message
    assert [item.phases for item in generations] == [list(Phase)]
    assert generations[0].select == chosen
    labels = [label for item in generations for label in item.label.labels]  # type: ignore[union-attr]
    n_done = sum(label.state != OutcomeState.FAILED for label in labels)
    with open_job_store(settings) as jobs:
        counts = Counter(raw["name"] for raw in jobs.query({}, ["name", "output"]) if raw.get("output") is not None)
    assert counts["EMT relax"] == n_done
