"""`e3relax models`: import, promote, roll back, export; what a plain `predict` asks the registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from e3relax_flows.core.model_folders import find_model, read_model_folder
from e3relax_flows.core.settings import DATA_FILE
from e3relax_flows.registry.judgements import open_judgements, save_gate
from e3relax_flows.registry.store import find_alias
from e3relax_flows.schemas.models import Decision, GateDoc, GateLimits

BUNDLED_ID = find_model("default").model_id


@pytest.fixture
def model_id(small_model):
    return read_model_folder(small_model).model_id


@pytest.fixture
def tiny(e3relax, small_model, model_id):
    """Id of the small model, registered as tiny."""
    result = e3relax("models", "import", small_model)
    assert result.code == 0, result.stderr
    assert result.stdout.startswith(f"tiny, model id {model_id}: registered")
    return model_id


def read_json(result):
    assert result.code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_dry_run_changes_nothing(e3relax, small_model, model_id, settings, tmp_path):
    content = read_json(e3relax("models", "import", small_model, "--name", "mine", "--dry-run", "--json"))
    assert content == {"name": "mine", "model_id": model_id, "registered": False}
    content = read_json(e3relax("models", "promote", "base", "--reason", "x", "--dry-run", "--json"))
    assert (content["model_id"], content["version"], content["moved"]) == (BUNDLED_ID, 1, False)
    content = read_json(e3relax("models", "export", "default", tmp_path / "out", "--dry-run", "--json"))
    assert content["written"] is False
    assert not (tmp_path / "out").exists()
    assert not settings.DATA_DIR.exists()


def test_a_dry_run_of_a_checkpoint_leaves_no_folder(e3relax, settings, tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "model")
    from authors_format import make_ema, write_checkpoint

    file = write_checkpoint(tmp_path / "released.pt", make_ema(8, 1, 4, 118))
    content = read_json(e3relax("models", "import", file, "--dry-run", "--json"))
    assert (content["name"], content["registered"]) == ("released", False)
    assert not settings.DATA_DIR.exists()
    imported = read_json(e3relax("models", "import", file, "--json"))
    assert imported == {**content, "registered": True}
    (row,) = [row for row in read_json(e3relax("models", "list", "--json")) if row["name"] == "released"]
    assert (row["registered"], row["bundled"], row["path"]) == (True, False, str(settings.DATA_DIR / "models/released"))


def test_a_model_is_promoted_and_rolled_back(e3relax, tiny, settings):
    result = e3relax("models", "promote", "tiny", "--reason", "it is smaller")
    assert result.code == 0
    assert f"default moved: {BUNDLED_ID} → {tiny}, version 1" in result.stdout
    assert "No gate has compared" in result.stderr
    rows = {row["name"]: row for row in read_json(e3relax("models", "list", "--json"))}
    assert (rows["tiny"]["aliases"], rows["small"]["aliases"]) == (["default"], [])
    assert (rows["tiny"]["registered"], rows["small"]["registered"], rows["small"]["bundled"]) == (True, False, True)
    assert "tiny (default)" in e3relax("models", "list").stdout
    assert read_json(e3relax("models", "show", "--json"))["model_id"] == tiny
    assert "nothing was moved" in e3relax("models", "promote", tiny[:8], "--reason", "again").stdout
    planned = read_json(e3relax("models", "rollback", "--reason", "too small", "--dry-run", "--json"))
    assert (planned["model_id"], planned["moved"], find_alias("default", settings).version) == (BUNDLED_ID, False, 1)
    moved = read_json(e3relax("models", "rollback", "--reason", "too small", "--json"))
    assert (moved["model_id"], moved["moved"], moved["version"]) == (BUNDLED_ID, True, 2)
    again = e3relax("models", "rollback", "--reason", "too small")
    assert (again.code, again.stdout) == (2, "")
    assert "rolled back to the bundled model already" in again.stderr
    history = read_json(e3relax("models", "history", "--json"))["history"]
    assert [(move["model_id"], move["reason"]) for move in history] == [
        (tiny, "it is smaller"),
        (BUNDLED_ID, "too small"),
    ]
    table = e3relax("models", "history").stdout
    assert all(word in table for word in ("promotion", "rollback", "it is smaller"))


def test_words_that_name_nothing_are_answered(e3relax, tiny):
    assert "was never moved; it means the bundled base" in e3relax("models", "history").stdout
    assert read_json(e3relax("models", "history", "--json"))["version"] == 0
    for arguments, message in {
        ("history", "--alias", "ours"): "'ours' is not an alias; known: default",
        ("show", "ours"): "model 'ours' is not an alias (default)",
        ("promote", "ours", "--reason", "x"): "model 'ours' is not an alias",
        ("promote", "tiny", "--reason", "x", "--alias", "small"): "'small' is the name of a model",
        ("rollback", "--reason", "x", "--alias", "ours"): "there is no such alias",
        ("promote", "tiny"): "--reason",
    }.items():
        result = e3relax("models", *arguments)
        assert result.code == 2, arguments
        assert message in result.stderr, result.stderr
    assert tiny


def test_a_name_is_given_once(e3relax, tiny, tmp_path):
    read_json(e3relax("models", "export", "small", tmp_path / "tiny", "--json"))
    taken = e3relax("models", "import", tmp_path / "tiny")
    assert taken.code == 2
    assert f"'tiny' is the name of {tiny}; give another one, e.g. --name tiny-2" in taken.stderr


def test_an_exported_model_is_whole_and_replaces_nothing(e3relax, tiny, tmp_path):
    content = read_json(e3relax("models", "export", tiny[:8], tmp_path / "out", "--json"))
    assert content == {"name": "tiny", "model_id": tiny, "path": str(tmp_path / "out"), "written": True}
    assert read_model_folder(tmp_path / "out").model_id == tiny
    assert (tmp_path / "out" / "card.md").read_text().startswith("# tiny")
    assert e3relax("models", "export", tiny, tmp_path / "out").code == 0
    other = e3relax("models", "export", "small", tmp_path / "out")
    assert other.code == 2
    assert "is another model" in other.stderr
    assert read_model_folder(tmp_path / "out").model_id == tiny


def test_what_is_no_network_is_not_imported(e3relax, small_model, settings, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(small_model, broken)
    weights = broken / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    result = e3relax("models", "import", broken)
    assert result.code == 2
    assert "is damaged or was changed" in result.stderr
    assert not settings.DATA_DIR.exists()


def test_damaged_models_are_listed_as_such(e3relax, tiny, settings):
    place = settings.DATA_DIR / "models" / tiny
    (place / "weights.safetensors").write_bytes(b"")
    result = e3relax("models", "list", "--json")
    assert result.code == 1
    rows = {row["path"]: row for row in json.loads(result.stdout)}
    assert "damaged or were changed" in rows[str(place)]["problem"]
    result = e3relax("models", "list")
    assert (result.code, "small" in result.stdout) == (1, True)
    assert "models import FOLDER" in result.stderr
    doctor = e3relax("doctor", "--json")
    assert doctor.code == 1
    assert "model folder" in {row["what"] for row in json.loads(doctor.stdout) if row["state"] == "failed"}


@pytest.mark.parametrize("decision", [Decision.PROMOTE, Decision.REJECT])
def test_a_gate_that_has_compared_is_respected(e3relax, tiny, settings, decision):
    gate = GateDoc(
        gate_id="gate-1",
        challenger_id=tiny,
        incumbent_id=BUNDLED_ID,
        holdout_id="h",
        decision=decision,
        reasons=["oxides: 12 % worse"],
        limits=GateLimits(),
        n_looks=1,
    )
    with open_judgements(settings) as stores:
        save_gate(stores, gate)
    result = e3relax("models", "promote", "tiny", "--reason", "I want it")
    if decision == Decision.REJECT:
        assert result.code == 2
        assert "gate gate-1 decided reject: oxides: 12 % worse; promote it nevertheless with --force" in result.stderr
        assert find_alias("default", settings) is None
        result = e3relax("models", "promote", "tiny", "--reason", "I want it", "--force")
        assert "although gate gate-1 decided reject" in result.stderr
    assert result.code == 0
    assert "No gate" not in result.stderr
    (move,) = find_alias("default", settings).history
    assert (move.model_id, move.gate_id) == (tiny, "gate-1")
    shown = e3relax("models", "show", "tiny").stdout
    assert f"against {BUNDLED_ID}: {decision}\n  oxides: 12 % worse\n" in shown
    assert "gate-1" not in e3relax("models", "show", "small").stdout


def test_the_doctor_says_where_the_registry_is_and_what_default_means(e3relax, small_model, settings):
    def look():
        findings = {row["what"]: row for row in json.loads(e3relax("doctor", "--json").stdout)}
        return findings["registry"]["detail"], findings["weights of models"]["detail"], findings["model"]["detail"]

    registry, weights, model = look()
    file = settings.DATA_DIR / DATA_FILE
    assert registry.startswith(f"{file}, made when it is first needed, models registered: 0; default is the bundled")
    assert weights == str(settings.DATA_DIR / "models")
    assert not settings.DATA_DIR.exists()
    e3relax("models", "import", small_model)
    e3relax("models", "promote", "tiny", "--reason", "x")
    registry, _, model = look()
    tiny = read_model_folder(small_model).model_id
    assert registry == f"{file}, models registered: 1; default is tiny ({tiny})"
    assert model.startswith(f"default is tiny ({tiny}); known: base, small, small-pbesol, small-r2scan, tiny")


def predict_lines(e3relax, wurtzite, tmp_path, *arguments):
    wurtzite.copy(site_properties={}).to_file(str(tmp_path / "a.cif"))
    result = e3relax("predict", tmp_path / "a.cif", "--device", "cpu", "--passes", "1", "--json", *arguments)
    return [json.loads(line) for line in result.stdout.splitlines()], result


def test_predict_takes_what_the_alias_means(e3relax, tiny, wurtzite, tmp_path):
    (line,), _ = predict_lines(e3relax, wurtzite, tmp_path)
    assert line["model_id"] == BUNDLED_ID
    e3relax("models", "promote", "tiny", "--reason", "x")
    (line,), result = predict_lines(e3relax, wurtzite, tmp_path)
    assert line["model_id"] == tiny
    assert "bundled" not in result.stderr
    (line,), _ = predict_lines(e3relax, wurtzite, tmp_path, "--model", "base")
    assert line["model_id"] == BUNDLED_ID


def test_predict_goes_on_without_its_registry_unless_a_model_is_named(e3relax, wurtzite, tmp_path, monkeypatch):
    client = {"serverSelectionTimeoutMS": 50}
    spec = {"type": "MongoStore", "database": "x", "host": "127.0.0.1", "port": 1, "mongoclient_kwargs": client}
    monkeypatch.setenv("E3RELAX_MODEL_STORE", json.dumps(spec))
    (line,), result = predict_lines(e3relax, wurtzite, tmp_path)
    assert line["model_id"] == BUNDLED_ID
    assert f"the bundled model base ({BUNDLED_ID}) predicts, for mongodb://127.0.0.1:1/x" in result.stderr
    for model in ("default", "mine"):
        lines, result = predict_lines(e3relax, wurtzite, tmp_path, "--model", model)
        assert (lines, result.code) == ([], 2)
        assert "MODEL_STORE" in result.stderr


def test_the_registry_is_not_loaded_where_there_is_none(settings):
    code = (
        "import sys\n"
        "from e3relax_flows.cli.model_choice import choose_model, choose_usual_model\n"
        "from e3relax_flows.core.settings import load_settings\n"
        "settings = load_settings()\n"
        "print(choose_usual_model(settings).name, choose_model('small', settings).name)\n"
        "print([name for name in ('maggma', 'jobflow', 'pymongo', 'torch') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["base small", "[]"]
    assert not settings.DATA_DIR.exists()
