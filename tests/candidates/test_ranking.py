"""Most promising first: by change, table, hull and the user's function."""

from __future__ import annotations

import gzip
import json

import pytest
from pydantic import TypeAdapter, ValidationError
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from e3relax_flows.candidates.ranking import (
    build_score,
    measure_change,
    read_numbers,
)
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.candidates import Ranking
from e3relax_flows.schemas.predictions import Verdict

RANKINGS: TypeAdapter[Ranking] = TypeAdapter(Ranking)
MODULE = """
def measure_volume(id, structure):
    return None if id == "unknown" else structure.volume

answer = 42
"""
EMT = """
from ase.calculators.emt import EMT

def make():
    return EMT()
"""


def make_cell(element: str, length: float, n: int = 1) -> Structure:
    lattice = Lattice([[0, length / 2, length / 2], [length / 2, 0, length / 2], [length / 2, length / 2, 0]])
    return Structure(lattice, [element], [[0, 0, 0]]) * (n, 1, 1)


def test_change_is_displacement_and_strain_of_accepted_predictions(make_prediction):
    far, near, refused, unmoved = (make_prediction(name) for name in ("far", "near", "refused", "unmoved"))
    far.displacement, far.strain = 0.1, 0.10
    near.displacement, near.strain = 0.2, 0.02
    refused.displacement, refused.strain, refused.verdict = 0.0, 0.0, Verdict.REFUSE
    scores = [measure_change(prediction) for prediction in (far, near, refused, unmoved)]
    assert scores == [pytest.approx(0.35), pytest.approx(0.25), None, None]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "id,hull,rest\na,0.1,x\nb,,y\nc,-0.2,z\n"),
        ("t.json", json.dumps([{"id": "a", "hull": 0.1}, {"id": "b", "hull": None}, {"id": "c", "hull": -0.2}])),
        ("t2.json", json.dumps({"a": {"hull": 0.1}, "b": {}, "c": {"hull": -0.2}})),
    ],
)
def test_tables_of_all_forms_give_the_same_scores(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    assert read_numbers(file, "hull") == {"a": 0.1, "c": -0.2}
    ranking = {"by": "table", "file": file, "column": "hull"}
    for more, sign in (({}, 1.0), ({"largest_first": True}, -1.0)):
        score = build_score(RANKINGS.validate_python(ranking | more))
        assert [score(id, make_cell("Cu", 3.6)) for id in ("a", "b", "c")] == [sign * 0.1, None, sign * -0.2]


def test_a_plain_dictionary_needs_no_column(tmp_path):
    with gzip.open(tmp_path / "x.json.gz", "wt") as stream:
        json.dump({"a": 1, "b": 0.5}, stream)
    assert read_numbers(tmp_path / "x.json.gz") == {"a": 1.0, "b": 0.5}


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("id,e,f\na,1,2\n", None, "e, f; .*`column`"),
        ("id,e\na,1\n", "g", r"t\.csv .*'id' and 'g'; "),
        ("name,e\na,1\n", "e", r"t\.csv .*'id' and 'e'; "),
        ("id,e\na,low\n", None, "e of a .*'low'"),
        ("id,e\na,1\na,2\n", None, "a .* with 1 and 2"),
    ],
)
def test_unclear_tables_are_refused(tmp_path, text, column, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_numbers(tmp_path / "t.csv", column)


def test_users_function_ranks_structures(tmp_path, monkeypatch):
    (tmp_path / "my_ranking_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    ranking = RANKINGS.validate_python({"by": "function", "function": "my_ranking_module:measure_volume"})
    score = build_score(ranking)
    assert score("big", make_cell("Cu", 4.0)) == pytest.approx(16.0)
    assert score("unknown", make_cell("Cu", 3.0)) is None
    for name, message in (("my_ranking_module:absent", "absent"), ("no_such_module:f", "no_such_module")):
        with pytest.raises(ConfigError, match=message):
            build_score(RANKINGS.validate_python({"by": "function", "function": name}))
    with pytest.raises(ConfigError, match=r"my_ranking_module:answer .*int,"):
        build_score(RANKINGS.validate_python({"by": "function", "function": "my_ranking_module:answer"}))
    with pytest.raises(ValidationError, match="module:function"):
        RANKINGS.validate_python({"by": "function", "function": "volume"})


def test_hull_of_a_potential_ranks_by_energy_per_atom(tmp_path, monkeypatch):
    """Copper by EMT: its own lattice constant is the best, whatever the size of the cell."""
    (tmp_path / "my_potential_module.py").write_text(EMT)
    monkeypatch.chdir(tmp_path)
    entries = tmp_path / "entries.json"
    entries.write_text(json.dumps([ComputedEntry("Cu", 0.0).as_dict()]))
    raw = {"by": "hull", "entries": entries, "potential": "my_potential_module:make"}
    ranking = RANKINGS.validate_python(raw)
    names = (("tight", "Cu", 3.4, 1), ("right", "Cu", 3.6, 2), ("loose", "Cu", 3.8, 1), ("other", "Ag", 4.09, 1))
    items = [ReadItem(id, make_cell(element, a, n), None) for id, element, a, n in names]
    score = build_score(ranking)
    values = {item.id: score(item.id, item.structure) for item in items}
    assert values["right"] == pytest.approx(-0.006, abs=0.01)  # EMT's zero is the bulk
    assert values["other"] is None  # no entry of silver
    assert values["right"] == min(value for value in values.values() if value is not None)
    with pytest.raises(ConfigError, match=r"'m3gnet' .*module:function"):
        build_score(RANKINGS.validate_python(raw | {"potential": "m3gnet"}))


def test_a_list_cannot_be_ranked_by_predictions():
    with pytest.raises(ConfigError, match="rank it in a screen"):
        build_score(RANKINGS.validate_python({"by": "change"}))
