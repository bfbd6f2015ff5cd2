"""Starts made of other relaxed structures: whose elements, whose geometry, and what is left out."""

from __future__ import annotations

import gzip
import json

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.train.dataset import load_pairs

EDGES = {("Na", "Cl"): 5.69, ("K", "Cl"): 6.38, ("K", "Br"): 6.71, ("Li", "F"): 4.08}  # Å


@pytest.fixture
def pair_file(tmp_path):
    """Rock salts, one of them in another cell and with another origin, and one caesium chloride."""
    structures = {}
    for (cation, anion), a in EDGES.items():
        salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5] * 3])
        structures[cation + anion] = salt.get_primitive_structure()
    other = structures["KBr"]
    other.translate_sites([0, 1], [0.3, 0.1, 0.2])
    structures["KBr"] = Structure(
        [[1, 1, 0], [0, 1, 0], [0, 0, 1]] @ other.lattice.matrix,
        other.species,
        other.cart_coords,
        coords_are_cartesian=True,
    )
    structures["CsCl"] = Structure(Lattice.cubic(4.14), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for name, structure in structures.items():
            side = {"lattice": structure.lattice.matrix.tolist(), "frac": structure.frac_coords.tolist()}
            row = {"id": name, "source": "mine", "functional": "PBE", "group": f"group of {name}", "initial": side}
            file.write(json.dumps(row | {"numbers": list(structure.atomic_numbers), "relaxed": side}) + "\n")
    return path


def test_a_start_has_the_elements_of_the_target_and_the_geometry_of_the_donor(run_script, pair_file, capsys):
    assert run_script("10_recombine_starts.py", pair_file, "--per-target", 2) == 0
    out = pair_file.with_name("recombined-pairs.jsonl.gz")
    assert capsys.readouterr().out == f"{out}: 8 starts for 4 of 5 targets\n"
    targets, starts = load_pairs([pair_file]), load_pairs([out])
    assert set(starts.sources) == {"recombined"}
    for index, name in enumerate(starts.ids):
        target, donor = name.split(" from ")
        assert target != donor
        assert starts.groups[index] == f"group of {target}"
        assert starts.functionals[index] == "PBE"
        pair, truth = starts[index], targets[targets.ids.index(target)]
        assert pair.build_initial().composition == pair.build_relaxed().composition == truth.build_relaxed().composition
        volumes = pair.build_initial().volume, pair.build_relaxed().volume
        elements = tuple(str(element) for element in targets[targets.ids.index(donor)].build_relaxed().elements)
        donor_edge = next(a for names, a in EDGES.items() if set(names) == set(elements))
        assert volumes[0] == pytest.approx(donor_edge**3 / 4, rel=1e-6)
        assert volumes[1] == pytest.approx(truth.build_relaxed().volume, rel=1e-6)
        lengths = [
            side.get_distance(0, 1) / side.volume ** (1 / 3) for side in (pair.build_initial(), pair.build_relaxed())
        ]
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)  # cation in the place of the cation


def test_most_elements_are_shared_first(run_script, pair_file):
    assert (
        run_script("10_recombine_starts.py", pair_file, "--per-target", 1, "--out", pair_file.with_name("one.jsonl"))
        == 0
    )
    donors = dict(name.split(" from ") for name in load_pairs([pair_file.with_name("one.jsonl")]).ids)
    assert donors["NaCl"] == "KCl"
    assert donors["KBr"] == "KCl"
    assert donors["KCl"] in {"NaCl", "KBr"}
