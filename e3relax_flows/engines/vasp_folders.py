"""Read relaxations from folders of VASP runs: vasprun.xml, and the POSCAR that custodian or the user kept."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import iterparse

from emmet.core.vasp.calc_types import run_type
from monty.io import zopen
from monty.os.path import zpath
from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar, Vasprun

from e3relax_flows.core.errors import EngineError, StartUnknownError
from e3relax_flows.engines.convergence import ended_by_itself
from e3relax_flows.engines.potcars import Potcar, count_electrons, describe_potcar, read_potcar_text
from e3relax_flows.engines.vasp_documents import CODE, MINIMIZERS, is_at_rest_by, read_freedom
from e3relax_flows.engines.vasp_functionals import VaspRun, list_conditions, name_functional, tidy_settings
from e3relax_flows.schemas.outcomes import RelaxationResult

VASPRUN = re.compile(r"vasprun\.xml(\.relax(\d+))?(\.gz|\.bz2|\.xz)?")
POSCAR = re.compile(r"POSCAR(\.orig|\.relax1|)(\.gz|\.bz2|\.xz)?")
POSCAR_ORDER = (".orig", ".relax1", "")  # the most reliable first
CUSTODIAN = ("custodian.json", "custodian.json.gz")
POTCARS = ("POTCAR", "POTCAR.orig", "POTCAR.relax1")


def find_vasp_folders(root: Path) -> Iterator[Path]:
    """Folders at or below `root` that hold a vasprun.xml, in the order of their names."""
    for folder in sorted([root, *(path for path in root.rglob("*") if path.is_dir())]):
        if _list_vaspruns(folder):
            yield folder


def read_vasp_folder(folder: Path) -> RelaxationResult | None:
    """Read the relaxation in a folder; None where the run moved no atoms.

    Runs that custodian numbered (.relax1, .relax2) follow one another.

    Raises
    ------
    StartUnknownError
        When custodian fixed the run and the original POSCAR is missing.
    EngineError
        When there is no vasprun.xml, or it cannot be read.
    """
    paths = _list_vaspruns(folder)
    if not paths:
        raise EngineError(f"{folder}: no vasprun.xml(.gz), which is needed to know whether the run converged")
    runs = [_parse(path) for path in paths]
    last, settings = runs[-1], dict(runs[-1].parameters)
    if settings.get("IBRION") not in MINIMIZERS or (settings.get("NSW") or 0) < 1:
        return None
    if not math.isfinite(last.final_energy):
        raise EngineError(f"{paths[-1]} ends with the energy {last.final_energy} eV")
    potcars = _read_potcars(folder, paths[-1])
    inputs = describe_run(last, potcars)
    functional, unnamed = name_functional(inputs)
    functionals = [name_functional(describe_run(run, potcars))[0] for run in runs]
    return RelaxationResult(
        initial=_read_start(folder, runs[0]),
        relaxed=last.final_structure,
        energy=float(last.final_energy),
        n_ionic_steps=sum(run.nionic_steps for run in runs),
        n_electronic_steps=sum(len(step["electronic_steps"]) for run in runs for step in run.ionic_steps),
        converged=_is_converged(last, inputs),
        dir_name=str(folder),
        code=CODE,
        functional=functional,
        unnamed=unnamed,
        conditions=list_conditions(inputs),
        is_dft=True,
        free=read_freedom(inputs),
        functionals=[name for name in functionals if name is not None],
    )


def describe_run(run: Vasprun, potcars: Sequence[Potcar]) -> VaspRun:
    """Inputs of a run with these POTCARs that determine its functional."""
    asked, used = tidy_settings(run.incar), tidy_settings(run.parameters)
    n_neutral, n_electrons = count_electrons(potcars, run.atomic_symbols), used.get("NELECT", asked.get("NELECT"))
    charge = n_neutral - float(n_electrons) if n_neutral is not None and n_electrons is not None else None
    return VaspRun(asked, used, potcars, run_type({**used, **asked}).value, charge)


def _is_converged(run: Vasprun, inputs: VaspRun) -> bool:
    """Whether the run ended by its own criterion, and its residual forces and stress agree."""
    step = run.ionic_steps[-1] if run.ionic_steps else {}
    claimed = bool(run.converged) and ended_by_itself(inputs)
    return claimed and is_at_rest_by(inputs, run.final_structure, step.get("forces"), step.get("stress"))


def _read_potcars(folder: Path, vasprun: Path) -> list[Potcar]:
    """The POTCARs of a folder by their LEXCH, else by their titles in vasprun.xml."""
    for name in POTCARS:
        path = Path(zpath(str(folder / name)))
        if path.is_file():
            with zopen(str(path), "rt", encoding="utf-8", errors="replace") as stream:
                return read_potcar_text(str(stream.read()))
    rows: list[list[str]] = []
    with zopen(str(vasprun), "rb") as stream:
        for _, element in iterparse(stream):
            if element.tag == "array" and element.get("name") == "atomtypes":
                rows = [[(cell.text or "").strip() for cell in row] for row in element.iter("rc")]
            if element.tag == "atominfo":
                break
    return [describe_potcar(row[4], n_valence=float(row[3])) for row in rows if len(row) > 4]


def _list_vaspruns(folder: Path) -> list[Path]:
    """The vasprun.xml files of a folder, those with a number first."""
    found = [(match, path) for path in folder.iterdir() if (match := VASPRUN.fullmatch(path.name)) and path.is_file()]
    return [path for _, path in sorted((int(match[2] or 10**6), path) for match, path in found)]


def _parse(path: Path) -> Vasprun:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence, which is checked below, and of POTCARs
            return Vasprun(str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    except Exception as error:  # a parser of cut files raises anything
        raise EngineError(f"{path} cannot be read ({type(error).__name__}: {error}); was the run cut off?") from error


def _read_start(folder: Path, first: Vasprun) -> Structure:
    """The POSCAR of the input, else the first frame."""
    found = {match[1]: path for path in folder.iterdir() if (match := POSCAR.fullmatch(path.name))}
    kept = next((kind for kind in POSCAR_ORDER if kind in found), None)
    if kept != ".orig" and _was_fixed(folder):
        raise StartUnknownError(f"{folder}: custodian fixed the run, and there is no POSCAR.orig")
    if kept is None:
        return first.initial_structure
    start = Poscar.from_file(str(found[kept]), check_for_potcar=False).structure
    numbers = [site.specie.Z for site in first.initial_structure]
    if [site.specie.Z for site in start] != numbers:
        raise EngineError(f"{found[kept]} holds {start.formula}, and the run is of {first.initial_structure.formula}")
    return start


def _was_fixed(folder: Path) -> bool:
    for name in CUSTODIAN:
        path = folder / name
        if path.is_file():
            with zopen(str(path), "rt", encoding="utf-8") as stream:
                jobs: Any = json.loads(stream.read())
            return any(job.get("corrections") for job in jobs if isinstance(job, dict))
    return False
