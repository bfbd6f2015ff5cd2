"""`e3relax screen recover`: repair a launchpad after workers or submissions were killed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from e3relax_flows.cli.options import DryRunOption, JsonOption
from e3relax_flows.report.console import out


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

    Refuses while workers ping, since what they run must not run twice. Afterwards start the workers again.
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
