"""Campaigns in this process: two generations, killed in each phase and resumed, stopped, what cannot be trained."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from emt_campaigns import ALIAS, CONFIG, prepare, register

from e3relax_flows.campaigns import generation as first_jobs
from e3relax_flows.campaigns import results as last_jobs
from e3relax_flows.campaigns.control import read_maker, resume_campaign, start_campaign, stop_campaign
from e3relax_flows.campaigns.maker import CampaignMaker
from e3relax_flows.campaigns.store import find_campaign, load_generations, open_campaign_stores
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.roles import Role, find_role
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.places.submission import Submission
from e3relax_flows.prerelax import relax as claim_jobs
from e3relax_flows.registry.models import resolve_model
from e3relax_flows.registry.store import find_alias, find_model_doc
from e3relax_flows.schemas.campaigns import Arm, CampaignDoc, CampaignState, GenerationDoc, Phase, StopReason
from e3relax_flows.schemas.outcomes import OutcomeState, StartKind
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.testing import EmtEngine


def run(settings: E3RelaxSettings, campaign_id: str) -> Submission:
    with open_campaign_stores(settings) as stores:
        campaign = find_campaign(stores, campaign_id)
        return start_campaign(stores, campaign, settings, "local", settings.DATA_DIR.parent / "run")


def resume(settings: E3RelaxSettings, campaign_id: str, **budgets: Any) -> Submission:
    with open_campaign_stores(settings) as stores:
        resume_campaign(stores, find_campaign(stores, campaign_id), **budgets)
    return run(settings, campaign_id)


def read(settings: E3RelaxSettings, campaign_id: str) -> tuple[CampaignDoc, list[GenerationDoc]]:
    with open_campaign_stores(settings) as stores:
        return find_campaign(stores, campaign_id), load_generations(stores, campaign_id)


def count_jobs(settings: E3RelaxSettings) -> Counter[str]:
    """Documents in the job store by the name of their job, those that were not replaced."""
    with open_job_store(settings) as jobs:
        return Counter(raw["name"] for raw in jobs.query({}, ["name", "output"]) if raw.get("output") is not None)


def list_labels(generations: list[GenerationDoc]) -> list[Any]:
    return [label for item in generations if item.label for label in item.label.labels]


def test_two_generations_run_to_the_budget(settings: E3RelaxSettings) -> None:
    untrained = prepare(settings)
    campaign_id = register(settings).campaign_id
    submission = run(settings, campaign_id)
    campaign, (first, second) = read(settings, campaign_id)
    assert (campaign.state, campaign.reason) == (CampaignState.FINISHED, StopReason.LABELS), campaign.message
    assert first.phases == list(Phase)

    # what was chosen, and why
    assert first.select is not None
    assert second.select is not None
    chosen = [one.structure_id for item in (first, second) for one in item.select.selected]  # type: ignore[union-attr]
    assert len(set(chosen)) == 8
    assert Counter(one.arm for one in first.select.selected) == {Arm.SCORED: 2, Arm.DIVERSE: 1, Arm.RANDOM: 1}
    assert all(one.distance is not None for one in first.select.selected if one.arm == Arm.DIVERSE)

    # labels that failed cost themselves only, and controls are there in pairs
    labels = list_labels([first, second])
    states = Counter(label.state for label in labels)
    assert states[OutcomeState.FAILED] <= 2
    assert states[OutcomeState.SUCCESSFUL] >= 6
    assert {failure.name for failure in submission.run.failures} <= {"EMT relax"}  # type: ignore[union-attr]
    assert Counter(label.start_kind for label in labels)[StartKind.CONTROL] >= 1

    # the model in service before the first generation predicted its labels; the promoted one those of the second
    assert first.begin is not None
    assert first.begin.model_id == untrained
    assert first.retrain is not None
    assert first.retrain.promoted, first.retrain.message
    assert second.begin is not None
    assert second.begin.model_id == first.retrain.challenger_id
    model = find_model_doc(str(first.retrain.challenger_id), settings)
    assert model is not None
    assert model.parent_id == untrained

    # figures
    assert first.conclude is not None
    assert second.conclude is not None
    assert first.conclude.error_before is not None
    assert first.conclude.error is not None
    assert first.conclude.error.mean < first.conclude.error_before.mean
    assert first.conclude.error.low is not None
    assert first.conclude.error.low < first.conclude.error.mean
    assert second.conclude.error_before == first.conclude.error
    # a network that was never trained leaves crystals as they are
    assert first.conclude.error_before.mean == pytest.approx(first.conclude.identity_error.mean, rel=0.02)  # type: ignore[union-attr]
    hours = sum(label.hours for label in first.label.labels if label.hours)  # type: ignore[union-attr]
    assert first.conclude.dft_hours == pytest.approx(hours)
    assert second.conclude.control_ratio is not None
    assert 0.2 < second.conclude.control_ratio < 2

    # run again there is nothing to do; with a larger budget it goes on where it was
    with pytest.raises(ConfigError, match="is finished"):
        run(settings, campaign_id)
    with pytest.raises(ConfigError, match="--labels"):
        resume(settings, campaign_id)
    resume(settings, campaign_id, labels=9)
    campaign, generations = read(settings, campaign_id)
    assert [item.n_labels for item in generations] == [4, 4, 1]
    assert campaign.reason == StopReason.LABELS
    assert len({one.structure_id for item in generations for one in item.select.selected}) == 9  # type: ignore[union-attr]


class Killed(BaseException):
    """As if the process had ended here."""


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


def test_jobs_of_an_earlier_start_do_nothing_more(settings: E3RelaxSettings) -> None:
    prepare(settings)
    campaign = register(settings)
    with open_campaign_stores(settings) as stores:
        resume_campaign(stores, campaign)
    assert first_jobs.begin_generation(campaign.campaign_id, 0, settings) is None
    assert first_jobs.begin_generation(campaign.campaign_id, 1, settings) == (
        0, resolve_model(ALIAS, settings).model_id
    )  # fmt: skip


def test_it_is_registered_once_with_the_configuration_that_its_jobs_see(settings: E3RelaxSettings) -> None:
    prepare(settings)
    first, again = register(settings), register(settings)
    assert first.campaign_id == again.campaign_id
    assert register(settings, seed=1).campaign_id != first.campaign_id
    assert register(settings, stop={"labels": 99}).campaign_id == first.campaign_id
    assert (first.n_pool, first.n_chunks) == (20, 3)
    assert read_maker(first).config == CampaignMaker(config=CONFIG, engine=EmtEngine()).config
    assert read_maker(first).engine.engine_id == EmtEngine().engine_id


def test_a_potential_of_which_nothing_would_be_trained_on_is_refused(settings: E3RelaxSettings) -> None:
    prepare(settings)
    retraining = CONFIG["retraining"] | {"dataset": {}}
    with pytest.raises(ConfigError, match="dft_only"):
        register(settings, retraining=retraining)


def test_roles_follow_from_the_names_of_the_jobs() -> None:
    roles = {
        "generation": Role.LIGHT, "select": Role.LIGHT, "predict": Role.PREDICT, "label": Role.LIGHT,
        "gather": Role.LIGHT, "pairs": Role.LIGHT, "retrain": Role.LIGHT, "train": Role.TRAIN, "conclude": Role.LIGHT,
    }  # fmt: skip
    assert {name: find_role(f"e3r {name}") for name in roles} == roles
    names = [f"e3r {name}" for name in (*roles, "claim", "outcome", "collect", "gate", "promote", "snapshot")]
    assert not [(a, b) for a in names for b in names if a != b and a in b]
