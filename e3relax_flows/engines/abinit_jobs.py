"""The relaxation job of ABINIT; imports atomate2's, which needs abipy, so the engine imports it when used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomate2.abinit.jobs.core import RelaxMaker
from atomate2.abinit.schemas.task import AbinitTaskDoc
from jobflow import Response
from pydantic import Field

OUTPUT = "run.abo"
SCF_LINE = re.compile(r"^ ETOT\s*\d+", re.MULTILINE)
GEOMETRY_LINE = re.compile(r"^--- Iteration: \(\s*\d+/\s*\d+\)", re.MULTILINE)
TIME_LINE = re.compile(r"^\+Overall time at end \(sec\) : cpu=\s*[\d.]+\s+wall=\s*([\d.]+)", re.MULTILINE)


class AbinitRelaxDoc(AbinitTaskDoc):
    """atomate2's document of an ABINIT run, with steps and time from its output."""

    n_ionic_steps: int | None = Field(None, description="geometries of which forces were computed")
    n_electronic_steps: int | None = Field(None, description="SCF iterations of all geometries")
    wall_time_s: float | None = Field(None, description="as ABINIT measured it")


@dataclass
class KeptRelaxMaker(RelaxMaker):
    """atomate2's RelaxMaker whose document counts steps, and is kept where the relaxation did not converge.

    atomate2 restarts an unconverged run in a new job, whose document does not hold the start of the relaxation.
    """

    def get_response(self, task_document: AbinitTaskDoc, *_args: Any, **_kwargs: Any) -> Response:
        """The document, whatever its state."""
        counts = count_abinit_steps(Path(OUTPUT))
        return Response(output=AbinitRelaxDoc(**dict(task_document), **counts))


def count_abinit_steps(path: Path) -> dict[str, Any]:
    """Ionic and electronic steps and wall time (s) from an output of ABINIT; None if there is no file."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    times = TIME_LINE.findall(text)
    return {
        "n_ionic_steps": len(GEOMETRY_LINE.findall(text)) or None,
        "n_electronic_steps": len(SCF_LINE.findall(text)) or None,
        "wall_time_s": float(times[-1]) if times else None,
    }
