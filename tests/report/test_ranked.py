"""Ranked tables of screens, and the files they are written to."""

from __future__ import annotations

import csv
import json
import sys

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from e3relax_flows.candidates.hulls import HullSet
from e3relax_flows.core.errors import ConfigError, MissingDependencyError
from e3relax_flows.ledger.energies import Correction
from e3relax_flows.report.ranked import list_systems, rank_candidates, write_ranked
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, RelaxationResult, StartKind
from e3relax_flows.schemas.predictions import Verdict
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, OutcomeRow, ScreenDoc

REFERENCES = [ComputedEntry("Na", -1), ComputedEntry("Cl", -1), ComputedEntry("Br", -1), ComputedEntry("NaCl", -4)]


def make_outcome(name: str, formula: tuple[str, str], energy: float | None, kind: StartKind, code: str) -> OutcomeDoc:
    structure = Structure(Lattice.cubic(3.5), list(formula), [[0, 0, 0], [0.5] * 3])
    result = RelaxationResult(
        initial=structure, relaxed=structure, energy=energy, n_ionic_steps=4, converged=True, code=code,
        functional="PBE", is_dft=code == "VASP",
    )  # fmt: skip
    return OutcomeDoc(
        outcome_id=f"{name}-{kind}", prediction_id=f"p-{name}", structure_id=f"s-{name}", model_id="m", engine="e",
        engine_id="e-1", start_kind=kind, state=OutcomeState.SUCCESSFUL, result=result,
    )  # fmt: skip


def make_row(name: str, outcomes: list[OutcomeDoc], state: CandidateState, **more: object) -> CandidateRow:
    rows = [OutcomeRow.from_outcome(outcome) for outcome in outcomes]
    return CandidateRow(id=name, state=state, verdict=Verdict.ACCEPT, formula=name, outcomes=rows, **more)


@pytest.fixture
def screen() -> tuple[ScreenDoc, dict[str, OutcomeDoc]]:
    """Two polymorphs of NaCl, one of them relaxed twice; NaBr; iodide without reference; a failure; a duplicate."""
    done = CandidateState.SUCCESSFUL
    outcomes = {
        "high": [make_outcome("high", ("Na", "Cl"), -3.6, StartKind.PREDICTED, "EMT")],
        "low": [
            make_outcome("low", ("Na", "Cl"), -4.1, StartKind.PREDICTED, "EMT"),
            make_outcome("low", ("Na", "Cl"), -4.2, StartKind.CONTROL, "EMT"),
        ],
        "bromide": [make_outcome("bromide", ("Na", "Br"), -2.2, StartKind.PREDICTED, "EMT")],
        "iodide": [make_outcome("iodide", ("Na", "I"), -2.0, StartKind.PREDICTED, "EMT")],
    }
    failed = make_outcome("failed", ("Na", "Cl"), None, StartKind.PREDICTED, "EMT")
    failed.state, failed.result, failed.message = OutcomeState.FAILED, None, "SCF diverged"
    rows = [make_row(name, docs, done) for name, docs in outcomes.items()]
    rows.insert(1, make_row("failed", [failed], CandidateState.FAILED))
    rows.append(CandidateRow(id="twin", state=CandidateState.DUPLICATE, duplicate_of="low"))
    document = ScreenDoc(
        name="s", engine="e", engine_id="e-1", model="m", on_refuse="initial", control=0, paired_controls=False, seed=0,
        candidates=rows,
    )  # fmt: skip
    docs = [*(doc for group in outcomes.values() for doc in group), failed]
    return document, {doc.outcome_id: doc for doc in docs}


def test_rows_are_ranked_by_energy_above_hull_per_atom(screen):
    rows = rank_candidates(*screen, HullSet(REFERENCES), Correction.NONE)
    assert [(row.rank, row.id) for row in rows] == [
        (1, "low"), (2, "bromide"), (3, "high"), (None, "failed"), (None, "iodide"), (None, "twin"),
    ]  # fmt: skip
    low, bromide, high, failed, iodide, twin = rows
    # the lower of its two relaxations counts: (-4.2 + 4.0) / 2 per atom below the reference
    assert low.energy_above_hull == pytest.approx(-0.1)
    assert low.energy_above_hull_of_all == pytest.approx(0.0)
    assert (low.start_kind, low.outcome_id, low.decomposition) == ("control", "low-control", "1.00 NaCl")
    assert bromide.energy_above_hull == pytest.approx(-0.1)
    assert bromide.decomposition == "0.50 Br + 0.50 Na"
    assert high.energy_above_hull == pytest.approx(0.2)
    assert high.energy_above_hull_of_all == pytest.approx(0.3)  # over `low`
    assert high.energy == high.raw_energy == pytest.approx(-1.8)
    assert (failed.energy, failed.message) == (None, "SCF diverged")
    assert "no entry of the element I" in iodide.message
    assert iodide.energy == pytest.approx(-1.0)
    assert (twin.duplicate_of, twin.energy_above_hull) == ("low", None)


def test_energies_of_a_potential_have_no_place_on_the_hull_of_the_materials_project(screen):
    rows = rank_candidates(*screen, HullSet(REFERENCES), Correction.MP2020)
    assert all(row.rank is None and row.energy_above_hull is None for row in rows)
    high = next(row for row in rows if row.id == "high")
    assert high.correction == "raw"
    assert high.energy == pytest.approx(-1.8)
    assert "computed with emt, not VASP" in high.message


def test_without_references_energies_are_listed_as_they_came(screen):
    rows = rank_candidates(*screen, None, Correction.NONE)
    assert [row.id for row in rows] == ["high", "failed", "low", "bromide", "iodide", "twin"]
    assert [row.energy_above_hull for row in rows] == [None] * 6
    assert rows[2].energy == pytest.approx(-2.1)


def test_csv_and_json_hold_the_same_rows(screen, tmp_path):
    rows = rank_candidates(*screen, HullSet(REFERENCES), Correction.NONE)
    write_ranked(rows, tmp_path / "deep" / "table.csv")
    write_ranked(rows, tmp_path / "table.json")
    with (tmp_path / "deep" / "table.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    documents = json.loads((tmp_path / "table.json").read_text())
    assert [line["id"] for line in lines] == [document["id"] for document in documents] == [row.id for row in rows]
    assert float(lines[0]["energy_above_hull"]) == documents[0]["energy_above_hull"] == pytest.approx(-0.1)
    assert (lines[3]["energy"], documents[3]["energy"]) == ("", None)
    assert not list(tmp_path.glob("**/*.part"))
    with pytest.raises(ConfigError, match=r"ends in \.csv, \.json, \.parquet"):
        write_ranked(rows, tmp_path / "table.xlsx")


def test_parquet_keeps_types_or_names_its_extra(screen, tmp_path, monkeypatch):
    rows = rank_candidates(*screen, HullSet(REFERENCES), Correction.NONE)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"e3relax-flows\[parquet\]"):
        write_ranked(rows, tmp_path / "table.parquet")
    monkeypatch.undo()
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    write_ranked(rows, tmp_path / "table.parquet")
    table = parquet.read_table(tmp_path / "table.parquet")
    assert str(table.schema.field("energy_above_hull").type) == "double"
    assert str(table.schema.field("rank").type) == "int64"
    assert table.column("id").to_pylist() == [row.id for row in rows]
    assert table.column("energy").to_pylist()[3] is None


def test_systems_that_are_part_of_others_are_not_asked_for(screen):
    _, outcomes = screen
    assert list_systems(outcomes.values()) == ["Br-Na", "Cl-Na", "I-Na"]
