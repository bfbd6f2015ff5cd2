"""Parts of `label_value.py`: a pool as a model sees it, fine-tuning, errors of predictions."""

from __future__ import annotations

import shutil

import numpy as np

from e3relax_flows import PredictOptions, RetrainConfig
from e3relax_flows.campaigns.selection import Pool, estimate_costs
from e3relax_flows.judging.assess import assess_pairs
from e3relax_flows.judging.bootstrap import read_errors
from e3relax_flows.retraining.training import describe_training
from e3relax_flows.schemas.training import TrainConfig
from e3relax_flows.train.loop import launch_training
from e3relax_flows.train.shards import write_shards

OPTIONS = PredictOptions()


def look_at(predictor, ids, structures):
    """The pool as the selection sees it by this model (errors, embeddings, costs by size), and the predictions."""
    found = predictor.predict(structures, OPTIONS)
    errors = [one.expected_error if one.expected_error is not None else np.nan for one in found]
    electrons = np.array([sum(structure.atomic_numbers) for structure in structures], dtype=float)
    return Pool(ids, np.array(errors), estimate_costs(electrons), predictor.embed(structures)), found


def assess(predictor, pairs):
    """Errors [n], Å, on a set of pairs: of the predictions, of what the guard serves, of the initial structures."""
    rows = assess_pairs(predictor, pairs, OPTIONS)
    initial = np.array([row.identity_displacement + 2.5 * row.identity_strain for row in rows])
    errors = read_errors(rows)
    errors = np.where(np.isnan(errors), initial, errors)
    return errors, np.where([row.verdict == "accept" for row in rows], errors, initial), initial


def finetune(folder, start, splits, seed, training):
    """Fine-tune a model on pairs `splits` {train, val}; gives the trainer. Interrupted, the same call goes on."""
    shutil.rmtree(folder / "shards", ignore_errors=True)  # of a run that was interrupted
    for name, pairs in splits.items():
        write_shards(pairs, folder / "shards" / name)
    config = RetrainConfig.model_validate({"holdout": "none", "training": training | {"threads": 1}})
    functionals = sorted({name for pairs in splits.values() for name in pairs.functionals})
    entries = describe_training(config, start, functionals)
    entries |= {"out": str(folder), "name": "model", "seed": seed}
    entries["finetune"] = {"path": str(start.path), "accept_worse": True}
    entries["data"] |= {name: [str(folder / "shards" / name)] for name in splits}
    launch = launch_training(TrainConfig.model_validate(entries))
    if launch.is_stopped:
        raise SystemExit(f"stopped ({launch.trainer.stopped}); run again to go on")
    return launch.trainer


def describe_schedule(steps, learning_rate, n_validations):
    """Entries of a short training: its steps with a warm-up of a twentieth, batches of 160 atoms."""
    schedule = {"max_steps": steps, "learning_rate": learning_rate, "warmup_steps": steps // 20, "ema_decay": 0.99}
    return {"data": {"max_atoms": 160}, "schedule": schedule, "val_every": max(steps // n_validations, 1)}
