"""Content ids: those that stores hold stay, every value is seen, and what has no canonical form is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jobflow import Maker, job
from monty.json import jsanitize
from pydantic import BaseModel
from pymatgen.core import Lattice, Species, Structure
from pymatgen.electronic_structure.core import Magmom

from e3relax_flows.candidates.reading import ReadItem, read_structures
from e3relax_flows.candidates.spool import CandidateList, pack_structure, unpack_structure
from e3relax_flows.core.errors import ContentError
from e3relax_flows.core.ids import canonicalize, hash_content, identify_structure
from e3relax_flows.engines.base import Engine
from e3relax_flows.schemas.campaigns import CampaignConfig, identify_campaign
from e3relax_flows.schemas.datasets import identify_dataset, identify_holdout
from e3relax_flows.schemas.models import GateLimits, identify_evaluation, identify_gate
from e3relax_flows.schemas.outcomes import StartKind, identify_outcome
from e3relax_flows.schemas.pairs import Freedom, PairDoc, PairStart, identify_pair
from e3relax_flows.schemas.predictions import Constraints, GuardLimits, PredictOptions, identify_prediction
from e3relax_flows.schemas.retraining import RetrainConfig, identify_run
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import _identify

FIELD = Path(__file__).parents[1] / "field"
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
    "screen": "cf9fd50792b01c03",
    "campaign": "61d5ed1f77ca8681",
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


def identify_screen() -> str:
    engine = PlainEngine(name="plain", maker=PlainMaker())
    maker = ScreenMaker("e3r screen", engine=engine, control=0.25, seed=3)
    structures = {name: structure for name, structure in make_structures().items() if name != "not numbers"}
    with CandidateList() as candidates:
        candidates.add(ReadItem(name, structure, None) for name, structure in structures.items())
        candidates.add([ReadItem("lost", None, "no file")])
        return _identify(maker, "0123456789abcdef", candidates)


def identify_own_campaign() -> str:
    retraining = RetrainConfig(holdout="h-1", training={"threads": 1})
    mix = {"scored": 0.25, "diverse": 0.25, "random": 0.5}
    config = CampaignConfig(name="oxides", inputs=["pool"], engine="gpaw", labels=20, mix=mix, retraining=retraining)
    return identify_campaign(config, "0123456789abcdef", {"config": config.retraining.describe()})


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
        "screen": identify_screen(),
        "campaign": identify_own_campaign(),
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_ids_of_stored_structures_stay(name: str) -> None:
    assert identify_structure(make_structures()[name]) == STRUCTURES[name]


def test_ids_of_other_stored_documents_stay() -> None:
    assert identify_things() == OTHERS


def move(structure: Structure, **site_properties: Any) -> str:
    return identify_structure(structure.copy(site_properties=site_properties))


def make_moments() -> dict[str, list[Any]]:
    """Moments of two sites of which no two are the same."""
    turned = Magmom([0, 0, 4], saxis=[1, 0, 0])
    return {
        "along c": [Magmom([0, 0, 4]), Magmom([0, 0, -4])],
        "along a": [Magmom([4, 0, 0]), Magmom([-4, 0, 0])],
        "along b": [Magmom([0, 4, 0]), Magmom([0, -4, 0])],
        "parallel": [Magmom([4, 0, 0]), Magmom([4, 0, 0])],
        "canted": [Magmom([4, 0, 1e-4]), Magmom([-4, 0, 1e-4])],
        "another axis": [turned, Magmom([0, 0, -4])],
        "lists": [[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]],
        "lists along b": [[0.0, 4.0, 0.0], [0.0, -4.0, 0.0]],
        "in a dictionary": [{"m": Magmom([4, 0, 0])}, {"m": Magmom([-4, 0, 0])}],
        "in another": [{"m": Magmom([0, 4, 0])}, {"m": Magmom([0, -4, 0])}],
        "in lists": [[Magmom([4, 0, 0])], [Magmom([-4, 0, 0])]],
        "in other lists": [[Magmom([0, 4, 0])], [Magmom([0, -4, 0])]],
        "numbers": [4.0, -4.0],
        "none": [None, None],
    }


def test_moments_in_other_directions_are_other_structures() -> None:
    cell = Structure(Lattice.cubic(3.9), ["Mn", "Mn"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    ids = {name: move(cell, magmom=moments) for name, moments in make_moments().items()}
    assert len({*ids.values(), identify_structure(cell)}) == len(ids) + 1
    assert ids["lists"] == move(cell, magmom=np.array([[4.0, 0, 0], [-4.0, 0, 0]]))


def test_four_orders_of_one_crystal_are_four_candidates() -> None:
    with CandidateList() as candidates:
        candidates.add(read_structures([FIELD / "vector-moments.json"]))
        assert candidates.deduplicate() == 0
        assert len({candidate.structure_id for candidate in candidates.iterate()}) == 4
        directions = [np.array(one.structure[0].properties["magmom"].moment) for one in candidates.iterate()]
    assert np.array_equal(directions, [[0, 0, 4], [4, 0, 0], [0, 4, 0], [4, 0, 0]])


@pytest.mark.parametrize("spins", [([5, 0, 0], [0, 5, 0]), (Magmom([5, 0, 0]), Magmom([0, 5, 0])), (5, -5), (5, None)])
def test_spins_of_species_are_seen(spins: tuple[Any, Any]) -> None:
    first, second = (
        Structure(Lattice.cubic(3.9), [Species("Mn", 2, spin=spin), "O"], [[0, 0, 0], [0.5] * 3]) for spin in spins
    )
    assert identify_structure(first) != identify_structure(second)
    assert identify_structure(write_and_read(first)) == identify_structure(first)
    with CandidateList() as candidates:
        candidates.add([ReadItem("first", first, None), ReadItem("second", second, None)])
        assert candidates.deduplicate() == 0


def test_what_names_of_species_round_is_seen() -> None:
    def build(charge: float, share: float) -> str:
        species = [Species("Mn", charge), {"O": share, "F": 1 - share}]
        return identify_structure(Structure(Lattice.cubic(3.9), species, [[0, 0, 0], [0.5] * 3]))

    ids = [build(charge, share) for charge in (2.333, 2.334, 2.33) for share in (0.3331, 0.3332, 0.333)]
    assert len(set(ids)) == 9


def test_spins_and_charges_of_numpy_are_those_of_python() -> None:
    plain, counted = make_rutile(), make_rutile()
    plain.add_spin_by_site([5.0, -5.0, 0.0, 0.0, 0.5, 0.0])
    counted.add_spin_by_site(np.array([5.0, -5.0, 0.0, 0.0, 0.5, 0.0]))
    assert identify_structure(plain) == identify_structure(counted)
    assert identify_structure(make_rutile(n=[np.int64(n) for n in range(6)])) == move(make_rutile(), n=list(range(6)))


def test_a_layer_is_not_the_crystal_of_the_same_cell() -> None:
    crystal = make_rutile()
    layer = crystal.copy()
    layer.lattice = Lattice(crystal.lattice.matrix, pbc=(True, True, False))
    assert identify_structure(layer) != identify_structure(crystal)


ODD_VALUES = {
    "object": object(),
    "set": {1, 2},
    "complex": 1 + 2j,
    "complex array": np.array([1, 2j]),
    "moment": datetime(2026, 1, 2),
    "moment of numpy": np.datetime64("2026-01-02"),
    "bytes": b"x",
    "function": make_rutile,
    "function without a name": lambda: 1,
    "set of objects": {object()},
    "class": dict,
    "decimal": Decimal("0.1"),
    "iterator": iter([1]),
    "keys": {(1, 2): 3},
    "two keys written alike": {1: 2, "1": 3},
}

ENGINES_NAME = {"set", "function"}  # what engines have a form for


@pytest.mark.parametrize("name", ODD_VALUES)
def test_what_has_no_canonical_form_is_refused_with_its_place(name: str) -> None:
    value = ODD_VALUES[name]
    with pytest.raises(ContentError, match=r"content\['a'\]\[1\]"):
        hash_content({"a": [0, value]})
    with pytest.raises(ContentError, match=r"site_properties\['tag'\]\[2\]\['x'\]"):
        identify_structure(make_rutile(tag=[0, 1, {"x": value}, 3, 4, 5]))
    if name not in ENGINES_NAME:
        with pytest.raises(ContentError, match=r"engine 'mine'\['maker'\]\['settings'\]"):
            PlainEngine(name="mine", maker=PlainMaker(settings=value)).engine_id  # noqa: B018


def test_objects_are_their_dictionaries_without_the_versions_of_packages() -> None:
    class Options(BaseModel):
        limits: list[float]
        cell: Any = None

    first, second = Options(limits=[1, 2]), Options(limits=[1, 2.5])
    assert hash_content([first]) == hash_content([Options(limits=[1, 2])]) != hash_content([second])
    assert hash_content(Lattice.cubic(3)) != hash_content(Lattice.cubic(3.0000001))
    moment = Magmom([1, 2, 3]).as_dict()
    assert canonicalize(Magmom([1, 2, 3])) == canonicalize({key: moment[key] for key in moment if key != "@version"})
    assert canonicalize(Options(limits=[], cell=Lattice.cubic(2)))["cell"]["matrix"][0] == [2.0, 0.0, 0.0]


def test_arrays_are_seen_to_their_last_number() -> None:
    """NumPy writes no more than the ends of a long array as a string."""
    first, second = np.zeros(5000), np.zeros(5000)
    second[2500] = 1
    assert hash_content({"a": first}) != hash_content({"a": second})
    assert hash_content(np.array(1.5)) == hash_content(np.float64(1.5)) == hash_content(1.5)
    assert hash_content(np.array([True])) == hash_content([np.bool_(True)]) == hash_content([True])


def test_numbers_that_are_none_are_values_like_others() -> None:
    nan, infinity = float("nan"), float("inf")
    assert canonicalize([np.float32("nan"), infinity])[1] == infinity
    assert hash_content(nan) == hash_content(np.float64("nan"))
    assert len({hash_content(value) for value in (nan, infinity, -infinity, None, 0.0, "NaN")}) == 6


NUMBERS = st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.booleans())
CONTENTS = st.recursive(
    st.one_of(NUMBERS, st.none(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@hypothesis_settings(max_examples=200, deadline=None)
@given(CONTENTS)
def test_plain_content_is_its_own_canonical_form(content: Any) -> None:
    plain = canonicalize(content)
    assert json.dumps(plain, sort_keys=True) == json.dumps(content, sort_keys=True)
    assert hash_content(json.loads(json.dumps(content))) == hash_content(content)


@hypothesis_settings(max_examples=200, deadline=None)
@given(CONTENTS, CONTENTS)
def test_only_equal_contents_have_equal_ids(first: Any, second: Any) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (hash_content(first) == hash_content(second)) is same


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_value_without_a_form_is_found_wherever_it_is(data: st.DataObject) -> None:
    value: Any = data.draw(st.sampled_from([object(), {1}, 1j, b"", make_rutile]))
    place = "content"
    for step in data.draw(st.lists(st.one_of(st.integers(0, 3), st.text(min_size=1, max_size=3)), max_size=4)):
        value = [0] * step + [value] if isinstance(step, int) else {"z": 1, step: value}
        place = f"[{step!r}]" + place.removeprefix("content")
        place = f"content{place}"
    with pytest.raises(ContentError) as caught:
        hash_content(value)
    assert str(caught.value).startswith(f"{place} is ")


VALUES = st.one_of(
    st.none(),
    st.integers(-9, 9),
    st.floats(-9, 9).map(lambda x: round(x, 3)),
    st.lists(st.floats(-9, 9).map(lambda x: round(x, 3)), min_size=3, max_size=3).map(Magmom),
    st.lists(st.floats(-9, 9), min_size=3, max_size=3),
    st.lists(st.floats(-9, 9), min_size=3, max_size=3).map(np.array),
    st.booleans().map(np.bool_),
    st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(0, 3)), max_size=2),
    st.sampled_from(["up", Color.RED, Word.NO]),
)


def write_and_read(structure: Structure) -> Structure:
    """As stores and files do it."""
    text = json.dumps(jsanitize(structure.as_dict(), recursive_msonable=True))
    return Structure.from_dict(json.loads(text))


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["magmom", "x", "y"]), st.lists(VALUES, min_size=6, max_size=6), min_size=1))
def test_ids_are_those_of_what_stores_give_back(site_properties: dict[str, list[Any]]) -> None:
    structure = make_rutile(**site_properties)
    assert identify_structure(write_and_read(structure)) == identify_structure(structure)
    assert unpack_structure(pack_structure(structure)) is not structure
    assert identify_structure(unpack_structure(pack_structure(structure))) == identify_structure(structure)


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=6, max_size=6), st.integers(0, 5), VALUES)
def test_one_other_value_is_another_structure(values: list[Any], place: int, value: Any) -> None:
    first, second = make_rutile(x=values), make_rutile(x=[*values[:place], value, *values[place + 1 :]])
    seen = [json.dumps(canonicalize(item, digits=6), sort_keys=True) for item in (values[place], value)]
    assert (identify_structure(first) == identify_structure(second)) is (seen[0] == seen[1])
