"""Savings of starts: steps from predicted, polished and initial structures of the same candidates, in pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from e3relax_flows.schemas.outcomes import (
    ArmSaving,
    OutcomeDoc,
    OutcomeState,
    PairedSaving,
    SavingsSummary,
    StartKind,
    StepStatistics,
)

N_RESAMPLES = 2000

T = TypeVar("T")


@dataclass(frozen=True)
class StartSteps:
    """Steps of one relaxation from one start, converged or not; None where they are not known."""

    structure_id: str
    engine_id: str
    prediction_id: str
    kind: StartKind
    converged: bool
    ionic: int | None = None
    electronic: int | None = None

    @classmethod
    def from_outcome(cls, doc: OutcomeDoc) -> StartSteps:
        """Those of an outcome document."""
        ids = (doc.structure_id, doc.engine_id, doc.prediction_id)
        if doc.state is not OutcomeState.SUCCESSFUL or doc.result is None:
            return cls(*ids, doc.start_kind, converged=False)
        return cls(*ids, doc.start_kind, True, doc.result.n_ionic_steps, doc.result.n_electronic_steps)


class Arm(NamedTuple):
    """Comparison of a start with another one on the same candidates."""

    start: StartKind
    over: StartKind  # initial: of controls, or where the prediction was refused of these
    refused: bool = False


ARMS = (
    Arm(StartKind.PREDICTED, StartKind.INITIAL),
    Arm(StartKind.POLISHED, StartKind.INITIAL),
    Arm(StartKind.POLISHED, StartKind.PREDICTED),
    Arm(StartKind.PREDICTED, StartKind.INITIAL, refused=True),
)
Pair = tuple[list[StartSteps], list[StartSteps]]


def summarize_savings(outcomes: Iterable[OutcomeDoc], seed: int = 0) -> SavingsSummary:
    """Steps from predicted and from initial structures, and their ratio where a structure has both.

    Pairs are outcomes of the same structure and engine id, one from the prediction (the polished one, if any),
    and one control; where there are several of a kind (of several models), their mean counts. Give the outcomes of one
    model and one engine for the savings of these. Refused predictions (`n_initial`) are in no pair.

    Parameters
    ----------
    outcomes
        Of all kinds and states.
    seed
        Of the bootstrap over pairs.

    Examples
    --------
    A crystal that took 4 steps from the prediction, and 8 from its initial structure:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import StartKind, summarize_savings
    >>> from e3relax_flows.testing import make_outcome
    >>> initial, relaxed = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> outcomes = [make_outcome(initial, relaxed)[1], make_outcome(initial, relaxed, StartKind.CONTROL, 8)[1]]
    >>> summarize_savings(outcomes).ionic.ratio
    0.5
    """
    docs = list(outcomes)
    steps = [StartSteps.from_outcome(doc) for doc in docs]
    results = [doc.result for doc in docs if doc.result is not None]
    pairs = pair_served(steps)
    whole = [pair for pair in pairs if all(pair)]
    return SavingsSummary(
        n_candidates=len({doc.structure_id for doc in docs}),
        n_predicted=sum(doc.start_kind.is_from_prediction for doc in docs),
        n_initial=sum(doc.start_kind is StartKind.INITIAL for doc in docs),
        n_control=sum(doc.start_kind is StartKind.CONTROL for doc in docs),
        n_unconverged=sum(doc.state is OutcomeState.UNCONVERGED for doc in docs),
        n_failed=sum(doc.state is OutcomeState.FAILED for doc in docs),
        n_broken_pairs=len(pairs) - len(whole),
        engines=sorted({doc.engine for doc in docs}),
        is_dft=all(result.is_dft for result in results) if results else None,
        predicted=_summarize_steps([one for one in steps if one.kind.is_from_prediction]),
        control=_summarize_steps([one for one in steps if one.kind is StartKind.CONTROL]),
        ionic=measure_saving(whole, _get_ionic, seed),
        electronic=measure_saving(whole, _get_electronic, seed),
        arms=compare_arms(steps, seed),
    )


def compare_arms(steps: Iterable[StartSteps], seed: int = 0) -> list[ArmSaving]:
    """Savings of each start over others, for candidates relaxed from both; starts without a pair are left out.

    Parameters
    ----------
    steps
        Of relaxations of all kinds.
    seed
        Of the bootstrap over pairs.
    """
    groups, refused = _group(steps)
    found = []
    for arm in ARMS:
        pairs = [_pair(group, arm, refused) for group in groups]
        pairs = [pair for pair in pairs if all(pair)]
        whole = [pair for one, other in pairs if all(pair := (_list_converged(one), _list_converged(other)))]
        if pairs:
            ionic, electronic = (measure_saving(whole, get, seed) for get in (_get_ionic, _get_electronic))
            fields = {**arm._asdict(), "ionic": ionic, "electronic": electronic}
            found.append(ArmSaving(n_broken_pairs=len(pairs) - len(whole), **fields))
    return found


def pair_served(steps: Iterable[StartSteps]) -> list[Pair]:
    """Converged relaxations from the prediction and from the control of every candidate that has both.

    Polished starts are preferred, since a screen serves these. If none converged, a side is empty.
    """
    groups, refused = _group(steps)
    found = []
    for group in groups:
        kinds = (StartKind.POLISHED, StartKind.PREDICTED)
        pairs = [_pair(group, Arm(kind, StartKind.INITIAL), refused) for kind in kinds]
        if best := next((pair for pair in pairs if all(pair)), None):
            found.append((_list_converged(best[0]), _list_converged(best[1])))
    return found


def measure_saving(
    pairs: Sequence[tuple[Sequence[T], Sequence[T]]], get_steps: Callable[[T], int | None], seed: int = 0
) -> PairedSaving | None:
    """Ratio of the sums over pairs, and its interval from pairs drawn again with replacement."""
    counted = [
        [[steps for result in side if (steps := get_steps(result)) is not None] for side in pair] for pair in pairs
    ]
    means = np.array([[np.mean(side) for side in pair] for pair in counted if all(pair)])
    if len(means) == 0 or means[:, 1].sum() == 0:
        return None
    ratio = float(means[:, 0].sum() / means[:, 1].sum())
    if len(means) == 1:
        return PairedSaving(n_pairs=1, ratio=ratio, low=None, high=None)
    random = np.random.default_rng(seed)
    sums = np.array([means[random.integers(0, len(means), len(means))].sum(axis=0) for _ in range(N_RESAMPLES)])
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1e-12), [0.025, 0.975])
    return PairedSaving(n_pairs=len(means), ratio=ratio, low=float(low), high=float(high))


def _group(steps: Iterable[StartSteps]) -> tuple[list[list[StartSteps]], set[str]]:
    """Relaxations of the same structure and engine; ids of refused predictions, which started at initial structures."""
    groups: dict[tuple[str, str], list[StartSteps]] = defaultdict(list)
    for one in steps:
        groups[one.structure_id, one.engine_id].append(one)
    refused = {one.prediction_id for group in groups.values() for one in group if one.kind is StartKind.INITIAL}
    return list(groups.values()), refused


def _pair(group: list[StartSteps], arm: Arm, refused: set[str]) -> Pair:
    """Relaxations of a group from the two starts of an arm."""
    initial = StartKind.INITIAL if arm.refused else StartKind.CONTROL
    over = initial if arm.over is StartKind.INITIAL else arm.over

    def choose(kind: StartKind) -> list[StartSteps]:
        return [one for one in group if one.kind is kind and (one.prediction_id in refused) == arm.refused]

    return choose(arm.start), choose(over)


def _list_converged(steps: Iterable[StartSteps]) -> list[StartSteps]:
    return [one for one in steps if one.converged]


def _get_ionic(steps: StartSteps) -> int | None:
    return steps.ionic


def _get_electronic(steps: StartSteps) -> int | None:
    return steps.electronic


def _summarize_steps(steps: Iterable[StartSteps]) -> StepStatistics | None:
    converged = _list_converged(steps)
    ionic = [one.ionic for one in converged if one.ionic is not None]
    electronic = [one.electronic for one in converged if one.electronic is not None]
    if not ionic:
        return None
    return StepStatistics(
        n=len(ionic),
        mean_ionic_steps=float(np.mean(ionic)),
        median_ionic_steps=float(np.median(ionic)),
        mean_electronic_steps=float(np.mean(electronic)) if electronic else None,
        median_electronic_steps=float(np.median(electronic)) if electronic else None,
    )
