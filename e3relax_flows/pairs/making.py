"""Turn a relaxation, joined with its start, into a pair, or give the reason why not: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from pymatgen.core import Element, Structure
from scipy.linalg import polar

from e3relax_flows.core.errors import E3RelaxError, EngineError
from e3relax_flows.core.functionals import add_pressure, read_pressure, spell_functional
from e3relax_flows.core.geometry import Array, find_nearest_images, measure_log_strain
from e3relax_flows.ledger.joining import align_sites, reorder_sites
from e3relax_flows.pairs.prototype_label import label_prototype
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, RelaxationResult, StartKind
from e3relax_flows.schemas.pairs import Freedom, LeftOut, PairDoc, PairStart, identify_pair
from e3relax_flows.schemas.predictions import PredictionDoc

SCREEN_SOURCE = "screen"
SETTLED = 1e-8  # Å and fractions; smaller changes of a stored structure are ignored
HELD_STRAIN = 1e-6  # norm of the logarithmic strain below which a cell was held; the rounding of files is less
PAIR_STARTS = {
    StartKind.PREDICTED: PairStart.PREDICTED,
    StartKind.POLISHED: PairStart.PREDICTED,
    StartKind.INITIAL: PairStart.RAW,
    StartKind.CONTROL: PairStart.CONTROL,
}


class LeftOutError(E3RelaxError):
    """A calculation that gives no pair; `reason` is a code, the message explains it."""

    def __init__(self, reason: LeftOut, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Origin:
    """Where a pair comes from; the fields are those of `PairDoc`."""

    origin_id: str
    source: str
    id: str | None = None
    start_kind: PairStart = PairStart.RAW
    model_id: str | None = None
    prediction_id: str | None = None
    task_ids: Sequence[str] = ()
    job_uuids: Sequence[str] = ()
    hosts: Sequence[str] = ()
    dir_names: Sequence[str] = ()


@dataclass(frozen=True)
class Relaxation:
    """A relaxation and the initial structure of its pair.

    Parameters
    ----------
    result
        Result of the engine.
    initial
        The true initial structure, the input of the network.
    start
        Start of the engine, with the sites in the order of `initial`; None: `initial`.
    origin
        Source of the calculation.
    """

    result: RelaxationResult
    initial: Structure
    origin: Origin
    start: Structure | None = field(default=None)


def make_pair(relaxation: Relaxation) -> PairDoc:
    """Make the pair of a relaxation.

    Both sides are stripped to elements, positions and lattice, as the network sees them: oxidation states, moments
    and other properties of sites are in the documents that the pair names.

    Raises
    ------
    LeftOutError
        When the relaxation is not converged, conditions besides its functional moved its minimum, its sites do not
        correspond to those of the initial structure, its functional is not known, a number is not finite, or
        relaxations with and without +U were mixed.
    """
    result, initial, origin = relaxation.result, relaxation.initial, relaxation.origin
    check_structures(initial, result)
    check_energy(result)
    if result.conditions:
        raise LeftOutError(LeftOut.CONDITIONS, f"the {result.code} run has {'; '.join(result.conditions)}")
    if not result.converged:
        raise LeftOutError(LeftOut.UNCONVERGED, f"the {result.code} relaxation of {initial.formula} did not converge")
    functional, path = _name_functionals(result)
    try:
        order = align_sites(_strip(relaxation.start or initial), _strip(result.initial))
    except EngineError as error:
        raise LeftOutError(LeftOut.SITES_DIFFER, str(error)) from error
    begin, relaxed = _strip(initial), settle_relaxed(_strip(initial), _strip(reorder_sites(result.relaxed, order)))
    pair = PairDoc(
        pair_id="",
        origin_id=origin.origin_id,
        id=origin.id,
        initial=begin,
        relaxed=relaxed,
        start_kind=origin.start_kind,
        model_id=origin.model_id,
        prediction_id=origin.prediction_id,
        source=origin.source,
        functional=functional,
        functional_path=path,
        code=result.code,
        is_dft=result.is_dft,
        free=_find_freedom(relaxation),
        energy=result.energy,
        n_ionic_steps=result.n_ionic_steps,
        n_electronic_steps=result.n_electronic_steps,
        formula=begin.composition.reduced_formula,
        chemical_system=begin.chemical_system,
        prototype=label_prototype(begin),
        n_atoms=len(begin),
        task_ids=list(origin.task_ids),
        job_uuids=list(origin.job_uuids),
        hosts=list(origin.hosts),
        dir_names=list(origin.dir_names) or [name for name in [result.dir_name] if name],
    )
    return pair.model_copy(update={"pair_id": identify_pair(pair)})


def pair_outcome(outcome: OutcomeDoc, prediction: PredictionDoc | None, source: str = SCREEN_SOURCE) -> PairDoc:
    """Make the pair of an outcome: the initial structure of its prediction, and the relaxed one.

    Parameters
    ----------
    outcome
        Of one of our own relaxations.
    prediction
        The one that the outcome names; None if it is not in the store.
    source
        Name of the pair's source.

    Raises
    ------
    LeftOutError
        When the outcome is not a converged relaxation, or its initial structure is not known.
    """
    result = outcome.result
    if outcome.state is OutcomeState.FAILED or result is None:
        raise LeftOutError(LeftOut.FAILED, outcome.message or "the engine left no structure")
    if outcome.state is OutcomeState.UNCONVERGED:
        message = outcome.message or f"the {result.code} relaxation did not converge"
        raise LeftOutError(LeftOut.UNCONVERGED, message)
    if prediction is not None and prediction.prediction_id != outcome.prediction_id:
        raise LeftOutError(
            LeftOut.START_UNKNOWN,
            f"the outcome is of prediction {outcome.prediction_id}, not {prediction.prediction_id}",
        )
    is_predicted = outcome.start_kind.is_from_prediction
    if prediction is not None and prediction.initial is not None:
        initial = prediction.initial
    elif not is_predicted:  # the engine began at the initial structure itself
        initial = result.initial
    else:
        raise LeftOutError(
            LeftOut.START_UNKNOWN,
            f"it began at prediction {outcome.prediction_id}, which is in no store, so that its initial structure is "
            "not known; give the store that holds it as PREDICTION_STORE",
        )
    origin = Origin(
        origin_id=outcome.outcome_id,
        source=source,
        id=outcome.id,
        start_kind=PAIR_STARTS[outcome.start_kind],
        model_id=outcome.model_id if is_predicted else None,
        prediction_id=outcome.prediction_id,
        job_uuids=outcome.job_uuids,
        hosts=outcome.hosts,
    )
    start = outcome.start_kind.pick(prediction) if is_predicted and prediction is not None else initial
    return make_pair(Relaxation(result, initial, origin, start))


def settle_relaxed(initial: Structure, relaxed: Structure) -> Structure:
    """Align the relaxed structure with the initial one: nearest images, no drift, no rotation.

    Parameters
    ----------
    initial, relaxed
        Sites correspond; the relaxed lattice is that of the initial structure after any deformation and rotation.

    Returns
    -------
    relaxed
        Its fractional coordinates are the images nearest to the initial ones with the mean drift removed; its
        lattice is turned so that the deformation from the initial one is symmetric.

    Raises
    ------
    LeftOutError
        When one lattice is right-handed and the other is not.

    Examples
    --------
    The atom crossed the boundary of the cell; settled, it is near where it was:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import settle_relaxed
    >>> initial = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.02]])
    >>> relaxed = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.99]])
    >>> settle_relaxed(initial, relaxed).frac_coords[1].round(3).tolist()
    [0.5, 0.5, 0.005]
    """
    deformation = np.linalg.solve(initial.lattice.matrix, relaxed.lattice.matrix)
    if not np.linalg.det(deformation) > 0:
        raise LeftOutError(
            LeftOut.SITES_DIFFER, "the relaxed lattice has the other handedness, so its axes are not the initial ones"
        )
    _, stretch = polar(deformation, side="left")  # deformation = stretch · rotation
    lattice = _keep(relaxed.lattice.matrix, initial.lattice.matrix @ stretch)
    differences = find_nearest_images(relaxed.frac_coords - initial.frac_coords, lattice)
    drift = differences.mean(axis=0)
    differences = find_nearest_images(differences - drift, lattice)
    fractions = initial.frac_coords + differences - differences.mean(axis=0)
    return Structure(lattice, initial.species, _keep(relaxed.frac_coords, fractions))


def infer_freedom(start: Structure, relaxed: Structure) -> Freedom:
    """Freedom of a relaxation by its structures: a lattice that did not change was held."""
    strain = np.linalg.norm(measure_log_strain(start.lattice.matrix, relaxed.lattice.matrix))
    moved = bool(strain > HELD_STRAIN)
    return Freedom(volume=moved, shape=moved, sites=not holds_sites(start))


def holds_sites(structure: Structure) -> bool:
    """Whether selective dynamics holds a site, or one of its coordinates; anything but three switches may hold it."""
    flags = structure.site_properties.get("selective_dynamics") or ()
    return any(site is not None and np.atleast_1d(site).tolist() != [True] * 3 for site in flags)


def check_structures(initial: Structure, result: RelaxationResult) -> None:
    """Refuse structures that are not ordered or not finite, and results whose ends have different sites.

    Raises
    ------
    LeftOutError
        With the reason.
    """
    for name, structure in (("initial", initial), ("relaxed", result.relaxed), ("first", result.initial)):
        if not structure.is_ordered or not all(isinstance(e, Element) for e in _list_elements(structure)):
            raise LeftOutError(LeftOut.DISORDERED, f"the {name} structure {structure.formula} is not ordered")
        if not all(structure.lattice.pbc):
            periods = tuple(map(bool, structure.lattice.pbc))
            raise LeftOutError(
                LeftOut.NOT_PERIODIC, f"the {name} structure is periodic along {periods}, not along three"
            )
        if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
            raise LeftOutError(LeftOut.UNREADABLE, f"the {name} structure has coordinates that are not finite")
    if _list_elements(result.initial) != _list_elements(result.relaxed):
        raise LeftOutError(
            LeftOut.SITES_DIFFER,
            f"the document begins with {result.initial.formula} and ends with {result.relaxed.formula}, or with its "
            "sites in another order",
        )


def check_energy(result: RelaxationResult) -> None:
    """Refuse an energy that is not a finite number.

    Raises
    ------
    LeftOutError
        With the reason.
    """
    if result.energy is not None and not math.isfinite(result.energy):
        raise LeftOutError(LeftOut.UNREADABLE, f"the {result.code} relaxation has the energy {result.energy} eV")


def _list_elements(structure: Structure) -> list[Any]:
    """Element of each site, without oxidation state and spin; other species are unchanged."""
    species: list[Any] = [site.species.elements[0] for site in structure]
    return [getattr(specie, "element", specie) for specie in species]


def _name_functionals(result: RelaxationResult) -> tuple[str, list[str]]:
    """Functional of the pair, and those of all relaxations before it."""
    label = (result.functional if result.is_dft else result.code) or ""
    if not result.is_dft and not read_pressure(label):
        label = add_pressure(label, read_pressure(result.functional or ""))
    if not label:
        why = f" ({result.unnamed})" if result.unnamed else ""
        raise LeftOutError(
            LeftOut.UNREADABLE, f"the {result.code} document does not name the functional of the relaxation{why}"
        )
    label = spell_functional(label)
    names = [spell_functional(name) for name in result.functionals]
    path = [name for name, _ in groupby(names or [label])] if result.is_dft else [label]
    if len({"+U" in name for name in path}) > 1:
        raise LeftOutError(
            LeftOut.FUNCTIONALS_DIFFER,
            f"relaxations with and without +U follow one another ({' then '.join(path)}); relax with one of them",
        )
    return label, path


def _find_freedom(relaxation: Relaxation) -> Freedom:
    result = relaxation.result
    free = result.free or infer_freedom(result.initial, result.relaxed)
    held = any(map(holds_sites, (relaxation.initial, result.initial, result.relaxed)))
    return free.model_copy(update={"sites": False}) if held else free


def _strip(structure: Structure) -> Structure:
    """Elements, fractional coordinates and lattice."""
    return Structure(structure.lattice.matrix, _list_elements(structure), structure.frac_coords)


def _keep(before: Array, after: Array) -> Array:
    """The stored structure, if the new one differs only by rounding, so that the pair keeps its id."""
    return before if np.allclose(before, after, rtol=0, atol=SETTLED) else after
