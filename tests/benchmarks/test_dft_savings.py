"""The benchmark of DFT savings: its choice of crystals, its sums and intervals, and its going on; without DFT."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.ids import identify_structure

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
AB = [[0, 0, 0], [0.5, 0.5, 0.5]]
VALENCE = {"Na": 7, "Cl": 7, "Mg": 10, "O": 6, "K": 9, "Br": 7, "Li": 1, "F": 7, "Ca": 10, "S": 6, "Sr": 10}


sys.path.insert(0, str(FOLDER))
import dft_savings as savings  # noqa: E402
import dft_savings_cases as choosing  # noqa: E402
import dft_savings_relax as relaxing  # noqa: E402
import dft_savings_table as tables  # noqa: E402

sys.path.pop(0)


def make_cell(symbols: list[str], edge: float, prototype: str = "rock salt") -> Structure:
    if prototype == "caesium chloride":
        return Structure(Lattice.cubic(edge), symbols, AB)
    face_centred = edge / 2 * (np.ones((3, 3)) - np.eye(3))
    second = {"rock salt": [0.5] * 3, "zinc blende": [0.25] * 3}[prototype]
    return Structure(face_centred, symbols, [[0, 0, 0], second])


def make_row(symbols: list[str], edge: float, source: str = "a", stretch: float = 1.1, **more: Any) -> dict[str, Any]:
    cell = make_cell(symbols, edge, more.pop("prototype", "rock salt"))
    relaxed = cell.copy()
    relaxed.scale_lattice(cell.volume * stretch)
    sides = {
        name: {"lattice": each.lattice.matrix.tolist(), "frac": each.frac_coords.tolist()}
        for name, each in (("initial", cell), ("relaxed", relaxed))
    }
    numbers = [int(number) for number in cell.atomic_numbers]
    return (
        {"id": f"{source}-{''.join(symbols)}", "source": source, "numbers": numbers, "functional": "PBE"} | sides | more
    )


def choose(rows: list[dict[str, Any]], n: int = 10, **rules: Any):
    return choosing.choose_cases(rows, n, choosing.Rules(**rules), VALENCE.__getitem__)


@pytest.mark.parametrize(
    ("symbols", "reason"),
    [
        (["Fe", "O"], "magnetic"),
        (["Mo", "O"], r"\+U"),
        (["La", "S"], "lanthanide"),
        (["U", "S"], "no PBE dataset"),
        (["Na", "S"], "odd number of electrons"),
        (["Na", "Cl"], None),
        (["Mo", "S"], None),
    ],
)
def test_rules_on_elements(symbols, reason):
    functional = "PBE(+U)" if symbols == ["Mo", "O"] else "PBE"
    found = choosing.find_refusal(make_row(symbols, 5.0, functional=functional), choosing.Rules())
    if reason is None:
        assert found is None
    else:
        assert re.search(reason, found)


def test_rules_leave_out_large_near_unbalanced_and_expensive_crystals():
    rows = [
        make_row(["Na", "Cl"], 5.7),
        make_row(["Mg", "S"], 5.2, "b", stretch=1.02),  # strain ln(1.02) / sqrt(3) = 0.011
        make_row(["Ca", "Br"], 5.9, "odd"),  # Ca has no state +1, and the number of electrons is odd
        make_row(["Li", "Na"], 5.5, "c"),
        make_row(["Sr", "S"], 6.0, "d"),
    ]
    chosen, funnel = choose(rows)
    assert [case.formula for case in chosen] == ["NaCl", "SrS"]
    assert funnel[0] == ("pairs in the file", 5)
    assert funnel[-1] == ("chosen", 2)
    left = dict(funnel)
    assert left["without: an odd number of electrons"] < 5
    assert left["without: too expensive"] == 2
    # without topping-up only those within the largest cost are left: SrS at 500 eV costs more than NaCl at 400 eV
    assert chosen[1].cost > chosen[0].cost
    limit = 0.5 * (chosen[0].cost + chosen[1].cost)
    assert [case.formula for case in choose(rows, max_cost=limit, topping_cost=0)[0]] == ["NaCl"]
    assert choose(rows, max_atoms=1)[0] == []


def test_first_crystals_are_balanced_and_chemistries_differ():
    rows = [make_row(pair, 5.7, "a") for pair in (["Na", "Cl"], ["K", "Br"], ["Li", "Cl"], ["Na", "Br"])]
    rows += [make_row(pair, 6.0, "b", prototype="zinc blende") for pair in (["Na", "Cl"], ["K", "Cl"], ["Mg", "S"])]
    rows += [make_row(["Li", "F"], 2.5, "a", prototype="caesium chloride")]
    chosen, _ = choose(rows, n=3)
    assert {case.group for case in chosen} == {"a", "b", "fluoride"}
    longer, _ = choose(rows, n=9)
    assert [case.id for case in longer[:3]] == [case.id for case in chosen]
    assert len(longer) == 5  # of each of the two prototypes with more crystals, two at most
    assert len({case.chemistry for case in longer}) == 5


def test_settings_are_those_of_the_crystal_and_of_the_denser_grid():
    [case], _ = choose([make_row(["Li", "F"], 4.0, stretch=1.5)])
    shrunk = choosing.build_case(make_row(["Li", "F"], 4.0, stretch=0.5), choosing.Rules(), VALENCE.__getitem__)
    assert case.ecut == 800.0
    assert min(shrunk.kpts) > max(case.kpts)  # the relaxed cell is the smaller one
    assert case.strain == pytest.approx(np.log(1.5) / np.sqrt(3))
    assert not case.stratum[1]
    # MgO at 800 eV: sphere of plane waves, volume 18.5 Å^3, (2 m E)^(3/2) / (6 pi^2) with hbar^2 / 2m = 3.81 eV Å^2
    assert choosing.estimate_cost(1, 18.5, 800.0, 0.0) * 1e6 / 4 == pytest.approx(950.6, rel=1e-3)


def test_irreducible_kpoints():
    assert choosing.count_kpoints(make_cell(["Na", "Cl"], 5.7), (4, 4, 4)) == 8


def make_record(arm: str, number: int, n_scf: int, **more: Any) -> dict[str, Any]:
    structure = Structure(Lattice.cubic(3.0 + number), ["Na", "Cl"], AB)
    case = {
        "id": f"c{number}",
        "rank": number,
        "source": "s",
        "formula": f"F{number}",
        "chemistry": f"X{number}",
        "space_group": "Pm-3m",
        "n_sites": 2,
        "strain": 0.1,
        "displacement": 0.0,
        "pair_volume": structure.volume,
    }
    record = {
        "case": case,
        "arm": arm,
        "model_id": "m1" if arm in tables.PREDICTED else None,
        "n_scf": n_scf,
        "n_ionic": n_scf // 7,
        "cpu_s": n_scf / 2,
        "wall_s": n_scf,
        "prepare_s": 0.5,
        "converged": True,
        "energy_per_atom": -3.0,
        "volume": structure.volume,
        "start_volume": structure.volume,
        "relaxed": relaxing.pack_structure(structure),
        "message": None,
    }
    return record | more


def test_ratio_is_of_sums_and_pairs_are_drawn_together():
    below = np.array([10.0, 20.0, 30.0, 40.0, 400.0])
    proportional = tables.measure_ratio(0.5 * below, below)
    assert (proportional.ratio, proportional.low, proportional.high) == pytest.approx((0.5, 0.5, 0.5))
    mixed = tables.measure_ratio([1, 2, 3, 4, 400], below)
    assert mixed.ratio == pytest.approx(410 / 500)
    assert mixed.low == pytest.approx(0.1, abs=0.01)
    assert 0.9 < mixed.high < 1.0
    assert tables.measure_ratio([1, 2, 3, 4, 400], below) == mixed
    assert tables.measure_ratio([1.0], [2.0]).low is None


def test_totals_take_converged_pairs_and_charge_refusals_as_the_flow_does():
    records = [make_record("initial", number, 70) for number in range(1, 5)]
    records += [
        make_record("predicted", 1, 21),
        make_record("predicted", 2, 7, converged=False, message="not converged within its limits"),
        make_record("predicted", 3, 0, refused=True, converged=False, message="refuse: score"),
        make_record("chgnet", 1, 14),
    ]
    rows = tables.join_records([make_record("predicted", 4, 700, model_id="earlier"), *records])
    ratio = tables.compare_arms(rows, "predicted", "initial", "SCF iterations")
    assert (ratio.n, ratio.above, ratio.below) == (2, 21 + 70, 140)
    with_preparation = tables.compare_arms(rows, "predicted", "initial", "CPU time with the preparation")
    assert with_preparation.above == pytest.approx(10.5 + 35 + 2 * 0.5)
    assert tables.compare_arms(rows, "predicted", "chgnet", "ionic steps").ratio == pytest.approx(1.5)
    text = tables.write_tables(rows, [])
    assert "| SCF iterations | predicted / initial | 91 / 140 | 2 | **0.65** | too few |" in text
    assert "| 70 / (7) / - / - / - / - |" in text
    assert "| 70 / R / - / - / - / - |" in text
    assert "| all | 4 | 0.65 | - | - | 0.20 | - |" in text
    assert "- F2 (c2), predicted: not converged within its limits" in text
    assert "F4 (c4)" not in text


def test_basin_needs_energy_and_structure():
    reference = make_record("initial", 1, 70)
    assert tables.judge_basin(make_record("predicted", 1, 7), reference) == "yes"
    assert tables.judge_basin(make_record("predicted", 1, 7, energy_per_atom=-3.01), reference) == "lower"
    assert tables.judge_basin(make_record("predicted", 1, 7, energy_per_atom=-2.99), reference) == "higher"
    other = make_record("predicted", 1, 7)
    moved = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.0]])
    other["relaxed"] = relaxing.pack_structure(moved)
    assert tables.judge_basin(other, reference) == "other structure"


def test_interrupted_run_goes_on_and_failures_are_rows(tmp_path: Path):
    cases, _ = choose([make_row(["Na", "Cl"], 5.7), make_row(["K", "Br"], 6.6, "b")])
    arms = ("initial", "predicted")
    tasks = [savings.plan_task(case, rank, arm, "m1") for rank, case in enumerate(cases, 1) for arm in arms]
    assert len({task.key for task in tasks}) == 4
    ran: list[tuple[str, str]] = []
    path = tmp_path / "results.jsonl"

    def relax(task, start):
        ran.append((task.case.formula, task.arm))
        if len(ran) == 2:
            return {"message": "the process ended with status -9", "converged": False}
        return {"converged": True, "n_scf": 7, "start_id": identify_structure(start), "message": None}

    def predict(waiting):
        return {
            task.key: savings.Start(None, 0.1, True, "refuse: score")
            if task.case.formula == "KBr"
            else savings.Start(moved[task.case.formula], 0.1)
            for task in waiting
        }

    moved = {case.formula: case.initial.copy().scale_lattice(1.1 * case.initial.volume) for case in cases}
    run = savings.run_tasks(tasks, path, relax, predict)
    next(run)
    run.close()  # interrupted after the first
    assert len(ran) == 1
    assert len(list(savings.run_tasks(tasks, path, relax, predict))) == 3
    assert len(ran) == 3  # the refused prediction costs no relaxation
    assert list(savings.run_tasks(tasks, path, relax, predict)) == []
    messages = [record["message"] for record in savings.read_records(path).values()]
    assert sorted(filter(None, messages)) == ["refuse: score", "the process ended with status -9"]
    retried = list(savings.run_tasks(tasks, path, relax, predict, retry=True))
    assert [(record["arm"], record["converged"]) for record in retried] == [("predicted", True)]
    assert [record["message"] for record in savings.read_records(path).values()].count(None) == 3


def test_equal_starts_are_relaxed_once(tmp_path: Path):
    [case], _ = choose([make_row(["Na", "Cl"], 5.7)])
    tasks = [savings.plan_task(case, 1, arm, "m1") for arm in ("initial", "predicted", "polished")]
    ran: list[str] = []

    def relax(task, start):
        ran.append(task.arm)
        return {"converged": True, "n_scf": 7 * len(ran), "start_id": identify_structure(start)}

    def predict(waiting):
        return {task.key: savings.Start(moved, 0.1 if task.arm == "predicted" else 0.3) for task in waiting}

    moved = case.initial.copy().scale_lattice(1.1 * case.initial.volume)
    first, second, third = savings.run_tasks(tasks, tmp_path / "results.jsonl", relax, predict)
    assert ran == ["initial", "predicted"]
    assert (first["n_scf"], second["n_scf"], third["n_scf"]) == (7, 14, 14)
    assert third["same_as"] == "predicted"
    assert (third["arm"], third["prepare_s"]) == ("polished", 0.3)


def test_keys_belong_to_model_settings_and_arm():
    [case], _ = choose([make_row(["Na", "Cl"], 5.7)])
    assert len({savings.plan_task(case, 1, "predicted", model).key for model in ("m1", "m2")}) == 2
    same = {savings.plan_task(case, 1, "initial", model).key for model in ("m1", "m2")}
    assert len(same) == 1  # what starts elsewhere does not depend on the weights
    assert savings.plan_task(replace(case, kpts=(9, 9, 9)), 1, "initial", "m1").key not in same
    assert len({savings.plan_task(case, 1, arm, "m1").key for arm in tables.ARMS}) == len(tables.ARMS)


def test_generated_crystals_need_no_relaxed_structure():
    row = make_row(["Na", "K"], 5.7, "mattergen")
    del row["relaxed"]
    assert choose([row])[0] == []
    [case], _ = choose([row], needs_balance=False, needs_distance=False)
    assert (case.relaxed, case.strain, case.stratum) == (None, None, ("mattergen", True))
    assert savings.describe_case(case, 1)["pair_volume"] is None
    text = tables.write_tables([tables.Row(savings.describe_case(case, 1))], [])
    assert f"| 1 | {case.formula} | mattergen | 2, {case.space_group} | - |" in text
