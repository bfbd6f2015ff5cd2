"""What makes runs of benchmarks repeatable: draws by seed and name, hashes of settings, versions, the machine."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("e3relax-flows", "torch", "e3nn", "pymatgen", "jobflow", "atomate2", "maggma", "chgnet", "gpaw")


def draw_uniform(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on nothing but these two: samples of different sizes are nested."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return math.ldexp(int.from_bytes(digest[:8], "big"), -64)


def hash_content(content: Any) -> str:
    """16 hex digits for what JSON has, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def collect_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_cpu() -> str:
    """Name of the processor, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
