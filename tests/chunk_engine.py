"""An engine that relaxes many structures in one job, writes each relaxation down, and waits in one when it must."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from atomate2.ase.jobs import EmtRelaxMaker
from fault_engine import FOLDER, HELD, HOLD, LOG
from jobflow import Maker as JobflowMaker
from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.testing import EmtEngine

UNKNOWN = "Mo"  # to the engine


@dataclass
class NotedRelaxMaker(EmtRelaxMaker):
    """EMT's relaxation between two lines of the log; it waits in the middle while a file `hold` names its formula."""

    name: str = "EMT relax"

    def run_ase(self, mol_or_struct: Any, prev_dir: str | Path | None = None) -> Any:
        """Relax."""
        folder, formula = Path(os.environ[FOLDER]), mol_or_struct.composition.reduced_formula
        _note(folder, f"begun {formula}")
        while (folder / HOLD).exists() and (folder / HOLD).read_text() == formula:
            (folder / HELD).touch()
            time.sleep(0.05)
        result = super().run_ase(mol_or_struct, prev_dir)
        _note(folder, f"ended {formula}")
        return result


@dataclass
class NotedChunkEngine(EmtEngine):
    """Effective medium theory, many structures in one job."""

    maker: JobflowMaker = field(
        default_factory=lambda: NotedRelaxMaker(relax_kwargs={"fmax": 0.02}, steps=100, relax_cell=True)
    )

    relaxes_chunks: ClassVar[bool] = True

    def check(self, structure: Structure) -> None:
        """Raise EngineError for one element."""
        if any(element.symbol == UNKNOWN for element in structure.composition):
            raise EngineError(f"{self.name} does not know {UNKNOWN}")


def _note(folder: Path, line: str) -> None:
    with (folder / LOG).open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")
