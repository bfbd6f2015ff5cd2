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
    rank_structures,
    read_numbers,
    score_predictions,
    sort_by_score,
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


def test_small_changes_come_first_and_refusals_last(make_prediction):
    far, near, refused, unmoved = (make_prediction(name) for name in ("far", "near", "refused", "unmoved"))
    far.displacement, far.strain = 0.1, 0.10
    near.displacement, near.strain = 0.2, 0.02
    refused.displacement, refused.strain, refused.verdict = 0.0, 0.0, Verdict.REFUSE
    scores = score_predictions([far, near, None, refused, unmoved], RANKINGS.validate_python({"by": "change"}))
    assert scores == [pytest.approx(0.35), pytest.approx(0.25), None, None, None]
    assert sort_by_score(scores) == [1, 0, 2, 3, 4]
    assert measure_change(near) < measure_change(far)


def test_equal_scores_stay_in_order_and_nan_is_unknown():
    assert sort_by_score([2.0, None, 1.0, float("nan"), 1.0, -3.0]) == [5, 2, 4, 0, 1, 3]
    assert sort_by_score([]) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "id,hull,rest\na,0.1,x\nb,,y\nc,-0.2,z\n"),
        ("t.json", json.dumps([{"id": "a", "hull": 0.1}, {"id": "b", "hull": None}, {"id": "c", "hull": -0.2}])),
        ("t2.json", json.dumps({"a": {"hull": 0.1}, "b": {}, "c": {"hull": -0.2}})),
    ],
)
def test_tables_of_all_forms_give_the_same_order(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    assert read_numbers(file, "hull") == {"a": 0.1, "c": -0.2}
    items = [ReadItem(id, make_cell("Cu", 3.6), None) for id in ("a", "b", "c")]
    ranking = {"by": "table", "file": file, "column": "hull"}
    assert rank_structures(items, RANKINGS.validate_python(ranking)) == [2, 0, 1]
    assert rank_structures(items, RANKINGS.validate_python(ranking | {"largest_first": True})) == [0, 2, 1]
    assert rank_structures(items, None) == [0, 1, 2]


def test_a_plain_dictionary_needs_no_column(tmp_path):
    with gzip.open(tmp_path / "x.json.gz", "wt") as stream:
        json.dump({"a": 1, "b": 0.5}, stream)
    assert read_numbers(tmp_path / "x.json.gz") == {"a": 1.0, "b": 0.5}


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("id,e,f\na,1,2\n", None, "the columns e, f; say which"),
        ("id,e\na,1\n", "g", "needs the columns 'id' and 'g'"),
        ("name,e\na,1\n", "e", "needs the columns 'id' and 'e'"),
        ("id,e\na,low\n", None, "e of a is 'low'"),
        ("id,e\na,1\na,2\n", None, "a is there twice, with 1 and 2"),
    ],
)
def test_unclear_tables_are_refused(tmp_path, text, column, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_numbers(tmp_path / "t.csv", column)


def test_users_function_ranks_structures_and_predicted_structures(tmp_path, monkeypatch, make_prediction):
    (tmp_path / "my_ranking_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    ranking = RANKINGS.validate_python({"by": "function", "function": "my_ranking_module:measure_volume"})
    items = [ReadItem(id, make_cell("Cu", a), None) for id, a in (("big", 4.0), ("unknown", 3.0), ("small", 3.5))]
    assert rank_structures(items, ranking) == [2, 0, 1]
    accepted, refused = make_prediction("accepted"), make_prediction("refused")
    refused.verdict = Verdict.REFUSE
    scores = score_predictions([accepted, refused], ranking)
    assert scores == [pytest.approx(accepted.structure.volume), pytest.approx(refused.initial.volume)]
    assert scores[0] != pytest.approx(scores[1])
    for name, message in (("my_ranking_module:absent", "absent"), ("no_such_module:f", "no_such_module")):
        with pytest.raises(ConfigError, match=message):
            build_score(RANKINGS.validate_python({"by": "function", "function": name}))
    with pytest.raises(ConfigError, match="cannot be called"):
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
    order = [items[place].id for place in rank_structures(items, ranking)]
    assert order[0] == "right"
    assert order[-1] == "other"
    with pytest.raises(ConfigError, match="potential 'm3gnet' is unknown"):
        build_score(RANKINGS.validate_python(raw | {"potential": "m3gnet"}))


def test_a_list_cannot_be_ranked_by_predictions():
    with pytest.raises(ConfigError, match="rank it in a screen"):
        build_score(RANKINGS.validate_python({"by": "change"}))
