"""Join a prediction with the result of an engine: pure functions on documents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pymatgen.analysis.structure_matcher import ElementComparator, StructureMatcher
from pymatgen.core import Structure
from scipy.optimize import linear_sum_assignment

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.finite import is_finite_structure
from e3relax_flows.core.geometry import find_nearest_images, measure_displacements, measure_log_strain
from e3relax_flows.schemas.outcomes import (
    OutcomeDoc,
    OutcomeState,
    RelaxationResult,
    StartKind,
    StructureErrors,
    identify_outcome,
)
from e3relax_flows.schemas.predictions import PredictionDoc

SITE_TOLERANCE = 0.05  # Å; loss of precision where codes write positions to files
LATTICE_TOLERANCE = 1e-3  # norm of the logarithmic strain; the same for lattices
NEAR_SHAPE = 0.03  # norm of the logarithmic strain without its trace; the matcher allows 20 % and 5 degrees
NEAR_SITES = 0.1  # of the cube root of the volume per atom; the matcher allows 0.3


def align_sites(reference: Structure, structure: Structure, tolerance: float = SITE_TOLERANCE) -> list[int]:
    """Index in `structure` of each site of `reference`: the same crystal with its sites in another order.

    Input sets sort sites by element (Fe, O, Fe, O becomes Fe, Fe, O, O), so that the order of a candidate is
    never that of its DFT document. Elements are compared, not oxidation states, which codes drop; positions by
    nearest image. A rotated lattice is the same lattice.

    Parameters
    ----------
    reference
        The structure with the required order.
    structure
        The true start of the relaxation, as the engine reports it.
    tolerance
        Å; the largest distance between a site and its partner.

    Raises
    ------
    EngineError
        When composition, lattice or positions differ.
    """
    numbers_a, numbers_b = _list_numbers(reference), _list_numbers(structure)
    if sorted(numbers_a) != sorted(numbers_b):
        raise EngineError(f"the engine relaxed {structure.formula}, it was given {reference.formula}")
    strain = np.linalg.norm(measure_log_strain(reference.lattice.matrix, structure.lattice.matrix))
    if not strain <= LATTICE_TOLERANCE:
        raise EngineError(
            f"the engine started from a lattice that is strained by {strain:.2g} against the one it was given "
            f"({reference.formula}); its document does not begin at the given structure"
        )
    partners = np.empty(len(reference), dtype=int)
    for number in set(numbers_a):
        here, there = np.flatnonzero(numbers_a == number), np.flatnonzero(numbers_b == number)
        differences = structure.frac_coords[there][None, :, :] - reference.frac_coords[here][:, None, :]
        images = find_nearest_images(differences.reshape(-1, 3), reference.lattice.matrix)
        distances = np.linalg.norm(images @ reference.lattice.matrix, axis=1).reshape(len(here), len(there))
        rows, columns = linear_sum_assignment(distances**2)
        worst = distances[rows, columns].max()
        if worst > tolerance:
            raise EngineError(
                f"the engine started with an atom {worst:.2f} Å away from its given position ({reference.formula}); "
                "its document does not begin at the given structure"
            )
        partners[here[rows]] = there[columns]
    return partners.tolist()


def reorder_sites(structure: Structure, order: Sequence[int]) -> Structure:
    """The structure with its sites in the order given, charge and properties kept."""
    sites = [structure[index] for index in order]
    return Structure.from_sites(sites, charge=structure._charge, properties=structure.properties)


def measure_errors(structure: Structure, relaxed: Structure) -> StructureErrors:
    """How far `structure` is from `relaxed`, whose sites and axes are in the same order.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import measure_errors
    >>> relaxed = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> errors = measure_errors(relaxed.copy().scale_lattice(1.1 * relaxed.volume), relaxed)
    >>> round(errors.volume, 3), round(errors.strain, 3), round(errors.combined, 3)
    (0.1, 0.055, 0.138)
    """
    displacements = measure_displacements(structure.frac_coords, relaxed.frac_coords, relaxed.lattice.matrix)
    strain = measure_log_strain(structure.lattice.matrix, relaxed.lattice.matrix)
    return StructureErrors(
        displacement=float(displacements.mean()),
        strain=float(np.linalg.norm(strain)),
        volume=abs(structure.volume / relaxed.volume - 1),
    )


def _is_near(predicted: Structure, relaxed: Structure) -> bool:
    """Whether each site is near the one of its number, and the shapes of the cells differ little."""
    if len(predicted) != len(relaxed) or not np.array_equal(_list_numbers(predicted), _list_numbers(relaxed)):
        return False
    before, after = predicted.lattice.matrix, relaxed.lattice.matrix
    if np.linalg.det(before) * np.linalg.det(after) <= 0:
        return False
    strain = measure_log_strain(before, after)
    shape = strain - np.eye(3) * np.trace(strain) / 3
    displacements = measure_displacements(predicted.frac_coords, relaxed.frac_coords, after)
    spacing = math.cbrt(relaxed.volume / len(relaxed))
    return bool(np.linalg.norm(shape) < NEAR_SHAPE and displacements.max() < NEAR_SITES * spacing)


def share_basin(predicted: Structure, relaxed: Structure) -> bool:
    """Whether pymatgen's StructureMatcher matches both structures, independent of their volumes.

    Cells are compared as they are; oxidation states and spins, which codes drop, do not count. Where sites and lattice
    vectors agree in their order, far within the tolerances of the matcher, it is not called: it takes
    50 ms for 16 atoms.
    """
    if _is_near(predicted, relaxed):
        return True
    matcher = StructureMatcher(
        primitive_cell=False, scale=True, attempt_supercell=False, comparator=ElementComparator()
    )
    return bool(matcher.fit(predicted, relaxed))


def join_outcome(
    prediction: PredictionDoc,
    start_kind: StartKind,
    engine_name: str,
    engine_id: str,
    result: RelaxationResult | None,
    message: str | None = None,
    job_uuids: Sequence[str] = (),
) -> OutcomeDoc:
    """The outcome of one relaxation.

    Errors are measured against converged results only: an unconverged structure is not the minimum. They are
    measured site by site after `align_sites`; `result` itself stays in the engine's order.

    Parameters
    ----------
    prediction
        With the structure from which the relaxation began.
    start_kind
        Which of its structures was the start.
    engine_name, engine_id
        The engine and the content id of its settings.
    result
        None when the engine gave no structure; `message` then holds the reason.
    message
        Message of the outcome.
    job_uuids
        The jobs whose documents hold the relaxation.

    Raises
    ------
    EngineError
        When the result does not belong to the prediction.
    """
    start = start_kind.pick(prediction)
    if prediction.initial is None or prediction.structure_id is None or start is None:
        raise EngineError(f"prediction {prediction.prediction_id} has no {start_kind} structure to start from")
    doc = OutcomeDoc(
        outcome_id=identify_outcome(prediction.prediction_id, engine_id, start_kind),
        prediction_id=prediction.prediction_id,
        structure_id=prediction.structure_id,
        id=prediction.id,
        model_id=prediction.model_id,
        engine=engine_name,
        engine_id=engine_id,
        start_kind=start_kind,
        state=OutcomeState.FAILED,
        message=message if result is not None else message or "the engine left no structure",
        job_uuids=list(job_uuids),
    )
    if result is not None:
        _add_result(doc, prediction, start, result)
    return doc


def _add_result(doc: OutcomeDoc, prediction: PredictionDoc, start: Structure, result: RelaxationResult) -> None:
    """Write a result into its outcome, with the errors of the structures where it converged."""
    if not all(map(is_finite_structure, (result.initial, result.relaxed))) or (
        result.energy is not None and not math.isfinite(result.energy)
    ):
        raise EngineError(f"the engine's result for {start.formula} has coordinates or an energy that are not numbers")
    order = align_sites(start, result.initial)
    if not np.array_equal(_list_numbers(result.initial), _list_numbers(result.relaxed)):
        raise EngineError(f"the engine's document begins with {result.initial.formula} in another order than it ends")
    doc.result = result
    doc.state = OutcomeState.SUCCESSFUL if result.converged else OutcomeState.UNCONVERGED
    if not result.converged:
        return
    relaxed = reorder_sites(result.relaxed, order)
    if prediction.initial is not None:
        doc.initial_errors = measure_errors(prediction.initial, relaxed)
    if prediction.structure is not None:
        doc.prediction_errors = measure_errors(prediction.structure, relaxed)
        if prediction.polished is not None:
            doc.polished_errors = measure_errors(prediction.polished, relaxed)
        doc.same_basin = share_basin(prediction.structure, relaxed)


def _list_numbers(structure: Structure) -> np.ndarray:
    return np.array([site.specie.Z for site in structure])
