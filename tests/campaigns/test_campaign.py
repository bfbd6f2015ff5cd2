"""Campaigns in this process: two generations to the budget, and what is registered."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
from atomate2.ase.jobs import EmtRelaxMaker
from emt_campaigns import ALIAS, CONFIG, list_labels, make_candidates, prepare, read, register, resume, run

from e3relax_flows.campaigns import generation as first_jobs
from e3relax_flows.campaigns.control import resume_campaign
from e3relax_flows.campaigns.maker import CampaignMaker
from e3relax_flows.campaigns.register import read_maker, register_campaign
from e3relax_flows.campaigns.store import open_campaign_stores, save_campaign
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.roles import Role, find_role
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.registry.models import resolve_model
from e3relax_flows.registry.store import find_model_doc
from e3relax_flows.retraining.maker import RetrainMaker
from e3relax_flows.schemas.campaigns import Arm, CampaignState, GenerationDoc, Phase, StopReason
from e3relax_flows.schemas.outcomes import OutcomeState, StartKind
from e3relax_flows.testing import EmtEngine


def check_log(lines: list[str], campaign_id: str, generation: GenerationDoc) -> None:
    """From the campaign to the alias: each line names what is searched for next."""
    before, after = generation.begin.model_id, generation.retrain.challenger_id  # type: ignore[union-attr]
    (moved,) = [line for line in lines if line.startswith(f"alias {ALIAS}: {before} -> {after}, promoted")]
    (judged,) = [line for line in lines if line.startswith("gate ") and f"challenger {after} against {before}" in line]
    assert judged.split(":")[0] in moved
    trained = [line for line in lines if line.startswith("training ") and " finished at step 60" in line]
    assert trained
    (registered,) = [line for line in lines if line.startswith(f"model {after}: registered")]
    (frozen,) = [line for line in lines if line.startswith(f"dataset {generation.snapshot.dataset_id}: saved")]  # type: ignore[union-attr]
    order = [lines.index(line) for line in (frozen, trained[0], registered, judged, moved)]
    assert order == sorted(order)
    phases = [line.split(": ")[1] for line in lines if line.startswith(f"generation 0 of campaign {campaign_id}:")]
    assert phases == [f"phase {phase.value} is done" for phase in Phase]
    selected = [one.id for one in generation.select.selected]  # type: ignore[union-attr]
    for name in selected:
        assert f"candidate {name} of campaign {campaign_id}: selected in generation 0" in lines
        assert any(line.startswith("outcome ") and f"of candidate {name}: " in line for line in lines)
    assert any(line.startswith(f"campaign {campaign_id}: finished (") for line in lines)


def test_two_generations_run_to_the_budget(settings: E3RelaxSettings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "e3relax_flows")
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

    check_log([record.getMessage() for record in caplog.records], campaign_id, first)

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


def test_jobs_of_an_earlier_start_do_nothing_more(settings: E3RelaxSettings) -> None:
    prepare(settings)
    campaign = register(settings)
    with open_workspace(settings) as workspace:
        resume_campaign(workspace.get(open_campaign_stores), campaign)
        assert first_jobs.begin_generation(campaign.campaign_id, 0, workspace) is None
        assert first_jobs.begin_generation(campaign.campaign_id, 1, workspace) == (
            0, resolve_model(ALIAS, workspace).model_id
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


RETRAINING: dict[str, Any] = CONFIG["retraining"]
TRAINING: dict[str, Any] = RETRAINING["training"]


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_size": 3},
        {"device": "cuda:1"},
        {"stop": {"labels": 99}},
        {"engine": "emt", "engine_settings": {}},  # the name; the engine itself is another argument
        {"retraining": RETRAINING | {"chunk_size": 7, "device": "cuda"}},
        {"retraining": RETRAINING | {"launch": {"how": "torchrun", "processes": 2}}},
        {"retraining": RETRAINING | {"training": TRAINING | {"threads": 4, "device": "cuda", "log": {}}}},
        {"retraining": RETRAINING | {"training": TRAINING | {"data": TRAINING["data"] | {"workers": 2}}}},
    ],
)
def test_mechanics_are_in_no_id_of_a_campaign(settings: E3RelaxSettings, changes: dict[str, Any]) -> None:
    prepare(settings)
    first = register(settings)
    assert register(settings, **changes).campaign_id == first.campaign_id
    with open_campaign_stores(settings) as stores:
        assert stores.campaigns.count() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"labels": 5},
        {"options": {"passes": 1}},
        {"retraining": RETRAINING | {"seeds": [1]}},
        {"retraining": RETRAINING | {"training": TRAINING | {"val_every": 30}}},
    ],
)
def test_what_decides_on_results_is_in_the_id(settings: E3RelaxSettings, changes: dict[str, Any]) -> None:
    prepare(settings)
    assert register(settings, **changes).campaign_id != register(settings).campaign_id


def test_an_engine_or_a_retraining_of_other_settings_is_another_campaign(settings: E3RelaxSettings) -> None:
    prepare(settings)
    first = register(settings)
    retrain = RetrainMaker(config=RETRAINING | {"seeds": [3]})
    named = RetrainMaker(config=RETRAINING | {"device": "cuda"}, name="another")
    makers = {
        "same": CampaignMaker(config=CONFIG, engine=EmtEngine(name="another"), retrain=RetrainMaker(config=RETRAINING)),
        "engine": CampaignMaker(config=CONFIG, engine=EmtEngine(maker=EmtRelaxMaker(steps=7))),
        "retrain": CampaignMaker(config=CONFIG, engine=EmtEngine(), retrain=retrain),
        "retrain again": CampaignMaker(config=CONFIG, engine=EmtEngine(), retrain=named),
    }
    with open_campaign_stores(settings) as stores:
        ids = {
            name: register_campaign(stores, maker, make_candidates(), settings)[0].campaign_id
            for name, maker in makers.items()
        }
    assert ids["same"] == first.campaign_id
    assert len({first.campaign_id, ids["engine"], ids["retrain"]}) == 3


def test_a_campaign_under_the_id_of_an_earlier_release_is_found_and_goes_on(settings: E3RelaxSettings) -> None:
    prepare(settings)
    campaign = register(settings)
    earlier = campaign.model_copy(update={"campaign_id": "0123456789abcdef"})
    with open_campaign_stores(settings) as stores:
        stores.campaigns.remove_docs({"campaign_id": campaign.campaign_id})
        save_campaign(stores, earlier)
        found, is_new = register_campaign(
            stores, CampaignMaker(config=CONFIG | {"chunk_size": 5}, engine=EmtEngine()), make_candidates(), settings
        )
        assert (found.campaign_id, is_new) == ("0123456789abcdef", False)
        assert stores.campaigns.count() == 1
        other, is_new = register_campaign(
            stores, CampaignMaker(config=CONFIG | {"seed": 5}, engine=EmtEngine()), make_candidates(), settings
        )
        assert is_new
        assert other.campaign_id not in ("0123456789abcdef", campaign.campaign_id)


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
