"""The command `e3relax`: registers the commands and turns our errors into messages.

Exit codes: 0 done; 1 done, but some items failed; 2 nothing was done (usage, settings, something missing).
Trainings also have 75: stopped by a signal or the walltime, the same command continues. Ctrl-C ends with 130.
Only typer and rich are imported here; what a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Annotated

import typer

from e3relax_flows.cli.campaign import campaign_app
from e3relax_flows.cli.candidates import list_candidates
from e3relax_flows.cli.data import data_app
from e3relax_flows.cli.datasets import freeze_pairs, prepare_dataset, show_holdouts
from e3relax_flows.cli.doctor import doctor
from e3relax_flows.cli.evaluate import evaluate
from e3relax_flows.cli.models import models_app
from e3relax_flows.cli.predict import predict
from e3relax_flows.cli.report import report_app
from e3relax_flows.cli.retrain import retrain
from e3relax_flows.cli.screens import screen_app
from e3relax_flows.cli.table import show_table
from e3relax_flows.cli.train import train
from e3relax_flows.core.errors import E3RelaxError, StoppedError
from e3relax_flows.core.logs import LogLevel, hide_log, show_log
from e3relax_flows.report.console import print_error

app = typer.Typer(
    name="e3relax",
    help="One-shot pre-relaxation of crystals with E3Relax-H2 in front of DFT.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = False
LOG_LEVEL = "E3RELAX_LOG_LEVEL"
EXIT_INTERRUPTED = 130  # typer's for Ctrl-C
# after Ctrl-C, by the first word; screens and campaigns name their own id
INTERRUPTED = {
    "data": "written results are kept; the same command continues",
    "retrain": "the same command continues the same training",
    "train": "a second Ctrl-C does not save; the same command continues from the last checkpoint",
    "screen": "",
    "campaign": "",
}


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"e3relax-flows {version('e3relax-flows')}")
        raise typer.Exit


@app.callback()
def _set_options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            "--log-level",
            case_sensitive=False,
            help="Print the log on stderr from this level on: INFO shows each change of a state with its ids; none: "
            "as set by LOG_LEVEL.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    global _debug
    _debug = debug
    context.call_on_close(hide_log)
    if log_level is not None:
        before = os.environ.get(LOG_LEVEL)
        os.environ[LOG_LEVEL] = log_level  # which jobs and processes of this command see, too
        context.call_on_close(partial(_restore_level, before))
        show_log(log_level)


def _restore_level(before: str | None) -> None:
    os.environ.pop(LOG_LEVEL)
    if before is not None:
        os.environ[LOG_LEVEL] = before


app.command("predict")(predict)
app.command("candidates")(list_candidates)
app.add_typer(screen_app, name="screen")
app.command("table")(show_table)
app.add_typer(report_app, name="report")
app.command("evaluate")(evaluate)
app.command("train")(train)
app.command("retrain")(retrain)
app.add_typer(campaign_app, name="campaign")
app.add_typer(models_app, name="models")
data_app.command("freeze")(freeze_pairs)
data_app.command("holdouts")(show_holdouts)
data_app.command("dataset")(prepare_dataset)
app.add_typer(data_app, name="data")
app.command("doctor")(doctor)


def main() -> None:
    """Entry point: run the command; an error that the user can fix is one message and exit code 2."""
    try:
        app()
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:
            _print_advice(sys.argv[1:])
        raise
    except E3RelaxError as error:
        if _debug:
            raise
        from e3relax_flows.train.stopping import EXIT_CONTINUE

        print_error(str(error))
        sys.exit(EXIT_CONTINUE if isinstance(error, StoppedError) else 2)
    except OSError as error:
        if _debug or error.filename is None:
            raise
        print_error(f"{error.filename}: {error.strerror}; choose another path or fix this one")
        sys.exit(2)


def _print_advice(words: list[str]) -> None:
    advice = INTERRUPTED.get(
        next((word for word in words if not word.startswith("-")), ""), "the same command starts again"
    )
    if advice:
        print_error(f"interrupted; {advice}")


if __name__ == "__main__":
    main()
