"""Candidates by exchange of elements: by the user's lists or by data-mined probabilities, scaled in volume.

The probabilities are those of Hautier et al., Inorg. Chem. 50, 656 (2011), as implemented in pymatgen.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, product

from pymatgen.analysis.bond_valence import BVAnalyzer
from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionPredictor
from pymatgen.analysis.structure_prediction.volume_predictor import DLSVolumePredictor, RLSVolumePredictor
from pymatgen.core import Species, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.schemas.candidates import SubstitutionRules, VolumeRule

Exchange = dict[str, str]
MAX_PARENT_ATOMS = 200  # above, the search for oxidation states may take minutes


def substitute(parent: ReadItem, rules: SubstitutionRules) -> Iterator[ReadItem]:
    """Candidates of one parent, named such as "KBr from mp-22862"; an unusable parent is an item with the reason.

    Site properties and charges of the parent, which belong to its elements, are dropped.
    """
    if parent.structure is None:
        yield parent
        return
    try:
        if not parent.structure.is_ordered:
            raise ValueError("it is disordered, so its elements have no sites of their own")
        found = (
            _predict(parent.structure, rules) if rules.threshold is not None else _enumerate(parent.structure, rules)
        )
        for structure in islice(found, rules.per_parent):
            scaled = scale_volume(structure, parent.structure, rules.volume)
            yield ReadItem(f"{scaled.composition.reduced_formula} from {parent.id}", scaled, None)
    except Exception as error:  # the boundary between parents: pymatgen raises various errors on unusual elements
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        yield ReadItem(parent.id, None, f"{parent.id} cannot be substituted: {reason}")


def scale_volume(structure: Structure, parent: Structure, rule: VolumeRule) -> Structure:
    """`structure`, which has the cell of `parent`, scaled to the volume that fits its elements.

    Raises
    ------
    ValueError
        When an element has no radius.

    Examples
    --------
    KCl in the cell of NaCl, scaled by atomic radii:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import scale_volume
    >>> salt = Structure(Lattice.rhombohedral(3.99, 60), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> other = Structure(salt.lattice, ["K", "Cl"], salt.frac_coords)
    >>> round(scale_volume(other, salt, "atomic").volume / salt.volume, 2), scale_volume(other, salt, "keep") == other
    (1.49, True)
    """
    if rule == "keep":
        return structure
    if rule == "bonds":
        # wide limits: only the ratio matters, in which the error of the scheme for this prototype cancels
        predictor = DLSVolumePredictor(min_scaling=0.05, max_scaling=20)
        volume = parent.volume * predictor.predict(structure) / predictor.predict(parent)
    else:
        lacking = sorted({s.symbol for s in (*structure.elements, *parent.elements) if s.atomic_radius is None})
        if lacking:
            raise ValueError(f"no atomic radius is known of {', '.join(lacking)}; choose volume: keep")
        radii = "atomic" if rule == "atomic" else "ionic-atomic"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Exception occurred", category=UserWarning)  # no oxidation states
            volume = RLSVolumePredictor(check_isostructural=False, radii_type=radii).predict(structure, parent)
    scaled = structure.copy()
    scaled.scale_lattice(float(volume))
    return scaled


def _enumerate(parent: Structure, rules: SubstitutionRules) -> Iterator[Structure]:
    """All combinations of the user's lists that keep different elements different, each once."""
    symbols = [site.specie.symbol for site in parent]
    seen: set[tuple[str, ...]] = set()
    for exchange in rules.exchanges:
        if not exchange.keys() <= set(symbols):
            continue
        for new in product(*exchange.values()):
            mapping = dict(zip(exchange, new, strict=True))
            kept = set(symbols) - mapping.keys()
            species = tuple(mapping.get(symbol, symbol) for symbol in symbols)
            is_merged = len({*new, *kept}) < len(new) + len(kept)
            if is_merged or species in seen or list(species) == symbols or not _is_allowed(mapping, rules):
                continue
            seen.add(species)
            yield Structure(parent.lattice, species, parent.frac_coords)


def _predict(parent: Structure, rules: SubstitutionRules) -> Iterator[Structure]:
    """Charge-balanced substitutions above the threshold, the most probable first."""
    decorated = _find_oxidation_states(parent)
    counts = tuple(sorted((str(species), n) for species, n in decorated.composition.items()))
    symbols = [site.specie.symbol for site in parent]
    seen: set[tuple[str, ...]] = set()
    for mapping in _predict_exchanges(counts, float(rules.threshold or 0)):
        species = tuple(mapping[str(site.specie)] for site in decorated)
        if species in seen or list(species) == symbols or len(set(species)) < len(set(symbols)):
            continue
        if not _is_allowed(dict(zip(symbols, species, strict=True)), rules):
            continue
        seen.add(species)
        yield Structure(parent.lattice, species, parent.frac_coords)


@lru_cache(maxsize=4096)
def _predict_exchanges(counts: tuple[tuple[str, float], ...], threshold: float) -> list[Exchange]:
    """Element by species of the parent, the most probable first; seconds per composition, hence the cache."""
    composition = {Species.from_str(name): n for name, n in counts}
    predictor = SubstitutionPredictor(threshold=threshold)
    found = predictor.composition_prediction(composition, to_this_composition=False)
    found.sort(key=lambda one: (-one["probability"], sorted(map(str, one["substitutions"].values()))))
    return [{str(old): new.symbol for old, new in one["substitutions"].items()} for one in found]


def _find_oxidation_states(structure: Structure) -> Structure:
    """The structure with oxidation states: its own, those of bond valences, or the most probable of the composition."""
    if all(getattr(species, "oxi_state", None) is not None for species in structure.species):
        return structure
    if len(structure) > MAX_PARENT_ATOMS:
        raise ValueError(f"it has {len(structure)} atoms and no oxidation states; write them, or take a smaller cell")
    plain = Structure(structure.lattice, [site.specie.symbol for site in structure], structure.frac_coords)
    try:
        return BVAnalyzer().get_oxi_state_decorated_structure(plain)
    except ValueError:
        guesses = plain.composition.oxi_state_guesses()
    if not guesses:
        raise ValueError("no oxidation states fit it; give its exchanges instead")
    return plain.add_oxidation_state_by_element({symbol: float(state) for symbol, state in guesses[0].items()})


def _is_allowed(mapping: Exchange, rules: SubstitutionRules) -> bool:
    incoming = {new for old, new in mapping.items() if new != old}
    return not rules.elements or incoming <= set(rules.elements)
