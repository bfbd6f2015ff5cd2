"""The places where flows run, by name, and what differs between them before any is connected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.roles import WorkerConfig

PlaceName = Literal["local", "fireworks", "remote"]  # where a user may let jobs run


@dataclass(frozen=True)
class PlaceKind:
    """One kind of place; those with workers are managed by a package."""

    name: str
    package: str = ""  # of its manager, as it is imported
    express: Callable[[WorkerConfig], dict[str, Any]] | None = None  # how its manager reads the worker of a role
    own_job_store: bool = False  # its manager has a job store, jobflow's is not used
    resumes_here: bool = False  # its screens go on in the process that resumes them
    advice: str = ""  # what to type while its workers have a screen; {id} is that of the screen

    @property
    def is_here(self) -> bool:
        """Whether its jobs run in the process that starts them."""
        return self is LOCAL


GO_ON = "continue: e3relax screen resume {id}"
LOCAL = PlaceKind("local", resumes_here=True, advice=GO_ON)
FIREWORKS = PlaceKind(
    "fireworks",
    package="fireworks",
    express=WorkerConfig.express_for_fireworks,
    advice="workers: lpad report; after kills: e3relax screen recover",
)
REMOTE = PlaceKind(
    "remote", package="jobflow_remote", express=WorkerConfig.express_for_remote, own_job_store=True, advice=GO_ON
)
# that of `ScreenMaker.make`: one that ended early is not begun again, and what it still holds is claimed
FLOW = PlaceKind("flow", resumes_here=True, advice=GO_ON)
KINDS = {kind.name: kind for kind in (LOCAL, FIREWORKS, REMOTE, FLOW)}
WITH_WORKERS: tuple[PlaceName, ...] = ("fireworks", "remote")
PLACES: tuple[PlaceName, ...] = ("local", *WITH_WORKERS)


def find_kind(name: str | None) -> PlaceKind:
    """The kind of a name; None, as documents of earlier releases have it, is this process.

    Raises
    ------
    ConfigError
        When no place has this name.
    """
    kind = LOCAL if name is None else KINDS.get(name)
    if kind is None:
        raise ConfigError(f"{name!r} is not a place; known: {', '.join(KINDS)}")
    return kind
