"""Export a checkpoint as a model folder: best weights, threshold, card."""

from __future__ import annotations

import dataclasses
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from e3relax_flows.core.errors import ModelError, StoppedError
from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.core.model_folders import ModelFolder, find_model
from e3relax_flows.core.run_information import collect_versions
from e3relax_flows.model.files import save_model
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.schemas.training import FinetuneConfig, TrainConfig
from e3relax_flows.train.calibrate import calibrate
from e3relax_flows.train.dataset import list_elements, load_pairs
from e3relax_flows.train.finetune import read_start
from e3relax_flows.train.loop import CHECKPOINT_FILE, Trainer, train_model
from e3relax_flows.train.pairs import UNKNOWN
from e3relax_flows.train.progress import Listener

logger = logging.getLogger(__name__)


def train_and_export(config: TrainConfig, on_progress: Listener | None = None) -> ModelFolder:
    """Train in this process, and export the best weights as `e3relax train` does; a run that was stopped goes on.

    Parameters
    ----------
    on_progress
        Called with every record of the log.

    Returns
    -------
    folder
        The model, in `config.out / config.name`, with a guard that is fitted to the validation pairs.

    Raises
    ------
    ConfigError
        When the configuration, or its difference to that of the checkpoint, does not allow the run.
    ModelError
        When a checkpoint or the weights to start from cannot be used, or no weights were validated.
    StoppedError
        When the run was stopped by a signal or its walltime; what was trained is saved.

    Examples
    --------
    Two steps from the bundled weights, on the pairs of six metals:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import TrainConfig, train_model, write_pair_file
    >>> from e3relax_flows.testing import make_pairs
    >>> folder = Path(tempfile.mkdtemp())
    >>> n_pairs = write_pair_file(folder / "pairs.jsonl.gz", make_pairs())
    >>> data = {"train": [folder / "pairs.jsonl.gz"], "val": [folder / "pairs.jsonl.gz"]}
    >>> schedule = {"max_steps": 2, "warmup_steps": 1}
    >>> start = {"path": "default", "accept_worse": True}
    >>> config = TrainConfig(
    ...     out=folder, name="mine", data=data, schedule=schedule, val_every=1, finetune=start, device="cpu"
    ... )
    >>> train_model(config).name
    'mine'
    """
    trainer = train_model(config, on_progress)
    if trainer.stopped is not None:
        raise StoppedError(
            f"training in {config.out} was stopped ({trainer.stopped}) and saved; train with the same configuration "
            "again to continue"
        )
    if trainer.progress.best_step < 0:
        raise ModelError(
            f"the training in {config.out} was never validated; set val_every below {trainer.progress.step}"
        )
    return export_model(trainer, config.out / config.name)


def export_model(trainer: Trainer, folder: Path) -> ModelFolder:
    """Calibrate the best weights of a run on its validation pairs and write them as a model folder.

    Before the calibration the weights are averaged with those of the start, if `finetune.blend` is set. If there
    are few validation pairs, the guard of the model that was fine-tuned is kept or adapted to them (`adapt_trust`).

    Exporting the same run again gives the same model.

    Raises
    ------
    ModelError
        When another model is in `folder` already.
    """
    network = trainer.average
    network.load_state_dict(trainer.best)
    blend_weights(network, trainer.config.finetune)
    network.eval()
    predictor = Predictor(network, "uncalibrated", {}, trainer.config.device)
    inherited = _read_parent_calibration(trainer.config.finetune)
    val = load_pairs(trainer.config.data.val)
    calibration: dict[str, Any] = calibrate(predictor, val, parent=inherited)
    for name in ("second_opinions", "polish"):  # they use the guard's expectations, whose scale training keeps
        if inherited.get(name):
            calibration[name] = inherited[name]
    calibration["elements"] = sorted(
        {*list_elements(load_pairs(trainer.config.data.train)), *inherited.get("elements", [])}
    )
    progress, checkpoint = trainer.progress, trainer.config.out / CHECKPOINT_FILE
    provenance: dict[str, Any] = {
        "trained": datetime.fromtimestamp(int(checkpoint.stat().st_mtime), UTC).isoformat(),
        "step": progress.best_step,
        "steps": progress.step,
        "hours": round(progress.seconds / 3600, 3),
        "best_score": progress.best_score,
        "n_parameters": sum(p.numel() for p in network.parameters()),
        "versions": collect_versions(),
        "schedule": trainer.config.schedule.model_dump(mode="json"),
        "loss": dataclasses.asdict(trainer.config.loss),
        "blend": trainer.config.finetune.blend if trainer.config.finetune else 0.0,
        "data": {
            "train": [p.name for p in trainer.config.data.train],
            "val": [p.name for p in trainer.config.data.val],
        },
    }
    logger.info(
        "training in %s: best weights, of step %d, go to %s", trainer.config.out, trainer.progress.best_step, folder
    )
    return save_model(
        folder,
        network,
        _write_card(folder.name, provenance, calibration),
        {
            "calibration": calibration,
            "functionals": sorted({spell_functional(name) for name in val.functionals} - {UNKNOWN}),
            "provenance": provenance,
        },
    )


def blend_weights(network: RelaxationNetwork, finetune: FinetuneConfig | None) -> None:
    """Average the weights of a network with those that fine-tuning began with, as configured.

    Between both, the gain on new pairs decreases more slowly than the loss on old ones (Wortsman et al. 2022,
    arXiv 2109.01903).
    """
    if finetune is None or finetune.blend == 0:
        return
    start = read_start(finetune, network).weights
    mixed = {
        name: torch.lerp(weights, start[name].to(weights), finetune.blend) if weights.is_floating_point() else weights
        for name, weights in network.state_dict().items()
    }
    network.load_state_dict(mixed)


def _read_parent_calibration(finetune: FinetuneConfig | None) -> dict[str, Any]:
    """Calibration of the model whose weights training began with; empty if it is not known."""
    if finetune is None or finetune.path.is_file():
        return {}
    return dict(find_model(str(finetune.path)).config.get("calibration") or {})


def _write_card(name: str, provenance: dict[str, Any], calibration: dict[str, Any]) -> str:
    data = provenance["data"]
    is_own = calibration["n_fitted"] == calibration["n_pairs"]
    share = provenance["blend"]
    blend = f" Averaged with the weights that training began with: {share:.0%} are of those." if share else ""
    adapted = ", adapted to these pairs" if calibration["adapted"] else ""
    guard = "Guard" if is_own else f"Guard of its parent, fitted to {calibration['n_fitted']} starts{adapted}"
    return f"""# {name}

Trained {provenance["trained"]} with e3relax-flows on {", ".join(data["train"])}.
{provenance["n_parameters"]} parameters: the best averaged weights, of step {provenance["step"]} out of
{provenance["steps"]} ({provenance["hours"]} h).
Chosen on {", ".join(data["val"])}: mean over sources and metrics of error over the identity's error
{provenance["best_score"]:.3f}.{blend} {guard}: probability of harm up to
{calibration["trust"]["max_harm"]:.3f} ({calibration["refused"]:.1%} refused of {calibration["n_pairs"]}: the validation
pairs, and a third of them again from better starts).

State here where the data come from, their licence, and for what the model should not be used.
"""
