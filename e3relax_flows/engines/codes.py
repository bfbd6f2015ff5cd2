"""Find the code of an atomate2 maker by its class and by the makers in its fields."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.util import find_spec
from typing import Any

from jobflow import Maker

from e3relax_flows.core.errors import EngineError

# by the module of a class of the maker, the nearest first
CODES = {
    "atomate2.vasp": "VASP",
    "atomate2.cp2k": "CP2K",
    "atomate2.abinit": "ABINIT",
    "atomate2.aims": "FHI-aims",
    "atomate2.jdftx": "JDFTx",
    "e3relax_flows.engines.abinit_jobs": "ABINIT",
    "e3relax_flows.engines.cp2k_jobs": "CP2K",
    "e3relax_flows.engines.gpaw_jobs": "GPAW",
    "atomate2.forcefields": "potential",
    "atomate2.ase": "ASE",
    "atomate2.torchsim": "TorchSim",
    "atomate2.lammps": "LAMMPS",
    "atomate2.openmm": "OpenMM",
    "atomate2.qchem": "Q-Chem",
}


@dataclass(frozen=True)
class CodeNeeds:
    """Requirements of a code's makers where their jobs run.

    Attributes
    ----------
    maker
        One of them, as an argument of --engine.
    variable, command
        Environment variable of its command, and the usual command.
    package
        What must be importable besides atomate2.
    """

    code: str
    maker: str
    variable: str
    command: str
    package: str = ""
    install: str = ""

    def describe(self) -> str:
        """Name of an engine of the code."""
        return f"any of its makers in atomate2 by path, such as --engine {self.maker}"

    def find_hint(self) -> str:
        """Commands for what is missing here; empty if nothing is."""
        if self.package and not _is_installed(self.package):
            return self.install
        words = shlex.split(os.path.expandvars(os.environ.get(self.variable, self.command)))
        if any(shutil.which(word) for word in words):
            return ""
        return f"no {words[0] if words else self.variable!r} on this machine; where jobs run, set {self.variable}"


def list_codes() -> list[CodeNeeds]:
    """Codes whose documents are read, besides VASP, which has engines by name."""
    return [
        CodeNeeds("CP2K", "atomate2.cp2k.jobs.core:CellOptMaker", "ATOMATE2_CP2K_CMD", "cp2k.psmp"),
        CodeNeeds(
            *("ABINIT", "atomate2.abinit.jobs.core:RelaxMaker", "ATOMATE2_ABINIT_CMD", "abinit"),
            *("abipy", "pip install 'atomate2[abinit]'"),
        ),
        CodeNeeds(
            *("FHI-aims", "atomate2.aims.jobs.core:RelaxMaker", "ATOMATE2_AIMS_CMD", "aims.x"),
            *("pymatgen.io.aims", "pip install 'atomate2[aims]'"),
        ),
        CodeNeeds("JDFTx", "atomate2.jdftx.jobs.core:LatticeMinMaker", "ATOMATE2_JDFTX_CMD", "jdftx"),
    ]


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def find_codes(maker: Any) -> dict[str, str]:
    """Codes that a maker calls, each with the path of the first class that was found."""
    found: dict[str, str] = {}
    for each in iterate_makers(maker):
        code = _name_code(type(each))
        if code is not None:
            found.setdefault(code, name_class(type(each)))
    return found


def check_codes(maker: Any, code: str) -> None:
    """Raise EngineError where a maker calls another code than `code`, whose documents would not be read."""
    others = {name: path for name, path in find_codes(maker).items() if name != code}
    if others:
        listed = ", ".join(f"{path} of {name}" for name, path in others.items())
        raise EngineError(
            f"{name_class(type(maker))} is not a maker of {code} alone ({listed}); give the maker by its path, "
            "get_engine('module:Class') or --engine module:Class, which takes the reader of its code"
        )


def iterate_makers(maker: Any) -> Iterator[Maker]:
    """A maker and those in its fields, the outer ones first."""
    if isinstance(maker, Maker):
        yield maker
        if is_dataclass(maker):
            for field in fields(maker):
                yield from iterate_makers(getattr(maker, field.name, None))
    elif isinstance(maker, Mapping):
        for value in maker.values():
            yield from iterate_makers(value)
    elif isinstance(maker, list | tuple):
        for value in maker:
            yield from iterate_makers(value)


def name_class(kind: type) -> str:
    """Path of a class in the form of the command line."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _name_code(kind: type) -> str | None:
    for base in kind.__mro__:
        for module, code in CODES.items():
            if base.__module__ == module or base.__module__.startswith(f"{module}."):
                return code
    return None
