"""Rankings: scores of candidates and of predictions; a smaller score is more promising."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM
from e3relax_flows.core.optional import require
from e3relax_flows.core.text_files import open_text
from e3relax_flows.schemas.candidates import (
    RankByFunction,
    RankByHull,
    RankByTable,
    Ranking,
    split_function,
)
from e3relax_flows.schemas.predictions import Prediction, Verdict

if TYPE_CHECKING:
    from e3relax_flows.candidates.hulls import HullSet

Score = Callable[[str, Structure], float | None]


def build_score(ranking: Ranking) -> Score:
    """The function of id and structure for a ranking.

    Raises
    ------
    ConfigError
        When its file or function cannot be used, or it needs predictions.
    MissingDependencyError
        When the potential is not installed.
    """
    if isinstance(ranking, RankByTable):
        values = read_numbers(ranking.file, ranking.column, ranking.id_column)
        sign = -1.0 if ranking.largest_first else 1.0
        return lambda id, _: sign * values[id] if id in values else None
    if isinstance(ranking, RankByHull):
        from e3relax_flows.candidates.hulls import HullSet, read_entries  # imports matplotlib and plotly

        return _measure_above_hull(HullSet(read_entries(ranking.entries)), load_calculator(ranking.potential))
    if isinstance(ranking, RankByFunction):
        return load_function(ranking.function)
    raise ConfigError("ranking by change needs predictions, which a list of candidates lacks; rank it in a screen")


def measure_change(prediction: Prediction) -> float | None:
    """Change of a structure by the network, Å: displacement + 2.5 Å · strain; None if it was not accepted."""
    if prediction.verdict != Verdict.ACCEPT or prediction.displacement is None or prediction.strain is None:
        return None
    return prediction.displacement + STRAIN_WEIGHT_ANGSTROM * prediction.strain


def read_numbers(path: Path, column: str | None = None, id_column: str = "id") -> dict[str, float]:
    """Numbers by id of a CSV or JSON file; ids without a number are left out.

    Raises
    ------
    ConfigError
        When the file cannot be read, the column is missing or ambiguous, or an id has two numbers.
    """
    try:
        with open_text(path) as stream:
            if ".json" in path.suffixes:
                rows = _list_rows(json.load(stream), id_column)
            else:
                rows = list(csv.DictReader(stream))
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise ConfigError(f"{path}: {error}; give a CSV file with a header, or JSON") from error
    names = list(dict.fromkeys(name for row in rows for name in row if name != id_column))
    if column is None and len(names) != 1:
        raise ConfigError(f"{path} has the columns {', '.join(names) or '(none)'}; name one with `column`")
    column = column or names[0]
    if column not in names or not any(id_column in row for row in rows):
        raise ConfigError(f"{path} needs the columns {id_column!r} and {column!r}; it has {', '.join(names)}")
    numbers: dict[str, float] = {}
    for row in rows:
        id, value = str(row.get(id_column)), row.get(column)
        if value in (None, ""):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {column} of {id} is {value!r}, which is not a number") from error
        if numbers.setdefault(id, number) != number:
            raise ConfigError(f"{path}: {id} occurs twice, with {numbers[id]:g} and {number:g}")
    return numbers


def load_function(name: str) -> Callable[..., Any]:
    """The function "module:function"; modules of the working directory are found.

    Raises
    ------
    ConfigError
        When there is none.
    """
    module, function = split_function(name)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{name}: {error}; give module:function, the module in the working directory or installed"
        ) from error
    if not callable(found):
        raise ConfigError(f"{name} is {type(found).__name__}, which cannot be called")
    return found


def load_calculator(name: str) -> Any:
    """An ASE calculator: CHGNet's, or the result of the user's "module:function"."""
    if name == "chgnet":
        return require("chgnet.model.dynamics", "mlip", "ranking by CHGNet").CHGNetCalculator(use_device="cpu")
    if ":" not in name:
        raise ConfigError(f"potential {name!r} is unknown; give chgnet, or module:function that gives a calculator")
    return load_function(name)()


def _measure_above_hull(hulls: HullSet, calculator: Any) -> Score:
    adaptor = require("pymatgen.io.ase", "mlip", "ranking by a potential").AseAtomsAdaptor

    def score(_: str, structure: Structure) -> float | None:
        atoms = adaptor.get_atoms(structure)
        atoms.calc = calculator
        return hulls.locate(structure.composition, float(atoms.get_potential_energy())).energy_above_hull

    return score


def _list_rows(content: Any, id_column: str) -> list[dict[str, Any]]:
    """Rows of a JSON list of rows, or of a dictionary whose keys are ids."""
    if isinstance(content, Mapping):
        return [
            {id_column: id, **value} if isinstance(value, Mapping) else {id_column: id, "value": value}
            for id, value in content.items()
        ]
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise ValueError("it is neither {id: number} nor a list of rows")
    return [dict(row) for row in content]
