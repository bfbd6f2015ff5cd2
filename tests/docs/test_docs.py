"""The documentation tells the truth: what its pages name exists, and reference pages name all there is."""

from __future__ import annotations

import re
import shlex

import pytest
from page_runs import check_command, check_output
from pages import DOCS, ROOT, Block, Line, list_pages, read_blocks

import e3relax_flows
import e3relax_flows.testing
from e3relax_flows.candidates.builtin import SUBSTITUTIONS
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines import list_engines

PAGES = [page for page in list_pages() if read_blocks(page)]


def test_output_that_is_not_printed_is_noticed():
    printed = "  name      error   steps\n  NaBr      0.013       3\n\n1 structure\n"
    check_output("name    error   steps\nNaBr   0.013   3\nNaBr   ...   3\nonly some of the sentences ...\n", printed)
    for shown, is_whole in (("NaBr   0.014   3\n", False), ("2 structures\n", True)):
        with pytest.raises(AssertionError):
            check_output(shown, printed, is_whole)


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


def test_reference_pages_name_every_command_setting_and_document(hooks, commands):
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


def test_each_public_name_stands_on_one_page_and_nothing_else_does(hooks):
    pages = {path: text for path, text in hooks.build_pages().items() if path.startswith("reference/python/")}
    described = re.findall(r"^::: (\S+)$", "\n".join(pages.values()), re.MULTILINE)
    public = [
        f"{module.__name__}.{name}" for module in (e3relax_flows, e3relax_flows.testing) for name in module.__all__
    ]
    assert sorted(described) == sorted(public)
    assert "from e3relax_flows import Predictor\n" in pages["reference/python/predictions.md"]
    assert "[`EmtEngine`](testing.md#e3relax_flows.testing.EmtEngine)" in pages["reference/python/index.md"]


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
