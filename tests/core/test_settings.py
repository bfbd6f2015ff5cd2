"""Settings: sources, relative paths, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobflow import Flow, JobStore, job, run_locally
from maggma.stores import MemoryStore

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import isolate_stores, load_settings

STORE = {"type": "SQLiteStore", "path": "mine.sqlite"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and working directory of this test's own, without settings."""
    for name in ("CONFIG_FILE", "DATA_DIR", "MODEL", "DEVICE", "PREDICTION_STORE", "OUTCOME_STORE"):
        monkeypatch.delenv(f"E3RELAX_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_environment_wins_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".e3relax.yaml").write_text("DEVICE: cpu\nPREDICTION_STORE:\n  type: MongoStore\n  database: mine\n")
    settings = load_settings()
    assert (settings.DEVICE, settings.PREDICTION_STORE) == ("cpu", {"type": "MongoStore", "database": "mine"})
    monkeypatch.setenv("E3RELAX_PREDICTION_STORE", json.dumps(STORE))
    settings = load_settings()
    assert (settings.DEVICE, settings.OUTCOME_STORE) == ("cpu", None)
    assert settings.PREDICTION_STORE is not None
    assert settings.PREDICTION_STORE["path"] == str(home / "mine.sqlite")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DATA_DIR: [", "line 1, column 12"),
        ("- DATA_DIR", "cannot be read .*DATA_DIR: "),
        ("DATADIR: x", "DATADIR: .*known: "),
    ],
)
def test_a_file_that_is_wrong_is_named(home: Path, text: str, message: str) -> None:
    (home / ".e3relax.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"(?s)e3relax.yaml.*{message}"):
        load_settings()


@job
def list_paths() -> list[str]:
    """Where a job sees its stores."""
    settings = load_settings()
    return [str(settings.DATA_DIR), str((settings.OUTCOME_STORE or {}).get("path"))]


def test_jobs_in_folders_of_their_own_see_the_same_stores(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E3RELAX_OUTCOME_STORE", json.dumps(STORE))
    jobs: list[Any] = [list_paths(), list_paths()]
    responses = run_locally(Flow(jobs), store=JobStore(MemoryStore()), create_folders=True, log=False)
    assert len({responses[job.uuid][1].job_dir for job in jobs}) == 2
    for job_ in jobs:
        assert responses[job_.uuid][1].output == [str(home / "e3relax_data"), str(home / "mine.sqlite")]


def test_paths_in_a_firework_folder_are_below_the_folder_of_the_launch(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = home / "launcher_2026-01-31-12-00-00-123456"
    launcher.mkdir()
    monkeypatch.chdir(launcher)
    assert home / "e3relax_data" == load_settings().DATA_DIR
    monkeypatch.setenv("E3RELAX_DATA_DIR", str(launcher))
    assert launcher == load_settings().DATA_DIR
    (home / "job_search").mkdir()
    monkeypatch.chdir(home / "job_search")
    monkeypatch.setenv("E3RELAX_DATA_DIR", "here")
    assert home / "job_search" / "here" == load_settings().DATA_DIR


def test_all_stores_of_a_script_are_in_one_folder(tmp_path, monkeypatch):
    """Settings of the user that name other stores are left out, in processes that are started, too."""
    for name in ("E3RELAX_CONFIG_FILE", "E3RELAX_DATA_DIR"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("E3RELAX_PAIR_STORE", '{"type": "MemoryStore"}')
    monkeypatch.setenv("E3RELAX_MODEL_STORE__TYPE", "MemoryStore")
    settings = isolate_stores(tmp_path)
    assert settings == load_settings()
    assert tmp_path / "data" == settings.DATA_DIR
    assert tmp_path / "settings.yaml" == settings.CONFIG_FILE
    assert (settings.PAIR_STORE, settings.MODEL_STORE) == (None, None)
