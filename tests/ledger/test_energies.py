"""Energies on the Materials Project's scale and hulls, with entries built in code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from e3relax_flows.candidates.hulls import HullSet, build_entry, read_entries
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.ledger.energies import Correction, correct_energy, make_entry, prepare_references
from e3relax_flows.schemas.outcomes import OutcomeState

FIELD = Path(__file__).resolve().parents[1] / "files" / "odd"
MP_OXIDE_CORRECTION = -0.687  # eV per oxygen atom, MP2020Compatibility.yaml
MGO_POTCARS = [{"titel": "PAW_PBE Mg_pv 13Apr2007"}, {"titel": "PAW_PBE O 08Apr2002"}]


def make_oxide() -> Structure:
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return cell.get_primitive_structure()


@pytest.fixture
def make_oxide_outcome(make_outcome):
    def make(**changes):
        outcome = make_outcome()
        parameters = changes.pop("parameters", {"potcar_spec": MGO_POTCARS, "hubbards": {}, "encut": 520})
        outcome.result = outcome.result.model_copy(
            update={"relaxed": make_oxide(), "energy": -12.0, "code": "VASP", "parameters": parameters} | changes
        )
        return outcome

    return make


def test_energy_computed_as_the_materials_project_does_is_corrected(make_oxide_outcome):
    entry = make_entry(make_oxide_outcome())
    energy = correct_energy(entry, Correction.MP2020)
    assert energy.is_comparable
    assert energy.correction == pytest.approx(MP_OXIDE_CORRECTION)
    assert energy.entry.energy == pytest.approx(-12.0 + MP_OXIDE_CORRECTION)
    assert entry.energy == -12.0  # the given one is left alone
    again = correct_energy(energy.entry, Correction.MP2020)
    assert again.entry.energy == pytest.approx(energy.entry.energy)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"functional": "PBEsol"}, "functional is PBEsol"),
        ({"functional": "r2SCAN"}, "functional is r2SCAN"),
        ({"code": "GPAW"}, "computed with gpaw"),
        ({"functional": "PBE at 50 GPa"}, "functional is PBE at 50 GPa"),
        ({"conditions": ["EFIELD = 0.1: an electric field"]}, "computed with EFIELD = 0.1"),
        ({"parameters": {}}, "POTCARs are not recorded"),
        ({"parameters": {"potcar_spec": MGO_POTCARS, "encut": 680}}, "cutoff is 680 eV, not 520"),
        ({"parameters": {"potcar_spec": [{"titel": "PAW_PBE Mg x"}, {"titel": "PAW_PBE O x"}]}}, "Incompatible POTCAR"),
        (
            {"functional": "PBE+U", "parameters": {"potcar_spec": MGO_POTCARS, "hubbards": {"Mg": 3.0}, "encut": 520}},
            "Invalid U value",
        ),
    ],
)
def test_other_energies_stay_raw_and_say_why(make_oxide_outcome, changes, reason):
    entry = make_entry(make_oxide_outcome(**changes))
    energy = correct_energy(entry, Correction.MP2020)
    assert not energy.is_comparable
    assert reason in energy.message
    assert energy.correction == 0
    assert energy.entry.energy == -12.0
    assert correct_energy(entry, Correction.NONE).is_comparable


def test_only_converged_outcomes_give_entries(make_outcome, make_oxide_outcome):
    assert make_entry(make_outcome(converged=False)) is None
    assert make_entry(make_outcome(ionic=None)) is None
    assert make_entry(make_oxide_outcome(energy=None)) is None
    outcome = make_oxide_outcome()
    assert outcome.state == OutcomeState.SUCCESSFUL
    entry = make_entry(outcome)
    assert entry.composition == Composition("MgO")
    assert entry.entry_id == outcome.outcome_id
    assert entry.parameters["run_type"] == "GGA"


def test_references_are_corrected_once_and_strangers_left_out(make_oxide_outcome):
    raw = make_entry(make_oxide_outcome())
    done = correct_energy(raw, Correction.MP2020).entry
    strange = ComputedEntry("MgO2", -15.0, parameters={"run_type": "R2SCAN"}, entry_id="r2")
    element = ComputedEntry("Mg", -1.5)
    theirs = ComputedEntry("W", -12.9, parameters={"run_type": "GGA", "potcar_spec": []}, entry_id="mp-91-GGA")
    kept, left_out = prepare_references([raw, done, strange, element, theirs], Correction.MP2020)
    assert [entry.energy for entry in kept] == [pytest.approx(done.energy), pytest.approx(done.energy), -1.5, -12.9]
    assert [name for name, _ in left_out] == ["MgO2 (r2)"]
    assert len(prepare_references([raw, done, strange, element], Correction.NONE)[0]) == 4


@pytest.fixture
def hulls() -> HullSet:
    """Na and Cl at 0, NaCl 2 eV per formula below."""
    return HullSet(
        [ComputedEntry("Na2", 0), ComputedEntry("Cl2", 0), ComputedEntry("Na4Cl4", -8), ComputedEntry("K", 0)]
    )


@pytest.mark.parametrize(
    ("formula", "energy", "above", "decomposition"),
    [
        ("NaCl", -2.0, 0.0, "1.00 NaCl"),
        ("Na2Cl2", -3.0, 0.25, "1.00 NaCl"),
        ("NaCl", -2.4, -0.2, "1.00 NaCl"),  # below all that is known
        ("Na3Cl", -1.0, 0.25, "0.50 Na + 0.50 NaCl"),
        ("Na", 0.1, 0.1, "1.00 Na"),
        ("Na+Cl-", -2.0, 0.0, "1.00 NaCl"),
    ],
)
def test_energies_above_hull(hulls, formula, energy, above, decomposition):
    composition = Composition({"Na+": 1, "Cl-": 1}) if "+" in formula else Composition(formula)
    place = hulls.locate(composition, energy)
    assert place.energy_above_hull == pytest.approx(above)
    assert place.decomposition == decomposition


def test_without_an_element_there_is_no_hull(hulls):
    place = hulls.locate(Composition("NaBr"), -2.0)
    assert place.energy_above_hull is None
    assert "no entry of the element Br" in place.message


def test_entries_are_read_from_lists_and_lines(tmp_path):
    entries = [ComputedEntry("Na", -1.0, entry_id="a"), ComputedStructureEntry(make_oxide(), -12.0, entry_id="b")]
    (tmp_path / "list.json").write_text(json.dumps([entry.as_dict() for entry in entries]))
    (tmp_path / "lines.jsonl").write_text("\n".join(json.dumps(entry.as_dict()) for entry in entries))
    for name in ("list.json", "lines.jsonl"):
        found = read_entries(tmp_path / name)
        assert [(entry.entry_id, entry.energy) for entry in found] == [("a", -1.0), ("b", -12.0)]
        assert found[1].structure == make_oxide()


def test_a_file_of_entries_makes_no_other_objects(tmp_path):
    raw = ComputedEntry("Na", -1.0).as_dict()
    raw["data"] = {"x": {"@module": "os", "@class": "path"}}
    with pytest.raises(ConfigError, match=r"^here: .* os, "):
        build_entry(raw, "here")
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"x\.json, entry 1: .*ComputedEntry"):
        read_entries(tmp_path / "x.json")
    (tmp_path / "y.json").write_text("{")
    with pytest.raises(ConfigError, match=r"y\.json"):
        read_entries(tmp_path / "y.json")


@pytest.mark.parametrize("turned", [False, True])
def test_an_energy_that_is_none_is_refused_wherever_it_stands(tmp_path, turned):
    raws = json.loads((FIELD / "entries-nan.json").read_text())
    place = len(raws) if turned else 1
    (tmp_path / "x.json").write_text(json.dumps(raws[::-1] if turned else raws))
    with pytest.raises(ConfigError, match=rf"x\.json, entry {place}: .* nan, "):
        read_entries(tmp_path / "x.json")
    sound = [build_entry(raw, "here") for raw in raws if raw["entry_id"] != "bad"]
    for entries in (sound, sound[::-1]):
        assert HullSet(entries).locate(Composition("MgO"), -12.0).energy_above_hull == pytest.approx(0)
    with pytest.raises(ConfigError, match=r"entry bad: .* nan, "):
        HullSet([*sound, ComputedEntry("MgO", float("nan"), entry_id="bad")])
    assert HullSet(sound).locate(Composition("MgO"), float("nan")).energy_above_hull is None


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"energy": None}, "its energy is None"),
        ({"energy": "-1.0"}, "its energy is '-1.0'"),
        ({"energy": True}, "its energy is True"),
        ({"energy": float("-inf")}, "its energy is -inf"),
        ({"correction": float("nan")}, "its correction is nan"),
        ({"correction": None}, "its correction is None"),
        ({"composition": None}, "here: "),
        ({"composition": {}}, "here: "),
        ({"composition": {"Na": float("nan")}}, "here: "),
        ({"composition": {"Na": None}}, "here: "),
        ({"energy_adjustments": [{"value": float("nan")}]}, "here: "),
    ],
)
def test_entries_with_numbers_that_are_none_are_refused_with_their_place(update, words):
    with pytest.raises(ConfigError, match="here") as caught:
        build_entry(ComputedEntry("Na", -1.0).as_dict() | update, "here")
    assert words in str(caught.value)


def test_an_outcome_without_an_energy_gives_no_entry(make_oxide_outcome):
    assert make_entry(make_oxide_outcome(energy=float("nan"))) is None
