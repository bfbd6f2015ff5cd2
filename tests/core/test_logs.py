"""The log: silent by itself, on stderr where the setting asks for it, and a logger wherever stored state changes."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import e3relax_flows
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.logs import PACKAGE, StderrHandler, format_counts, hide_log, show_log
from e3relax_flows.core.settings import load_settings

ROOT = Path(e3relax_flows.__file__).parent
# what writes into a store, and what changes what workers have before them
WRITERS = {
    "write_documents", "replace_documents", "remove_docs", "update_one", "update_many", "delete_one", "delete_many",
    "insert_one",
    "bulk_add_wfs", "rerun_fw", "defuse_wf", "stop_jobs", "submit_flow",
}  # fmt: skip
STORES = {"store", "stores", "jobs", "claims", "rows", "screens", "chunks", "campaigns", "pool", "phases"}
BELOW = {"stores/opening.py", "stores/sqlite.py", "stores/sqlite_file.py"}  # write what others decide


def find_writes(tree: ast.AST) -> list[int]:
    """Lines that write into a store."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        owner = called.value if isinstance(called, ast.Attribute) else None
        owner_name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        if name in WRITERS or (name == "update" and owner_name in STORES):
            lines.append(node.lineno)
    return lines


def find_messages(tree: ast.AST) -> list[tuple[str, str]]:
    """Level and text of every message that a module logs."""
    return [
        (node.func.attr, ast.unparse(node.args[0]))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "logger"
        and node.func.attr in ("debug", "info", "warning", "error", "exception")
    ]


def test_every_module_that_writes_into_a_store_logs_it() -> None:
    writing = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text())
        if (lines := find_writes(tree)) and name not in BELOW:
            writing[name] = lines
            assert "logger = logging.getLogger(__name__)" in path.read_text(), f"{name} writes in lines {lines}"
            assert {"info", "warning"} & {level for level, _ in find_messages(tree)}, f"{name} logs nothing"
    assert {"ledger/store.py", "ledger/claims.py", "screening/store.py", "registry/aliases.py"} <= set(writing)
    assert len(writing) >= 12


def test_messages_are_not_put_together_before_somebody_reads_them() -> None:
    for path in ROOT.rglob("*.py"):
        for level, text in find_messages(ast.parse(path.read_text())):
            assert not text.startswith("f"), f"{path.name}, {level}: {text}: give the values as arguments"


@contextmanager
def be_silent() -> Iterator[None]:
    """No handler that prints, as in a process that has just begun; pytest's own are put back."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = []
    try:
        yield
    finally:
        hide_log()
        root.handlers[:] = handlers


@pytest.mark.usefixtures("settings")
def test_the_setting_shows_the_log_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("e3relax_flows.ledger.store")
    with be_silent():
        load_settings()
        logger.info("outcome %s: before", "o-1")
        assert capsys.readouterr() == ("", "")
        monkeypatch.setenv("E3RELAX_LOG_LEVEL", "INFO")
        for _ in range(3):  # each job reads its settings
            load_settings()
        logger.info("outcome %s: failed", "o-2")
        logger.debug("outcome %s: details", "o-2")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.endswith(" INFO e3relax_flows.ledger.store: outcome o-2: failed\n")
        hide_log()
        logger.info("outcome %s: after", "o-3")
        assert capsys.readouterr() == ("", "")
        monkeypatch.setenv("E3RELAX_LOG_LEVEL", "LOUD")
        with pytest.raises(ConfigError, match=r"LOG_LEVEL: .*'DEBUG', 'INFO'"):
            load_settings()


def test_what_prints_its_log_already_prints_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    with be_silent():
        logging.getLogger().addHandler(StderrHandler())
        show_log("INFO")
        assert not [each for each in logging.getLogger(PACKAGE).handlers if isinstance(each, StderrHandler)]
        logging.getLogger("e3relax_flows.screening").info("screen %s: finished", "s-1")
    assert capsys.readouterr().err == "screen s-1: finished\n"


def test_importing_the_package_and_its_modules_configures_no_log() -> None:
    code = (
        "import logging, e3relax_flows, e3relax_flows.cli.app, e3relax_flows.screening.control\n"
        "found = [logging.getLogger(), *(each for name, each in logging.Logger.manager.loggerDict.items()\n"
        "         if name.startswith('e3relax_flows') and isinstance(each, logging.Logger))]\n"
        "print(len(found) > 5, [each.name for each in found if each.handlers])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "True []\n"


def test_counts_in_words() -> None:
    assert format_counts({"refuse": 1, "accept": 12, "skip": 0, "error": 1}) == "12 accept, 1 error, 1 refuse"
    assert format_counts({}) == "none"
