"""The relaxation jobs of CP2K with documents that hold the number of steps, which atomate2's do not."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomate2.cp2k.jobs.base import cp2k_job
from atomate2.cp2k.jobs.core import CellOptMaker, RelaxMaker
from atomate2.cp2k.schemas.task import TaskDocument
from jobflow import Response
from pydantic import Field
from pymatgen.core import Structure

OUTPUTS = ("cp2k.out", "cp2k.out.gz")  # it is zipped when a job has ended
SCF_LINE = re.compile(r"(?:SCF run converged in|Leaving inner SCF loop after reaching)\s+(\d+)\s+steps")
GEOMETRY_LINE = re.compile(r"^ OPTIMIZATION STEP:\s+\d+", re.MULTILINE)
COMPLETED = "GEOMETRY OPTIMIZATION COMPLETED"


class Cp2kRelaxDoc(TaskDocument):
    """atomate2's document of a CP2K run, with steps from its output."""

    n_ionic_steps: int | None = Field(None, description="geometries of which forces were computed")
    n_electronic_steps: int | None = Field(None, description="SCF iterations of all geometries")
    has_relaxed: bool | None = Field(None, description="whether the optimiser met its criteria")


@dataclass
class CountedRelaxMaker(RelaxMaker):
    """atomate2's RelaxMaker whose document counts steps."""

    @cp2k_job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Response:
        """Relax the sites as a job."""
        return _count(RelaxMaker.make.original(self, structure, prev_dir))  # type: ignore[attr-defined]


@dataclass
class CountedCellOptMaker(CellOptMaker):
    """atomate2's CellOptMaker whose document counts steps."""

    @cp2k_job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Response:
        """Relax sites and cell as a job."""
        return _count(CellOptMaker.make.original(self, structure, prev_dir))  # type: ignore[attr-defined]


COUNTED = {RelaxMaker: CountedRelaxMaker, CellOptMaker: CountedCellOptMaker}


def count_cp2k_steps(folder: Path) -> dict[str, Any]:
    """Ionic and electronic steps of a relaxation by the output in a folder, and whether it ended by its criteria."""
    path = next((folder / name for name in OUTPUTS if (folder / name).is_file()), None)
    if path is None:
        return {}
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode(errors="replace")
    moves = len(GEOMETRY_LINE.findall(text))
    return {
        "n_ionic_steps": moves + 1,  # the start has no number
        "n_electronic_steps": sum(map(int, SCF_LINE.findall(text))) or None,
        "has_relaxed": COMPLETED in text,
    }


def _count(response: Response) -> Response:
    if isinstance(response.output, TaskDocument):
        response.output = Cp2kRelaxDoc(**dict(response.output), **count_cp2k_steps(Path.cwd()))
    return response
