"""`e3relax screen` with a real engine that is quick, and its configuration file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from pymatgen.core import Lattice, Structure

from e3relax_flows.cli.config_files import load_screen_config
from e3relax_flows.cli.options import parse_engine_settings
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import load_settings
from e3relax_flows.engines import get_engine, list_engines, register_engine
from e3relax_flows.ledger.store import open_outcome_store
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.schemas.predictions import PredictOptions
from e3relax_flows.schemas.screens import ScreenConfig, ScreenDoc
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.run import run_screen
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.testing import EMT_ENTRY, EMT_LATTICES

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def emt():
    """The engine "emt" by name."""
    register_engine("emt", EMT_ENTRY, overwrite=True)


@pytest.fixture
def metals(tmp_path):
    """Cu and Ag, strained by 4 %, and a file that cannot be read."""
    folder = tmp_path / "metals"
    folder.mkdir()
    for element in ("Cu", "Ag"):
        half = EMT_LATTICES[element] * 1.04 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        Structure(lattice, [element], [[0, 0, 0]]).to_file(str(folder / f"{element}.cif"))
    (folder / "Xx.cif").write_text("not a crystal")
    return folder


@pytest.mark.usefixtures("emt")
def test_screen_relaxes_shows_and_computes_nothing_twice(e3relax, metals, predictor, tmp_path):
    arguments = ("screen", metals, "--engine", "emt", "--control", 1, "--out", tmp_path / "out")
    result = e3relax(*arguments)
    assert result.code == 1  # one file is unreadable
    assert "2 accepted" in result.stdout
    assert "1 no prediction" in result.stdout
    assert "EMT: a potential, not DFT" in result.stdout
    assert "2 pairs" in result.stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "EMT: a potential, not DFT" in page
    document = json.loads((tmp_path / "out" / "screen.json").read_text())
    rows = {row["id"]: row for row in document["candidates"]}
    assert list(rows) == ["Ag", "Cu", "Xx"]
    assert "Xx.cif" in rows["Xx"]["message"]
    steps = {outcome["start_kind"]: outcome["n_ionic_steps"] for outcome in rows["Cu"]["outcomes"]}
    assert 1 <= steps["predicted"] < steps["control"]
    assert predictor.n_predicted == 2

    again = e3relax(*arguments)
    assert predictor.n_predicted == 2
    assert "was registered before: its results are not computed again" in again.stderr
    assert again.stdout.replace("Page", "") == result.stdout.replace("Page", "")
    # another screen of the same candidates finds their outcomes in the store
    other = e3relax(*arguments, "--on-refuse", "skip")
    assert predictor.n_predicted == 2
    assert "4 outcomes were in the store already" in other.stdout


@pytest.mark.usefixtures("emt")
def test_a_screen_is_the_same_by_flow_function_and_command(e3relax, predictor, tmp_path):
    """The same structures and settings, and no name: the second and the third find what the first has done."""
    structures = {}
    for element in ("Ag", "Cu"):
        half = EMT_LATTICES[element] * 1.04 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        structures[element] = Structure(lattice, [element], [[0, 0, 0]])
        structures[element].to_file(str(tmp_path / f"{element}.json"))
    maker, settings = ScreenMaker(engine=get_engine("emt"), control=1), load_settings()
    flow = maker.make(list(structures.values()), list(structures))
    with open_job_store(settings) as jobs:
        run = run_flow_locally(flow, jobs, tmp_path / "jobs")
        by_flow = ScreenDoc.model_validate(jobs.get_output(flow.output.uuid, load=True))
    assert run.failures == []
    assert by_flow.counts == {"successful": 2}
    by_function = run_screen(maker, list(structures.values()), list(structures), settings, tmp_path / "function").screen
    files = [tmp_path / f"{element}.json" for element in structures]
    result = e3relax("screen", *files, "--engine", "emt", "--control", 1, "--out", tmp_path / "out")
    assert result.code == 0, result.stderr
    by_command = ScreenDoc.model_validate_json((tmp_path / "out" / "screen.json").read_text())
    assert by_flow.screen_id == by_function.screen_id == by_command.screen_id
    assert predictor.n_predicted == 2
    with open_outcome_store(settings) as outcomes:
        assert outcomes.count() == 4  # of each a control and the same from its prediction


@pytest.mark.usefixtures("predictor")
def test_why_an_engine_failed_is_said_once_and_what_to_do_always(e3relax, metals, monkeypatch, tmp_path):
    monkeypatch.setenv("ATOMATE2_VASP_CMD", "no_such_vasp")
    arguments = ("screen", metals / "Cu.cif", metals / "Ag.cif", "--engine", "vasp-single", "--out", tmp_path / "out")
    result = e3relax(*arguments)
    assert result.code == 1
    assert result.stderr.count("error: relax: ") == 1
    assert "(3 jobs)" in result.stderr  # two predictions and a control
    assert "--retry-failed" in result.stdout
    again = e3relax(*arguments)
    assert "error: relax: " not in again.stderr
    assert "--retry-failed" in again.stdout


@pytest.mark.usefixtures("emt", "predictor")
def test_a_store_that_cannot_be_had_is_one_message(e3relax, metals, monkeypatch):
    monkeypatch.setenv("E3RELAX_OUTCOME_STORE", '{"type": "MongoStor"}')
    result = e3relax("screen", metals, "--engine", "emt")
    assert result.code == 2
    assert result.stderr.count("error: ") == 1
    assert "store type 'MongoStor' is unknown" in result.stderr


@pytest.mark.usefixtures("emt", "predictor")
def test_without_a_folder_to_write_into_nothing_is_registered(e3relax, metals, tmp_path):
    (tmp_path / "file").write_text("")
    result = e3relax("screen", metals, "--engine", "emt", "--out", tmp_path / "file" / "out")
    assert result.code == 2
    assert str(tmp_path / "file") in result.stderr
    assert "no screens" in e3relax("screen", "status").stdout


@pytest.mark.usefixtures("emt", "predictor")
def test_screen_reads_a_configuration_and_options_win(e3relax, metals, tmp_path):
    file = tmp_path / "screen.yaml"
    file.write_text(yaml.safe_dump({"inputs": ["metals/Cu.cif"], "engine": "emt", "control": 1.0, "out": "there"}))
    result = e3relax("screen", file, "--control", 0)
    assert result.code == 0
    document = json.loads((tmp_path / "there" / "screen.json").read_text())
    assert [row["id"] for row in document["candidates"]] == ["Cu"]
    assert [outcome["start_kind"] for outcome in document["candidates"][0]["outcomes"]] == ["predicted"]
    assert "no saving is claimed" in " ".join(result.stdout.split())
    assert metals.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("emt", "predictor")
def test_arms_are_named_at_the_command_and_shown_in_the_tables(e3relax, metals, tmp_path):
    """From the initial structures, as without prediction, and all from their prediction, too."""
    arguments = ("screen", metals / "Cu.cif", metals / "Ag.cif", "--engine", "emt", "--prerelax", "none")
    arguments += ("--arm", "predicted=1", "--out", tmp_path / "out")
    plan = json.loads(e3relax(*arguments, "--dry-run", "--json").stdout)
    assert (plan["arms"], plan["control"], plan["served"]) == ({"predicted": 1.0}, 0.0, "initial")
    planned = " ".join(e3relax(*arguments, "--dry-run").stdout.split())
    assert "relaxed with emt from their initial structure, about 100% from their predicted one, too" in planned
    shown = " ".join(e3relax(*arguments).stdout.split())
    document = json.loads((tmp_path / "out" / "screen.json").read_text())
    kinds = [[outcome["start_kind"] for outcome in row["outcomes"]] for row in document["candidates"]]
    assert kinds == [["control", "predicted"]] * 2
    assert (document["arms"], document["served"]) == ({"predicted": 1.0}, "initial")
    sentence = "ionic steps that they took from the initial one (too few for an interval: 2 pairs)"
    assert sentence in shown
    assert sentence in " ".join(e3relax("table", tmp_path / "out").stdout.split())


def test_an_engine_of_another_functional_is_noticed_before_anything_runs(e3relax, metals, monkeypatch, caplog):
    def warn(*arguments):
        caplog.clear()
        assert e3relax("screen", metals / "Cu.cif", "--engine", "vasp-mp24", *arguments, "--dry-run").code == 0
        return "engine vasp-mp24 ends with r2SCAN, but model base predicts" in caplog.text

    assert warn()
    assert warn("--model", "base")
    assert not warn("--model", "small-r2scan")
    assert not warn("--prerelax", "none")
    assert warn("--prerelax", "none", "--arm", "predicted=0.5")
    monkeypatch.setenv("E3RELAX_MODEL", "small-r2scan")  # what `default` is then
    assert not warn()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.cif"], "--engine is needed; known: chgnet, chgnet-r2scan, "),
        (["stats"], "'stats' is not a file or folder; did you mean `e3relax screen status`?"),
        (["x.cif", "--engine", "vosp"], "engine 'vosp' is unknown"),
        (["a.yaml", "x.cif"], "either structures or one configuration file"),
        (["x.cif", "--engine", "emt", "--arm", "predicted"], "--arm 'predicted' has no number; write START=FRACTION"),
        (["x.cif", "--engine", "emt", "--arm", "relaxed=0.1"], "'relaxed=0.1' does not name a start; known: initial"),
        (["x.cif", "--engine", "emt", "--polish", "5"], "give second_opinion, too, such as chgnet (typed: --second"),
        (["x.cif", "--engine", "emt", "--polish", "²"], "--polish '²' is not auto, 0 or a number of steps"),
        (["x.cif", "--engine", "emt", "--prerelax", "never"], "prerelax: Input should be 'predict' or 'none'"),
        (["x.cif", "--engine", "emt", "--control", "2"], "control: Input should be less than or equal to 1 (got 2.0)"),
        (
            ["nowhere", "--engine", "emt"],
            "no structure could be read (nowhere: there is no such file or folder",
        ),
    ],
)
@pytest.mark.usefixtures("emt", "predictor")
def test_wrong_usage_is_one_message_and_exit_code_2(e3relax, arguments, message):
    result = e3relax("screen", *arguments)
    assert result.code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_sample_configuration_names_every_key_and_loads():
    config = load_screen_config(CONFIGS / "screen.yaml")
    assert config.inputs == [str(CONFIGS.parent / "candidates")]
    assert config.out == CONFIGS.parent / "runs" / "example_screen"
    assert config.options.passes == 2
    assert config.sources == []
    assert config.ranking.by == "change"
    named = set(yaml.safe_load((CONFIGS / "screen.yaml").read_text()))
    assert named == set(ScreenConfig.model_fields) - {"retry_failed"}
    assert config.engine in {info.name for info in list_engines()}


def test_typed_options_leave_the_other_options_of_a_file(tmp_path):
    file = tmp_path / "screen.yaml"
    file.write_text("inputs: [a]\nengine: gpaw\noptions: {second_opinion: chgnet, polish: auto, passes: 1}\n")
    for typed, expected in (
        ({"polish": 5}, {"second_opinion": "chgnet", "polish": 5, "passes": 1}),
        ({"second_opinion": "sevennet"}, {"second_opinion": "sevennet", "polish": "auto", "passes": 1}),
        ({"symmetry": "free"}, {"second_opinion": "chgnet", "polish": "auto", "passes": 1, "symmetry": "free"}),
    ):
        assert load_screen_config(file, options=typed).options == PredictOptions(**expected)
    with pytest.raises(ConfigError, match=r"options\.polish\..* 0 \(got -1\)"):
        load_screen_config(file, options={"polish": -1})


@pytest.mark.usefixtures("emt", "predictor")
def test_a_second_opinion_that_cannot_be_asked_for_is_refused_before_the_screen(e3relax, metals):
    screen = ["screen", metals, "--engine", "emt"]
    for command in (screen, [*screen, "--dry-run"], ["predict", metals, "--dry-run"]):
        result = e3relax(*command, "--second-opinion", "chgnet-r2scan")
        assert result.code == 2
        assert "is not calibrated for second opinions of CHGNet-r2SCAN" in " ".join(result.stderr.split())
    assert "no screens" in e3relax("screen", "status").stdout


def test_unknown_key_is_refused_with_the_known_ones(tmp_path):
    file = tmp_path / "screen.yaml"
    file.write_text("inputs: [a]\nengine: chgnet\ncontrols: 0.2\n")
    known = "inputs, sources, ranking, engine, .*control,"
    with pytest.raises(ConfigError, match=rf"controls: Extra inputs.*known keys: {known}"):
        load_screen_config(file)
    file.write_text("inputs: [a]\nengine: chgnet\nlimits: {max_inflight: 3}\n")
    with pytest.raises(ConfigError, match=r"limits\.max_inflight: .* limits\.max_in_flight\?; known keys: "):
        load_screen_config(file)
    file.write_text("inputs: [a]\nengine: chgnet\ncontrol: lots\n")
    with pytest.raises(ConfigError, match="valid number") as wrong_value:
        load_screen_config(file)
    assert "known keys" not in str(wrong_value.value)
    with pytest.raises(ConfigError, match=r"other\.yaml: .*configs/screen\.yaml"):
        load_screen_config(tmp_path / "other.yaml")
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="holds list"):
        load_screen_config(file)
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load_screen_config(tmp_path / "nothing.yaml")


@pytest.mark.usefixtures("emt", "predictor")
def test_a_screen_of_sources_only(e3relax, metals, tmp_path):
    sources = [{"type": "files", "paths": [str(metals / "Cu.cif")]}]
    file = tmp_path / "screen.yaml"
    file.write_text(yaml.safe_dump({"sources": sources, "engine": "emt", "control": 0, "out": "there"}))
    assert e3relax("screen", file).code == 0
    document = json.loads((tmp_path / "there" / "screen.json").read_text())
    assert [row["id"] for row in document["candidates"]] == ["Cu"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fmax=0.05", "name=EMT", "on=true", "none=null"], {"fmax": 0.05, "name": "EMT", "on": True, "none": None}),
        (["a.b.c=1", "a.b.d=[1, 2]", "a.e=x=y"], {"a": {"b": {"c": 1, "d": [1, 2]}, "e": "x=y"}}),
    ],
)
def test_settings_of_engines_are_keys_and_values(words, expected):
    assert parse_engine_settings(words) == expected


@pytest.mark.parametrize("words", [["fmax"], ["=3"], ["a=1", "a.b=2"], ["a=[1"]])
def test_settings_that_are_none_are_errors_with_the_word(words):
    with pytest.raises(ConfigError, match=re.escape(repr(words[-1]))):
        parse_engine_settings(words)


@pytest.mark.usefixtures("predictor")
def test_a_maker_by_its_path_with_settings_relaxes(e3relax, metals, settings):
    engine = ("--engine", "atomate2.ase.jobs:EmtRelaxMaker")
    setting = ("--engine-setting", "relax_kwargs={fmax: 0.02}", "steps=150")  # the second without a word before it
    result = e3relax("screen", metals, *engine, *setting, "--control", 0, "--out", "out", "--json")
    assert result.code in (0, 1)
    screen = json.loads(Path("out/screen.json").read_text())
    assert screen["engine"] == "atomate2.ase.jobs:EmtRelaxMaker"
    assert screen["engine_settings"] == {"relax_kwargs": {"fmax": 0.02}, "steps": 150}
    with open_outcome_store(settings) as store:
        outcomes = [each for each in store.query({}) if each["state"] == "successful"]
    assert len(outcomes) == len([row for row in screen["candidates"] if row["state"] == "successful"]) >= 1
    assert {each["result"]["code"] for each in outcomes} == {"emt"}


def test_a_file_gives_a_maker_and_wrong_ones_are_refused_before_anything_is_read(e3relax, tmp_path):
    raw = {"inputs": ["x.cif"], "engine": {"maker": "atomate2.vasp.jobs.core:RelaxMakr"}}
    (tmp_path / "screen.yaml").write_text(yaml.safe_dump(raw))
    result = e3relax("screen", tmp_path / "screen.yaml", "--dry-run")
    assert result.code == 2
    assert "did you mean RelaxMaker" in result.stderr
    (tmp_path / "screen.yaml").write_text(yaml.safe_dump(raw | {"engine": {"makr": "x:Y"}}))
    assert "engine.EngineSpec.maker" in e3relax("screen", tmp_path / "screen.yaml", "--dry-run").stderr
