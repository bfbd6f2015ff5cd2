"""AdvanceTask: the last firework of a chunk or a candidate takes its screen on, so that no process need watch it."""

from __future__ import annotations

from typing import Any

from fireworks import FireTaskBase, LaunchPad

from e3relax_flows.core.settings import load_settings
from e3relax_flows.data.screenstores import find_screen, open_screen_stores
from e3relax_flows.driver.advance import Ended, advance_screen
from e3relax_flows.driver.launchpad import hand_to_launchpad


class AdvanceTask(FireTaskBase):
    """Settle what has ended in a screen, and give the launchpad what may follow.

    Parameters
    ----------
    screen_id
        Of the screen.
    chunk, row_key
        What has just ended: a chunk by its number, or a candidate by the key of its row.
    """

    _fw_name = "{{e3relax_flows.driver.firetask.AdvanceTask}}"
    required_params = ("screen_id",)
    optional_params = ("chunk", "row_key")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> None:  # noqa: ARG002
        """Do it; without a launchpad (offline) only what has ended is settled."""
        settings = load_settings()
        with open_screen_stores(settings) as stores:
            screen = find_screen(stores, self["screen_id"])
        hand = None if self.launchpad is None else hand_to_launchpad(self.launchpad, screen, settings)
        ended = Ended(self.get("chunk"), tuple(filter(None, [self.get("row_key")])))
        advance_screen(self["screen_id"], settings, hand, ended)
