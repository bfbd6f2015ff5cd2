"""A stand-in for the VASP executable: relaxes the volume of a harmonic solid and writes VASP's files.

Run as a program in the directory of a job, it writes vasprun.xml, OUTCAR, CONTCAR, OSZICAR and vasp.out for the real
parsers of pymatgen and emmet. The model: every element has an atomic volume, the cell is a spring in ln V about
their sum, and each ionic step removes 70 % of the distance. So a start nearer to the minimum takes fewer steps.

    E = Σ e_i + ½ B V0 (ln V/V0)²,   V0 = Σ v_i
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BULK_MODULUS = 0.6  # eV/Å^3, about 100 GPa
ATOMIC_VOLUMES = {"Na": 29.0, "Cl": 17.0, "Si": 20.5, "Al": 16.5, "Cu": 12.0, "Fe": 11.5, "Mg": 9.5, "O": 9.5}  # Å^3
OTHER_VOLUME = 15.0  # Å^3
SITE_ENERGY = -5.0  # eV
STEP = 0.7
LOG_VOLUME_TOLERANCE = 1e-3
FIRST_CYCLE, NEXT_CYCLE = 9, 5  # SCF iterations of the first and of each later ionic step
SECONDS_PER_CYCLE = 0.5
KILOBAR = 1602.1766


def relaxed_volume(symbols: list[str]) -> float:
    """Volume in Å^3 at which the fake VASP ends for these sites."""
    return sum(ATOMIC_VOLUMES.get(symbol, OTHER_VOLUME) for symbol in symbols)


def count_steps(structure: Any, n_max: int = 99) -> int:
    """Ionic steps that the fake VASP needs from a pymatgen structure."""
    return len(_relax(structure.lattice.matrix, [site.specie.symbol for site in structure], n_max))


@dataclass
class _Cell:
    """What a POSCAR says: rows of `lattice` in Å, species runs in the order of the file."""

    lattice: np.ndarray
    species: list[tuple[str, int]]
    fractions: np.ndarray

    @property
    def symbols(self) -> list[str]:
        return [symbol for symbol, count in self.species for _ in range(count)]


@dataclass
class _Frame:
    lattice: np.ndarray
    energy: float
    pressure: float  # kbar
    n_cycles: int


def _read_poscar() -> _Cell:
    lines = Path("POSCAR").read_text().splitlines()
    lattice = float(lines[1]) * np.array([[float(x) for x in line.split()[:3]] for line in lines[2:5]])
    species = [(symbol, int(count)) for symbol, count in zip(lines[5].split(), lines[6].split(), strict=True)]
    first = 9 if lines[7].strip()[0] in "Ss" else 8
    if lines[first - 1].strip()[0] not in "Dd":
        sys.exit("fake VASP reads direct coordinates only")
    rows = lines[first : first + sum(count for _, count in species)]
    return _Cell(lattice, species, np.array([[float(x) for x in row.split()[:3]] for row in rows]))


def _write_contcar(cell: _Cell, lattice: np.ndarray) -> None:
    symbols, counts = zip(*cell.species, strict=True)
    rows = [" ".join(f"{x:.16f}" for x in row) for row in [*lattice, *cell.fractions]]
    head = ["fake VASP", "1.0", *rows[:3], " ".join(symbols), " ".join(map(str, counts)), "direct"]
    Path("CONTCAR").write_text("\n".join(head + rows[3:]) + "\n")


def _read_incar() -> dict[str, Any]:
    pairs = (line.split("=", 1) for line in Path("INCAR").read_text().splitlines() if "=" in line)
    incar = {key.strip(): _parse(value.strip()) for key, value in pairs}
    if "MAGMOM" in incar:  # "2*0.6 1*5.0", which vasprun.xml writes out
        runs = [word.split("*") if "*" in word else ("1", word) for word in str(incar["MAGMOM"]).split()]
        incar["MAGMOM"] = [float(moment) for count, moment in runs for _ in range(int(count))]
    return incar


def _parse(text: str) -> Any:
    if text.strip(".").upper() in ("TRUE", "T", "FALSE", "F"):
        return text.strip(".").upper().startswith("T")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _relax(matrix: np.ndarray, symbols: list[str], n_max: int) -> list[_Frame]:
    target = relaxed_volume(symbols)
    frames: list[_Frame] = []
    while True:
        volume = abs(np.linalg.det(matrix))
        strain = float(np.log(volume / target))
        energy = SITE_ENERGY * len(symbols) + 0.5 * BULK_MODULUS * target * strain**2
        pressure = -BULK_MODULUS * strain * target / volume * KILOBAR
        frames.append(_Frame(matrix, energy, pressure, FIRST_CYCLE if not frames else NEXT_CYCLE))
        if abs(strain) < LOG_VOLUME_TOLERANCE or len(frames) >= n_max:
            return frames
        matrix = matrix * np.exp(-STEP * strain / 3)


def _tag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f'<i type="logical" name="{name}"> {"T" if value else "F"} </i>'
    if isinstance(value, int):
        return f'<i type="int" name="{name}"> {value} </i>'
    if isinstance(value, float):
        return f'<i name="{name}"> {value:.8f} </i>'
    if isinstance(value, (list, tuple)):
        return f'<v name="{name}"> {" ".join(str(x) for x in value)} </v>'
    return f'<i type="string" name="{name}">{value}</i>'


def _rows(name: str, rows: Any) -> str:
    lines = "".join(f"<v> {' '.join(f'{x:.10f}' for x in row)} </v>\n" for row in np.atleast_2d(rows))
    return f'<varray name="{name}">\n{lines}</varray>\n'


def _structure(lattice: np.ndarray, fractions: np.ndarray, name: str = "") -> str:
    inside = _rows("basis", lattice) + f'<i name="volume"> {abs(np.linalg.det(lattice)):.8f} </i>\n'
    inside += _rows("rec_basis", np.linalg.inv(lattice).T)
    head = f'<structure name="{name}">' if name else "<structure>"
    return f"{head}\n<crystal>\n{inside}</crystal>\n{_rows('positions', fractions)}</structure>\n"


def _energies(energy: float) -> str:
    return (
        "<energy>\n" + "".join(_tag(key, energy) for key in ("e_fr_energy", "e_wo_entrp", "e_0_energy")) + "</energy>\n"
    )


def _eigenvalues() -> str:
    """Four filled bands and one empty band at the only k-point: a gap of 1 eV."""
    bands = "".join(
        f"<r> {level:.4f} {occupation:.4f} </r>"
        for level, occupation in ((-6.0, 1.0), (-1.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 0.0))
    )
    densities = "".join(f"<r> {level:.4f} 1.0 1.0 </r>" for level in (-6.0, 0.0, 0.5, 1.0))
    return (
        '<eigenvalues><array><dimension dim="1">band</dimension><dimension dim="2">kpoint</dimension>'
        '<dimension dim="3">spin</dimension><field>eigene</field><field>occ</field><set><set comment="spin 1">'
        f'<set comment="kpoint 1">{bands}</set></set></set></array></eigenvalues>\n'
        '<dos><i name="efermi"> 0.5 </i><total><array><dimension dim="1">gridpoints</dimension>'
        '<dimension dim="2">spin</dimension><field>energy</field><field>total</field><field>integrated</field>'
        f'<set><set comment="spin 1">{densities}</set></set></array></total></dos>\n'
    )


def _calculation(frame: _Frame, fractions: np.ndarray, last: bool) -> str:
    cycles = "".join(
        f"<scstep>\n{_energies(frame.energy + 10.0**-cycle)}</scstep>\n" for cycle in range(1, frame.n_cycles + 1)
    )
    stress = frame.pressure * np.eye(3)
    return (
        f"<calculation>\n{cycles}{_structure(frame.lattice, fractions)}{_rows('forces', 0.0 * fractions)}"
        f"{_rows('stress', stress)}{_energies(frame.energy)}{_eigenvalues() if last else ''}</calculation>\n"
    )


def _atom_info(cell: _Cell) -> str:
    groups = cell.species
    kinds = [(kind, symbol) for kind, (symbol, count) in enumerate(groups, start=1) for _ in range(count)]
    atoms = "".join(f"<rc><c>{symbol}</c><c> {kind} </c></rc>\n" for kind, symbol in kinds)
    types = "".join(
        f"<rc><c> {count} </c><c>{symbol}</c><c> 1.0 </c><c> 4.0 </c><c>PAW_PBE {symbol} 01Jan2000</c></rc>\n"
        for symbol, count in groups
    )
    return (
        f"<atominfo>\n<atoms> {len(kinds)} </atoms>\n<types> {len(groups)} </types>\n"
        f'<array name="atoms"><dimension dim="1">ion</dimension><field type="string">element</field>'
        f'<field type="int">atomtype</field><set>\n{atoms}</set></array>\n'
        f'<array name="atomtypes"><dimension dim="1">type</dimension><field type="int">atomspertype</field>'
        '<field type="string">element</field><field>mass</field><field>valence</field>'
        f'<field type="string">pseudopotential</field><set>\n{types}</set></array>\n</atominfo>\n'
    )


def _parameters(incar: dict[str, Any]) -> dict[str, Any]:
    defaults = {
        "NELM": 60, "NSW": 0, "IBRION": -1, "ISIF": 2, "ISPIN": 1, "ISMEAR": 1, "SIGMA": 0.2, "LORBIT": 0,
        "LDAU": False, "GGA": "--", "EDIFF": 1e-4, "EDIFFG": 1e-3, "ICHARG": 2, "LHFCALC": False, "LOPTICS": False,
        "NELMIN": 2, "ENMAX": 500.0,
    }  # fmt: skip
    return defaults | incar


def _write_vasprun(cell: _Cell, incar: dict[str, Any], frames: list[_Frame]) -> None:
    fractions = cell.fractions
    steps = "".join(_calculation(frame, fractions, last=frame is frames[-1]) for frame in frames)
    Path("vasprun.xml").write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>\n'
        + _tag("program", "vasp") + _tag("version", "6.4.0") + "\n</generator>\n<incar>\n"
        + "\n".join(_tag(key, value) for key, value in incar.items())
        + "\n</incar>\n<kpoints>\n"
        + '<generation param="Gamma"><v type="int" name="divisions"> 1 1 1 </v></generation>\n'
        + _rows("kpointlist", [[0.0, 0.0, 0.0]]) + _rows("weights", [[1.0]]) + "</kpoints>\n<parameters>\n"
        + "\n".join(_tag(key, value) for key, value in _parameters(incar).items()) + "\n</parameters>\n"
        + _atom_info(cell) + _structure(cell.lattice, fractions, "initialpos") + steps
        + _structure(frames[-1].lattice, fractions, "finalpos") + "</modeling>\n"
    )  # fmt: skip


def _write_outcar(frames: list[_Frame], incar: dict[str, Any]) -> None:
    seconds = SECONDS_PER_CYCLE * sum(frame.n_cycles for frame in frames)
    lines = [" vasp.6.4.0 (fake)", " running on    1 total cores"]
    lines += [
        "   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      5"
    ]
    lines += ["   total plane-waves  NPLWV =   1000"]
    lines += [f"   IBRION = {int(incar.get('IBRION', -1)):6d}    ionic relax: 0-MD 1-quasi-New 2-CG"]
    for number, frame in enumerate(frames, start=1):
        lines += [
            f"--------------------- Iteration {number:6d}({cycle:4d})  ----" for cycle in range(1, frame.n_cycles + 1)
        ]
        lines += ["------------------------ aborting loop because EDIFF is reached ----"]
        lines += ["    total drift:                  0.000000      0.000000      0.000000"]
        lines += [f"  free  energy   TOTEN  =     {frame.energy:16.8f} eV"]
        lines += [f"  energy  without entropy= {frame.energy:16.8f}  energy(sigma->0) = {frame.energy:16.8f}"]
    lines += [
        " General timing and accounting informations for this job:",
        " ========================================================",
        f"                  Total CPU time used (sec): {seconds:12.3f}",
        f"                            User time (sec): {seconds:12.3f}",
        f"                          System time (sec): {0.0:12.3f}",
        f"                         Elapsed time (sec): {seconds:12.3f}",
        "                   Maximum memory used (kb):       1000.",
        "                   Average memory used (kb):          N/A",
        "                          Minor page faults:            0",
        "                          Major page faults:            0",
        "                 Voluntary context switches:            0",
    ]  # fmt: skip
    Path("OUTCAR").write_text("\n".join(lines) + "\n")


def _iterate_oszicar(frames: list[_Frame]) -> Iterator[str]:
    for number, frame in enumerate(frames, start=1):
        yield "       N       E                     dE             d eps       ncg     rms          rms(c)"
        for cycle in range(1, frame.n_cycles + 1):
            change = 10.0**-cycle
            energy = frame.energy + change
            yield f"DAV: {cycle:3d}    {energy:.12E}   {-change:.5E}   {-change:.5E}   100   {change:.3E}"
        change = 0.0 if number == 1 else frame.energy - frames[number - 2].energy
        yield f"   {number} F= {frame.energy:.8E} E0= {frame.energy:.8E}  d E ={change:.6E}"


def main() -> None:
    """Do what VASP does in the current directory."""
    incar, cell = _read_incar(), _read_poscar()
    frames = _relax(cell.lattice, cell.symbols, max(1, int(incar.get("NSW", 0))))
    _write_vasprun(cell, incar, frames)
    _write_outcar(frames, incar)
    Path("OSZICAR").write_text("\n".join(_iterate_oszicar(frames)) + "\n")
    _write_contcar(cell, frames[-1].lattice)
    for name in ("WAVECAR", "CHGCAR"):  # the next job of a flow asks for them
        Path(name).touch()
    print(" running on    1 total cores\n reached required accuracy - stopping structural energy minimisation")


if __name__ == "__main__":
    main()
