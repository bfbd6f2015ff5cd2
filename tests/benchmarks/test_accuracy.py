"""The accuracy benchmark: its sample, starts, cache, figures and goals; effective medium theory stands for CHGNet."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from pymatgen.core import Lattice, Structure

from e3relax_flows import load_pairs, measure_errors
from e3relax_flows.testing import EMT_LATTICES, TablePredictor

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
METALS = ("Al", "Cu", "Ag", "Au")
FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


sys.path.insert(0, str(FOLDER))
import accuracy  # noqa: E402
import accuracy_cases as choosing  # noqa: E402
import accuracy_methods as methods  # noqa: E402
import accuracy_metrics as metrics  # noqa: E402

sys.path.pop(0)


def make_row(name: str, source: str, symbols: list[str], start: float, end: float, frac: Any = FCC) -> dict[str, Any]:
    """A cubic cell that goes from edge `start` to edge `end`."""
    cell = Structure(Lattice.cubic(start), symbols, frac)
    sides = {
        side: {"lattice": (np.eye(3) * edge).tolist(), "frac": cell.frac_coords.tolist()}
        for side, edge in (("initial", start), ("relaxed", end))
    }
    return {"id": name, "source": source, "numbers": list(cell.atomic_numbers), **sides}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def metals(tmp_path: Path) -> Path:
    """Pairs of fcc metals, 5 % too large at the start; aluminium is in a source of its own."""
    rows = [
        make_row(element, "light" if element == "Al" else "heavy", [element] * 4, 1.05 * edge, edge)
        for element, edge in EMT_LATTICES.items()
        if element in METALS
    ]
    return write_rows(tmp_path / "metals.jsonl", rows)


@pytest.fixture
def case(tmp_path: Path) -> Any:
    """Caesium chloride's prototype, 4 Å at the end, 4.2 Å at the start."""
    row = make_row("CsCl", "salts", ["Cs", "Cl"], 4.2, 4.0, [[0, 0, 0], [0.5, 0.5, 0.5]])
    return choosing.choose_cases(load_pairs([write_rows(tmp_path / "salt.jsonl", [row])]), 0, 0)[0]


def make_output(case: Any, edge: float, shift: float = 0.0, status: str = "ok") -> Any:
    """Cubic cell whose second site is moved by `shift` Å along z."""
    fractions = case.target.frac_coords + np.array([[0, 0, 0], [0, 0, shift / edge]])
    return methods.Output(np.eye(3) * edge, fractions, status)


def test_sample_is_nested_and_takes_turns(tmp_path: Path) -> None:
    rows = [make_row(f"{source}-{i}", source, ["Cu"], 3.0, 3.1, [[0, 0, 0]]) for source in "ab" for i in range(6)]
    pairs = load_pairs([write_rows(tmp_path / "one.jsonl", rows)])
    turned = load_pairs([write_rows(tmp_path / "two.jsonl", rows[::-1])])
    few, more, every = (choosing.choose_cases(pairs, n, seed=3) for n in (2, 4, 0))
    assert [case.source for case in few] == ["a", "b", "a", "b"]
    assert [case.id for case in more[:4]] == [case.id for case in few]
    assert len(every) == 12
    assert [case.id for case in choosing.choose_cases(turned, 4, seed=3)] == [case.id for case in more]
    assert [case.id for case in choosing.choose_cases(pairs, 0, seed=4)] != [case.id for case in every]


def test_rotation_changes_components_and_no_error(case: Any) -> None:
    turned = choosing.rotate_structure(case.start, 0, case.id)
    assert np.abs(turned.lattice.matrix - case.start.lattice.matrix).max() > 0.1
    assert np.linalg.det(turned.lattice.matrix) == pytest.approx(4.2**3)
    expected = measure_errors(case.start, case.target).model_dump()
    assert measure_errors(turned, case.target).model_dump() == pytest.approx(expected, abs=1e-12)
    assert choosing.rotate_structure(case.start, 0, case.id) == turned


def test_starts_are_what_they_say(case: Any) -> None:
    starts = {name: make(case) for name, make in choosing.list_starts(0).items()}
    assert starts["target itself"].volume == pytest.approx(64)
    assert starts["target, volume +15 %"].volume == pytest.approx(1.15 * 64)
    assert starts["target, volume -15 %"].volume == pytest.approx(0.85 * 64)
    big = case.target * (6, 6, 6)
    shifts = (choosing.add_noise(big, 0.1, 0, "x").frac_coords - big.frac_coords) @ big.lattice.matrix
    assert shifts.std() == pytest.approx(0.1, rel=0.06)
    small = starts["target, noise 0.02 Å"].frac_coords - case.target.frac_coords
    large = starts["target, noise 0.1 Å"].frac_coords - case.target.frac_coords
    np.testing.assert_allclose(large, 5 * small, atol=1e-12)


def test_cache_goes_on_after_a_cut_line(tmp_path: Path) -> None:
    cache = choosing.JsonlCache(tmp_path / "new" / "cache.jsonl")
    cache.put("a", {"value": 1})
    cache.put("b", {"value": 2})
    cache.path.write_text(cache.path.read_text()[:-4])
    again = choosing.JsonlCache(cache.path)
    assert again.get("a") == {"key": "a", "value": 1}
    assert again.get("b") is None
    again.put("b", {"value": 3})
    assert choosing.JsonlCache(cache.path).get("b") == {"key": "b", "value": 3}


def test_rmsd_is_normalised_and_unmatched_counts_one(case: Any) -> None:
    moved, other = make_output(case, 4.0, 0.2), Structure(Lattice.cubic(4), ["Cs", "Cs"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structure = Structure(moved.lattice, ["Cs", "Cl"], moved.fractions)
    # both sites are half the shift away from their mean
    assert metrics.measure_rmsd(structure, case.target) == pytest.approx(0.1 / 32 ** (1 / 3), rel=1e-6)
    assert metrics.measure_rmsd(other, case.target) is None
    assert metrics.measure_rmsd(make_cell(case, 5.2), case.target) is None  # not scaled to the same volume


def make_cell(case: Any, edge: float) -> Structure:
    return Structure(Lattice.cubic(edge), ["Cs", "Cl"], case.target.frac_coords)


def test_comparison_ends_in_time() -> None:
    def compare_for_ever() -> None:
        with metrics.limit_cpu(0.05):
            while True:
                math.sqrt(2)

    with pytest.raises(TimeoutError):
        compare_for_ever()


def test_measures_of_an_output(case: Any, tmp_path: Path) -> None:
    cache = choosing.JsonlCache(tmp_path / "measures.jsonl")
    good = metrics.measure_output(case, make_output(case, 4.04), cache)
    assert good["strain"] == pytest.approx(math.sqrt(3) * math.log(1.01))
    assert good["volume"] == pytest.approx(1.01**3 - 1)
    assert good["displacement"] == pytest.approx(0, abs=1e-12)
    assert not good["worse"]
    assert good["kept"] == {"0.01": True, "1e-05": True}
    bent = metrics.measure_output(case, make_output(case, 4.4, 0.004), cache)
    assert bent["worse"]
    assert bent["kept"] == {"0.01": True, "1e-05": False}
    assert len(cache) == 3  # the start, and both outputs
    metrics.measure_output(case, make_output(case, 4.04), cache)
    assert len(choosing.JsonlCache(cache.path)) == 3

    unmatched = good | {"rmsd": None, "status": "failed"}
    summary = metrics.summarize([good, bent, unmatched])
    assert summary["rmsd"] == pytest.approx((good["rmsd"] + bent["rmsd"] + 1) / 3)
    assert (summary["matched"], summary["not_ok"], summary["worse"]) == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    assert (summary["kept 1e-05"], summary["kept 0.01"]) == pytest.approx((2 / 3, 1))


def test_higher_symmetry_keeps_the_group(tmp_path: Path) -> None:
    row = make_row("CsCl", "salts", ["Cs", "Cl"], 4.0, 4.0, [[0, 0, 0], [0.5, 0.5, 0.5]])
    row["initial"]["lattice"][2][2] = 4.4  # tetragonal
    case = choosing.choose_cases(load_pairs([write_rows(tmp_path / "salt.jsonl", [row])]), 0, 0)[0]
    cache = choosing.JsonlCache(tmp_path / "measures.jsonl")
    cubic = metrics.measure_output(case, make_output(case, 4.0), cache)
    assert [cubic["groups"]["0.01"][0], metrics.find_group(case.start, 0.01)[0]] == [221, 123]
    assert (cubic["same"]["0.01"], cubic["kept"]["0.01"]) == (False, True)
    sheared = methods.Output(np.array([[4.0, 0, 0], [0.5, 4.0, 0], [0, 0, 4.4]]), case.start.frac_coords)
    lower = metrics.measure_output(case, sheared, cache)
    assert (lower["same"]["0.01"], lower["kept"]["0.01"]) == (False, False)


def test_volume_predictor_and_its_failures() -> None:
    made = []
    for edge in (5.4, 5.8, 9.0):
        salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        made.append(methods.predict_volume(salt))
    volumes = [np.linalg.det(output.lattice) for output in made]
    assert [output.status for output in made] == ["ok"] * 3
    assert volumes[0] == pytest.approx(volumes[1])  # it looks at ratios of lengths only
    assert volumes[2] == pytest.approx(9.0**3 / 2)  # the smallest ratio it allows
    alone = methods.predict_volume(Structure(Lattice.cubic(25), ["Na"], [[0, 0, 0]]))
    assert (alone.status, np.linalg.det(alone.lattice)) == ("failed", pytest.approx(25**3))


class BrokenCalculator(Calculator):
    """Has no energy for anything."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        raise RuntimeError("broken")


def test_relaxations_are_kept_and_limited(metals: Path, tmp_path: Path) -> None:
    case = choosing.choose_cases(load_pairs([metals]), 1, 0)[0]
    edge = case.target.lattice.a
    relaxer = methods.PotentialRelaxer(choosing.JsonlCache(tmp_path / "relaxations.jsonl"))
    relaxer._calculator = EMT()
    settings = methods.Relaxation()
    made = relaxer.relax_cached(case, case.start, "initial", settings)
    assert made.status == "ok"
    assert made.spent.wall > 0
    np.testing.assert_allclose(made.lattice, np.eye(3) * edge, atol=0.02)

    again = methods.PotentialRelaxer(choosing.JsonlCache(tmp_path / "relaxations.jsonl"))
    again._calculator = BrokenCalculator()
    np.testing.assert_array_equal(again.relax_cached(case, case.start, "initial", settings).lattice, made.lattice)
    failed = again.relax_cached(case, case.start, "another", settings)
    assert failed.status == "failed"
    np.testing.assert_allclose(failed.lattice, case.start.lattice.matrix)

    short = methods.relax_structure(case.start, EMT(), methods.Relaxation(steps=2))
    assert (short["status"], short["n_steps"]) == ("unconverged", 2)
    stopped = methods.relax_structure(case.start, EMT(), methods.Relaxation(cpu_limit_s=0.0))
    assert (stopped["status"], stopped["n_steps"]) == ("stopped", 1)


class SwellingCalculator(Calculator):
    """Pulls at the cell, however large it is."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        stress = np.array([-1.0, -1.0, -1.0, 0, 0, 0])
        self.results = {"energy": -self.atoms.get_volume(), "forces": np.zeros((len(self.atoms), 3)), "stress": stress}


def test_a_cell_that_runs_away_is_stopped(metals: Path) -> None:
    case = choosing.choose_cases(load_pairs([metals]), 1, 0)[0]
    made = methods.relax_structure(case.start, SwellingCalculator(), methods.Relaxation())
    strain = np.log(np.linalg.det(made["lattice"]) / case.start.volume) / 3
    assert made["status"] == "stopped"
    assert 0.5 < strain < methods.MAX_STRAIN


def make_table(**rows: tuple[float, float, float]) -> dict[str, Any]:
    extra = {"kept 0.01": 1.0, "kept 1e-05": 0.98, "worse": 0.02}
    names = ("displacement", "strain", "volume")
    return {
        row.replace("_", "-"): {"mp_to_mp": dict(zip(names, errors, strict=True)) | extra}
        for row, errors in rows.items()
    }


def test_goals_are_ratios_to_the_rows_that_are_there() -> None:
    table = make_table(ours=(0.06, 0.03, 0.02), released=(0.1, 0.04, 0.03), identity=(0.1, 0.2, 0.1))
    goals = {goal.what: goal for goal in metrics.judge_table(table, {})}
    assert len(goals) == 5
    assert goals["displacement, ours / released"].value == pytest.approx(0.6)
    assert goals["displacement, ours / released"].is_met
    assert goals["strain, ours / released"].value == pytest.approx(0.75)
    assert not goals["strain, ours / released"].is_met
    assert goals["volume, ours / identity"].is_met
    assert not goals["space group not kept, symprec 1e-05"].is_met

    table = make_table(ours=(0.1, 0.1, 0.1), chgnet=(0.0, 0.1, 0.05), ours_guarded=(0.1, 0.1, 0.1))
    spent = {"ours": 0.03, "chgnet": 2.0}
    timings = {
        row: {how: {"mp_to_mp": methods.Seconds(99.0, each)} for how in ("alone", "list")}
        for row, each in spent.items()
    }
    goals = {goal.what: goal for goal in metrics.judge_table(table, timings)}
    assert not goals["displacement, ours / chgnet"].is_met  # 0.1 / 0
    assert goals["volume, ours / chgnet"].value == pytest.approx(2)
    assert goals["CPU seconds (list), ours / chgnet"].value == pytest.approx(0.015)
    assert not goals["CPU seconds (list), ours / chgnet"].is_met
    assert goals["harmed after the guard"].is_met


def test_run_from_file_to_tables(
    metals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    volumes = {element: edge**3 / 4 for element, edge in EMT_LATTICES.items()} | {"Al": 1.2 * 3.995**3 / 4}
    predictor = TablePredictor("table", volumes, refused=["Al"])
    monkeypatch.setattr(accuracy.Predictor, "load", lambda *arguments: predictor)  # noqa: ARG005
    monkeypatch.setattr(methods.PotentialRelaxer, "calculator", EMT())
    rows = ["identity", "ours", "ours-guarded", "chgnet"]
    options = ["--out", str(tmp_path), "--per-source", "2", "--timed", "1", "--rows", *rows, "--whole"]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", str(metals), *options])
    accuracy.main()
    printed = capsys.readouterr().out
    assert "### light, 1 pairs" in printed
    assert "## All 4 pairs" in printed

    written = json.loads((tmp_path / "accuracy.json").read_text())
    means = written["means"]
    assert list(means) == rows
    assert means["ours"]["heavy"]["strain"] == pytest.approx(0, abs=1e-9)
    assert means["identity"]["heavy"]["volume"] == pytest.approx(1.05**3 - 1)
    assert means["ours"]["light"]["volume"] == pytest.approx(0.2)
    assert means["ours"]["light"]["worse"] == 1
    assert means["ours-guarded"]["light"]["volume"] == pytest.approx(1.05**3 - 1)
    assert means["ours-guarded"]["light"]["not_ok"] == 1
    assert means["chgnet"]["all"]["strain"] < 0.01
    assert {record["id"] for record in written["records"]["ours"]} < set(METALS)
    assert set(written["run"]["timings"]) == set(rows)
    assert written["run"]["model_id"] == "table"

    starts = json.loads((tmp_path / "starts.json").read_text())["means"]
    larger = starts["target, volume +15 %"]["light"]
    assert larger["start"]["volume"] == pytest.approx(0.15)
    assert larger["raw"]["volume"] == pytest.approx(0.2)
    assert larger["served"] == larger["start"]
    assert (larger["refused"], larger["raw_worse"], larger["served_worse"]) == (1, 1, 0)
    assert starts["target itself"]["heavy"]["served"]["volume"] == pytest.approx(0, abs=1e-9)
    assert starts["relaxed by CHGNet"]["all"]["n"] == 3
