"""Roles: which kind of worker a job wants, and how a role is written for the managers of workflows."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Role(StrEnum):
    """predict: the network, on a GPU where there is one; dft: an engine; train; light: seconds on any processor."""

    PREDICT = "predict"
    DFT = "dft"
    TRAIN = "train"
    LIGHT = "light"


# jobs by a part of their name, in this order: the last that fits decides
ROLE_RULES: tuple[tuple[str, Role], ...] = (
    ("", Role.DFT),  # jobs of the engines are named by their makers
    ("store_inputs", Role.LIGHT),  # jobflow's own, which passes on the output of a flow
    ("e3r ", Role.LIGHT),
    ("e3r claim", Role.DFT),  # it runs the first calculation, where the manager can
    ("e3r candidate", Role.DFT),  # all calculations of a candidate in one launch
    ("e3r predict", Role.PREDICT),
    ("e3r evaluate", Role.PREDICT),
    ("e3r train", Role.TRAIN),
)


class WorkerConfig(BaseModel):
    """Where the jobs of one role run; each manager reads its own entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    priority: int | None = Field(None, description="jobs of higher priority start first")
    category: str | None = Field(None, description="FireWorks: category in the my_fworker.yaml of the workers")
    fworker: str | None = Field(None, description="FireWorks: name of one worker")
    queueadapter: dict[str, Any] | None = Field(
        None, description="FireWorks: entries over the worker's my_qadapter.yaml, for `qlaunch -r`"
    )
    worker: str | None = Field(None, description="jobflow-remote: name of a worker of the project")
    resources: dict[str, Any] | None = Field(None, description="jobflow-remote: resources of the queueing system")
    exec_config: str | dict[str, Any] | None = Field(
        None, description="jobflow-remote: execution configuration of the project, or one in full"
    )

    def express_for_fireworks(self) -> dict[str, Any]:
        """Entries of a Firework's spec."""
        return {
            f"_{name}": value
            for name in ("category", "fworker", "priority", "queueadapter")
            if (value := getattr(self, name)) is not None
        }

    def express_for_remote(self) -> dict[str, Any]:
        """Entries that jobflow-remote reads."""
        return {
            name: value
            for name in ("worker", "resources", "exec_config", "priority")
            if (value := getattr(self, name)) is not None
        }


def find_role(job_name: str) -> Role:
    """Role of a job by its name."""
    return [role for part, role in ROLE_RULES if part in job_name][-1]
