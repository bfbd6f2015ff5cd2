"""Files as they come: packed in every way that is promised, in every encoding that their first bytes tell."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil

import numpy as np
import pytest
from ase.io import write
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from e3relax_flows.candidates.optimade import read_optimade
from e3relax_flows.candidates.ranking import read_numbers
from e3relax_flows.candidates.reading import read_structures
from e3relax_flows.core.errors import E3RelaxError
from e3relax_flows.core.text_files import COMPRESSIONS, open_text
from e3relax_flows.pairs.files import read_pair_file

CELL = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".GZ": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".z": gzip.compress,
    ".Z": gzip.compress,
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]
NAMES = ["cell.cif", "POSCAR", "cell.vasp", "cell.xsf", "cell.cssr", "cell.extxyz", "cell.json", "cell.jsonl"]
PAIR = {
    "id": "p", "numbers": [55, 17],
    "initial": {"lattice": CELL.lattice.matrix.tolist(), "frac": CELL.frac_coords.tolist()},
    "relaxed": {"lattice": (CELL.lattice.matrix * 0.98).tolist(), "frac": CELL.frac_coords.tolist()},
    "functional": "PBE", "code": "VASP",
}  # fmt: skip


def write_cell(folder, name):
    """The text of the cell in the format of a name."""
    path = folder / "written" / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith((".extxyz", ".traj")):
        write(path, AseAtomsAdaptor.get_atoms(CELL))
    elif name.endswith((".json", ".jsonl")):
        path.write_text(json.dumps(CELL.as_dict()))
    else:
        formats = {"cell.cif": "cif", "cell.xsf": "xsf", "cell.cssr": "cssr"}
        CELL.to(filename=str(path), fmt=formats.get(name, "poscar"))
    return path


def write_codes(content):
    """A short text as compress writes it: each byte a code of nine bits."""
    assert len(content) < 250  # from there on codes have ten
    bits = sum(byte << 9 * place for place, byte in enumerate(content))
    return b"\x1f\x9d\x90" + bits.to_bytes((9 * len(content) + 7) // 8, "little")


@pytest.mark.skipif(shutil.which("gzip") is None, reason="gzip unpacks it")
def test_what_compress_wrote_is_read(tmp_path):
    text = "CsCl\n1\n4.1 0 0\n0 4.1 0\n0 0 4.1\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    (tmp_path / "POSCAR.Z").write_bytes(write_codes(text.encode()))
    (item,) = read_structures([tmp_path / "POSCAR.Z"])
    assert (item.error, item.id) == (None, "POSCAR")
    assert item.structure.volume == pytest.approx(4.1**3)


def test_every_promise_is_tested():
    assert set(COMPRESSIONS) <= set(PACK)


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("name", [*NAMES, "cell.traj"])
def test_every_format_is_read_in_every_packing(tmp_path, name, ending):
    path = tmp_path / f"{name}{ending}"
    path.write_bytes(PACK[ending](write_cell(tmp_path, name).read_bytes()))
    (item,) = read_structures([path])
    assert item.error is None
    assert item.id == ("POSCAR" if name == "POSCAR" else "cell" if name != "cell.jsonl" else "cell-1")
    assert item.structure.volume == pytest.approx(4.1**3, rel=1e-5)
    assert next(one.id for one in read_structures([tmp_path])) == item.id


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_read_in_every_encoding(tmp_path, name, encoding, line_end):
    text = write_cell(tmp_path, name).read_text().replace("\n", line_end)
    plain, packed = tmp_path / name, tmp_path / f"{name}.xz"
    plain.write_bytes(text.encode(encoding))
    packed.write_bytes(lzma.compress(text.encode(encoding)))
    for item in read_structures([plain, packed]):
        assert item.error is None
        assert item.structure.volume == pytest.approx(4.1**3, rel=1e-5)


def test_lines_of_files_that_were_put_together(tmp_path):
    line = json.dumps(CELL.as_dict())
    (tmp_path / "all.jsonl").write_text(f"\ufeff{line}\n\ufeff{line}\n", encoding="utf-8")
    assert [item.error for item in read_structures([tmp_path / "all.jsonl"])] == [None, None]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", PACK)
def test_other_texts_are_opened_alike(tmp_path, ending, encoding):
    files = {
        "pairs.jsonl": json.dumps(PAIR),
        "pairs.json": json.dumps([PAIR]),
        "page.json": json.dumps({"data": []}),
        "hull.csv": "id,value\na,0.5\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}{ending}").write_bytes(PACK[ending](text.encode(encoding)))
    for name in ("pairs.jsonl", "pairs.json"):
        (pair,) = read_pair_file(tmp_path / f"{name}{ending}")
        assert pair.message is None
        assert pair.result.relaxed.volume == pytest.approx((4.1 * 0.98) ** 3)
    assert list(read_optimade([tmp_path / f"page.json{ending}"])) == []
    assert read_numbers(tmp_path / f"hull.csv{ending}") == {"a": 0.5}


@pytest.mark.parametrize("ending", [".gz", ".xz"])
def test_trajectories_of_pairs_are_unpacked(tmp_path, ending):
    atoms = AseAtomsAdaptor.get_atoms(CELL)
    frames = [atoms.copy() for _ in range(2)]
    frames[1].set_cell(atoms.cell * 0.98, scale_atoms=True)
    write(tmp_path / "run.traj", frames)
    (plain,) = read_pair_file(tmp_path / "run.traj")
    path = tmp_path / f"run.traj{ending}"
    path.write_bytes(PACK[ending]((tmp_path / "run.traj").read_bytes()))
    (packed,) = read_pair_file(path)
    assert (packed.reason, (packed.message or "").partition(": ")[2]) == (
        plain.reason,
        (plain.message or "").partition(": ")[2],
    )


def test_what_is_cut_or_packed_by_an_unknown_program_says_so(tmp_path, monkeypatch):
    content = np.random.default_rng(0).bytes(3000)
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(content)[:100])
    (tmp_path / "cut.cif.Z").write_bytes(b"\x1f\x9d\x90" + content[:9])
    (item,) = read_structures([tmp_path / "cut.json.gz"])
    assert "cannot be read" in item.error
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(E3RelaxError, match=r"cut\.cif\.Z: gzip .*install "):
        open_text(tmp_path / "cut.cif.Z")
    (item,) = read_structures([tmp_path / "cut.cif.Z"])
    assert "gzip is needed" in item.error
