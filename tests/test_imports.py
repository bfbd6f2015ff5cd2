"""The direction of imports: read from the sources, and watched while the modules are loaded."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import e3relax_flows.core

PACKAGE = Path(e3relax_flows.core.__file__).parents[1]

TABLE = re.compile(r"^    (\w+) +->((?: \w+)*)$", re.MULTILINE)
# which rooms a room may import, as CONTRIBUTING says it
MAY_IMPORT: dict[str, set[str]] = {
    room: set(names.split()) for room, names in TABLE.findall((PACKAGE.parent / "CONTRIBUTING.md").read_text())
}
WITHOUT_TORCH = (
    "core", "schemas", "stores", "ledger", "candidates", "pairs", "registry", "places", "report", "cli", "engines",
)  # fmt: skip
TORCH_ALONE = {"sevennet_batches", "torchsim_batches", "torchsim_jobs"}  # imported to evaluate
LONGEST_FUNCTION, LONGEST_FILE = 60, 400
OPTIONAL = ("abipy", "torch_sim")  # of the modules whose jobs need it at import
WITHOUT_WORKFLOWS = ("core", "graphs", "model", "predict", "train", "judging")
NAMED = re.compile(rf"{PACKAGE.name}(?:\.\w+)+(?=$|:\w+$)")  # a string that is a module path
WORKFLOW_PACKAGES = ("jobflow", "maggma", "fireworks", "atomate2")
# the front door and the test kit import what they offer from any room
OPEN_MODULES = {"__init__", "testing"}


def list_modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def name_module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_imports(source: str) -> list[tuple[int, str]]:
    """Line and absolute name of everything that a module imports: inside functions, and by a string, too."""
    found: list[tuple[int, str]] = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide their direction"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [(node.lineno, match.group()) for match in [NAMED.match(node.value)] if match]
    return found


def find_room(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE.name and len(parts) > 1 else None


def find_upward_imports(room: str, source: str) -> list[str]:
    """What `source`, a module of `room`, imports and must not."""
    wrong = []
    for line, name in find_imports(source):
        target = find_room(name)
        if name.split(".")[0] == PACKAGE.name and target not in MAY_IMPORT[room] | {room}:
            wrong.append(f"line {line}: {room} imports {name}; it may import {', '.join(sorted(MAY_IMPORT[room]))}")
        if room in WITHOUT_WORKFLOWS and name.split(".")[0] in WORKFLOW_PACKAGES:
            wrong.append(f"line {line}: {room} imports {name}; the network is usable without workflows")
    return wrong


def test_every_room_has_a_rule() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(MAY_IMPORT), f"rooms without a rule: {rooms - set(MAY_IMPORT)}, gone: {set(MAY_IMPORT) - rooms}"
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose <= OPEN_MODULES, f"modules outside of every room: {loose - OPEN_MODULES}"


def test_the_table_has_no_circle() -> None:
    assert next(TopologicalSorter(MAY_IMPORT).static_order()) == "core"
    assert set().union(*MAY_IMPORT.values()) <= set(MAY_IMPORT)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_downwards(room: str) -> None:
    wrong = [
        f"{path.relative_to(PACKAGE.parent)} {text}"
        for path in list_modules(room)
        for text in find_upward_imports(room, path.read_text())
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("core", "from e3relax_flows.schemas.pairs import PairDoc"),
        ("ledger", "def f():\n    import e3relax_flows.model.network"),
        ("engines", "from e3relax_flows.model import network"),
        ("report", "from e3relax_flows.screening.maker import ScreenMaker"),
        ("schemas", "from e3relax_flows import Predictor"),
        ("predict", "from e3relax_flows.train.evaluate import evaluate_pairs"),
        ("train", "def f():\n    from jobflow import Flow"),
        ("places", 'require("e3relax_flows.screening.launchpad", "fireworks", "screens")'),
        ("ledger", 'def f():\n    return importlib.import_module("e3relax_flows.prerelax.record")'),
    ],
)
def test_an_upward_import_is_found(room: str, source: str) -> None:
    assert len(find_upward_imports(room, source)) == 1


def test_a_downward_import_is_none() -> None:
    source = "import torch\nfrom e3relax_flows.core.ids import hash_content\nfrom e3relax_flows.graphs import batching"
    assert find_upward_imports("predict", source) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rooms", "banned"),
    [(WITHOUT_TORCH, ("torch",)), (WITHOUT_WORKFLOWS, WORKFLOW_PACKAGES)],
    ids=["torch", "workflows"],
)
def test_loading_stays_light(rooms: tuple[str, ...], banned: tuple[str, ...]) -> None:
    """Load all modules of the rooms in a fresh interpreter and look who brought in what they must not."""
    left_out = TORCH_ALONE if banned == ("torch",) else set()
    names = [name_module(path) for room in rooms for path in list_modules(room) if path.stem not in left_out]
    script = (
        "import importlib, json, sys\n"
        "names, banned, optional = json.loads(sys.argv[1])\n"
        "guilty = {}\n"
        "for name in names:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        if error.name not in optional:\n"
        "            raise\n"
        "    for package in banned:\n"
        "        if package in sys.modules and package not in guilty:\n"
        "            guilty[package] = name\n"
        "print('RESULT' + json.dumps([guilty, len(names)]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, json.dumps([names, banned, OPTIONAL])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    guilty, n_loaded = json.loads(run.stdout.split("RESULT")[1])
    assert n_loaded == len(names) > 0
    assert not guilty, "; ".join(f"{package} is loaded by {name}" for package, name in guilty.items())


def test_functions_and_files_stay_short() -> None:
    """CONTRIBUTING's limits: 60 lines and 7 parameters of a function (ruff counts these, too), 400 lines of a file."""
    long = [
        f"{path.relative_to(PACKAGE)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    long += [str(path) for path in sorted(PACKAGE.rglob("*.py")) if path.read_text().count("\n") > LONGEST_FILE]
    assert long == []
