"""How far it is from `e3relax screen FILE` to the outcome: functions, calls from room to room, openings of stores.

python benchmarks/walk.py

One candidate, then one more, of EMT metals in cells that are too large, are screened in this process with the bundled
model. A room is a package of `e3relax_flows`. Functions of the network (`model`, `predict`) and of the page (`report`)
are not counted, nor are those that only an import calls.
"""

from __future__ import annotations

import ast
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from pymatgen.core import Lattice, Structure
from rich.console import Console
from rich.table import Table

import e3relax_flows
from e3relax_flows import EngineEntry, register_engine
from e3relax_flows.testing import EmtEngine

ROOT = Path(e3relax_flows.__file__).parent
LEFT_OUT = ("model", "predict", "report")
METALS = {"Cu": 3.7, "Ag": 4.2}  # Å, conventional


@dataclass
class Walk:
    """What was called and opened."""

    functions: set[CodeType] = field(default_factory=set)
    crossings: set[tuple[CodeType, CodeType]] = field(default_factory=set)
    n_openings: int = 0

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """As `sys.setprofile` calls it."""
        if event != "call" or (room := find_room(frame)) is None:
            return
        self.functions.add(frame.f_code)
        caller = frame.f_back
        while caller is not None and find_room(caller) is None:
            caller = caller.f_back  # through contextlib, jobflow, maggma
        if caller is not None and find_room(caller) != room:
            self.crossings.add((caller.f_code, frame.f_code))


def find_room(frame: FrameType) -> str | None:
    """The package of a function of ours; None for all others, those that are not counted, and expressions."""
    code = frame.f_code
    is_function = code.co_flags & CO_OPTIMIZED and not code.co_name.startswith("<")  # no module, class, expression
    if not is_function or not code.co_filename.startswith(str(ROOT)):
        return None
    room = Path(code.co_filename).relative_to(ROOT).parts[0]
    return None if room in LEFT_OUT else room


@contextmanager
def watch() -> Iterator[Walk]:
    """Note all calls and all openings of SQLite files while entered."""
    walk, connect = Walk(), sqlite3.connect

    def count(*arguments: Any, **options: Any) -> sqlite3.Connection:
        walk.n_openings += 1
        return connect(*arguments, **options)

    sqlite3.connect = count
    sys.setprofile(walk.note)
    try:
        yield walk
    finally:
        sys.setprofile(None)
        sqlite3.connect = connect


def screen(files: list[str]) -> None:
    """Type the command in this process."""
    (script,) = entry_points(group="console_scripts", name="e3relax")
    main = script.load()
    sys.argv = ["e3relax", "screen", *files, "--engine", "emt", "--out", "out"]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise


def count_calls(path: Path, name: str) -> int:
    """Calls of a function by its bare name in a module; those of examples in docstrings are not counted."""
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return sum(isinstance(called, ast.Name) and called.id == name for called in calls)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="e3relax_walk_"))
    os.chdir(folder)
    os.environ |= {"E3RELAX_DATA_DIR": str(folder / "data"), "E3RELAX_CONFIG_FILE": str(folder / "none.yaml")}
    files = []
    for element, a in METALS.items():
        half = a / 2
        cell = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        files.append(f"{element}.vasp")
        Structure(cell, [element], [[0, 0, 0]]).to(files[-1], fmt="poscar")
    register_engine("emt", EngineEntry("effective medium theory", EmtEngine, is_dft=False), overwrite=True)
    walks = []
    for number in (1, 2):
        os.environ["E3RELAX_DATA_DIR"] = str(folder / f"data{number}")
        with watch() as walk:
            screen(files[:number])
        walks.append(walk)
    modules = list(ROOT.rglob("*.py"))
    table = Table("what", "count", title="e3relax screen FILE")
    for what, number in (
        ("functions on the way", len(walks[0].functions)),
        ("calls from room to room", len(walks[0].crossings)),
        ("SQLite openings, one candidate", walks[0].n_openings),
        ("openings for a further candidate", walks[1].n_openings - walks[0].n_openings),
        ("sites of load_settings()", sum(count_calls(path, "load_settings") for path in modules)),
        ("modules", len(modules)),
        ("lines", sum(len(path.read_text().splitlines()) for path in modules)),
    ):
        table.add_row(what, str(number))
    Console(width=80).print(table)


if __name__ == "__main__":
    main()
