"""Logs of a run: running means, `log.jsonl`, TensorBoard, and lines for the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e3relax_flows.core.finite import replace_infinite
from e3relax_flows.core.optional import require
from e3relax_flows.schemas.training import LogConfig
from e3relax_flows.train.metrics import METRICS

LOG_FILE, TENSORBOARD_DIR = "log.jsonl", "tensorboard"

Listener = Callable[[dict[str, Any]], None]


class Meter:
    """Means since the last report, and the remaining time.

    Parameters
    ----------
    fraction
        Share of the run that is done when the meter starts.
    """

    def __init__(self, fraction: float) -> None:
        self.started = self.reported = time.perf_counter()
        self.fraction = fraction
        self._clear()

    def _clear(self) -> None:
        self.n_steps = self.n_crystals = 0
        self.sums = [0.0] * (1 + 2 * len(METRICS))

    @property
    def waiting(self) -> float:
        """Seconds since the last report."""
        return time.perf_counter() - self.reported

    def add(self, stats: list[float], n_crystals: int) -> None:
        """Note one step: its loss, its errors and the identity's, means over `n_crystals` crystals."""
        self.n_steps += 1
        self.n_crystals += n_crystals
        self.sums = [total + value for total, value in zip(self.sums, stats, strict=True)]

    def report(self, fraction: float) -> dict[str, Any]:
        """Means, errors over the identity's, structures per second and remaining seconds; then reset."""
        now = time.perf_counter()
        loss, *errors = self.sums
        identity = errors[len(METRICS) :]
        gained = fraction - self.fraction
        record = {
            "loss": loss / max(self.n_steps, 1),
            "over_identity": [error / max(other, 1e-12) for error, other in zip(errors, identity, strict=False)],
            "per_second": self.n_crystals / max(now - self.reported, 1e-9),
            "done": fraction,
            "seconds_left": (now - self.started) * max(1.0 - fraction, 0.0) / gained if gained > 0 else None,
        }
        self.reported = now
        self._clear()
        return record


class RunLog:
    """Writer of the records of a run: `log.jsonl`, TensorBoard if configured, and a callback.

    Parameters
    ----------
    folder
        The run's folder; None: nothing is written, as on ranks other than the first.
    step
        Present step; later TensorBoard events, of a run that was killed, are hidden.
    """

    def __init__(self, folder: Path | None, config: LogConfig, step: int, listener: Listener | None) -> None:
        self.listener = listener
        self.file = self.writer = None
        if folder is None:
            self.listener = None
            return
        if config.tensorboard:
            module = require("torch.utils.tensorboard", "tensorboard", "log.tensorboard")
            self.writer = module.SummaryWriter(str(folder / TENSORBOARD_DIR), purge_step=step)
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / LOG_FILE).open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file:
            self.file.close()
        if self.writer:
            self.writer.close()

    def write(self, record: dict[str, Any]) -> None:
        """Write one record, with its `step`."""
        if self.file:
            self.file.write(dump_record(record) + "\n")
            self.file.flush()
        if self.writer:
            for name, value in _list_scalars(record):
                self.writer.add_scalar(name, value, record["step"])
        if self.listener:
            self.listener(record)


def _list_scalars(record: dict[str, Any]) -> list[tuple[str, float]]:
    """Names and values that change during a run."""
    if record.get("event") == "validation":
        ratios = [
            (f"validation/{source}/{metric}", value)
            for source, values in record["over_identity"].items()
            for metric, value in zip(METRICS, values, strict=True)
        ]
        return [("validation/score", record["score"]), ("validation/best", record["best"]), *ratios]
    if "event" in record:
        return []
    ratios = [(f"train/{metric}", value) for metric, value in zip(METRICS, record["over_identity"], strict=True)]
    return [("train/loss", record["loss"]), ("train/per_second", record["per_second"]), *ratios]


def dump_record(record: dict[str, Any]) -> str:
    """A record as a line of JSON, null instead of numbers that are not finite."""
    return json.dumps(replace_infinite(record), allow_nan=False)


def format_record(record: dict[str, Any]) -> str:
    """A record as a line for the terminal."""
    event, step = record.get("event"), record["step"]
    if event == "validation":
        ratios = "; ".join(
            f"{source} " + " ".join(f"{ratio:.2f}" for ratio in values)
            for source, values in record["over_identity"].items()
        )
        return (
            f"step {step}: score {record['score']:.4f} (best {record['best']:.4f}); "
            f"{', '.join(METRICS)} over the identity's: {ratios}"
        )
    if event in ("start", "resume"):
        ranks = f" on {record['world_size']} ranks" if record["world_size"] > 1 else ""
        return f"{event} at step {step}, {record['n_pairs']} pairs{ranks}"
    if event == "stop":
        return f"stopped by {record['reason']} at step {step} and saved; run the same command again to continue"
    if event:
        return f"{event} at step {step}" + (f": {record['message']}" if "message" in record else "")
    ratios = ", ".join(f"{name} {value:.2f}" for name, value in zip(METRICS, record["over_identity"], strict=True))
    left = "" if record["seconds_left"] is None else f", {format_duration(record['seconds_left'])} left"
    return (
        f"step {step} ({record['done']:.1%}): loss {record['loss']:.4f}; over the identity's: {ratios}; "
        f"{record['per_second']:.0f} structures/s{left}"
    )


def format_duration(seconds: float) -> str:
    """Seconds as "40 s", "12 min" or "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
