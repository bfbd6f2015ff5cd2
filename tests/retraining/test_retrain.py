"""Retraining from the pair store to the alias, with a network that is trained in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jobflow import JobStore
from made_pairs import OXIDES, RADII, make_pairs, store_pairs
from maggma.stores import MemoryStore

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.model.files import save_model
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.pairs.dataset_store import find_dataset, open_dataset_stores, save_holdout
from e3relax_flows.pairs.datasets import freeze_holdout
from e3relax_flows.pairs.store import iter_pairs, open_pair_store
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.registry.aliases import promote, rollback
from e3relax_flows.registry.judgements import find_gates, open_judgements
from e3relax_flows.registry.models import register_model, resolve_model
from e3relax_flows.registry.store import find_alias, find_model_doc
from e3relax_flows.retraining.maker import RetrainMaker
from e3relax_flows.retraining.training import describe_training, take_snapshot, write_shards
from e3relax_flows.schemas.models import Decision
from e3relax_flows.schemas.pairs import identify_pair
from e3relax_flows.schemas.retraining import RetrainConfig, RetrainDoc, name_run_folder
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.launcher import read_last_event

TINY = {"n_layers": 1, "n_scalars": 12, "n_vectors": 4, "n_tensors": 2, "n_densities": 4, "n_hidden": 12, "n_radial": 8}
TRAINING = {
    "network": TINY,
    "data": {"max_atoms": 32, "val_size": 20},
    "schedule": {"max_steps": 60, "learning_rate": 0.01, "warmup_steps": 5, "ema_decay": 0.9},
    "val_every": 20,
    "threads": 1,
}
CONFIG = {
    "name": "halides",
    "alias": "serving",
    "holdout": "halides",
    "training": TRAINING,
    "replay": {"fraction": 0},
    "chunk_size": 12,
    # of 30 pairs, three may be served worse: a network of seconds has no better guard
    "gate": {"n_resamples": 500, "min_stratum": 5, "max_harmed": 0.1},
}


@pytest.fixture
def serving(settings: E3RelaxSettings) -> E3RelaxSettings:
    """Pairs of halides with a frozen holdout; the alias "serving" means a network that was never trained."""
    store_pairs(settings, make_pairs(RADII, "halides", per_system=6))
    with open_pair_store(settings) as pairs, open_dataset_stores(settings) as stores:
        save_holdout(stores, freeze_holdout(iter_pairs(pairs), "halides", "chemical_system", 0.3))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        folder = save_model(settings.DATA_DIR / "models" / "untrained", E3RelaxH2.from_config(TINY), "for this test")
    register_model(folder, settings)
    promote("serving", folder.model_id, "there is no other", settings=settings)
    return settings


@pytest.fixture
def workspace(serving: E3RelaxSettings) -> Iterator[Workspace]:
    with open_workspace(serving) as workspace:
        yield workspace


def run(config: dict, folder: Path, incumbent: str | None = None) -> RetrainDoc:
    flow = RetrainMaker(config=RetrainConfig.model_validate(config)).make(incumbent)
    jobs = JobStore(MemoryStore())
    outcome = run_flow_locally(flow, jobs, folder)
    assert outcome.failures == []
    return RetrainDoc.model_validate(jobs.get_output(flow.output.uuid, load=True))


def test_a_better_model_is_promoted_a_corrupted_one_rejected(serving: E3RelaxSettings, tmp_path: Path) -> None:
    before = resolve_model("serving", serving)
    ended = run(CONFIG, tmp_path / "jobs")
    assert ended.decision == Decision.PROMOTE, ended.reasons
    assert ended.promoted
    after = resolve_model("serving", serving)
    assert after.model_id == ended.challenger_id != before.model_id
    model = find_model_doc(after.model_id, serving)
    assert model is not None
    assert (model.parent_id, model.dataset_id) == (before.model_id, ended.snapshot.dataset_id)
    assert model.run_id == ended.trainings[0].run_id
    assert model.metrics["all"]["displacement"] > 0
    alias = find_alias("serving", serving)
    assert alias is not None
    assert alias.history[-1].gate_id == ended.gate_id

    # the same question again has the same answer and costs no training
    again = run({**CONFIG, "promote": False}, tmp_path / "again", incumbent=before.model_id)
    assert (again.gate_id, again.challenger_id) == (ended.gate_id, ended.challenger_id)
    with open_judgements(serving) as stores:
        (gate,) = find_gates(stores, {})
    assert (gate.n_looks, gate.comparisons[0].n) == (1, len(set(list_holdout(serving))))

    # the same crystals, each with a relaxed lattice that is 12 % too long
    store_pairs(serving, make_pairs(RADII, "corrupted", per_system=6, scale=2.46))
    bad = run(
        {**CONFIG, "name": "bad", "blend": 0, "dataset": {"filter": {"sources": ["corrupted"]}}}, tmp_path / "bad"
    )
    assert (bad.decision, bad.promoted) == (Decision.REJECT, False), bad.reasons
    assert resolve_model("serving", serving).model_id == ended.challenger_id

    rollback("serving", "for this test", serving)
    assert resolve_model("serving", serving).model_id == before.model_id


def list_holdout(settings: E3RelaxSettings) -> list[str]:
    from e3relax_flows.pairs.dataset_store import find_holdout

    with open_dataset_stores(settings) as stores:
        return find_holdout(stores, "halides").pair_ids


@pytest.mark.usefixtures("serving")
def test_a_retraining_is_continued_where_its_walltime_ended_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from e3relax_flows.train import loop

    starts = []

    class Watch(loop.StopRequest):
        """Ends the first two allocations after some steps."""

        def __init__(self, deadline: float) -> None:
            super().__init__(deadline)
            starts.append(self)
            self.asked = 0

        @property
        def reason(self) -> str | None:
            self.asked += 1
            return "walltime" if len(starts) < 3 and self.asked > 15 else None

    monkeypatch.setattr(loop, "StopRequest", Watch)
    config = {
        **CONFIG,
        "promote": False,
        "training": {**TRAINING, "schedule": {**TRAINING["schedule"], "max_steps": 40}},
    }
    ended = run(config, tmp_path / "parts")
    (training,) = ended.trainings
    assert (len(starts), training.n_starts, training.step, training.state) == (3, 3, 40, "finished")


def test_two_processes_train_inside_the_flow(serving: E3RelaxSettings, tmp_path: Path) -> None:
    training = {**TRAINING, "schedule": {**TRAINING["schedule"], "max_steps": 20}}
    config = {**CONFIG, "promote": False, "training": training, "launch": {"processes": 2}}
    (done,) = run(config, tmp_path / "jobs").trainings
    assert "--nproc-per-node=2" in done.command
    assert done.hardware["world_sizes"] == [2]
    assert (done.state, done.step) == ("finished", 20)
    folder = name_run_folder(serving.DATA_DIR, done.run_id)
    assert read_last_event(folder / "log.jsonl")["event"] == "end"
    assert {path.parent for path in folder.rglob("*.safetensors")} == {folder / "halides"}  # exported once, by the flow


def test_old_pairs_are_replayed_and_forgetting_is_judged(serving: E3RelaxSettings, tmp_path: Path) -> None:
    first = run(CONFIG, tmp_path / "first")
    assert first.promoted, (first.message, first.reasons)
    store_pairs(serving, make_pairs(OXIDES, "chalcogenides", per_system=8))
    with open_pair_store(serving) as pairs, open_dataset_stores(serving) as stores:
        new = iter_pairs(pairs, {"source": "chalcogenides"})
        save_holdout(stores, freeze_holdout(new, "chalcogenides", "chemical_system", 0.3))
    config = {
        **CONFIG,
        "name": "both",
        "holdout": "chalcogenides",
        "original_holdout": "halides",
        "replay": {"fraction": 0.4},
        "seeds": [0, 1],
        "training": {**TRAINING, "schedule": {**TRAINING["schedule"], "max_steps": 30}},
        "gate": {"n_resamples": 500, "min_stratum": 5, "tolerance": 0.5},
    }
    ended = run(config, tmp_path / "second")
    snapshot = ended.snapshot
    assert snapshot.incumbent_id == first.challenger_id
    assert snapshot.n_replayed == pytest.approx(0.4 * snapshot.n_train, abs=6)
    assert len({training.run_id for training in ended.trainings}) == 2  # both may keep the weights they began with
    best = min(ended.trainings, key=lambda training: (training.best_score, training.model_id))
    assert ended.challenger_id == best.model_id
    with open_judgements(serving) as stores:
        gate = find_gates(stores, {"gate_id": ended.gate_id})[0]
    assert {c.name for c in gate.comparisons} >= {"all", "original: all"}


def test_replay_without_old_pairs_says_what_to_do(workspace: Workspace) -> None:
    config = RetrainConfig.model_validate({**CONFIG, "replay": {"fraction": 0.5, "sources": ["elsewhere"]}})
    with pytest.raises(ConfigError, match=r"replay\.sources.*replay\.bundled: true"):
        take_snapshot(config, None, workspace)


def test_the_pairs_of_the_package_are_replayed(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    share = 0.1
    config = RetrainConfig.model_validate({**CONFIG, "replay": {"fraction": share}})
    assert take_snapshot(config, None, workspace).n_replayed == 0  # nothing old is there, and the package is not asked
    assert "nothing is replayed" in caplog.text
    config = RetrainConfig.model_validate({**CONFIG, "replay": {"fraction": share, "bundled": "auto"}})
    snapshot = take_snapshot(config, None, workspace)
    assert snapshot.n_bundled == snapshot.n_replayed
    n_own = snapshot.n_train + snapshot.n_val - snapshot.n_bundled
    assert snapshot.n_bundled == pytest.approx(share / (1 - share) * n_own, abs=1)
    dataset = find_dataset(workspace.get(open_dataset_stores), snapshot.dataset_id)
    assert dataset.functionals == {"PBE": snapshot.n_train - snapshot.n_bundled, "SevenNet-l3i5": snapshot.n_bundled}
    shards = write_shards(dataset, workspace)
    train, val = load_pairs([shards / "train"]), load_pairs([shards / "val"])
    assert set(train.ids) == set(dataset.train)
    assert set(val.functionals) == {"PBE"}


def test_the_pairs_of_the_package_are_not_mixed_with_other_functionals(workspace: Workspace) -> None:
    pairs = [pair.model_copy(update={"functional": "r2SCAN"}) for pair in make_pairs(OXIDES, "scan", per_system=6)]
    store_pairs(workspace.settings, [pair.model_copy(update={"pair_id": identify_pair(pair)}) for pair in pairs])
    config = {
        **CONFIG,
        "dataset": {"filter": {"functionals": ["r2SCAN"]}},
        "replay": {"fraction": 0.1, "bundled": "auto"},
    }
    assert take_snapshot(RetrainConfig.model_validate(config), None, workspace).n_bundled == 0
    forced = RetrainConfig.model_validate({**config, "replay": {"fraction": 0.1, "bundled": True}})
    assert take_snapshot(forced, None, workspace).n_bundled > 0


def test_entries_that_the_retraining_writes_itself_are_refused(serving: E3RelaxSettings) -> None:
    config = RetrainConfig.model_validate({**CONFIG, "training": {"out": "x", "data": {"train": ["y"]}}})
    with pytest.raises(ConfigError, match=r"out, data\.train"):
        describe_training(config, resolve_model("serving", serving), ["PBE"])


def test_the_maker_survives_a_round_trip() -> None:
    maker = RetrainMaker(config=CONFIG)
    assert RetrainMaker.from_dict(maker.as_dict()).config == maker.config
    names = {job.name for job in maker.make("default").jobs}
    assert names == {"e3r snapshot", "e3r train", "e3r choose", "e3r evaluate", "e3r gate", "e3r promote"}
