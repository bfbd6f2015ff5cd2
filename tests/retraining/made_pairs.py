"""Pairs of rock salts and cesium chlorides, whose relaxed lattices follow from radii, for retrainings in seconds."""

from __future__ import annotations

import itertools

import numpy as np
from pymatgen.core import Structure

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.pairs.making import settle_relaxed
from e3relax_flows.pairs.store import open_pair_store, save_pairs
from e3relax_flows.schemas.pairs import PairDoc, PairStart, identify_pair

RADII = {"Li": 1.28, "Na": 1.66, "K": 2.03, "Rb": 2.2, "F": 0.57, "Cl": 1.02, "Br": 1.2, "I": 1.4}
OXIDES = {"Mg": 1.5, "Ca": 1.8, "Sr": 2.0, "O": 0.6, "S": 1.0, "Se": 1.15}


def make_pair(ions: tuple[str, str], radii: dict[str, float], index: int, source: str, scale: float = 2.2) -> PairDoc:
    """A rock salt from a strained and rattled start; `scale` other than 2.2 makes the label wrong."""
    rng = np.random.default_rng([index, *map(ord, "".join(ions))])
    a = scale * sum(radii[ion] for ion in ions)
    lattice = a / 2 * (np.ones((3, 3)) - np.eye(3))
    strain = 0.03 * rng.normal(size=(3, 3))
    initial = Structure(
        lattice @ (np.eye(3) * rng.uniform(0.9, 1.15) * 2.2 / scale + (strain + strain.T) / 2),
        list(ions),
        np.array([[0, 0, 0], [0.5] * 3]) + 0.02 * rng.normal(size=(2, 3)),
    )
    relaxed = settle_relaxed(initial, Structure(lattice, list(ions), [[0, 0, 0], [0.5] * 3]))
    pair = PairDoc(
        pair_id="",
        origin_id=f"{''.join(ions)}-{index}-{scale}",
        initial=initial,
        relaxed=relaxed,
        start_kind=PairStart.RAW,
        source=source,
        functional="PBE",
        code="VASP",
        is_dft=True,
        formula=initial.composition.reduced_formula,
        chemical_system=initial.chemical_system,
        prototype="AB_225",
        n_atoms=len(initial),
    )
    return pair.model_copy(update={"pair_id": identify_pair(pair)})


def make_pairs(radii: dict[str, float], source: str, per_system: int, scale: float = 2.2) -> list[PairDoc]:
    """So many pairs of every combination of a cation and an anion."""
    anions = [ion for ion in radii if ion in {"F", "Cl", "Br", "I", "O", "S", "Se"}]
    cations = [ion for ion in radii if ion not in anions]
    return [
        make_pair(ions, radii, index, source, scale)
        for ions in itertools.product(cations, anions)
        for index in range(per_system)
    ]


def store_pairs(settings: E3RelaxSettings, pairs: list[PairDoc]) -> None:
    """Write pairs into the pair store of the settings."""
    with open_pair_store(settings) as store:
        save_pairs(store, pairs)
