from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from made_halides import Interruption, make_pairs, write_pairs

from e3relax_flows.schemas.training import TrainConfig, load_train_config


@pytest.fixture
def config_file(tmp_path):
    write_pairs(tmp_path / "train.jsonl.gz", make_pairs(0, 64))
    write_pairs(tmp_path / "val.jsonl.gz", make_pairs(1, 24))
    config = {
        "out": "run",
        "name": "tiny",
        "network": {"n_layers": 2, "n_scalars": 16, "n_hidden": 16, "n_vectors": 4, "n_densities": 4, "n_radial": 8},
        "data": {"train": ["train.jsonl.gz"], "val": ["val.jsonl.gz"], "max_atoms": 32},
        "schedule": {"max_steps": 60, "learning_rate": 0.01, "warmup_steps": 5, "ema_decay": 0.9},
        "val_every": 20,
        "threads": 1,
    }
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def rewrite(config_file):
    """Change entries of the configuration file, sections by their keys, and load it."""

    def change(path: Path = config_file, **changes) -> TrainConfig:
        config = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(config.get(key, {}), dict):
                config.setdefault(key, {}).update(value)
            else:
                config[key] = value
        path.write_text(yaml.safe_dump(config))
        return load_train_config(path)

    return change


@pytest.fixture
def interrupt_at():
    """A listener that breaks a run off when it reports this step, and keeps its losses by step."""

    def make(last: int):
        def listen(record):
            if "loss" in record:
                listen.losses[record["step"]] = record["loss"]
                if record["step"] >= last:
                    raise Interruption

        listen.losses = {}
        return listen

    return make
