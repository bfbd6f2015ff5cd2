"""Join the relaxations of one flow: one that begins where another ended continues it, and the first start counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.ledger.joining import LATTICE_TOLERANCE, align_sites, reorder_sites
from e3relax_flows.pairs.units import TaskEntry
from e3relax_flows.schemas.outcomes import RelaxationResult, add_known

LINK_TOLERANCE = 0.01  # Å; largest change between the end of a run and the start of the next
# relative; a volume further apart cannot be that of a lattice within LATTICE_TOLERANCE, so these are not aligned
SAME_VOLUME = 3 * LATTICE_TOLERANCE
# atomate2's names of relaxations that another one continues, and of those that continue another
FIRST_OF_TWO = re.compile(r"\b1$|\bpre-?relax", re.IGNORECASE)
SECOND_OF_TWO = re.compile(r"\b2$")


@dataclass(frozen=True)
class TaskRun:
    """A relaxation and the job that it was."""

    entry: TaskEntry
    result: RelaxationResult


@dataclass(frozen=True)
class Segment:
    """Relaxations with one code, one continuing the other.

    Parameters
    ----------
    runs
        In order.
    before
        Relaxations that led to the start of the first one: by another code, or shared with another segment.
    is_last
        Whether nothing continues it.
    """

    runs: tuple[TaskRun, ...]
    before: tuple[TaskRun, ...] = ()
    is_last: bool = True

    @property
    def start(self) -> RelaxationResult:
        """The first relaxation of all."""
        return (*self.before, *self.runs)[0].result

    @property
    def head(self) -> TaskEntry:
        """Job of the first relaxation."""
        return (*self.before, *self.runs)[0].entry

    @property
    def expects_another(self) -> bool:
        """Whether the last job is, by its name, the first of two."""
        return self.is_last and bool(FIRST_OF_TWO.search(self.runs[-1].entry.name))

    @property
    def lacks_first(self) -> bool:
        """Whether the first job is, by its name, the second of two."""
        return bool(SECOND_OF_TWO.search(self.head.name))


@dataclass
class _Chain:
    """Runs that continue one another; the first `n_shared` are also in another chain."""

    runs: list[TaskRun] = field(default_factory=list)
    n_shared: int = 0


def link_runs(runs: Sequence[TaskRun]) -> list[Segment]:
    """Find which relaxation continues which, by their structures.

    Parameters
    ----------
    runs
        Of one flow, in the order in which they ended.

    Returns
    -------
    segments
        Every run is in `runs` of exactly one of them.
    """
    chains: list[_Chain] = []
    for run in runs:
        chain = next((c for c in reversed(chains) if continues(c.runs[-1].result, run.result)), None)
        if chain is not None:
            chain.runs.append(run)
            continue
        branch = next((found for c in reversed(chains) if (found := _find_branch(c, run))), None)
        chains.append(_Chain([*branch, run], len(branch)) if branch else _Chain([run]))
    return [segment for chain in chains for segment in _cut(chain)]


def continues(first: RelaxationResult, second: RelaxationResult) -> bool:
    """Whether the second relaxation began where the first one ended."""
    return is_same(first.relaxed, second.initial)


def is_same(first: Structure, second: Structure) -> bool:
    """Whether two structures are the same except for the order of their sites and the rounding of files."""
    if len(first) != len(second) or not abs(first.volume / second.volume - 1) <= SAME_VOLUME:
        return False
    try:
        align_sites(first, second, LINK_TOLERANCE)
    except EngineError:
        return False
    return True


def join_results(segment: Segment) -> RelaxationResult:
    """One result of a segment: the first start of all, the last end in its site order, steps of the segment summed."""
    results = [run.result for run in (*segment.before, *segment.runs)]
    own = [run.result for run in segment.runs]
    order = list(range(len(results[0].initial)))
    for earlier, later in pairwise(results):
        link = align_sites(earlier.relaxed, later.initial, LINK_TOLERANCE)
        order = [link[index] for index in order]
    last = own[-1]
    return last.model_copy(
        update={
            "initial": results[0].initial,
            "relaxed": reorder_sites(last.relaxed, order),
            "n_ionic_steps": add_known([result.n_ionic_steps for result in own]),
            "n_electronic_steps": add_known([result.n_electronic_steps for result in own]),
            "wall_time_s": add_known([result.wall_time_s for result in own]),
            "functionals": [name for result in own if (name := result.functional) is not None],
        }
    )


def _find_branch(chain: _Chain, run: TaskRun) -> list[TaskRun] | None:
    """Runs of a chain up to the one that this run continues as another branch."""
    for index in reversed(range(len(chain.runs) - 1)):
        if continues(chain.runs[index].result, run.result):
            return chain.runs[: index + 1]
    return None


def _cut(chain: _Chain) -> list[Segment]:
    """Segments of one code each."""
    starts = [chain.n_shared]
    for index in range(chain.n_shared + 1, len(chain.runs)):
        if chain.runs[index].result.code != chain.runs[index - 1].result.code:
            starts.append(index)
    ends = [*starts[1:], len(chain.runs)]
    return [
        Segment(tuple(chain.runs[start:end]), tuple(chain.runs[:start]), end == len(chain.runs))
        for start, end in zip(starts, ends, strict=True)
    ]
