"""Read relaxations from folders of VASP runs: vasprun.xml, and the POSCAR that custodian or the user kept."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emmet.core.vasp.calc_types import run_type
from monty.io import zopen
from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar, Vasprun

from e3relax_flows.core.errors import EngineError, StartUnknownError
from e3relax_flows.engines.vasp_documents import CODE, MINIMIZERS, express_freedom, name_functional
from e3relax_flows.schemas.outcomes import RelaxationResult

VASPRUN = re.compile(r"vasprun\.xml(\.relax(\d+))?(\.gz|\.bz2|\.xz)?")
POSCAR = re.compile(r"POSCAR(\.orig|\.relax1|)(\.gz|\.bz2|\.xz)?")
POSCAR_ORDER = (".orig", ".relax1", "")  # the surest first
CUSTODIAN = ("custodian.json", "custodian.json.gz")
ASKED = ("LDAU", "METAGGA", "GGA", "LHFCALC", "LUSE_VDW")  # settings that tell functionals apart


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
        When custodian mended the run and the original POSCAR is not there.
    EngineError
        When there is no vasprun.xml, or it cannot be read.
    """
    paths = _list_vaspruns(folder)
    if not paths:
        raise EngineError(f"{folder}: no vasprun.xml(.gz), which alone says whether the run converged")
    runs = [_parse(path) for path in paths]
    last, settings = runs[-1], dict(runs[-1].parameters)
    if settings.get("IBRION") not in MINIMIZERS or (settings.get("NSW") or 0) < 1:
        return None
    functionals = [name_run_functional(run) for run in runs]
    return RelaxationResult(
        initial=_read_start(folder, runs[0]),
        relaxed=last.final_structure,
        energy=float(last.final_energy),
        n_ionic_steps=sum(run.nionic_steps for run in runs),
        n_electronic_steps=sum(len(step["electronic_steps"]) for run in runs for step in run.ionic_steps),
        converged=bool(last.converged),
        dir_name=str(folder),
        code=CODE,
        functional=functionals[-1],
        is_dft=True,
        free=express_freedom(settings["ISIF"], settings.get("LATTICE_CONSTRAINTS")) if "ISIF" in settings else None,
        functionals=[name for name in functionals if name is not None],
    )


def name_run_functional(run: Vasprun) -> str | None:
    """Functional of a run, by emmet's rules as in its task documents; INCAR wins where vasprun.xml mangles it."""
    asked = {key: run.incar[key] for key in ASKED if key in run.incar}
    return name_functional({"run_type": run_type({**run.parameters, **asked})})


def _list_vaspruns(folder: Path) -> list[Path]:
    """The vasprun.xml files of a folder, those with a number first."""
    found = [(match, path) for path in folder.iterdir() if (match := VASPRUN.fullmatch(path.name)) and path.is_file()]
    return [path for _, path in sorted((int(match[2] or 10**6), path) for match, path in found)]


def _parse(path: Path) -> Vasprun:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence, which is asked for below, and of POTCARs
            return Vasprun(str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    except Exception as error:  # a parser of cut files raises anything
        raise EngineError(f"{path} cannot be read ({type(error).__name__}: {error}); was the run cut off?") from error


def _read_start(folder: Path, first: Vasprun) -> Structure:
    """POSCAR as the run was given it, else the first frame."""
    found = {match[1]: path for path in folder.iterdir() if (match := POSCAR.fullmatch(path.name))}
    kept = next((kind for kind in POSCAR_ORDER if kind in found), None)
    if kept != ".orig" and _was_mended(folder):
        raise StartUnknownError(f"{folder}: custodian mended the run, and there is no POSCAR.orig")
    if kept is None:
        return first.initial_structure
    start = Poscar.from_file(str(found[kept]), check_for_potcar=False).structure
    numbers = [site.specie.Z for site in first.initial_structure]
    if [site.specie.Z for site in start] != numbers:
        raise EngineError(f"{found[kept]} holds {start.formula}, and the run is of {first.initial_structure.formula}")
    return start


def _was_mended(folder: Path) -> bool:
    for name in CUSTODIAN:
        path = folder / name
        if path.is_file():
            with zopen(str(path), "rt", encoding="utf-8") as stream:
                jobs: Any = json.loads(stream.read())
            return any(job.get("corrections") for job in jobs if isinstance(job, dict))
    return False
