"""Tables of `dft_savings.py`: per crystal what each start costs, totals with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

PREDICTED = ("predicted", "second-opinion", "polished")
OTHERS = (*PREDICTED, "chgnet", "sevennet")
ARMS = ("initial", *OTHERS)
GENERATED = ("mattergen", "wyformer")  # how the sources of generative models begin
BASIN_ENERGY = 0.005  # eV per atom
N_DRAWS = 10_000

Record = dict[str, Any]

QUANTITIES: dict[str, Callable[[Record], float]] = {
    "SCF iterations": lambda record: record["n_scf"],
    "ionic steps": lambda record: record["n_ionic"],
    "CPU time with the preparation": lambda record: record["cpu_s"] + (record.get("prepare_s") or 0.0),
}
COMPARISONS = (
    *((arm, "initial") for arm in OTHERS),
    ("second-opinion", "chgnet"),
    ("second-opinion", "sevennet"),
    ("polished", "second-opinion"),
    ("polished", "chgnet"),
    ("polished", "sevennet"),
)


@dataclass(frozen=True)
class Ratio:
    """Sum over the crystals of one arm over that of another."""

    n: int
    above: float
    below: float
    ratio: float
    low: float | None  # of the 95 % interval; None below five pairs
    high: float | None

    @property
    def interval(self) -> str:
        """The 95 % interval in words."""
        return f"{self.low:.2f} to {self.high:.2f}" if self.low is not None else "too few"


@dataclass
class Row:
    """One crystal with the records of its arms."""

    case: Record
    arms: dict[str, Record] = field(default_factory=dict)

    @property
    def is_generated(self) -> bool:
        """Whether a generative model made it."""
        return str(self.case["source"]).startswith(GENERATED)

    def get_converged(self, arm: str) -> Record | None:
        """Record of an arm that reached its minimum; a refused prediction costs what the initial start does."""
        record = self.arms.get(arm)
        if record is not None and record.get("refused"):
            initial = self.get_converged("initial")
            return initial and initial | {"prepare_s": record.get("prepare_s")}
        return record if record is not None and record.get("converged") else None

    def describe_basin(self, arm: str) -> str:
        """Judgement of an arm that really ran; empty where there is nothing to compare."""
        record, reference = self.arms.get(arm), self.get_converged("initial")
        if record is None or reference is None or not record.get("converged"):
            return ""
        return judge_basin(record, reference)


def find_model_id(records: Sequence[Record]) -> str | None:
    """Model of the last prediction."""
    return next((record["model_id"] for record in reversed(records) if record.get("model_id")), None)


def join_records(records: Sequence[Record]) -> list[Row]:
    """Rows in the order of choice; of predictions by several models those of the last one only."""
    model_id = find_model_id(records)
    rows: dict[str, Row] = {}
    for record in sorted(records, key=lambda record: record["case"]["rank"]):
        if record["arm"] in PREDICTED and record.get("model_id") != model_id:
            continue
        rows.setdefault(record["case"]["id"], Row(record["case"])).arms[record["arm"]] = record
    return list(rows.values())


def measure_ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Ratio:
    """Ratio of sums and its 95 % interval from drawing the pairs again."""
    pairs: NDArray[np.float64] = np.column_stack([above, below]).astype(float)
    sums = pairs.sum(axis=0)
    low = high = None
    if len(pairs) >= 5:
        drawn = np.random.default_rng(seed).integers(len(pairs), size=(N_DRAWS, len(pairs)))
        resampled = pairs[drawn].sum(axis=1)
        low, high = (float(value) for value in np.quantile(resampled[:, 0] / resampled[:, 1], [0.025, 0.975]))
    return Ratio(len(pairs), float(sums[0]), float(sums[1]), float(sums[0] / sums[1]), low, high)


def compare_arms(rows: Sequence[Row], arm: str, reference: str, quantity: str) -> Ratio | None:
    """Ratio of `quantity` over the crystals whose two arms converged; None without any."""
    pairs = [(row.get_converged(arm), row.get_converged(reference)) for row in rows]
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not whole:
        return None
    measure = QUANTITIES[quantity]
    return measure_ratio([measure(a) for a, _ in whole], [measure(b) for _, b in whole])


def judge_basin(record: Record, reference: Record) -> str:
    """Yes, or what differs from the minimum that `reference` reached: the energy per atom, or the structure."""
    difference = record["energy_per_atom"] - reference["energy_per_atom"]
    if abs(difference) > BASIN_ENERGY:
        return "lower" if difference < 0 else "higher"
    first, second = (unpack_structure(each["relaxed"]) for each in (record, reference))
    return "yes" if StructureMatcher(scale=False).fit(first, second) else "other structure"


def unpack_structure(content: Record) -> Structure:
    """Structure of a record."""
    return Structure(content["lattice"], content["numbers"], content["frac"])


def write_tables(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Markdown: a head, totals, crystals, and what did not work."""
    chemistries = {row.case["chemistry"] for row in rows if row.get_converged("initial")}
    whole = [row for row in rows if all(row.get_converged(arm) for arm in ARMS)]
    parts = [
        f"{len(rows)} crystals of {len(chemistries)} chemical systems; {len(whole)} converged from all starts, "
        f"{sum(row.is_generated for row in whole)} of them made by generative models.",
        *notes,
        "",
        *_write_totals(rows),
        "",
        *_write_groups(rows),
        "",
        *_write_crystals(rows),
    ]
    failures = [line for row in rows for line in _list_failures(row)]
    if failures:
        parts += ["", "Not converged, failed or refused:", "", *failures]
    return "\n".join(parts) + "\n"


def _write_totals(rows: Sequence[Row]) -> list[str]:
    lines = ["| sum over crystals | of | | pairs | ratio | 95 % interval |", "|---|---|---|---|---|---|"]
    for quantity in QUANTITIES:
        for arm, reference in COMPARISONS:
            if ratio := compare_arms(rows, arm, reference, quantity):
                lines.append(
                    f"| {quantity} | {arm} / {reference} | {ratio.above:.0f} / {ratio.below:.0f} | {ratio.n} "
                    f"| **{ratio.ratio:.2f}** | {ratio.interval} |"
                )
    basins = {arm: [basin for row in rows if (basin := row.describe_basin(arm))] for arm in OTHERS}
    counts = "; ".join(
        f"{arm} {found.count('yes')} of {len(found)} ({found.count('lower')} lower, {found.count('higher')} higher)"
        for arm, found in basins.items()
        if found
    )
    if counts:
        lines += ["", f"Same minimum as from the initial structure (5 meV per atom, and StructureMatcher): {counts}."]
    return lines


def _write_groups(rows: Sequence[Row]) -> list[str]:
    """SCF iterations over those from the initial structure, by origin and by whether all minima are the same."""
    groups = {
        "all": list(rows),
        "pairs": [row for row in rows if not row.is_generated],
        "generated": [row for row in rows if row.is_generated],
        "the same minimum from all starts": [row for row in rows if _is_same_everywhere(row)],
        **{source: [row for row in rows if row.case["source"] == source] for source in _list_sources(rows)},
    }
    lines = [f"| SCF iterations over initial | crystals | {' | '.join(OTHERS)} |", "|---|---|" + "---|" * len(OTHERS)]
    for name, chosen in groups.items():
        ratios = [compare_arms(chosen, arm, "initial", "SCF iterations") for arm in OTHERS]
        cells = [f"{ratio.ratio:.2f}" if ratio else "-" for ratio in ratios]
        lines.append(f"| {name} | {len(chosen)} | {' | '.join(cells)} |")
    return lines


def _list_sources(rows: Sequence[Row]) -> list[str]:
    return sorted({str(row.case["source"]) for row in rows})


def _is_same_everywhere(row: Row) -> bool:
    return all(row.describe_basin(arm) in ("yes", "") for arm in OTHERS) and row.get_converged("initial") is not None


def _write_crystals(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"Figures are those from the starts {', '.join(ARMS)}; in brackets where the relaxation did not converge, R "
        "where the prediction was refused, so that DFT starts from the initial structure. ΔE is against the minimum "
        "reached from the initial structure, meV per atom; V/V(pair) compares the volume that this DFT finds (from "
        "the initial structure) with that of the pair file.",
        "",
        "| | crystal | source | sites, space group | initial is off by: strain, Å | ionic steps | SCF iterations | ΔE "
        "| V/V(pair) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(rows, 1):
        case, reference = row.case, row.get_converged("initial")
        is_known = reference is not None and case["pair_volume"]
        volume = f"{reference['volume'] / case['pair_volume']:.3f}" if reference and is_known else "-"
        distance = "-" if case["strain"] is None else f"{case['strain']:.2f}, {case['displacement']:.2f}"
        lines.append(
            f"| {number} | {case['formula']} | {case['source']} | {case['n_sites']}, {case['space_group']} "
            f"| {distance} | {_show(row, 'n_ionic')} | {_show(row, 'n_scf')} "
            f"| {' / '.join(_show_difference(row, arm) for arm in OTHERS)} | {volume} |"
        )
    return lines


def _show(row: Row, key: str) -> str:
    cells = []
    for arm in ARMS:
        record = row.arms.get(arm)
        if record is not None and record.get("refused"):
            cells.append("R")
            continue
        value = (record or {}).get(key)
        text = "-" if value is None else f"{value:.0f}"
        cells.append(text if not record or record.get("converged") else f"({text})")
    return " / ".join(cells)


def _show_difference(row: Row, arm: str) -> str:
    record, reference = row.arms.get(arm), row.get_converged("initial")
    if record is None or reference is None or not record.get("converged"):
        return "-"
    difference = 1000 * (record["energy_per_atom"] - reference["energy_per_atom"])
    return f"{difference:+.0f}" if abs(difference) >= 1 else "0"


def _list_failures(row: Row) -> list[str]:
    return [
        f"- {row.case['formula']} ({row.case['id']}), {arm}: {record['message']}"
        for arm in ARMS
        if (record := row.arms.get(arm)) and record.get("message")
    ]
