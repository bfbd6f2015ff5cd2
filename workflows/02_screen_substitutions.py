"""Screen real candidates made by substitution: predict, relax with an engine, compare with controls. `make demo`.

    python workflows/02_screen_substitutions.py                      # 24 candidates, CHGNet (a potential, not DFT)
    python workflows/02_screen_substitutions.py --engine gpaw --n 3  # real DFT; a minute or more per candidate

Every candidate is a control here, too, relaxed from its initial structure as well, so that the table shows both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from e3relax_flows import (
    E3RelaxError,
    PrerelaxMaker,
    ScreenMaker,
    build_candidates,
    get_engine,
    has_errors,
    list_engines,
    load_settings,
    run_screen,
    show_screen,
)

N_WITH_DFT = 3


def main() -> int:
    arguments = parse_arguments()
    is_dft = {info.name: info.is_dft for info in list_engines()}.get(arguments.engine, True)
    n = arguments.n or (N_WITH_DFT if is_dft else None)
    candidates = build_candidates()[:n]
    print(f"{len(candidates)} candidates, engine {arguments.engine}{'' if is_dft else ' (not DFT)'}", flush=True)
    maker = ScreenMaker(
        name="Substitutions into known prototypes",
        prerelax=PrerelaxMaker(model=arguments.model),
        engine=get_engine(arguments.engine),
        control=arguments.control,
        paired_controls=True,
    )
    names = [name for name, _ in candidates]
    report = run_screen(maker, [structure for _, structure in candidates], names, load_settings(), arguments.out)
    show_screen(report)
    return int(has_errors(report.screen))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="chgnet", help="engine that relaxes; `e3relax doctor` lists them")
    parser.add_argument("--n", type=int, help=f"only the first n candidates (DFT engines: {N_WITH_DFT})")
    parser.add_argument("--control", type=float, default=1.0, help="fraction also relaxed from the initial structure")
    parser.add_argument("--model", default="default", help="model that predicts")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the page and the jobs' folders")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
