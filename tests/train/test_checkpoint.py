"""Checkpoints of every format that was ever written are read and go on; files under tests/files never change."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.train.checkpoint import (
    CHECKPOINT_FILE,
    FORMAT_VERSION,
    PREVIOUS_FILE,
    find_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from e3relax_flows.train.loop import train_model
from e3relax_flows.train.trainer import Trainer

FIXTURES = Path(__file__).resolve().parents[1] / "files" / "checkpoints"
# the fixtures are half of a run of 60 steps: of this network, on the pairs of `config_file`
SIZES = {
    "n_layers": 1, "n_scalars": 4, "n_hidden": 4, "n_vectors": 2, "n_tensors": 1, "n_densities": 2, "n_radial": 4,
    "l_max": 2,
}  # fmt: skip


def unpack(version, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT_FILE
    path.write_bytes(gzip.decompress((FIXTURES / f"format{version}.ckpt.gz").read_bytes()))
    return path


@pytest.mark.parametrize(("version", "step", "best"), [(1, 30, 0.9331442021645037), (2, 31, 0.9437214677809017)])
def test_old_checkpoints_go_on(rewrite, version, step, best):
    config = rewrite(network=SIZES)
    unpack(version, config.out)
    trainer = Trainer(config)
    assert trainer.resume()
    assert (trainer.progress.step, trainer.progress.best_step) == (step, 20)
    assert trainer.progress.best_score == best
    raw = torch.load(config.out / CHECKPOINT_FILE, weights_only=True)
    for name, value in raw["network"].items():
        assert torch.equal(trainer.network.state_dict()[name], value), name
        assert torch.equal(trainer.best[name], raw["best"][name]), name
    name = "layers.0.messages.of_edge.weight"
    mine = trainer.optimizer.name_moments()[name]["exp_avg"]
    theirs = raw["optimizer"]["state"] if version == 1 else raw["optimizer"]
    key = list(raw["network"]).index(name) if version == 1 else name
    assert torch.equal(mine, theirs[key]["exp_avg"])
    assert mine.abs().max() > 0
    assert trainer.progress.batch == (0 if version == 1 else raw["progress"]["batch"])
    finished = train_model(config)
    assert finished.progress.step == 60
    assert finished.progress.best_score < best
    assert read_checkpoint(config.out / CHECKPOINT_FILE)["format_version"] == FORMAT_VERSION


def test_old_checkpoints_can_be_the_start_of_another_run(rewrite, tmp_path):
    path = unpack(1, tmp_path / "old")
    trainer = train_model(rewrite(network=SIZES, finetune=str(path), schedule={"max_steps": 2}))
    assert trainer.progress.best_score <= 0.95


def test_format_2_recognises_its_pairs(rewrite):
    config = rewrite(network=SIZES)
    unpack(2, config.out)
    assert Trainer(config).resume()
    with pytest.raises(ConfigError, match=r"last\.ckpt .*data\.train \(hash [0-9a-f]{16} -> [0-9a-f]{16}\)"):
        train_model(rewrite(data={"train": config.data.model_dump(mode="json")["val"]}))


def test_newer_formats_are_refused(tmp_path):
    torch.save({"format_version": FORMAT_VERSION + 1}, tmp_path / "new.ckpt")
    with pytest.raises(ModelError, match=rf"new\.ckpt: .* {FORMAT_VERSION + 1}, .* 1 to {FORMAT_VERSION};"):
        read_checkpoint(tmp_path / "new.ckpt")


def test_a_kill_between_the_renames_leaves_the_previous_one(tmp_path, monkeypatch):
    last = tmp_path / CHECKPOINT_FILE
    write_checkpoint(last, {"a": 1})
    write_checkpoint(last, {"a": 2})
    assert torch.load(tmp_path / PREVIOUS_FILE)["a"] == 1
    replace = Path.replace

    def die_at_the_second(self, target):
        if Path(target) == last:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(last, {"a": 3})
    assert not last.exists()
    found = find_checkpoint(tmp_path)
    assert (found.state["a"], found.warning) == (2, None)
    assert find_checkpoint(tmp_path / "empty") is None
