"""Weights of an earlier run or model as the start of a new one, checked before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.core.model_folders import find_model
from e3relax_flows.model.files import load_network
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.schemas.training import FinetuneConfig, find_changes
from e3relax_flows.train.checkpoint import complete_weights, read_checkpoint
from e3relax_flows.train.validation import Score

SCORE_TOLERANCE = 1e-3  # relative; between devices and batch sizes scores differ by some 1e-5
IDENTITY_SCORE = 1.0


@dataclass(frozen=True)
class Start:
    """Weights to start from, with their score."""

    weights: dict[str, Tensor]
    origin: str
    score: float | None = None  # with which they were saved, ...
    validation: str | None = None  # ... on the pairs of this hash


def read_start(config: FinetuneConfig, network: RelaxationNetwork) -> Start:
    """Read the best weights of a checkpoint, or those of a model folder.

    Raises
    ------
    ModelError
        When they cannot be read or belong to a network of another kind or of other sizes.
    """
    if config.path.is_file():
        state = read_checkpoint(config.path)
        progress, sizes = state["progress"], state["config"]["network"]
        kind = state["config"]["kind"]
        is_scored = progress["best_step"] >= 0
        weights = state["best"] if is_scored else state["average"]
        start = Start(
            complete_weights(weights, network.state_dict(), state["added"]),
            str(config.path),
            progress["best_score"] if is_scored else None,
            state["validation"],
        )
    else:
        folder = find_model(str(config.path))
        kind, sizes = folder.config.get("kind"), folder.config["network"]
        start = Start(load_network(folder).state_dict(), f"{folder.path} ({folder.model_id})")
    _check_sizes(config, network, kind, sizes)
    return start


def read_sizes(config: FinetuneConfig, kind: str) -> dict[str, Any]:
    """Sizes of the network of a checkpoint or model folder; empty if it is of another kind.

    Raises
    ------
    ModelError
        When it cannot be read.
    """
    is_file = config.path.is_file()
    content = read_checkpoint(config.path)["config"] if is_file else find_model(str(config.path)).config
    return dict(content["network"]) if content.get("kind") == kind else {}


def _check_sizes(config: FinetuneConfig, network: RelaxationNetwork, kind: str | None, sizes: dict[str, Any]) -> None:
    if kind != network.kind:
        raise ModelError(f"{config.path} holds a network of kind {kind!r}; set kind: {kind}")
    theirs = network.config_class.model_validate(sizes).model_dump(mode="json")
    if changes := find_changes(theirs, network.config.model_dump(mode="json"), "network."):
        raise ModelError(
            f"{config.path} holds a network of other sizes (its -> yours): {'; '.join(changes)}; give its sizes"
        )


def check_start(start: Start, score: Score, validation: str, accept_worse: bool) -> str:
    """Check the score of a start before the first step; return a message.

    Weights whose score is known on the same pairs must reproduce it; others must be better than the initial
    structures.

    Raises
    ------
    ModelError
        When the score differs: the weights have changed.
    ConfigError
        When the weights are worse than the identity and that is not accepted.
    """
    if start.score is not None and start.validation == validation:
        if abs(score.score - start.score) > SCORE_TOLERANCE * start.score:
            raise ModelError(
                f"{start.origin} scores {score.score:.4f} before the first step, but {start.score:.4f} was recorded "
                "with it on the same pairs: it is damaged, or this release computes something else"
            )
        return f"scores {score.score:.4f} as recorded"
    if score.score >= IDENTITY_SCORE and not accept_worse:
        raise ConfigError(
            f"{start.origin} scores {score.score:.3f} on data.val before the first step, not better than the "
            f"initial structures ({IDENTITY_SCORE:g}); use other weights or set finetune.accept_worse: true"
        )
    return f"scores {score.score:.4f} on these pairs (1 is the identity)"
