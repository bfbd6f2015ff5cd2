"""What is shipped: a wheel with weights and assets, the file of the container, the versions that are pinned."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
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
    wheel.extractall(tmp_path, [name for name in names if "weights/small" in name])
    shipped = read_model_folder(tmp_path / "e3relax_flows" / "weights" / "small")
    assert shipped.model_id == read_model_folder(package / "weights" / "small").model_id


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
