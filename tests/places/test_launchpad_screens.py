"""Screens on a real launchpad: chunks and candidates as workflows of their own, within limits, cancelled, resumed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
from launchpads import Campaign
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import find_claims, open_claim_store
from e3relax_flows.ledger.store import open_outcome_store
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenLimits
from e3relax_flows.screening.control import cancel_screen, refresh_screen, resume_screen, start_screen
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import find_rows, load_screen, open_screen_stores, save_rows
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

ELEMENTS = ("Cu", "Ag", "Au", "Pt", "Pd", "Al")


def make_items(elements: Sequence[str] = ELEMENTS, strain: float = 1.03) -> list[ReadItem]:
    """Strained fcc metals, one of them twice."""
    items = []
    for element in elements:
        half = EMT_LATTICES[element] * strain / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        items.append(ReadItem(element, Structure(lattice, [element], [[0, 0, 0]]), None))
    return [*items, items[0]._replace(id="again")]


def register(settings: E3RelaxSettings, limits: ScreenLimits | None = None, **changes: Any) -> str:
    maker = ScreenMaker(engine=EmtEngine(), control=0, chunk_size=4, **changes)
    with open_screen_stores(settings) as stores:
        screen, _ = register_screen(stores, maker, make_items(), settings, place="fireworks")
    screen_id = str(screen.screen_id)
    resume_screen(screen_id, settings, limits)
    return screen_id


def load(settings: E3RelaxSettings, screen_id: str) -> ScreenDoc:
    with open_screen_stores(settings) as stores:
        return load_screen(stores, screen_id)


def count_jobs(campaign: Campaign) -> Counter[str]:
    with closing((pad := campaign.open_pad()).connection):
        return Counter(f"{item['name']}: {item['state']}" for item in pad.fireworks.find({}, {"name": 1, "state": 1}))


@pytest.mark.parametrize(
    ("one_launch", "expected"),
    [
        (None, {"e3r advance: COMPLETED": 2, "e3r candidate: COMPLETED": 6}),  # the engine is no DFT
        (False, {"e3r advance: COMPLETED": 2, "e3r claim: COMPLETED": 6}),  # claimed, relaxed, recorded in one launch
    ],
)
def test_a_screen_ends_without_a_process_that_watches_it(
    campaign: Campaign, settings: E3RelaxSettings, one_launch: bool | None, expected: dict[str, int]
) -> None:
    screen_id = register(settings, ScreenLimits(max_in_flight=2), one_launch=one_launch)
    assert start_screen(screen_id, settings).lines == ["2 prediction jobs are submitted"]
    assert start_screen(screen_id, settings).lines == []  # typed twice
    assert count_jobs(campaign) == {"e3r predict: READY": 2, "e3r advance: WAITING": 2}
    campaign.environment["E3RELAX_LOG_LEVEL"] = "INFO"
    campaign.drain()
    log = "".join(path.read_text() for path in campaign.folder.glob("*.log"))
    for change in ("waiting -> predicted", "predicted -> planned", "planned -> submitted", "submitted -> successful"):
        assert len(re.findall(f"candidate Cu of screen {screen_id}: {change}", log)) == 1, change
    assert len(re.findall(r"outcome \w+ of candidate Cu: claimed by", log)) == 1
    screen = load(settings, screen_id)
    assert (screen.phase, screen.n_submitted) == ("finished", 6)
    assert screen.counts == {"successful": 6, "duplicate": 1}
    assert [row.duplicate_of for row in screen.candidates if row.id == "again"] == ["Cu"]
    assert len({row.model_id for row in screen.candidates if row.model_id}) == 1
    expected = {"e3r predict: COMPLETED": 2, **expected}
    assert count_jobs(campaign) == expected
    assert start_screen(screen_id, settings).lines == []
    assert count_jobs(campaign) == expected


@pytest.mark.parametrize("one_launch", [None, False])
def test_every_arm_of_a_candidate_is_relaxed_at_a_launchpad(
    campaign: Campaign, settings: E3RelaxSettings, one_launch: bool | None
) -> None:
    maker = ScreenMaker(
        prerelax=None, engine=EmtEngine(), arms={"predicted": 1}, one_launch=one_launch, deduplicate=False
    )
    with open_screen_stores(settings) as stores:
        screen, _ = register_screen(stores, maker, make_items(["Cu", "Ag"])[:2], settings, place="fireworks")
    screen_id = str(screen.screen_id)
    resume_screen(screen_id, settings, ScreenLimits(max_in_flight=1))
    start_screen(screen_id, settings)
    campaign.drain()
    screen = load(settings, screen_id)
    assert (screen.phase, screen.served, screen.counts) == ("finished", "initial", {"successful": 2})
    for row in screen.candidates:
        assert [outcome.start_kind for outcome in row.outcomes][1:] == ["predicted"]
        assert all(outcome.n_ionic_steps for outcome in row.outcomes)


def test_what_is_cancelled_does_not_run_and_is_resumed(campaign: Campaign, settings: E3RelaxSettings) -> None:
    screen_id = register(settings)
    start_screen(screen_id, settings)
    campaign.drain_some(4)  # predicted, and what follows is there
    assert load(settings, screen_id).counts == {"submitted": 6, "duplicate": 1}
    assert cancel_screen(screen_id, settings).lines == ["6 candidates are cancelled"]
    campaign.drain()
    screen = load(settings, screen_id)
    assert (screen.phase, screen.counts) == ("cancelled", {"duplicate": 1, "cancelled": 6})
    with open_outcome_store(settings) as outcomes:
        assert outcomes.count() == 0
    resume_screen(screen_id, settings)
    start_screen(screen_id, settings)
    campaign.drain(2)
    assert refresh_screen(screen_id, settings).phase == "finished"
    assert load(settings, screen_id).counts == {"successful": 6, "duplicate": 1}


@pytest.mark.parametrize("is_removed", [True, False])
def test_lost_workflows_are_submitted_again(campaign: Campaign, settings: E3RelaxSettings, is_removed: bool) -> None:
    screen_id = register(settings)
    start_screen(screen_id, settings)
    campaign.drain_some(4)
    with closing((pad := campaign.open_pad()).connection):
        numbers = [item["fw_id"] for item in pad.fireworks.find({"name": "e3r candidate"}, {"fw_id": 1})][:2]
        for number in numbers:
            if is_removed:
                pad.delete_wf(number)
            else:
                pad.defuse_wf(number)
    campaign.drain()
    assert refresh_screen(screen_id, settings).counts == {"submitted": 2, "successful": 4, "duplicate": 1}
    resume_screen(screen_id, settings)
    assert start_screen(screen_id, settings).lines == ["2 lost candidates are submitted again"]
    campaign.drain()
    assert refresh_screen(screen_id, settings).counts == {"successful": 6, "duplicate": 1}


def test_an_error_of_the_input_is_final_and_a_lost_prediction_is_not(
    campaign: Campaign, settings: E3RelaxSettings
) -> None:
    """What a resume predicts again is what a store or a worker has lost, not what cannot be predicted."""
    items = [
        ReadItem("bad", Structure(Lattice.cubic(3.6), ["Cu", "Cu"], [[0, 0, 0], [0, 0, 0]]), None),
        *make_items(["Cu", "Ag"])[:2],
    ]
    maker = ScreenMaker(engine=EmtEngine(), control=0)
    with open_screen_stores(settings) as stores:
        screen_id = str(register_screen(stores, maker, items, settings, place="fireworks")[0].screen_id)
    start_screen(screen_id, settings)
    campaign.drain()
    assert refresh_screen(screen_id, settings).counts == {"successful": 2, "error": 1}
    before = count_jobs(campaign)
    resume_screen(screen_id, settings)
    assert start_screen(screen_id, settings).lines == []
    assert count_jobs(campaign) == before
    with open_screen_stores(settings) as stores:
        (row,) = find_rows(stores, screen_id, [CandidateState.SUCCESSFUL], {"id": "Cu"})
        lost = row.model_copy(
            update={"state": CandidateState.ERROR, "prediction_id": None, "verdict": None, "outcomes": []}
        )
        save_rows(stores, [lost], [CandidateState.SUCCESSFUL])
    resume_screen(screen_id, settings)
    assert start_screen(screen_id, settings).lines == ["1 prediction jobs run again"]
    campaign.drain()
    assert refresh_screen(screen_id, settings).counts == {"successful": 2, "error": 1}


def test_a_budget_leaves_the_least_promising(campaign: Campaign, settings: E3RelaxSettings) -> None:
    screen_id = register(settings, ScreenLimits(candidates=2), order="change")
    start_screen(screen_id, settings)
    campaign.drain()
    screen = refresh_screen(screen_id, settings)
    assert (screen.phase, screen.message) == ("finished", "the budget of 2 candidates is spent")
    assert screen.counts == {"successful": 2, "duplicate": 1, "left": 4}
    with open_screen_stores(settings) as stores:
        ranks = {raw["id"]: (raw["rank"], raw["state"]) for raw in stores.rows.query({"chunk": {"$ne": None}})}
    assert max(rank for rank, state in ranks.values() if state == "successful") <= min(
        rank for rank, state in ranks.values() if state == "left"
    )
    resume_screen(screen_id, settings, ScreenLimits(candidates=5))
    start_screen(screen_id, settings)
    campaign.drain()
    assert refresh_screen(screen_id, settings).counts == {"successful": 5, "duplicate": 1, "left": 1}


def test_a_failed_chunk_costs_itself_and_is_tried_again(campaign: Campaign, settings: E3RelaxSettings) -> None:
    screen_id = register(settings)
    start_screen(screen_id, settings)
    with closing((pad := campaign.open_pad()).connection):
        broken = pad.fireworks.find_one({"name": "e3r predict", "spec._tasks.0.job.function_args.1": 1})
        pad.update_spec([broken["fw_id"]], {"_tasks.0.job.function_args.0": "nothing"})  # no such screen
        campaign.drain()
        screen = refresh_screen(screen_id, settings)
        assert screen.counts == {"successful": 4, "duplicate": 1, "error": 2}
        pad.update_spec([broken["fw_id"]], {"_tasks.0.job.function_args.0": screen_id}, mongo=False)
    resume_screen(screen_id, settings)
    assert start_screen(screen_id, settings).lines == ["1 prediction jobs run again"]
    campaign.drain()
    assert refresh_screen(screen_id, settings).counts == {"successful": 6, "duplicate": 1}
    with open_claim_store(settings) as claims:
        assert find_claims(claims) == {}
