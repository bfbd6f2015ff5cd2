"""Firetasks of screens: relax a candidate in one launch; take a screen on, so that no process need watch it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fireworks import FireTaskBase, LaunchPad
from jobflow import SETTINGS

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.screening.advance import Ended, advance_screen
from e3relax_flows.screening.launchpad import hand_to_launchpad
from e3relax_flows.screening.local import relax_here
from e3relax_flows.screening.store import find_screen, load_row, open_screen_stores
from e3relax_flows.submit.local import JobReport


class AdvanceTask(FireTaskBase):
    """Settle what has ended in a screen, and give the launchpad what may follow.

    Parameters
    ----------
    screen_id
        Of the screen.
    chunk, row_key
        What has just ended: a chunk by its number, or a candidate by the key of its row.
    """

    _fw_name = "{{e3relax_flows.screening.firetask.AdvanceTask}}"
    required_params = ("screen_id",)
    optional_params = ("chunk", "row_key")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> None:  # noqa: ARG002
        """Do it; without a launchpad (offline) only what has ended is settled."""
        ended = Ended(self.get("chunk"), tuple(filter(None, [self.get("row_key")])))
        _advance(self["screen_id"], ended, self.launchpad, load_settings())


class CandidateTask(FireTaskBase):
    """Relax a candidate of a screen, from each of its starts, in this launch, and take its screen on.

    Launched again after its worker was killed, it goes on after the last calculation that is in the job store.

    Parameters
    ----------
    screen_id
        Of the screen.
    row_key
        Of the candidate's row.
    advance
        Whether more is to be handed out at its end.
    """

    _fw_name = "{{e3relax_flows.screening.firetask.CandidateTask}}"
    required_params = ("screen_id", "row_key", "advance")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> None:  # noqa: ARG002
        """Do it.

        Raises
        ------
        EngineError
            When an outcome could not be recorded; that a calculation failed is an outcome.
        """
        settings = load_settings()
        with open_screen_stores(settings) as stores:
            screen, row = find_screen(stores, self["screen_id"]), load_row(stores, self["row_key"])
        jobs = SETTINGS.JOB_STORE  # as jobflow's own firetask has it: open as long as the worker lives
        jobs.connect()
        run = relax_here(screen, row, jobs, Path.cwd(), _tell)
        if self["advance"]:
            _advance(self["screen_id"], Ended(row_keys=(self["row_key"],)), self.launchpad, settings)
        broken = [report for report in run.failures if report.name.startswith("e3r ")]
        if broken:
            raise EngineError(
                f"{broken[0].name} of candidate {row.id} failed ({broken[0].error}); mend that, and type "
                "`lpad rerun_fws -s FIZZLED`"
            )


def _tell(report: JobReport) -> None:
    """Leave what went wrong in the output of the launch."""
    if report.error is not None:
        print(f"{report.name} failed:\n{report.traceback}", file=sys.stderr)


def _advance(screen_id: str, ended: Ended, pad: LaunchPad | None, settings: E3RelaxSettings) -> None:
    with open_screen_stores(settings) as stores:
        screen = find_screen(stores, screen_id)
    hand = None if pad is None else hand_to_launchpad(pad, screen, settings)
    advance_screen(screen_id, settings, hand, ended)
