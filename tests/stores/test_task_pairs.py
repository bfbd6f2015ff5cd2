"""PairBuilder on task documents written by hand: who continues whom, from where it truly began, what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from maggma.stores import MemoryStore
from pymatgen.core import Structure
from task_documents import MINIMUM, build_salt, gpaw_output, job_document, potential_output, relax_salt, vasp_output

from e3relax_flows.core.ids import identify_structure
from e3relax_flows.data.pairbuilder import PairBuilder
from e3relax_flows.data.stores import dump_document
from e3relax_flows.engines.taskreader import TaskReader
from e3relax_flows.schemas.pairs import BuildRecord, Freedom, PairDoc
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Verdict, identify_prediction

RAW, PREDICTED, NEAR, RELAXED = build_salt(5.9), build_salt(5.65), build_salt(5.63), build_salt(MINIMUM)


class Bench:
    """Stores in memory, and the builder over them."""

    def __init__(self) -> None:
        self.tasks, self.pairs, self.records = MemoryStore(), MemoryStore(), MemoryStore()
        self.predictions = MemoryStore(key="prediction_id")
        self.tasks.key = "uuid"
        for store in (self.tasks, self.pairs, self.records, self.predictions):
            store.connect()

    def add(self, output: Any, uuid: str, minute: int = 0, **more: Any) -> None:
        self.tasks.update([job_document(output, uuid, minute, **more)], key=["uuid", "index"])

    def build(self, **options: Any) -> dict[str, int]:
        builder = PairBuilder(
            self.pairs, self.records, self.tasks, TaskReader(), predictions=self.predictions, **options
        )
        builder.connect()
        builder.update_targets([builder.process_item(item) for item in builder.get_items()])
        return dict(builder.counts)

    def list_pairs(self) -> list[PairDoc]:
        found = [PairDoc.model_validate(raw | {"_id": None}) for raw in self.pairs.query({})]
        return sorted(found, key=lambda pair: pair.origin_id)

    def list_records(self) -> dict[str, BuildRecord]:
        return {raw["origin_id"]: BuildRecord.model_validate(raw) for raw in self.records.query({})}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def predict(initial: Structure = RAW, predicted: Structure = PREDICTED, **update: Any) -> PredictionDoc:
    structure_id = identify_structure(initial)
    content = {
        "prediction_id": identify_prediction(structure_id, "m-1", PredictOptions()),
        "structure_id": structure_id,
        "initial": initial,
        "structure": predicted,
        "verdict": Verdict.ACCEPT,
        "model_id": "m-1",
        "options": PredictOptions(),
    }
    return PredictionDoc(**(content | update))


def a_of(structure: Structure) -> float:
    """Lattice constant of the conventional cell, Å."""
    return float((4 * structure.volume) ** (1 / 3))


def test_a_single_relaxation_is_a_pair(bench):
    bench.add(vasp_output(RAW, RELAXED), "v-1", hosts=["f", "g"], metadata={"material_id": "mp-22862"})
    assert bench.build(source="groups own") == {"new": 1}
    (pair,) = bench.list_pairs()
    assert (a_of(pair.initial), a_of(pair.relaxed)) == (pytest.approx(5.9), pytest.approx(MINIMUM))
    assert (pair.origin_id, pair.id, pair.source) == ("v-1", "mp-22862", "groups own")
    assert (pair.start_kind, pair.model_id, pair.functional) == ("raw", None, "PBE")
    assert (pair.energy, pair.n_ionic_steps, pair.n_electronic_steps) == (-6.75, 2, 13)
    assert (pair.hosts, pair.job_uuids, pair.dir_names) == (["f", "g"], ["v-1"], ["host:/scratch/run"])
    assert pair.free.is_full


def test_two_relaxations_of_a_flow_are_one_pair(bench):
    bench.add(vasp_output(RAW, NEAR), "v-1", 1, hosts=["f"], name="relax 1")
    bench.add(vasp_output(NEAR, RELAXED, output__energy=-6.8), "v-2", 2, hosts=["f"], name="relax 2")
    assert bench.build() == {"new": 1}
    (pair,) = bench.list_pairs()
    assert (a_of(pair.initial), a_of(pair.relaxed)) == (pytest.approx(5.9), pytest.approx(MINIMUM))
    assert (pair.energy, pair.n_ionic_steps, pair.job_uuids) == (-6.8, 4, ["v-1", "v-2"])
    assert bench.build() == {}


def test_sites_in_another_order_in_the_second_document_are_put_right(bench):
    mixed = RAW * (2, 1, 1)
    assert [site.specie.symbol for site in mixed] == ["Na", "Na", "Cl", "Cl"]
    first = Structure.from_sites([mixed[i] for i in (0, 2, 1, 3)])  # Na Cl Na Cl
    middle = Structure(first.lattice.scale(0.9 * first.volume), first.species, first.frac_coords)
    last = middle.get_sorted_structure()
    end = last.copy()
    end.translate_sites([1], [0, 0, 0.04])
    moved = [i for i, site in enumerate(middle) if site.is_periodic_image(last[1])]
    bench.add(vasp_output(first, middle), "v-1", 1, hosts=["f"], name="relax 1")
    bench.add(vasp_output(last, end), "v-2", 2, hosts=["f"], name="relax 2")
    assert bench.build() == {"new": 1}
    (pair,) = bench.list_pairs()
    assert [site.specie.symbol for site in pair.relaxed] == ["Na", "Cl", "Na", "Cl"]
    steps = (pair.relaxed.frac_coords - pair.initial.frac_coords)[:, 2]
    assert steps == pytest.approx([0.03 if i in moved else -0.01 for i in range(4)])


def test_a_pair_of_relaxations_that_is_half_there_waits_for_the_other(bench):
    bench.add(vasp_output(RAW, NEAR), "v-1", 1, hosts=["f"], name="relax 1")
    assert bench.build() == {"failed": 1}
    assert "follows 'relax 1' left no document" in bench.list_records()["v-1"].message
    assert bench.build() == {}
    bench.add(vasp_output(NEAR, RELAXED), "v-2", 2, hosts=["f"], name="relax 2")
    assert bench.build() == {"new": 1}
    assert bench.list_pairs()[0].job_uuids == ["v-1", "v-2"]


def test_a_second_half_alone_has_no_known_start(bench):
    bench.add(vasp_output(NEAR, RELAXED), "v-2", 2, hosts=["f"], name="relax 2")
    assert bench.build() == {"start_unknown": 1}
    bench.add(vasp_output(RAW, NEAR), "v-1", 1, hosts=["f"], name="relax 1")
    assert bench.build() == {"new": 1, "duplicate": 1}
    records = bench.list_records()
    assert records["v-1"].pair_id == bench.list_pairs()[0].pair_id
    assert records["v-2"].message == "a part of calculation v-1"
    assert bench.build() == {}


def test_a_second_run_touches_nothing(bench):
    for n in range(5):
        bench.add(vasp_output(build_salt(5.8 + 0.1 * n), RELAXED), f"v-{n}", n, hosts=[f"f-{n}"])
    bench.add(vasp_output(RAW, RELAXED, state="failed"), "v-9", hosts=["f-9"])
    assert bench.build() == {"new": 5, "unconverged": 1}
    before = list(bench.pairs.query({})), list(bench.records.query({}))
    written = []
    for store in (bench.pairs, bench.records):
        store.update = lambda *args, **_: written.append(args)
    assert bench.build() == {}
    assert written == []
    assert (list(bench.pairs.query({})), list(bench.records.query({}))) == before
    # even when all is built again, nothing is written that has not changed
    assert bench.build(rebuild=True) == {"unchanged": 6}
    assert written == []


def test_a_job_that_ran_again_replaces_its_pair(bench):
    bench.add(vasp_output(RAW, NEAR), "v-1", 1)
    assert bench.build() == {"new": 1}
    (first,) = bench.list_pairs()
    bench.add(vasp_output(RAW, RELAXED), "v-1", 2, index=2)
    assert bench.build() == {"replaced": 1}
    pairs = {pair.pair_id: pair for pair in bench.list_pairs()}
    assert len(pairs) == 2
    current = bench.list_records()["v-1"].pair_id
    assert pairs[first.pair_id].superseded_by == current != first.pair_id
    assert pairs[current].superseded_by is None
    assert a_of(pairs[current].relaxed) == pytest.approx(MINIMUM)
    assert bench.build() == {}
    # the next one does not converge, and the one after it is as the first
    bench.add(vasp_output(RAW, RELAXED, state="failed"), "v-1", 3, index=3)
    assert bench.build() == {"unconverged": 1}
    pairs = {pair.pair_id: pair for pair in bench.list_pairs()}
    assert pairs[current].superseded_by == "left_out:unconverged"
    bench.add(vasp_output(RAW, NEAR), "v-1", 4, index=4)
    assert bench.build() == {"new": 1}
    pairs = {pair.pair_id: pair for pair in bench.list_pairs()}
    assert pairs[first.pair_id].superseded_by is None
    assert len(pairs) == 2


def test_a_job_that_replaced_itself_is_no_calculation(bench):
    bench.add(vasp_output(RAW, NEAR), "v-1", 1)
    bench.add(None, "v-1", 2, index=2)
    assert bench.build() == {}


@pytest.mark.parametrize(
    ("update", "reason", "words"),
    [
        ({"state": "failed"}, "unconverged", "VASP relaxation of Na1 Cl1 did not converge"),
        ({"task_type": "Unrecognized", "input__parameters": {"IBRION": 5, "NSW": 1}}, "not_a_relaxation", "none of"),
        ({"task_type": "Static"}, "not_a_relaxation", "none of these calculations"),
        ({"run_type": None}, "unreadable", "which functional"),
        ({"structure": None, "output__structure": None}, "unreadable", "no relaxed structure"),
        ({"structure": {"sites": 3}}, "unreadable", "not whole"),
        ({"structure": relax_salt(build_salt(5, ("K", "Cl"))).as_dict()}, "sites_differ", "ends with K1 Cl1"),
        (
            {"orig_inputs": None, "custodian": [{"corrections": [{"errors": ["brmix"]}]}]},
            "start_unknown",
            "custodian mended",
        ),
        ({"vasp_version": None, "calcs_reversed": []}, "not_a_relaxation", "VASP, GPAW or a force field"),
    ],
)
def test_what_is_left_out_has_a_reason(bench, update, reason, words):
    bench.add(vasp_output(RAW, RELAXED, **update), "v-1")
    assert bench.build() == {reason: 1}
    assert bench.list_pairs() == []
    record = bench.list_records()["v-1"]
    assert record.reason == reason
    assert words in record.message
    assert bench.build() == {}


@pytest.mark.parametrize(
    ("update", "free"),
    [
        ({}, Freedom()),
        ({"input__parameters": {"ISIF": 2}}, Freedom(volume=False, shape=False)),
        (
            {"input__parameters": {"ISIF": 4, "IBRION": 2, "NSW": 99}, "task_type": "Unrecognized"},
            Freedom(volume=False),
        ),
        ({"input__parameters": {"ISIF": 7}}, Freedom(shape=False, sites=False)),
        ({"input__parameters": None, "input__incar": {"ISIF": 8}}, Freedom(shape=False)),
        ({"input": None, "orig_inputs__incar": {"ISIF": 6}}, Freedom(sites=False)),
        ({"input__parameters": {"ISIF": 3, "LATTICE_CONSTRAINTS": [True, True, False]}}, Freedom(shape=False)),
        ({"input": None, "orig_inputs__incar": None}, Freedom()),  # seen: the lattice has changed
    ],
)
def test_isif_says_what_was_free(bench, update, free):
    bench.add(vasp_output(RAW, RELAXED, **update), "v-1")
    assert bench.build() == {"new": 1}
    assert bench.list_pairs()[0].free == free


def test_the_last_of_two_relaxations_says_what_was_free(bench):
    held = {"ISIF": 2}
    bench.add(vasp_output(RAW, RAW, input__parameters=held), "v-1", 1, hosts=["f"], name="relax 1")
    bench.add(vasp_output(RAW, RELAXED), "v-2", 2, hosts=["f"], name="relax 2")
    other = relax_salt(RAW, 6.3)
    bench.add(vasp_output(other, NEAR), "w-1", 3, hosts=["g"], name="relax 1")
    bench.add(vasp_output(NEAR, NEAR, input__parameters=held), "w-2", 4, hosts=["g"], name="relax 2")
    assert bench.build() == {"new": 2}
    assert {pair.origin_id: pair.free.is_full for pair in bench.list_pairs()} == {"v-1": True, "w-1": False}


def test_staged_functionals_are_told_and_hubbard_u_is_not_mixed(bench):
    bench.add(vasp_output(RAW, NEAR, run_type="PBEsol"), "v-1", 1, hosts=["f"], name="MP pre-relax 1")
    bench.add(vasp_output(NEAR, RELAXED, run_type="r2SCAN"), "v-2", 2, hosts=["f"], name="MP meta-GGA relax 2")
    other = relax_salt(RAW, 6.3)
    bench.add(vasp_output(other, NEAR, run_type="GGA"), "w-1", 3, hosts=["g"], name="relax 1")
    bench.add(vasp_output(NEAR, RELAXED, run_type="GGA+U"), "w-2", 4, hosts=["g"], name="relax 2")
    assert bench.build() == {"new": 1, "functionals_differ": 1}
    (pair,) = bench.list_pairs()
    assert (pair.functional, pair.functional_path) == ("r2SCAN", ["PBEsol", "r2SCAN"])
    assert "PBE then PBE+U" in bench.list_records()["w-1"].message


def test_other_codes_are_read_and_potentials_are_not_dft(bench):
    bench.add(potential_output(RAW, RELAXED), "p-1", hosts=["f"])
    bench.add(gpaw_output(RAW, RELAXED), "q-1", hosts=["g"])
    static = potential_output(RAW, RAW)
    static["input"]["steps"] = 1
    bench.add(static, "p-2", hosts=["h"])
    cell = potential_output(RAW, RAW)
    cell["input"]["relax_cell"] = False
    bench.add(cell, "p-3", hosts=["i"])
    assert bench.build() == {"new": 3, "not_a_relaxation": 1}
    found = {pair.origin_id: pair for pair in bench.list_pairs()}
    assert [(pair.functional, pair.code, pair.is_dft) for pair in found.values()] == [
        ("CHGNet", "CHGNet", False),
        ("CHGNet", "CHGNet", False),
        ("PBE", "GPAW", True),
    ]
    assert found["p-3"].free == Freedom(volume=False, shape=False)
    assert (found["q-1"].n_ionic_steps, found["q-1"].n_electronic_steps) == (5, 40)


def test_dft_after_a_potential_begins_at_the_potentials_start(bench):
    bench.add(potential_output(RAW, NEAR), "p-1", 1, hosts=["f"], name="CHGNet relax")
    bench.add(vasp_output(NEAR, RELAXED), "v-1", 2, hosts=["f"], name="relax 2")
    assert bench.build() == {"new": 2}
    potential, dft = bench.list_pairs()
    assert (a_of(potential.initial), a_of(potential.relaxed)) == (pytest.approx(5.9), pytest.approx(5.63))
    assert (a_of(dft.initial), a_of(dft.relaxed)) == (pytest.approx(5.9), pytest.approx(MINIMUM))
    assert (dft.start_kind, dft.model_id, dft.is_dft, dft.n_ionic_steps) == ("predicted", "CHGNet", True, 2)
    assert dft.job_uuids == ["v-1"]


def test_two_relaxations_from_the_same_end_are_two_pairs_from_the_first_start(bench):
    bench.add(vasp_output(RAW, NEAR), "v-1", 1, hosts=["f"])
    bench.add(vasp_output(NEAR, RELAXED), "v-2", 2, hosts=["f"])
    bench.add(vasp_output(NEAR, build_salt(5.55), run_type="PBEsol"), "v-3", 3, hosts=["f"])
    assert bench.build() == {"new": 2}
    first, second = bench.list_pairs()
    assert (first.origin_id, a_of(first.initial), a_of(first.relaxed)) == (
        "v-1",
        pytest.approx(5.9),
        pytest.approx(MINIMUM),
    )
    assert (second.origin_id, a_of(second.initial), a_of(second.relaxed)) == (
        "v-3",
        pytest.approx(5.9),
        pytest.approx(5.55),
    )


def test_relaxations_that_do_not_continue_one_another_are_pairs_of_their_own(bench):
    for n, a in enumerate((5.9, 6.1, 6.3)):
        bench.add(vasp_output(build_salt(a), build_salt(5.62 + 0.03 * n)), f"v-{n}", n, hosts=["f"])
    assert bench.build() == {"new": 3}
    assert [round(a_of(pair.initial), 3) for pair in bench.list_pairs()] == [5.9, 6.1, 6.3]


def test_a_start_at_a_stored_prediction_gives_the_initial_structure(bench):
    bench.predictions.update([dump_document(predict())])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1")
    bench.add(vasp_output(build_salt(6.2), RELAXED), "v-2")
    assert bench.build() == {"new": 2}
    predicted, raw = bench.list_pairs()
    assert (a_of(predicted.initial), predicted.start_kind, predicted.model_id) == (
        pytest.approx(5.9),
        "predicted",
        "m-1",
    )
    assert predicted.prediction_id == predict().prediction_id
    assert (a_of(raw.initial), raw.start_kind, raw.model_id) == (pytest.approx(6.2), "raw", None)


def test_the_same_prediction_for_two_structures_leaves_the_start_unknown(bench):
    bench.predictions.update([dump_document(predict()), dump_document(predict(build_salt(6.3)))])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1")
    assert bench.build() == {"start_unknown": 1}
    assert "2 different initial structures" in bench.list_records()["v-1"].message


@pytest.mark.parametrize(
    ("kind", "start", "begins"),
    [("predicted", "predicted", PREDICTED), ("control", "control", RAW), ("initial", "raw", RAW)],
)
def test_metadata_name_the_prediction(bench, kind, start, begins):
    prediction = predict()
    bench.predictions.update([dump_document(prediction)])
    metadata = {"prediction_id": prediction.prediction_id, "start_kind": kind, "candidate": "salt"}
    bench.add(vasp_output(begins, RELAXED), "v-1", metadata=metadata, hosts=["f", "screen"])
    assert bench.build() == {"new": 1}
    (pair,) = bench.list_pairs()
    assert (a_of(pair.initial), pair.start_kind, pair.id, pair.source) == (pytest.approx(5.9), start, "salt", "screen")
    assert pair.model_id == ("m-1" if kind == "predicted" else None)


def test_a_prediction_that_is_nowhere_leaves_the_start_unknown_until_it_comes(bench):
    prediction = predict()
    metadata = {"prediction_id": prediction.prediction_id, "start_kind": "predicted"}
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1", metadata=metadata)
    # a control needs none
    bench.add(vasp_output(RAW, RELAXED), "v-2", metadata={**metadata, "start_kind": "control"})
    assert bench.build() == {"start_unknown": 1, "new": 1}
    assert prediction.prediction_id in bench.list_records()["v-1"].message
    assert bench.list_pairs()[0].start_kind == "control"
    assert bench.build() == {}
    bench.predictions.update([dump_document(prediction)])
    assert bench.build() == {"duplicate": 1}  # of the control, which ended at the same place
    assert bench.list_records()["v-1"].message == f"the same as pair {bench.list_pairs()[0].pair_id} of v-2"


def predict_job(prediction: PredictionDoc | None, **more: Any) -> dict[str, Any]:
    output = {"@class": "PrerelaxDoc", "prediction": dump_document(prediction) if prediction else None}
    return job_document(output, "e-1", 0, name="e3r predict", **more)


@pytest.mark.parametrize("hosts", [["f"], ["inner", "f"]])
def test_a_flow_that_predicted_begins_at_its_prediction(bench, hosts):
    """The document of the prediction job is enough; the prediction store is empty."""
    bench.tasks.update([predict_job(predict(), hosts=["f"])], key=["uuid", "index"])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1", 1, hosts=hosts, name="relax 2")
    assert bench.build() == {"new": 1}
    (pair,) = bench.list_pairs()
    assert (a_of(pair.initial), pair.start_kind, pair.model_id) == (pytest.approx(5.9), "predicted", "m-1")


def test_a_refused_prediction_hands_on_the_initial_structure(bench):
    bench.tasks.update([predict_job(predict(verdict=Verdict.REFUSE), hosts=["f"])], key=["uuid", "index"])
    bench.add(vasp_output(RAW, RELAXED), "v-1", 1, hosts=["f"])
    assert bench.build() == {"new": 1}
    assert (bench.list_pairs()[0].start_kind, bench.list_pairs()[0].model_id) == ("raw", None)


def test_a_flow_whose_prediction_is_lost_gives_no_pair(bench):
    bench.tasks.update([predict_job(None, hosts=["f"])], key=["uuid", "index"])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-1", 1, hosts=["f"])
    assert bench.build() == {"start_unknown": 1}
    assert "e-1 of its flow predicted" in bench.list_records()["v-1"].message


def test_a_start_that_is_neither_predicted_nor_initial_gives_no_pair(bench):
    bench.tasks.update([predict_job(predict(), hosts=["f"])], key=["uuid", "index"])
    bench.add(vasp_output(build_salt(6.4), RELAXED), "v-1", 1, hosts=["f"])
    assert bench.build() == {"start_unknown": 1}
    assert "neither at the predicted nor at the initial" in bench.list_records()["v-1"].message


def test_the_prediction_store_knows_the_flow_too(bench):
    """The job document is gone; the prediction remembers its flows."""
    bench.predictions.update([dump_document(predict(hosts=["f"]))])
    bench.add(vasp_output(build_salt(6.4), RELAXED), "v-1", 1, hosts=["f"])
    bench.add(vasp_output(PREDICTED, RELAXED), "v-2", 1, hosts=["f"])
    assert bench.build() == {"start_unknown": 1, "new": 1}
    assert bench.list_records()["v-1"].reason == "start_unknown"


def test_a_campaign_around_both_does_not_make_a_raw_start_predicted(bench):
    bench.tasks.update([predict_job(predict(), hosts=["one", "campaign"])], key=["uuid", "index"])
    bench.add(vasp_output(build_salt(6.2), RELAXED), "v-1", 1, hosts=["other", "campaign"])
    assert bench.build() == {"new": 1}
    assert (a_of(bench.list_pairs()[0].initial), bench.list_pairs()[0].start_kind) == (pytest.approx(6.2), "raw")


def test_documents_of_a_task_store_without_jobs_are_read(bench):
    output = vasp_output(RAW, RELAXED)
    bench.tasks.key = "task_id"
    bench.tasks.update([output | {"task_id": "mp-1", "task_label": "relax"}, output | {"task_id": "mp-2"}])
    assert bench.build() == {"new": 1, "duplicate": 1}
    assert bench.list_pairs()[0].origin_id == "mp-1"
    assert bench.build() == {}


def test_a_dry_run_counts_and_writes_nothing(bench):
    for uuid in ("v-1", "v-2"):
        bench.add(vasp_output(RAW, RELAXED), uuid)
    assert bench.build(is_dry=True) == {"new": 1, "duplicate": 1}
    assert (bench.pairs.count(), bench.records.count()) == (0, 0)


def test_one_broken_flow_costs_no_other(bench, monkeypatch):
    bench.add(vasp_output(RAW, RELAXED), "v-1")
    bench.add(vasp_output(build_salt(6.1), RELAXED), "v-2")
    original = TaskReader.read

    def read(self, document):
        if abs(document["orig_inputs"]["structure"]["lattice"]["volume"] - RAW.volume) < 1e-6:
            raise ZeroDivisionError("parser gone mad")
        return original(self, document)

    monkeypatch.setattr(TaskReader, "read", read)
    assert bench.build() == {"unreadable": 1, "new": 1}
    assert bench.list_records()["v-1"].message == "ZeroDivisionError: parser gone mad"
