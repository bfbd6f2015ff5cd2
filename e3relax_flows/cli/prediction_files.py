"""Predictions as files: one JSON line and one CIF each."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from monty.json import jsanitize
from pymatgen.io.cif import CifWriter

from e3relax_flows.core.finite import is_finite_structure, replace_infinite
from e3relax_flows.schemas.predictions import Prediction

LINES_FILE = "predictions.jsonl"
MAX_NAME = 100


def dump_line(prediction: Prediction, **more: Any) -> str:
    """One line of JSON, structures as pymatgen's dictionaries; numbers that are not finite become null."""
    content = jsanitize(prediction.model_dump(mode="python"), enum_values=True, recursive_msonable=True)
    return json.dumps(replace_infinite(content | more), allow_nan=False, separators=(",", ":"))


class PredictionWriter:
    """Writes predictions into a folder one by one; its lines are in the order of `write`.

    The lines replace those of an earlier run only when all are written; CIF files are replaced immediately.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._part = folder / f"{LINES_FILE}.part"
        self._stream = self._part.open("w", encoding="utf-8")
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is None:
            self._part.replace(self.folder / LINES_FILE)

    def write(self, prediction: Prediction) -> None:
        """Write a line, and a CIF if there is a finite structure; the line's `cif` is its name."""
        cif = None
        if prediction.structure is not None and is_finite_structure(prediction.structure):
            cif = self._choose_name(prediction.id or prediction.structure.composition.reduced_formula)
            with warnings.catch_warnings():
                # labels are those of the input, which pymatgen repeats in structures with spins or charges
                warnings.filterwarnings("ignore", message="Site labels are not unique")
                text = str(CifWriter(prediction.structure))
            (self.folder / cif).write_text(text, encoding="utf-8")
        self._stream.write(dump_line(prediction, cif=cif) + "\n")
        self._stream.flush()

    def _choose_name(self, id: str) -> str:
        """A file name for an id: plain characters, unique, case ignored."""
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", id).strip("._")[:MAX_NAME] or "structure"
        stem = stem.removesuffix(".cif")
        name, number = stem, 1
        while name.lower() in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name.lower())
        return f"{name}.cif"
