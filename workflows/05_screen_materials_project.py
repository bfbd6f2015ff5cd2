"""Screen materials of the Materials Project with elements exchanged, and rank what comes out above its hull.

    export MP_API_KEY=...       # and: pip install 'e3relax-flows[mp,mlip]'
    python workflows/05_screen_materials_project.py Li-Fe-O --exchange Li=Na,K Fe=Mn
    python workflows/05_screen_materials_project.py Mg-Si-O --exchange Si=Ge --engine vasp-mp-gga

The structures of the Materials Project are relaxed already and have nothing to gain; with an element exchanged they are
candidates. The answers are kept on disk: the same query is asked once. Energies of a potential are compared as they
are, and are less reliable for the hull than those of DFT with the Materials Project's settings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from e3relax_flows import (
    CandidateList,
    ConfigError,
    E3RelaxError,
    E3RelaxSettings,
    MaterialsProjectSource,
    RankedRow,
    ReadItem,
    ScreenMaker,
    ScreenReport,
    SubstitutionSource,
    find_outcomes,
    get_engine,
    has_errors,
    load_settings,
    open_workspace,
    rank_screen,
    read_sources,
    run_candidates,
    show_screen,
)


def main() -> int:
    arguments = parse_arguments()
    settings = load_settings()
    items = find_candidates(arguments, settings)
    print(f"{len(items)} candidates of {' '.join(arguments.chemsys)}, engine {arguments.engine}", flush=True)
    maker = ScreenMaker(
        name=f"{' '.join(arguments.chemsys)} with {' '.join(arguments.exchange)}",
        engine=get_engine(arguments.engine),
        control=arguments.control,
        paired_controls=True,
    )
    report = run_candidates(maker, items, settings, arguments.out)
    show_screen(report)
    for row in rank(report, arguments.hull, settings):
        above = "–" if row.energy_above_hull is None else f"{row.energy_above_hull:.3f}"
        print(f"{row.rank or '-':>4}  {above:>7} eV/atom above hull  {row.formula or '':<12} {row.id}")
    return int(has_errors(report.screen))


def find_candidates(arguments: argparse.Namespace, settings: E3RelaxSettings) -> list[ReadItem]:
    """Materials that match with their elements exchanged, no two of them the same crystal.

    Raises
    ------
    ConfigError
        When no material matches, or none has an element to exchange.
    """
    parents = MaterialsProjectSource(
        type="materials-project",
        chemsys=arguments.chemsys,
        energy_above_hull=(0, arguments.above_hull),
        num_sites=(1, arguments.max_sites),
        limit=arguments.limit,
    )
    pairs = [word.partition("=") for word in arguments.exchange]
    exchanges = [{old: new.split(",")} for old, _, new in pairs]
    source = SubstitutionSource(type="substitution", parents=[parents], exchanges=exchanges)
    with CandidateList() as candidates:
        candidates.add(read_sources([source], settings))
        candidates.deduplicate()
        items = [ReadItem(each.id, each.structure, None) for each in candidates.iterate(arguments.n)]
    if not items:
        raise ConfigError(
            f"no material of {' '.join(arguments.chemsys)} within {arguments.above_hull} eV of the hull has an element "
            f"to exchange by {' '.join(arguments.exchange)}; try --above-hull 0.1, or other elements"
        )
    return items


def rank(report: ScreenReport, hull: str, settings: E3RelaxSettings) -> list[RankedRow]:
    """Candidates by their energy above the hull of the entries that are named."""
    ids = [outcome.outcome_id for row in report.screen.candidates for outcome in row.outcomes]
    with open_workspace(settings) as workspace:
        outcomes = find_outcomes(workspace.outcomes, ids)
    return rank_screen(report.screen, outcomes, hull, None, settings)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chemsys", nargs="+", help="chemical systems of the materials, such as Li-Fe-O")
    parser.add_argument("--exchange", nargs="+", required=True, help="element=its substitutes, such as Li=Na,K")
    parser.add_argument("--above-hull", type=float, default=0.05, help="of the materials, eV per atom")
    parser.add_argument("--max-sites", type=int, default=40, help="in the primitive cell")
    parser.add_argument("--limit", type=int, help="most materials asked for")
    parser.add_argument("--n", type=int, help="most candidates screened")
    parser.add_argument("--engine", default="chgnet", help="engine that relaxes; `e3relax doctor` lists them")
    parser.add_argument("--control", type=float, default=0.1, help="fraction also relaxed from the initial structure")
    parser.add_argument("--hull", default="mp", metavar="FILE|mp", help="entries of the hull, as for `e3relax table`")
    parser.add_argument("--out", type=Path, default=Path("runs/materials_project"), help="folder of page and jobs")
    arguments = parser.parse_args()
    if wrong := [word for word in arguments.exchange if "=" not in word]:
        parser.error(f"--exchange {wrong[0]}: write an element and its substitutes, such as Li=Na,K")
    return arguments


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
