"""The log of a screen, read as an operator searches it: by the name of a candidate, then by its ids."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.items import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.engines import register_engine
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import load_screen, open_screen_stores
from e3relax_flows.testing import EMT_ENTRY, EMT_LATTICES, EmtEngine

COMMAND = """
import sys
from e3relax_flows.cli.app import main
from e3relax_flows.engines import register_engine
from e3relax_flows.testing import EMT_ENTRY
register_engine("emt", EMT_ENTRY)
main()
"""


def make_cell(element: str) -> Structure:
    half = EMT_LATTICES[element] * 1.03 / 2
    return Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), [element], [[0, 0, 0]])


def search(lines: list[str], words: str) -> list[str]:
    """What an operator gets who types `grep WORDS LOG`."""
    return [line for line in lines if re.search(words, line)]


@pytest.mark.usefixtures("predictor")
def test_the_log_has_the_whole_life_of_a_candidate(
    settings: E3RelaxSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maker = ScreenMaker(engine=EmtEngine(), control=0, chunk_size=2)
    items = [ReadItem(name, make_cell(name), None) for name in ("Cu", "Ag")]
    items += [ReadItem("again", make_cell("Cu"), None), ReadItem("bad", None, "bad.cif: no crystal")]
    with caplog.at_level(logging.INFO, "e3relax_flows"):
        with open_screen_stores(settings) as stores:
            screen, _ = register_screen(stores, maker, items, load_settings(MODEL="table"))
        run_screen_here(str(screen.screen_id), settings, tmp_path / "jobs")
    with open_screen_stores(settings) as stores:
        row = next(row for row in load_screen(stores, str(screen.screen_id)).candidates if row.id == "Cu")
    (outcome,) = row.outcomes
    lines = [record.getMessage() for record in caplog.records]

    life = search(lines, r"candidate Cu\b")
    states = [match[1] for line in life if (match := re.match(r"candidate Cu of screen \S+: (\w+ -> \w+)", line))]
    assert states == [
        "registered -> waiting", "waiting -> predicted", "predicted -> planned", "planned -> submitted",
        "submitted -> successful",
    ]  # fmt: skip
    assert all(f"of screen {screen.screen_id}:" in line for line in life if line.startswith("candidate"))
    assert search(life, f"verdict accept, prediction {row.prediction_id}")
    recorded = [
        line.split(": ")[1].split(",")[0].split(" by ")[0] for line in search(lines, f"^outcome {outcome.outcome_id}")
    ]
    assert recorded == ["claimed", "successful"]
    released = search(lines, f"claim {outcome.outcome_id}: released")
    assert len(released) == 1
    order = [lines.index(line) for line in (life[0], *search(life, "claimed by"), *released, life[-1])]
    assert order == sorted(order)

    assert search(lines, r"candidate again of screen .* -> duplicate \(duplicate of Cu\)")
    assert search(lines, r"candidate bad of screen .* -> error \(.*no crystal")
    assert search(lines, f"chunk 0 of screen {screen.screen_id}: predicted, 2 accept")
    assert search(lines, f"screen {screen.screen_id}: relaxing -> finished")
    assert {record.levelno for record in caplog.records} == {logging.INFO}


@pytest.mark.usefixtures("predictor")
def test_a_candidate_that_fails_says_why(
    settings: E3RelaxSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maker = ScreenMaker(engine=EmtEngine(), control=0)
    silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.5), ["Si"], [[0, 0, 0]])
    with caplog.at_level(logging.INFO, "e3relax_flows"):
        with open_screen_stores(settings) as stores:
            screen, _ = register_screen(stores, maker, [ReadItem("Si", silicon, None)], load_settings(MODEL="table"))
        run_screen_here(str(screen.screen_id), settings, tmp_path / "jobs")
    lines = search([record.getMessage() for record in caplog.records], r"candidate Si\b")
    assert len(search(lines, r"^outcome \S+ of candidate Si: failed, .*\(.*Si")) == 1
    assert len(search(lines, "submitted -> failed")) == 1


def test_the_command_shows_its_log_where_it_is_asked_to(tmp_path: Path) -> None:
    register_engine("emt", EMT_ENTRY, overwrite=True)
    for element in ("Cu", "Ag"):
        make_cell(element).to_file(str(tmp_path / f"{element}.json"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("E3RELAX_")}
    environment |= {"E3RELAX_CONFIG_FILE": str(tmp_path / "none.yaml"), "E3RELAX_DEVICE": "cpu"}

    def run(*options: str, data: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ["screen", "run", "Cu.json", "Ag.json", "--engine", "emt", "--out", f"{data}_out", "--json"]
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *options, *words],
            cwd=tmp_path, env={**environment, "E3RELAX_DATA_DIR": str(tmp_path / data), **more},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    quiet = run(data="quiet")
    assert quiet.returncode == 0, quiet.stderr
    assert "e3relax_flows." not in quiet.stderr
    shown = run("--log-level", "info", data="shown")
    asked = run(data="asked", E3RELAX_LOG_LEVEL="INFO")
    for loud in (shown, asked):
        assert loud.returncode == 0, loud.stderr
        lines = search(loud.stderr.splitlines(), r"candidate Cu\b")
        assert search(lines, r"^\d{4}-\d\d-\d\d \S+ INFO e3relax_flows\.screening\.store: candidate Cu of screen")
        assert len(search(lines, "submitted -> successful")) == 1
        assert json.loads(loud.stdout).keys() == json.loads(quiet.stdout).keys()
    refused = run("--log-level", "loud", data="refused")
    assert refused.returncode == 2
    assert "loud" in refused.stderr
