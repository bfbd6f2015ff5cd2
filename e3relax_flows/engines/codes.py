"""Which code a maker of atomate2 is for, found by its class and by the makers that it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
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
    "e3relax_flows.engines.gpaw_jobs": "GPAW",
    "atomate2.forcefields": "potential",
    "atomate2.ase": "ASE",
    "atomate2.torchsim": "TorchSim",
    "atomate2.lammps": "LAMMPS",
    "atomate2.openmm": "OpenMM",
    "atomate2.qchem": "Q-Chem",
}


def find_codes(maker: Any) -> dict[str, str]:
    """Codes that a maker calls, each with the path of the first class of it that was found."""
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
    """Path of a class as it is given on the command line."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _name_code(kind: type) -> str | None:
    for base in kind.__mro__:
        for module, code in CODES.items():
            if base.__module__ == module or base.__module__.startswith(f"{module}."):
                return code
    return None
