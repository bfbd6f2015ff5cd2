"""Draw what served starts save a DFT code, crystal by crystal, from the results of `dft_savings.py`; light and dark.

python benchmarks/plot_savings.py [benchmarks/results/dft_savings.jsonl] [--arm polished] [--out docs/assets]

Writes savings-light.svg and savings-dark.svg.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from dft_savings import read_records
from dft_savings_table import OTHERS, Ratio, Row, compare_arms, join_records

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "dft_savings.jsonl"
ARM = "polished"
INK = {"light": "#1f2328", "dark": "#e6edf3"}
GREY = {"light": "#8c959f", "dark": "#7d8590"}
BLUE = {"light": "#0969da", "dark": "#4493f8"}
LABELS = {
    "predicted": "the prediction that the guard alone serves",
    "second-opinion": "the prediction that the guard and a second opinion serve",
    "polished": "what guard, second opinion and polish serve",
    "chgnet": "CHGNet's relaxed structure",
    "sevennet": "SevenNet's relaxed structure",
}


@dataclass(frozen=True)
class Crystal:
    """SCF iterations of the relaxations of one crystal."""

    formula: str
    initial: int
    served: int  # of a refused prediction those from the initial structure, where DFT then starts
    is_refused: bool
    reaches_same: bool  # the two relaxations end in the same minimum


@dataclass(frozen=True)
class Savings:
    """All crystals, and the ratio of the sums of their SCF iterations, of an arm over initial."""

    arm: str
    crystals: list[Crystal]
    ratio: Ratio


def read_savings(path: Path, arm: str) -> Savings:
    """Read the crystals of which both starts converged; of several models, those of the last one.

    Raises
    ------
    ValueError
        When there is none.
    """
    records = list(read_records(path).values())
    rows = join_records(records)
    ratio = compare_arms(rows, arm, "initial", "SCF iterations")
    crystals = [crystal for row in rows if (crystal := _build_crystal(row, arm))]
    if ratio is None or not crystals:
        raise ValueError(f"{path}: no crystal whose relaxations from initial and {arm} both converged")
    return Savings(arm, crystals, ratio)


def _build_crystal(row: Row, arm: str) -> Crystal | None:
    initial, served = row.get_converged("initial"), row.get_converged(arm)
    if initial is None or served is None:
        return None
    is_refused = bool(row.arms[arm].get("refused"))
    same = is_refused or row.describe_basin(arm) == "yes"
    return Crystal(row.case["formula"], initial["n_scf"], served["n_scf"], is_refused, same)


def describe_total(savings: Savings) -> str:
    """Title of the figure."""
    ratio = savings.ratio
    text = f"All {ratio.n} crystals: {100 * (1 - ratio.ratio):.0f} % fewer SCF iterations"
    if ratio.low is None or ratio.high is None:
        return text
    return f"{text} (95 % interval {100 * (1 - ratio.high):.0f} to {100 * (1 - ratio.low):.0f} %)"


def draw_savings(savings: Savings, theme: str, path: Path) -> None:
    """Write the figure as SVG; the same table gives the same file."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    ink, grey, blue = INK[theme], GREY[theme], BLUE[theme]
    style = {
        "svg.hashsalt": theme,
        "svg.fonttype": "none",  # text stays text
        "font.family": "sans-serif",
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink),
    }
    rows = sorted(savings.crystals, key=lambda each: (each.initial, each.formula))
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(7.2, 1.2 + 0.16 * len(rows)), layout="constrained")
        for y, row in enumerate(rows):
            axes.plot([row.served, row.initial], [y, y], color=grey, linewidth=1.4, zorder=1)
        axes.scatter(
            [row.initial for row in rows],
            range(len(rows)),
            s=26,
            color=grey,
            label="control: from the initial structure",
        )
        for name, marker, chosen in (
            (f"from {LABELS[savings.arm]}", "o", lambda row: row.reaches_same and not row.is_refused),
            ("the same, into another minimum", "v", lambda row: not row.reaches_same),
            ("refused: from the initial structure", "x", lambda row: row.is_refused),
        ):
            places = [y for y, row in enumerate(rows) if chosen(row)]
            steps = [rows[y].served for y in places]
            axes.scatter(steps, places, s=26, color=blue, marker=marker, label=name, zorder=2)
        axes.set_yticks(range(len(rows)), [row.formula for row in rows], fontsize=7)
        axes.set_xlim(left=0)
        axes.set_ylim(-0.8, len(rows) - 0.2)
        axes.set_xlabel("SCF iterations of the relaxation (GPAW, PBE)")
        axes.set_title(
            describe_total(savings),
            fontsize=10,
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right", fontsize=8)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--arm", choices=OTHERS, default=ARM)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "assets")
    arguments = parser.parse_args()
    savings = read_savings(arguments.results, arguments.arm)
    for theme in INK:
        draw_savings(savings, theme, arguments.out / f"savings-{theme}.svg")
        print(arguments.out / f"savings-{theme}.svg")


if __name__ == "__main__":
    main()
