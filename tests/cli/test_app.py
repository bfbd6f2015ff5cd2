"""The command as a whole: light to start, models, doctor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from e3relax_flows.cli.doctor import run_check
from e3relax_flows.ledger.store import open_stores

HEAVY = ("torch", "pymatgen", "jobflow", "maggma", "numpy")


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["screen", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys, json\n"
        "from e3relax_flows.cli.app import main\n"
        f"sys.argv = ['e3relax', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        f"print('RESULT' + json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    code, heavy = json.loads(run.stdout.split("RESULT")[1])
    assert code in (0, None)
    assert heavy == []


def test_models_are_listed_shown_and_named_when_unknown(e3relax, small_model, settings):
    shutil.copytree(small_model, settings.DATA_DIR / "models" / "mine")
    rows = {row["name"]: row for row in json.loads(e3relax("models", "list", "--json").stdout)}
    model_id = rows["mine"]["model_id"]
    assert rows["mine"]["kind"] == "e3relax_h2"
    assert model_id in e3relax("models", "list").stdout
    shown = json.loads(e3relax("models", "show", model_id[:10], "--json").stdout)
    assert shown["name"] == "mine"
    assert shown["config"]["network"]["n_scalars"] == 8
    assert "Random weights." in e3relax("models", "show", "mine").stdout
    unknown = e3relax("models", "show", "yours")
    assert unknown.code == 2
    assert "mine" in unknown.stderr


def test_an_authors_checkpoint_is_imported(e3relax, settings, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "model")
    from authors_format import make_ema, write_checkpoint

    file = write_checkpoint(tmp_path / "released.pt", make_ema(8, 1, 4, 118))
    result = e3relax("models", "import", file, "--name", "theirs")
    assert result.code == 0, result.stderr
    assert (settings.DATA_DIR / "models" / "theirs" / "weights.safetensors").exists()
    assert "theirs" in {row["name"] for row in json.loads(e3relax("models", "list", "--json").stdout)}
    missing = e3relax("models", "import", tmp_path / "none.pt")
    assert missing.code == 2
    assert "is not a file" in missing.stderr


def test_doctor_finds_stores_engines_and_devices(e3relax, small_model, monkeypatch, settings):
    monkeypatch.setenv("E3RELAX_MODEL", str(small_model))
    result = e3relax("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert findings["python"]["detail"].startswith("3.")
    assert findings["store of predictions"]["state"] == "ok"
    assert findings["store of predictions"]["detail"].endswith("made when it is first needed")
    assert not settings.DATA_DIR.exists()  # looking makes nothing
    assert findings["engine chgnet"]["state"] == "ok"
    assert "tiny" in findings["model"]["detail"]
    assert findings["cpu"]["detail"].startswith("threads: ")
    assert result.code == 0
    with open_stores(settings):
        pass
    assert "sqlite:" in e3relax("doctor").stdout
    findings = {finding["what"]: finding for finding in json.loads(e3relax("doctor", "--json").stdout)}
    assert findings["store of outcomes"]["detail"].endswith("0 documents")
    assert findings["store of jobs"]["detail"].endswith("made when it is first needed")
    assert findings["engine vasp-mp-gga"]["hint"] or findings["engine vasp-mp-gga"]["state"] == "ok"


def test_doctor_goes_on_after_a_check_that_fails(e3relax, monkeypatch):
    monkeypatch.setenv("E3RELAX_MODEL", "none-such")
    monkeypatch.setenv("E3RELAX_OUTCOME_STORE", json.dumps({"type": "NoStore"}))
    result = e3relax("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert result.code == 1
    assert findings["models"]["state"] == "failed"
    assert "e3relax models list" in findings["models"]["detail"]
    assert findings["store of outcomes"]["state"] == "failed"
    assert "'NoStore'" in findings["store of outcomes"]["detail"]
    assert findings["store of predictions"]["state"] == "ok"
    assert findings["engine gpaw"]["state"] in ("ok", "missing")


def test_a_check_that_breaks_is_a_finding():
    def check_luck():
        raise ZeroDivisionError("no luck")

    (finding,) = run_check(check_luck)
    assert (finding.what, finding.state, finding.detail) == ("luck", "failed", "ZeroDivisionError: no luck")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["doctor"], "the same command starts again"),
        (["data", "show"], "written results are kept"),
        (["retrain", "x.yaml"], "the same command continues the same training"),
    ],
)
def test_ctrl_c_says_how_to_go_on(e3relax, monkeypatch, words, advice):
    def interrupt(**_):
        raise KeyboardInterrupt

    for module in ("core.settings", "stores.pool", "ledger.workspace"):
        monkeypatch.setattr(f"e3relax_flows.{module}.load_settings", interrupt)
    result = e3relax(*words)
    assert result.code == 130
    assert f"interrupted; {advice}" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("e3relax screen run good --engine vasp-mp-g", ["vasp-mp-gga", "vasp-mp-gga-static"]),
        ("e3relax screen good --engine g", ["gpaw"]),
        ("e3relax predict good --symmetry k", ["keep"]),
        ("e3relax screen good --submit f", ["fireworks"]),
    ],
)
def test_shell_completes_words_of_options(words, expected):
    asked = {"_E3RELAX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    command = [str(Path(sys.executable).parent / "e3relax")]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == expected
