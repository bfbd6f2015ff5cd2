"""Workspace: the settings and the stores that they name, each opened when it is first used and closed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from jobflow import JobStore
from maggma.core import Store

from e3relax_flows.core.settings import load_settings
from e3relax_flows.ledger.claims import open_claim_store
from e3relax_flows.ledger.store import open_outcome_store, open_prediction_store
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.stores.pool import SettingsLike, StorePool, find_pool, use_pool


class Workspace(StorePool):
    """Settings with their stores; made by `open_workspace`.

    Examples
    --------
    >>> from e3relax_flows import Workspace, open_workspace
    >>> with open_workspace() as workspace:
    ...     print(isinstance(workspace, Workspace), workspace.predictions.count(), workspace.jobs.count())
    True 0 0
    """

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


@contextmanager
def open_workspace(settings: SettingsLike = None) -> Iterator[Workspace]:
    """The settings with their stores: predictions, outcomes, claims, jobs; opened lazily, closed at the end.

    Within another workspace of equal settings it is that workspace: a job that runs in the process of its screen
    opens no store again.

    Parameters
    ----------
    settings
        None: those of the surrounding workspace, or else from `~/.e3relax.yaml` and the environment. A workspace is
        yielded as it is, and stays open.

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
    if isinstance(settings, StorePool):
        yield cast(Workspace, settings)
    elif (outer := find_pool(settings)) is not None:
        yield cast(Workspace, outer)
    else:
        workspace = Workspace(settings or load_settings())
        with use_pool(workspace):
            yield workspace
