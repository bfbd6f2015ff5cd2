"""Calibrated expectations from the signals of a prediction: error, interval, risk of harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.errors import ConfigError, ModelError

# Signals that are known without the relaxed structure; Å and strains, or numbers.
SIGNALS = {
    "n_atoms": "atoms of the structure",
    "residual": "move of one more application, Å",
    "displacement": "mean displacement of the prediction, Å",
    "strain": "norm of its logarithmic strain",
    "start_displacement": "displacement that the network expects between start and relaxed structure, Å",
    "start_strain": "the same of the strain",
    "end_displacement": "displacement that the network expects between prediction and relaxed structure, Å",
    "end_strain": "the same of the strain",
}
FLOOR = 1e-3  # Å or strain; smaller signals are clipped
STIFFNESS = 0.1  # eV/Å² per atom; typical energy of a move over its square
SHORTEST_MOVE = 0.01  # Å, displacement + 2.5 Å · strain; the energy of a shorter one is noise


class Expectation(NamedTuple):
    """Expectations of one prediction."""

    error: float  # Å, displacement + 2.5 Å · strain: half of all predictions like it are nearer
    low: float  # Å; lower end of the interval that holds the error with the calibrated coverage
    high: float  # Å
    harm: float  # probability that the prediction is materially further from the relaxed structure than its start
    saving: float | None = None  # ln(error of the start / error of the prediction), mean of those like it


@dataclass(frozen=True)
class TrustModel:
    """Log-linear in the signals; its coefficients are fitted on pairs that the weights were not fitted to.

    ln(error), the saving and the log-odds of harm are linear in the logarithms of the signals. The interval is
    split-conformal: quantiles of ln(error) - ln(expected error) on the calibration pairs; it covers pairs from the
    same distribution. A prediction is accepted if a saving is expected and the probability of harm is within
    the limit.

    A calibration without `saving` is of an earlier release, which counted any worsening as harm and had no other
    criterion.
    """

    signals: tuple[str, ...]
    error: tuple[float, ...]  # intercept, and a coefficient for each signal
    harm: tuple[float, ...]  # the same
    interval: tuple[float, float]  # quantiles of the logarithmic error
    coverage: float
    max_harm: float  # probability of harm up to which a prediction is accepted
    saving: tuple[float, ...] | None = None  # as `error`

    @classmethod
    def from_calibration(cls, calibration: Mapping[str, Any]) -> Self | None:
        """Read the entry "trust" of a model's calibration; None if there is none.

        Raises
        ------
        ModelError
            When the entry is damaged.
        """
        entry = calibration.get("trust")
        if entry is None:
            return None
        try:
            model = cls(
                tuple(entry["signals"]),
                tuple(map(float, entry["error"])),
                tuple(map(float, entry["harm"])),
                (float(entry["interval"][0]), float(entry["interval"][1])),
                float(entry["coverage"]),
                float(entry["max_harm"]),
                tuple(map(float, entry["saving"])) if "saving" in entry else None,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelError(f"the model's calibration of trust is damaged ({error!r}); export it again") from error
        unknown = sorted(set(model.signals) - SIGNALS.keys())
        weights = (model.error, model.harm, model.saving or model.harm)
        if unknown or {len(each) for each in weights} != {len(model.signals) + 1}:
            raise ModelError(f"the model's calibration of trust does not fit this release (unknown: {unknown})")
        return model

    def expect(self, signals: Mapping[str, float]) -> Expectation | None:
        """The expectations; None if a signal is missing."""
        if any(name not in signals for name in self.signals):
            return None
        row = take_logs([signals], self.signals)[0]
        log_error = float(row @ np.array(self.error))
        log_odds = float(np.clip(row @ np.array(self.harm), -50.0, 50.0))
        low, high = (float(np.exp(log_error + end)) for end in self.interval)
        saving = float(row @ np.array(self.saving)) if self.saving else None
        return Expectation(float(np.exp(log_error)), low, high, 1.0 / (1.0 + float(np.exp(-log_odds))), saving)


@dataclass(frozen=True)
class OpinionModel:
    """Effect of a potential's single points on the expectations of the guard; fitted per potential and model.

    Log-odds of harm and the saving are linear in the guard's own log-odds of harm and in `weigh_energy` of the
    energy change by the potential. Forces and stresses added no information.
    """

    harm: tuple[float, ...]  # intercept, of the guard's log-odds, of the weighed energy
    saving: tuple[float, ...]
    max_harm: float

    @classmethod
    def from_calibration(cls, calibration: Mapping[str, Any], potential: str) -> Self | None:
        """Read the entry "second_opinions" of a model's calibration; None if the potential is not in it.

        Raises
        ------
        ModelError
            When the entry is damaged.
        """
        entry = calibration.get("second_opinions", {}).get(potential)
        if entry is None:
            return None
        try:
            harm, saving = (tuple(map(float, entry[name])) for name in ("harm", "saving"))
            if {len(harm), len(saving)} != {3}:
                raise ValueError("three coefficients each")
            return cls(harm, saving, float(entry["max_harm"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's calibration of second opinions by {potential} is damaged ({error!r}); export it again"
            ) from error

    def revise(self, alone: Expectation, energy_change: float, move: float) -> Expectation:
        """Expectations after the second opinion.

        Parameters
        ----------
        alone
            By the guard alone.
        energy_change
            eV per atom, predicted - initial, by the potential.
        move
            Å, displacement + 2.5 Å · strain of the prediction.
        """
        row = np.array([1.0, find_log_odds(alone.harm), weigh_energy(energy_change, move)])
        log_odds = float(np.clip(row @ np.array(self.harm), -50.0, 50.0))
        return alone._replace(harm=1.0 / (1.0 + float(np.exp(-log_odds))), saving=float(row @ np.array(self.saving)))


def check_opinion(calibration: Mapping[str, Any], name: str, label: str, model_id: str) -> None:
    """Check that a model is calibrated for the second opinion of a potential.

    Parameters
    ----------
    name, label
        Of the potential: its configured name, and the name of its weights.

    Raises
    ------
    ConfigError
        When it is not; the message names the calibrated ones, and what to type.
    ModelError
        When the calibration is damaged.
    """
    if OpinionModel.from_calibration(calibration, label) is not None:
        return
    known = ", ".join(calibration.get("second_opinions", {})) or "none"
    raise ConfigError(
        f"model {model_id} is not calibrated for second opinions of {label} (calibrated: {known}); run: e3relax models "
        f"calibrate {model_id} FOLDER --pairs FILE --second-opinion {name}"
    )


def check_polish(calibration: Mapping[str, Any], label: str, model_id: str) -> None:
    """Raise ConfigError if the steps of a potential depend on a rule that the model does not have."""
    if label not in calibration.get("polish", {}):
        raise ConfigError(
            f"model {model_id} has no calibrated number of steps of {label}; give one, such as polish=5, or 0"
        )


def weigh_energy(energy_change: float, move: float) -> float:
    """An energy, eV per atom, over the typical energy of a move of this length, Å; large values are damped."""
    return float(np.arcsinh(energy_change / (STIFFNESS * max(move, SHORTEST_MOVE) ** 2)))


def find_log_odds(probability: float) -> float:
    """Logarithm of the odds, which the smallest and largest probabilities of a float leave finite."""
    inside = min(max(probability, 1e-12), 1.0 - 1e-12)
    return float(np.log(inside / (1.0 - inside)))


def take_logs(rows: list[Mapping[str, float]], names: tuple[str, ...]) -> NDArray[np.float64]:
    """Ones and the logarithms of the signals [n_rows, 1 + n_names]."""
    values = np.array([[row[name] for name in names] for row in rows]).reshape(len(rows), len(names))
    return np.column_stack([np.ones(len(rows)), np.log(np.maximum(values, 0.0) + FLOOR)])
