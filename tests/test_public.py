"""The public API: what is promised is there, typed, shown by examples that run, and enough for all that we publish."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import e3relax_flows
from e3relax_flows import testing
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines.registry import list_engines, unregister_engine

ROOT = Path(e3relax_flows.__file__).parents[1]
FIRST = (
    "Predictor", "PredictOptions", "GuardLimits", "PrerelaxMaker", "PrerelaxFlowMaker", "ScreenMaker", "RetrainMaker",
    "CampaignMaker", "PairBuilder", "Engine", "get_engine", "register_engine", "open_workspace", "submit", "run_screen",
    "predictions_dataframe", "outcomes_dataframe", "load_pairs", "PairSet", "measure_errors", "evaluate_pairs",
    "identify_structure", "PrototypeSource", "choose_gpaw_settings", "recalibrate", "vary_starts", "submit_screen",
    "read_screen", "TrainConfig", "train_model", "SelectionMix", "SelectionPool", "choose_candidates",
)  # fmt: skip
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# the one script that may import from rooms, and why: it describes what has no public name
EXCEPTIONS = {
    "docs/hooks.py": ("cli core", "describes every command, setting and document"),
}


def list_scripts() -> list[str]:
    files = ["README.md"]
    for folder, endings in (("docs", "**/*.md"), ("docs", "*.py"), ("workflows", "*.py"), ("benchmarks", "*.py")):
        files += [str(path.relative_to(ROOT)) for path in sorted((ROOT / folder).glob(endings))]
    return files


def find_inner_rooms(file: str) -> set[str]:
    """Rooms of ours that a script or the Python of a page imports beside the public names."""
    text = (ROOT / file).read_text()
    sources = PYTHON.findall(text) if file.endswith(".md") else [text]
    rooms = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("e3relax_flows.")}
    return rooms - {"testing"}


@pytest.mark.parametrize("file", list_scripts())
def test_what_we_publish_uses_public_names(file: str) -> None:
    allowed, _ = EXCEPTIONS.get(file, ("", ""))
    assert find_inner_rooms(file) == set(allowed.split())


def test_exceptions_exist() -> None:
    assert set(EXCEPTIONS) <= set(list_scripts())


def test_names_are_typed_and_there() -> None:
    tree = ast.parse(Path(e3relax_flows.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == e3relax_flows._HOMES
    assert sorted(typed) == sorted(e3relax_flows.__all__)
    assert set(FIRST) <= set(typed)
    for name in e3relax_flows.__all__:
        value = getattr(e3relax_flows, name)
        assert getattr(importlib.import_module(typed[name][0]), typed[name][1]) is value
        if callable(value):
            assert (value.__doc__ or "").strip(), f"{name} has no docstring"


def test_no_public_name_is_of_the_command_line() -> None:
    """Commands print and type what other rooms do: a script never needs one."""
    assert [name for name, (module, _) in e3relax_flows._HOMES.items() if module.split(".")[1] == "cli"] == []


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="Predictr"):
        e3relax_flows.Predictr  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, e3relax_flows; print(sorted({'torch', 'pymatgen', 'jobflow', 'maggma'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


WRITES = re.compile(r"\b(save_|prepare_|promote\(|rollback\(|register_(model|campaign)\(|run_(?!retraining)|submit\()")


def test_examples_write_into_stores_of_their_own() -> None:
    """Who runs an example has no made pair, holdout or alias among real ones afterwards."""
    shown = {name: str(getattr(module, name).__doc__) for module, name in list_callables()}
    examples = {
        name: "\n".join(re.findall(r"^ *(?:>>>|\.\.\.) (.*)", text, re.MULTILINE)) for name, text in shown.items()
    }
    code = {name: re.sub(r"^from .*|^import .*", "", text, flags=re.MULTILINE) for name, text in examples.items()}
    assert [name for name, text in code.items() if WRITES.search(text) and "isolate_stores(" not in text] == []


def list_callables() -> list[tuple[ModuleType, str]]:
    """Public classes and functions with the module that users import them from."""
    modules = (e3relax_flows, testing)
    return [(module, name) for module in modules for name in module.__all__ if callable(getattr(module, name))]


@pytest.mark.parametrize(("module", "name"), list_callables(), ids=lambda value: getattr(value, "__name__", value))
def test_examples_run(
    module: ModuleType,
    name: str,
    settings: E3RelaxSettings,  # noqa: ARG001
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = getattr(module, name)
    examples = doctest.DocTestFinder(recurse=False).find(value, name, globs={name: value})
    assert sum(len(test.examples) for test in examples) > 0, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    known = {engine.name for engine in list_engines()}
    for test in examples:
        runner.run(test)
    for engine in list_engines():
        if engine.name not in known:
            unregister_engine(engine.name)
    report = capsys.readouterr().out
    assert runner.summarize(verbose=False).failed == 0, report
