"""Run pages block by block: their Python, their commands, and what they show of the output."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import yaml
from pages import ROOT, read_blocks

from e3relax_flows.cli.app import main
from e3relax_flows.report import console

# programs that pages name and that are not ours; e3relax, make, pip and python are looked into
ELSEWHERE = {
    "source",
    "export",
    "cd",
    "cp",
    "chmod",
    "mkdir",
    "grep",
    "lpad",
    "rlaunch",
    "qlaunch",
    "sbatch",
    "jf",
    "torchrun",
    "podman",
    "uv",
}


class PageRun(NamedTuple):
    """What came of a page."""

    names: dict[str, Any]  # that its Python has left
    n_run: int  # blocks of Python and commands that were run


def run_page(page: Path, commands: dict[tuple[str, ...], Any], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> PageRun:
    """Run the blocks of a page in their order; gives the names that its Python has left, and how many blocks ran."""
    module = ModuleType("__page__")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where its dataclasses look for their own names
    monkeypatch.setattr(console.out, "width", 140)  # tables are as wide as those shown
    output, is_printed, n_run = "", False, 0
    for block in read_blocks(page):
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
        if block.language in ("yaml", "json"):
            assert yaml.safe_load(block.text) is not None
        elif block.language == "python":
            code = compile(block.text, str(page), "exec")
            if block.why_not is None and block.file is None:
                capsys.readouterr()
                exec(code, vars(module))
                output, is_printed, n_run = capsys.readouterr().out, True, n_run + 1
        elif block.language == "text":
            check_output(block.text, output, is_printed)
        elif block.language == "sh":
            output, is_printed = "", False
            for command in block.list_commands():
                check_command(command.words, commands, capsys)
                if block.why_not is None:
                    assert command.words[0] == "e3relax", f"{command}: give a reason with <!-- not run: ... -->"
                    assert run(command.words, monkeypatch) == command.exit_code, capsys.readouterr().err
                    output, n_run = output + capsys.readouterr().out, n_run + 1
    return PageRun(vars(module), n_run)


def check_output(shown: str, output: str, is_whole: bool = False) -> None:
    """Look whether the lines that a page shows are in the output of the block above them; spaces do not count.

    Of the output of commands only rows of three or more cells are compared: their sentences may be shortened. Three
    dots stand for what differs from run to run.
    """
    lines = [" ".join(line.split()) for line in output.splitlines()]
    for line in shown.splitlines() if output else ():
        if is_whole or (len(re.split(r" {2,}", line.strip())) > 2 and re.search(r"\d", line)):
            pattern = re.compile(re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*"))
            assert any(map(pattern.fullmatch, lines)), f"{line}\nis not in\n{output}"


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command of ours in this process; its exit code."""
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def check_command(words: list[str], commands: dict[tuple[str, ...], Any], capsys: Any) -> None:
    """Look whether a command, its options, targets, extras and files exist, without running it."""
    program, *arguments = words
    line = shlex.join(words)
    if program == "e3relax":
        check_own(words, commands, capsys)
    elif program == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in arguments if "=" not in word} <= set(targets), line
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.findall(r"\[([\w,-]+)\]", line)
        assert {extra for group in named for extra in group.split(",")} <= set(extras), line
    elif program in ("python", "python3"):
        assert arguments[0] == "-m" or (ROOT / arguments[0]).is_file(), line
    else:
        assert program in ELSEWHERE or "=" in program, line
    for word in arguments:
        if word.startswith("configs/"):
            assert any(ROOT.glob(word)), line


def check_own(words: list[str], commands: dict[tuple[str, ...], Any], capsys: Any) -> None:
    """Parse the line of a command of ours as it parses its own arguments."""
    if words[1:] and words[1].startswith("--"):
        return  # options of e3relax itself
    if words[1] == "screen" and ("e3relax", *words[1:3]) not in commands:
        words = [*words[:2], "run", *words[2:]]
    name = next((key for key in (tuple(words[:3]), tuple(words[:2])) if key in commands), None)
    assert name is not None, f"{shlex.join(words)}: no such command"
    try:
        with commands[name].make_context(" ".join(name), list(words[len(name) :])):
            pass
    except Exception as error:  # of typer's parser, whose classes differ between its releases
        pytest.fail(f"{shlex.join(words)}: {getattr(error, 'message', error)}")
    capsys.readouterr()
