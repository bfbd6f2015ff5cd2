"""Errors of a model on a holdout, pair by pair, with the family of each crystal. Parts are assessed separately."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from pymatgen.core import Structure

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.predict.guards import check_cell, check_distances, check_exploded
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.schemas.datasets import HoldoutDoc
from e3relax_flows.schemas.models import EvaluatedPair, EvaluationDoc, identify_evaluation
from e3relax_flows.schemas.predictions import GuardLimits, Prediction, PredictOptions, Reason, Verdict
from e3relax_flows.train.metrics import measure_pair
from e3relax_flows.train.pairs import Pair, PairSet

OXIDES, HALIDES, CHALCOGENIDES, PNICTIDES = "oxides", "halides", "chalcogenides", "pnictides"
OTHER_COMPOUNDS, INTERMETALLICS = "other compounds", "intermetallics"

# the first one with an element of the crystal; a carbonate and an oxyhalide are oxides, a thiohalide is a halide
_ANIONS: tuple[tuple[str, frozenset[int]], ...] = (
    (OXIDES, frozenset({8})),
    (HALIDES, frozenset({9, 17, 35, 53, 85})),
    (CHALCOGENIDES, frozenset({16, 34, 52, 84})),
    (PNICTIDES, frozenset({7, 15, 33, 51, 83})),
    (OTHER_COMPOUNDS, frozenset({1, 2, 5, 6, 10, 14, 18, 36, 54, 86})),  # hydrides, borides, carbides, silicides
)

# the same for every model and all options: looser limits do not make an impossible crystal possible
POSSIBLE = GuardLimits()
# the network failed in a later pass, although the result before may be a crystal
BREAKDOWNS = frozenset({Reason.NOT_FINITE, Reason.DETERMINANT, Reason.FAILED})


def assess_pairs(
    predictor: Predictor,
    pairs: PairSet,
    options: PredictOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[EvaluatedPair]:
    """Predict from the initial side of every pair and measure the prediction against the relaxed side.

    The errors are those of the prediction itself, whether or not a guard refuses it. Rows are in the order of the
    pairs; those of several parts are joined by `collect_evaluation`.
    """
    starts = [pairs[index].build_initial() for index in range(len(pairs))]
    predictions = predictor.predict(starts, options, ids=pairs.ids, on_progress=on_progress)
    return [_assess_one(pairs, index, prediction) for index, prediction in enumerate(predictions)]


def collect_evaluation(
    chunks: Iterable[Iterable[EvaluatedPair]],
    model_id: str,
    holdout: HoldoutDoc,
    options: PredictOptions,
    device: str = "cpu",
) -> EvaluationDoc:
    """Join the rows of all parts of a holdout, in any order.

    Parameters
    ----------
    model_id
        Of the loaded weights: the predictor's.

    Raises
    ------
    ConfigError
        When a pair of the holdout is missing, was assessed twice, or does not belong to it.
    """
    rows = sorted((row for chunk in chunks for row in chunk), key=lambda row: row.pair_id)
    found, expected = [row.pair_id for row in rows], sorted(holdout.pair_ids)
    if found != expected:
        missing, foreign = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        raise ConfigError(
            f"the evaluation of model {model_id} on holdout {holdout.name!r} has {len(found)} rows for {len(expected)} "
            f"pairs: {len(missing)} are missing ({', '.join(missing[:3]) or 'none'}), {len(foreign)} are foreign "
            f"({', '.join(foreign[:3]) or 'none'}), {len(found) - len(set(found))} occur twice; evaluate it again"
        )
    return EvaluationDoc(
        evaluation_id=identify_evaluation(model_id, holdout.holdout_id, options),
        model_id=model_id,
        holdout_id=holdout.holdout_id,
        options=options,
        rows=rows,
        device=device,
    )


def is_possible(prediction: Prediction, initial: Structure) -> bool:
    """Whether a prediction is a possible crystal: finite, of a possible volume and shape, no atoms on each other.

    The limits are the default ones of the guards, independent of the options of the prediction and of trust.
    """
    structure = prediction.structure
    if structure is None or not BREAKDOWNS.isdisjoint(prediction.reasons):
        return False
    lattice, start = np.array(structure.lattice.matrix), np.array(initial.lattice.matrix)
    if not (np.isfinite(lattice).all() and np.isfinite(structure.frac_coords).all()) or np.linalg.det(lattice) == 0:
        return False
    if check_exploded(start, lattice) or check_cell(start, lattice, POSSIBLE):
        return False
    numbers = np.array(structure.atomic_numbers, dtype=np.int64)
    return not check_distances(numbers, structure.cart_coords, lattice, POSSIBLE)


def _assess_one(pairs: PairSet, index: int, prediction: Prediction) -> EvaluatedPair:
    pair = pairs[index]
    identity = measure_pair(pair.initial_fractions, pair.initial_lattice, pair)
    errors = _measure_prediction(prediction, pair)
    broken = prediction.structure is not None and errors is None
    message = prediction.message
    if broken:
        message = f"{pairs.ids[index]}: the prediction has numbers that are not finite"
    return EvaluatedPair(
        pair_id=pairs.ids[index],
        source=pairs.sources[index],
        group=pairs.groups[index],
        stratum=name_family(pair.numbers),
        displacement=errors[0] if errors else None,
        strain=errors[1] if errors else None,
        volume=errors[2] if errors else None,
        identity_displacement=identity[0],
        identity_strain=identity[1],
        identity_volume=identity[2],
        verdict=Verdict.ERROR if broken else prediction.verdict,
        valid=not broken and is_possible(prediction, pair.build_initial()),
        message=message,
    )


def _measure_prediction(prediction: Prediction, pair: Pair) -> tuple[float, float, float] | None:
    """Errors of a prediction; None if there is none, or its numbers are not finite."""
    structure = prediction.structure
    if structure is None or not np.isfinite(structure.frac_coords).all():
        return None
    if not np.isfinite(structure.lattice.matrix).all() or not np.linalg.det(structure.lattice.matrix):
        return None
    errors = measure_pair(np.array(structure.frac_coords), np.array(structure.lattice.matrix), pair)
    return errors if all(map(math.isfinite, errors)) else None


def name_family(numbers: Iterable[int]) -> str:
    """Family of a crystal from its atomic numbers; without an anion it is an intermetallic, also a pure element."""
    elements = {int(number) for number in numbers}
    return next((family for family, anions in _ANIONS if elements & anions), INTERMETALLICS)
