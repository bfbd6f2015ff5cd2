"""Markdown of `accuracy.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accuracy_metrics import SYMPRECS, Goal, Record, Timings

from e3relax_flows import PredictOptions

LABELS = {
    "identity": "identity",
    "volume": "identity, volume of pymatgen's DLS predictor",
    "released": "released architecture",
    "released-rotated": "released architecture, input rotated",
    "released-wrapped": "released architecture, our passes and symmetry",
    "ours-1": "ours, 1 pass",
    "ours": "ours, {passes} passes",
    "ours-guarded": "ours, {passes} passes, refused ones not used",
    "ours-chgnet": "ours, then 20 CHGNet steps",
    "chgnet": "CHGNet to 0.05 eV/Å",
}
NOTES = """\
Means over structures. Displacement: mean over atoms, drift removed, in the relaxed cell. Strain: Frobenius norm of
the logarithmic strain between output and relaxed cell. RMSD and match: matbench-discovery's, pymatgen's
StructureMatcher with stol 1.0 and no scaling, root mean square distance over (V/n)^(1/3), 1.0 where nothing matches.
Group same: the output has the number of the initial structure's space group, both found with the same symprec; kept:
the same, or more operations than before. Worse: displacement + 2.5 Å x strain is larger than the initial structure's.
Not ok: refused or failed predictions (still counted, unless the row says not used), relaxations that did not converge
within {steps} steps (ours: 20) or {limit:g} CPU seconds or ran away (their last structure counts), volumes that could
not be predicted (the initial one counts). Volumes are limited to 0.5 to 1.5 times the initial one, the predictor's
default. The released architecture is applied once and without a projection on the space group, unless the row says
so. Seconds: wall time from Structure to Structure with {threads} thread(s), in brackets CPU time, which other work on
the machine leaves alone; the same {timed} structures of each source for every row in this run; alone: one call each;
list: one call. Goals take CPU time.\
"""


def format_methods(table: Mapping[str, Mapping[str, Record]], timings: Timings) -> str:
    """Markdown, a table for each source."""
    passes = PredictOptions().passes
    head = ["", "displacement, Å", "strain", "volume error, %", "RMSD", "match, %"]
    head += [f"group kept (same) {symprec:g}, %" for symprec in SYMPRECS] + ["worse, %", "not ok, %"]
    head += ["s alone (CPU)", "s list (CPU)"] if timings else []
    parts = []
    for source in next(iter(table.values()), {}):
        lines = []
        for row, by_source in table.items():
            each = by_source[source]
            line = [LABELS[row].format(passes=passes), f"{each['displacement']:.4f}", f"{each['strain']:.4f}"]
            line += [f"{100 * each['volume']:.2f}", f"{each['rmsd']:.4f}", f"{100 * each['matched']:.1f}"]
            for symprec in map(str, SYMPRECS):
                line.append(f"{100 * each[f'kept {symprec}']:.1f} ({100 * each[f'same {symprec}']:.1f})")
            line += [f"{100 * each['worse']:.1f}", f"{100 * each['not_ok']:.1f}"]
            for how in ("alone", "list") if row in timings else ():
                line.append("{:.4f} ({:.4f})".format(*timings[row][how][source]))
            lines.append(line)
        n = next(iter(table.values()))[source]["n"]
        parts.append(f"### {source}, {n} pairs\n\n{format_table(head, lines)}")
    return "\n\n".join(parts)


def format_starts(table: Mapping[str, Mapping[str, Record]]) -> str:
    """Markdown, errors as start -> prediction -> served."""
    head = ["start", "source", "n", "displacement, Å", "strain", "volume error, %", "refused, %", "worse, %"]
    lines = []
    for kind, by_source in table.items():
        for source, row in by_source.items():
            line = [kind, source, str(row["n"])]
            for metric, factor, digits in (("displacement", 1, 4), ("strain", 1, 4), ("volume", 100, 2)):
                line.append(
                    " -> ".join(f"{factor * row[side][metric]:.{digits}f}" for side in ("start", "raw", "served"))
                )
            line.append(f"{100 * row['refused']:.1f}")
            line.append(f"{100 * row['raw_worse']:.1f} -> {100 * row['served_worse']:.1f}")
            lines.append(line)
    note = (
        "Errors of the start -> of the prediction -> of what is served: the start where a guard refused. Worse: share "
        "of structures whose displacement + 2.5 Å x strain grew, by the prediction -> by what is served. Relaxed by "
        "CHGNet: those that converged."
    )
    return f"{format_table(head, lines)}\n\n{note}"


def format_goals(goals: Sequence[Goal]) -> str:
    """Markdown, one goal a line."""
    lines = [
        [goal.what, goal.source, f"{goal.value:.3f}", f"{goal.limit:g}", "met" if goal.is_met else "NOT met"]
        for goal in goals
    ]
    met = sum(goal.is_met for goal in goals)
    return f"## Goals: {met} of {len(goals)} met\n\n{format_table(['figure', 'source', 'value', 'at most', ''], lines)}"


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
