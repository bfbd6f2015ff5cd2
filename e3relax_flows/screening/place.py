"""ScreenPlace: where the jobs of a screen run, and what it can be asked; one class for each kind of place."""

from __future__ import annotations

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


class ScreenPlace(ABC):
    """Where the jobs of a screen run."""

    kind: PlaceKind
    advice = ""  # what follows when the user has to do something before the screen goes on
    stopping = ""  # how what runs there is stopped by hand
    frees_claims = False  # whether claims of what is lost there are released, since nothing else does

    @property
    def name(self) -> str:
        """As screens and their rows have it."""
        return self.kind.name

    @abstractmethod
    def check(self, screen: ScreenDoc, samples: Sequence[Flow | Job]) -> list[str]:
        """Whether flows like these can run there; the warnings, some of them only where the screen is not there yet.

        Raises
        ------
        ConfigError
            When they cannot; the message says what to type.
        """

    def submit_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[str]:  # noqa: ARG002
        """Submit the predictions of chunks that are not there, and again those that ended; what was done, in words."""
        return []

    def find_ended_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[int]:  # noqa: ARG002
        """Those whose flow has ended or is lost, where its end is noticed by nothing else."""
        return []

    @abstractmethod
    def submit(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> None:
        """Submit the relaxations of candidates that are not there; note in each row who relaxes it."""

    def find_ended(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:  # noqa: ARG002
        """Those whose flow has ended, whether well or not."""
        return []

    @abstractmethod
    def find_lost(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """Those that were submitted and that nobody will relax."""

    def describe_activity(self) -> list[str]:
        """What its workers have before them, in lines; none where this process works."""
        return []

    @abstractmethod
    def withdraw(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """Take back what has not begun, chunks too; the rows that nobody will relax now."""


@contextmanager
def open_place(name: str | None, settings: E3RelaxSettings, purpose: str) -> Iterator[ScreenPlace]:
    """The place of a name, connected, closed at the end.

    Raises
    ------
    ConfigError
        When no place has this name.
    MissingDependencyError
        When its package is not installed; `purpose` says what for.
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
    """Plan rows of a screen anew that were submitted and not relaxed; they spend no budget.

    What their flows claimed in a store `claims` is free then.
    """
    if not rows:
        return
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
