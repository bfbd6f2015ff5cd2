from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.train.config import TrainConfig, load_train_config
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.loop import CHECKPOINT_FILE, LOG_FILE, Trainer, plan_epoch, train_model

RUN = "import sys, pathlib; from e3relax_flows.train.config import load_train_config; \
from e3relax_flows.train.loop import train_model; train_model(load_train_config(pathlib.Path(sys.argv[1])))"


def rewrite(path, **changes):
    config = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        if isinstance(value, dict):
            config.setdefault(key, {}).update(value)
        else:
            config[key] = value
    path.write_text(yaml.safe_dump(config))
    return load_train_config(path)


def test_learns_and_beats_the_identity(config_file):
    records = []
    trainer = train_model(load_train_config(config_file), records.append)
    validations = [r for r in records if r.get("event") == "validation"]
    assert [v["step"] for v in validations] == [20, 40, 60]
    assert trainer.progress.best_score == min(v["score"] for v in validations)
    assert trainer.progress.best_score < 0.8
    assert validations[-1]["over_identity"].keys() == {"small", "large"}
    log = (trainer.config.out / LOG_FILE).read_text().splitlines()
    assert [json.loads(line) for line in log] == records


def test_stopped_and_resumed_equals_uninterrupted(config_file):
    whole = train_model(rewrite(config_file, out="whole"))
    config = rewrite(config_file, out="parts", checkpoint_minutes=1e-6)
    step = Trainer.step

    def stop_at_33(self, sample):
        if self.progress.step == 33:  # inside an epoch
            raise KeyboardInterrupt
        return step(self, sample)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at_33)
        with pytest.raises(KeyboardInterrupt):
            train_model(config)
    resumed = train_model(config)
    assert resumed.progress.step == whole.progress.step == 60
    assert resumed.progress.best_score == whole.progress.best_score
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_killed_run_goes_on_from_its_last_checkpoint(config_file):
    config = rewrite(config_file, checkpoint_minutes=0.0005, schedule={"max_steps": 100000})
    process = subprocess.Popen([sys.executable, "-c", RUN, str(config_file)])
    checkpoint = config.out / CHECKPOINT_FILE
    deadline = time.time() + 120
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    trainer = Trainer(config)
    assert trainer.resume()
    assert 0 < trainer.progress.step < 100000


def test_changed_configuration_is_refused(config_file):
    train_model(load_train_config(config_file))
    with pytest.raises(ConfigError, match="seed"):
        train_model(rewrite(config_file, seed=5))


def test_device_is_resolved_as_in_prediction(config_file):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Trainer(rewrite(config_file, device="auto")).device.type == expected
    with pytest.raises(ConfigError, match="'gpu' is unknown; give auto, cpu, cuda"):
        Trainer(rewrite(config_file, device="gpu"))


def test_damaged_checkpoint_is_refused(config_file):
    config = load_train_config(config_file)
    config.out.mkdir()
    (config.out / CHECKPOINT_FILE).write_bytes(b"half a file")
    with pytest.raises(ModelError, match="remove it"):
        train_model(config)


@pytest.mark.parametrize(
    ("section", "key"), [("schedule", "learning_rat"), ("loss", "position"), ("data", "batch"), ("network", "n_layer")]
)
def test_configuration_errors_name_the_key(config_file, section, key):
    with pytest.raises(ConfigError, match=f"{section}.{key}"):
        Trainer(rewrite(config_file, **{section: {key: 1.0}}))


def test_epochs_see_every_pair_once_in_another_order(config_file):
    pairs = load_pairs(load_train_config(config_file).data.train)
    first, second = plan_epoch(pairs, 32, 0, 0), plan_epoch(pairs, 32, 0, 1)
    assert sorted(i for batch in first for i in batch) == list(range(64))
    assert first != second
    assert plan_epoch(pairs, 32, 0, 1) == second
    assert max(sum(pairs.sizes[i] for i in batch) for batch in first) <= 32


def test_the_sample_configuration_is_that_of_the_bundled_weights():
    root = Path(__file__).resolve().parents[2]
    config = load_train_config(root / "configs" / "train.yaml")
    assert config.out == root / "runs" / "small"
    shown = yaml.safe_load((root / "configs" / "train.yaml").read_text())
    assert shown.keys() == TrainConfig.model_fields.keys()
    for section in ("data", "schedule", "network"):
        fields = type(RelaxationNetwork.kinds[config.kind].from_config({}).config) if section == "network" else None
        fields = fields or type(getattr(config, section))
        assert shown[section].keys() == fields.model_fields.keys(), section
    bundled = json.loads((root / "e3relax_flows" / "weights" / "small" / "config.json").read_text())
    assert bundled["kind"] == config.kind
    assert bundled["network"] == RelaxationNetwork.kinds[config.kind].from_config(config.network).config.model_dump()
    assert bundled["provenance"]["loss"] == dataclasses.asdict(config.loss)
    assert bundled["provenance"]["schedule"]["learning_rate"] == config.schedule.learning_rate
