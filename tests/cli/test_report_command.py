"""`e3relax report`: pages from documents of a real screen; the command that repeats a candidate is typed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.campaigns.store import open_campaign_stores, save_campaign, save_phase
from e3relax_flows.core.settings import load_settings
from e3relax_flows.engines import register_engine
from e3relax_flows.ledger.store import open_stores
from e3relax_flows.registry.judgements import open_judgements, save_evaluation
from e3relax_flows.report.candidate_pages import CommandBook
from e3relax_flows.schemas.campaigns import BeginResult, CampaignConfig, CampaignDoc, ConcludeResult, Interval, Phase
from e3relax_flows.schemas.models import EvaluatedPair, EvaluationDoc
from e3relax_flows.schemas.predictions import Constraints, GuardLimits, PredictionDoc, PredictOptions, Verdict
from e3relax_flows.schemas.retraining import RetrainConfig
from e3relax_flows.schemas.screens import ScreenDoc
from e3relax_flows.testing import EMT_ENTRY, EMT_LATTICES


@pytest.fixture
def emt():
    """The engine "emt" by name."""
    register_engine("emt", EMT_ENTRY, overwrite=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A copy of the first screen and its stores, for the other tests."""
    return tmp_path_factory.mktemp("kept") / "all"


@pytest.fixture
def screened(emt, e3relax, predictor, tmp_path, kept):  # noqa: ARG001
    """Folder of a finished screen of Cu and Ag, each relaxed from both starts."""
    if kept.exists():
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
        return tmp_path / "out"
    folder = tmp_path / "metals"
    folder.mkdir()
    for element in ("Cu", "Ag"):
        half = EMT_LATTICES[element] * 1.04 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        Structure(lattice, [element], [[0, 0, 0]]).to_file(str(folder / f"{element}.cif"))
    assert e3relax("screen", folder, "--engine", "emt", "--control", 1, "--out", tmp_path / "out").code == 0
    shutil.copytree(tmp_path, kept)
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
    assert "is not the document of a screen" in result.stderr


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
    book.note(ScreenDoc.model_construct(engine="emt", engine_settings={}), prediction)
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

    from e3relax_flows.cli.config_files import load_screen_config

    options = PredictOptions(
        passes=3,
        symmetry="free",
        constraints=Constraints(vacuum_axis="c", fixed_atoms=(0, 2)),
        guards=GuardLimits(max_harm=0.3),
    )
    doc = PredictionDoc.model_construct(model_id="m" * 16, prediction_id="p" * 16, options=options)
    book = CommandBook()
    odd, other = (
        ScreenDoc.model_construct(engine=engine, engine_settings={"fmax": 0.05}) for engine in ('it\'s: "odd"', "other")
    )
    assert book.note(odd, doc) == [0, "p" * 16]
    assert book.note(odd, doc) == [0, "p" * 16]
    assert book.note(other, doc)[0] == 1
    text = next(iter(book.templates)).split("<<'END'\n")[2].split("\nEND")[0]
    assert yaml.safe_load(text)["engine"] == 'it\'s: "odd"'
    (tmp_path / "one.yaml").write_text(text.replace("PREDICTION_ID", "p"))
    config = load_screen_config(tmp_path / "one.yaml")
    assert config.options == options
    assert (config.model, config.control, config.engine_settings) == ("m" * 16, 0, {"fmax": 0.05})


def test_the_bundled_model_has_a_page_without_any_store(e3relax, tmp_path):
    result = e3relax("report", "model", "default", "-o", tmp_path / "model.html", "--json")
    assert result.code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["kind"], told["evaluations"], told["relaxations"]) == ("model", 0, 0)
    text = (tmp_path / "model.html").read_text(encoding="utf-8")
    assert told["model_id"] in text
    assert "803,263" in text
    assert not (tmp_path / "data").exists()  # looking makes no stores


def test_a_model_is_told_with_what_became_of_its_predictions(e3relax, screened, tmp_path):
    document = json.loads((screened / "screen.json").read_text())
    model_id = document["candidates"][0]["model_id"]
    settings = load_settings()
    with open_judgements(settings) as stores:
        save_evaluation(stores, make_evaluation(model_id))
    result = e3relax("report", "model", settings.MODEL, "-o", tmp_path / "model.html", "--json")
    assert result.code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["model_id"], told["evaluations"], told["relaxations"]) == (model_id, 1, 2)
    figures = read_content(tmp_path / "model.html")["figures"]
    assert figures["by-source"]["data"][1]["x"] == [0.15]


def make_evaluation(model_id: str) -> EvaluationDoc:
    row = EvaluatedPair(
        pair_id="p",
        source="mp",
        stratum="oxides",
        displacement=0.1,
        strain=0.02,
        identity_displacement=0.2,
        identity_strain=0.1,
        identity_volume=0.3,
        verdict=Verdict.ACCEPT,
        valid=True,
    )
    return EvaluationDoc(evaluation_id="e", model_id=model_id, holdout_id="h", options=PredictOptions(), rows=[row])


def test_unknown_models_and_campaigns_are_messages(e3relax, tmp_path):
    result = e3relax("report", "model", "nobody", "-o", tmp_path / "model.html")
    assert result.code == 2
    assert "'nobody'" in result.stderr
    result = e3relax("report", "campaign", "nobody", "-o", tmp_path / "campaign.html")
    assert result.code == 2
    assert "'nobody'" in result.stderr


def test_a_campaign_is_reported_by_its_name(e3relax, tmp_path):
    config = CampaignConfig(
        name="oxides", inputs=["pool"], engine="vasp", labels=10, retraining=RetrainConfig(holdout="mine")
    )
    campaign = CampaignDoc(campaign_id="c" * 16, name="oxides", config=config, maker={}, n_pool=500, n_chunks=1)
    interval = Interval(mean=0.1, low=0.09, high=0.12, n=20)
    done = ConcludeResult(model_id="m-2", error=interval, dft_hours=12.5)
    with open_campaign_stores(load_settings()) as stores:
        save_campaign(stores, campaign)
        save_phase(stores, campaign.campaign_id, 0, Phase.BEGIN, BeginResult(model_id="m-1", n_left=500))
        save_phase(stores, campaign.campaign_id, 0, Phase.CONCLUDE, done)
    result = e3relax("report", "campaign", "oxides", "-o", tmp_path / "campaign.html", "--json")
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["generations"] == 1
    figures = read_content(tmp_path / "campaign.html")["figures"]
    assert figures["learning-curve"]["data"][0]["y"] == [0.1]
    assert figures["hours"]["data"][0]["y"] == [12.5]


def test_reports_are_written_without_torch(tmp_path):
    script = (
        "import sys\n"
        "from e3relax_flows.cli.app import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('torch' in sys.modules)\n"
    )
    arguments = ["report", "model", "default", "-o", str(tmp_path / "model.html"), "--json"]
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
