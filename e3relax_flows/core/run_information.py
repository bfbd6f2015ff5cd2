"""What a result was made with: versions, host, time."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("e3relax-flows", "torch", "e3nn", "pymatgen", "jobflow", "atomate2", "maggma", "chgnet", "gpaw")


def now() -> datetime:
    """The time in UTC, cut to milliseconds, which every document store keeps."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def collect_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of those of `packages` that are installed, and of Python.

    Examples
    --------
    >>> from e3relax_flows import collect_versions
    >>> sorted(collect_versions(("pymatgen", "not-installed")))
    ['pymatgen', 'python']
    """
    return dict(_collect_versions(packages))


@cache
def _collect_versions(packages: tuple[str, ...]) -> dict[str, str]:
    # looked up once: ten packages take 10 ms, and every document has them
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
