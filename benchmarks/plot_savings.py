"""Draw what predictions save a DFT code, crystal by crystal, from a table of `dft_savings.py`; light and dark.

python benchmarks/plot_savings.py [benchmarks/results/dft_savings.md] [--out docs/assets]

Writes savings-light.svg and savings-dark.svg. After a new measurement copy its `table.md` to benchmarks/results.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "dft_savings.md"
INK = {"light": "#1f2328", "dark": "#e6edf3"}
GREY = {"light": "#8c959f", "dark": "#7d8590"}
BLUE = {"light": "#0969da", "dark": "#4493f8"}
TOTAL = re.compile(
    r"^\| SCF iterations \| predicted / initial \|.*\| \*\*([\d.]+)\*\* \| ([\d.]+) to ([\d.]+) \|$", re.M
)


@dataclass(frozen=True)
class Crystal:
    """SCF iterations of the relaxations of one crystal."""

    formula: str
    initial: int
    predicted: int  # of a refused prediction those from the initial structure, where DFT then starts
    is_refused: bool
    reaches_same: bool  # the two relaxations end in the same minimum


@dataclass(frozen=True)
class Savings:
    """All crystals, and the ratio of the sums of their SCF iterations, predicted over initial."""

    crystals: list[Crystal]
    low: float  # of the 95 % interval
    high: float

    @property
    def ratio(self) -> float:
        """Sum over all crystals from the served starts, over that from the initial structures."""
        return sum(each.predicted for each in self.crystals) / sum(each.initial for each in self.crystals)


def read_savings(text: str) -> Savings:
    """Read the crystals and the interval from a table of `dft_savings.py`.

    Raises
    ------
    ValueError
        When the table has no crystals, a start did not converge, or its total is not that of its crystals.
    """
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    head = next((line for line in lines if "SCF iterations" in line and "crystal" in line), None)
    total = TOTAL.search(text)
    if head is None or total is None:
        raise ValueError("no table of crystals or no total of SCF iterations; give the table.md of dft_savings.py")
    crystals = []
    for line in lines:
        if len(line) == len(head) and line[0].isdigit():
            row = dict(zip(head, line, strict=True))
            initial, predicted, _ = row["SCF iterations"].split(" / ")
            if not initial.isdigit() or not (predicted.isdigit() or predicted == "R"):
                raise ValueError(f"{row['crystal']}: SCF iterations {row['SCF iterations']}; both starts must converge")
            is_refused = predicted == "R"
            steps = int(initial if is_refused else predicted)
            same = row["same minimum"].split(", ")[0] == "yes"
            crystals.append(Crystal(row["crystal"], int(initial), steps, is_refused, same))
    savings = Savings(crystals, float(total[2]), float(total[3]))
    if not crystals or abs(savings.ratio - float(total[1])) > 0.006:
        raise ValueError(f"the total is {total[1]}, and {len(crystals)} crystals do not add up to it")
    return savings


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
        figure, axes = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
        for y, row in enumerate(rows):
            axes.plot([row.predicted, row.initial], [y, y], color=grey, linewidth=1.4, zorder=1)
        axes.scatter(
            [row.initial for row in rows],
            range(len(rows)),
            s=26,
            color=grey,
            label="control: from the initial structure",
        )
        for name, marker, chosen in (
            ("from the prediction", "o", lambda row: row.reaches_same),
            ("from the prediction, lower minimum", "v", lambda row: not row.reaches_same and not row.is_refused),
            ("refused: from the initial structure", "x", lambda row: row.is_refused),
        ):
            places = [y for y, row in enumerate(rows) if chosen(row)]
            steps = [rows[y].predicted for y in places]
            axes.scatter(steps, places, s=26, color=blue, marker=marker, label=name, zorder=2)
        axes.set_yticks(range(len(rows)), [row.formula for row in rows], fontsize=8)
        axes.set_xlim(left=0)
        axes.set_ylim(-0.8, len(rows) - 0.2)
        axes.set_xlabel("SCF iterations of the relaxation (GPAW, PBE)")
        axes.set_title(
            f"All {len(rows)} crystals: {100 * (1 - savings.ratio):.0f} % fewer SCF iterations "
            f"(95 % interval {100 * (1 - savings.high):.0f} to {100 * (1 - savings.low):.0f} %)",
            fontsize=10,
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right", fontsize=8)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "assets")
    arguments = parser.parse_args()
    savings = read_savings(arguments.table.read_text(encoding="utf-8"))
    for theme in INK:
        draw_savings(savings, theme, arguments.out / f"savings-{theme}.svg")
        print(arguments.out / f"savings-{theme}.svg")


if __name__ == "__main__":
    main()
