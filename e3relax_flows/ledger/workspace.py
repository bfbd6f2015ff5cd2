"""Workspace: the settings and the stores that they name, each opened when it is first used and closed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from jobflow import JobStore
from maggma.core import Store

from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import open_claim_store
from e3relax_flows.ledger.store import open_outcome_store, open_prediction_store
from e3relax_flows.stores.opening import open_job_store

Opened = TypeVar("Opened")


class Workspace:
    """Settings with their stores; made by `open_workspace`.

    Parameters
    ----------
    settings
        Where the stores are.
    """

    def __init__(self, settings: E3RelaxSettings) -> None:
        self.settings = settings
        self.n_opened = 0
        self._opened: dict[Callable[..., Any], Any] = {}
        self._stack = ExitStack()

    @property
    def predictions(self) -> Store:
        """The store of predictions."""
        return self.get(open_prediction_store)

    @property
    def outcomes(self) -> Store:
        """The store of outcomes."""
        return self.get(open_outcome_store)

    @property
    def claims(self) -> Store:
        """The store of claims on relaxations."""
        return self.get(open_claim_store)

    @property
    def jobs(self) -> JobStore:
        """The store of the jobs' outputs."""
        return self.get(open_job_store)

    def get(self, opener: Callable[[E3RelaxSettings], AbstractContextManager[Opened]]) -> Opened:
        """What a function of the settings opens, such as `open_screen_stores`; opened once.

        Raises
        ------
        ConfigError
            When a store is described wrongly.
        StoreError
            When it cannot be reached.
        """
        if opener not in self._opened:
            self._opened[opener] = self._stack.enter_context(opener(self.settings))
            self.n_opened += 1
        return self._opened[opener]

    def close(self) -> None:
        """Close what is open; a store that is asked for later is opened anew."""
        self._opened.clear()
        self._stack.close()


_CURRENT: ContextVar[Workspace | None] = ContextVar("workspace", default=None)


@contextmanager
def open_workspace(settings: E3RelaxSettings | None = None) -> Iterator[Workspace]:
    """The settings with their stores: predictions, outcomes, claims, jobs; opened lazily, closed at the end.

    Within another workspace of equal settings it is that one, so that a job that runs in the process of its screen
    opens nothing anew.

    Parameters
    ----------
    settings
        None: read now, from `~/.e3relax.yaml` and the environment.

    Examples
    --------
    How many structures were accepted so far, and what their relaxations took:

    >>> from e3relax_flows import open_workspace, outcomes_dataframe, predictions_dataframe
    >>> with open_workspace() as workspace:
    ...     accepted = predictions_dataframe(workspace.predictions, {"verdict": "accept"})
    ...     outcomes = outcomes_dataframe(workspace.outcomes)
    >>> len(accepted), len(outcomes)
    (0, 0)
    """
    settings = settings or load_settings()
    outer = _CURRENT.get()
    if outer is not None and outer.settings == settings:
        yield outer
        return
    workspace = Workspace(settings)
    token = _CURRENT.set(workspace)
    try:
        yield workspace
    finally:
        _CURRENT.reset(token)
        workspace.close()
