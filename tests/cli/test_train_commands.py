"""`e3relax data shards` and `e3relax train` with what they make."""

from __future__ import annotations

import json

import pytest
import yaml

ROWS = [
    {
        "id": f"p{index}",
        "source": "made",
        "functional": "PBE",
        "numbers": [11, 17],
        "initial": {"lattice": [[0, a, a], [a, 0, a], [a, a, 0]], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]},
        "relaxed": {"lattice": [[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]},
    }
    for index, a in enumerate([2.6, 2.7, 2.9, 3.0])
]


@pytest.fixture
def pair_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_shards_are_written_and_trained_on(e3relax, pair_file, tmp_path):
    command = ("data", "shards", pair_file, "-o", tmp_path / "shards", "--size", 3)
    planned = json.loads(e3relax(*command, "--dry-run", "--json").stdout)
    assert (planned["n_shards"], planned["written"]) == (2, False)
    assert not (tmp_path / "shards").exists()
    result = e3relax(*command)
    assert result.code == 0, result.stderr
    assert result.stdout.startswith("4 pairs (PBE: 4), hash ")
    assert "in 2 shards" in result.stdout
    assert e3relax("data", "shards", pair_file, "-o", tmp_path / "shards").code == 2
    config = {
        "out": "run",
        "network": {"n_layers": 1, "n_scalars": 4, "n_hidden": 4, "n_vectors": 2, "n_densities": 2, "l_max": 1},
        "data": {"train": ["shards"], "val": ["pairs.jsonl"], "max_atoms": 8},
        "schedule": {"max_steps": 4},
        "threads": 1,
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config | {"walltime_hours": 0.05}))
    dry = e3relax("train", tmp_path / "train.yaml", "--dry-run")
    assert "4 pairs to train on, 4 to validate with" in dry.stdout
    assert "it would begin at the beginning" in dry.stdout
    assert not (tmp_path / "run").exists()
    stopped = e3relax("train", tmp_path / "train.yaml")
    assert stopped.code == 75, stopped.stderr
    assert "stopped by walltime at step" in stopped.stdout
    assert "run the same command again to continue" in stopped.stdout
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    plan = json.loads(e3relax("train", tmp_path / "train.yaml", "--dry-run", "--json").stdout)
    assert (plan["pairs_train"], plan["goes_on_from_step"] is None) == (4, False)
    finished = e3relax("train", tmp_path / "train.yaml", "--json")
    assert finished.code == 0, finished.stderr
    events = [json.loads(line).get("event") for line in finished.stdout.splitlines()]
    assert [event for event in events if event] == ["resume", "validation", "end", "export"]
    assert (tmp_path / "run" / "trained" / "config.json").exists()


def test_a_failed_start_is_one_message(e3relax, tmp_path):
    (tmp_path / "train.yaml").write_text("out: run\ndata: {train: [none.jsonl], val: [none.jsonl]}\n")
    result = e3relax("train", tmp_path / "train.yaml")
    assert result.code == 2
    assert "none.jsonl: " in result.stderr


def test_a_model_is_scored_on_pairs(e3relax, small_model, pair_file, tmp_path):
    command = ("evaluate", pair_file, "--model", small_model)
    result = e3relax(
        *command, "--json", "-o", tmp_path / "new" / "figures.json", "--predictions", tmp_path / "made.jsonl"
    )
    assert result.code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told == json.loads((tmp_path / "new" / "figures.json").read_text())
    assert told["n_pairs"] == 4
    error = sum(abs((a / 2.8) ** 3 - 1) for a in (2.6, 2.7, 2.9, 3.0)) / 4
    assert told["identity"]["made"]["volume"] == pytest.approx(error, rel=1e-4)
    assert len((tmp_path / "made.jsonl").read_text().splitlines()) == 4
    table = e3relax(*command)
    assert "made" in table.stdout
    assert "reading pairs" not in table.stdout
    assert e3relax("evaluate", tmp_path / "none.jsonl").code == 2
