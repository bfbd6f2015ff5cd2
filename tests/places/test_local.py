"""Local runs: what is reported of each job, what a failure costs, what is left as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobflow import CURRENT_JOB, Flow, JobStore, OnMissing, Response, job
from maggma.stores import MemoryStore

from e3relax_flows.core.settings import load_settings
from e3relax_flows.places.local import JobReport, run_flow_locally


@job
def add(a: int, b: int) -> int:
    """A job that works."""
    Path("sum.txt").write_text(str(a + b))
    return a + b


@job
def fail(a: int) -> int:
    """A job that does not, in two lines."""
    raise ValueError(f"{a} is\n  too much")


class OddBug(Exception):  # noqa: N818
    """An exception whose name does not say that it is one."""


@job
def fail_oddly() -> None:
    """A job whose exception has another one behind it."""
    try:
        raise ValueError("the first")
    except ValueError as error:
        raise OddBug("Sorry!\nHint: try again") from error


@job
def fail_later(a: int) -> Response:
    """A job that replaces itself by one that works and one that does not."""
    good, bad = add(a, 1), fail(a)
    return Response(replace=Flow([good, bad], output=[good.output, bad.output]))


@pytest.fixture
def store() -> Iterator[JobStore]:
    with JobStore(MemoryStore()) as store:
        yield store


def test_every_end_of_a_job_is_reported(store: JobStore, tmp_path: Path) -> None:
    first = add(1, 2)
    second = add(first.output, 3)
    first.update_metadata({"candidate": "NaCl"})
    reports: list[JobReport] = []
    run = run_flow_locally(Flow([first, second]), store, tmp_path / "a" / "b", reports.append)
    assert [(report.name, report.uuid, report.index, report.error) for report in reports] == [
        ("add", first.uuid, 1, None),
        ("add", second.uuid, 1, None),
    ]
    assert [report.metadata for report in reports] == [{"candidate": "NaCl"}, {}]
    assert (run.n_finished, run.failures) == (2, [])
    assert run.responses[second.uuid][1].output == 6
    assert store.get_output(second.uuid) == 6
    folders = sorted((tmp_path / "a" / "b").iterdir())
    assert [(folder / "sum.txt").read_text() for folder in folders] == ["3", "6"]
    assert Path(run.responses[first.uuid][1].job_dir) == folders[0]


def test_a_failure_costs_only_those_that_need_it(store: JobStore, tmp_path: Path) -> None:
    bad, other = fail(3), add(1, 1)
    bad.update_metadata({"candidate": "b"})
    child, collector = add(bad.output, 1), add(other.output, 1)
    collector.config.on_missing_references = OnMissing.NONE
    run = run_flow_locally(Flow([bad, child, other, collector]), store, tmp_path)
    assert run.n_finished == 2
    (failure,) = run.failures
    assert (failure.name, failure.uuid, failure.metadata) == ("fail", bad.uuid, {"candidate": "b"})
    assert failure.error == "ValueError: 3 is too much"
    assert str(failure.traceback).startswith("Traceback (most recent call last)")
    assert child.uuid not in run.responses
    assert CURRENT_JOB.job is None


def test_the_last_exception_is_told_whatever_its_name(store: JobStore, tmp_path: Path) -> None:
    (failure,) = run_flow_locally(Flow([fail_oddly()]), store, tmp_path).failures
    assert failure.error == f"{OddBug.__module__}.OddBug: Sorry! Hint: try again"


def test_jobs_that_are_made_on_the_way_are_reported(store: JobStore, tmp_path: Path) -> None:
    names: list[tuple[str, int, bool]] = []
    flow = Flow([fail_later(5)])
    run = run_flow_locally(flow, store, tmp_path, lambda r: names.append((r.name, r.index, r.error is None)))
    assert names == [
        ("fail_later", 1, True), ("add", 1, True), ("fail", 1, False), ("store_inputs", 2, True),
    ]  # fmt: skip
    assert [failure.name for failure in run.failures] == ["fail"]
    assert store.get_output(flow.jobs[0].uuid, on_missing=OnMissing.NONE) == [6, None]


def test_the_terminal_the_logger_and_the_folder_stay_as_they_were(
    store: JobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("jobflow")
    before = (logger.level, logger.propagate, logger.handlers[:], os.getcwd())
    with caplog.at_level(logging.INFO):
        run_flow_locally(Flow([add(1, 2), fail(1)]), store, tmp_path)
    assert (logger.level, logger.propagate, logger.handlers[:], os.getcwd()) == before
    assert [record.name for record in caplog.records] == ["e3relax_flows.places.local"] * 2  # none of jobflow
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_callback_costs_no_job(
    store: JobStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def stumble(report: JobReport) -> None:
        raise RuntimeError(f"no progress for {report.name}")

    run = run_flow_locally(Flow([add(1, 2)]), store, tmp_path, stumble)
    assert (run.n_finished, run.failures) == (1, [])
    assert "no progress for add" in capfd.readouterr().err


@job
def read_settings() -> list[str]:
    """A job that says what its settings are."""
    settings = load_settings()
    return [str(settings.DATA_DIR), settings.MODEL, (settings.PREDICTION_STORE or {}).get("path", "")]


def test_relative_paths_of_the_settings_are_those_of_the_caller(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E3RELAX_CONFIG_FILE", "none.yaml")
    monkeypatch.setenv("E3RELAX_MODEL", "models/mine")
    monkeypatch.setenv("E3RELAX_PREDICTION_STORE", '{"type": "SQLiteStore", "path": "mine.sqlite"}')
    monkeypatch.delenv("E3RELAX_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    read = read_settings()
    run = run_flow_locally(Flow([read]), store, tmp_path / "run")
    names = ("e3relax_data", "models/mine", "mine.sqlite")
    assert run.responses[read.uuid][1].output == [str(tmp_path / name) for name in names]
    assert os.environ["E3RELAX_MODEL"] == "models/mine"
    assert "E3RELAX_DATA_DIR" not in os.environ
