"""The two consoles of the command line: results on stdout, everything else on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

out = Console()
err = Console(stderr=True)

STYLES = {
    "accept": "green",
    "successful": "green",
    "ok": "green",
    "refuse": "yellow",
    "unconverged": "yellow",
    "duplicate": "yellow",
    "skipped": "yellow",
    "missing": "yellow",
    "error": "red",
    "failed": "red",
}


def print_error(message: str) -> None:
    """Print one message for a human, on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def color_word(word: str) -> Text:
    """A verdict or state in its color; never parsed as markup."""
    return Text(word, style=STYLES.get(word, ""))


def format_number(value: float | None, digits: int) -> str:
    """A number with `digits` decimals; empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def make_progress() -> Progress:
    """Progress on stderr with counts and the time left; it disappears when it is done."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=err,
        transient=True,
    )


def plain(text: str) -> Text:
    """Text that is never parsed as markup."""
    return Text(text)
