"""The steps of a retraining that make a challenger: choose pairs, train or continue training; all by ids."""

from __future__ import annotations

import json
import logging
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from maggma.core import Store

from e3relax_flows.core.errors import ConfigError, ModelError, StoppedError
from e3relax_flows.core.model_folders import ModelFolder
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.pairs.bundled import (
    SUITED,
    add_bundled,
    choose_bundled,
    find_all_pairs,
    list_groups,
    load_bundled,
)
from e3relax_flows.pairs.dataset_store import (
    find_dataset,
    find_holdout,
    list_holdouts,
    open_dataset_stores,
    save_dataset,
)
from e3relax_flows.pairs.datasets import build_dataset, choose_pairs, explain_leaving_out
from e3relax_flows.pairs.store import iter_pairs, open_pair_store
from e3relax_flows.registry.models import register_model, resolve_model
from e3relax_flows.registry.store import find_alias, find_model_doc
from e3relax_flows.schemas.datasets import DatasetDoc, HoldoutDoc
from e3relax_flows.schemas.retraining import RetrainConfig, SnapshotDoc, TrainingDoc, identify_run, name_run_folder

if TYPE_CHECKING:
    from e3relax_flows.train.launcher import Run
    from e3relax_flows.train.pairs import PairSet
    from e3relax_flows.train.trainer import Trainer

SNAPSHOT_JOB, TRAIN_JOB = "e3r snapshot", "e3r train"
MANY = 200  # pairs that are enough to estimate the cost of a step
MOST_PREDICTIONS, PREDICTIONS_PER_STEP = 5000, 20
BLEND, BLEND_WITH_REPLAY = 0.5, 0.15
NEVER_MOVED = -1  # version of an alias without document
CONFIG_FILE, SNAPSHOTS, REPLAY = "run.yaml", "snapshots", "replay"
# entries of a training configuration that the retraining writes itself
OWN_ENTRIES = {"out", "name", "seed", "finetune"}
OWN_DATA = {"train", "val", "functionals"}
FINETUNING: dict[str, Any] = {
    "schedule": {"max_steps": 3000, "learning_rate": 2e-4, "warmup_steps": 150},
    "val_every": 200,
}
# in jobs of batch systems SIGTERM means that the time is up, elsewhere that a user stops the training
BATCH_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


logger = logging.getLogger(__name__)


def take_snapshot(config: RetrainConfig, incumbent: str | None, workspace: Workspace) -> SnapshotDoc:
    """Choose the pairs of a retraining from the store, and store their ids as a dataset.

    Parameters and errors are those of `plan_snapshot`.
    """
    snapshot, dataset = plan_snapshot(config, incumbent, workspace)
    save_dataset(workspace.get(open_dataset_stores), dataset)
    logger.info(
        "snapshot of alias %s: model %s, dataset %s, holdout %s",
        config.alias, snapshot.incumbent_id, snapshot.dataset_id, snapshot.holdout_id,
    )  # fmt: skip
    return snapshot


def plan_snapshot(config: RetrainConfig, incumbent: str | None, workspace: Workspace) -> tuple[SnapshotDoc, DatasetDoc]:
    """The snapshot that a retraining would begin with now; nothing is stored.

    Parameters
    ----------
    incumbent
        Alias, name or id of the model in service; None: the present model of `config.alias`.

    Raises
    ------
    ConfigError
        When a holdout is missing, no pair is new, or required old pairs are missing.
    """
    folder = resolve_model(incumbent or config.alias, workspace)
    alias = find_alias(config.alias, workspace)
    names = [config.holdout, *([config.original_holdout] if config.original_holdout else [])]
    stores, pairs = workspace.get(open_dataset_stores), workspace.get(open_pair_store)
    holdouts = [find_holdout(stores, name) for name in names]
    parent = find_model_doc(folder.model_id, workspace)
    trained_on = find_dataset(stores, parent.dataset_id) if parent and parent.dataset_id else None
    # all holdouts are excluded, also those of other retrainings
    dataset, n_replayed = _choose_dataset(config, list_holdouts(stores), trained_on, pairs)
    snapshot = SnapshotDoc(
        dataset_id=dataset.dataset_id,
        holdout_id=holdouts[0].holdout_id,
        original_holdout_id=holdouts[1].holdout_id if len(holdouts) > 1 else None,
        incumbent_id=folder.model_id,
        alias_version=alias.version if alias else NEVER_MOVED,
        n_train=len(dataset.train),
        n_val=len(dataset.val),
        n_replayed=n_replayed,
        n_bundled=len(load_bundled().keys() & set(dataset.train)) if n_replayed else 0,
        n_quarantined=dataset.n_quarantined,
    )
    return snapshot, dataset


def _choose_dataset(
    config: RetrainConfig, holdouts: list[HoldoutDoc], trained_on: DatasetDoc | None, pairs: Store
) -> tuple[DatasetDoc, int]:
    """The dataset, and the number of old pairs in its training split."""
    wanted = config.dataset

    def build(chosen: set[str] | None) -> DatasetDoc:
        docs = (doc for doc in iter_pairs(pairs) if chosen is None or doc.pair_id in chosen)
        return build_dataset(docs, holdouts, wanted.filter, wanted.group_by, wanted.val_fraction, wanted.seed)

    everything = build(None)
    if config.method == "scratch":
        return everything, 0
    bundled = _find_bundled(config, everything, holdouts, pairs)
    old: set[str] = set()
    if config.replay.sources is not None:
        known = (doc for doc in iter_pairs(pairs) if doc.source in (config.replay.sources or ()))
        old = {doc.pair_id for doc in known if explain_leaving_out(doc, wanted.filter) is None}
    elif trained_on:
        old = {*trained_on.train, *trained_on.val}
    fraction, named = config.replay.fraction, config.replay.sources is not None
    if fraction and not named and not bundled and old.isdisjoint([*everything.train, *everything.val]):
        logger.warning("no pair that the incumbent was trained on is in the pair store: nothing is replayed")
        fraction = 0.0
    chosen = choose_pairs(everything, old, fraction, wanted.seed, bundled)
    dataset = add_bundled(build(chosen), chosen & bundled)
    counted = {"left_out": everything.left_out, "n_quarantined": everything.n_quarantined}
    return dataset.model_copy(update=counted), len((old | bundled).intersection(dataset.train))


def _find_bundled(config: RetrainConfig, everything: DatasetDoc, holdouts: list[HoldoutDoc], pairs: Store) -> set[str]:
    """Ids of the package's pairs that may be replayed."""
    replay, wanted = config.replay, config.dataset
    if replay.fraction == 0 or replay.bundled is False:
        return set()
    if replay.bundled == "auto" and (replay.sources is not None or not SUITED.issuperset(everything.functionals)):
        return set()
    validated = list_groups(iter_pairs(pairs), set(everything.val), wanted.group_by)
    return choose_bundled(holdouts, validated, wanted.group_by, wanted.filter)


def describe_training(config: RetrainConfig, incumbent: ModelFolder, functionals: list[str]) -> dict[str, Any]:
    """Entries of the training configuration that determine the result; paths, name and seed are added later.

    Raises
    ------
    ConfigError
        When `config.training` has entries that the retraining writes itself.
    """
    given = config.training
    own = sorted(OWN_ENTRIES & given.keys()) + [
        f"data.{key}" for key in sorted(OWN_DATA & given.get("data", {}).keys())
    ]
    if own:
        raise ConfigError(f"training: {', '.join(own)} cannot be set here; the retraining writes them itself")
    base: dict[str, Any] = {}
    if config.method == "finetune":
        base = FINETUNING | {"kind": incumbent.config["kind"], "network": incumbent.config["network"]}
    entries = base | {
        key: base.get(key, {}) | value if isinstance(value, dict) else value for key, value in given.items()
    }
    return entries | {"data": given.get("data", {}) | {"functionals": functionals}}


def train(config: RetrainConfig, snapshot: SnapshotDoc, seed: int, workspace: Workspace) -> TrainingDoc:
    """Train one run until it is finished or stopped; a run that was stopped before is continued.

    The folder of the run is found by its id, below `DATA_DIR/training`; workers that continue each other's runs share
    it. Pairs are written there as shards, and the training processes read nothing else.

    Raises
    ------
    ConfigError
        When the training configuration cannot be used.
    ModelError
        When a process of the training died without saving.
    StoppedError
        When a user stopped it; what was trained is saved, and the same job run again continues.
    """
    from e3relax_flows.train.dataset import load_pairs
    from e3relax_flows.train.launcher import run_training

    parent = resolve_model(snapshot.incumbent_id, workspace)
    dataset = find_dataset(workspace.get(open_dataset_stores), snapshot.dataset_id)
    shards = write_shards(dataset, workspace)
    pairs = load_pairs([shards / "train", shards / "val"])
    entries = describe_training(config, parent, sorted(set(pairs.functionals)))
    parent_id = parent.model_id if config.method == "finetune" else None
    run_id = identify_run(dataset.dataset_id, parent_id, _describe_run(entries, config), seed)
    folder = name_run_folder(workspace.settings.DATA_DIR, run_id)
    # weights with large errors on the new pairs are a reason to retrain; their files were verified by their hash
    finetune = {"path": str(parent.path), "freeze": config.freeze, "blend": choose_blend(config), "accept_worse": True}
    entries |= {"out": ".", "name": config.name, "seed": seed, "finetune": finetune if parent_id else None}
    entries["data"] |= {split: [str(shards / split)] for split in ("train", "val")}
    if count_predictions(config):
        _add_replay(entries["data"], folder / REPLAY, parent, pairs, config)
    path = _write_config(folder / CONFIG_FILE, entries)
    before = _read_step(path)
    logger.info("training %s: begins at step %s, dataset %s, seed %d", run_id, before, dataset.dataset_id, seed)
    run = run_training(path, config.launch)
    document = TrainingDoc(
        run_id=run_id,
        dataset_id=dataset.dataset_id,
        parent_id=parent_id,
        seed=seed,
        state="finished" if run.is_finished else "stopped",
        command=run.command,
        message=run.reason,
    )
    trainer = _load_trainer(path)
    logger.info("training %s: %s at step %d", run_id, document.state, trainer.progress.step)
    document.step, document.hours = trainer.progress.step, round(trainer.progress.seconds / 3600, 4)
    if not run.is_finished:
        _check_stop(run, before, trainer.progress.step, folder)
        return document
    return _register(document, trainer, config, workspace)


def estimate_training(config: RetrainConfig, snapshot: SnapshotDoc, dataset: DatasetDoc, workspace: Workspace) -> float:
    """Hours that one training of a planned snapshot takes on this machine; nothing is written."""
    from e3relax_flows.schemas.training import TrainConfig
    from e3relax_flows.train.snapshot import pack_pairs
    from e3relax_flows.train.trainer import estimate_hours

    some = dataset.train[:: max(1, len(dataset.train) // MANY)]
    pairs = pack_pairs(find_all_pairs(workspace.get(open_pair_store), some).values(), some)
    parent = resolve_model(snapshot.incumbent_id, workspace)
    entries = describe_training(config, parent, sorted(dataset.functionals)) | {"out": "none"}
    entries["data"] |= {"train": [], "val": []}
    return estimate_hours(TrainConfig.model_validate(entries), pairs)


def _describe_run(entries: dict[str, Any], config: RetrainConfig) -> dict[str, Any]:
    """The part of a training that determines its id; not where it runs and how it is logged."""
    from e3relax_flows.schemas.training import TrainConfig

    complete = TrainConfig.model_validate(entries | {"out": ".", "data": entries["data"] | {"train": [], "val": []}})
    share = choose_blend(config)
    blend = {"blend": share} if share and config.method == "finetune" else {}
    n_predictions = count_predictions(config)
    replay = {"predictions": [n_predictions, config.replay.share]} if n_predictions else {}
    return complete.describe({}) | {"freeze": config.freeze} | blend | replay


def count_predictions(config: RetrainConfig) -> int:
    """Pairs of the incumbent's predictions that are replayed; by default no more than the training can use."""
    replay = config.replay
    if config.method != "finetune" or (replay.predictions is None and not replay.fraction):
        return 0
    if replay.predictions is not None:
        return replay.predictions
    schedule = FINETUNING["schedule"] | config.training.get("schedule", {})
    return min(MOST_PREDICTIONS, PREDICTIONS_PER_STEP * int(schedule["max_steps"]))


def choose_blend(config: RetrainConfig) -> float:
    """Share of the incumbent's weights in the fine-tuned model."""
    if config.blend is not None:
        return config.blend
    return BLEND_WITH_REPLAY if count_predictions(config) else BLEND


def _add_replay(data: dict[str, Any], folder: Path, parent: ModelFolder, pairs: PairSet, config: RetrainConfig) -> None:
    """Add replayed predictions to the data of a training; none is of a chemical system of its other `pairs`."""
    from e3relax_flows.retraining.replay import SOURCE, write_replay

    systems = {pairs[index].build_initial().chemical_system for index in range(len(pairs))}
    shards = write_replay(folder, parent.path, count_predictions(config), systems, config.dataset.seed)
    data["train"].append(str(shards))
    data["functionals"] = [*data["functionals"], SOURCE]
    data["shares"] = data.get("shares", {}) | {SOURCE: config.replay.share}


def write_shards(dataset: DatasetDoc, workspace: Workspace) -> Path:
    """Write the pairs of a dataset as shards, unless they are complete; return their folder."""
    from e3relax_flows.train.snapshot import MANIFEST_FILE, pack_pairs, verify_snapshot, write_snapshot

    folder = workspace.settings.DATA_DIR / "training" / SNAPSHOTS / dataset.dataset_id
    if (folder / MANIFEST_FILE).exists():
        verify_snapshot(folder)
        return folder
    store = workspace.get(open_pair_store)
    splits = {
        name: pack_pairs(find_all_pairs(store, ids).values(), ids, dataset.group_by)
        for name, ids in (("train", dataset.train), ("val", dataset.val))
    }
    write_snapshot(folder, splits, dataset.dataset_id)
    return folder


def _write_config(path: Path, entries: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
    draft.replace(path)
    return path


def _read_step(path: Path) -> int:
    """Finished steps of a run."""
    from e3relax_flows.train.checkpoint import find_checkpoint

    found = find_checkpoint(path.parent)
    return int(found.state["progress"]["step"]) if found else 0


def _load_trainer(path: Path) -> Trainer:
    from e3relax_flows.schemas.training import load_train_config
    from e3relax_flows.train.trainer import Trainer

    trainer = Trainer(load_train_config(path))
    if not trainer.resume():
        raise ModelError(f"the training in {path.parent} left no checkpoint; run it again")
    return trainer


def _check_stop(run: Run, before: int, after: int, folder: Path) -> None:
    """Raise unless it is useful to continue the run in another allocation."""
    if run.reason in ("SIGINT", "SIGTERM") and not any(name in os.environ for name in BATCH_VARIABLES):
        raise StoppedError(
            f"training was stopped by {run.reason} at step {after} and saved in {folder}; run the same command or job "
            "again to continue"
        )
    if after <= before:
        raise ConfigError(
            f"training was stopped ({run.reason}) at step {after}, where it had begun: an allocation is too short for "
            "one step and saving; request more time, or lower training.stop_minutes"
        )


def _register(document: TrainingDoc, trainer: Trainer, config: RetrainConfig, workspace: Workspace) -> TrainingDoc:
    """Export the best weights and register them."""
    from e3relax_flows.train.export import export_model

    if trainer.progress.best_step < 0:
        raise ModelError(
            f"the training in {trainer.config.out} was never validated; set training.val_every below "
            f"{trainer.progress.step}"
        )
    folder = export_model(trainer, trainer.config.out / config.name)
    document.best_score = trainer.progress.best_score
    document.hardware = {"device": str(trainer.device), "host": platform.node(), **_read_world(trainer.config.out)}
    model = register_model(
        folder,
        workspace,
        parent_id=document.parent_id,
        dataset_id=document.dataset_id,
        run_id=document.run_id,
        metrics=_read_metrics(trainer),
        training_hours=document.hours,
        hardware=document.hardware,
    )
    document.model_id = model.model_id
    return document


def _read_log(folder: Path) -> list[dict[str, Any]]:
    from e3relax_flows.train.progress import LOG_FILE

    records = []
    for line in (folder / LOG_FILE).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # cut by a kill
            continue
    return records


def _read_metrics(trainer: Trainer) -> dict[str, dict[str, float]]:
    """Validation errors by source at the step whose weights are the best."""
    for record in reversed(_read_log(trainer.config.out)):
        if record.get("event") == "validation" and record["step"] == trainer.progress.best_step:
            return dict(record["errors"])
    return {}


def _read_world(folder: Path) -> dict[str, Any]:
    sizes = [record["world_size"] for record in _read_log(folder) if record.get("event") in ("start", "resume")]
    return {"world_sizes": sizes}
