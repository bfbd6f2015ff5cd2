"""Functional and conditions of VASP runs: the same for folders and for task documents of every release of emmet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import fake_vasp_program
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.io.vasp import Poscar
from task_documents import LDA_TITLES, PBE_TITLES, PW91_TITLES, build_salt, emmet_output, relax_salt, vasp_output

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.engines.potcars import describe_potcar, find_functional, read_potcar_text
from e3relax_flows.engines.task_reader import TaskReader
from e3relax_flows.engines.vasp_folders import read_vasp_folder
from e3relax_flows.engines.vasp_functionals import (
    CONDITIONS,
    SETTINGS,
    VaspRun,
    list_conditions,
    name_functional,
    tidy_settings,
)
from e3relax_flows.schemas.outcomes import RelaxationResult
from e3relax_flows.schemas.pairs import Freedom

RELEASES = ("0.88", "0.87", "0.84", "0.70")
OPTB88 = {"GGA": "BO", "LUSE_VDW": True, "AGGAC": 0.0, "PARAM1": 0.1833333333, "PARAM2": 0.22}
REV_DF2 = {"GGA": "MK", "LUSE_VDW": True, "AGGAC": 0, "PARAM1": 0.1234, "PARAM2": 0.711357, "ZAB_VDW": -1.8867}

NAMED: list[tuple[dict[str, Any], str]] = [
    ({}, "PBE"),
    ({"PSTRESS": 500.0}, "PBE at 50 GPa"),
    ({"PSTRESS": -20}, "PBE at -2 GPa"),
    ({"IVDW": 12}, "PBE+D3-BJ"),
    ({"IVDW": 11, "LDAU": True}, "PBE+U+D3"),
    ({"IVDW": 20}, "PBE+TS"),
    ({"LVDW": True}, "PBE+D2"),
    ({"GGA": "91"}, "PW91"),
    ({"GGA": "Ps"}, "PBEsol"),
    ({"GGA": "RP"}, "RPBE"),
    ({"GGA": "RE"}, "revPBE"),
    ({"GGA": "AM"}, "AM05"),
    ({"GGA": "CA"}, "LDA"),
    ({"METAGGA": "R2SCAN"}, "r2SCAN"),
    ({"METAGGA": "Scan", "GGA": "PE"}, "SCAN"),
    ({"METAGGA": "RSCAN"}, "rSCAN"),
    ({"METAGGA": "R2SCAN", "IVDW": 13}, "r2SCAN+D4"),
    ({"METAGGA": "SCAN", "LUSE_VDW": True, "BPARAM": 15.7}, "SCAN-rVV10"),
    (OPTB88, "optB88-vdW"),
    (REV_DF2, "rev-vdW-DF2"),
    ({"GGA": "ML", "LUSE_VDW": True, "AGGAC": 0.0, "ZAB_VDW": -1.8867}, "vdW-DF2"),
    ({"LHFCALC": True}, "PBE0"),
    ({"LHFCALC": True, "HFSCREEN": 0.2}, "HSE06"),
    ({"LHFCALC": True, "HFSCREEN": 0.207}, "HSE06"),
    ({"LHFCALC": True, "HFSCREEN": 0.2, "GGA": "PS"}, "HSEsol"),
    ({"LHFCALC": True, "GGA": "B3", "AEXX": 0.2, "AGGAX": 0.72, "AGGAC": 0.81, "ALDAC": 0.19}, "B3LYP"),
    ({"LSORBIT": True, "LNONCOLLINEAR": True}, "PBE+SOC"),
    ({"IMAGES": 0, "EFIELD": 0.0, "LDIPOL": False, "NUPDOWN": -1, "METAGGA": "--", "IVDW": 0}, "PBE"),
]
UNNAMED: list[tuple[dict[str, Any], str]] = [
    ({"GGA": "LI", "LIBXC1": "GGA_X_PBE"}, "libxc"),
    ({"GGA": "XX"}, "GGA = XX"),
    ({"METAGGA": "MBJ"}, "without an energy"),
    ({"METAGGA": "LAK"}, "METAGGA = LAK"),
    ({"LHFCALC": True, "AEXX": 0.4}, "AEXX = 0.4"),
    ({"LHFCALC": True, "METAGGA": "SCAN"}, "hybrid of METAGGA"),
    ({"LUSE_VDW": True}, "LUSE_VDW"),
    (OPTB88 | {"PARAM2": 0.3}, "LUSE_VDW over BO"),
    ({"METAGGA": "SCAN", "LUSE_VDW": True}, "LUSE_VDW over SCAN"),
    ({"IVDW": 5}, "IVDW = 5"),
    ({"IVDW": 12, "VDW_S8": 0.4}, "VDW_S8"),
]
MOVED: list[tuple[dict[str, Any], str]] = [
    ({"IMAGES": 5}, "NEB"),
    ({"ICHAIN": 2}, "VTST"),
    ({"EFIELD": 0.1}, "electric field"),
    ({"EFIELD_PEAD": [0.0, 0.0, 0.01]}, "electric field"),
    ({"LDIPOL": True, "IDIPOL": 3}, "dipole correction"),
    ({"NELECT": 15.0}, "charge"),
    ({"LNONCOLLINEAR": True}, "LNONCOLLINEAR"),
    ({"I_CONSTRAINED_M": 1}, "constrained moments"),
    ({"NUPDOWN": 2}, "fixed total moment"),
    ({"LSOL": True}, "implicit solvent"),
    ({"ML_LMLFF": True}, "machine-learned"),
    ({"VCA": [1.0, 0.5]}, "mixed species"),
    ({"ISMEAR": -2}, "fixed occupations"),
    ({"POTIM": 0.0}, "steps of no length"),
]


def read_document(release: str, incar: dict[str, Any], titles: Any = PBE_TITLES) -> RelaxationResult:
    start = build_salt()
    result = TaskReader().read(emmet_output(release, start, relax_salt(start), incar, titles))
    assert result is not None
    return result


def write_folder(folder: Path, incar: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a run of the fake VASP."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    start = build_salt()
    Poscar(start).write_file("POSCAR")
    settings = {"IBRION": 2, "NSW": 50, "ISIF": 3} | incar
    lines = [
        f"{key} = {' '.join(map(str, value)) if isinstance(value, list) else value}" for key, value in settings.items()
    ]
    Path("INCAR").write_text("\n".join(lines))
    fake_vasp_program.main()
    return folder


@pytest.mark.parametrize("release", RELEASES)
def test_documents_of_every_release_are_read_from_their_true_start(release):
    result = read_document(release, {"GGA": "PS", "PSTRESS": 100})
    assert result.functional == "PBEsol at 10 GPa"
    assert (4 * result.initial.volume) ** (1 / 3) == pytest.approx(5.9)
    assert (result.converged, result.conditions) == (True, [])


def test_a_poscar_of_an_older_document_keeps_what_it_held():
    start = build_salt().copy(site_properties={"selective_dynamics": [[True] * 3, [False] * 3]})
    result = TaskReader().read(emmet_output("0.70", start, relax_salt(build_salt()), {}))
    assert [list(flags) for flags in result.initial.site_properties["selective_dynamics"]] == [[True] * 3, [False] * 3]
    text = emmet_output("0.70", build_salt(), relax_salt(build_salt()), {})
    text["orig_inputs"]["poscar"] = Poscar(build_salt()).get_str(significant_figures=12)
    assert TaskReader().read(text).initial.volume == pytest.approx(build_salt().volume)


@pytest.mark.parametrize(("incar", "name"), NAMED)
@pytest.mark.parametrize("release", ["0.88", "0.84"])
def test_documents_name_their_functional(release, incar, name):
    result = read_document(release, incar)
    assert (result.functional, result.unnamed, result.conditions) == (name, None, [])


@pytest.mark.parametrize(("incar", "words"), UNNAMED)
@pytest.mark.parametrize("release", ["0.88", "0.84"])
def test_what_has_no_name_says_why(release, incar, words):
    result = read_document(release, incar)
    assert result.functional is None
    assert words in result.unnamed


@pytest.mark.parametrize(("incar", "words"), MOVED)
@pytest.mark.parametrize("release", ["0.88", "0.84"])
def test_conditions_are_listed(release, incar, words):
    (condition,) = read_document(release, incar).conditions
    assert words in condition


@pytest.mark.parametrize(
    ("incar", "name", "words"),
    [
        *((incar, name, None) for incar, name in NAMED if name in ("PBE at 50 GPa", "PBE+D3-BJ", "PW91", "PBEsol")),
        *((incar, None, words) for incar, words in UNNAMED[:2]),
        *((incar, "PBE", words) for incar, words in MOVED if set(incar) & {"IMAGES", "EFIELD", "NELECT", "LSOL"}),
    ],
)
def test_a_folder_says_what_a_document_says(tmp_path, monkeypatch, incar, name, words):
    result = read_vasp_folder(write_folder(tmp_path / "run", incar, monkeypatch))
    assert result.functional == name
    assert words is None or words in f"{result.unnamed} {result.conditions}"
    document = read_document("0.88", incar)
    assert (result.functional, result.unnamed) == (document.functional, document.unnamed)


@pytest.mark.parametrize(
    ("titles", "name"),
    [(PBE_TITLES, "PBE"), (LDA_TITLES, "LDA"), (PW91_TITLES, "PW91"), (["PAW_LDA Na 1Jan2000"] * 2, "LDA")],
)
@pytest.mark.parametrize("release", RELEASES)
def test_the_potcars_decide_where_incar_does_not(release, titles, name):
    assert read_document(release, {}, titles).functional == name


@pytest.mark.parametrize(
    ("titles", "incar", "words"),
    [
        ((PBE_TITLES[0], LDA_TITLES[1]), {}, "of different functionals"),
        (("PAW Si_GW 04May2012",) * 2, {}, "may be of LDA or PBE"),
        (("US Na", "US Cl"), {}, "may be of LDA or PW91"),
        (LDA_TITLES, {"GGA": "PE"}, "POTCARs of another functional"),
        (PW91_TITLES, {"METAGGA": "SCAN"}, "POTCARs of another functional"),
    ],
)
def test_potcars_that_leave_the_functional_open_are_told(titles, incar, words):
    result = read_document("0.88", incar, titles)
    assert result.functional is None
    assert words in result.unnamed


def test_one_potcar_tells_what_the_others_may_be():
    assert find_functional([describe_potcar("PAW Si_GW 04May2012"), describe_potcar(LDA_TITLES[0])]) == ("LDA", None)
    # titled PBE, and of the LDA set
    assert find_functional([describe_potcar("PAW_PBE Fe_sv 08Apr2002")]) == ("LDA", None)
    assert find_functional([describe_potcar("Na_pv")]) == (None, None)


@pytest.mark.parametrize(("lexch", "name"), [("CA", "LDA"), ("PE", "PBE"), ("91", "PW91"), ("HL", None)])
def test_lexch_of_a_potcar_wins_over_titles(tmp_path, monkeypatch, lexch, name):
    """vasprun.xml of the fake VASP has titles of PBE."""
    folder = write_folder(tmp_path / "run", {}, monkeypatch)
    blocks = [
        f"  PAW_PBE {x} 01Jan2000\n   LEXCH  = {lexch}\n   TITEL  = PAW_PBE {x} 01Jan2000\n End of Dataset\n"
        for x in "AB"
    ]
    (folder / "POTCAR").write_text("".join(blocks))
    result = read_vasp_folder(folder)
    assert result.functional == name
    assert name is not None or "LEXCH = HL" in result.unnamed
    assert [potcar.title for potcar in read_potcar_text("".join(blocks))] == [
        "PAW_PBE A 01Jan2000",
        "PAW_PBE B 01Jan2000",
    ]


def test_a_neutral_number_of_electrons_is_no_charge(tmp_path, monkeypatch):
    assert read_document("0.88", {"NELECT": 14.0}).conditions == []  # 7 of Na_pv and 7 of Cl
    assert read_document("0.88", {"NELECT": 13.0}).conditions == ["a charge of +1"]
    charged = emmet_output("0.88", build_salt(), relax_salt(build_salt()), {})
    charged["structure"]["charge"] = -1
    assert TaskReader().read(charged).conditions == ["a charge of -1"]
    unknown = read_document("0.88", {"NELECT": 14.0}, ["PAW_PBE Na 01Jan1900", "PAW_PBE Cl 01Jan1900"])
    assert "valences are not known" in unknown.conditions[0]
    # vasprun.xml of the fake VASP has the valence 4 for every element
    assert read_vasp_folder(write_folder(tmp_path / "a", {"NELECT": 8.0}, monkeypatch)).conditions == []
    assert read_vasp_folder(write_folder(tmp_path / "b", {"NELECT": 7.0}, monkeypatch)).conditions == ["a charge of +1"]


def test_the_energy_of_a_run_under_other_conditions_is_not_lent():
    """A static run in a field does not lend its energy to the structure of a relaxation without one."""
    from e3relax_flows.engines.vasp_documents import read_vasp_documents

    start, end = build_salt(), relax_salt(build_salt())
    relaxation = vasp_output(start, end, output__energy=-6.0)
    static = vasp_output(end, end, output__energy=-7.0, task_type="Static")
    assert read_vasp_documents([relaxation, static]).energy == -7.0
    static["input"]["incar"] = {"EFIELD": 0.1}
    assert read_vasp_documents([relaxation, static]).energy == -6.0


@pytest.mark.parametrize(
    ("update", "converged"),
    [
        ({}, True),
        ({"input__parameters": {"ISIF": 3, "NSW": 1}}, False),
        ({"input__parameters": {"ISIF": 3, "EDIFFG": 0.0}}, False),
        ({"output__forces": [[0, 0, 7.0], [0, 0, -7.0]]}, False),
        ({"output__forces": [[math.nan] * 3] * 2}, False),
        ({"output__forces": [[0, 0, 0.2], [0, 0, -0.2]]}, True),
        ({"output__forces": [[0, 0, 0.2], [0, 0, -0.2]], "input__parameters": {"ISIF": 3, "EDIFFG": -0.02}}, False),
        ({"output__stress": (240 * np.eye(3)).tolist()}, False),
        ({"output__stress": (240 * np.eye(3)).tolist(), "input__parameters": {"ISIF": 2}}, True),
        ({"output__stress": (240 * np.eye(3)).tolist(), "input__parameters": {"ISIF": 4}}, True),
        ({"state": "true"}, False),
        ({"calcs_reversed": [{"vasp_version": "6.4.2", "has_vasp_completed": "failed"}]}, False),
        ({"calcs_reversed": [{"vasp_version": "6.4.2", "has_vasp_completed": True}]}, True),
        ({"state": None}, False),
    ],
)
def test_convergence_is_not_claimed_against_the_numbers_of_the_document(update, converged):
    start = build_salt()
    assert TaskReader().read(vasp_output(start, relax_salt(start), **update)).converged == converged


@pytest.mark.parametrize("energy", [math.nan, math.inf])
def test_an_energy_that_is_none_is_an_error(energy):
    start = build_salt()
    with pytest.raises(EngineError, match=f"host:/scratch/run .* {energy} eV"):
        TaskReader().read(vasp_output(start, relax_salt(start), output__energy=energy))


@pytest.mark.parametrize("incar", [{"LATTICE_CONSTRAINTS": ".TRUE. .TRUE. .FALSE."}, {"IOPTCELL": "1 1 0 1 1 0 0 0 0"}])
def test_a_cell_that_other_settings_hold_is_not_free(incar):
    assert read_document("0.88", incar).free == Freedom(shape=False)
    assert read_document("0.88", {"LATTICE_CONSTRAINTS": "T T T"}).free.is_full


def test_elastic_constants_are_no_relaxation():
    start = build_salt()
    assert TaskReader().read(vasp_output(start, start, input__incar={"IBRION": 6})) is None


settings = st.dictionaries(
    st.sampled_from([*SETTINGS, "GGA", "METAGGA", "IVDW"]),
    st.one_of(st.booleans(), st.integers(-3, 300), st.sampled_from(["PE", "PS", "SCAN", "--", ".TRUE.", "0"])),
    max_size=6,
)


@given(settings, st.sampled_from([None, "GGA", "LDA+U", "PBESol", "R2SCAN", "HFCus"]))
def test_a_run_has_a_spelled_name_or_a_reason(incar, run_type):
    """Whatever stands in INCAR: never both, never neither, and "PBE" alone only where nothing else was asked for."""
    run = VaspRun(tidy_settings(incar), {}, [describe_potcar(title) for title in PBE_TITLES], run_type)
    try:
        name, reason = name_functional(run)
        conditions = list_conditions(run)
    except (ValueError, TypeError):  # such as IVDW = PE; the reader of documents makes an EngineError of it
        return
    assert (name is None) != (reason is None)
    if name is not None:
        assert spell_functional(name) == name
    if name == "PBE" and not conditions:
        for setting in ("PSTRESS", "IVDW", "LVDW", "LSORBIT", "LDAU", *CONDITIONS):
            assert run.find_on(setting) is None
    assert (name, reason) == name_functional(VaspRun({}, tidy_settings(incar), run.potcars, run_type))


@given(st.sampled_from(sorted(CONDITIONS)), st.sampled_from(["asked", "used"]), st.sampled_from([1, 2.5, True, "T"]))
def test_a_condition_counts_wherever_it_stands(name, source, value):
    run = VaspRun(**{source: {name: value}})
    assert any(condition.startswith(name) for condition in list_conditions(run))
    assert list_conditions(VaspRun(**{source: {name: 0}})) == []
