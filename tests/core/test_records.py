"""Structures in records: under every name that people give them, with nulls as missing values."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.optimade import read_optimade
from e3relax_flows.candidates.reading import read_structures
from e3relax_flows.core.errors import E3RelaxError
from e3relax_flows.core.records import build_structure, find_structure
from e3relax_flows.pairs.files import read_pair_file

FIELD = Path(__file__).parents[1] / "field"


def make(length=4.1):
    return Structure(
        Lattice.cubic(length), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3], site_properties={"magmom": [1.0, None]}
    )


FIRST, SECOND = (json.loads(make(length).to_json()) for length in (4.1, 4.2))
NAMES = [
    *("structure", "initial_structure", "initial", "input_structure", "unrelaxed_structure", "start_structure"),
    *("initialStructure", "final_structure", "relaxed_structure", "output_structure", "Structure", "crystal"),
]


def read(tmp_path, content, ending=".json"):
    path = tmp_path / f"dump{ending}"
    path.write_text("\n".join(map(json.dumps, content)) if ending == ".jsonl" else json.dumps(content))
    return list(read_structures([path]))


def lengths(items):
    return [item.structure and round(item.structure.lattice.a, 6) for item in items]


@pytest.mark.parametrize("name", NAMES)
def test_a_structure_is_found_under_its_name(tmp_path, name):
    for record in ({"id": "a", name: FIRST, "energy": 1.0}, {"id": "a", name: json.dumps(FIRST)}):
        for content, ending in (([record], ".jsonl"), ([record], ".json"), (record, ".json")):
            (item,) = read(tmp_path, content, ending)
            assert (item.error, item.id, lengths([item])) == (None, "a", [4.1])


@pytest.mark.parametrize(
    ("first", "second"),
    [("initial_structure", "final_structure"), ("initial", "relaxed"), ("structure", "initial_structure"),
     ("input", "output"), ("structure_unrelaxed", "structure_relaxed"), ("crystal", "relaxed_structure")],
)  # fmt: skip
def test_the_initial_one_of_two_is_taken(tmp_path, first, second):
    for record in ({second: SECOND, first: FIRST}, {first: {"structure": FIRST}, second: {"structure": SECOND}}):
        assert lengths(read(tmp_path, [record])) == [4.1]
    assert lengths(read(tmp_path, [{first: None, second: SECOND}])) == [4.2]


def test_dictionaries_tables_and_wrapped_lists(tmp_path):
    ids = {"structure_1": FIRST, "mp-2": {"id": "own", "initial_structure": SECOND}, "x": None}
    items = read(tmp_path, ids)
    assert [(item.id, item.error is None) for item in items] == [("structure_1", True), ("mp-2", True), ("x", False)]
    rows = {"material_id": {"0": "m-1", "1": "m-2"}, "initial_structure": {"0": FIRST, "1": SECOND}}
    split = {"columns": ["material_id", "structure"], "index": [0, 1], "data": [["m-1", FIRST], ["m-2", SECOND]]}
    wrapped = {"entries": [{"entry_id": "m-1", "structure": FIRST}, {"id": "m-2", "structure": SECOND}], "version": 3}
    for content in (rows, split, wrapped):
        items = read(tmp_path, content)
        assert [item.id for item in items] == ["m-1", "m-2"]
        assert lengths(items) == [4.1, 4.2]


CUBE = [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
PLACES = [
    ("lattice",), ("lattice", "matrix"), ("lattice", "matrix", 0), ("lattice", "matrix", 1, 2), ("lattice", "pbc", 1),
    ("sites",), ("sites", 1), ("sites", 1, "abc"), ("sites", 0, "abc", 2), ("sites", 1, "species"),
    ("sites", 1, "species", 0, "element"), ("sites", 0, "species", 0, "occu"),
]  # fmt: skip
OPTIONAL = [("charge",), ("properties",), ("lattice", "pbc"), ("lattice", "a"), ("sites", 0, "properties"),
            ("sites", 1, "label"), ("sites", 0, "properties", "magmom"), ("sites", 0, "xyz")]  # fmt: skip


def empty(place):
    """The first structure with a null in a place."""
    content = deepcopy(FIRST)
    *path, last = place
    inner = content
    for step in path:
        inner = inner[step]
    inner[last] = None
    return content


def name(place):
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")


@pytest.mark.parametrize("place", [place for place in PLACES if place != ("lattice", "matrix")])
def test_a_null_that_is_needed_is_named(tmp_path, place):
    good, bad = read(tmp_path, [SECOND, {"id": "b", "structure": empty(place)}])
    assert good.error is None
    assert (bad.id, bad.structure) == ("b", None)
    assert f"structure.{name(place)}' is missing" in bad.error
    (tmp_path / "pairs.json").write_text(
        json.dumps([{"initial": empty(place), "relaxed": SECOND, "functional": "PBE"}])
    )
    (pair,) = read_pair_file(tmp_path / "pairs.json")
    assert f"{name(place)}' is missing" in pair.message


@pytest.mark.parametrize("place", [*OPTIONAL, ("lattice", "matrix")])
def test_a_null_that_is_not_needed_is_nothing(tmp_path, place):
    (item,) = read(tmp_path, [empty(place)])
    assert (item.error, lengths([item])) == (None, [4.1])
    assert all(item.structure.lattice.pbc)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "no structure (null)"),
        ({"structure": None}, "'structure' is null"),
        ({"initial_structure": None, "id": None}, "'initial_structure' is null"),
        ({"numbers": [55, None], "initial": {"lattice": CUBE, "frac": [[0] * 3] * 2}}, "numbers[1]' is missing"),
        ({"numbers": [55], "initial": {"lattice": None, "frac": [[0] * 3]}}, "initial.lattice' is missing"),
        ({"numbers": [55], "initial": {"lattice": CUBE, "frac": [[0, None, 0]]}}, "frac[0][1]' is missing"),
    ],
)  # fmt: skip
def test_records_of_nothing_say_so(tmp_path, record, words):
    item, other = read(tmp_path, [record, FIRST])
    assert words in item.error
    assert other.error is None


def test_nulls_of_optimade_are_missing_values():
    items = list(read_optimade([FIELD / "optimade-nulls.json"]))
    assert [item.structure is not None for item in items] == [True, True, True, False, False, False]
    assert [round(item.structure.lattice.c, 2) for item in items[:3]] == [4.4, 4.6, 4.85]
    for item, words in zip(
        items[3:], ("'concentration'", "cartesian_site_positions[1][0]", "'lattice_vectors'"), strict=True
    ):
        assert words in item.error


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_null_gives_the_structure_or_a_place(data):
    """A null anywhere: the same crystal, or one error with the place."""
    content = deepcopy(FIRST)
    inner, steps = content, []
    while isinstance(inner, dict | list) and len(inner):
        step = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        steps.append(step)
        if not isinstance(inner[step], dict | list) or not len(inner[step]) or data.draw(st.booleans()):
            inner[step] = None
            break
        inner = inner[step]
    before = deepcopy(content)
    try:
        structure = build_structure(content, "s")
    except E3RelaxError as error:
        found = str(error)
    else:
        assert np.allclose(structure.lattice.matrix, make().lattice.matrix)
        assert structure.frac_coords.tolist() == make().frac_coords.tolist()
        assert structure.composition == make().composition
        found = name(steps)
    assert name(steps) in found
    assert content == before


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=6)), st.sampled_from([None, 1, "{", {}, FIRST]))
)
def test_what_is_found_is_a_structure(record):
    found = find_structure(record)
    hidden = [value for key, value in record.items() if key in NAMES and value is FIRST]
    assert (found is not None) or not hidden
    assert found is None or found[1] is FIRST
