"""Documents as data frames: columns, exact values, queries, what is missing."""

from __future__ import annotations

import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

import e3relax_flows
from e3relax_flows.ledger.frames import (
    EXPECTED_COLUMNS,
    OUTCOME_COLUMNS,
    PREDICTION_COLUMNS,
    outcomes_dataframe,
    predictions_dataframe,
)
from e3relax_flows.ledger.joining import join_outcome
from e3relax_flows.ledger.store import open_stores, save_outcomes, save_predictions
from e3relax_flows.schemas.outcomes import RelaxationResult, StartKind
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Reason, Verdict


def make_cubic(a: float) -> Structure:
    return Structure(Lattice.cubic(a), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def predict(name: str, **changes) -> PredictionDoc:
    fields = {
        "id": name,
        "prediction_id": f"p-{name}",
        "structure_id": f"s-{name}",
        "initial": make_cubic(4.0),
        "structure": make_cubic(4.2),
        "verdict": Verdict.ACCEPT,
        "expected_error": 0.05,
        "error_interval": (0.02, 0.2),
        "harm_probability": 0.04,
        "score": 0.003,
        "volume_ratio": 1.157625,
        "n_passes": 2,
        "model_id": "m-1",
        "options": PredictOptions(),
    }
    return PredictionDoc(**(fields | changes))


@pytest.fixture
def stores(settings):
    with open_stores(settings) as stores:
        good = predict("good")
        error = predict(
            "error",
            structure=None,
            verdict=Verdict.ERROR,
            reasons=[Reason.DISORDERED, Reason.FAILED],
            error_interval=None,
            expected_error=None,
            model_id="m-2",
        )
        save_predictions(stores.predictions, [good, error])
        result = RelaxationResult(
            initial=make_cubic(4.2),
            relaxed=make_cubic(4.1),
            energy=-7.0,
            n_ionic_steps=5,
            converged=True,
            wall_time_s=12.5,
            dir_name="/somewhere",
            code="VASP",
            functional="PBE",
            is_dft=True,
        )
        done = join_outcome(good, StartKind.PREDICTED, "vasp", "e-1", result)
        failed = join_outcome(good, StartKind.CONTROL, "vasp", "e-1", None, "out of memory")
        save_outcomes(stores.outcomes, [done, failed])
        yield stores


def test_predictions_have_a_row_each_with_exact_values(stores):
    frame = predictions_dataframe(stores.predictions)
    assert list(frame.columns) == list(PREDICTION_COLUMNS)
    assert frame.index.name == "prediction_id"
    row = frame.loc["p-good"]
    assert (row["id"], row["formula"], row["chemical_system"], row["n_atoms"]) == ("good", "CsCl", "Cl-Cs", 2)
    assert row["initial_volume"] == pytest.approx(32.0)
    assert row["predicted_volume"] == pytest.approx(4.2**3 / 2)
    assert (row["error_low"], row["error_high"], row["expected_error"]) == (0.02, 0.2, 0.05)
    assert (row["verdict"], row["reasons"]) == ("accept", "")
    wrong = frame.loc["p-error"]
    assert (wrong["verdict"], wrong["reasons"]) == ("error", "disordered,failed")
    assert pd.isna(wrong["predicted_volume"])
    assert pd.isna(wrong["error_low"])
    assert frame["n_atoms"].sum() == 4


def test_queries_choose_and_an_empty_answer_keeps_the_columns(stores):
    assert list(predictions_dataframe(stores.predictions, {"model_id": "m-2"}).index) == ["p-error"]
    empty = predictions_dataframe(stores.predictions, {"model_id": "none"})
    assert (len(empty), list(empty.columns)) == (0, list(PREDICTION_COLUMNS))
    empty = outcomes_dataframe(stores.outcomes, {"engine": "none"}, stores.predictions)
    assert (len(empty), list(empty.columns)) == (0, [*OUTCOME_COLUMNS, *EXPECTED_COLUMNS])


def test_outcomes_have_a_row_each_with_errors_and_what_was_expected(stores):
    frame = outcomes_dataframe(stores.outcomes, predictions=stores.predictions)
    assert list(frame.columns) == [*OUTCOME_COLUMNS, *EXPECTED_COLUMNS]
    done = frame[frame["start_kind"] == "predicted"].iloc[0]
    assert (done["state"], done["code"], done["functional"], done["is_dft"]) == ("successful", "VASP", "PBE", True)
    assert done["energy_per_atom"] == -3.5
    assert done["relaxed_volume"] == pytest.approx(4.1**3 / 2)
    assert done["predicted_volume_error"] == pytest.approx((4.2 / 4.1) ** 3 - 1)
    assert done["initial_volume_error"] == pytest.approx(1 - (4.0 / 4.1) ** 3)
    assert done["predicted_displacement"] == pytest.approx(0, abs=1e-9)
    assert done["predicted_error"] == pytest.approx(2.5 * done["predicted_strain"])
    assert (done["expected_error"], done["error_high"], done["verdict"]) == (0.05, 0.2, "accept")
    assert (done["n_ionic_steps"], done["wall_time_s"], done["dir_name"]) == (5, 12.5, "/somewhere")
    failed = frame[frame["start_kind"] == "control"].iloc[0]
    assert (failed["state"], failed["message"]) == ("failed", "out of memory")
    assert pd.isna(failed["energy_per_atom"])
    assert pd.isna(failed["predicted_error"])


def test_every_column_is_documented_and_filled_from_the_documents(stores):
    assert all(PREDICTION_COLUMNS.values())
    assert all(OUTCOME_COLUMNS.values())
    row = outcomes_dataframe(stores.outcomes, {"start_kind": "predicted"}).iloc[0]
    known = {name for name, value in row.items() if not pd.isna(value)}
    polished = {name for name in OUTCOME_COLUMNS if name.startswith("polished_")}
    assert set(OUTCOME_COLUMNS) - known == {"message", "n_electronic_steps"} | polished


def test_outcomes_measure_the_polished_structure_where_there_is_one(stores):
    prediction = predict("fine", polished=make_cubic(4.12), n_polish_steps=5)
    result = RelaxationResult(
        initial=make_cubic(4.12), relaxed=make_cubic(4.1), converged=True, code="VASP", is_dft=True
    )
    save_predictions(stores.predictions, [prediction])
    save_outcomes(stores.outcomes, [join_outcome(prediction, StartKind.POLISHED, "vasp", "e-1", result)])
    row = outcomes_dataframe(stores.outcomes, {"start_kind": "polished"}).iloc[0]
    assert row["polished_volume_error"] == pytest.approx((4.12 / 4.1) ** 3 - 1)
    assert row["polished_error"] == pytest.approx(2.5 * row["polished_strain"] + row["polished_displacement"])
    assert row["polished_error"] < row["predicted_error"] < row["initial_error"]
    assert predictions_dataframe(stores.predictions).loc["p-fine", "n_polish_steps"] == 5


def test_the_front_door_has_them():
    assert e3relax_flows.predictions_dataframe is predictions_dataframe
    assert e3relax_flows.outcomes_dataframe is outcomes_dataframe
