"""VaspEngine: atomate2's jobs, custodian and parsers for real, on a fake executable and on recorded runs."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atomate2.vasp.powerups import update_user_incar_settings
from fake_vasp_program import FIRST_CYCLE, NEXT_CYCLE, count_steps, relaxed_volume
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines import Engine, get_engine
from e3relax_flows.engines.vasp import VaspEngine

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "vasp"
NAMES = (
    "vasp",
    "vasp-single",
    "vasp-mp-gga",
    "vasp-mp-gga-static",
    "vasp-mp-metagga",
    "vasp-mp-metagga-static",
    "vasp-mp24",
    "vasp-mp24-static",
    "vasp-matpes",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Any], list[Any]]]:
    """Run an engine on a structure; give its documents as objects and as stored dictionaries."""

    def run_engine(engine: Engine, structure: Structure) -> tuple[list[Any], list[Any]]:
        monkeypatch.chdir(tmp_path)
        store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
        flow = engine.make(structure)
        run_locally(flow, store=store, create_folders=True, raise_immediately=True, log=False)
        references = engine.collect_outputs(flow)
        stored = {document["uuid"]: document["output"] for document in store.query({})}
        objects = [ref.resolve(store) if ref.uuid in stored else None for ref in references]
        return objects, [stored.get(ref.uuid) for ref in references]

    return run_engine


def interleaved_salt(factor: float) -> Structure:
    """Rock salt at `factor` times the fake VASP's volume, its sites written Na Cl Na Cl ..."""
    symbols = ["Na", "Cl"] * 4
    edge = (factor * relaxed_volume(symbols)) ** (1 / 3)
    cations = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    sites = [site for cation in cations for site in (cation, [cation[0] + 0.5, cation[1], cation[2]])]
    return Structure(Lattice.cubic(edge), symbols, sites)


@pytest.mark.usefixtures("fake_vasp")
def test_fake_run_of_the_mp_flow_gives_start_end_and_steps(run):
    start = interleaved_salt(1.1)
    engine = get_engine("vasp-mp-gga")
    objects, dictionaries = run(engine, start)
    result = engine.read(objects)
    first = count_steps(start)
    assert first == 5  # 0.0953 · 0.3^4 is the first below 0.001
    assert result.n_ionic_steps == first + 1
    assert result.n_electronic_steps == FIRST_CYCLE + (first - 1) * NEXT_CYCLE + FIRST_CYCLE
    assert result.initial.volume == pytest.approx(start.volume, rel=1e-6)
    assert result.relaxed.volume == pytest.approx(relaxed_volume(["Na", "Cl"] * 4), rel=1e-3)
    assert result.energy == pytest.approx(-40.0, abs=1e-3)
    assert result.wall_time_s == pytest.approx(0.5 * result.n_electronic_steps)
    assert (result.converged, result.functional, result.code, result.is_dft) == (True, "PBE", "VASP", True)
    # the MP input set sorts by element; the result keeps VASP's order at both ends
    assert [site.specie.symbol for site in result.initial] == ["Na"] * 4 + ["Cl"] * 4
    assert [site.specie.symbol for site in result.relaxed] == ["Na"] * 4 + ["Cl"] * 4
    assert Path(result.dir_name.split(":")[-1]).is_dir()

    again = engine.read(dictionaries)
    assert again.model_dump(exclude={"initial", "relaxed"}) == result.model_dump(exclude={"initial", "relaxed"})
    assert again.relaxed.volume == pytest.approx(result.relaxed.volume, rel=1e-12)


@pytest.mark.usefixtures("fake_vasp")
def test_nearer_start_takes_fewer_steps(run):
    engine = get_engine("vasp-single")
    counts = [engine.read(run(engine, interleaved_salt(factor))[0]).n_ionic_steps for factor in (1.2, 1.004)]
    assert counts == [6, 3]


@pytest.mark.usefixtures("fake_vasp")
def test_unconverged_run_keeps_its_document_and_the_flow_goes_on(run):
    from atomate2.vasp.jobs.base import BaseVaspMaker

    def limit(engine: VaspEngine) -> VaspEngine:
        maker = engine.maker.update_kwargs({"run_vasp_kwargs": {"handlers": ()}}, class_filter=BaseVaspMaker)
        for nested in (maker.relax_maker1, maker.relax_maker2):
            nested.input_set_generator.user_incar_settings["NSW"] = 3
        return VaspEngine.from_maker(maker)

    engine = limit(get_engine("vasp"))
    far, near = run(engine, interleaved_salt(2.0))[0], run(engine, interleaved_salt(1.02))[0]
    result = engine.read(far)
    assert [document.state.value for document in far] == ["failed", "failed"]
    assert (result.converged, result.n_ionic_steps) == (False, 6)
    assert result.relaxed.volume / relaxed_volume(["Na", "Cl"] * 4) == pytest.approx(2.0 ** (0.3**4), rel=1e-3)
    # three steps were not enough for the first relaxation, but the second ended it
    assert [document.state.value for document in near] == ["failed", "successful"]
    assert engine.read(near).converged


@pytest.mark.usefixtures("fake_vasp")
def test_start_is_the_true_one_when_custodian_restarts_from_contcar(run):
    engine = get_engine("vasp-single")
    engine.maker.input_set_generator.user_incar_settings["NSW"] = 4
    start = interleaved_salt(1.5)
    document = run(engine, start)[0][0]
    assert document.custodian[0].corrections, "custodian was meant to restart the run"
    assert document.input.structure.volume < 1.2 * document.structure.volume  # what VASP saw last
    assert engine.read([document]).initial.volume == pytest.approx(start.volume, rel=1e-6)


@pytest.mark.usefixtures("fake_vasp")
def test_single_points_count_as_no_ionic_steps(run):
    engine = get_engine("vasp-mp-gga-static")
    objects, _ = run(engine, interleaved_salt(1.1))
    result = engine.read(objects)
    assert len(objects) == 3
    assert str(objects[2].task_type.value) == "Static"
    assert result.n_ionic_steps == 6
    assert result.energy == objects[2].output.energy
    without = engine.read([*objects[:2], None])
    assert (without.converged, without.energy) == (False, objects[1].output.energy)


def test_missing_documents_are_errors_that_say_so():
    engine = get_engine("vasp")
    with pytest.raises(EngineError, match=r" 2 VASP .* \(found: no document\)"):
        engine.read([None, None])
    with pytest.raises(EngineError, match="first VASP "):
        engine.read([None, {"task_type": "Structure Optimization"}])
    with pytest.raises(EngineError, match="found: Static"):
        engine.read([{"task_type": "Static"}])


@pytest.mark.parametrize("name", NAMES)
def test_every_relax_maker_keeps_unconverged_documents(name):
    engine = get_engine(name)
    flow = engine.make(interleaved_salt(1.0))
    makers = [maker for maker in _list_makers(flow) if hasattr(maker, "run_vasp_kwargs")]
    assert len(makers) == len(engine.collect_outputs(flow)) >= 1
    assert {maker.stop_children_kwargs["handle_unsuccessful"] for maker in makers} == {False}
    assert type(engine).from_dict(engine.as_dict()).engine_id == engine.engine_id


def test_user_choice_for_unconverged_runs_is_kept():
    from atomate2.vasp.jobs.base import BaseVaspMaker

    engine = get_engine("vasp")
    strict = {"stop_children_kwargs": {"handle_unsuccessful": "error"}}
    maker = engine.maker.update_kwargs(strict, class_filter=BaseVaspMaker)
    again = VaspEngine.from_maker(maker, name="strict")
    assert again.maker.relax_maker1.stop_children_kwargs == {"handle_unsuccessful": "error"}
    assert again.engine_id != engine.engine_id


def test_engine_ids_differ_between_settings_and_not_between_names():
    ids = {name: get_engine(name).engine_id for name in NAMES}
    assert len(set(ids.values())) == len(NAMES)
    assert VaspEngine.from_maker(get_engine("vasp").maker, name="mine").engine_id == ids["vasp"]


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded VASP runs are not at {RECORDED}")
@pytest.mark.parametrize(
    ("name", "folders", "initial", "relaxed", "ionic", "functional"),
    [
        (
            "vasp-mp-gga",
            {"MP GGA relax 1": "Si_mp_gga_relax/GGA_Relax_1", "MP GGA relax 2": "Si_mp_gga_relax/GGA_Relax_2"},
            40.3295,
            40.9167,
            4,
            "PBE",
        ),
        (
            "vasp",
            {"relax 1": "Si_double_relax/relax_1", "relax 2": "Si_double_relax/relax_2"},
            40.8883,
            40.8883,
            2,
            "PBE",
        ),
    ],
)
def test_recorded_runs_are_read(run, monkeypatch, name, folders, initial, relaxed, ionic, functional):
    from atomate2.utils.testing.vasp import monkeypatch_vasp

    engine = get_engine(name)
    poscar = RECORDED / next(iter(folders.values())) / "inputs" / "POSCAR.gz"
    with gzip.open(poscar, "rt") as file:
        start = Poscar.from_str(file.read()).structure
    for set_folders in monkeypatch_vasp(monkeypatch, RECORDED, nelect=8):
        checks = {job: {"check_inputs": ("kpoints", "potcar"), "incar_settings": ()} for job in folders}
        set_folders(folders, checks)
        objects, dictionaries = run(engine, start)
    for documents in (objects, dictionaries):
        result = engine.read(documents)
        assert result.initial.volume == pytest.approx(initial, abs=1e-3)
        assert result.relaxed.volume == pytest.approx(relaxed, abs=1e-3)
        assert (result.n_ionic_steps, result.converged, result.functional) == (ionic, True, functional)
    first = engine.read(objects[:1])
    if name == "vasp-mp-gga":
        assert (first.n_ionic_steps, first.n_electronic_steps) == (3, 18)
        assert result.energy == pytest.approx(-10.84145656)
        assert result.n_electronic_steps == 28


def _list_makers(flow: Any) -> list[Any]:
    return [maker for node in flow.jobs for maker in (_list_makers(node) if hasattr(node, "jobs") else [node.maker])]


@pytest.mark.usefixtures("fake_vasp")
@pytest.mark.parametrize(("continuations", "runs", "converged"), [(0, 1, False), (1, 2, False), (4, 4, True)])
def test_an_unconverged_run_is_continued_from_its_end(run, continuations, runs, converged):
    from atomate2.vasp.jobs.base import BaseVaspMaker

    engine = get_engine("vasp-single", continuations=continuations)
    engine.maker = engine.maker.update_kwargs({"run_vasp_kwargs": {"handlers": ()}}, class_filter=BaseVaspMaker)
    engine.maker.input_set_generator.user_incar_settings["NSW"] = 3
    start = interleaved_salt(2.0)
    result = engine.read(run(engine, start)[0])
    # each step leaves 0.3 of the logarithm of the volume ratio, and stops below 0.001: six steps are needed
    steps = 3 * runs if not converged else count_steps(start) + runs - 1
    assert (result.converged, result.n_ionic_steps) == (converged, steps)
    assert result.initial.volume == pytest.approx(start.volume, rel=1e-6)
    same = get_engine("vasp-single", continuations=continuations).engine_id == get_engine("vasp-single").engine_id
    assert same == (continuations == 0)


def test_a_flow_that_ends_with_a_static_cannot_be_continued():
    engine = get_engine("vasp-mp-gga-static", continuations=1)
    with pytest.raises(EngineError, match=r"'MP GGA static', .*continuations=0"):
        engine.make(interleaved_salt(1.0))


@pytest.mark.parametrize(
    ("name", "functional"),
    [
        ("vasp", "PBEsol"),
        ("vasp-single", "PBEsol"),
        ("vasp-mp-gga", "PBE"),
        ("vasp-mp-gga-static", "PBE"),
        ("vasp-mp-metagga", "r2SCAN"),
        ("vasp-mp24-static", "r2SCAN"),
        ("vasp-matpes", "PBE"),  # only its single points are of r2SCAN
    ],
)
def test_an_engine_knows_the_functional_of_its_last_relaxation(name, functional):
    assert get_engine(name).functional == functional


def test_settings_of_the_user_change_the_functional():
    maker = update_user_incar_settings(get_engine("vasp-single").maker, {"GGA": "PE", "IVDW": 12, "PSTRESS": 100})
    assert VaspEngine.from_maker(maker).functional == "PBE+D3-BJ at 10 GPa"
    unnamed = update_user_incar_settings(get_engine("vasp-single").maker, {"IVDW": 7})
    assert VaspEngine.from_maker(unnamed).functional is None
    assert VaspEngine.from_maker(get_engine("vasp-mp-gga-static").maker.static_maker).functional is None
