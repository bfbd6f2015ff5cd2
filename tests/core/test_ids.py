"""Content ids: those that stores hold stay, every value is seen, and what has no canonical form is refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobflow import Maker, job
from monty.json import jsanitize
from pymatgen.core import Lattice, Species, Structure

from e3relax_flows.core.ids import hash_content, identify_structure
from e3relax_flows.data.candidates import CandidateList
from e3relax_flows.data.reading import ReadItem
from e3relax_flows.data.taskunits import TaskEntry, TaskUnit
from e3relax_flows.driver.register import _identify
from e3relax_flows.engines.base import Engine
from e3relax_flows.flows.screen import ScreenMaker
from e3relax_flows.schemas.campaigns import CampaignConfig, identify_campaign
from e3relax_flows.schemas.datasets import identify_dataset, identify_holdout
from e3relax_flows.schemas.models import GateLimits, identify_evaluation, identify_gate
from e3relax_flows.schemas.outcomes import StartKind, identify_outcome
from e3relax_flows.schemas.pairs import Freedom, PairDoc, PairStart, identify_pair
from e3relax_flows.schemas.predictions import Constraints, GuardLimits, PredictOptions, identify_prediction
from e3relax_flows.schemas.retraining import RetrainConfig, identify_run

# ids that stores hold; whoever changes one makes all that is stored under it strange to this release
STRUCTURES = {
    "plain": "a6331cfd794f44be",
    "two atoms": "d8d0c07577e2fd72",
    "disordered": "cb78ac00e9853efb",
    "charged": "9a3278d1a04f1f0b",
    "labels and properties": "a6331cfd794f44be",
    "sheared": "32378a064c99f1ba",
    "ions": "4fa8ee275a1fc161",
    "fractions of a charge": "5ef4c1d15f8b0f00",
    "spins": "617cd161a977c30f",
    "heavy water": "8968cd1d77fa3369",
    "collinear": "f1a7a47fd6471453",
    "whole moments": "062cfe7a3a7cbea3",
    "some moments": "00e4ef7d19a093f7",
    "array of moments": "6f6bb6ea09417e4e",
    "single precision": "4f66a1fc99723de3",
    "vectors": "d8335b786147e421",
    "array of vectors": "a63698388a27c9b2",
    "held": "fdab1b946f68cd3b",
    "held by an array": "fdab1b946f68cd3b",
    "words": "83e05a2e92ddcff0",
    "nested": "4ae7a03168c35cd2",
    "tuples": "e727c3116cc6b6ae",
    "not numbers": "2e0e5c3bdda4f758",
    "all": "adf1ede5bd400dba",
}
OTHERS = {
    "plain content": "8d30747d96dfa46d",
    "path and plain enumeration": "3ff2a7cf36cd23b8",
    "prediction": "2599a0355db83bd1",
    "prediction with options": "ad17e6d77c523af0",
    "outcome": "568f1312760435f1",
    "engine": "3ef0874eaf2b788f",
    "pair": "51e53ba2f26d52f6",
    "holdout": "0473ef2dc0d324ab",
    "dataset": "14d78a5672f5128e",
    "run": "5c16be609fadcd1c",
    "evaluation": "6691f6bc34a3d081",
    "gate": "3bd36133f887ec75",
    "calculations": "e2484a1c2252b102",
    "screen": "08476e79567d2019",
    "campaign": "9ca2209b12feba28",
}


def make_rutile(**site_properties: Any) -> Structure:
    lattice = Lattice([[4.594, 0, 0], [0, 4.594, 0], [0, 0, 2.9590000004]])
    fractions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.3053, 0.3053, 0], [-0.3053, 0.6947, 1.0], [0.1947, 0.8053, 0.5]]
    fractions.append([0.8053, 0.1947, -0.5])
    return Structure(lattice, ["Mn"] * 2 + ["O"] * 4, fractions, site_properties=site_properties)


def make_structures() -> dict[str, Structure]:
    """Structures of which every value was seen before ids had a canonical form."""
    held = [[True, True, False], [False] * 3, *[[True] * 3] * 4]
    charged, labelled, sheared = make_rutile(), make_rutile(), make_rutile()
    charged.set_charge(-2.0)
    labelled.properties = {"source": "somewhere", "forces": np.ones((6, 3))}
    sheared.apply_strain([0.01, -0.02, 0.005])
    for number, site in enumerate(labelled):
        site.label = f"site {number}"
    ions = make_rutile()
    ions.add_oxidation_state_by_element({"Mn": 4, "O": -2})
    mixed = make_rutile()
    mixed.add_oxidation_state_by_site([2.5, 5.25, -2, -2, -1.75, -2])
    spins = make_rutile()
    spins.add_spin_by_site([5, -5, 0, 0, 0.5, 0])
    ordered = Structure(Lattice.cubic(3.7), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    disordered = Structure(Lattice.cubic(3.7), [{"Cu": 0.5, "Au": 0.25}, Species("O", -2)], [[0, 0, 0], [0.5] * 3])
    return {
        "plain": make_rutile(),
        "two atoms": ordered,
        "disordered": disordered,
        "charged": charged,
        "labels and properties": labelled,
        "sheared": sheared,
        "ions": ions,
        "fractions of a charge": mixed,
        "spins": spins,
        "heavy water": Structure(Lattice.cubic(3.0), ["D", "D", "O"], [[0, 0, 0.3], [0, 0.3, 0], [0, 0, 0]]),
        "collinear": make_rutile(magmom=[5.0, -5.0, 0.0, 0.0, 0.1, -0.1234567]),
        "whole moments": make_rutile(magmom=[5, -5, 0, 0, 0, 0]),
        "some moments": make_rutile(magmom=[5.0, -5.0, None, None, 0.0, 0.0]),
        "array of moments": make_rutile(magmom=np.array([5.0, -5.0, 0, 0, 0, 0])),
        "single precision": make_rutile(magmom=np.array([4.1, -4.1, 0, 0, 0, 0], dtype=np.float32)),
        "vectors": make_rutile(magmom=[[0.0, 0.0, 5.0], [5.0, 0.0, 0.0], *[[0.0] * 3] * 4]),
        "array of vectors": make_rutile(magmom=np.arange(18).reshape(6, 3) / 7),
        "held": make_rutile(selective_dynamics=held),
        "held by an array": make_rutile(selective_dynamics=np.array(held)),
        "words": make_rutile(wyckoff=list("aaffff"), note=["π", "", "x", "y", "z", "é"]),
        "nested": make_rutile(info=[{"b": [1, 2.5, None], "a": {"c": True}}, *[{}] * 5]),
        "tuples": make_rutile(velocities=[(0.1, 0.2, 0.3)] * 6),
        "not numbers": make_rutile(force=[float("nan"), float("inf"), float("-inf"), 0.0, 1e-9, 1e300]),
        "all": make_rutile(magmom=[5.0, -5.0, 0, 0, 0, 0], selective_dynamics=held, coordination_no=[6] * 6),
    }


class Color(Enum):
    RED = "red"


class Word(StrEnum):
    NO = "no"


class Number(IntEnum):
    TWO = 2


@dataclass
class PlainMaker(Maker):
    """A maker with what makers hold."""

    name: str = "plain"
    folder: Any = Path("runs/one")
    color: Color = Color.RED
    word: Word = Word.NO
    settings: Any = None

    @job
    def make(self, structure: Any) -> Any:
        """Give back what came."""
        return structure


@dataclass
class PlainEngine(Engine):
    """An engine of that maker."""

    is_dft = False
    code = "PLAIN"

    def read(self, documents: list[Any]) -> Any:
        """Nothing."""


def make_pair() -> PairDoc:
    initial, relaxed = make_rutile(), make_rutile()
    relaxed.apply_strain(0.02)
    return PairDoc(
        pair_id="", origin_id="o", initial=initial, relaxed=relaxed, start_kind=PairStart.RAW, source="s",
        functional="PBE+U", functional_path=["PBE+U"], code="VASP", is_dft=True, formula="MnO2", chemical_system="Mn-O",
        n_atoms=6, prototype="rutile", free=Freedom(volume=True, shape=True, sites=False),
    )  # fmt: skip


def make_unit() -> TaskUnit:
    entry = TaskEntry(
        uuid="u-1", index=2, completed_at="2026-01-02T03:04:05", name="relax 1", hosts=("h",), formula="MnO2",
        n_sites=6, prediction_id=None, start_kind=None, candidate=None, made=None,
    )  # fmt: skip
    return TaskUnit((entry,))


def identify_screen() -> str:
    maker = ScreenMaker(engine=PlainEngine(name="plain", maker=PlainMaker()), control=0.25, seed=3)
    structures = {name: structure for name, structure in make_structures().items() if name != "not numbers"}
    with CandidateList() as candidates:
        candidates.add(ReadItem(name, structure, None) for name, structure in structures.items())
        candidates.add([ReadItem("lost", None, "no file")])
        return _identify(maker, "0123456789abcdef", candidates)


def identify_own_campaign() -> str:
    retraining = RetrainConfig(holdout="h-1", training={"threads": 1})
    mix = {"scored": 0.25, "diverse": 0.25, "random": 0.5}
    config = CampaignConfig(name="oxides", inputs=["pool"], engine="gpaw", labels=20, mix=mix, retraining=retraining)
    return identify_campaign(config, jsanitize(PlainMaker().as_dict() | {"@version": "1"}, recursive_msonable=True))


def identify_things() -> dict[str, str]:
    """Ids of everything but structures."""
    options = PredictOptions(
        passes=1, symmetry="free", constraints=Constraints(fixed_atoms=(0, 3), vacuum_axis="c"),
        guards=GuardLimits(max_harm=0.3),
    )  # fmt: skip
    plain = {
        "i": {2: (1, 2.0, None)},
        "a": {"é": [True, False, "x"], "z": 1e-7},
        "n": 10**20,
        "e": [Word.NO, Number.TWO],
    }
    return {
        "plain content": hash_content(plain),
        "path and plain enumeration": hash_content([Path("runs/one"), Color.RED]),
        "prediction": identify_prediction("0123456789abcdef", "fedcba9876543210", PredictOptions()),
        "prediction with options": identify_prediction("0123456789abcdef", "fedcba9876543210", options),
        "outcome": identify_outcome("0123456789abcdef", "fedcba9876543210", StartKind.CONTROL),
        "engine": PlainEngine(name="plain", maker=PlainMaker(settings={"ENCUT": 520, "MAGMOM": {"Mn": 5.0}})).engine_id,
        "pair": identify_pair(make_pair()),
        "holdout": identify_holdout(["b", "a"]),
        "dataset": identify_dataset(["b", "a"], ["c"]),
        "run": identify_run("d-1", None, {"epochs": 3, "lr": 1e-4, "noise": [0.1, 0.2]}, 7),
        "evaluation": identify_evaluation("m-1", "h-1", PredictOptions()),
        "gate": identify_gate(["e-1", "e-2"], GateLimits()),
        "calculations": make_unit().fingerprint,
        "screen": identify_screen(),
        "campaign": identify_own_campaign(),
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_ids_of_stored_structures_stay(name: str) -> None:
    assert identify_structure(make_structures()[name]) == STRUCTURES[name]


def test_ids_of_other_stored_documents_stay() -> None:
    assert identify_things() == OTHERS
