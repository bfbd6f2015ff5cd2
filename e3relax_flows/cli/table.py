"""`e3relax table`: the candidates of a screen ranked by energy above hull."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e3relax_flows.cli.options import JsonOption
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.report.ranked import RankedRow
    from e3relax_flows.schemas.outcomes import OutcomeDoc

MAX_ROWS = 50


def show_table(
    screen: Annotated[str, typer.Argument(help="Id or name of a screen, its screen.json, or the folder of that.")],
    entries: Annotated[
        str | None,
        typer.Option(help="Energies to compare with: a JSON file of pymatgen's entries, or mp.", metavar="FILE|mp"),
    ] = None,
    correction: Annotated[
        str | None,
        typer.Option(
            help="mp2020: the Materials Project's, for energies computed as it does; none: compare as they are. "
            "Default: mp2020 with DFT.",
            metavar="mp2020|none",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write: .csv, .json or .parquet.", dir_okay=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show or write the candidates of a screen, the lowest above the hull first.

    Energies that were not computed as the Materials Project does are shown uncorrected, and are not on its hull.
    """
    from e3relax_flows.ledger.store import find_outcomes
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.report.ranked import check_ending, rank_screen, write_ranked
    from e3relax_flows.screening.store import read_screen

    if out is not None:
        check_ending(out)
    with open_workspace() as workspace, console.hide_warnings():
        document = read_screen(screen, workspace)
        ids = [outcome.outcome_id for row in document.candidates for outcome in row.outcomes]
        outcomes = find_outcomes(workspace.outcomes, ids)
        rows = rank_screen(document, outcomes, entries, correction, workspace.settings)
    if out is not None:
        write_ranked(rows, out)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        _print(rows, entries is not None, out)
        _print_savings(outcomes)


def _print_savings(outcomes: Mapping[str, OutcomeDoc]) -> None:
    """Savings of every start, if candidates were relaxed from more than one."""
    from e3relax_flows.ledger.savings import summarize_savings
    from e3relax_flows.report.tables import describe_arms, describe_savings

    savings = summarize_savings(outcomes.values())
    for text in (describe_savings(savings), *describe_arms(savings)) if savings.arms else ():
        console.out.print(text, highlight=False, soft_wrap=True, markup=False)


def _print(rows: list[RankedRow], has_hull: bool, out: Path | None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for name in ("rank", "candidate", "formula", "above hull", "of all", "energy", "state", "note"):
        table.add_column(name, justify="right" if name in ("rank", "above hull", "of all", "energy") else "left")
    for row in rows[:MAX_ROWS]:
        note = row.message or (f"same as {row.duplicate_of}" if row.duplicate_of else row.decomposition)
        numbers = (row.energy_above_hull, row.energy_above_hull_of_all, row.energy)
        table.add_row(
            str(row.rank or "-"),
            console.plain(row.id),
            row.formula or "",
            *(console.format_number(number, 3) for number in numbers),
            console.color_word(row.state),
            console.plain(note),
        )
    console.out.print(table)
    if len(rows) > MAX_ROWS:
        console.out.print(f"... and {len(rows) - MAX_ROWS} more", highlight=False)
    console.out.print("Energies in eV per atom.", style="dim")
    if not has_hull:
        console.out.print("No hull: give --entries FILE, or --entries mp for the Materials Project's.", highlight=False)
    if out is not None:
        console.out.print(f"Table: {out}", highlight=False, soft_wrap=True, markup=False)
