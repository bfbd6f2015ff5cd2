from __future__ import annotations

import json
import shutil

import pytest
import torch

from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.model.files import load_network, save_model
from e3relax_flows.schemas.training import load_train_config
from e3relax_flows.train.checkpoint import CHECKPOINT_FILE, write_checkpoint
from e3relax_flows.train.export import export_model
from e3relax_flows.train.loop import train_model
from e3relax_flows.train.progress import LOG_FILE, dump_record
from e3relax_flows.train.trainer import Trainer


@pytest.fixture
def parent(rewrite):
    """A run that has learned something."""
    return train_model(rewrite(out="parent", schedule={"max_steps": 16}, val_every=8))


def read_events(config, event):
    lines = (config.out / LOG_FILE).read_text().splitlines()
    return [record for record in map(json.loads, lines) if record.get("event") == event]


def test_the_start_scores_as_recorded_and_is_the_first_best(rewrite, parent):
    path = parent.config.out / CHECKPOINT_FILE
    # a learning rate that destroys what was learned: the start stays the best
    schedule = {"max_steps": 4, "learning_rate": 0.05, "warmup_steps": 0}
    child = train_model(rewrite(out="child", finetune=str(path), schedule=schedule, val_every=2))
    scores = [record["score"] for record in read_events(child.config, "validation")]
    assert scores[0] == pytest.approx(parent.progress.best_score, rel=1e-6)
    assert min(scores[1:]) > scores[0]
    assert (child.progress.best_step, child.progress.best_score) == (0, scores[0])
    assert all(torch.equal(value, parent.best[name]) for name, value in child.best.items())
    assert "as recorded" in read_events(child.config, "finetune")[0]["message"]
    again = train_model(child.config)  # at its end: no second check, nothing trained
    assert again.progress == child.progress
    assert len(read_events(child.config, "finetune")) == 1


def test_a_start_that_scores_otherwise_is_refused(rewrite, parent, tmp_path):
    path = parent.config.out / CHECKPOINT_FILE
    state = torch.load(path, weights_only=True)
    state["progress"]["best_score"] *= 0.9
    write_checkpoint(tmp_path / "wrong.ckpt", {key: state[key] for key in state if key != "format_version"})
    config = rewrite(out="child", finetune={"path": "wrong.ckpt"})
    with pytest.raises(ModelError, match=r"wrong\.ckpt .* 0\.\d{4} .* 0\.\d{4} "):
        train_model(config)
    # on other pairs the record says nothing, and the identity is the measure
    other = rewrite(out="other", data={"val_size": 12}, schedule={"max_steps": 1})
    train_model(other)
    assert "(1 is the identity)" in read_events(other, "finetune")[0]["message"]


def save_spoiled(folder, config, change):
    network = Trainer(config).network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(change)
    save_model(folder, network, "# bad\n")


def test_worse_than_the_identity_is_refused_unless_accepted(rewrite, tmp_path):
    save_spoiled(tmp_path / "bad", rewrite(), 0.05)
    config = rewrite(finetune={"path": "bad"}, schedule={"max_steps": 1})
    with pytest.raises(ConfigError, match=r"bad \([0-9a-f]{16}\) scores [1-9]\S+ .* set finetune.accept_worse: true"):
        train_model(config)
    assert not (config.out / CHECKPOINT_FILE).exists()
    assert train_model(rewrite(finetune={"path": "bad", "accept_worse": True})).progress.step == 1


def test_weights_that_explode_cells_score_infinitely_bad(rewrite, tmp_path):
    save_spoiled(tmp_path / "bad", rewrite(), 1.0)
    with pytest.raises(ConfigError, match=r"/bad .* inf .*data\.val .*finetune\.accept_worse: true"):
        train_model(rewrite(finetune={"path": "bad"}))
    assert dump_record({"score": float("inf"), "errors": {"a": [1.0, float("nan")]}}) == (
        '{"score": null, "errors": {"a": [1.0, null]}}'
    )


def test_frozen_parameters_stay_and_the_others_move(rewrite, parent):
    finetune = {"path": str(parent.config.out / CHECKPOINT_FILE), "freeze": ["embedding", "layers.0."]}
    child = train_model(rewrite(out="child", finetune=finetune, schedule={"max_steps": 6}))
    for name, value in child.network.state_dict().items():
        is_frozen = name.startswith(("embedding", "layers.0."))
        assert torch.equal(value, parent.best[name]) == is_frozen, name
    assert len(child.optimizer.name_moments()) < len(list(child.network.parameters()))
    assert Trainer(child.config).resume()
    with pytest.raises(ConfigError, match=r"finetune\.freeze \['layer_0'\] .* describe, emb"):
        Trainer(rewrite(finetune=finetune | {"freeze": ["layer_0"]}))
    with pytest.raises(ConfigError, match=r"finetune.freeze .*trained"):
        Trainer(rewrite(finetune=finetune | {"freeze": [""]}))


def test_sizes_and_kind_must_be_those_of_the_start(rewrite, parent, config_file):
    path = str(parent.config.out / CHECKPOINT_FILE)
    with pytest.raises(ModelError, match=r"last\.ckpt .*: network\.n_scalars: 16 -> 8;"):
        train_model(rewrite(out="child", finetune=path, network={"n_scalars": 8}))
    with pytest.raises(
        ModelError, match=r"'no-such-model' .*\(base, small, small-pbesol, small-r2scan\).*`e3relax models list`"
    ):
        train_model(rewrite(finetune="no-such-model", network={"n_scalars": 16}))
    assert load_train_config(config_file).finetune.path.name == "no-such-model"


def test_if_no_size_is_named_the_network_has_those_of_the_start(rewrite, parent, tmp_path):
    folder = export_model(parent, tmp_path / "start").path
    for path in (parent.config.out / CHECKPOINT_FILE, folder):
        finetune = {"path": str(path), "accept_worse": True}
        config = rewrite(out=f"child of {path.name}", finetune=finetune, schedule={"max_steps": 2})
        child = train_model(config.model_copy(update={"network": {}}))
        assert child.network.config == parent.network.config
        assert child.network.config.n_scalars == 16
    shutil.rmtree(folder)
    assert Trainer(child.config).resume()  # a run that is continued does not need its start


@pytest.mark.parametrize("blend", [0.0, 0.25])
def test_the_exported_weights_are_blended_with_those_of_the_start(rewrite, parent, tmp_path, blend):
    start = export_model(parent, tmp_path / "start")
    finetune = {"path": str(start.path), "blend": blend, "accept_worse": True}
    child = train_model(rewrite(out="child", finetune=finetune, schedule={"max_steps": 8}, val_every=4))
    before, exported = load_network(start).state_dict(), export_model(child, tmp_path / "tuned")
    after = load_network(exported).state_dict()
    assert any(not torch.equal(child.best[name], before[name]) for name in before)
    for name, value in after.items():
        expected = (1 - blend) * child.best[name] + blend * before[name] if blend else child.best[name]
        assert torch.allclose(value, expected, rtol=1e-6, atol=1e-7)
    assert exported.config["provenance"]["blend"] == blend
    assert ("25% are of those" in (exported.path / "card.md").read_text()) == (blend > 0)


def test_what_is_calibrated_by_expected_errors_is_carried_over(rewrite, parent, tmp_path):
    start = export_model(parent, tmp_path / "start")
    config = json.loads((start.path / "config.json").read_text())
    entries = {"second_opinions": {"P": {"harm": [0, 1, 0], "saving": [0, 1, 0], "max_harm": 0.1}}}
    entries |= {"polish": {"P": {"steps": 4, "min_error": 0.1}}}
    config["calibration"] |= entries
    calibrated = save_model(
        tmp_path / "calibrated", load_network(start), "card", {"calibration": config["calibration"]}
    )
    finetune = {"path": str(calibrated.path), "accept_worse": True}
    child = train_model(rewrite(out="child", finetune=finetune, schedule={"max_steps": 4}, val_every=4))
    calibration = export_model(child, tmp_path / "tuned").config["calibration"]
    assert {name: calibration[name] for name in entries} == entries
