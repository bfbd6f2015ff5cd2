from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forked import Forked, train
from made_halides import Interruption, make_pairs, write_pairs

from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.core.optional import MissingDependencyError
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.schemas.training import TrainConfig, load_train_config
from e3relax_flows.train.checkpoint import CHECKPOINT_FILE, PREVIOUS_FILE
from e3relax_flows.train.loop import train_model
from e3relax_flows.train.progress import LOG_FILE, Meter, format_duration, format_record
from e3relax_flows.train.stopping import StopRequest, find_deadline
from e3relax_flows.train.trainer import Trainer

EVERY_STEP = {"every_seconds": 1e-9}


def assert_equal_weights(trainer, other):
    for part in ("network", "average"):
        theirs = getattr(other, part).state_dict()
        for name, value in getattr(trainer, part).state_dict().items():
            assert torch.equal(value, theirs[name]), f"{part} {name}"
    for name, value in trainer.best.items():
        assert torch.equal(value, other.best[name]), name
    moments, others = trainer.optimizer.name_moments(), other.optimizer.name_moments()
    assert moments.keys() == others.keys() == dict(trainer.network.named_parameters()).keys()
    for name, state in moments.items():
        assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(others[name][key])) for key in state)


def test_learns_and_beats_the_identity(config_file):
    records = []
    trainer = train_model(load_train_config(config_file), records.append)
    validations = [r for r in records if r.get("event") == "validation"]
    assert [v["step"] for v in validations] == [20, 40, 60]
    assert trainer.progress.best_score == min(v["score"] for v in validations)
    assert trainer.progress.best_score < 0.8
    assert validations[-1]["over_identity"].keys() == {"small", "large"}
    assert records[0]["functionals"] == {"PBE": 64}
    assert records[-1]["event"] == "end"
    last = records[-2]
    assert max(last["over_identity"][1:]) < 1.0
    assert last["done"] == 1.0
    log = (trainer.config.out / LOG_FILE).read_text().splitlines()
    assert [json.loads(line) for line in log] == records


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_broken_off_and_resumed_equals_uninterrupted(rewrite, interrupt_at, optimizer):
    options = {"log": EVERY_STEP, "data": {"own_output": 0.3, "own_output_steps": 2}, "val_every": 8}
    options["schedule"] = {"max_steps": 24, "optimizer": optimizer}
    whole = train_model(rewrite(out="whole", **options))
    config = rewrite(out="parts", checkpoint_minutes=1e-6, **options)
    with pytest.raises(Interruption):
        train_model(config, interrupt_at(15))  # inside an epoch
    resumed = train_model(config)
    assert resumed.progress.step == whole.progress.step == 24
    assert resumed.progress.best_score == whole.progress.best_score
    assert_equal_weights(resumed, whole)
    runs = [(run.config.out / LOG_FILE).read_text().splitlines() for run in (whole, resumed)]
    losses = [{r["step"]: r["loss"] for r in map(json.loads, lines) if "loss" in r} for lines in runs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 24


def test_signals_save_at_the_end_of_the_step(rewrite):
    whole = train_model(rewrite(out="whole", schedule={"max_steps": 20}))
    config = rewrite(out="parts", log=EVERY_STEP)
    for step, number in ((5, signal.SIGTERM), (10, signal.SIGUSR1), (15, signal.SIGINT)):

        def listen(record, step=step, number=number):
            if record["step"] == step and "loss" in record:
                os.kill(os.getpid(), number)

        before = signal.getsignal(number)
        stopped = train_model(config, listen)
        assert signal.getsignal(number) is before
        assert stopped.stopped == number.name
        assert step <= stopped.progress.step <= step + 2  # no later than after a step on the network's own output
    again = train_model(config)
    assert again.stopped is None
    assert_equal_weights(again, whole)
    events = [json.loads(line).get("event") for line in (config.out / LOG_FILE).read_text().splitlines()]
    expected = ["start", *["stop", "resume"] * 3, "validation", "end"]
    assert [event for event in events if event] == expected


@pytest.fixture
def torn_apart(monkeypatch):
    """Elements whose crystals the network predicts as not finite, as real weights do with atoms at 0.7 Å."""
    elements, forward = set(), E3RelaxH2.forward

    def tear(self, batch):
        layers = forward(self, batch)
        is_torn = torch.isin(batch.numbers, torch.tensor(sorted(elements), dtype=torch.int64))
        factors = torch.ones(batch.n_graphs, dtype=torch.float64)
        factors[batch.graph_of_atom[is_torn]] = float("nan")
        return [layer._replace(lattices=layer.lattices * factors[:, None, None]) for layer in layers]

    monkeypatch.setattr(E3RelaxH2, "forward", tear)
    return elements


def test_a_step_without_a_finite_gradient_is_skipped(rewrite, torn_apart, tmp_path, caplog):
    rows = make_pairs(0, 64)
    potassium = [row["id"] for row in rows if 19 in row["numbers"]]
    torn = potassium[0]
    others = [row for row in rows if row["id"] not in potassium]
    write_pairs(tmp_path / "train.jsonl.gz", [*others, next(row for row in rows if row["id"] == torn)])
    write_pairs(tmp_path / "val.jsonl.gz", [row for row in make_pairs(1, 24) if 19 not in row["numbers"]])
    torn_apart.add(19)
    records = []
    data = {"max_atoms": 8, "own_output": 0.5}
    trainer = train_model(rewrite(data=data, log=EVERY_STEP), records.append)
    skipped = [record for record in records if record.get("event") == "skipped"]
    assert 3 <= len(skipped) <= 10  # once in an epoch, which has 10 to 12 batches
    assert all(record["message"].endswith(f"look at the starts of these pairs: {torn}") for record in skipped)
    assert f"skipped at step {skipped[0]['step']}: the gradient is not finite" in format_record(skipped[0])
    assert all(np.isfinite(record["loss"]) for record in records if "loss" in record)
    assert all(torch.isfinite(value).all() for value in trainer.best.values())
    assert trainer.progress.best_score < 0.9
    assert f"step {skipped[0]['step']}: the gradient is not finite" in caplog.text


def test_gradients_that_are_never_finite_end_the_run(rewrite, torn_apart):
    torn_apart.update({9, 17, 35})
    with pytest.raises(ConfigError, match=r"10 steps in a row, up to step 9, .*schedule\.learning_rate below 0\.01"):
        train_model(rewrite(val_every=1000))


def test_a_second_interrupt_is_immediate():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            first = stop.reason
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert first == "SIGINT"


def test_walltime_stops_before_it_is_over(rewrite):
    stopped = train_model(rewrite(walltime_hours=1.0, stop_minutes=60.0))
    assert stopped.stopped == "walltime"
    assert stopped.progress.step < 10
    now = time.time()
    assert find_deadline(2.0, 6.0, {}) - now == pytest.approx(1.9 * 3600, abs=5)
    assert find_deadline(None, 6.0, {"SLURM_JOB_END_TIME": "1790000000"}) == 1790000000 - 360
    assert find_deadline(None, 6.0, {}) == float("inf")
    assert StopRequest(now - 1).reason == "walltime"
    assert StopRequest(now + 1000).reason is None


def test_killed_run_goes_on_from_its_last_checkpoint(rewrite, config_file):
    config = rewrite(checkpoint_minutes=1e-6, schedule={"max_steps": 100000}, log=EVERY_STEP)
    process = Forked(train, str(config_file), folder=config_file.parent, environment=os.environ)
    deadline = time.time() + 120
    while not (config.out / PREVIOUS_FILE).exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    trainer = Trainer(config)
    assert trainer.resume()
    assert 0 < trainer.progress.step < 100000
    killed = [json.loads(line) for line in (config.out / LOG_FILE).read_text().splitlines()]
    losses = {record["step"]: record["loss"] for record in killed if "loss" in record}
    assert losses.keys() >= {1, trainer.progress.step}

    def check(record):
        if "loss" in record:
            assert record["loss"] == losses.get(record["step"], record["loss"])
            if record["step"] >= trainer.progress.step + 5:
                raise Interruption

    with pytest.raises(Interruption):
        train_model(config, check)


def test_changed_configuration_is_refused_field_by_field(rewrite, config_file, tmp_path):
    train_model(rewrite(schedule={"max_steps": 5}))
    with pytest.raises(ConfigError, match=r"another configuration: network.n_scalars: 16 -> 8; seed: 0 -> 5; restore"):
        train_model(rewrite(seed=5, network={"n_scalars": 8}))
    with pytest.raises(ConfigError, match=r"schedule.max_steps: 5 -> 10; restore .*finetune: {path: .*last.ckpt}"):
        train_model(rewrite(seed=0, network={"n_scalars": 16}, schedule={"max_steps": 10}))
    moved = write_pairs(tmp_path / "moved.jsonl.gz", make_pairs(0, 64))
    options = {"checkpoint_minutes": 1.0, "device": "auto", "precision": "tf32", "log": {"every_seconds": 5.0}}
    allowed = rewrite(**options, schedule={"max_steps": 5}, data={"train": [str(moved)]})
    assert train_model(allowed).progress.step == 5
    write_pairs(moved, make_pairs(2, 64))
    with pytest.raises(ConfigError, match=r"last\.ckpt .*data\.train \(hash [0-9a-f]{16} -> [0-9a-f]{16}\)"):
        train_model(load_train_config(config_file))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(rewrite):
    whole = train_model(rewrite(out="whole", schedule={"max_steps": 20}))
    config = rewrite(out="run", schedule={"max_steps": 20}, checkpoint_minutes=1e-6)
    train_model(config)
    last, previous = config.out / CHECKPOINT_FILE, config.out / PREVIOUS_FILE
    last.write_bytes(last.read_bytes()[:1000])
    records = []
    again = train_model(config, records.append)
    assert records[0]["event"] == "warning"
    assert "last.ckpt is not a readable checkpoint" in records[0]["message"]
    assert records[1]["event"] == "resume"
    assert 0 < records[1]["step"] < 20
    assert_equal_weights(again, whole)
    last.unlink()  # as if killed between the two renames
    trainer = Trainer(config)
    assert trainer.resume()
    assert 0 < trainer.progress.step <= 20
    last.write_bytes(b"half a file")
    previous.write_bytes(b"")
    with pytest.raises(ModelError, match=r"/last\.ckpt .*\(.+\); remove it"):
        train_model(config)


def test_device_is_resolved_as_in_prediction(rewrite):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Trainer(rewrite(device="auto")).device.type == expected
    with pytest.raises(ConfigError, match=r"'gpu' .*auto, cpu, cuda"):
        Trainer(rewrite(device="gpu"))


@pytest.mark.parametrize(
    ("section", "key"),
    [("schedule", "learning_rat"), ("loss", "position"), ("data", "batch"), ("network", "n_layer"), ("log", "file")],
)
def test_configuration_errors_name_the_key(rewrite, section, key):
    with pytest.raises(ConfigError, match=f"{section}.{key}"):
        Trainer(rewrite(**{section: {key: 1.0}}))


def test_bfloat16_learns_nearly_the_same(rewrite, interrupt_at):
    options = {"log": EVERY_STEP, "schedule": {"learning_rate": 0.003}, "loss": {"expected": 0.0}}
    losses = {}
    for precision in ("float32", "bf16"):
        listen = interrupt_at(15)
        with pytest.raises(Interruption):
            train_model(rewrite(out=precision, precision=precision, **options), listen)
        losses[precision] = np.array(list(listen.losses.values()))
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.01)
    assert (losses["bf16"] != losses["float32"]).sum() > 10


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_make_the_same_samples(rewrite, interrupt_at):
    losses = {}
    for workers in (0, 1):
        listen = interrupt_at(12)
        with pytest.raises(Interruption):
            train_model(rewrite(out=f"run{workers}", data={"workers": workers}, log=EVERY_STEP), listen)
        losses[workers] = listen.losses
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_mixed_functionals_are_refused_unless_named(rewrite, tmp_path):
    rows = make_pairs(0, 16)
    for row in rows[:4]:
        row["functional"] = "PBEsol"
    write_pairs(tmp_path / "train.jsonl.gz", rows)
    with pytest.raises(ConfigError, match=r'PBE \(36 pairs\), PBEsol \(4 pairs\).*data.functionals: \["PBE", "PBEsol"'):
        train_model(rewrite())
    with pytest.raises(ConfigError, match=r' PBEsol .* data\.functionals \["PBE"\]'):
        train_model(rewrite(data={"functionals": ["PBE"]}))
    config = rewrite(data={"functionals": ["PBE", "PBESol", "SCAN"]}, schedule={"max_steps": 1})
    assert train_model(config).progress.step == 1


def test_records_read_well():
    meter = Meter(0.5)
    meter.started -= 100.0
    meter.reported -= 10.0
    meter.add([0.5, 0.1, 0.2, 0.3, 0.2, 0.2, 0.2], 30)
    meter.add([0.7, 0.1, 0.2, 0.1, 0.2, 0.2, 0.2], 20)
    record = {"step": 7, **meter.report(0.75)}
    assert record["loss"] == pytest.approx(0.6)
    assert record["over_identity"] == pytest.approx([0.5, 1.0, 1.0])
    assert record["per_second"] == pytest.approx(5.0, rel=1e-3)
    assert record["seconds_left"] == pytest.approx(100.0, rel=1e-3)
    assert format_record(record) == (
        "step 7 (75.0%): loss 0.6000; over the identity's: displacement 0.50, strain 1.00, volume 1.00; "
        "5 structures/s, 2 min left"
    )
    assert format_duration(99.4) == "99 s"
    assert format_duration(11100) == "3 h 05 min"
    assert "run the same command again" in format_record({"event": "stop", "step": 3, "reason": "SIGTERM"})


def test_tensorboard_is_written_when_asked_for(rewrite):
    config = rewrite(log={"tensorboard": True, **EVERY_STEP}, schedule={"max_steps": 4}, val_every=2)
    try:
        import tensorboard  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(MissingDependencyError, match=r"log.tensorboard needs 'tensorboard'.*\[tensorboard\]"):
            train_model(config)
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_model(config)
    events = EventAccumulator(str(config.out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("validation/small/volume")] == [2, 4]


def test_the_sample_configuration_is_that_of_the_bundled_weights():
    root = Path(__file__).resolve().parents[2]
    config = load_train_config(root / "configs" / "train.yaml")
    assert config.out == root / "runs" / "small"
    assert config.data.functionals == ["PBE", "PBE(+U)"]
    shown = yaml.safe_load((root / "configs" / "train.yaml").read_text())
    assert shown.keys() == TrainConfig.model_fields.keys()
    for section in ("data", "schedule", "network", "log"):
        fields = type(RelaxationNetwork.kinds[config.kind].from_config({}).config) if section == "network" else None
        fields = fields or type(getattr(config, section))
        assert shown[section].keys() == fields.model_fields.keys(), section
    assert shown["data"]["augmentation"].keys() == config.data.augmentation.__dataclass_fields__.keys()
    bundled = json.loads((root / "e3relax_flows" / "weights" / "small" / "config.json").read_text())
    assert bundled["kind"] == config.kind
    assert bundled["network"] == RelaxationNetwork.kinds[config.kind].from_config(config.network).config.model_dump()
    assert bundled["provenance"]["loss"].items() <= dataclasses.asdict(config.loss).items()
    last = bundled["provenance"]["schedule"]  # of several; the rate fell from part to part
    assert last["optimizer"] == config.schedule.optimizer
    assert last["learning_rate"] <= config.schedule.learning_rate
