"""The machine that a benchmark runs on."""

from __future__ import annotations

from pathlib import Path


def read_cpu() -> str:
    """Name of the processor, if the system gives one."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
