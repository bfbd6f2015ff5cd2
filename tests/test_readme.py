"""The README tells the truth: its Python runs, its commands, settings, engines and links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from e3relax_flows.candidates.builtin import SUBSTITUTIONS
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines import list_engines

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.usefixtures("settings")
def test_python_of_the_readme_runs_in_order() -> None:
    assert len(PYTHON_BLOCKS) >= 2
    names: dict[str, object] = {}
    for block in PYTHON_BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    prediction, screen = names["prediction"], names["screen"]
    assert prediction.verdict in ("accept", "refuse")
    assert 0.8 < prediction.volume_ratio < 1.4  # CaO in the cell of CdO: 1.08 by measured lattice constants
    assert [row["state"] for row in screen["candidates"]] == ["successful", "successful"]
    for row in screen["candidates"]:
        steps = {outcome["start_kind"]: outcome["n_ionic_steps"] for outcome in row["outcomes"]}
        assert set(steps) >= {"control"}
        assert all(1 <= count < 100 for count in steps.values())
    assert sorted(set(names["outcomes"]["id"])) == sorted(row["id"] for row in screen["candidates"])


def test_two_commands_come_first_and_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"\bmake ([a-z]+)", README)
    assert targets[:2] == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_exists(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from e3relax_flows.cli.app import main

    commands = {tuple(words.split()) for words in re.findall(r"e3relax ((?:models )?[a-z]+)", README)}
    assert ("predict",) in commands
    assert ("screen",) in commands
    for words in sorted(commands):
        monkeypatch.setattr("sys.argv", ["e3relax", *words, "--help"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, f"{words}: {capsys.readouterr().err}"


def test_tables_name_every_setting_and_engine() -> None:
    rows = set(re.findall(r"^\| `([^`]+)`", README, re.MULTILINE))
    assert {f"E3RELAX_{name}" for name in E3RelaxSettings.model_fields} <= rows
    assert {info.name for info in list_engines()} <= rows


def test_links_into_the_repository_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_citation_names_the_release_the_paper_and_the_data() -> None:
    from importlib.metadata import version

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("e3relax-flows")
    assert "arXiv:2603.23941" in str(citation["references"])
    assert any(reference.get("doi") == "10.1063/1.4812323" for reference in citation["references"])


def test_output_shown_is_that_of_the_demo() -> None:
    shown = re.search(r"<!-- demo output: begin -->(.*)<!-- demo output: end -->", README, re.DOTALL)[1]
    assert "initial → predicted → relaxed with CHGNet-0.3.0: a potential, not DFT" in shown
    assert "24 candidates" in shown
    for candidate in SUBSTITUTIONS:
        assert candidate.name in shown
