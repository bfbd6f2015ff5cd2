"""`e3relax screen status | watch | resume | cancel | recover`: screens in the store, wherever their jobs run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from e3relax_flows.cli.groups import LimitGroup, spread
from e3relax_flows.cli.options import DryRunOption, JsonOption, OutOption
from e3relax_flows.cli.screen import screen as run_screen
from e3relax_flows.cli.screen_watch import watch
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.report import console
from e3relax_flows.report.console import out

if TYPE_CHECKING:
    from e3relax_flows.schemas.screens import ScreenDoc
    from e3relax_flows.screening.store import ScreenStores

RUN = "run"


class RunUnlessNamed(TyperGroup):
    """A group of commands in which `run` is the default."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `run` before arguments that are neither a command nor --help."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [RUN, *args]
        return super().parse_args(ctx, args)


screen_app = typer.Typer(
    cls=RunUnlessNamed,
    help="Screen candidates: `e3relax screen INPUTS...` is short for `screen run`. Follow, resume, cancel screens.",
    no_args_is_help=True,
)
screen_app.command(RUN)(run_screen)

ScreenArgument = Annotated[str, typer.Argument(help="Id of a screen, the first digits of it, or its name.")]


@screen_app.command("status")
def show_status(
    name: Annotated[str | None, typer.Argument(help="Id or name of a screen; none: list all.", metavar="[ID]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the state of screens: candidates by state, spent budget, and what to type next."""
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.report.terminal import dump_screen
    from e3relax_flows.schemas.screens import ScreenPhase
    from e3relax_flows.screening.control import refresh_screen
    from e3relax_flows.screening.store import count_rows, find_screen, list_screens, open_screen_stores
    from e3relax_flows.screening.watching import describe_workers

    with open_workspace() as workspace:
        stores = workspace.get(open_screen_stores)
        screens = list_screens(stores) if name is None else [find_screen(stores, name)]
        if name is not None:
            screens = [refresh_screen(str(screens[0].screen_id), workspace)]
        rows = [(screen, count_rows(stores, str(screen.screen_id))) for screen in screens]
        is_open = name is not None and screens[0].phase != ScreenPhase.FINISHED
        workers = describe_workers(screens[0], workspace) if is_open else []
    if as_json:
        found = [dump_screen(screen, counts) for screen, counts in rows]
        console.print_json(found if name is None else {**found[0], "workers": workers})
    elif name is None:
        _list(rows)
    else:
        _show(*rows[0])
        for line in workers:
            console.out.print(line, highlight=False, soft_wrap=True, markup=False)


@screen_app.command("resume")
@spread
def resume(
    name: ScreenArgument,
    *,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed relaxations again.")] = False,
    error: Annotated[
        str | None, typer.Option(help="With --retry-failed: only errors that contain this.", metavar="TEXT")
    ] = None,
    limits: LimitGroup,
    out: OutOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Continue a screen: interrupted, lost, cancelled or left candidates are requeued; results are kept.

    After kills on a launchpad type `e3relax screen recover` first.
    """
    from e3relax_flows.cli.submission import show_progress
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.places.kinds import find_kind
    from e3relax_flows.report.terminal import show_screen
    from e3relax_flows.screening.control import plan_resume, start_screen
    from e3relax_flows.screening.run import finish_here, has_errors, prepare_again
    from e3relax_flows.screening.store import find_screen, open_screen_stores

    if error is not None and not retry_failed:
        raise ConfigError("--error chooses among the candidates that failed; add --retry-failed")
    with open_workspace() as workspace:
        stores = workspace.get(open_screen_stores)
        found = find_screen(stores, name)
        screen_id = str(found.screen_id)
        if dry_run:
            _print_plan(plan_resume(screen_id, workspace, retry_failed, error), found, stores, as_json)
            return
        prepare_again(screen_id, workspace, found.limits.model_copy(update=limits.list_given()), retry_failed, error)
        if find_kind(found.place).resumes_here:
            report = finish_here(screen_id, workspace, out or Path("runs") / screen_id)
            show_screen(report, as_json)
            raise typer.Exit(int(has_errors(report.screen)))
        with console.hide_warnings():
            progress = start_screen(screen_id, workspace)
        show_progress(progress, stores, as_json)


@screen_app.command("cancel")
def cancel(name: ScreenArgument, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Cancel a screen: nothing new begins, running jobs finish. `resume` requeues it."""
    from e3relax_flows.cli.submission import show_progress
    from e3relax_flows.ledger.workspace import open_workspace
    from e3relax_flows.screening.control import cancel_screen, plan_cancel
    from e3relax_flows.screening.store import find_screen, open_screen_stores

    with open_workspace() as workspace:
        stores = workspace.get(open_screen_stores)
        found = find_screen(stores, name)
        screen_id = str(found.screen_id)
        if dry_run:
            _print_plan(plan_cancel(screen_id, workspace), found, stores, as_json)
        else:
            show_progress(cancel_screen(screen_id, workspace), stores, as_json)


screen_app.command("watch")(watch)


def _print_plan(lines: list[str], screen: ScreenDoc, stores: ScreenStores, as_json: bool) -> None:
    """Print what would be done."""
    from e3relax_flows.report.terminal import dump_screen
    from e3relax_flows.screening.store import count_rows

    if as_json:
        counts = count_rows(stores, str(screen.screen_id))
        console.print_json({"dry_run": True, "would": lines, **dump_screen(screen, counts)})
        return
    for line in (*lines, "nothing was done: that was a dry run"):
        console.out.print(line, highlight=False, soft_wrap=True, markup=False)


def _list(rows: list[tuple[ScreenDoc, dict[str, int]]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for title in ("id", "name", "phase", "place", "engine", "candidates", "created"):
        table.add_column(title)
    for screen, counts in rows:
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        created = f"{screen.created:%Y-%m-%d %H:%M}"
        table.add_row(*map(console.plain, (
            str(screen.screen_id), screen.name, screen.phase, screen.place or "", screen.engine, states, created
        )))  # fmt: skip
    console.out.print(table if rows else "no screens")


def _show(screen: ScreenDoc, counts: dict[str, int]) -> None:
    limits = screen.limits
    budget = [
        f"{screen.n_submitted} candidates submitted" + (f" of {limits.candidates}" if limits.candidates else ""),
        f"{screen.core_hours:.2f} core hours" + (f" of {limits.core_hours:g}" if limits.core_hours else ""),
        *([f"at most {limits.max_in_flight} at once"] if limits.max_in_flight else []),
    ]
    lines = [
        f"{screen.name} ({screen.screen_id}), {screen.place}: {screen.phase}"
        + (f", {screen.message}" if screen.message else ""),
        f"engine {screen.engine}, model {screen.model}",
        f"{sum(counts.values())} candidates: " + ", ".join(f"{count} {state}" for state, count in counts.items()),
        "; ".join(budget),
        *_advise(screen, counts),
    ]
    for line in lines:
        console.out.print(line, highlight=False, soft_wrap=True, markup=False)


def _advise(screen: ScreenDoc, counts: dict[str, int]) -> list[str]:
    """What to type next."""
    from e3relax_flows.places.kinds import find_kind

    name = screen.screen_id
    advice = []
    if counts.get("held"):
        advice.append(f"{counts['held']} are relaxed by other flows; later: e3relax screen resume {name}")
    if screen.phase in ("predicting", "relaxing"):
        advice.append(find_kind(screen.place).advice.format(id=name))
    if counts.get("failed"):
        advice.append(f"try failed ones again: e3relax screen resume {name} --retry-failed (--error TEXT)")
    if counts.get("left") or counts.get("cancelled"):
        advice.append(f"continue with the rest: e3relax screen resume {name} (--budget N, --core-hours HOURS)")
    if screen.phase == "finished":
        advice.append(f"results: e3relax table {name}")
    return advice


@screen_app.command("recover")
def recover(
    silent: Annotated[
        float | None,
        typer.Option(
            help="Minutes without a ping after which a running job is lost; none: FireWorks' RUN_EXPIRATION_SECS.",
            min=0,
        ),
    ] = None,
    workers_stopped: Annotated[
        bool, typer.Option("--workers-stopped", help="No worker runs: every running job is lost.")
    ] = False,
    release_unknown: Annotated[
        bool, typer.Option("--release-unknown", help="Release claims of flows that are not on this launchpad, too.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Repair the launchpad of FireWorks after kills: locks, lost runs, reservations, half submissions, claims.

    Refuses while workers ping, since their jobs must not run twice. Afterwards start the workers again.
    """
    from e3relax_flows.places.recovery import recover_launchpad

    recovery = recover_launchpad(
        silent_s=None if silent is None else 60 * silent,
        workers_stopped=workers_stopped,
        dry_run=dry_run,
        release_unknown=release_unknown,
    )
    if as_json:
        typer.echo(json.dumps(asdict(recovery) | {"dry_run": dry_run}, indent=1))
        return
    lines = recovery.describe() or ["nothing to recover"]
    if dry_run and recovery.n_repaired:
        lines.append("nothing was changed: that was a dry run")
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
