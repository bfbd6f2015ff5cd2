"""CIFs whose sites are not the atoms that they state, and those that only look so."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core import Structure

from e3relax_flows.candidates.cif import read_cif
from e3relax_flows.candidates.reading import read_structures

ODD = Path(__file__).parents[1] / "files" / "odd"
P1 = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n"
CENTRED = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\nx+1/2,y+1/2,z\nx+1/2,y,z+1/2\nx,y+1/2,z+1/2\n"
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
SODIUM, CHLORINE = "Na1 Na 0 0 0 1", "Cl1 Cl 0.5 0.5 0.5 1"


def write(*sites: str, formula: str | None = None, symmetry: str = P1, name: str = "x", columns=COLUMNS) -> str:
    """A cubic CIF of 5 Å."""
    cell = "".join(f"_cell_length_{axis} 5\n" for axis in "abc")
    cell += "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    stated = f"_chemical_formula_sum '{formula}'\n" if formula else ""
    loop = "loop_\n" + "".join(f"_atom_site_{column}\n" for column in columns)
    return f"data_{name}\n{cell}{stated}{symmetry}{loop}" + "\n".join(sites) + "\n"


REFUSED = {
    "an element of the formula is missing": (write(SODIUM, CHLORINE, formula="Na Cl H"), "has H, and no site has"),
    "two are missing": (write(SODIUM, CHLORINE, formula="C2 Cl H4 Na"), "has H, C, and no site has"),
    "deuterium is missing": (write(SODIUM, CHLORINE, formula="Na Cl D2"), "formula 'Na Cl D2' has H, and no site has"),
    "an element that the formula has not": (
        write(SODIUM, CHLORINE, "CA Ca 0.5 0 0 1", formula="C Na Cl"), "has C, and no site has",
    ),
    "one more element": (write(SODIUM, CHLORINE, formula="Na"), "its sites have Cl, and its formula 'Na' has not"),
    "atoms are missing": (write(SODIUM, CHLORINE, formula="Na Cl2"), "sites make Na1 Cl1, not its formula 'Na Cl2'"),
    "symmetry is missing": (
        write(SODIUM, "Cl1 Cl 0.25 0.25 0.25 1", "Cl2 Cl 0.75 0.75 0.75 1", formula="Na4 Cl8 O4", symmetry=""),
        "Defaulting to P1",
    ),
    "unknown coordinates": (write(SODIUM, "Cl1 Cl ? ? ? 1"), "site Cl1 has no coordinates (? ? ?)"),
    "one unknown coordinate": (write(SODIUM, "Cl1 Cl 0.5 0.5 ? 1"), "site Cl1 has no coordinates (0.5 0.5 ?)"),
    "coordinates that are words": (write(SODIUM, "Cl1 Cl a b c 1"), "could not convert string to float: 'a'"),
    "two atoms at one point": (
        write(SODIUM, "K1 K 0 0 0 1", CHLORINE), "the sites Na1 (Na, 1), K1 (K, 1) are at one point",
    ),
    "an atom twice": (write(SODIUM, "Na2 Na 1 0 -1 1", CHLORINE), "Na1 (Na, 1), Na2 (Na, 1) are at one point"),
    "more than one atom in all": (
        write("Na1 Na 0 0 0 0.7", "K1 K 0 0 0 0.6", CHLORINE), "Na1 (Na, 0.7), K1 (K, 0.6) are at one point",
    ),
    "hydrogen and deuterium": (
        write("D1 D+ 0 0 0 0.5", "H1 H+ 0 0 0 0.5", CHLORINE), "D1 (D+, 0.5), H1 (H+, 0.5) are at one point",
    ),
    "hydrogen without a place": (
        write("O1 O 0 0 0 2", columns=("label", "type_symbol", "fract_x", "fract_y", "fract_z", "attached_hydrogens")),
        "site O1 has 2 hydrogen atoms without coordinates",
    ),
    "water as one site": (write("Wat1 Wat 0 0 0 1", SODIUM), "Wat"),
    "ammonia as one site": (write("N1 NH3 0.2 0 0 1", SODIUM), "of kind NH3"),
    "hydroxide as one site": (write("OH1 OH 0.2 0 0 1", SODIUM), "not a single atom"),
    "an occupancy of the default": (write(SODIUM, "Cl1 Cl 0.5 0.5 0.5 ."), "occupancy of site Cl1 is '.'"),
    "one site outside of a loop": (
        write().replace("loop_\n_atom", "_atom").replace("fract_x", "fract_x 0").replace("fract_y", "fract_y 0")
        .replace("fract_z", "fract_z 0").replace("_label", "_label Na1").replace("type_symbol", "type_symbol Na")
        .replace("occupancy", "occupancy 1"), "outside of a loop_",
    ),
    "Cartesian coordinates": (
        write("Na1 Na 0 0 0 1").replace("_fract_", "_Cartn_"), "give fractional coordinates",
    ),
}  # fmt: skip
READ = {
    "no formula": (write(SODIUM, CHLORINE), "Na1 Cl1", ()),
    "an unknown formula": (write(SODIUM, CHLORINE, formula="?"), "Na1 Cl1", ()),
    "several formula units": (write(SODIUM, CHLORINE, formula="Cl3 Na3"), "Na1 Cl1", ()),
    "deuterium named in both": (write("D1 D 0 0 0 1", CHLORINE, formula="Cl D"), "H1 Cl1", ()),
    "deuterium in the formula alone": (write("H1 H 0 0 0 1", CHLORINE, formula="Cl D"), "H1 Cl1", ()),
    "charges": (write("Na1 Na1+ 0 0 0 1", "Cl1 Cl1- 0.5 0.5 0.5 1", formula="Na Cl"), "Na1 Cl1", ()),
    "a formula that pymatgen cannot read": (
        write(SODIUM, CHLORINE, formula="2(Na Cl)"), "Na1 Cl1",
        ("its formula '2(Na Cl)' cannot be read and was not compared with its sites",),
    ),
    "a centred cell": (write(SODIUM, CHLORINE, formula="Na Cl", symmetry=CENTRED), "Na4 Cl4", ()),
    "an empty place without coordinates": (write(SODIUM, CHLORINE, "Du1 H ? ? ? 0", formula="Na Cl"), "Na1 Cl1", ()),
    "an unknown occupancy": (write(SODIUM, "Cl1 Cl 0.5 0.5 0.5 ?", formula="Na Cl"), "Na1 Cl1", ()),
    "mixed occupancy": (
        write("Na1 Na 0 0 0 0.5", "K1 K 0 0 0 0.5", CHLORINE, formula="Cl2 K Na"), "K0.5 Na0.5 Cl1", ()
    ),
    "coordinates left to their default": (write("Na1 Na . . . 1", "Cl1 Cl .5 .5 . 1", formula="Na Cl"), "Na1 Cl1", ()),
    "a name of a group without operations": (
        write(SODIUM, CHLORINE, symmetry="_symmetry_space_group_name_H-M 'P -1'\n"), "Na1 Cl1", (),
    ),
    "capitals that the formula confirms": (write("NA1 NA 0 0 0 1", CHLORINE, formula="Na Cl"), "Na1 Cl1", ()),
    "no symmetry at all": (
        write(SODIUM, CHLORINE, symmetry=""), "Na1 Cl1",
        ("No _symmetry_equiv_pos_as_xyz type key found. Defaulting to P1.",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_sites_that_are_not_the_atoms(name):
    text, words = REFUSED[name]
    (block,) = read_cif(text)
    assert block.structure is None
    assert words in block.error


@pytest.mark.parametrize("name", READ)
def test_sites_that_are(name):
    text, formula, notes = READ[name]
    (block,) = read_cif(text)
    assert block.error is None
    assert block.structure.composition.formula == formula
    assert block.notes == notes


def test_each_block_has_its_own_formula():
    """pymatgen compares all with the formula of the first."""
    first, second = write(SODIUM, CHLORINE, formula="Na Cl"), write("K1 K 0 0 0 1", formula="K", name="y")
    third = write("K1 K 0 0 0 1", formula="K O", name="z")
    blocks = read_cif("\n".join([first, "data_global\n_journal_year 2020\n", second, third, write(SODIUM, name="x")]))
    assert [(block.name, block.structure is not None) for block in blocks] == [
        ("x", True), ("y", True), ("z", False), ("x", True),
    ]  # fmt: skip
    assert blocks[2].error.startswith("its formula 'K O' has O")


def test_a_block_of_question_marks_has_no_sites():
    blocks = read_cif(write(SODIUM) + write("? ? ? ? ? ?", name="reduced"))
    assert [(block.name, block.error) for block in blocks] == [("x", None)]


def test_items_say_what_is_wrong_with_the_files_of_the_field_trial():
    hd, question = read_structures([ODD / "hd.cif", ODD / "question.cif"])
    assert (hd.id, hd.structure, question.id, question.structure) == ("hd", None, "question", None)
    assert "hd.cif: block 'hd': the sites D1 (D1+, 0.5), H1 (H1+, 0.5) are at one point" in hd.error
    assert "question.cif: block 'q': site D1 has no coordinates (? ? ?); add them, or remove" in question.error
    assert "is it whole" not in hd.error + question.error


def test_what_is_read_with_doubt_has_a_note(tmp_path):
    (tmp_path / "salt.cif").write_text(write(SODIUM, CHLORINE, symmetry=""))
    (item,) = read_structures([tmp_path / "salt.cif"])
    assert isinstance(item.structure, Structure)
    assert item.note == f"{tmp_path / 'salt.cif'}: No _symmetry_equiv_pos_as_xyz type key found. Defaulting to P1."


def test_a_file_of_good_and_bad_blocks(tmp_path):
    blocks = [write(SODIUM, CHLORINE), write(SODIUM, "Cl1 Cl ? ? ? 1", name="bad"), write("K1 K 0 0 0 1", name="y")]
    (tmp_path / "all.cif").write_text("\n".join(blocks))
    first, second, lost = read_structures([tmp_path / "all.cif"])
    assert [first.id, second.id, lost.id] == ["all-1", "all-2", "all-unread"]
    assert "1 of 3 blocks cannot be read: block 'bad': site Cl1 has no coordinates" in lost.error
