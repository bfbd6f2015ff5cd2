"""Errors whose messages state what happened, with the value, and what to type."""

import re

from e3relax_flows.core.secrets import mask_secrets

# what pymongo adds to "Name or service not known": half a screen, and no remedy
DRIVER_STATE = re.compile(
    r"(?: \(configured timeouts: [^)]*\))?, Timeout: [^,]*, Topology Description: <TopologyDescription .*>\]>"
)


class E3RelaxError(Exception):
    """Base of every error that a user can cause or fix; its message shows no passwords."""

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
    """A setting or configuration file with a wrong or unknown entry."""


class TooFewPairsError(ConfigError):
    """There are not enough pairs, or no new ones, to train on; there may be later."""


class StoppedError(E3RelaxError):
    """Work that a user stopped by a signal; it is saved, and the same command or job run again continues it."""


class MissingDependencyError(E3RelaxError):
    """An optional dependency that is not installed."""
