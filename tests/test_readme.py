"""The README is short and correct: its Python runs, its commands and links exist, its figures stand in the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
MAX_WORDS = 900


@pytest.mark.usefixtures("settings")
def test_python_of_the_readme_runs_in_order() -> None:
    assert PYTHON_BLOCKS
    names: dict[str, object] = {}
    for block in PYTHON_BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    prediction, flow = names["prediction"], names["flow"]
    assert 0.8 < prediction.volume_ratio < 1.4  # CaO in the cell of CdO: 1.08 by measured lattice constants
    shown = f"# {prediction.verdict} {prediction.volume_ratio:.2f} {prediction.expected_error:.2f}"
    assert shown in README
    assert [job.name for job, _ in flow.iterflow()] == ["e3r predict 1", "relax 2"]


def test_it_is_short() -> None:
    prose = re.sub(r"```[^`]*```|^    .*$|^\|.*$|<[^>]+>", "", README, flags=re.MULTILINE)
    assert 300 < len(prose.split()) <= MAX_WORDS
    assert len(README.split()) <= 1.2 * MAX_WORDS  # code and tables, too
    assert all(len(re.findall(r"^.+$", block, re.MULTILINE)) <= 12 for block in PYTHON_BLOCKS)


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


def test_links_into_the_repository_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"src(?:set)?=\"([^\"]+)\"", README)
    assert len(targets) > 10
    for target in targets:
        assert (ROOT / target).exists(), target


def test_savings_are_those_of_the_committed_table() -> None:
    table = (ROOT / "benchmarks" / "results" / "dft_savings.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| SCF iterations \| (.*?) \| .*\*\*([\d.]+)\*\* \| ([\d.]+) to ([\d.]+) \|$", table, re.MULTILINE
    )
    ratios = {of: [100 * (1 - float(value)) for value in values] for of, *values in rows}
    text = " ".join(README.split())
    for arm in ("polished", "chgnet", "sevennet"):
        saved, high, low = ratios[f"{arm} / initial"]
        assert f"{saved:.0f} % (95 % interval {low:.0f} to {high:.0f} %)" in text, arm


def test_citation_names_the_release_the_paper_and_the_data() -> None:
    from importlib.metadata import version

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("e3relax-flows")
    assert "arXiv:2603.23941" in str(citation["references"])
    assert any(reference.get("doi") == "10.1063/1.4812323" for reference in citation["references"])
