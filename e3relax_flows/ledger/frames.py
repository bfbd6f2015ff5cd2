"""Predictions and outcomes as pandas data frames, a row per document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maggma.core import Store
from pymatgen.core import Structure

from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM
from e3relax_flows.ledger.savings import StartSteps, compare_arms
from e3relax_flows.schemas.outcomes import ArmSaving, OutcomeDoc, OutcomeState, StartKind, StructureErrors
from e3relax_flows.schemas.predictions import PredictionDoc
from e3relax_flows.stores.opening import IDS_PER_QUERY, validate_document

if TYPE_CHECKING:
    import pandas as pd

PREDICTION_COLUMNS = {
    "id": "the user's name for the structure",
    "structure_id": "content id of the initial structure",
    "formula": "reduced",
    "chemical_system": "elements, sorted, joined by -",
    "n_atoms": "atoms of the cell",
    "verdict": "accept, refuse or error",
    "reasons": "codes, joined by a comma; empty where accepted",
    "score": "Å",
    "expected_error": "Å; displacement + 2.5 Å · strain to the relaxed structure, as calibrated",
    "error_low": "Å; lower end of the interval that holds that error for nine of ten",
    "error_high": "Å; upper end of it",
    "harm_probability": "that the prediction is further from the relaxed structure, by more than 10 % and 0.02 Å",
    "expected_saving": "ln(error of the initial structure / error of the prediction), as calibrated",
    "displacement": "Å; initial to predicted, mean over atoms",
    "max_displacement": "Å; the largest of these",
    "strain": "norm of the logarithmic strain, initial to predicted",
    "initial_volume": "Å³ per atom",
    "predicted_volume": "Å³ per atom",
    "n_passes": "applications of the network",
    "opinion_potential": "versioned name of the weights of the second opinion",
    "opinion_energy_change": "eV per atom, predicted - initial, by that potential",
    "n_polish_steps": "steps of a potential from the prediction; 0: it is not polished",
    "model_id": "resolved, never an alias",
    "device": "torch device that predicted",
    "wall_time_s": "share of the time of its batch",
    "message": "the reasons in words",
    "job_uuid": "job that made it",
    "last_updated": "UTC",
}
OUTCOME_COLUMNS = {
    "prediction_id": "the prediction it is joined with",
    "structure_id": "content id of the initial structure",
    "id": "the user's name for the structure",
    "model_id": "model of the prediction",
    "engine": "name of the engine",
    "engine_id": "content id of the engine and its settings",
    "start_kind": "predicted; polished; initial: refused; control: initial on purpose",
    "state": "successful, unconverged or failed",
    "message": "why it failed",
    "formula": "reduced; none without a result, as the columns to dir_name",
    "n_atoms": "atoms of the cell",
    "code": "VASP, GPAW, CHGNet, ...",
    "functional": "run type, such as PBE or PBE+U",
    "is_dft": "False for potentials",
    "energy_per_atom": "eV",
    "n_ionic_steps": "energy and force evaluations at distinct geometries",
    "n_electronic_steps": "SCF iterations; none where the code has none",
    "wall_time_s": "of the relaxation",
    "relaxed_volume": "Å³ per atom",
    "dir_name": "folder of the calculation",
    "initial_displacement": "Å; initial against relaxed, only where converged, as the next seven",
    "initial_strain": "norm of the logarithmic strain",
    "initial_volume_error": "|V/V_relaxed - 1|",
    "initial_error": "Å; displacement + 2.5 Å · strain",
    "predicted_displacement": "Å; predicted against relaxed",
    "predicted_strain": "norm of the logarithmic strain",
    "predicted_volume_error": "|V/V_relaxed - 1|",
    "predicted_error": "Å; displacement + 2.5 Å · strain",
    "polished_displacement": "Å; polished against relaxed, only of polished predictions, as the next three",
    "polished_strain": "norm of the logarithmic strain",
    "polished_volume_error": "|V/V_relaxed - 1|",
    "polished_error": "Å; displacement + 2.5 Å · strain",
    "same_basin": "StructureMatcher takes predicted and relaxed for the same structure",
    "last_updated": "UTC",
}
SAVINGS_COLUMNS = {
    "refused": "whether these are candidates whose prediction was refused",
    "n_pairs": "candidates that converged from both starts",
    "n_broken_pairs": "candidates that did not",
    "ionic": "ionic steps from the start over those from the other, each summed over pairs; none without pairs",
    "ionic_low": "lower end of its 95 % interval, from pairs drawn again; none for a single pair",
    "ionic_high": "upper end of it",
    "electronic": "the same of SCF iterations, where the engine counts them",
    "electronic_low": "lower end of its 95 % interval",
    "electronic_high": "upper end of it",
}
EXPECTED_COLUMNS = (
    "verdict",
    "score",
    "expected_error",
    "error_low",
    "error_high",
    "harm_probability",
    "expected_saving",
)


def predictions_dataframe(store: Store, query: dict[str, Any] | None = None) -> pd.DataFrame:
    """Predictions of a store, by `prediction_id`; the columns are those of `PREDICTION_COLUMNS`, always all of them.

    Parameters
    ----------
    store
        Of predictions, connected: `open_workspace().predictions`.
    query
        Selection in MongoDB's language, such as {"model_id": "30626e97c2b77c72"}; None: all.

    Raises
    ------
    StoreError
        When a document is not a prediction of this release.

    Examples
    --------
    >>> from e3relax_flows import open_workspace, predictions_dataframe
    >>> with open_workspace() as workspace:
    ...     frame = predictions_dataframe(workspace.predictions)
    >>> "expected_error" in frame.columns
    True
    """
    rows = [
        {"prediction_id": doc.prediction_id, **describe_prediction(doc)}
        for doc in (validate_document(raw, PredictionDoc, store) for raw in store.query(query or {}))
    ]
    return _build_frame(rows, "prediction_id", list(PREDICTION_COLUMNS))


def outcomes_dataframe(
    store: Store, query: dict[str, Any] | None = None, predictions: Store | None = None
) -> pd.DataFrame:
    """Outcomes of a store, by `outcome_id`; the columns are those of `OUTCOME_COLUMNS`, always all of them.

    Parameters
    ----------
    store
        Of outcomes, connected: `open_workspace().outcomes`.
    query
        Selection in MongoDB's language, such as {"start_kind": "predicted"}; None: all.
    predictions
        Store of predictions; if it is given, these fields are joined: verdict, score, expected_error,
        error_low, error_high, harm_probability, expected_saving.

    Raises
    ------
    StoreError
        When a document is not an outcome of this release.

    Examples
    --------
    >>> from e3relax_flows import open_workspace, outcomes_dataframe
    >>> with open_workspace() as workspace:
    ...     frame = outcomes_dataframe(workspace.outcomes)
    >>> "n_ionic_steps" in frame.columns
    True
    """
    rows = [
        {"outcome_id": doc.outcome_id, **describe_outcome(doc)}
        for doc in (validate_document(raw, OutcomeDoc, store) for raw in store.query(query or {}))
    ]
    columns = list(OUTCOME_COLUMNS)
    if predictions is not None:
        expected = dict(_read_expected(predictions, rows))
        nothing = dict.fromkeys(EXPECTED_COLUMNS)
        rows = [row | expected.get(row["prediction_id"], nothing) for row in rows]
        columns += EXPECTED_COLUMNS
    return _build_frame(rows, "outcome_id", columns)


def savings_dataframe(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Savings of every start, measured in pairs, by `engine_id`, `start` and `over`, the other start of the comparison.

    The columns are those of `SAVINGS_COLUMNS`, always all of them.

    Parameters
    ----------
    outcomes
        Of `outcomes_dataframe`, or rows of it: only the crystals that matter, the outcomes of one model.

    Examples
    --------
    >>> from e3relax_flows import open_workspace, outcomes_dataframe, savings_dataframe
    >>> with open_workspace() as workspace:
    ...     frame = outcomes_dataframe(workspace.outcomes)
    >>> savings = savings_dataframe(frame[frame["is_dft"] == True])
    >>> list(savings.index.names)
    ['engine_id', 'start', 'over']
    """
    import pandas as pd

    rows, keys = [], ["engine_id", "start", "over"]
    for engine_id, part in outcomes.groupby("engine_id"):
        steps = [
            StartSteps(
                row.structure_id,
                row.engine_id,
                row.prediction_id,
                StartKind(row.start_kind),
                row.state == OutcomeState.SUCCESSFUL.value,
                *(None if pd.isna(n) else int(n) for n in (row.n_ionic_steps, row.n_electronic_steps)),
            )
            for row in part.itertuples()
        ]
        rows += [{"engine_id": engine_id, **_describe_arm(arm)} for arm in compare_arms(steps)]
    return pd.DataFrame(rows, columns=[*keys, *SAVINGS_COLUMNS]).set_index(keys)


def _describe_arm(arm: ArmSaving) -> dict[str, Any]:
    numbers = {}
    for name, saving in (("ionic", arm.ionic), ("electronic", arm.electronic)):
        numbers[name] = saving.ratio if saving else None
        numbers |= {f"{name}_{end}": getattr(saving, end, None) for end in ("low", "high")}
    n_pairs = arm.ionic.n_pairs if arm.ionic else 0
    kept = {"refused": arm.refused, "n_pairs": n_pairs, "n_broken_pairs": arm.n_broken_pairs}
    return {"start": str(arm.start), "over": str(arm.over), **kept, **numbers}


def describe_prediction(doc: PredictionDoc) -> dict[str, Any]:
    """The row of a prediction."""
    initial, structure = doc.initial, doc.structure
    low, high = doc.error_interval or (None, None)
    return {
        **{name: getattr(doc, name) for name in PREDICTION_COLUMNS if name in type(doc).model_fields},
        "formula": initial.composition.reduced_formula if initial else None,
        "chemical_system": initial.composition.chemical_system if initial else None,
        "n_atoms": len(initial) if initial else None,
        "verdict": str(doc.verdict),
        "reasons": ",".join(map(str, doc.reasons)),
        "error_low": low,
        "error_high": high,
        "opinion_potential": doc.second_opinion.potential if doc.second_opinion else None,
        "opinion_energy_change": doc.second_opinion.energy_change if doc.second_opinion else None,
        "initial_volume": measure_volume(initial),
        "predicted_volume": measure_volume(structure),
    }


def describe_outcome(doc: OutcomeDoc) -> dict[str, Any]:
    """The row of an outcome."""
    result = doc.result
    relaxed = result.relaxed if result else None
    energy = result.energy / len(result.relaxed) if result and result.energy is not None else None
    return {
        **{name: getattr(doc, name) for name in OUTCOME_COLUMNS if name in type(doc).model_fields},
        **{name: getattr(result, name, None) for name in ("code", "functional", "is_dft", "wall_time_s", "dir_name")},
        **{name: getattr(result, name, None) for name in ("n_ionic_steps", "n_electronic_steps")},
        "start_kind": str(doc.start_kind),
        "state": str(doc.state),
        "formula": relaxed.composition.reduced_formula if relaxed else None,
        "n_atoms": len(relaxed) if relaxed else None,
        "energy_per_atom": energy,
        "relaxed_volume": measure_volume(relaxed),
        **_describe_errors("initial", doc.initial_errors),
        **_describe_errors("predicted", doc.prediction_errors),
        **_describe_errors("polished", doc.polished_errors),
    }


def _describe_errors(start: str, errors: StructureErrors | None) -> dict[str, float | None]:
    return {
        f"{start}_displacement": errors.displacement if errors else None,
        f"{start}_strain": errors.strain if errors else None,
        f"{start}_volume_error": errors.volume if errors else None,
        f"{start}_error": errors.displacement + STRAIN_WEIGHT_ANGSTROM * errors.strain if errors else None,
    }


def _read_expected(store: Store, rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Expected errors of the predictions of these outcomes, without reading structures."""
    ids = list(dict.fromkeys(row["prediction_id"] for row in rows))
    fields = ["prediction_id", *(name for name in EXPECTED_COLUMNS if not name.startswith("error_")), "error_interval"]
    for start in range(0, len(ids), IDS_PER_QUERY):
        for raw in store.query({"prediction_id": {"$in": ids[start : start + IDS_PER_QUERY]}}, fields):
            low, high = raw.get("error_interval") or (None, None)
            values = {name: raw.get(name) for name in EXPECTED_COLUMNS}
            yield raw["prediction_id"], values | {"error_low": low, "error_high": high}


def measure_volume(structure: Structure | None) -> float | None:
    """Volume in Å³/atom; None where there is no structure."""
    return structure.volume / len(structure) if structure else None


def _build_frame(rows: list[dict[str, Any]], index: str, columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=[index, *columns]).set_index(index)
