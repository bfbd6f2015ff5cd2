"""State of one structure from input to prediction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from e3relax_flows.core.errors import E3RelaxError, StructureError
from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM, measure_displacements, measure_log_strain
from e3relax_flows.graphs.batching import Crystal
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.predict.batches import Output
from e3relax_flows.predict.constraints import resolve_constraints
from e3relax_flows.predict.guards import (
    GuardFailure,
    check_cell,
    check_distances,
    check_elements,
    check_exploded,
    check_score,
    check_trust,
)
from e3relax_flows.predict.inputs import check_structure, read_numbers, read_types, rebuild_structure
from e3relax_flows.predict.moves import Geometry, Rules, finish_symmetry, make_move
from e3relax_flows.predict.opinions import Judge
from e3relax_flows.predict.polish import PolishError, relax_shortly
from e3relax_flows.predict.symmetry import SymmetryError, find_symmetry
from e3relax_flows.predict.trust import Expectation, OpinionModel, TrustModel
from e3relax_flows.predict.vacuum import describe_vacuum, find_vacuum
from e3relax_flows.schemas.predictions import Prediction, PredictOptions, Reason, SecondOpinion, Verdict

ADVICE = "start DFT from the initial structure"


@dataclass
class Passes:
    """A checked structure, the rules of its moves, and its present geometry."""

    structure: Structure
    numbers: NDArray[np.int64]  # [n_atoms] atomic numbers
    rules: Rules
    geometry: Geometry
    n_passes: int = 0
    score: float | None = None
    signals: dict[str, float] = field(default_factory=dict)
    failures: list[GuardFailure] = field(default_factory=list)
    is_done: bool = False
    has_exploded: bool = False

    def build_crystal(self, network: RelaxationNetwork) -> Crystal:
        """The crystal in the form of the network."""
        return network.build_crystal(self.numbers, self.geometry.positions, self.geometry.lattice)

    def stop(self, error: StructureError) -> None:
        """Refuse the present result, because the next application of the network failed."""
        self.failures.append(GuardFailure(Reason(error.code), f"application {self.n_passes + 1}: {error}"))
        self.is_done = True

    def advance(self, output: Output, options: PredictOptions) -> None:
        """Apply one output of the network: a pass, or after the last pass the residual."""
        try:
            geometry, size = make_move(self.geometry, output.positions, output.lattice, self.rules)
        except StructureError as error:
            self.stop(error)
            return
        if self.n_passes == options.passes:
            self.score, self.is_done = size, True
            return
        if output.expected is not None:
            names = ("start_displacement", "start_strain", "end_displacement", "end_strain")
            expected = dict(zip(names, np.exp(output.expected).tolist(), strict=True))
            # the start by the first pass, the end by the last
            self.signals = expected | {name: self.signals[name] for name in names[:2] if name in self.signals}
        self.geometry, self.n_passes = geometry, self.n_passes + 1
        if exploded := check_exploded(self.rules.initial.lattice, geometry.lattice):
            self.failures.append(exploded)
            self.is_done = self.has_exploded = True
        elif size < options.stop_below:
            self.score, self.is_done = size, True

    def judge(
        self,
        options: PredictOptions,
        calibration: Mapping[str, Any],
        trust: TrustModel | OpinionModel | None,
        expectation: Expectation | None,
    ) -> list[GuardFailure]:
        """Refusals of the result by the guards, with the calibration of the model."""
        initial, final = self.rules.initial, self.geometry
        failures = list(self.failures)
        failures += check_elements(self.numbers, options.guards, calibration.get("elements"))
        if not self.has_exploded:
            failures += check_cell(initial.lattice, final.lattice, options.guards)
            failures += check_distances(self.numbers, final.positions, final.lattice, options.guards)
        if self.score is not None:
            failures += check_score(self.score, options.guards)
        failures += check_trust(expectation, options.guards, trust)
        return failures

    def measure(self) -> dict[str, Any]:
        """The numbers of a prediction."""
        initial, final = self.rules.initial, self.geometry
        displacements = measure_displacements(initial.fractions, final.fractions, final.lattice)
        strain = float(np.linalg.norm(measure_log_strain(initial.lattice, final.lattice)))
        signals = self.signals | {
            "n_atoms": float(len(self.numbers)),
            "displacement": float(displacements.mean()),
            "strain": strain,
        }
        if self.score is not None:
            signals["residual"] = self.score
        return {
            "score": self.score,
            "signals": signals,
            "displacement": float(displacements.mean()),
            "max_displacement": float(displacements.max()),
            "strain": strain,
            "volume_ratio": float(np.linalg.det(final.lattice) / np.linalg.det(initial.lattice)),
            "n_passes": self.n_passes,
        }


def describe_expectation(expectation: Expectation) -> dict[str, Any]:
    """Expected values, by the fields of a prediction."""
    return {
        "expected_error": expectation.error,
        "error_interval": (expectation.low, expectation.high),
        "harm_probability": expectation.harm,
        "expected_saving": expectation.saving,
    }


def start_passes(item: Any, options: PredictOptions, keeps_symmetry: bool) -> Passes:
    """Check an input and find the rules of its moves.

    Raises
    ------
    StructureError
        When it cannot be relaxed, or its symmetry is not found and `keeps_symmetry` of the network is False.
    """
    structure = check_structure(item)
    freedom = resolve_constraints(structure, options.constraints)
    geometry = Geometry(np.array(structure.lattice.matrix), np.array(structure.frac_coords))
    types, symmetry = None, None
    if options.symmetry == "keep":
        types = read_types(structure, freedom.atoms)
        try:
            symmetry = find_symmetry(geometry.lattice, geometry.fractions, types, options.symprec, freedom)
        except SymmetryError as error:
            if not keeps_symmetry:
                raise StructureError(
                    Reason.FAILED, f"{error}, and this model does not keep it; try another symprec or symmetry='free'"
                ) from error
    rules, numbers = Rules(geometry, freedom, types, symmetry), read_numbers(structure)
    return Passes(structure, numbers, rules, geometry, failures=_check_vacuum(numbers, geometry, options))


def _check_vacuum(numbers: NDArray[np.int64], geometry: Geometry, options: PredictOptions) -> list[GuardFailure]:
    """Refuse vacuum that the options do not keep."""
    vacuum = find_vacuum(numbers, geometry.positions, geometry.lattice)
    message = describe_vacuum(vacuum, options.constraints) if vacuum else None
    return [GuardFailure(Reason.VACUUM, message)] if message else []


@dataclass
class Item:
    """One entry of the input, with its passes or its error."""

    id: str | None
    name: str  # name in messages
    given: Structure | None  # the input, if it is a structure
    passes: Passes | None = None
    error: StructureError | None = None
    wall_time_s: float = 0.0
    structure: Structure | None = None  # the final prediction
    opinion: SecondOpinion | None = None

    @property
    def has_crystal(self) -> bool:
        """Whether there is a prediction whose neighbours can be searched."""
        return self.passes is not None and self.structure is not None and not self.passes.has_exploded

    def settle(self) -> None:
        """Give the prediction its final geometry."""
        if self.passes is not None:
            self.passes.geometry = finish_symmetry(self.passes.geometry, self.passes.rules)
            self.structure = rebuild_structure(self.passes.structure, self.passes.geometry)

    def fail(self, error: Exception) -> None:
        """Record an error, or a refusal if there is a prediction already."""
        if not isinstance(error, StructureError):
            what = str(error) if isinstance(error, E3RelaxError) else f"{type(error).__name__}: {error}"
            error = StructureError(Reason.FAILED, f"{what}; if the structure looks right, please report this with it")
        if self.passes is not None and (self.passes.n_passes > 0 or self.passes.failures):
            self.passes.stop(error)
        else:
            self.passes, self.error = None, error

    def conclude(
        self, model_id: str, options: PredictOptions, calibration: Mapping[str, Any], trust: TrustModel | None
    ) -> Prediction:
        """Judge the final result by the guards and the second opinion, if there is one, and record it."""
        common: dict[str, Any] = {
            "id": self.id,
            "initial": self.given,
            "model_id": model_id,
            "wall_time_s": self.wall_time_s,
        }
        passes = self.passes
        if passes is None:
            error = self.error or StructureError(Reason.FAILED, "no result")
            return Prediction(
                verdict=Verdict.ERROR, reasons=[Reason(error.code)], message=f"{self.name}: {error}", **common
            )
        measures = passes.measure()
        expectation = trust.expect(measures["signals"]) if trust else None
        calibrated: TrustModel | OpinionModel | None = trust
        if expectation is not None and self.opinion is not None and self.opinion.energy_change is not None:
            revised = OpinionModel.from_calibration(calibration, self.opinion.potential)
            if revised is not None:
                move = measures["displacement"] + STRAIN_WEIGHT_ANGSTROM * measures["strain"]
                expectation = revised.revise(expectation, self.opinion.energy_change, move)
                calibrated = revised
        failures = passes.judge(options, calibration, calibrated, expectation)
        words = "; ".join(failure.message for failure in failures)
        return Prediction(
            structure=self.structure,
            second_opinion=self.opinion,
            verdict=Verdict.REFUSE if failures else Verdict.ACCEPT,
            reasons=list(dict.fromkeys(failure.reason for failure in failures)),
            message=f"{self.name}: {words}; {ADVICE}" if failures else None,
            **measures,
            **(describe_expectation(expectation) if expectation else {}),
            **common,
        )


def polish_item(item: Item, prediction: Prediction, judge: Judge, steps: int, limit: float | None = None) -> None:
    """Write some steps of a potential from an accepted prediction into it.

    A failure, or a move by more than a limit, Å, leaves it unchanged.
    """
    passes, start = item.passes, time.perf_counter()
    if passes is None or prediction.structure is None or steps == 0:
        return
    if prediction.second_opinion is not None and prediction.second_opinion.message:
        prediction.message = f"{item.name}: not polished: {prediction.second_opinion.message}"
        return
    try:
        positions, lattice, n_steps = relax_shortly(judge, prediction.structure, passes.rules.freedom, steps)
        if n_steps > 0:
            geometry = make_move(passes.geometry, positions, lattice, passes.rules)[0]
            geometry = finish_symmetry(geometry, passes.rules)
            check_move(judge, passes.geometry, geometry, limit)
            prediction.polished, prediction.n_polish_steps = rebuild_structure(passes.structure, geometry), n_steps
    except E3RelaxError as error:
        prediction.message = f"{item.name}: not polished: {error}"
        if prediction.second_opinion is not None and getattr(error, "failed", False):
            prediction.second_opinion = prediction.second_opinion.model_copy(update={"failed": True})
    prediction.wall_time_s += time.perf_counter() - start


def check_move(judge: Judge, before: Geometry, after: Geometry, limit: float | None) -> None:
    """Raise if the potential has moved a prediction beyond the calibrated limit."""
    displacements = measure_displacements(before.fractions, after.fractions, after.lattice)
    strain = np.linalg.norm(measure_log_strain(before.lattice, after.lattice))
    move = float(displacements.mean() + STRAIN_WEIGHT_ANGSTROM * strain)
    if limit is not None and move > limit:
        raise PolishError(f"{judge.label} moves it by {move:.3f} Å, and the calibrated limit is {limit:.3f} Å")


def ask_opinions(items: Sequence[Item], judge: Judge) -> None:
    """Write a potential's opinions into items that have a prediction."""
    start = time.perf_counter()
    pairs = [(item.passes.structure, item.structure) for item in items if item.passes and item.structure]
    for item, opinion in zip(items, judge.compare(pairs), strict=True):
        item.opinion = opinion
    share = (time.perf_counter() - start) / max(sum(len(initial) for initial, _ in pairs), 1)
    for item, (initial, _) in zip(items, pairs, strict=True):
        item.wall_time_s += share * len(initial)
