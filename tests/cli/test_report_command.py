"""`e3relax report`: pages from documents of a real screen; the command that repeats a candidate is typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.settings import load_settings
from e3relax_flows.data.stores import open_stores
from e3relax_flows.engines import registry
from e3relax_flows.report.candidatepages import CommandBook
from e3relax_flows.schemas.predictions import Constraints, GuardLimits, PredictionDoc, PredictOptions
from e3relax_flows.testing import EMT_LATTICES


@pytest.fixture
def emt(monkeypatch):
    """The engine "emt" by name."""
    entry = registry._Entry("EMT; not DFT", "e3relax_flows.testing:EmtEngine", is_dft=False)
    monkeypatch.setitem(registry._REGISTRY, "emt", entry)


@pytest.fixture
def screened(emt, e3relax, predictor, tmp_path):  # noqa: ARG001
    """Folder of a finished screen of Cu and Ag, each relaxed from both starts."""
    folder = tmp_path / "metals"
    folder.mkdir()
    for element in ("Cu", "Ag"):
        half = EMT_LATTICES[element] * 1.04 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        Structure(lattice, [element], [[0, 0, 0]]).to_file(str(folder / f"{element}.cif"))
    assert e3relax("screen", folder, "--engine", "emt", "--control", 1, "--out", tmp_path / "out").code == 0
    return tmp_path / "out"


def read_content(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="content">(.*?)</script>', text, re.DOTALL)[1])


def read_candidates(page: Path) -> list[dict]:
    candidates = read_content(page)["candidates"]
    names = [column["id"] for column in candidates["columns"]]
    return [dict(zip(names, row, strict=True)) for row in candidates["rows"]]


def test_a_screen_is_reported_from_its_folder_its_file_and_its_id(e3relax, screened, tmp_path):
    document = json.loads((screened / "screen.json").read_text())
    for number, name in enumerate([screened, screened / "screen.json", document["screen_id"]]):
        page = tmp_path / f"{number}.html"
        result = e3relax("report", "screen", name, "-o", page, "--json")
        assert result.code == 0, result.stderr
        told = json.loads(result.stdout)
        assert (told["page"], told["candidates"], told["missing"], told["written"]) == (str(page), 2, 0, True)
        rows = {row["id"]: row for row in read_candidates(page)}
        assert sorted(rows) == ["Ag", "Cu"]
        assert 1 <= rows["Cu"]["steps"] < rows["Cu"]["control"]
        assert rows["Cu"]["relaxed"] == pytest.approx(EMT_LATTICES["Cu"] ** 3 / 4, abs=0.05)
    (screen_page,) = screened.glob("report.html")  # what the screen itself has left is the same page
    assert read_content(screen_page) == read_content(tmp_path / "0.html")


def test_a_dry_run_writes_nothing(e3relax, screened, tmp_path):
    result = e3relax("report", "screen", screened, "-o", tmp_path / "page.html", "--dry-run")
    assert result.code == 0
    assert "would be written to" in result.stdout
    assert not (tmp_path / "page.html").exists()


def test_missing_documents_are_told_with_exit_code_1(e3relax, screened, tmp_path, monkeypatch):
    monkeypatch.setenv("E3RELAX_DATA_DIR", str(tmp_path / "elsewhere"))
    result = e3relax("report", "screen", screened, "-o", tmp_path / "page.html")
    assert result.code == 1
    assert "2 of 2 predictions are not in the store" in result.stderr
    assert [row["id"] for row in read_candidates(tmp_path / "page.html")] == ["Ag", "Cu"]


def test_wrong_paths_are_messages(e3relax, screened, tmp_path):
    result = e3relax("report", "screen", screened, "-o", tmp_path)
    assert result.code == 2
    assert "is a folder; give the name of a file" in result.stderr
    result = e3relax("report", "screen", tmp_path / "none.json", "-o", tmp_path / "page.html")
    assert result.code == 2
    assert "is no document of a screen" in result.stderr


def test_candidates_are_ranked_above_a_hull(e3relax, screened, tmp_path):
    row = next(row for row in read_candidates(screened / "report.html") if row["id"] == "Ag")
    energies = {"Ag": row["energy"] - 0.25, "Cu": 0.125 + read_energy(screened, "Cu")}
    entries = tmp_path / "entries.json"
    entries.write_text(
        json.dumps(
            [
                {"@module": "pymatgen.entries.computed_entries", "@class": "ComputedEntry", "entry_id": f"r-{name}"}
                | {"composition": {name: 1}, "energy": energy, "correction": 0.0, "parameters": {}, "data": {}}
                for name, energy in energies.items()
            ]
        )
    )
    result = e3relax("report", "screen", screened, "-o", tmp_path / "page.html", "--entries", entries)
    assert result.code == 0, result.stderr
    rows = read_candidates(tmp_path / "page.html")
    assert [row["id"] for row in rows] == ["Cu", "Ag"]
    assert [row["above"] for row in rows] == pytest.approx([-0.125, 0.25], abs=2e-3)


def read_energy(folder: Path, name: str) -> float:
    return next(row["energy"] for row in read_candidates(folder / "report.html") if row["id"] == name)


@pytest.mark.usefixtures("screened")
def test_the_command_on_a_candidate_finds_what_is_stored(e3relax, predictor, tmp_path, monkeypatch):
    """Typed as it stands, with the same stores, it predicts and relaxes nothing anew."""
    with open_stores(load_settings()) as stores:
        (raw,) = stores.predictions.query({"id": "Cu"})
        raw.pop("_id", None)
        prediction = PredictionDoc.model_validate(raw)
        n_outcomes = stores.outcomes.count()
    book = CommandBook()
    book.note("emt", prediction)
    (template,) = book.templates
    command = template.replace("PREDICTION_ID", prediction.prediction_id)
    *files, last = command.split("\n")
    work = tmp_path / "work"
    work.mkdir()
    script = "\n".join(files).replace("python -", f"{sys.executable} -", 1)
    subprocess.run(["bash", "-eu", "-c", script], cwd=work, check=True)
    monkeypatch.chdir(work)
    n_predicted = predictor.n_predicted
    result = e3relax(*last.split()[1:])
    assert result.code == 0, result.stderr
    assert predictor.n_predicted == n_predicted
    assert "1 outcomes were in the store already" in result.stdout
    with open_stores(load_settings()) as stores:
        assert stores.outcomes.count() == n_outcomes


def test_the_command_holds_every_option(tmp_path):
    import yaml

    from e3relax_flows.cli.screenconfig import load_screen_config

    options = PredictOptions(
        passes=3,
        symmetry="free",
        constraints=Constraints(vacuum_axis="c", fixed_atoms=(0, 2)),
        guards=GuardLimits(max_harm=0.3),
    )
    doc = PredictionDoc.model_construct(model_id="m" * 16, prediction_id="p" * 16, options=options)
    book = CommandBook()
    assert book.note('it\'s: "odd"', doc) == [0, "p" * 16]
    assert book.note('it\'s: "odd"', doc) == [0, "p" * 16]
    assert book.note("other", doc)[0] == 1
    text = next(iter(book.templates)).split("<<'END'\n")[2].split("\nEND")[0]
    assert yaml.safe_load(text)["engine"] == 'it\'s: "odd"'
    (tmp_path / "one.yaml").write_text(text.replace("PREDICTION_ID", "p"))
    config = load_screen_config(tmp_path / "one.yaml")
    assert config.options == options
    assert (config.model, config.control) == ("m" * 16, 0)
