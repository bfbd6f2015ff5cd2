"""Errors of outputs against relaxed structures, their means by source, and the goals they are held to."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from accuracy_cases import Case, JsonlCache
from accuracy_methods import Output, Seconds
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from e3relax_flows import hash_content, measure_errors

METRICS = ("displacement", "strain", "volume")
SYMPRECS = (1e-2, 1e-5)  # Å
MATCH_LIMIT_S = 20.0  # CPU seconds of one comparison
WORSE_BY = 1e-9  # Å; what counts as worse must be more than rounding

# matbench-discovery's: not scaled to equal volumes, sites up to one normalised length apart
MATCHER = StructureMatcher(stol=1.0, scale=False)
UNMATCHED = 1.0  # the RMSD that counts where there is no match, the largest that `stol` allows

Record = dict[str, Any]
Timings = dict[str, dict[str, dict[str, Seconds]]]


@contextmanager
def limit_cpu(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the body after that many CPU seconds of this process; in the main thread only."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def measure_rmsd(made: Structure, target: Structure) -> float | None:
    """Root mean square distance of matched sites over (V/n)^(1/3); None: no match, or none found within the limit."""
    try:
        with limit_cpu(MATCH_LIMIT_S):
            found = MATCHER.get_rms_dist(made, target)
    except TimeoutError:
        return None
    return None if found is None else float(found[0])


def find_group(structure: Structure, symprec: float) -> tuple[int, int] | None:
    """Number of the space group and of the operations of the cell; None where none is found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = SpacegroupAnalyzer(structure, symprec)
            return int(found.get_space_group_number()), len(found.get_symmetry_operations())
        except Exception:  # the boundary of one structure: spglib gives up
            return None


def measure_output(case: Case, output: Output, cache: JsonlCache) -> Record:
    """All that is known of one output; RMSD and space groups are kept in the cache.

    `same` is whether the number of the initial structure's space group is found again, `kept` whether it is or there
    are more operations than before: what moves towards a higher symmetry has not lost the one it had.
    """
    errors = measure_errors(output.build(case), case.target)
    before = measure_errors(case.start, case.target)
    slow = _measure_slow(case, output, cache)
    initial = _measure_slow(case, Output.of(case.start), cache)
    kept: dict[str, bool | None] = {}
    same: dict[str, bool | None] = {}
    for symprec in map(str, SYMPRECS):
        old, new = initial["groups"][symprec], slow["groups"][symprec]
        same[symprec] = None if old is None else new is not None and new[0] == old[0]
        kept[symprec] = None if old is None else bool(same[symprec]) or (new is not None and new[1] > old[1])
    return {
        **errors.model_dump(),
        "combined": errors.combined,
        "worse": errors.combined > before.combined + WORSE_BY,
        "rmsd": slow["rmsd"],
        "kept": kept,
        "same": same,
        "groups": slow["groups"],
        "status": output.status,
    }


def _measure_slow(case: Case, output: Output, cache: JsonlCache) -> Record:
    lattice, fractions = output.lattice.round(9).tolist(), output.fractions.round(9).tolist()
    key = hash_content({"id": case.id, "lattice": lattice, "fractions": fractions})
    found = cache.get(key)
    if found is None:
        made = output.build(case)
        groups = {str(symprec): find_group(made, symprec) for symprec in SYMPRECS}
        found = cache.put(key, {"id": case.id, "rmsd": measure_rmsd(made, case.target), "groups": groups})
    return found


def summarize(records: Sequence[Record]) -> Record:
    """Means over structures; shares between 0 and 1."""
    rmsds = [record["rmsd"] for record in records]
    summary: Record = {"n": len(records)}
    summary |= {name: float(np.mean([record[name] for record in records])) for name in (*METRICS, "combined", "worse")}
    summary["rmsd"] = float(np.mean([UNMATCHED if rmsd is None else rmsd for rmsd in rmsds]))
    summary["matched"] = float(np.mean([rmsd is not None for rmsd in rmsds]))
    summary["not_ok"] = float(np.mean([record["status"] != "ok" for record in records]))
    for name in ("kept", "same"):
        for symprec in map(str, SYMPRECS):
            known = [record[name][symprec] for record in records if record[name][symprec] is not None]
            summary[f"{name} {symprec}"] = float(np.mean(known)) if known else float("nan")
    return summary


def summarize_sources(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Record]:
    """Summary of each source and of all."""
    groups: dict[str, list[Record]] = {}
    for case, record in zip(cases, records, strict=True):
        groups.setdefault(case.source, []).append(record)
    return {name: summarize(groups[name]) for name in sorted(groups)} | {"all": summarize(records)}


class Goal(NamedTuple):
    """One figure against its limit."""

    what: str
    source: str
    value: float
    limit: float

    @property
    def is_met(self) -> bool:
        """Whether the figure is within the limit; one that is not a number is not."""
        return bool(self.value <= self.limit)


def divide(value: float, other: float) -> float:
    """Quotient; not a number where `other` is 0, as where symmetry fixes every site of a small sample."""
    return value / other if other else float("nan")


BROAD = ("mp_to_mp", "mp_to_wbm")


def judge_table(table: Mapping[str, Mapping[str, Record]], timings: Timings) -> list[Goal]:
    """Goals on the table of methods, table[row][source], as far as its rows are there.

    Parameters
    ----------
    timings
        timings[row]["list" or "alone"][source], per structure.
    """
    goals: list[Goal] = []
    if "ours" not in table:
        return goals
    sources = [source for source in table["ours"] if source != "all"]
    for source in sources:
        ours = table["ours"][source]

        def add(row: str, metric: str, limit: float, source: str = source, ours: Record = ours) -> None:
            if row in table:
                ratio = divide(ours[metric], table[row][source][metric])
                goals.append(Goal(f"{metric}, ours / {row}", source, ratio, limit))

        for row in ("released", "released-wrapped"):
            add(row, "displacement", 0.7)
            add(row, "strain", 0.7)
        add("identity", "volume", 0.5)
        for metric in METRICS if source in BROAD else ():
            add("chgnet", metric, 1.3)
        for how in ("list", "alone"):
            if source in BROAD and "ours" in timings and "chgnet" in timings:
                ratio = divide(timings["ours"][how][source].cpu, timings["chgnet"]["alone"][source].cpu)
                goals.append(Goal(f"CPU seconds ({how}), ours / chgnet", source, ratio, 0.01))
        for symprec in map(str, SYMPRECS):
            goals.append(Goal(f"space group not kept, symprec {symprec}", source, 1 - ours[f"kept {symprec}"], 0.0))
        if "ours-guarded" in table:
            goals.append(Goal("harmed after the guard", source, table["ours-guarded"][source]["worse"], 0.03))
    return goals


def judge_starts(starts: Mapping[str, Mapping[str, Record]]) -> list[Goal]:
    """Goals on other starts, starts[kind][source]: what is served is no worse than the start, in the mean.

    Starts without an error have no ratio; the combined error of what is served is held to 0.01 Å there.
    """
    goals = []
    for kind, by_source in starts.items():
        for source, summary in by_source.items():
            if source != "all" and kind != "relaxed by CHGNet":
                continue
            before, after = (summary[side]["combined"] for side in ("start", "served"))
            if before > 1e-6:
                goals.append(Goal(f"{kind}: combined error, served / start", source, after / before, 1.0))
            else:
                goals.append(Goal(f"{kind}: combined error served, Å", source, after, 0.01))
    return goals
