"""Submit a flow from the command line: warnings on stderr, what was done on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from e3relax_flows.cli import console
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.places.submission import submit


def submit_shown(flow: Any, where: str, settings: E3RelaxSettings, samples: Sequence[Any] = ()) -> None:
    """Submit a flow to a place other than this process, and say what was done; see `submit`."""
    with console.hide_warnings():
        submission = submit(flow, where, settings=settings, samples=samples)  # type: ignore[arg-type]
    for warning in submission.warnings:
        console.err.print(warning, style="yellow", soft_wrap=True, markup=False, highlight=False)
    console.out.print(submission.describe(), highlight=False, soft_wrap=True, markup=False)
