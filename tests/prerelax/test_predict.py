"""The prediction job: what it stores, what it finds again, what its document offers to atomate2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import IStructure, Lattice, Molecule, Structure
from pymatgen.electronic_structure.core import Magmom

from e3relax_flows.candidates.reading import read_structures
from e3relax_flows.candidates.spool import CandidateList
from e3relax_flows.cli.prediction_files import dump_line
from e3relax_flows.core.errors import ConfigError, ModelError, StructureError
from e3relax_flows.core.ids import identify_structure
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.store import find_predictions, open_stores
from e3relax_flows.prerelax.predict import PREDICT_JOB, PrerelaxMaker, predict_stored
from e3relax_flows.schemas.predictions import (
    Constraints,
    Prediction,
    PredictionDoc,
    PredictOptions,
    PrerelaxDoc,
    SecondOpinion,
    Verdict,
    identify_prediction,
)
from e3relax_flows.schemas.screens import ChunkDoc
from e3relax_flows.testing import EMT_LATTICES, TablePredictor

OPTIONS = PredictOptions()


def make_fcc(element: str, stretch: float = 1.04) -> Structure:
    a = EMT_LATTICES.get(element, 3.6) * stretch / 2
    return Structure(Lattice([[0, a, a], [a, 0, a], [a, a, 0]]), [element], [[0, 0, 0]])


def read_predictions(settings: E3RelaxSettings) -> list[PredictionDoc]:
    with open_stores(settings) as stores:
        ids = stores.predictions.distinct("prediction_id")
        return list(find_predictions(stores.predictions, ids).values())


def run_job(job: object) -> dict:
    """Output of one job, as it lies in the job store."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(job, store=store, log=False, raise_immediately=True)
    return store.get_output(job.uuid)


def test_a_document_holds_the_prediction_and_is_found_by_its_id(
    settings: E3RelaxSettings, predictor: TablePredictor
) -> None:
    initial = make_fcc("Cu")
    predictor.device = "cuda:0"
    job = PrerelaxMaker().make(initial)
    job.update_metadata({"campaign": "copper"})
    document = MontyDecoder().process_decoded(run_job(job))
    assert isinstance(document, PrerelaxDoc)
    assert document.structure.lattice.a == pytest.approx(1.005 * EMT_LATTICES["Cu"] / 2**0.5)
    assert document.output.structure == document.structure
    assert (document.dir_name, document.output.energy, document.output.stress) == (None, None, None)
    (stored,) = read_predictions(settings)
    assert stored.prediction_id == identify_prediction(identify_structure(initial), predictor.model_id, OPTIONS)
    assert stored.model_id == predictor.model_id != "table"
    assert stored.initial == initial
    assert stored.structure == document.structure
    assert stored.job_uuid == job.uuid
    assert (stored.device, stored.metadata) == ("cuda:0", {"campaign": "copper"})
    assert stored.verdict == Verdict.ACCEPT
    assert stored.model_dump(exclude={"initial", "structure", "last_updated"}) == document.prediction.model_dump(
        exclude={"initial", "structure", "last_updated"}
    )


@pytest.mark.usefixtures("predictor")
def test_hosts_of_the_flow_are_kept(settings: E3RelaxSettings) -> None:
    inner = Flow([PrerelaxMaker().make(make_fcc("Cu"))])
    outer = Flow([inner])
    run_locally(outer, store=JobStore(MemoryStore()), log=False, raise_immediately=True)
    assert read_predictions(settings)[0].hosts == [inner.uuid, outer.uuid]


def test_nothing_is_predicted_twice(settings: E3RelaxSettings, predictor: TablePredictor) -> None:
    structures = [make_fcc("Cu"), make_fcc("Ag"), make_fcc("Cu")]
    first, n_reused = predict_stored(structures, ["a", "b", "c"], "default", "auto", OPTIONS)
    assert (predictor.n_predicted, n_reused) == (2, 0)
    assert [doc.id for doc in first] == ["a", "b", "c"]
    again, n_reused = predict_stored([*structures, make_fcc("Au")], list("defg"), "default", "auto", OPTIONS)
    assert (predictor.n_predicted, n_reused) == (3, 3)
    assert [doc.id for doc in again] == list("defg")
    assert [doc.prediction_id for doc in again[:3]] == [doc.prediction_id for doc in first]
    assert again[0].last_updated == first[0].last_updated
    predict_stored(structures[:1], ["a"], "default", "auto", PredictOptions(passes=1))
    assert predictor.n_predicted == 4
    assert len(read_predictions(settings)) == 4


def test_a_potential_that_failed_is_asked_again(
    settings: E3RelaxSettings, predictor: TablePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opinions = [
        SecondOpinion(potential="CHGNet-0.3.0", message="out of memory", failed=True),
        SecondOpinion(potential="CHGNet-0.3.0", energy_change=-0.2),
    ]
    plain = TablePredictor.predict

    def predict(self: TablePredictor, *arguments: Any, **fields: Any) -> list[Prediction]:
        opinion = opinions.pop(0)
        return [one.model_copy(update={"second_opinion": opinion}) for one in plain(self, *arguments, **fields)]

    monkeypatch.setattr(TablePredictor, "predict", predict)
    options = PredictOptions(second_opinion="chgnet")
    for message, n_predicted in (("out of memory", 1), (None, 2), (None, 2)):
        (document,), _ = predict_stored([make_fcc("Cu")], ["a"], "default", "auto", options)
        assert (document.second_opinion.message, predictor.n_predicted) == (message, n_predicted)
        (stored,) = read_predictions(settings)
        assert stored.second_opinion == document.second_opinion


def test_a_prediction_found_again_has_the_properties_that_were_asked_for(
    settings: E3RelaxSettings, predictor: TablePredictor
) -> None:
    """Properties and periodic images do not enter the id; those of another caller must not come back."""
    first, second = make_fcc("Cu"), make_fcc("Cu")
    first.properties, second.properties = {"tag": "first"}, {"tag": "second"}
    second.translate_sites([0], [1, -2, 0], to_unit_cell=False)
    predict_stored([first], ["a"], "default", "auto", OPTIONS)
    (document,), n_reused = predict_stored([second], ["b"], "default", "auto", OPTIONS)
    assert (n_reused, predictor.n_predicted) == (1, 1)
    assert document.initial == second
    assert document.initial.frac_coords.tolist() == [[1, -2, 0]]
    assert document.structure.properties == {"tag": "second"}
    (stored,) = read_predictions(settings)
    assert stored.structure.properties == {"tag": "first"}


def test_properties_that_hold_arrays_are_handed_on(settings: E3RelaxSettings, predictor: TablePredictor) -> None:
    """Arrays are neither equal nor different; none of the first structure's properties come back with the second."""
    first, second, third = (make_fcc("Cu") for _ in range(3))
    first.properties = {"stress": np.eye(3), "nested": {"virial": [np.zeros(6)]}, "extra": 1}
    second.properties = {"stress": np.zeros((3, 3))}
    job = PrerelaxMaker().make_chunk([first, second, third], ["a", "b", "c"])
    chunk = MontyDecoder().process_decoded(run_job(job))
    predictions = [prediction.structure.properties for prediction in chunk.predictions]
    assert [prediction.verdict for prediction in chunk.predictions] == ["accept"] * 3
    assert np.array_equal(predictions[0]["stress"], np.eye(3))
    assert (predictions[1].keys(), np.abs(predictions[1]["stress"]).max(), predictions[2]) == ({"stress"}, 0, {})
    documents, n_reused = predict_stored([second], ["d"], "default", "auto", OPTIONS)
    assert (n_reused, predictor.n_predicted, documents[0].structure.properties.keys()) == (1, 1, {"stress"})
    assert read_predictions(settings)[0].structure.properties["extra"] == 1


def test_moments_of_one_structure_are_not_handed_to_another(
    settings: E3RelaxSettings, predictor: TablePredictor
) -> None:
    directions = ([0, 0, 4], [4, 0, 0], [0, 4, 0], [0, 0, -4])
    structures = [make_fcc("Cu").copy(site_properties={"magmom": [Magmom(moment)]}) for moment in directions]
    predict_stored(structures[:2], ["a", "b"], "default", "auto", OPTIONS)
    documents, n_reused = predict_stored(structures, list("abcd"), "default", "auto", OPTIONS)
    assert (n_reused, predictor.n_predicted, len(read_predictions(settings))) == (2, 4, 4)
    found = [document.structure[0].properties["magmom"].moment.tolist() for document in documents]
    assert found == [list(map(float, moment)) for moment in directions]


def test_a_structure_without_an_id_costs_the_others_nothing(
    settings: E3RelaxSettings, predictor: TablePredictor
) -> None:
    odd = make_fcc("Ag").copy(site_properties={"tag": [{1, 2}]})
    documents, _ = predict_stored([odd, make_fcc("Cu"), odd], ["a", "b", None], "default", "auto", OPTIONS)
    assert [document.verdict for document in documents] == ["error", "accept", "error"]
    assert documents[0].reasons == ["not_a_structure"]
    assert str(documents[0].message).startswith("a: site_properties['tag'][0] is set {1, 2}")
    assert len({document.prediction_id for document in documents}) == 3
    assert (predictor.n_predicted, len(read_predictions(settings))) == (1, 1)


def test_immutable_structures_have_the_ids_of_mutable_ones(
    settings: E3RelaxSettings, predictor: TablePredictor
) -> None:
    copper, silver = (IStructure.from_sites(make_fcc(element).sites) for element in ("Cu", "Ag"))
    for structure in (copper, silver):
        (document,), _ = predict_stored([structure], ["a"], "default", "auto", OPTIONS)
        assert document.verdict == "accept"
        assert document.structure_id == identify_structure(structure) == identify_structure(document.initial)
    assert (predictor.n_predicted, len(read_predictions(settings))) == (2, 2)


@pytest.mark.usefixtures("predictor")
def test_what_is_no_structure_costs_the_others_nothing(settings: E3RelaxSettings) -> None:
    water = Molecule(["O", "H", "H"], [[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0]])
    job = PrerelaxMaker().make_chunk([make_fcc("Cu"), None, water, make_fcc("Ag")], ["a", "b", "c", "d"])
    chunk = MontyDecoder().process_decoded(run_job(job))
    assert isinstance(chunk, ChunkDoc)
    assert [doc.verdict for doc in chunk.predictions] == ["accept", "error", "error", "accept"]
    assert [doc.id for doc in chunk.predictions] == ["a", "b", "c", "d"]
    assert "Molecule is not a structure" in str(chunk.predictions[2].message)
    assert len({doc.prediction_id for doc in chunk.predictions}) == 4
    assert len(read_predictions(settings)) == 2


def test_a_refused_prediction_hands_on_the_initial_structure(
    settings: E3RelaxSettings, predictor: TablePredictor
) -> None:
    predictor.refused = {"Cu"}
    initial = make_fcc("Cu")
    document = MontyDecoder().process_decoded(run_job(PrerelaxMaker().make(initial)))
    assert document.structure == initial
    assert document.prediction.verdict == Verdict.REFUSE
    assert document.prediction.structure.volume < initial.volume
    assert len(read_predictions(settings)) == 1


@pytest.mark.usefixtures("predictor")
def test_an_error_fails_the_job_with_its_message() -> None:
    water = Molecule(["O", "H", "H"], [[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0]])
    with pytest.raises(StructureError, match=r"Molecule .* pymatgen Structure"):
        run_job(PrerelaxMaker().make(water))


@pytest.mark.usefixtures("predictor")
def test_a_model_that_is_none_is_named() -> None:
    with pytest.raises(ModelError, match="'best'"):
        run_job(PrerelaxMaker(model="best").make(make_fcc("Cu")))
    with pytest.raises(ModelError, match="'better'"):
        run_job(PrerelaxMaker().make(make_fcc("Cu"), model="better"))


@pytest.mark.usefixtures("predictor")
def test_ids_and_structures_are_as_many() -> None:
    with pytest.raises(ConfigError, match="1 structures but 2 ids"):
        predict_stored([make_fcc("Cu")], ["a", "b"], "default", "auto", OPTIONS)


def test_the_maker_survives_serialisation() -> None:
    options = PredictOptions(passes=3, constraints=Constraints(fixed_atoms=(1, 2), vacuum_axis="c"))
    maker = PrerelaxMaker(model="small", device="cpu", options=options)
    for copy in (
        PrerelaxMaker.from_dict(maker.as_dict()),
        PrerelaxMaker.from_dict(json.loads(json.dumps(maker.as_dict()))),
        json.loads(json.dumps(maker, cls=MontyEncoder), cls=MontyDecoder),
        PrerelaxMaker(model="small", device="cpu", options=options.model_dump()),
    ):
        assert copy == maker
        assert isinstance(copy.options, PredictOptions)
        assert copy.options.constraints.fixed_atoms == (1, 2)


def test_keyword_updates_reach_the_options_of_a_job() -> None:
    job = PrerelaxMaker().make(make_fcc("Cu"))
    assert job.name == PREDICT_JOB
    job.update_maker_kwargs({"_set": {"options->passes": 5}}, dict_mod=True)
    job.update_maker_kwargs({"model": "small"}, class_filter=PrerelaxMaker)
    assert (job.maker.options.passes, job.maker.model) == (5, "small")
    assert job.maker.options.symmetry == "keep"
    copy = json.loads(json.dumps(job, cls=MontyEncoder), cls=MontyDecoder)
    assert copy.maker == job.maker


@pytest.mark.parametrize("word", ["relax", "static"])
def test_job_names_stay_clear_of_name_filters(word: str) -> None:
    assert word not in PREDICT_JOB


@pytest.mark.usefixtures("predictor")
def test_frames_with_arrays_are_predicted_in_every_path(settings: E3RelaxSettings) -> None:
    """Stress and virial of extended XYZ are arrays in the properties: list of candidates, job, store and line."""
    path = Path(__file__).parents[1] / "field" / "info-arrays.extxyz"
    with CandidateList() as candidates:
        candidates.add(read_structures([path]))
        candidates.deduplicate()
        structures = [candidate.structure for candidate in candidates.iterate()]
    read = [item.structure for item in read_structures([path])]
    for given in (structures, read, read):
        chunk = MontyDecoder().process_decoded(run_job(PrerelaxMaker().make_chunk(given, ["a", "b"])))
        assert [document.verdict for document in chunk.predictions] == ["accept", "accept"]
        virial = json.loads(dump_line(chunk.predictions[0]))["structure"]["properties"]["REF_virial"]
        assert np.allclose(virial, np.arange(9).reshape(3, 3) / 10)
    assert len(read_predictions(settings)) == 2
