"""Campaigns that are killed in each phase and resumed, stopped by a user, or halted by an error."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
from emt_campaigns import ALIAS, count_jobs, list_labels, prepare, read, register, resume, run

from e3relax_flows.campaigns import generation as first_jobs
from e3relax_flows.campaigns import register as registering
from e3relax_flows.campaigns import results as last_jobs
from e3relax_flows.campaigns.control import stop_campaign
from e3relax_flows.campaigns.store import find_campaign
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.prerelax import relax as claim_jobs
from e3relax_flows.registry.store import find_alias, find_model_doc
from e3relax_flows.schemas.campaigns import CampaignState, Phase, StopReason
from e3relax_flows.schemas.outcomes import OutcomeState


class Killed(BaseException):
    """As if the process had ended here."""


def test_two_registrations_at_once_keep_one_pool(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first writes its pool; it waits, and finds the campaign."""
    prepare(settings)
    write_pool, n_written, others = registering.write_pool, [], []

    def write(*arguments: Any) -> Any:
        n_written.append(1)
        others.append(Thread(target=register, args=(settings,)))
        others[-1].start()
        others[-1].join(0.5)
        return write_pool(*arguments)

    monkeypatch.setattr(registering, "write_pool", write)
    campaign = register(settings)
    others[0].join()
    assert len(n_written) == 1
    assert read(settings, campaign.campaign_id)[0].n_pool == campaign.n_pool


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_campaign_that_is_killed_in_each_phase_does_nothing_twice(
    settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    prepare(settings)
    campaign_id = register(settings, stop={"labels": 4}).campaign_id
    kept, claimed = first_jobs.save_phase, claim_jobs.take_claim
    killed: set[Any] = set()

    def save(stores: Any, name: str, generation: int, phase: Phase, result: Any) -> Any:
        if phase in killed:
            return kept(stores, name, generation, phase, result)
        killed.add(phase)
        if when == "after":
            kept(stores, name, generation, phase, result)
        raise Killed(phase)

    def claim(*arguments: Any) -> Any:
        killed.add(len(killed))
        if len(killed) == 6:  # the third relaxation
            raise Killed("relaxing")
        return claimed(*arguments)

    for module in (first_jobs, last_jobs):
        monkeypatch.setattr(module, "save_phase", save)
    monkeypatch.setattr(claim_jobs, "take_claim", claim)
    n_kills = 0
    while True:
        try:
            resume(settings, campaign_id)
            break
        except Killed:
            n_kills += 1
    assert n_kills == len(Phase) + 1
    campaign, (only,) = read(settings, campaign_id)
    assert (campaign.state, campaign.reason) == (CampaignState.FINISHED, StopReason.LABELS), campaign.message
    assert only.phases == list(Phase)
    labels = list_labels([only])
    jobs = count_jobs(settings)
    done = sum(label.state != OutcomeState.FAILED for label in labels)
    assert jobs["EMT relax"] == done  # one document of each that was not failed
    alias = find_alias(ALIAS, settings)
    assert alias is not None
    assert len(alias.history) == 2
    model = find_model_doc(alias.model_id, settings)
    assert model is not None
    assert only.retrain is not None
    assert model.model_id == only.retrain.challenger_id
    assert model.hardware["world_sizes"] == [1]  # the training was begun once


def test_a_person_stops_it_at_the_next_phase_and_it_goes_on_later(
    settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings)
    campaign_id = register(settings, stop={"labels": 4}).campaign_id
    kept = first_jobs.save_phase

    def stop(stores: Any, name: str, generation: int, phase: Phase, result: Any) -> Any:
        if phase == Phase.PREDICT:
            assert "before its next phase" in stop_campaign(stores, find_campaign(stores, name))
        return kept(stores, name, generation, phase, result)

    monkeypatch.setattr(first_jobs, "save_phase", stop)
    run(settings, campaign_id)
    campaign, (only,) = read(settings, campaign_id)
    assert (campaign.state, campaign.reason) == (CampaignState.STOPPED, StopReason.PERSON)
    assert only.phases == [Phase.BEGIN, Phase.SELECT, Phase.PREDICT]
    assert "EMT relax" not in count_jobs(settings)
    monkeypatch.setattr(first_jobs, "save_phase", kept)
    chosen = only.select
    resume(settings, campaign_id)
    campaign, (only,) = read(settings, campaign_id)
    assert campaign.state == CampaignState.FINISHED
    assert only.select == chosen


def test_an_error_of_the_retraining_halts_the_campaign_and_no_label_is_lost(
    settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings)
    campaign_id = register(settings, stop={"labels": 4}).campaign_id
    taken = last_jobs.take_snapshot

    def fail(*arguments: Any) -> Any:  # noqa: ARG001
        raise ConfigError("the store is away")

    monkeypatch.setattr(last_jobs, "take_snapshot", fail)
    submission = run(settings, campaign_id)
    assert any("the store is away" in str(failure.error) for failure in submission.run.failures)  # type: ignore[union-attr]
    campaign, (only,) = read(settings, campaign_id)
    assert campaign.state == CampaignState.HALTED
    assert f"e3relax campaign resume {campaign_id}" in str(campaign.message)
    n_relaxed = count_jobs(settings)["EMT relax"]
    monkeypatch.setattr(last_jobs, "take_snapshot", taken)
    resume(settings, campaign_id)
    campaign, (only,) = read(settings, campaign_id)
    assert campaign.state == CampaignState.FINISHED, campaign.message
    assert only.retrain is not None
    assert only.retrain.gate_id is not None
    assert count_jobs(settings)["EMT relax"] == n_relaxed
