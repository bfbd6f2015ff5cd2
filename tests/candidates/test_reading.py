from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.optimade import OptimadeStructureAdapter

from e3relax_flows.candidates.reading import read_structures

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CAESIUM = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
PAIR = {
    "id": "pair-1",
    "numbers": [11, 17],
    "initial": {"lattice": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]},
    "relaxed": {"lattice": [[3, 0, 0], [0, 3, 0], [0, 0, 3]], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]},
}


def read(*inputs):
    return list(read_structures(inputs))


def write_json(path: Path, content) -> Path:
    encoded = json.dumps(content).encode()
    path.write_bytes(gzip.compress(encoded) if path.suffix == ".gz" else encoded)
    return path


@pytest.mark.parametrize("name", ["salt.cif", "POSCAR", "CONTCAR.final", "POSCAR_17", "salt.vasp", "salt.xsf"])
def test_files_that_pymatgen_reads(tmp_path, name):
    formats = {"salt.cif": "cif", "salt.xsf": "xsf"}
    SALT.to(filename=str(tmp_path / "x"), fmt=formats.get(name, "poscar"))
    (tmp_path / "x").rename(tmp_path / name)
    (item,) = read(tmp_path / name)
    assert item.error is None
    assert item.id == {"salt.cif": "salt", "salt.vasp": "salt", "salt.xsf": "salt"}.get(name, name)
    assert item.structure.volume == pytest.approx(5.7**3, rel=1e-5)
    assert item.structure.composition == SALT.composition


def test_names_in_small_letters_and_compressed(tmp_path):
    CAESIUM.to(filename=str(tmp_path / "POSCAR"))
    shutil.move(tmp_path / "POSCAR", tmp_path / "poscar.cscl")
    CAESIUM.to(filename=str(tmp_path / "cscl.cif"))
    (tmp_path / "cscl.cif.gz").write_bytes(gzip.compress((tmp_path / "cscl.cif").read_bytes()))
    items = read(tmp_path / "poscar.cscl", tmp_path / "cscl.cif.gz")
    assert [item.id for item in items] == ["poscar.cscl", "cscl"]
    assert all(item.structure.volume == pytest.approx(4.1**3, rel=1e-6) for item in items)


def test_selective_dynamics_are_read(tmp_path):
    cell = CAESIUM.copy(site_properties={"selective_dynamics": [[True, True, False], [False] * 3]})
    cell.to(filename=str(tmp_path / "POSCAR"))
    (item,) = read(tmp_path / "POSCAR")
    assert np.array(item.structure.site_properties["selective_dynamics"]).tolist() == [[True, True, False], [False] * 3]


def test_poscar_without_names_is_refused_and_not_taken_for_hydrogen(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text("x\n1.0\n4 0 0\n0 4 0\n0 0 4\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n")
    (item,) = read(path)
    assert item.structure is None
    assert "Elements in POSCAR cannot be determined" in item.error


def test_extended_xyz_with_several_frames(tmp_path):
    pytest.importorskip("ase")
    line = 'Lattice="4 0 0 0 4 0 0 0 {}" Properties=species:S:1:pos:R:3 pbc="T T T"'
    frames = [f"2\n{line.format(c)}\nNa 0 0 0\nCl 2 2 2\n" for c in (4, 5)]
    (tmp_path / "run.extxyz").write_text("".join(frames))
    (tmp_path / "molecule.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    first, second, molecule = read(tmp_path / "run.extxyz", tmp_path / "molecule.xyz")
    assert [(item.id, round(item.structure.volume)) for item in (first, second)] == [("run-1", 64), ("run-2", 80)]
    assert molecule.structure is None
    assert "no cell" in molecule.error


def test_constraints_of_ase_are_read_or_refused_frame_by_frame(tmp_path):
    ase_io = pytest.importorskip("ase.io")
    from ase import Atoms, constraints

    atoms = Atoms("MgO", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3, 3, 3], pbc=True)
    held, bound, molecule = atoms.copy(), atoms.copy(), Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])
    held.set_constraint(constraints.FixedPlane([1], (0, 0, 1)))
    bound.set_constraint(constraints.FixBondLengths([[0, 1]]))
    ase_io.write(tmp_path / "run.traj", [atoms, held, bound, molecule])
    free, plane, lost = read(tmp_path / "run.traj")
    assert [item.id for item in (free, plane, lost)] == ["run-1", "run-2", "run-unread"]
    assert "selective_dynamics" not in free.structure.site_properties
    assert plane.structure.site_properties["selective_dynamics"] == [[True] * 3, [True, True, False]]
    assert "2 of 4 frames cannot be read: frame 3: the constraint FixBondLengths cannot be kept; remove" in lost.error
    assert "frame 4: it has no cell" in lost.error


def test_held_atoms_of_a_trajectory_of_the_field_trial():
    pytest.importorskip("ase")
    (item,) = read(Path(__file__).parents[1] / "files" / "odd" / "fixscaled.traj")
    assert item.structure.site_properties["selective_dynamics"] == [[False] * 3] * 2 + [[True] * 3] * 6


@pytest.mark.parametrize("switches", ["T F .TRUE.", ".FALSE. T T", "t t f"])
def test_selective_dynamics_in_words_that_pymatgen_misreads_are_refused(tmp_path, switches):
    """VASP reads them; pymatgen takes all but T for F."""
    site = "0.5 0.5 0.5"
    (tmp_path / "POSCAR").write_text(
        f"x\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nSelective\nDirect\n0 0 0 T T T\n{site} {switches}\n"
    )
    (item,) = read(tmp_path / "POSCAR")
    assert item.structure is None
    assert "Selective dynamics values must be either 'T' or 'F'" in item.error


def test_every_block_of_a_cif_is_accounted_for(tmp_path):
    one, two = CAESIUM.to(fmt="cif"), SALT.to(fmt="cif")
    bad = one.replace("data_CsCl", "data_bad").replace("_cell_length_a", "_cell_length_q")
    (tmp_path / "all.cif").write_text(one + "\n" + bad + "\n" + two)
    items = read(tmp_path / "all.cif")
    assert [item.id for item in items] == ["all-1", "all-2", "all-unread"]
    assert [len(item.structure) for item in items[:2]] == [2, 8]
    assert "1 of 3 blocks cannot be read" in items[2].error


def test_folders_are_read_one_level_deep_and_sorted(tmp_path):
    for name in ("b/POSCAR", "a/POSCAR", "z.cif", "a/deep/POSCAR", ".hidden/POSCAR.bak"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        CAESIUM.to(filename=str(tmp_path / name), fmt="cif" if name.endswith("cif") else "poscar")
    for name in ("INCAR", "README.md", "a/notes.txt", ".DS_Store"):
        (tmp_path / name).write_text("nothing")
    items = read(tmp_path)
    assert [item.id for item in items] == ["POSCAR", "POSCAR-2", "z"]
    assert all(item.error is None for item in items)


def test_folder_without_structures_says_so(tmp_path):
    (item,) = read(tmp_path)
    assert item.structure is None
    assert "no structures in this folder" in item.error


def test_json_lists_dictionaries_and_single_structures(tmp_path):
    salt, caesium = SALT.as_dict(), CAESIUM.as_dict()
    single = write_json(tmp_path / "single.json", salt)
    listed = write_json(tmp_path / "list.json.gz", [salt, {"material_id": "mp-22851", "structure": caesium}, PAIR])
    keyed = write_json(tmp_path / "keys.json", {"x": caesium, "y": {"id": "other", "structure": salt}})
    items = read(single, listed, keyed)
    assert [item.id for item in items] == ["single", "list-1", "mp-22851", "pair-1", "x", "y"]
    assert [len(item.structure) for item in items] == [8, 8, 2, 2, 2, 8]
    assert items[3].structure.volume == pytest.approx(64.0)
    assert [site.specie.symbol for site in items[3].structure] == ["Na", "Cl"]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_lines(tmp_path, ending):
    path = tmp_path / f"many{ending}"
    lines = [json.dumps(PAIR), "", json.dumps(CAESIUM.as_dict()), "{broken", json.dumps({"id": "e", "structure": None})]
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    items = read(path)
    assert [item.id for item in items] == ["pair-1", "many-3", "many-4", "many-5"]
    assert [item.structure is None for item in items] == [False, False, True, True]
    assert "line 4: not JSON" in items[2].error
    assert "line 5: no structure" in items[3].error


def test_lines_are_streamed(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text((json.dumps(PAIR) + "\n") * 3 + "x" * 100)
    stream = read_structures([path])
    assert [next(stream).id for _ in range(3)] == ["pair-1", "pair-1-2", "pair-1-3"]


def test_what_cannot_be_read_costs_nothing_else(tmp_path):
    CAESIUM.to(filename=str(tmp_path / "good.cif"))
    (tmp_path / "bad.cif").write_text("data_x\n_cell_length_a hello\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(PAIR).encode() * 50)[:40])
    (tmp_path / "odd.json").write_text("[1, {}]")
    (tmp_path / "notes.txt").write_text("hello")
    broken = CAESIUM.as_dict()
    broken["sites"][1]["species"] = [{"element": "Qq", "occu": 1}]
    write_json(tmp_path / "broken.json", {"fine": CAESIUM.as_dict(), "odd": broken})
    names = ["bad.cif", "cut.jsonl.gz", "odd.json", "notes.txt", "none.cif", "broken.json", "good.cif"]
    items = read(*(tmp_path / name for name in names))
    assert [item.id for item in items] == ["bad", "cut", "odd-1", "odd-2", "notes.txt", "none", "fine", "odd", "good"]
    assert [item.structure is not None for item in items] == [False] * 6 + [True, False, True]
    assert all((item.structure is None) == (item.error is not None) for item in items)
    assert all("give " in item.error or "check it: " in item.error for item in items[:6])
    assert "there is no such file" in items[5].error
    assert "Qq" in items[7].error or "species" in items[7].error


def test_ids_are_unique(tmp_path):
    names = ["a/x.cif", "b/x.cif", "c/x-2.cif", "d/x.cif"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        CAESIUM.to(filename=str(tmp_path / name))
    ids = [item.id for item in read(*(tmp_path / name for name in names))]
    assert ids == ["x", "x-2", "x-2-2", "x-3"]


def test_advice_is_about_the_file_where_its_name_is_known(tmp_path):
    """Two of the three sites that the line of counts promises are there."""
    (tmp_path / "POSCAR_cut").write_text("NaCl2\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 2\ndirect\n0 0 0\n0.5 0.5 0.5\n")
    (tmp_path / "cut.cif").write_text("data_x\n_cell_length_a 4\n")
    (tmp_path / "notes.txt").write_text("notes")
    poscar, cif, notes = read_structures(tmp_path / name for name in ("POSCAR_cut", "cut.cif", "notes.txt"))
    assert "do the numbers of atoms match" in poscar.error
    assert "the format of its name" in cif.error
    assert "give files that pymatgen reads" in notes.error


def test_saved_answers_of_optimade_are_read_as_their_source_reads_them(tmp_path):
    salt = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    attributes = OptimadeStructureAdapter.get_optimade_structure(salt)["attributes"]
    good = {"id": "odbx/1", "type": "structures", "attributes": attributes}
    layer = {"id": "odbx/2", "type": "structures", "attributes": attributes | {"dimension_types": [1, 1, 0]}}
    page = {"data": [good, layer], "meta": {"api_version": "1.1.0"}}
    (tmp_path / "page.json").write_text(json.dumps(page))
    (tmp_path / "one.json").write_text(json.dumps(good))
    (tmp_path / "list.json").write_text(json.dumps([good, salt.as_dict()]))
    (tmp_path / "empty.json").write_text(json.dumps({"errors": [{"detail": "no"}], "meta": {"api_version": "1.1.0"}}))
    lines = [{"x-optimade": {"meta": {"api_version": "1.1.0"}}}, good]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = {name: list(read_structures([tmp_path / name])) for name in os.listdir(tmp_path)}
    first, second = items["page.json"]
    assert (first.id, first.structure.volume) == ("odbx/1", pytest.approx(64))
    assert "periodic along [1, 1, 0]" in second.error
    assert [item.id for name in ("one.json", "lines.jsonl") for item in items[name]] == ["odbx/1"] * 2
    assert [item.structure.volume for item in items["list.json"]] == pytest.approx([64, 64])
    (failed,) = items["empty.json"]
    assert "the server answered with errors: [{'detail': 'no'}]" in failed.error
