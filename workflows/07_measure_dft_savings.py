"""Measure what predictions save a real DFT code: every candidate relaxed from both structures, costs side by side.

    python workflows/07_measure_dft_savings.py                  # 3 small candidates, GPAW; some minutes
    python workflows/07_measure_dft_savings.py CIFS/ --n 10     # your own, the smallest first
    python workflows/07_measure_dft_savings.py --engine vasp-mp-gga

GPAW needs its extra (docs/howto/install.md describes how it is compiled). If it is interrupted, the same command
continues. On pairs with a known relaxed side, benchmarks/dft_savings.py compares with CHGNet, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pymatgen.core import Structure

from e3relax_flows import (
    ConfigError,
    E3RelaxError,
    E3RelaxSettings,
    OutcomeDoc,
    ScreenDoc,
    ScreenMaker,
    StartKind,
    build_candidates,
    describe_savings,
    find_outcomes,
    get_engine,
    has_errors,
    load_settings,
    open_workspace,
    read_structures,
    run_screen,
    summarize_savings,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", help="structure files and folders; none: the candidates of the demo")
    parser.add_argument("--n", type=int, default=3, help="how many, the smallest first")
    parser.add_argument("--engine", default="gpaw", help="engine that relaxes; `e3relax doctor` lists them")
    parser.add_argument("--out", type=Path, default=Path("runs/dft_savings"), help="folder of page and jobs")
    arguments = parser.parse_args()

    settings = load_settings()
    names, structures = choose(arguments.inputs, arguments.n)
    engine = get_engine(arguments.engine)
    maker = ScreenMaker(name="DFT savings", engine=engine, control=1.0, paired_controls=True)
    screen = run_screen(maker, structures, names, settings, arguments.out).screen
    outcomes = load_outcomes(screen, settings)
    print(f"{engine.label}{'' if engine.is_dft else ', which is a potential and not DFT'}; predicted | initial")
    for row in screen.candidates:
        starts = {each.start_kind: outcomes[each.outcome_id] for each in row.outcomes if each.outcome_id in outcomes}
        print(f"  {row.id}: {describe_costs(starts) if starts else row.state}")
    print(describe_savings(summarize_savings(outcomes.values())))
    return int(has_errors(screen))


def choose(inputs: Sequence[str], n: int) -> tuple[list[str], list[Structure]]:
    """Names and structures of the smallest candidates; those of one size in their order.

    Raises
    ------
    ConfigError
        When nothing could be read.
    """
    read = [(item.id, item.structure, item.error) for item in read_structures(inputs)] if inputs else []
    for _, _, error in read:
        if error:
            print(f"error: {error}", file=sys.stderr)
    found = [(name, each) for name, each, _ in read if each is not None] if inputs else build_candidates()
    if not found:
        raise ConfigError(f"{', '.join(inputs)}: no structure; give files that pymatgen reads, or folders of them")
    names, structures = zip(*sorted(found, key=lambda item: len(item[1]))[:n], strict=True)
    return list(names), list(structures)


def load_outcomes(screen: ScreenDoc, settings: E3RelaxSettings) -> dict[str, OutcomeDoc]:
    """Outcome of every start, by id."""
    with open_workspace(settings) as workspace:
        return find_outcomes(
            workspace.outcomes, [outcome.outcome_id for row in screen.candidates for outcome in row.outcomes]
        )


def describe_costs(starts: dict[StartKind, OutcomeDoc]) -> str:
    """Ionic steps, SCF iterations and seconds from the predicted and from the initial structure."""
    words = []
    for name, what in (("n_ionic_steps", "ionic steps"), ("n_electronic_steps", "SCF"), ("wall_time_s", "s")):
        kinds = (StartKind.PREDICTED, StartKind.CONTROL if StartKind.CONTROL in starts else StartKind.INITIAL)
        results = [starts[kind].result if kind in starts else None for kind in kinds]
        values = [getattr(result, name) if result is not None else None for result in results]
        if any(value is not None for value in values):
            words.append(f"{' | '.join('-' if value is None else f'{value:.0f}' for value in values)} {what}")
    return ", ".join(words) + (" (refused, so from the initial structure)" if StartKind.INITIAL in starts else "")


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
