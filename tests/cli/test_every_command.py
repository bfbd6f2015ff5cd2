"""Every command: JSON for programs, a dry run where something is written, help of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from e3relax_flows.cli.app import app

READING = ("doctor", "screen status", "screen watch", "campaign status", "models history", "models list", "models show")
# these write one file, which -o names, and nothing else
ONE_FILE = ("table", "evaluate")
NO_DRY_RUN = {*READING, "data show", "data holdouts", *ONE_FILE}


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Names and commands that do something."""
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


COMMANDS = dict(walk(get_command(app)))


def list_options(command: Any) -> set[str]:
    return {word for parameter in command.params for word in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_that_all_have(name):
    options = list_options(COMMANDS[name])
    assert "--json" in options
    assert ("--dry-run" in options) == (name not in NO_DRY_RUN)
    if name in ONE_FILE:
        assert "-o" in options
    assert COMMANDS[name].help


def test_the_exceptions_are_commands():
    assert set(COMMANDS) >= NO_DRY_RUN


def test_a_dry_run_of_predictions_reads_and_names_the_model(e3relax, small_model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.cif").write_text("nothing")
    (tmp_path / "in" / "POSCAR").write_text("Cu\n1.0\n0 1.8 1.8\n1.8 0 1.8\n1.8 1.8 0\nCu\n1\ndirect\n0 0 0\n")
    command = ("predict", tmp_path / "in", "--model", small_model, "--out", tmp_path / "out", "--dry-run")
    result = e3relax(*command)
    assert result.code == 1
    assert "bad.cif" in result.stderr
    assert "1 structures would be predicted by model" in result.stdout
    plan = json.loads(e3relax(*command, "--json").stdout)
    assert (plan["structures"], plan["unreadable"], plan["dry_run"]) == (1, 1, True)
    assert not (tmp_path / "out").exists()
