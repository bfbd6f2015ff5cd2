from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from crystals import build_prototypes, flip_hand
from fake_networks import Allergic, Contraction, Identity, Scripted, SmallMemory, Springs
from pymatgen.core import IStructure, Lattice, Molecule, Structure

import e3relax_flows
from e3relax_flows import Constraints, PredictOptions, Predictor
from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.core.geometry import measure_log_strain
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.predict import predictor as predictor_module
from e3relax_flows.predict.batches import BatchLimits, BatchRunner
from e3relax_flows.schemas.predictions import Prediction, Reason, Verdict

FREE = PredictOptions(symmetry="free")


def make_salts(number: int) -> list[Structure]:
    return [
        Structure(Lattice.cubic(3.2 + 0.6 * index / number), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for index in range(number)
    ]


@pytest.fixture
def contraction() -> Predictor:
    return Predictor(Contraction(volume_per_atom=20.0, fraction=0.9), "m-1", {}, "cpu")


def test_bad_items_cost_the_others_nothing(contraction):
    good = make_salts(4)
    mixed = [good[0], None, good[1], "POSCAR", Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]]), good[2], {}, good[3]]
    predictions = contraction.predict(mixed, FREE, ids=[f"s{index}" for index in range(8)])
    alone = contraction.predict(good, FREE)
    assert [p.id for p in predictions] == [f"s{index}" for index in range(8)]
    assert [p.verdict.value for p in predictions] == [
        "accept", "error", "accept", "error", "error", "accept", "error", "accept",
    ]  # fmt: skip
    for index in (1, 3, 4, 6):
        assert predictions[index].reasons == [Reason.NOT_A_STRUCTURE]
        assert predictions[index].structure is None
        assert predictions[index].message.startswith(f"s{index}: ")
    for mine, other in zip([predictions[i] for i in (0, 2, 5, 7)], alone, strict=True):
        assert np.array_equal(mine.structure.lattice.matrix, other.structure.lattice.matrix)
        assert mine.score == other.score


def test_order_is_kept_although_batches_are_sorted(contraction):
    cells = [s for _, s in sorted(build_prototypes().items())]
    predictions = contraction.predict(cells, FREE)
    for cell, prediction in zip(cells, predictions, strict=True):
        assert prediction.initial is cell
        assert prediction.structure.species == cell.species
        # two passes, each nine tenths of the way in the logarithm of the volume
        expected = np.log(cell.volume / len(cell) / 20.0) * 0.01
        assert np.log(prediction.structure.volume / len(cell) / 20.0) == pytest.approx(expected, abs=1e-9)


def test_passes_and_score_follow_the_network(contraction):
    cell = Structure(Lattice.cubic(4.0), ["Au"], [[0, 0, 0]])  # 64 Å³ for one atom, to become 20
    once, twice = (contraction.predict([cell], PredictOptions(passes=n, stop_below=0.0))[0] for n in (1, 2))
    gap = np.log(20 / 64)
    assert (once.n_passes, twice.n_passes) == (1, 2)
    assert np.log(once.volume_ratio) == pytest.approx(0.9 * gap, abs=1e-12)
    assert np.log(twice.volume_ratio) == pytest.approx(0.99 * gap, abs=1e-12)
    # an isotropic strain of ln(ratio)/3 has the norm ln(ratio)/√3; the residual is 0.9 of the gap that is left
    spacing = (64 * np.exp(0.9 * gap)) ** (1 / 3)
    assert once.score == pytest.approx(0.9 * 0.1 * abs(gap) / np.sqrt(3) * spacing, rel=1e-9)
    assert once.strain == pytest.approx(0.9 * abs(gap) / np.sqrt(3), rel=1e-9)
    assert contraction.network.batch_sizes == [1] * 2 + [1] * 3


def test_stops_early_and_takes_the_last_move_as_residual(contraction):
    near, far = (
        Structure(Lattice.cubic(2.7145), ["Au"], [[0, 0, 0]]),
        Structure(Lattice.cubic(3.6), ["Au"], [[0, 0, 0]]),
    )
    options = PredictOptions(passes=4, stop_below=0.02)
    predictions = contraction.predict([far, near], options)
    assert [p.n_passes for p in predictions] == [3, 1]
    assert contraction.network.batch_sizes == [2, 1, 1]
    for cell, prediction, left in zip((far, near), predictions, (0.01, 1.0), strict=True):
        gap = abs(np.log(20 / cell.volume)) * left
        before = 20 * (cell.volume / 20) ** left
        assert prediction.score == pytest.approx(0.9 * gap / np.sqrt(3) * before ** (1 / 3), rel=1e-6)
        assert prediction.score < 0.02


def test_memory_that_ends_halves_the_batch_and_is_remembered():
    predictor = Predictor(SmallMemory(max_atoms=6), "m-1", {}, "cpu")
    salts = make_salts(16)
    predictions = predictor.predict(salts, PredictOptions(passes=1, stop_below=0.0, symmetry="free"))
    expected = Predictor(Contraction(), "m-1", {}, "cpu").predict(
        salts, PredictOptions(passes=1, stop_below=0.0, symmetry="free")
    )
    assert all(p.verdict == Verdict.ACCEPT for p in predictions)
    assert [p.volume_ratio for p in predictions] == [p.volume_ratio for p in expected]
    assert [size for size in predictor.network.batch_sizes if size < 0] == [-16, -8, -4]
    assert predictor.runner.limits == (5, 57)  # two thirds of 0.8 % of 1,000 and 10,000, rounded down thrice
    predictor.network.batch_sizes.clear()
    predictor.predict(salts[:8], FREE)
    assert max(predictor.network.batch_sizes) == 2
    assert min(predictor.network.batch_sizes) > 0


def test_an_item_that_never_fits_is_an_error():
    predictor = Predictor(SmallMemory(max_atoms=6), "m-1", {}, "cpu")
    big = make_salts(1)[0].make_supercell([2, 2, 1], in_place=False)
    predictions = predictor.predict([*make_salts(2), big], FREE, ids=["a", "b", "big"])
    assert [p.verdict.value for p in predictions] == ["accept", "accept", "error"]
    assert predictions[2].reasons == [Reason.FAILED]
    assert "big: 8 atoms" in predictions[2].message
    assert "memory" in predictions[2].message


def test_only_the_guilty_item_fails():
    predictor = Predictor(Allergic(79), "m-1", {}, "cpu")
    gold = Structure(Lattice.cubic(3.0), ["Au"], [[0, 0, 0]])
    cells = [*make_salts(5), gold, *make_salts(4)]
    predictions = predictor.predict(cells, FREE)
    assert [p.verdict == Verdict.ERROR for p in predictions] == [False] * 5 + [True] + [False] * 4
    assert predictions[5].reasons == [Reason.FAILED]
    assert "ValueError: cannot stand 79" in predictions[5].message


def test_batches_keep_to_the_limits(contraction):
    contraction.runner.limits = BatchLimits(max_atoms=7, max_edges=10**6)
    contraction.predict(make_salts(10), PredictOptions(passes=1, stop_below=0.0, symmetry="free"))
    assert contraction.network.batch_sizes == [3, 3] * 3 + [1, 1]


def test_streams_in_windows(contraction, monkeypatch):
    monkeypatch.setattr(predictor_module, "WINDOW_STRUCTURES", 20)
    cell = Structure(Lattice.cubic(2.7144), ["Au"], [[0, 0, 0]])
    drawn = 0

    def draw():
        nonlocal drawn
        for _ in range(500):
            drawn += 1
            yield cell

    ahead, received, calls = 0, 0, []
    options = PredictOptions(symmetry="free", passes=1)
    for _ in contraction.iter_predict(draw(), options, on_progress=lambda done, total: calls.append((done, total))):
        received += 1
        ahead = max(ahead, drawn - received)
    assert received == drawn == 500
    assert ahead <= 20
    assert calls[-1] == (500, 500)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_window_also_ends_by_its_atoms(contraction, monkeypatch):
    monkeypatch.setattr(predictor_module, "WINDOW_ATOMS", 6)
    stream = contraction.iter_predict(iter(salts := make_salts(5)), FREE)
    assert [next(stream).initial is salt for salt in salts] == [True] * 5
    assert list(stream) == []


def test_progress_reaches_the_number_of_items(contraction):
    calls: list[tuple[int, int]] = []
    contraction.predict([*make_salts(3), None], FREE, on_progress=lambda *call: calls.append(call))
    assert calls[0] == (1, 4)  # the bad one is known at once
    assert calls[-1] == (4, 4)


def test_nothing_in_nothing_out(contraction):
    assert contraction.predict([]) == []
    assert contraction.network.batch_sizes == []


def test_refuses_one_structure_and_wrong_ids(contraction):
    salts = make_salts(3)
    with pytest.raises(ConfigError, match=r"predict\(\[structure\]\)"):
        contraction.predict(salts[0])
    with pytest.raises(ConfigError, match=r"^2 ids .* 3 structures"):
        contraction.predict(salts, ids=["a", "b"])
    with pytest.raises(ConfigError, match=r"^2 ids .*more"):
        contraction.predict(iter(salts), ids=["a", "b"])
    with pytest.raises(ConfigError, match=r"^4 ids .* 3 structures"):
        contraction.predict(iter(salts), ids=list("abcd"))


def test_refuses_what_only_looks_like_a_list_and_ids_that_are_no_strings(contraction):
    salts = make_salts(2)
    with pytest.raises(ConfigError, match=r"\bIStructure; .*predict\(\[structure\]\)"):
        contraction.predict(IStructure.from_sites(salts[0].sites))
    with pytest.raises(ConfigError, match=r"\bMolecule; .*predict\(\[structure\]\)"):
        contraction.predict(Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]]))
    with pytest.raises(ConfigError, match=r"id 7 .*\bint; .*str\(id\)"):
        contraction.predict(salts, ids=["a", 7])
    assert contraction.network.batch_sizes == []


def test_single_options_by_name(contraction):
    cell = Structure(Lattice.cubic(4.0), ["Au"], [[0, 0, 0]])
    options = PredictOptions(passes=1, stop_below=0.0, constraints=Constraints(fix_cell=True))
    assert contraction.predict([cell], passes=3, stop_below=0.0)[0].n_passes == 3
    changed = contraction.predict([cell], options, passes=2)[0]
    assert (changed.n_passes, changed.volume_ratio) == (2, 1.0)  # the other options stay
    free = contraction.predict([cell], options, constraints={"fix_cell": False})[0]
    assert (free.n_passes, round(free.volume_ratio, 2)) == (1, 0.35)
    with pytest.raises(ConfigError, match=r"pases: .*\(got 3\); .* passes, stop_below"):
        contraction.predict([cell], pases=3)
    with pytest.raises(ConfigError, match=r"passes: .*\(got 0\)"):
        contraction.iter_predict([cell], options, passes=0)
    with pytest.raises(ConfigError, match=r"\bdict; .*PredictOptions\(.*passes=3"):
        contraction.predict([cell], {"passes": 3})


def test_predictions_are_plain_json(contraction):
    cell = Structure(Lattice.cubic(4.0), ["Au"], [[0, 0, 0]], site_properties={"magmom": [np.float64(-1.5)]})
    good, bad = contraction.predict([cell, None], ids=["good", "bad"])
    for prediction in (good, bad):
        again = Prediction.model_validate_json(prediction.model_dump_json())
        assert again == prediction
    assert json.loads(good.model_dump_json())["structure"]["sites"][0]["properties"] == {"magmom": -1.5}


def test_left_handed_cells_come_back_left_handed():
    predictor = Predictor(Springs(), "m-1", {}, "cpu")
    for name in ("quartz", "wurtzite", "monoclinic"):
        right = build_prototypes()[name]
        for symmetry in ("keep", "free"):
            first, second = predictor.predict([right, flip_hand(right)], PredictOptions(symmetry=symmetry))
            assert np.linalg.det(second.structure.lattice.matrix) < 0 < np.linalg.det(first.structure.lattice.matrix)
            assert second.volume_ratio == pytest.approx(first.volume_ratio, abs=1e-9)
            assert second.volume_ratio > 0
            assert second.displacement == pytest.approx(first.displacement, abs=1e-9)
            assert np.allclose(second.structure.cart_coords, first.structure.cart_coords, atol=1e-9)


def test_lattice_is_strained_without_rotation_and_atoms_are_followed():
    """A network that turns the crystal by 30 degrees and moves atom 1 across the border of the cell."""
    turn = np.array([[np.sqrt(0.75), 0.5, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, 1]])
    stretch = np.array([[1.02, 0.01, 0], [0.01, 0.97, 0.005], [0, 0.005, 1.01]])

    def script(_, positions, lattice):
        fractions = positions @ np.linalg.inv(lattice) + np.array([[0.0, 0, 0], [0.03, 0, 0]])
        moved = lattice @ stretch @ turn
        return fractions @ moved, moved

    cell = Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 100), ["Na", "Cl"], [[0, 0, 0], [0.985, 0.5, -1.5]])
    predictor = Predictor(Scripted(script), "m-1", {}, "cpu")
    prediction = predictor.predict([cell], PredictOptions(passes=1, symmetry="free"))[0]
    assert np.allclose(prediction.structure.lattice.matrix, cell.lattice.matrix @ stretch, atol=1e-10)
    expected = np.array([[-0.015, 0, 0], [1.0, 0.5, -1.5]])  # the drift of 0.015 is taken out
    assert np.allclose(prediction.structure.frac_coords, expected, atol=1e-10)
    strain = measure_log_strain(cell.lattice.matrix, cell.lattice.matrix @ stretch)
    assert prediction.strain == pytest.approx(np.linalg.norm(strain), abs=1e-10)
    shift = np.linalg.norm([0.015, 0, 0] @ prediction.structure.lattice.matrix)
    assert prediction.displacement == pytest.approx(shift, abs=1e-10)
    assert prediction.max_displacement == pytest.approx(shift, abs=1e-10)
    assert prediction.volume_ratio == pytest.approx(np.linalg.det(stretch), abs=1e-10)


def test_what_is_written_on_the_input_comes_through():
    cell = Structure(
        Lattice.cubic(3.9),
        ["O2-", "Sr2+", "Ti4+", "O2-", "O2-"],
        [[0.5, 0.5, 0.02], [0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        charge=1,
        site_properties={
            "magmom": [0.0, -1.5, 2.5, 0.1, None],
            "selective_dynamics": [[True] * 3] * 5,
            "velocities": [[0.1, 0.2, 0.3]] * 5,
        },
        labels=["apex", "A", "B", "O1", "O2"],
        properties={"source": {"icsd": 17}},
    )
    before = cell.as_dict()
    prediction = Predictor(Springs(), "m-1", {}, "cpu").predict([cell], ids=["sto"])[0]
    after = prediction.structure
    assert prediction.verdict == Verdict.ACCEPT
    assert after.site_properties == cell.site_properties
    assert after.labels == ["apex", "A", "B", "O1", "O2"]
    assert [site.species_string for site in after] == ["O2-", "Sr2+", "Ti4+", "O2-", "O2-"]
    assert after.charge == 1
    assert after.properties == {"source": {"icsd": 17}}
    assert not np.allclose(after.lattice.matrix, cell.lattice.matrix, atol=1e-3)
    after.properties["source"]["icsd"] = 18
    after[0].properties["magmom"] = 9.0
    assert cell.as_dict() == before
    assert Structure.from_dict(prediction.model_dump(mode="python")["structure"].as_dict()) == after


def test_prediction_says_who_made_it_and_how_long_it_took(contraction):
    big, small = make_salts(1)[0].make_supercell([2, 2, 2], in_place=False), make_salts(1)[0]
    first, second = contraction.predict([big, small], FREE)
    assert first.model_id == second.model_id == "m-1"
    assert first.wall_time_s > 0
    assert second.wall_time_s > 0
    assert first.id is None


def test_a_failing_build_costs_one_item(contraction, monkeypatch):
    build = contraction.network.build_crystal

    def build_or_fail(numbers, positions, lattice):
        if 11 in numbers:
            raise RuntimeError("no sodium")
        return build(numbers, positions, lattice)

    monkeypatch.setattr(contraction.network, "build_crystal", build_or_fail)
    salt = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    predictions = contraction.predict([make_salts(1)[0], salt], FREE)
    assert [p.verdict.value for p in predictions] == ["accept", "error"]
    assert predictions[1].message.startswith("structure 1: RuntimeError: no sodium")


def test_identity_changes_nothing():
    cells = list(build_prototypes().values())
    for prediction in Predictor(Identity(), "m-1", {}, "cpu").predict(cells):
        assert prediction.verdict == Verdict.ACCEPT
        assert np.abs(prediction.structure.lattice.matrix - prediction.initial.lattice.matrix).max() < 1e-12
        assert np.abs(prediction.structure.frac_coords - prediction.initial.frac_coords).max() < 1e-9
        assert prediction.score < 1e-12
        assert prediction.n_passes == 1


def test_default_network_with_fresh_weights_agrees_alone_and_in_company():
    torch.manual_seed(0)
    predictor = Predictor(E3RelaxH2().double(), "m-1", {}, "cpu")
    cells = [build_prototypes()[name] for name in ("quartz", "spinel", "bcc, one atom", "triclinic")]
    together = predictor.predict(cells, FREE)
    for cell, prediction in zip(cells, together, strict=True):
        alone = predictor.predict([cell], FREE)[0]
        assert np.allclose(alone.structure.frac_coords, prediction.structure.frac_coords, atol=1e-10)
        assert np.allclose(alone.structure.lattice.matrix, prediction.structure.lattice.matrix, atol=1e-10)
        assert alone.score == pytest.approx(prediction.score, abs=1e-9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_not_replaced():
    with pytest.raises(ConfigError, match=r"'cuda'.*--device cpu"):
        Predictor(Identity(), "m-1", {}, "cuda")
    with pytest.raises(ConfigError, match="'gpu' is unknown"):
        Predictor(Identity(), "m-1", {}, "gpu")
    with pytest.raises(ConfigError, match="float64"):
        Predictor(Identity(), "m-1", {}, "mps")
    assert Predictor(Identity(), "m-1", {}, "auto").device == torch.device("cpu")


def test_unknown_model_names_the_known_ones():
    with pytest.raises(ModelError, match="'no-such-model'"):
        Predictor.load("no-such-model", "cpu")


def test_bundled_model_predicts_and_keeps_symmetry():
    predictor = Predictor.load()
    cells = build_prototypes()
    predictions = predictor.predict([cells["rutile"], cells["rock salt"]], PredictOptions(constraints=Constraints()))
    assert all(p.structure is not None and p.model_id == predictor.model_id for p in predictions)
    for prediction in predictions:
        assert prediction.structure.get_space_group_info(1e-5)[1] == prediction.initial.get_space_group_info(1e-5)[1]
        assert 0.8 < prediction.volume_ratio < 1.25


@pytest.mark.parametrize(
    ("model", "lengths"),
    [  # Å, of the conventional cell, as DFT has them with each functional
        ("base", {"Si": 5.469, "NaCl": 5.692}),
        ("small", {"Si": 5.469, "NaCl": 5.692}),
        ("small-pbesol", {"Si": 5.435, "NaCl": 5.600}),
        ("small-r2scan", {"Si": 5.444, "NaCl": 5.588}),
    ],
)
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_the_bundled_models_predict_the_cells_of_their_functionals(model, lengths, factor):
    starts = {
        "Si": Structure.from_spacegroup("Fd-3m", Lattice.cubic(factor * lengths["Si"]), ["Si"], [[0, 0, 0]]),
        "NaCl": Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic(factor * lengths["NaCl"]), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
        ),
    }
    for name, prediction in zip(starts, Predictor.load(model).predict(list(starts.values())), strict=True):
        assert prediction.structure.lattice.a == pytest.approx(lengths[name], rel=0.005)


def test_package_imports_without_torch():
    code = (
        "import sys, e3relax_flows; from e3relax_flows import Prediction, PredictOptions, Constraints, GuardLimits; "
        "print('torch' in sys.modules, 'Predictor' in dir(e3relax_flows))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match=r"it has .*\bConstraints\b"):
        e3relax_flows.Nonsense  # noqa: B018


def test_batches_hold_crystals_of_similar_numbers_of_edges_per_atom() -> None:
    network = Contraction()
    rng = np.random.default_rng(0)
    crystals = [network.build_crystal(np.full(n, 11), rng.random((n, 3)) * 5, 5.0 * np.eye(3)) for n in (8, 2, 9, 2)]
    assert crystals[0].most_edges == np.bincount(crystals[0].edges.centers).max()
    runner = BatchRunner(network, torch.device("cpu"), BatchLimits(1_000, 1))
    most = [crystals[index].most_edges for batch in runner.plan(crystals) for index in batch]
    assert most == sorted(most)
    assert len(set(most)) > 2
