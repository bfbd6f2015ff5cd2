"""Engines of makers by their path: what is accepted, what is refused, and that all settings are content."""

from __future__ import annotations

import pytest
import yaml
from monty.json import MontyDecoder, jsanitize
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Kpoints

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines import get_engine
from e3relax_flows.engines.base import iterate_jobs
from e3relax_flows.engines.codes import find_codes
from e3relax_flows.engines.registry import recall_settings
from e3relax_flows.engines.vasp import VaspEngine
from e3relax_flows.schemas.engines import EngineSpec

RELAX = "atomate2.vasp.jobs.core:RelaxMaker"
DOUBLE = "atomate2.vasp.flows.core:DoubleRelaxMaker"
CELL_OPT = "atomate2.cp2k.jobs.core:CellOptMaker"
SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])

FILE = """
maker: atomate2.vasp.flows.core:DoubleRelaxMaker
name: tight
settings:
  relax_maker1:
    class: atomate2.vasp.jobs.core:TightRelaxMaker
    settings:
      run_vasp_kwargs: {max_errors: 2}
  relax_maker2:
    input_set_generator:
      user_incar_settings: {ENCUT: 520}
powerups:
  update_user_incar_settings: {EDIFF: 1.0e-7}
  update_user_kpoints_settings:
    kpoints_updates: {reciprocal_density: 100}
    name_filter: tight
"""


@pytest.mark.parametrize(
    ("path", "engine"),
    [
        (RELAX, "VaspEngine"),
        (DOUBLE, "VaspEngine"),
        (CELL_OPT, "Cp2kEngine"),
        ("atomate2.forcefields.jobs:ForceFieldRelaxMaker", "MlipEngine"),
        ("atomate2.ase.jobs:EmtRelaxMaker", "AseEngine"),
        ("e3relax_flows.engines.gpaw_jobs:GpawRelaxMaker", "GpawEngine"),
    ],
)
def test_the_code_of_a_maker_finds_its_engine(path, engine):
    found = get_engine(path, **({"force_field_name": "CHGNet"} if engine == "MlipEngine" else {}))
    assert (type(found).__name__, found.name) == (engine, path)
    again = MontyDecoder().process_decoded(jsanitize(found.as_dict(), strict=True))
    assert again.engine_id == found.engine_id


def test_a_file_names_makers_in_makers_and_powerups():
    engine = get_engine(EngineSpec.model_validate(yaml.safe_load(FILE)))
    first, second = engine.maker.relax_maker1, engine.maker.relax_maker2
    assert (engine.name, type(first).__name__) == ("tight", "TightRelaxMaker")
    assert first.run_vasp_kwargs == {"max_errors": 2}
    assert first.input_set_generator.user_incar_settings["EDIFF"] == 1e-7
    assert second.input_set_generator.user_incar_settings["ENCUT"] == 520
    assert first.input_set_generator.user_kpoints_settings == {"reciprocal_density": 100}
    assert second.input_set_generator.user_kpoints_settings == {}
    assert {maker.stop_children_kwargs["handle_unsuccessful"] for maker in (first, second)} == {False}


def test_objects_of_input_sets_are_made():
    grid = {"class": "pymatgen.io.vasp.inputs:Kpoints", "settings": {"style": "Monkhorst", "kpts": [[3, 3, 3]]}}
    engine = get_engine(CELL_OPT, input_set_generator={"user_kpoints_settings": grid})
    made = engine.maker.input_set_generator.user_kpoints_settings
    assert isinstance(made, Kpoints)
    assert made.kpts == [(3, 3, 3)]
    generator = "atomate2.vasp.sets.core:TightRelaxSetGenerator"
    named = get_engine(RELAX, input_set_generator=generator)
    assert type(named.maker.input_set_generator).__name__ == "TightRelaxSetGenerator"


def test_every_setting_is_content_and_the_name_is_not():
    plain = get_engine(RELAX)
    settings = [
        {"input_set_generator": {"user_incar_settings": {"ENCUT": 520}}},
        {"input_set_generator": {"user_incar_settings": {"ENCUT": 521}}},
        {"run_vasp_kwargs": {"max_errors": 1}},
        {"powerups": {"update_user_incar_settings": {"EDIFF": 1e-7}}},
    ]
    engines = [plain, *(get_engine(RELAX, **each) for each in settings)]
    assert len({engine.engine_id for engine in engines}) == len(engines)
    assert get_engine(EngineSpec(maker=RELAX, name="mine")).engine_id == plain.engine_id
    assert plain.engine_id == get_engine("vasp-single").engine_id
    assert [recall_settings(engine) for engine in engines[1:]] == settings


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        (
            "atomate2.vasp.jobs.core:RelaxMakr",
            {},
            r"atomate2.vasp.jobs.core .*'RelaxMakr'; .* RelaxMaker",
        ),
        ("atomate2.vasp.jobz:RelaxMaker", {}, r"'atomate2.vasp.jobz' of atomate2.vasp.jobz:RelaxMaker "),
        ("os:system", {"command": "touch called"}, r"os:system is not a jobflow maker; nothing was called"),
        ("subprocess:Popen", {"args": "touch called"}, "^engine: subprocess:Popen "),
        ("pymatgen.core:Lattice", {}, r"^engine: pymatgen.core:Lattice "),
        (
            RELAX,
            {"input_set_generatr": {}},
            r"RelaxMaker .* 'input_set_generatr'; .* input_set_gen",
        ),
        (RELAX, {"run_vasp_kwargs": 7}, r"RelaxMaker.run_vasp_kwargs: 7 "),
        (CELL_OPT, {"store_output_data": "yes"}, r"store_output_data: 'yes' .*bool"),
        (
            RELAX,
            {"input_set_generator": {"user_incar_setings": {}}},
            r"input_set_generator \(.*:RelaxSetGenerator\) .*'user_incar_setings'; .*user_incar_settings",
        ),
        (
            RELAX,
            {"input_set_generator": "subprocess:Popen"},
            r"input_set_generator: subprocess:Popen ",
        ),
        (
            RELAX,
            {"input_set_generator": {"user_incar_settings": {"@module": "os", "@callable": "getcwd"}}},
            r"user_incar_settings: .* @ .*class: module:Class",
        ),
        (RELAX, {"powerups": {"update_incar": {}}}, r"atomate2.vasp.powerups .*'update_incar'; .*update_user_incar"),
        (RELAX, {"powerups": {"deepcopy": {}}}, r"atomate2.vasp.powerups .*'deepcopy'"),
        ("e3relax_flows.prerelax.flow:Nothing", {}, r"prerelax.flow .*'Nothing'"),
        ("atomate2.qchem.jobs.core:OptMaker", {}, r"core:OptMaker: .*Q-Chem .*: VASP, CP2K, ABINIT"),
    ],
)
def test_wrong_paths_and_settings_are_errors_with_the_nearest_name(path, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((EngineError, MissingDependencyError), match=message):
        get_engine(path, **settings)
    assert not list(tmp_path.iterdir())


def test_a_vasp_engine_refuses_makers_of_other_codes():
    from atomate2.cp2k.jobs.core import CellOptMaker
    from atomate2.vasp.flows.core import DoubleRelaxMaker

    with pytest.raises(EngineError, match=r"core:CellOptMaker .*CellOptMaker of CP2K\); .*--engine"):
        VaspEngine.from_maker(CellOptMaker())
    mixed = DoubleRelaxMaker(relax_maker1=CellOptMaker())
    assert set(find_codes(mixed)) == {"VASP", "CP2K"}
    with pytest.raises(EngineError, match=r"core:DoubleRelaxMaker .*CellOptMaker of CP2K\); .*--engine"):
        VaspEngine.from_maker(mixed)


def test_jobs_of_another_code_are_made_with_what_was_asked_for():
    engine = get_engine(CELL_OPT, input_set_generator={"user_input_settings": {"cutoff": 300}})
    flow = engine.make(SILICON, prev_dir=None)
    (job,) = flow.jobs
    assert job.maker.input_set_generator.user_input_settings == {"cutoff": 300}
    assert type(job.maker).__name__ == "CountedCellOptMaker"
    assert job.maker.stop_children_kwargs == {"handle_unsuccessful": False}
    assert len(engine.collect_outputs(flow)) == 1


@pytest.mark.parametrize(("free", "isif"), [("all", 3), ("shape", 4), ("volume", 8), ("sites", 2)])
@pytest.mark.parametrize("name", ["vasp", "vasp-mp-gga", "vasp-matpes"])
def test_what_vasp_leaves_free_is_its_isif(name, free, isif):
    engine = get_engine(name, free=free)
    relaxations = [job.maker for job in iterate_jobs(engine.make(SILICON)) if "RelaxMaker" in type(job.maker).__name__]
    found = [maker.input_set_generator.get_input_set(SILICON, potcar_spec=True).incar["ISIF"] for maker in relaxations]
    assert found == [isif] * 2
    assert (engine.engine_id == get_engine(name).engine_id) == (free == "all")
    with pytest.raises(EngineError, match=r"free: .*'all', 'shape', 'volume' or 'sites'"):
        get_engine(name, free="cell")
