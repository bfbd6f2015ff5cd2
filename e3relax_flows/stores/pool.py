"""StorePool: stores and files that belong to the settings, opened at first use and closed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Protocol, TypeAlias, TypeVar

from e3relax_flows.core.settings import E3RelaxSettings, load_settings

Opened = TypeVar("Opened")
Shared = TypeVar("Shared", covariant=True)
UNSHARED = "unshared"  # attribute of a shared opener: the function that opens
Opener = Callable[[E3RelaxSettings], AbstractContextManager[Opened]]


class SharedOpener(Protocol[Shared]):
    """The form of a shared opener."""

    def __call__(self, settings: SettingsLike = None) -> AbstractContextManager[Shared]:
        """Open, or share an open one; it is closed at the end unless it is shared."""


class StorePool:
    """Settings, and what was opened with them.

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

    def get(self, opener: Opener[Opened]) -> Opened:
        """The result of an opener, such as `open_pair_stores`; opened once.

        Raises
        ------
        ConfigError
            When a store is described wrongly.
        StoreError
            When it cannot be reached.
        """
        opener = getattr(opener, UNSHARED, opener)
        if opener not in self._opened:
            self._opened[opener] = self._stack.enter_context(opener(self.settings))
            self.n_opened += 1
        return self._opened[opener]

    def close(self) -> None:
        """Close everything that is open; a store that is needed later is opened again."""
        self._opened.clear()
        self._stack.close()


SettingsLike: TypeAlias = E3RelaxSettings | StorePool | None
_CURRENT: ContextVar[StorePool | None] = ContextVar("pool", default=None)


def find_pool(settings: E3RelaxSettings | None) -> StorePool | None:
    """The pool around this call, if it has these settings; None: with any settings."""
    pool = _CURRENT.get()
    return pool if pool is not None and settings in (None, pool.settings) else None


@contextmanager
def open_pool(settings: SettingsLike = None) -> Iterator[StorePool]:
    """The pool that is given, or the one around this call, left open; else a new one, closed at the end.

    Parameters
    ----------
    settings
        A pool, such as a `Workspace`; or settings. None: those of the pool around, or those that are read now.
    """
    if isinstance(settings, StorePool):
        yield settings
    elif (pool := find_pool(settings)) is not None:
        yield pool
    else:
        with closing(StorePool(settings or load_settings())) as pool:
            yield pool


@contextmanager
def use_pool(pool: StorePool) -> Iterator[None]:
    """Let functions below this call share the stores of a pool, which is closed at the end."""
    token = _CURRENT.set(pool)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        pool.close()


def shared(opener: Opener[Opened]) -> SharedOpener[Opened]:
    """Let an opener, within a pool of equal settings, give what the pool has open; see `open_pool`."""

    @wraps(opener)
    @contextmanager
    def open_shared(settings: SettingsLike = None) -> Iterator[Opened]:
        with open_pool(settings) as pool:
            yield pool.get(opener)

    setattr(open_shared, UNSHARED, opener)
    return open_shared
