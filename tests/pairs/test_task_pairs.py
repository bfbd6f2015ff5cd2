"""PairBuilder on task documents written by hand: who continues whom, from where it truly began, what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Structure
from task_bench import NEAR, RAW, RELAXED, Bench, a_of
from task_documents import (
    LDA_TITLES,
    MINIMUM,
    PBE_TITLES,
    build_salt,
    emmet_output,
    gpaw_output,
    potential_output,
    relax_salt,
    vasp_output,
)

from e3relax_flows.core.residues import GPA
from e3relax_flows.schemas.pairs import Freedom


@pytest.fixture
def bench() -> Bench:
    return Bench()


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
    assert "that follows 'relax 1'" in bench.list_records()["v-1"].message
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
        ({"run_type": None}, "unreadable", "the VASP document does not name the functional"),
        ({"run_type": "HFCus"}, "unreadable", "the run type HFCus names no functional"),
        ({"input__incar": {"IMAGES": 5}}, "conditions", "the VASP run has IMAGES = 5: an image of a path (NEB)"),
        ({"output__energy": float("nan")}, "unreadable", "has the energy nan"),
        ({"structure": None, "output__structure": None}, "unreadable", "no relaxed structure"),
        ({"structure": {"sites": 3}}, "unreadable", "is incomplete"),
        ({"structure": relax_salt(build_salt(5, ("K", "Cl"))).as_dict()}, "sites_differ", "ends with K1 Cl1"),
        (
            {"orig_inputs": None, "custodian": [{"corrections": [{"errors": ["brmix"]}]}]},
            "start_unknown",
            "custodian fixed",
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


@pytest.mark.parametrize("release", ["0.88", "0.87", "0.84", "0.70"])
def test_what_a_store_gives_of_a_document_is_enough_for_its_label(bench, release):
    """The builder asks for parts of documents: names, conditions and starts are in them for every release of emmet."""
    wanted = [
        ({}, PBE_TITLES),
        ({"GGA": "PS", "PSTRESS": 100}, PBE_TITLES),
        ({"IVDW": 12}, PBE_TITLES),
        ({}, LDA_TITLES),
    ]
    for n, (incar, titles) in enumerate([*wanted, ({"LSOL": True}, PBE_TITLES)]):
        bench.add(emmet_output(release, RAW, RELAXED, incar, titles), f"v-{n}", hosts=[f"f-{n}"])
    assert bench.build() == {"new": 4, "conditions": 1}
    assert [pair.functional for pair in bench.list_pairs()] == ["PBE", "PBEsol at 10 GPa", "PBE+D3-BJ", "LDA"]
    assert {round(a_of(pair.initial), 6) for pair in bench.list_pairs()} == {5.9}


def test_gpaw_and_potentials_are_labelled_with_their_conditions(bench):
    pressed = potential_output(RAW, RELAXED)
    pressed["input"]["relax_kwargs"] = {"filter_kwargs": {"scalar_pressure": 20 * GPA, "hydrostatic_strain": True}}
    bench.add(pressed, "p-1", hosts=["a"])
    bench.add(gpaw_output(RAW, RELAXED, settings={"xc": "PBE", "setups": {"Na": ":p,2.0"}}), "q-1", hosts=["b"])
    bench.add(gpaw_output(RAW, RELAXED, settings={"xc": {"name": "R2SCAN"}}), "q-2", hosts=["c"])
    bench.add(gpaw_output(RAW, RELAXED, settings={"xc": "PBE", "charge": 1}), "q-3", hosts=["d"])
    moving = potential_output(RAW, RELAXED)
    moving["output"]["stress"] = (90 * np.eye(3)).tolist()
    bench.add(moving, "p-2", hosts=["e"])
    assert bench.build() == {"new": 3, "conditions": 1, "unconverged": 1}
    pairs = {pair.origin_id: pair for pair in bench.list_pairs()}
    assert [pair.functional for pair in pairs.values()] == ["CHGNet at 20 GPa", "PBE+U", "r2SCAN"]
    assert pairs["p-1"].free == Freedom(shape=False)


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
