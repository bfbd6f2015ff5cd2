"""Errors whose messages state what happened and what to type, without passwords; errors of the jobs of a run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ERRORS: ContextVar[dict[str, str] | None] = ContextVar("job_errors", default=None)

MASK = "***"
URI_LOGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^\s/]*(?:/[^\s@]*)*@", re.IGNORECASE)
NAMED = re.compile(
    r"(?P<name>\b\w*(?:password|passwd|secret|api_?key|access_key|private_key|token)\w*[\"']?\s*[:=]\s*)"
    r"(?P<value>\"[^\"]+\"|'[^']+'|[^\s,;}\])\"']+)",
    re.IGNORECASE,
)

# what pymongo adds to "Name or service not known": half a screen, and no remedy
DRIVER_STATE = re.compile(
    r"(?: \(configured timeouts: [^)]*\))?, Timeout: [^,]*, Topology Description: <TopologyDescription .*>\]>"
)


class E3RelaxError(Exception):
    """Base of every error that a user can cause or fix; its message shows no passwords.

    Examples
    --------
    One clause catches all that a user can cause or fix:

    >>> from e3relax_flows import E3RelaxError, get_engine
    >>> try:
    ...     get_engine("chgnett")
    ... except E3RelaxError as error:
    ...     print(str(error).split(";")[0])
    engine 'chgnett' is unknown
    """

    def __str__(self) -> str:
        return mask_secrets(super().__str__())


class StructureError(E3RelaxError):
    """A structure that cannot be relaxed; `code` is the reason code of the prediction."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ContentError(E3RelaxError):
    """A value from which no content id can be computed, with its path."""


class ModelError(E3RelaxError):
    """A model that is missing, tampered with or of an unknown format."""


class StoreError(E3RelaxError):
    """A store that cannot be reached or read; its message leaves out the driver's own state."""

    def __str__(self) -> str:
        return DRIVER_STATE.sub("", super().__str__())


class EngineError(E3RelaxError):
    """An engine that is unknown, not installed or gave an unreadable document."""


class StartUnknownError(EngineError):
    """A document of an engine that does not hold the true start of its relaxation."""


class StateError(E3RelaxError):
    """An event that is not allowed in the present state."""


class ConfigError(E3RelaxError):
    """A setting or configuration file with a wrong or unknown entry.

    Examples
    --------
    A wrong entry of the settings

    >>> from e3relax_flows import ConfigError, load_settings
    >>> try:
    ...     load_settings(DEVICES="cuda")
    ... except ConfigError as error:
    ...     print(str(error)[:8], "known: CONFIG_FILE" in str(error))
    settings True
    """


class TooFewPairsError(ConfigError):
    """There are not enough pairs, or no new ones, to train on; there may be later."""


class StoppedError(E3RelaxError):
    """Work that a user stopped by a signal; it is saved, and the same command or job run again continues it."""


class MissingDependencyError(E3RelaxError):
    """An optional dependency that is not installed.

    Examples
    --------
    A script that goes on without an optional package:

    >>> from e3relax_flows import EngineEntry, MissingDependencyError, get_engine, register_engine
    >>> from e3relax_flows.testing import EmtEngine
    >>> register_engine("emt", EngineEntry("EMT", EmtEngine, packages=("absent_package",)), overwrite=True)
    >>> try:
    ...     get_engine("emt")
    ... except MissingDependencyError as error:
    ...     print(error)
    engine 'emt' needs 'absent_package', which is not installed; install it with: pip install absent_package
    """


def describe_unreadable(error: Exception) -> str:
    """Why something cannot be read: our own message, or what another package raised."""
    return str(error) if isinstance(error, E3RelaxError) else f"cannot be read ({type(error).__name__}: {error})"


def mask_secrets(text: str) -> str:
    """The text without logins in URIs and without the values of what is called password, secret, key or token."""
    return NAMED.sub(rf"\g<name>{MASK}", URI_LOGIN.sub(rf"\g<scheme>{MASK}@", text))


@contextmanager
def collect_job_errors() -> Iterator[None]:
    """Keep errors that are noted within, until the end of it."""
    token = _ERRORS.set({})
    try:
        yield
    finally:
        _ERRORS.reset(token)


def note_job_error(uuid: str, error: str) -> None:
    """Keep the error of a job as one line, if errors are collected."""
    errors = _ERRORS.get()
    if errors is not None:
        errors[uuid] = error


def find_job_error(uuid: str) -> str | None:
    """The error of a job that failed in this process; None if it is not known."""
    return (_ERRORS.get() or {}).get(uuid)
