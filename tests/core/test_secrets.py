"""Passwords do not come into messages, wherever these are stored or printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from e3relax_flows.cli.app import main
from e3relax_flows.core.errors import E3RelaxError, StoreError, StructureError, mask_secrets
from e3relax_flows.core.settings import E3RelaxSettings

SECRET = "hunter-two"
URI = f"mongodb://me:{SECRET}@127.0.0.1:9/db"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"{URI} is down", "mongodb://***@127.0.0.1:9/db is down"),
        (f"mongodb+srv://me:p@{SECRET}/x@a.b/db", "mongodb+srv://***@a.b/db"),
        (
            f"{{'username': 'me', 'password': '{SECRET} two', 'port': 1}}",
            "{'username': 'me', 'password': ***, 'port': 1}",
        ),
        (f"MP_API_KEY={SECRET}; next", "MP_API_KEY=***; next"),
        (f"aws_secret_access_key: {SECRET}", "aws_secret_access_key: ***"),
        ("see https://example.org/a and mail me@example.org", "see https://example.org/a and mail me@example.org"),
        ("3 tokens of 5, s3://bucket/part", "3 tokens of 5, s3://bucket/part"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_errors_hide_them() -> None:
    assert str(StoreError(f"{URI} is down")) == "mongodb://***@127.0.0.1:9/db is down"
    assert str(StructureError("code", f"password={SECRET}")) == "password=***"
    assert SECRET not in f"{E3RelaxError(URI)}"


@pytest.mark.parametrize("collection", ["outcomes", None])
def test_the_doctor_hides_them(
    settings: E3RelaxSettings,  # noqa: ARG001
    collection: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of stores that cannot be reached, and of descriptions that are wrong."""
    spec = {"type": "MongoStore", "uri": f"{URI}?serverSelectionTimeoutMS=50", "database": "d"}
    if collection:
        spec["collection_name"] = collection
    else:
        spec["port"] = f"password: {SECRET}"
    monkeypatch.setenv("E3RELAX_OUTCOME_STORE", json.dumps(spec))
    (tmp_path / "jobflow.yaml").write_text(json.dumps({"JOB_STORE": {"docs_store": {**spec, "collection_name": "o"}}}))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    monkeypatch.setattr(sys, "argv", ["e3relax", "doctor", "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == 1
    states = {row["what"]: row["state"] for row in json.loads(captured.out)}
    assert states["store of outcomes"] == "failed"
    assert SECRET not in captured.out + captured.err
