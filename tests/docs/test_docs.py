"""The documentation tells the truth: its Python and commands run in order, page by page; the rest at least exists."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pages import DOCS, ROOT, Block, Line, list_pages, read_blocks

import e3relax_flows
from e3relax_flows.candidates.builtin import SUBSTITUTIONS
from e3relax_flows.cli import console
from e3relax_flows.cli.app import main
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines import list_engines

PAGES = [page for page in list_pages() if read_blocks(page)]
# programs that pages name and that are not ours; e3relax, make, pip and python are looked into
ELSEWHERE = {
    "source",
    "export",
    "cd",
    "cp",
    "chmod",
    "mkdir",
    "lpad",
    "rlaunch",
    "qlaunch",
    "jf",
    "torchrun",
    "podman",
    "uv",
}


@pytest.fixture(scope="module")
def hooks() -> Any:
    """The module that makes reference pages of the code."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def commands(hooks: Any) -> dict[tuple[str, ...], Any]:
    return dict(hooks.iterate_commands())


def check_screen(names: dict[str, Any]) -> None:
    """Look at what the page `howto/python.md` has computed, and whether the page of the demo shows the same."""
    prediction, screen = names["prediction"], names["screen"]
    assert prediction.verdict in ("accept", "refuse")
    assert 0.8 < prediction.volume_ratio < 1.4  # CaO in the cell of CdO: 1.08 by measured lattice constants
    assert [row["state"] for row in screen["candidates"]] == ["successful", "successful"]
    demo = (DOCS / "tutorials" / "demo.md").read_text(encoding="utf-8")
    for row in screen["candidates"]:
        steps = {outcome["start_kind"]: outcome["n_ionic_steps"] for outcome in row["outcomes"]}
        assert all(1 <= count < 100 for count in steps.values())
        shown = re.search(rf"^  {row['id']} .* (\d+) \| +(\d+) ", demo, re.MULTILINE)
        assert shown is not None, row["id"]
        assert (int(shown[1]), int(shown[2])) == (steps["predicted"], steps["control"])
    assert sorted(set(names["outcomes"]["id"])) == sorted(row["id"] for row in screen["candidates"])


RESULTS = {"howto/python.md": check_screen}  # what is to hold when a page has run


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_blocks_of_a_page_run_in_order(page, commands, monkeypatch, capsys):
    module = ModuleType("__page__")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where its dataclasses look for their own names
    monkeypatch.setattr(console.out, "width", 140)  # tables are as wide as those shown
    output, is_printed = "", False
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
                output, is_printed = capsys.readouterr().out, True
        elif block.language == "text":
            check_output(block.text, output, is_printed)
        elif block.language == "sh":
            output, is_printed = "", False
            for command in block.list_commands():
                check_command(command.words, commands, capsys)
                if block.why_not is None:
                    assert command.words[0] == "e3relax", f"{command}: give a reason with <!-- not run: ... -->"
                    assert run(command.words, monkeypatch) == command.exit_code, capsys.readouterr().err
                    output += capsys.readouterr().out
    RESULTS.get(page.relative_to(DOCS).as_posix(), dict)(vars(module))


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


def test_output_that_is_not_printed_is_noticed():
    printed = "  name      error   steps\n  NaBr      0.013       3\n\n1 structure\n"
    check_output("name    error   steps\nNaBr   0.013   3\nNaBr   ...   3\nonly some of the sentences ...\n", printed)
    for shown, is_whole in (("NaBr   0.014   3\n", False), ("2 structures\n", True)):
        with pytest.raises(AssertionError):
            check_output(shown, printed, is_whole)


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


def test_what_does_not_exist_is_found(commands, capsys):
    for line in ("e3relax predicts x", "e3relax predict x --none", "e3relax data", "make nothing", "rm -rf x",
                 "pip install 'e3relax-flows[none]'", "python workflows/99_none.py"):  # fmt: skip
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check_command(shlex.split(line), commands, capsys)
    check_command(shlex.split("e3relax screen candidates/ --engine chgnet"), commands, capsys)
    check_command(shlex.split("e3relax screen status"), commands, capsys)


def test_blocks_are_found_with_what_stands_above_them(tmp_path):
    page = tmp_path / "page.md"
    text = "a b \\\n  c  # d\ne && f  # exit code 1\n# all\n"
    page.write_text(f"<!-- not run: why -->\n```sh\n{text}```\n\n<!-- file: x.yaml -->\n```yaml\nx: 1\n```\n")
    assert read_blocks(page) == [Block("sh", text, None, "why"), Block("yaml", "x: 1\n", "x.yaml", None)]
    assert read_blocks(page)[0].list_commands() == [Line(["a", "b", "c"], 0), Line(["e"], 1), Line(["f"], 1)]


def test_reference_pages_name_every_command_setting_document_and_module(hooks, commands):
    pages = hooks.build_pages()
    for words, command in commands.items():
        assert f"## {' '.join(words)}\n" in pages["reference/cli.md"]
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.opts[0] in pages["reference/cli.md"]
    assert ("e3relax", "screen", "resume") in commands
    for name, field in E3RelaxSettings.model_fields.items():
        assert f"| `E3RELAX_{name}` | " in pages["reference/settings.md"]
        assert str(field.description) in pages["reference/settings.md"]
    documents = pages["reference/documents.md"]
    assert "### PredictionDoc" in documents
    assert "| `volume_ratio` | `float \\| None` | none | predicted volume over initial volume |" in documents
    assert "### ScheduleConfig" in pages["reference/configuration.md"]
    assert "## 02_screen_substitutions.py" in pages["reference/workflows.md"]
    assert all(f"| `{info.name}` | " in pages["reference/engines.md"] for info in list_engines())
    packages = {info.name for info in pkgutil.iter_modules(e3relax_flows.__path__) if info.ispkg}
    assert set(hooks.PACKAGES) == packages - {"cli", "weights"}
    assert "::: e3relax_flows.stores.opening" in pages["reference/python/stores.md"]


def test_tables_of_the_reference_have_as_many_cells_as_titles(hooks):
    for path, text in hooks.build_pages().items():
        width = 0
        for line in text.splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not cells or not width or cells == width, f"{path}: {line}"
            width = cells


def test_the_navigation_names_every_page(hooks):
    pages = {page.relative_to(DOCS).as_posix() for page in list_pages()} | hooks.build_pages().keys()
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    assert named == pages


def test_the_demo_page_shows_every_candidate():
    text = (DOCS / "tutorials" / "demo.md").read_text(encoding="utf-8")
    assert "initial → predicted → relaxed with CHGNet-0.3.0: a potential, not DFT" in text
    assert f"{len(SUBSTITUTIONS)} candidates" in text
    for candidate in SUBSTITUTIONS:
        assert f"  {candidate.name} " in text


def test_what_is_not_run_says_why():
    reasons = [block.why_not for page in PAGES for block in read_blocks(page) if block.why_not is not None]
    known = (
        "installs packages",
        "needs a cluster",
        "needs VASP",
        "needs a checkpoint",
        "needs a GPU",
        "needs a network",
        "needs older pairs",
    )
    assert reasons
    assert all(reason.startswith(known) for reason in reasons)
