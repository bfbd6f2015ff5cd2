"""Content ids: those of stored documents stay, and what has no canonical form is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jobflow import Maker, job
from made_rutile import Color, Number, Word, make_rutile, make_structures
from pydantic import BaseModel
from pymatgen.core import Lattice
from pymatgen.electronic_structure.core import Magmom

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.spool import CandidateList
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

# ids that stores hold; whoever changes one makes all that is stored under it strange to this release
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
    "campaign": "c5008898488e0784",
}


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


def test_ids_of_other_stored_documents_stay() -> None:
    assert identify_things() == OTHERS


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
