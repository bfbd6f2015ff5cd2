"""Odd inputs after reports in public trackers: what each is, what came of it before, and what comes of it now.

`before` is what the commit before the first of these rows made of the same input; rows whose two outcomes are the same
held already. All inputs are made by the code below.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from fake_networks import Breaker
from pymatgen.core import DummySpecies, Lattice, Molecule, Species, Structure
from pymatgen.core.surface import SlabGenerator

from e3relax_flows import Predictor
from e3relax_flows.candidates.optimade import read_optimade
from e3relax_flows.candidates.reading import read_structures
from e3relax_flows.core.errors import StructureError
from e3relax_flows.pairs.files import Stated, read_pair_file
from e3relax_flows.pairs.making import LeftOutError, Origin, Relaxation, make_pair
from e3relax_flows.predict.inputs import check_structure

Outcome = Callable[[Path], list[str]]  # what comes of an input that is written into a folder
SALT = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CUBE = "4 0 0 0 4 0 0 0 4"
SODIUM, CHLORINE = "Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5"
SITES = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
P1 = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n"
THREEFOLD = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-y,x-y,z\n-x+y,-x,z\n"


class Odd(NamedTuple):
    """One row."""

    report: str  # thread of a tracker, or "beside" it where the row is a sibling of what was reported
    run: Outcome
    before: str
    after: str | None = None  # None: as before


def describe(structure: Structure | None, error: str | None) -> str:
    """What was read, where it is a crystal that a prediction can begin from."""
    if structure is None:
        return f"error: {error}"
    try:
        check_structure(structure)
    except StructureError as reason:
        return f"error: {reason}"
    held = sum(not all(row) for row in structure.site_properties.get("selective_dynamics", ()))
    return f"{structure.composition.formula} in {structure.volume:.1f} Å³{f', {held} held' if held else ''}"


def read(name: str, text: str | Any) -> Outcome:
    """Read a file."""

    def run(folder: Path) -> list[str]:
        (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))
        return [describe(item.structure, item.error) for item in read_structures([folder / name])]

    return run


def cif(*sites: str, head: str = "", symmetry: str = P1, columns: tuple[str, ...] = SITES, **lengths: float) -> Outcome:
    """Read a CIF of 5 Å and 90°, where nothing else is said."""
    values = {f"length_{axis}": 5.0 for axis in "abc"} | {f"angle_{name}": 90.0 for name in ("alpha", "beta", "gamma")}
    cell = "".join(f"_cell_{name} {value}\n" for name, value in (values | lengths).items())
    loop = "loop_\n" + "".join(f"_atom_site_{column}\n" for column in columns)
    return read("odd.cif", f"data_x\n{head}{cell}{symmetry}{loop}" + "\n".join(sites) + "\n")


def poscar(scale: str = "1.0", names: str = "Na Cl", mode: str = "Direct", sites: str = "0 0 0\n.5 .5 .5") -> Outcome:
    return read("POSCAR", f"x\n{scale}\n4 0 0\n0 4 0\n0 0 4\n{names}\n1 1\n{mode}\n{sites}\n")


def xsf(kind: str) -> Outcome:
    return read("odd.xsf", f"{kind}\nPRIMVEC\n4 0 0\n0 4 0\n0 0 4\nPRIMCOORD\n2 1\nNa 0 0 0\nCl 2 2 2\n")


def res(share: str) -> Outcome:
    head = "TITL x 0.0 64.0 0.0 0 0 2 (P1) n - 1\nCELL 1.0 4 4 4 90 90 90\nLATT -1\nSFAC Na Cl\n"
    return read("odd.res", f"{head}Na 1 0 0 0 1.0\nCl 2 0.5 0.5 0.5 {share}\nEND\n")


def xyz(
    extra: str, columns: str = "", sites: str = "Na 0 0 0\nCl 2 2 2", lattice: str = "4 0 0 0 4 0 0 0 4"
) -> Outcome:
    head = f'Lattice="{lattice}" Properties=species:S:1:pos:R:3{columns} {extra}'
    return read("odd.extxyz", f"2\n{head}\n{sites}\n")


def optimade(**update: Any) -> Outcome:
    """Read a response of one resource."""
    species = [{"name": name, "chemical_symbols": [name], "concentration": [1]} for name in ("Na", "Cl")]
    attributes = {
        "lattice_vectors": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "cartesian_site_positions": [[0, 0, 0], [2, 2, 2]],
        "species_at_sites": ["Na", "Cl"], "species": species, "dimension_types": [1, 1, 1], "nsites": 2,
    }  # fmt: skip

    def run(folder: Path) -> list[str]:
        resource = {"id": "db-1", "type": "structures", "attributes": attributes | update}
        (folder / "page.json").write_text(json.dumps({"data": [resource]}))
        return [describe(item.structure, item.error) for item in read_optimade([folder / "page.json"])]

    return run


def predict(structure: Any) -> Outcome:
    """Predict with a network that moves all atoms."""

    def run(_: Path) -> list[str]:
        (prediction,) = Predictor(Breaker(size=0.05), "m-1", {}, "cpu").predict([structure])
        return [f"{prediction.verdict}: {prediction.message or ''}"]

    return run


def relax(make: Callable[[int], Atoms]) -> Outcome:
    """Import a trajectory of three frames that came to its end."""

    def run(folder: Path) -> list[str]:
        frames = [make(number) for number in range(3)]
        for number, frame in enumerate(frames):
            results = {"energy": -1.0 - number, "forces": np.zeros((len(frame), 3)), "stress": np.zeros(6)}
            frame.calc = SinglePointCalculator(frame, **results)
        write(folder / "odd.traj", frames)
        (item,) = read_pair_file(folder / "odd.traj", Stated(functional="PBE"))
        if item.result is None:
            return [f"{item.reason}: {item.message}"]
        try:
            pair = make_pair(Relaxation(item.result, item.result.initial, Origin(item.location, "import")))
        except LeftOutError as error:
            return [f"{error.reason}: {error}"]
        return [f"pair of {pair.formula}, {'free' if pair.free.is_full else 'held'}"]

    return run


def frame(number: int, symbols: str = "NaCl", **keywords: Any) -> Atoms:
    cell = np.diag([4.0, 4.0, 4.0]) * (1 - 0.01 * number)
    return Atoms(symbols, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], **{"cell": cell, "pbc": True, **keywords})


def make_gold_slab() -> Structure:
    gold = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.08), ["Au"], [[0, 0, 0]])
    return SlabGenerator(gold, (1, 1, 1), 6, 14, center_slab=True).get_slabs()[0]


TEXT = "_iucr_refine_fcf_details\n;\ndata_symmetries\nloop_\n_space_group_symop_operation_xyz\nx,y,z\n-x,-y,-z\n;\n"
RHOMBUS = {f"angle_{name}": 57.0 for name in ("alpha", "beta", "gamma")} | {f"length_{axis}": 4.1 for axis in "abc"}
HEXAGON = {"angle_gamma": 120.0}
OCCUPANCY = (*SITES, "occupancy")
GROUPS = (*OCCUPANCY, "disorder_group")
ATTACHED = [
    {"name": "Na", "chemical_symbols": ["Na"], "concentration": [1]},
    {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1], "attached": ["H"], "nattached": [3]},
]
INDEXED = [{"name": "Na1", "chemical_symbols": ["Na"], "concentration": [1]}]
SHARED = r'pbc="T T T" occupancy="_JSON {\"0\": {\"Na\": 0.5, \"K\": 0.5}}"'
ENTRY = {"@class": "ComputedStructureEntry", "energy": -1.0, "entry_id": "m-1", "structure": SALT.as_dict()}
EMPTY_SITE = {**SALT.as_dict(), "sites": [SALT.as_dict()["sites"][0], {**SALT.as_dict()["sites"][1], "species": []}]}

TABLE: dict[str, Odd] = {
    "a text of a CIF that begins a line with data_": Odd(
        "pymatgen#1407", cif(SODIUM, CHLORINE, head=TEXT),
        "error: cannot be read (ValueError: Invalid CIF file with no structures!)", "Na1 Cl1 in 125.0 Å³",
    ),
    "one operation outside of a loop": Odd(
        "pymatgen#474", cif(SODIUM, CHLORINE, symmetry="_symmetry_equiv_pos_as_xyz x,y,z\n"), "Na1 Cl1 in 125.0 Å³",
    ),
    "columns of macromolecules": Odd(
        "pymatgen#4583", cif(f"{SODIUM} A 1", f"{CHLORINE} A 2", columns=(*SITES, "auth_asym_id", "auth_seq_id")),
        "Na1 Cl1 in 125.0 Å³",
    ),
    "symbols in capitals": Odd("pymatgen#1104", cif("NA1 NA 0 0 0", "CL1 CL 0.5 0.5 0.5"), "Na1 Cl1 in 125.0 Å³"),
    "a site of two elements in its symbol": Odd(
        "pymatgen#440", cif("M1 '0.5Na + 0.5K' 0 0 0 1", f"{CHLORINE} 1", columns=OCCUPANCY),
        "error: site 0 is occupied by {'Na': 0.5, 'K': 0.5}",
    ),
    "a group with two origins and no operations": Odd(
        "HEXRD/hexrd#965, edtools#22", cif("Si1 Si 0.125 0.125 0.125", symmetry="_symmetry_Int_Tables_number 227\n"),
        "Si16 in 125.0 Å³", "error: space group 227 has two origins, and the file does not state which",
    ),
    "rhombohedral axes and a group of hexagonal ones": Odd(
        "pymatgen#1203", cif("As1 As 0.227 0.227 0.227", symmetry="_symmetry_Int_Tables_number 166\n", **RHOMBUS),
        "error: site 0 (As) and site 14 (As) are 0.65 Å apart, 0.27 of the sum of their covalent radii",
        "error: the cell (4.1, 4.1, 4.1, 57, 57, 57) is not one of its space group in the setting of",
    ),
    "an occupancy below zero": Odd(
        "pymatgen#4387", cif(f"{SODIUM} 1", f"{CHLORINE} -1", columns=OCCUPANCY), "Na1 in 125.0 Å³",
        "error: the occupancy of site Cl1 is -1",
    ),
    "a dummy atom that begins with an element": Odd(
        "beside cif_core#239", cif(SODIUM, CHLORINE, "Du1 Du 0.2 0.2 0.2"), "Na1 H1 Cl1 in 125.0 Å³",
        "error: a site is of kind Du, which is not an element",
    ),
    "a vacancy named Vac": Odd(
        "beside pymatgen#1104", cif(SODIUM, CHLORINE, "Vac1 Vac 0.5 0.5 0"), "Na1 V1 Cl1 in 125.0 Å³",
        "error: a site is of kind Vac, which is not an element",
    ),
    "the centre of a ring": Odd(
        "beside pymatgen#1104", cif(SODIUM, CHLORINE, "Cg1 Cg 0.5 0.5 0"), "Na1 C1 Cl1 in 125.0 Å³",
        "error: a site is of kind Cg, which is not an element",
    ),
    "a modulated structure": Odd(
        "beside cif_core#508", cif(SODIUM, CHLORINE, head="_cell_modulation_dimension 1\n"), "Na1 Cl1 in 125.0 Å³",
        "error: its structure is modulated, and the sites are those of its mean",
    ),
    "two disorder groups, each whole": Odd(
        "cif_core#251", cif(f"{SODIUM} 1 .", "O1 O 0.5 0.5 0.4 1 1", "O2 O 0.5 0.5 0.6 1 2", columns=GROUPS),
        "Na1 O2 in 125.0 Å³", "error: its disorder groups 1, 2 exclude each other",
    ),
    "hydroxide as one atom": Odd(
        "pymatgen#4486", cif(SODIUM, "OH1 OH 0.5 0.5 0.5"), "Na1 in 125.0 Å³", "error: site OH is not a single atom",
    ),
    "two thirds written as 0.666": Odd(
        "pymatgen#3963", cif(SODIUM, "Cl1 Cl 0.333 0.666 0.5", symmetry=THREEFOLD, **HEXAGON),
        "error: (Cl) are 0.00 Å apart, 0.00 of the sum of their covalent radii",  # two pairs of sites are
    ),
    "a row that is too short": Odd(
        "pymatgen#868", cif(SODIUM, "Cl1 Cl 0.5 0.5"),
        "error: cannot be read (ValueError: zip() argument 2 is longer than argument 1)",
    ),
    "a fraction as a fraction": Odd(
        "beside crystals#10", cif(SODIUM, "Cl1 Cl 1/2 1/2 1/2"),
        "error: cannot be read (ValueError: Invalid CIF file with no structures!)",
        "error: cannot be read (ValueError: could not convert string to float: '1/2')",
    ),
    "an element before the switches": Odd(
        "pymatgen#3008", poscar(mode="Selective\nDirect", sites="0 0 0 Na T T T\n.5 .5 .5 Cl T T T"),
        "Na1 Cl1 in 64.0 Å³, 2 held",
        "error: Selective dynamics values must be either 'T' or 'F'. Write T or F after the three",
    ),
    "switches in words": Odd(
        "beside pymatgen#3539", poscar(mode="Selective\nDirect", sites="0 0 0 .TRUE. .TRUE. .TRUE.\n.5 .5 .5 T T T"),
        "Na1 Cl1 in 64.0 Å³, 1 held",
        "error: Selective dynamics values must be either 'T' or 'F'. Write T or F after the three",
    ),
    "a volume in place of the scale": Odd("dpdata#993, vipster#34", poscar(scale="-100"), "Na1 Cl1 in 100.0 Å³"),
    "three scales": Odd(
        "beside openbabel#302", poscar(scale="1.0 1.0 1.5"),
        "error: cannot be read (ValueError: could not convert string to float: '1.0 1.0 1.5')",
    ),
    "kinds with the hashes of POTCARs": Odd(
        "pyiron_atomistics#1232", poscar(names="Na_pv/1a2b3c Cl/9f8e7d"), "Na1 Cl1 in 64.0 Å³",
    ),
    "more sites than counts": Odd(
        "beside pymatgen#3008", poscar(sites="0 0 0\n.5 .5 .5\n.5 0 0"), "Na1 Cl1 in 64.0 Å³",
        "error: line 11 holds a site more than the 2 of the line of counts",
    ),
    "a vacancy in a POSCAR": Odd(
        "beside optimade-python-tools#304", poscar(names="Na X"), "error: site 1 holds X0+, which is not an element",
    ),
    "a slab of XCrySDen": Odd(
        "pymatgen-core#62", xsf("SLAB"), "Na1 Cl1 in 64.0 Å³",
        "error: it is a SLAB, which is not periodic along three vectors",
    ),
    "a polymer of XCrySDen": Odd(
        "pymatgen-core#62", xsf("POLYMER"), "Na1 Cl1 in 64.0 Å³",
        "error: it is a POLYMER, which is not periodic along three vectors",
    ),
    "a crystal of XCrySDen": Odd("pymatgen#1616", xsf("CRYSTAL"), "Na1 Cl1 in 64.0 Å³"),
    "half a site of SHELX": Odd(
        "beside crystals#3", res("0.5"), "Na1 Cl1 in 64.0 Å³", "error: the occupancy of site Cl is 0.5",
    ),
    "a site of SHELX that is not refined": Odd("beside xyzrender#158", res("11.0"), "Na1 Cl1 in 64.0 Å³"),
    "shared sites in ASE's info": Odd(
        "pymatgen#3373, py4DSTEM#538", xyz(SHARED, ":spacegroup_kinds:I:1", "Na 0 0 0 0\nCl 2 2 2 1"),
        "Na1 Cl1 in 64.0 Å³",
        "error: its info lists shared sites ({'0': {'Na': 0.5, 'K': 0.5}}), and each has one",
    ),
    "a mask of Cartesian axes in a cell that leans": Odd(
        "cp2k#1710", xyz('pbc="T T T"', ":move_mask:L:3", "Na 0 0 0 F T T\nCl 2 2 2 T T T", "4 0 0 1 4 0 0 0 4"),
        "Na1 Cl1 in 64.0 Å³, 1 held",
        "error: FixCartesian of site 0 holds directions that are not those of the cell, and a",
    ),
    "a layer without period": Odd(
        "aiida-core#5967", xyz('pbc="T T F"'), "error: the structure is periodic along (True, True, False) only",
    ),
    "a response with implicit atoms": Odd(
        "OPTIMADE#279", optimade(structure_features=["implicit_atoms"]), "Na1 Cl1 in 64.0 Å³",
        "error: it has implicit_atoms",
    ),
    "a response with attached atoms": Odd(
        "OPTIMADE#260", optimade(species=ATTACHED), "Na1 Cl1 in 64.0 Å³",
        "error: atoms without sites are attached to Cl",
    ),
    "a response with assemblies": Odd(
        "OPTIMADE#317", optimade(structure_features=["assemblies"]), "Na1 Cl1 in 64.0 Å³", "error: it has assemblies",
    ),
    "a response with fewer sites than it says": Odd(
        "qmpy#129", optimade(nsites=3), "Na1 Cl1 in 64.0 Å³", "error: it states 3 sites and gives 2",
    ),
    "a response whose formula has other atoms": Odd(
        "OPTIMADE#279", optimade(chemical_formula_reduced="ClHNa"), "Na1 Cl1 in 64.0 Å³",
        "error: its formula 'ClHNa' has H, and no site has",
    ),
    "a response with an indexed kind": Odd(
        "optimade-python-tools#1570", optimade(species_at_sites=["Na1", "Cl"], species=INDEXED), "Na1 Cl1 in 64.0 Å³",
    ),
    "a molecule in JSON": Odd(
        "beside pymatgen#1629", read("odd.json", Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1]]).as_dict()),
        "6 errors of one record", "error: no structure (a Molecule of pymatgen.core.structure)",
    ),
    "a CIF in a record": Odd(
        "beside QMOF#38", read("odd.json", {"material_id": "m-1", "cif": SALT.to(fmt="cif")}), "2 errors of one record",
        "error: no structure (keys ['cif', 'material_id'])",
    ),
    "a computed entry": Odd("pymatgen#2146", read("odd.json", ENTRY), "Na1 Cl1 in 64.0 Å³"),
    "an atom alone": Odd(
        "chgnet#35", predict(Structure(Lattice.cubic(10), ["H"], [[0, 0, 0]])), "accept: ",
        "refuse: the cell holds a molecule or cluster in vacuum (a gap of more than 5 Å between atoms),",
    ),
    "a slab of pymatgen": Odd(
        "pymatgen#1408", predict(make_gold_slab()), "accept: ",
        "refuse: the cell holds a layer or slab in vacuum (a gap of more than 5 Å between atoms) along c",
    ),
    "two atoms of matgl's isolated cell": Odd(
        "matgl#93", predict(Structure(Lattice.cubic(8), ["Zr", "Zr"], [[0, 0, 0], [0.5, 0.5, 0.5]])), "accept: ",
    ),
    "a site without an element": Odd(
        "beside optimade-python-tools#304", predict(Structure.from_dict(EMPTY_SITE)), "error: site 1 is occupied by {}",
    ),
    "a species with a spin and no charge": Odd(
        "atomate2#460", predict(Structure(Lattice.cubic(4), [Species("Na", None, spin=1), "Cl"], SALT.frac_coords)),
        "accept: ",
    ),
    "switches as numbers": Odd(
        "pyiron_atomistics#1140", predict(SALT.copy(site_properties={"selective_dynamics": [[0, 1, 1], [1, 1, 1]]})),
        "accept: ",
    ),
    "switches as text": Odd(
        "pymatgen#3282", predict(SALT.copy(site_properties={"selective_dynamics": ["T F T", "T T T"]})),
        "error: site 0 has selective_dynamics 'T F T'",
    ),
    "a kind that is none": Odd(
        "optimade-python-tools#304", predict(Structure(Lattice.cubic(4), [DummySpecies("X"), "Cl"], SALT.frac_coords)),
        "error: site 0 holds X0+, which is not an element",
    ),
    "a relaxation in a box without period": Odd(
        "rosswhitfield/ase#6", relax(lambda number: frame(number, pbc=False)), "pair of NaCl, free",
        "not_periodic: it is not periodic along three vectors of a cell, so not a crystal",
    ),
    "a relaxation of a layer without period": Odd(
        "aiida-core#5967", relax(lambda number: frame(number, pbc=(True, True, False))), "pair of NaCl, free",
        "not_periodic: it is not periodic along three vectors of a cell, so not a crystal",
    ),
    "a relaxation whose frames grow": Odd(
        "beside chgnet#213", relax(lambda number: frame(number) * (1 + number // 2, 1, 1)),
        "sites_differ: the document begins with Na1 Cl1 and ends with Na2 Cl2, or with its sites in another",
        "sites_differ: it has frames of 2 and of 4 atoms",
    ),
    "a relaxation that reorders its sites": Odd(
        "beside chgnet#213", relax(lambda number: frame(number, "ClNa" if number == 2 else "NaCl")),
        "sites_differ: the document begins with Na1 Cl1 and ends with Na1 Cl1, or with its sites in another",
    ),
    "a relaxation of shared sites": Odd(
        "pymatgen#3373", relax(lambda number: frame(number, info={"occupancy": {"0": {"Na": 0.5, "K": 0.5}}})),
        "pair of NaCl, free",
        "unreadable: its info lists shared sites ({0: {'Na': 0.5, 'K': 0.5}}), and each has one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_odd_input(tmp_path: Path, name: str) -> None:
    odd = TABLE[name]
    outcomes = odd.run(tmp_path)
    assert len(outcomes) == 1
    expected = odd.after or odd.before
    kind, colon, words = expected.partition(": ")
    if colon:
        assert outcomes[0].startswith(f"{kind}: ")
        assert words in outcomes[0]
    else:
        assert outcomes[0] == expected
