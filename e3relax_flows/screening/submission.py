"""Leave a screen to the workers of a launchpad or of jobflow-remote."""

from __future__ import annotations

from collections.abc import Iterable

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.schemas.candidates import Ranking
from e3relax_flows.schemas.screens import ScreenLimits
from e3relax_flows.screening.control import ScreenProgress, resume_screen, start_screen
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import open_screen_stores
from e3relax_flows.stores.pool import SettingsLike


def submit_screen(
    maker: ScreenMaker,
    items: Iterable[ReadItem],
    place: str,
    settings: SettingsLike = None,
    limits: ScreenLimits | None = None,
    ranking: Ranking | None = None,
) -> ScreenProgress:
    """Register a screen and leave it to the workers of another place, as `e3relax screen --submit PLACE` does.

    Submitted again, it is submitted once; what was cancelled, left or lost is requeued.

    Parameters
    ----------
    maker
        How to screen; with `retry_failed` failed relaxations are requeued, too.
    items
        Candidates; an unreadable one gets a row with the reason.
    place
        fireworks or remote.
    settings
        For stores and workers; none: those that are configured.
    limits
        Budget, and candidates at work at once; none: no limits, and those of a known screen stay.
    ranking
        Most promising first; none: as they come.

    Raises
    ------
    ConfigError
        When no structure could be read, or a check of the place fails; the message has the remedy.
    ModelError
        When there is no such model.
    StoreError
        When a store or the launchpad cannot be reached.

    Examples
    --------
    >>> from e3relax_flows import PrerelaxMaker, ScreenMaker, get_engine, read_screen, read_structures, submit_screen
    >>> def screen_by_workers(paths):
    ...     maker = ScreenMaker(prerelax=PrerelaxMaker(), engine=get_engine("vasp-mp-gga"))
    ...     progress = submit_screen(maker, read_structures(paths), "fireworks")
    ...     return read_screen(progress.screen.screen_id)
    """
    with open_workspace(settings) as workspace:
        stores = workspace.get(open_screen_stores)
        screen, is_new = register_screen(stores, maker, items, workspace, ranking, place, limits)
        screen_id = str(screen.screen_id)
        requeued = [] if is_new else resume_screen(screen_id, workspace, limits, maker.retry_failed).lines
        progress = start_screen(screen_id, workspace)
    progress.lines[:0] = requeued
    return progress
