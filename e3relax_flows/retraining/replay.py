"""Replayed predictions: pairs whose relaxed side is what the incumbent predicts, trained on so that it forgets less.

Learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282) for a model whose training pairs are not at hand.
Imports torch, so it is imported only where a model is trained.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from uuid import uuid4

import numpy as np
from pymatgen.core import Element, Structure

from e3relax_flows.candidates.random_crystals import CrystalRules, draw_crystals
from e3relax_flows.core.geometry import measure_log_strain
from e3relax_flows.pairs.making import settle_relaxed
from e3relax_flows.predict.distances import find_close_pair
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.schemas.predictions import GuardLimits
from e3relax_flows.train.pairs import PairSet
from e3relax_flows.train.shards import write_shards

SOURCE = "replayed predictions"  # of these pairs, and their functional
MAX_STRAIN, MAX_DISPLACEMENT = 0.8, 1.0  # Å; predictions that move further are left out
SIZE_EXPONENT = -0.2  # most prototypes are small; of large cells more is forgotten
# starts of every second pair: a prediction, strained and displaced (standard deviations; ln V, strain, Å)
NEAR_VOLUME, NEAR_STRAIN, NEAR_DISPLACEMENTS = 0.02, 0.015, (0.0, 0.02, 0.06)

Named = tuple[str, Structure]
logger = logging.getLogger(__name__)


def write_replay(folder: Path, model: Path, n_pairs: int, excluded: Collection[str], seed: int) -> Path:
    """Write shards with predictions of a model, unless they are there; return their folder.

    Half of the pairs start at random crystals, half near the predictions for these.

    Parameters
    ----------
    folder
        Is written as a whole, or not at all.
    model
        Folder of the model.
    excluded
        Chemical systems of which nothing is predicted, such as those of the new pairs.

    Raises
    ------
    ConfigError
        When hardly any crystal of the model's elements is allowed.
    """
    if folder.exists():
        return folder
    temporary = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        write_shards(predict_replay(Predictor.load(str(model)), n_pairs, excluded, seed), temporary)
        temporary.replace(folder)
    except OSError:
        if not folder.exists():  # else another process has written it at the same moment
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def predict_replay(predictor: Predictor, n_pairs: int, excluded: Collection[str], seed: int) -> PairSet:
    """At most `n_pairs` pairs of random crystals, and of strained and displaced predictions, with their predictions."""
    known = predictor.calibration.get("elements")
    elements = [Element.from_Z(number).symbol for number in known] if known else None
    rules = CrystalRules(excluded=excluded, elements=elements, size_exponent=SIZE_EXPONENT, seed=seed)
    far = list(predict_pairs(predictor, list(islice(draw_crystals(rules), (n_pairs + 1) // 2))))
    rng = np.random.default_rng(seed)
    near = predict_pairs(predictor, [(f"near {name}", _move(end, rng)) for name, _, end in far][: n_pairs // 2])
    rows = [*far, *near]
    starts = [start for _, start, _ in rows]
    sides = (starts, [end for _, _, end in rows])
    logger.info("replay of %s: %d of %d pairs predicted", predictor.model_id, len(rows), n_pairs)
    return PairSet(
        ids=[name for name, _, _ in rows],
        sources=[SOURCE] * len(rows),
        first=np.cumsum([0, *map(len, starts)]),
        numbers=np.concatenate([np.array(start.atomic_numbers, dtype=np.int64) for start in starts]),
        fractions=np.stack([np.concatenate([structure.frac_coords for structure in side]) for side in sides]),
        lattices=np.stack([np.stack([structure.lattice.matrix for structure in side]) for side in sides]),
        functionals=[SOURCE] * len(rows),
        groups=[start.chemical_system for start in starts],
    )


def predict_pairs(predictor: Predictor, starts: list[Named]) -> Iterator[tuple[str, Structure, Structure]]:
    """Name, start and prediction of each that moves by no more than in a relaxation, to no too short distance."""
    found = predictor.predict([start for _, start in starts])
    for (name, start), prediction in zip(starts, found, strict=True):
        if prediction.structure is None:
            continue
        end = settle_relaxed(start, prediction.structure)
        numbers, lattice = np.array(end.atomic_numbers), end.lattice.matrix
        if find_close_pair(numbers, end.cart_coords, lattice, GuardLimits().min_distance):
            continue  # a start near it may be torn apart
        moves = (end.frac_coords - start.frac_coords) @ lattice
        strain = np.linalg.norm(measure_log_strain(start.lattice.matrix, lattice))
        if strain < MAX_STRAIN and np.linalg.norm(moves, axis=1).mean() < MAX_DISPLACEMENT:
            yield name, start, end


def _move(structure: Structure, rng: np.random.Generator) -> Structure:
    strain = rng.normal(0, NEAR_STRAIN, (3, 3))
    lattice = structure.lattice.matrix @ (np.eye(3) + (strain + strain.T) / 2) * np.exp(rng.normal(0, NEAR_VOLUME))
    moved = rng.normal(0, rng.choice(NEAR_DISPLACEMENTS), (len(structure), 3))
    return Structure(lattice, structure.species, structure.frac_coords @ lattice + moved, coords_are_cartesian=True)
