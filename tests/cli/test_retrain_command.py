"""`e3relax retrain`: plans, runs, refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from e3relax_flows.cli.config_files import load_retrain_config
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.pairs.dataset_store import open_dataset_stores, save_holdout
from e3relax_flows.pairs.datasets import freeze_holdout
from e3relax_flows.pairs.store import iter_pairs, open_pair_store

sys.path.append(str(Path(__file__).parents[1] / "retraining"))
from made_pairs import RADII, make_pairs, store_pairs

EXAMPLE = Path(__file__).parents[2] / "configs" / "retrain.yaml"
CONFIG = {
    "name": "halides",
    "holdout": "mine",
    "method": "scratch",
    "training": {
        "network": {"n_layers": 1, "n_scalars": 12, "n_vectors": 4, "n_densities": 4, "n_hidden": 12, "n_radial": 8},
        "data": {"max_atoms": 32},
        "schedule": {"max_steps": 20, "learning_rate": 0.01, "warmup_steps": 5, "ema_decay": 0.9},
        "val_every": 10,
        "threads": 1,
    },
    "gate": {"n_resamples": 200, "min_stratum": 5},
}


@pytest.fixture
def config(settings: E3RelaxSettings, tmp_path: Path) -> Path:
    store_pairs(settings, make_pairs(RADII, "halides", per_system=6))
    with open_pair_store(settings) as pairs, open_dataset_stores(settings) as stores:
        save_holdout(stores, freeze_holdout(iter_pairs(pairs), "mine", "chemical_system", 0.3))
    path = tmp_path / "retrain.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def test_the_example_is_read() -> None:
    example = load_retrain_config(EXAMPLE)
    assert (example.alias, example.replay.fraction, example.gate.min_stratum) == ("default", 0.5, 20)
    content = yaml.safe_load(EXAMPLE.read_text())
    assert set(content) == set(type(example).model_fields)
    assert set(content["gate"]) == set(type(example.gate).model_fields)


def test_a_dry_run_tells_all_and_keeps_nothing(e3relax, config: Path, settings: E3RelaxSettings) -> None:
    before = sorted(settings.DATA_DIR.rglob("*"))
    result = e3relax("retrain", config, "--dry-run", "--json")
    assert result.code == 0, result.stderr
    plan = json.loads(result.stdout)
    snapshot = plan["snapshot"]
    assert snapshot["n_train"] + snapshot["n_val"] == 96 - 30
    assert plan["sources"] == {"halides": snapshot["n_train"]}
    assert 0 < plan["hours_per_training"] < 1
    assert plan["jobs"][:2] == ["e3r snapshot", "e3r train"]
    assert plan["launch"] == "in the process of the job"
    text = e3relax("retrain", config, "--dry-run").stdout
    assert f"{snapshot['n_train']} to train on" in text
    assert "no original holdout: forgetting will not be measured" in text
    with open_dataset_stores(settings) as stores:
        assert stores.datasets.count() == 0
    assert sorted(settings.DATA_DIR.rglob("*")) == before


def test_a_candidate_that_is_worse_is_not_promoted(e3relax, config: Path) -> None:
    result = e3relax("retrain", config)
    assert "step 10: score" in result.stderr  # the lines of the training
    # twenty steps from scratch against the bundled weights
    assert result.code == 1
    assert "reject" in result.stdout
    assert "all (30 pairs): error" in result.stdout
    assert "alias 'default' stays" in result.stdout
    assert json.loads(e3relax("retrain", config, "--json").stdout)["promoted"] is False


def test_a_failing_job_is_one_message(e3relax, config: Path) -> None:
    config.write_text(yaml.safe_dump({**CONFIG, "holdout": "yours"}))
    result = e3relax("retrain", config)
    assert result.code == 2
    assert "e3r snapshot failed, nothing was promoted" in result.stderr
    assert result.stderr.count("e3relax data freeze") == 1
    assert "e3r promote" not in result.stderr  # that it failed, too, says nothing


@pytest.mark.parametrize(
    ("content", "message"),
    [("seeds: []\nholdout: a", "seeds"), ("holdouts: a", "known keys: name, alias, holdout"), ("- 1", "retrain.yaml")],
)
def test_a_wrong_configuration_says_what_to_type(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_retrain_config(path)


def test_a_launchpad_needs_a_job_store(e3relax, config: Path) -> None:
    result = e3relax("retrain", config, "--submit", "fireworks")
    assert result.code == 2
    assert "JOB_STORE in ~/.jobflow.yaml" in result.stderr
    assert "'elsewhere' is not a place" in e3relax("retrain", config, "--submit", "elsewhere").stderr
