"""What is shipped: a wheel with weights and assets, the file of the container, the versions that are pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from e3relax_flows.core.model_folders import read_model_folder

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIMIT = 15_000_000  # bytes
# modules whose distribution has another name
DISTRIBUTIONS = {
    "bson": "pymongo", "emmet": "emmet-core", "markdown_it": "markdown-it-py", "secantus": "secantusdb",
    "torch_sim": "torch-sim-atomistic", "yaml": "pyyaml",
}  # fmt: skip
BY_STRING = ("require", "import_module", "find_spec", "importorskip")
# what users install themselves, as a message says: potentials and codes that no extra brings, and a store to compare
OWN = {"abipy", "mace", "montydb"}
SCRIPTS = ("tests", "benchmarks", "workflows", "docs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of this tree, built without looking at the network."""
    folder = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("hatchling", reason="needs the build backend: pip install hatchling")
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (path,) = folder.glob("*.whl")
    assert path.stat().st_size < LIMIT
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_what_is_read_at_run_time(wheel, tmp_path):
    names = set(wheel.namelist())
    package = ROOT / "e3relax_flows"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name and "/." not in name}
    assert {"e3relax_flows/py.typed", "e3relax_flows/weights/small/weights.safetensors"} <= expected
    assert any(name.endswith(".j2") for name in expected)
    assert any(name.endswith(".js") for name in expected)
    assert expected <= names
    assert {name.split("/")[0] for name in names} == {"e3relax_flows", f"e3relax_flows-{PROJECT['version']}.dist-info"}
    wheel.extractall(tmp_path, [name for name in names if "weights/" in name])
    for name in ("base", "small", "small-pbesol", "small-r2scan"):
        shipped = read_model_folder(tmp_path / "e3relax_flows" / "weights" / name)
        assert shipped.model_id == read_model_folder(package / "weights" / name).model_id


def test_the_wheel_names_the_command_the_licence_and_every_extra(wheel):
    info = f"e3relax_flows-{PROJECT['version']}.dist-info"
    entry_points = ConfigParser()
    entry_points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    module, function = entry_points["console_scripts"]["e3relax"].split(":")
    assert callable(getattr(import_module(module), function))
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE)) == set(PROJECT["optional-dependencies"])
    assert "License-Expression: MIT" in metadata
    assert any(name.startswith(f"{info}/licenses/LICENSE") for name in wheel.namelist())


def test_pinned_versions_are_allowed_and_are_those_that_run_here():
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pins = {name.lower().replace("_", "-"): pin for name, pin in pins.items()}
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    wanted = [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]
    pinned = [each for each in wanted if each.name.lower() in pins]
    assert {"torch", "jobflow", "maggma", "mkdocs-material", "pytest"} <= {each.name for each in pinned}
    for each in pinned:
        assert Version(pins[each.name.lower()]) in each.specifier, each
    assert all(each.specifier for each in wanted if each.name not in ("e3relax-flows", "types-PyYAML"))


def test_the_installed_version_is_that_of_the_project():
    assert version("e3relax-flows") == PROJECT["version"]


def test_the_container_starts_a_worker_with_the_files_of_the_repository():
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    words = [word for word, _ in steps]
    assert words[0] == "FROM"
    assert set(words) <= {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}
    python = re.search(r"python:(\d+\.\d+)", steps[0][1])[1]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    for _, text in (step for step in steps if step[0] == "COPY"):
        assert all((ROOT / source).exists() for source in text.split()[:-1]), text
    (install,) = (text for word, text in steps if word == "RUN")
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", install)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert words.index("USER") < words.index("ENTRYPOINT")  # no worker is root
    (entry,) = (text for word, text in steps if word == "ENTRYPOINT")
    assert '"rlaunch"' in entry
    for name in ("my_launchpad.yaml", "fworker_gpu.yaml"):
        assert f"/config/{name}" in entry
        assert (ROOT / "configs" / "fireworks" / name).is_file()


def list_requirements(lines: list[str]) -> set[str]:
    """Names of distributions, those of our extras that they name included."""
    names = set()
    for each in map(Requirement, lines):
        names.add(each.name.lower())
        for extra in each.extras if each.name == "e3relax-flows" else ():
            names |= list_requirements(PROJECT["optional-dependencies"][extra])
    return names


def find_imports(source: str) -> Iterator[tuple[str, str | None]]:
    """Distributions that a module imports, by a string too, with the extra that `require` names."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        extra = None
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names = [str(node.args[0].value)] if function in BY_STRING else []
            if function == "require" and isinstance(node.args[1], ast.Constant):
                extra = str(node.args[1].value)
        for module in (name.partition(".")[0] for name in names):
            if module not in sys.stdlib_module_names and module != "e3relax_flows":
                yield DISTRIBUTIONS.get(module, module.replace("_", "-")).lower(), extra


def find_undeclared(source: str, declared: set[str]) -> set[str]:
    """What a module imports and nothing in pyproject.toml brings; of an extra, what that extra does not bring."""
    extras = PROJECT["optional-dependencies"]
    base = list_requirements(PROJECT["dependencies"])
    return {
        name if extra is None else f"{name} [{extra}]"
        for name, extra in find_imports(source)
        if name not in (declared if extra is None else base | list_requirements(extras.get(extra, [])))
    } - OWN


def test_what_the_package_imports_is_declared():
    extras = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ("dev", "docs")}
    base = list_requirements(PROJECT["dependencies"])
    declared = base.union(*map(list_requirements, extras.values()))
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "e3relax_flows").rglob("*.py")}
    assert {str(path): found for path in sources if (found := find_undeclared(sources[path], declared))} == {}
    assert base <= {name for source in sources.values() for name, _ in find_imports(source)}  # nothing for nothing


def test_what_tests_and_scripts_import_is_declared():
    declared = list_requirements(PROJECT["dependencies"])
    declared = declared.union(*map(list_requirements, PROJECT["optional-dependencies"].values()))
    paths = [path for folder in SCRIPTS for path in (ROOT / folder).rglob("*.py")]
    ours = {path.stem.replace("_", "-") for path in paths}
    found = {str(path): find_undeclared(path.read_text(encoding="utf-8"), declared | ours) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "undeclared"),
    [
        ("import foo.bar", {"foo"}),
        ("def f():\n    from foo import bar", {"foo"}),
        ("require('foo.bar', 'mlip', 'this')", {"foo [mlip]"}),
        ("require('optimade.client', 'mlip', 'this')", {"optimade [mlip]"}),
        ("require('greenlet', 'torchsim', 'this')", set()),  # by the extra that it includes
        ("importlib.import_module('foo')", {"foo"}),
        ("import json, yaml\nfrom bson import ObjectId", set()),
    ],
)
def test_an_undeclared_import_is_found(source, undeclared):
    assert find_undeclared(source, list_requirements(PROJECT["dependencies"])) == undeclared
