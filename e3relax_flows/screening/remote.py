"""Screens on jobflow-remote: chunks and candidates as flows of a project, sent once, and again where they are lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import find_claims, open_claim_store, release_claims
from e3relax_flows.places.launchpad import Placed
from e3relax_flows.places.remote import ENDED, LOST, RemotePlace
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenRow
from e3relax_flows.screening.advance import Ended, Hand, advance_screen
from e3relax_flows.screening.flows import build_candidate_flow, build_chunk_flow, name_candidate, name_chunk
from e3relax_flows.screening.local import give_back
from e3relax_flows.screening.store import ScreenStores, find_rows, list_waiting_chunks, open_screen_stores


def send_chunks(place: RemotePlace, stores: ScreenStores, screen_id: str, settings: E3RelaxSettings) -> tuple[int, int]:
    """Send the chunks that wait and are not at work; how many were never sent, and how many were lost or failed."""
    names = {name_chunk(screen_id, number): number for number in list_waiting_chunks(stores, screen_id)}
    placed = place.find_placed(list(names))
    again = [name for name, flow in placed.items() if flow.state in (*ENDED, LOST)]
    new = [name for name in names if name not in placed]
    for name in (*new, *again):
        place.send(build_chunk_flow(screen_id, names[name]), name, settings.WORKERS)
    return len(new), len(again)


def hand_to_remote(place: RemotePlace, screen: ScreenDoc, settings: E3RelaxSettings) -> Hand:
    """The function that gives candidates to a project of jobflow-remote, those that it has excepted."""

    def hand(rows: list[ScreenRow]) -> None:
        placed = place.find_placed([name_candidate(row) for row in rows])
        for row in rows:
            name = name_candidate(row)
            if name in placed and placed[name].state != LOST:
                row.flow = placed[name].flow
                continue
            flow = build_candidate_flow(screen, row)
            row.flow = flow.uuid
            place.send(flow, name, settings.WORKERS)

    return hand


def plan_lost(place: RemotePlace, stores: ScreenStores, screen_id: str, settings: E3RelaxSettings) -> int:
    """Plan candidates anew whose flows are lost or not there; how many."""
    rows, placed = find_submitted(place, stores, screen_id)
    lost = [row for row in rows if name_candidate(row) not in placed or placed[name_candidate(row)].state == LOST]
    with open_claim_store(settings) as claims:
        ids = [planned.outcome_id for row in lost for planned in row.outcomes]
        flows = {row.flow for row in lost}
        release_claims(claims, [key for key, claim in find_claims(claims, ids).items() if claim.flow in flows])
    give_back(stores, lost)
    return len(lost)


def end_candidates(place: RemotePlace, screen_id: str, settings: E3RelaxSettings) -> None:
    """Give a final state to candidates whose flow has ended without outcome."""
    with open_screen_stores(settings) as stores:
        rows, placed = find_submitted(place, stores, screen_id)
    ended = [row.row_key for row in rows if _has_state(placed, name_candidate(row), ENDED)]
    if ended:
        advance_screen(screen_id, settings, ended=Ended(row_keys=tuple(ended)))


def end_chunks(place: RemotePlace, screen_id: str, settings: E3RelaxSettings) -> None:
    """Give the state error to candidates that still wait though the flow of their chunk has ended, or is lost."""
    with open_screen_stores(settings) as stores:
        numbers = list_waiting_chunks(stores, screen_id)
    placed = place.find_placed([name_chunk(screen_id, number) for number in numbers])
    for number in numbers:
        if _has_state(placed, name_chunk(screen_id, number), (*ENDED, LOST)):
            advance_screen(screen_id, settings, ended=Ended(chunk=number))


def stop_flows(place: RemotePlace, screen: ScreenDoc, rows: Iterable[ScreenRow]) -> list[ScreenRow]:
    """Take from the workers what has not begun; the candidates whose flow is stopped or not there."""
    rows = list(rows)
    chunks = [name_chunk(str(screen.screen_id), number) for number in range(screen.n_chunks)]
    placed = place.find_placed([*chunks, *map(name_candidate, rows)])
    stopped = place.stop(list(placed.values()))
    return [row for row in rows if name_candidate(row) in stopped or name_candidate(row) not in placed]


def find_submitted(
    place: RemotePlace, stores: ScreenStores, screen_id: str
) -> tuple[list[ScreenRow], dict[str, Placed]]:
    """Candidates that were given to workers, and their flows by content id."""
    rows = find_rows(stores, screen_id, [CandidateState.SUBMITTED])
    return rows, place.find_placed([name_candidate(row) for row in rows])


def _has_state(placed: Mapping[str, Placed], name: str, states: Sequence[str]) -> bool:
    return name in placed and placed[name].state in states
