"""ScreenPlace: where the jobs of a screen run, with one class for each kind of place."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jobflow import Flow, Job
from maggma.core import Store

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import find_claims, release_claims
from e3relax_flows.places.kinds import FIREWORKS, REMOTE, PlaceKind, find_kind
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenRow
from e3relax_flows.screening.states import Event, advance
from e3relax_flows.screening.store import ScreenStores, save_rows, save_screen

logger = logging.getLogger(__name__)


class ScreenPlace(ABC):
    """Where the jobs of a screen run."""

    kind: PlaceKind
    advice = ""  # what the user has to do before the screen continues
    stopping = ""  # how running jobs are stopped by hand
    frees_claims = False  # whether claims of lost candidates are released here, since no other command does

    @property
    def name(self) -> str:
        """As screens and their rows have it."""
        return self.kind.name

    @abstractmethod
    def check(self, screen: ScreenDoc, samples: Sequence[Flow | Job]) -> list[str]:
        """Check that flows like these can run there; return warnings, some of them only for new screens.

        Raises
        ------
        ConfigError
            When they cannot; the message has the remedy.
        """

    def submit_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[str]:  # noqa: ARG002
        """Submit predictions of chunks that are not at the place, and again those that ended; return a report."""
        return []

    def find_ended_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[int]:  # noqa: ARG002
        """Those whose flow has ended or is lost, if no other process notices the end."""
        return []

    @abstractmethod
    def submit(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> None:
        """Submit the relaxations of candidates that are not at the place; record the owner in each row."""

    def find_ended(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:  # noqa: ARG002
        """Those whose flow has ended, successfully or not."""
        return []

    @abstractmethod
    def find_lost(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """Submitted candidates that are lost."""

    def describe_activity(self) -> list[str]:
        """Ready jobs and activity of its workers, in lines; empty if this process works."""
        return []

    @abstractmethod
    def withdraw(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """Withdraw flows that have not begun, chunks too; return the rows that will not be relaxed."""


@contextmanager
def open_place(name: str | None, settings: E3RelaxSettings, purpose: str) -> Iterator[ScreenPlace]:
    """The place of a name, connected, closed at the end.

    Raises
    ------
    ConfigError
        When no place has this name.
    MissingDependencyError
        When its package is not installed; `purpose` is part of the message.
    StoreError
        When it cannot be reached.
    """
    kind = find_kind(name)
    if kind is FIREWORKS:
        from e3relax_flows.screening.launchpad import open_fireworks_place

        with open_fireworks_place(settings, purpose) as place:
            yield place
    elif kind is REMOTE:
        from e3relax_flows.screening.remote import open_remote_place

        with open_remote_place(settings, purpose) as place:
            yield place
    else:
        from e3relax_flows.screening.local import LocalPlace

        yield LocalPlace()


def release(stores: ScreenStores, screen: ScreenDoc, rows: Sequence[ScreenRow], claims: Store | None = None) -> None:
    """Plan submitted rows of a screen again that were not relaxed; they spend no budget.

    The claims of their flows in the store `claims` are released.
    """
    if not rows:
        return
    logger.info("screen %s: %d candidates were submitted and lost, and are planned again", screen.screen_id, len(rows))
    if claims is not None:
        ids = [planned.outcome_id for row in rows for planned in row.outcomes]
        flows = {row.submitted.flow for row in rows if row.submitted}
        release_claims(claims, [key for key, claim in find_claims(claims, ids).items() if claim.flow in flows])
    for row in rows:
        advance(row, Event.RELEASE)
        row.submitted = None
    save_rows(stores, rows, [CandidateState.SUBMITTED])
    screen.n_submitted -= len(rows)
    save_screen(stores, screen)
