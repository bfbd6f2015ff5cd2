"""Present state of a screen: counts, rate, remaining time, savings so far, last failures; read from stores only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from maggma.core import Store

from e3relax_flows.core.run_information import now
from e3relax_flows.ledger.savings import StartSteps, measure_saving, pair_served
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.prerelax.starts import fill_outcomes
from e3relax_flows.schemas.outcomes import OutcomeState, PairedSaving, StartKind
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenPhase, ScreenRow
from e3relax_flows.screening.place import open_place
from e3relax_flows.screening.states import end
from e3relax_flows.screening.store import ScreenStores, find_outcome_rows, find_rows, find_screen, open_screen_stores

State = CandidateState
TO_COME = (State.WAITING, State.PREDICTED, State.PLANNED, State.SUBMITTED)
LATEST = 100  # ends by which the rate is measured
SHOWN = 5  # failures


@dataclass(frozen=True)
class Failure:
    """A candidate that failed, or has no prediction."""

    id: str
    state: str
    message: str
    moment: datetime | None  # UTC; None where no outcome was written


@dataclass(frozen=True)
class ScreenView:
    """A screen at one moment.

    Attributes
    ----------
    counts
        Candidates by state; those with a stored outcome count as ended, even if their rows are not updated.
    per_hour
        Candidates relaxed per hour, by the latest ends; None before the second, and for a finished screen.
    seconds_left
        At that rate, within the budget; None if the rate is not known.
    ionic, electronic
        Steps from the served over those from the initial structure, of the controls that have both.
    has_polished
        Whether some of the served structures are polished.
    """

    screen: ScreenDoc
    counts: dict[str, int]
    per_hour: float | None
    seconds_left: float | None
    ionic: PairedSaving | None
    electronic: PairedSaving | None
    failures: list[Failure]
    has_polished: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether no candidate is running or waiting."""
        return self.screen.phase in (ScreenPhase.FINISHED, ScreenPhase.CANCELLED)


def view_screen(stores: ScreenStores, outcomes: Store, name: str, moment: datetime | None = None) -> ScreenView:
    """Read a screen; nothing is written, and no launchpad is read.

    Parameters
    ----------
    stores, outcomes
        Where it is.
    name
        Id or name of the screen.
    moment
        The time by which the rate is measured; None: now.
    """
    screen = find_screen(stores, name)
    rows = find_rows(stores, str(screen.screen_id), list(State))
    _settle(rows, outcomes)
    counts = Counter(row.state for row in rows)
    per_hour = None if screen.phase != ScreenPhase.RELAXING else measure_rate(rows, moment or now())
    pairs = pair_served(step for row in rows for step in _list_steps(row))
    return ScreenView(
        screen=screen,
        counts={state.value: counts[state] for state in State if counts[state]},
        per_hour=per_hour,
        seconds_left=3600 * _count_left(screen, counts) / per_hour if per_hour else None,
        ionic=measure_saving(pairs, lambda one: one.ionic),
        electronic=measure_saving(pairs, lambda one: one.electronic),
        failures=_list_failures(rows),
        has_polished=any(planned.start_kind is StartKind.POLISHED for row in rows for planned in row.outcomes),
    )


def describe_workers(screen: ScreenDoc, workspace: Workspace) -> list[str]:
    """Ready jobs and activity at a screen's place, and lost candidates, in lines.

    Parameters
    ----------
    screen
        Of any place.
    workspace
        With the stores.

    Raises
    ------
    StoreError
        When the manager's database cannot be reached.
    """
    submitted = find_rows(workspace.get(open_screen_stores), str(screen.screen_id), [State.SUBMITTED])
    with open_place(screen.place, workspace.settings, "screen status") as place:
        lines, lost = place.describe_activity(), [row.id for row in place.find_lost(submitted)]
    if lost:
        names = ", ".join(lost[:SHOWN]) + (", ..." if len(lost) > SHOWN else "")
        lines.append(
            f"the jobs of {len(lost)} submitted candidates were killed, failed or are missing ({names}); resubmit: "
            f"e3relax screen resume {screen.screen_id}"
        )
    return lines


def measure_rate(rows: Iterable[ScreenRow], moment: datetime) -> float | None:
    """Candidates relaxed per hour from the first of the latest ends until now; None if fewer than two ended."""
    ends = sorted(
        max(planned.recorded for planned in row.outcomes if planned.recorded is not None)
        for row in rows
        if row.state not in TO_COME and any(planned.recorded and not planned.reused for planned in row.outcomes)
    )[-LATEST:]
    if len(ends) < 2:
        return None
    seconds = (max(moment, ends[-1]) - ends[0]).total_seconds()
    return 3600 * (len(ends) - 1) / seconds if seconds > 0 else None


def _settle(rows: list[ScreenRow], outcomes: Store) -> None:
    """Add outcomes that are not yet in the rows, in memory only."""
    submitted = [row for row in rows if row.state == State.SUBMITTED]
    missing = {planned.outcome_id: planned for row in submitted for planned in row.outcomes if planned.state is None}
    found = {
        key: outcome
        for key, outcome in find_outcome_rows(outcomes, missing).items()
        if missing[key].superseded is None or outcome.recorded != missing[key].superseded
    }
    fill_outcomes(submitted, found, reused=False)
    for row in submitted:
        end(row)  # if another relaxation of it is pending, it stays submitted


def _count_left(screen: ScreenDoc, counts: Counter[CandidateState]) -> int:
    """Candidates that are still to be relaxed, within the budget."""
    begun = counts[State.SUBMITTED]
    left = sum(counts[state] for state in TO_COME) - begun
    if screen.limits.candidates is not None:
        left = min(left, max(screen.limits.candidates - screen.n_submitted, 0))
    return begun + left


def _list_steps(row: ScreenRow) -> list[StartSteps]:
    """Steps of the relaxations of a candidate from its starts."""
    ids = (str(row.structure_id), "", str(row.prediction_id))
    return [
        StartSteps(
            *ids,
            planned.start_kind,
            planned.state == OutcomeState.SUCCESSFUL,
            planned.n_ionic_steps,
            planned.n_electronic_steps,
        )
        for planned in row.outcomes
    ]


def _list_failures(rows: Iterable[ScreenRow]) -> list[Failure]:
    """The latest failures, the last one first."""
    found = []
    for row in rows:
        if row.state not in (State.FAILED, State.ERROR):
            continue
        failed = [planned for planned in row.outcomes if planned.state == OutcomeState.FAILED]
        message = next((planned.message for planned in failed if planned.message), None) or row.message or ""
        moments = [planned.recorded for planned in failed if planned.recorded is not None]
        found.append(Failure(row.id, row.state.value, message, max(moments, default=None)))
    found.sort(key=lambda failure: failure.moment.timestamp() if failure.moment else 0.0, reverse=True)
    return found[:SHOWN]
