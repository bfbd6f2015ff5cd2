"""Functional of a run of CP2K, ABINIT, FHI-aims or JDFTx, and conditions that no name covers.

Settings are those of the codes' own inputs. A pressure is a condition here, not a part of the name as for VASP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.engines.base import get_entry
from e3relax_flows.engines.vasp_functionals import is_on

# settings that give another minimum when they are switched on, by code; CP2K's are sections and keywords
CONDITIONS: dict[str, dict[str, str]] = {
    "FHI-aims": {
        "charge": "a charge",
        "external_pressure": "an outer pressure",
        "homogeneous_field": "an electric field",
        "fixed_spin_moment": "a fixed total moment",
        "mpb_solvation": "an implicit solvent",
    },
    "ABINIT": {
        "charge": "a charge",
        "cellcharge": "a charge",
        "strtarget": "an outer stress",
        "efield": "an electric field",
        "zeemanfield": "a magnetic field",
        "magconon": "constrained moments",
        "imgmov": "images of a path",
        "pawspnorb": "spin-orbit coupling",
    },
    "JDFTx": {
        "elec-initial-charge": "a charge",
        "target-mu": "a constant electron potential",
        "electric-field": "an electric field",
        "van-der-waals": "a dispersion correction without a name here",
        "add-U": "a Hubbard U without a name here",
    },
    "CP2K": {
        "CHARGE": "a charge",
        "EFIELD": "an electric field",
        "PERIODIC_EFIELD": "an electric field",
        "EXTERNAL_POTENTIAL": "an outer potential",
        "SCCS": "an implicit solvent",
        "NON_LOCAL": "a dispersion correction without a name here",
        "XTB": "a semi-empirical method, not DFT",
    },
}
AIMS_DISPERSIONS = {
    "vdw_correction_hirshfeld": "TS",
    "many_body_dispersion": "MBD",
    "many_body_dispersion_nl": "MBD-NL",
}
AIMS_SETTINGS = (*CONDITIONS["FHI-aims"], *AIMS_DISPERSIONS)
ABINIT_DISPERSIONS = {5: "D2", 6: "D3", 7: "D3-BJ"}
CP2K_DISPERSIONS = {"DFTD2": "D2", "DFTD3": "D3", "DFTD3(BJ)": "D3-BJ", "DFTD4": "D4"}
NO_FLUID = ("", "NONE")
FREE_MOMENT = -99  # ABINIT's spinmagntarget is below this where the moment is free
LARGEST_PRESSURE = 200.0  # bar; CP2K's own default is 100, which moves nothing


def identify_functional(code: str, document: Any, functional: str | None) -> tuple[str | None, list[str]]:
    """Functional of a task document with U and dispersion, and other conditions that moved the minimum.

    Parameters
    ----------
    code
        CP2K, ABINIT, FHI-aims or JDFTx.
    functional
        As the document names it.
    """
    settings = _READERS[code](document)
    listed = CONDITIONS[code].items()
    conditions = [f"{name} = {settings[name]}: {words}" for name, words in listed if _is_set(settings, name)]
    additions: list[str] = []
    if code == "FHI-aims":
        additions += [word for name, word in AIMS_DISPERSIONS.items() if _is_set(settings, name)]
    elif code == "ABINIT":
        additions += ["U"] if is_on(settings.get("usepawu")) else []
        number = int(settings.get("vdw_xc") or 0)
        if number in ABINIT_DISPERSIONS:
            additions.append(ABINIT_DISPERSIONS[number])
        elif number:
            conditions.append(f"vdw_xc = {number}: a dispersion correction without a name here")
        if settings.get("spinmagntarget") is not None and float(settings["spinmagntarget"]) > FREE_MOMENT:
            conditions.append(f"spinmagntarget = {settings['spinmagntarget']}: a fixed total moment")
        if settings.get("nspinor") == 2:
            conditions.append("nspinor = 2: moments of any direction")
    elif code == "CP2K":
        additions += ["U"] if "DFT_PLUS_U" in settings else []
        additions += [CP2K_DISPERSIONS[word] for word in settings["types"] if word in CP2K_DISPERSIONS]
        if abs(float(settings.get("EXTERNAL_PRESSURE") or 0.0)) > LARGEST_PRESSURE:
            conditions.append(f"EXTERNAL_PRESSURE = {settings['EXTERNAL_PRESSURE']} bar: an outer pressure")
    elif str(get_entry(settings.get("fluid"), "type") or settings.get("fluid") or "").upper() not in NO_FLUID:
        conditions.append(f"fluid = {settings['fluid']}: an implicit solvent")
    return (None if functional is None else spell_functional("+".join([functional, *additions]))), conditions


def _is_set(settings: Mapping[str, Any], name: str) -> bool:
    """Whether a setting is present and not off; a keyword without a value is on."""
    value = settings.get(name)
    return isinstance(value, Mapping) or is_on(value) or (isinstance(value, str) and not value.strip())


def _read_aims(document: Any) -> dict[str, Any]:
    return dict(get_entry(document, "input", "parameters") or {})


def _read_abinit(document: Any) -> dict[str, Any]:
    found = get_entry(document, "input", "abinit_input")
    if isinstance(found, Mapping) and "abi_args" in found:
        found = dict(found["abi_args"])
    return dict(found) if isinstance(found, Mapping) else {}


def _read_jdftx(document: Any) -> dict[str, Any]:
    found = get_entry(document, "calc_inputs", "jdftxinfile")
    return dict(found) if isinstance(found, Mapping) else {}


def _read_cp2k(document: Any) -> dict[str, Any]:
    """Keywords and sections of the last run by name, and under `types` all values of TYPE."""
    runs = get_entry(document, "calcs_reversed") or [None]
    found: dict[str, Any] = {"types": []}
    for name, value in _walk_cp2k(get_entry(runs[0], "input", "cp2k_input")):
        if name == "TYPE":
            found["types"].append(str(value).upper())
        elif name == "METHOD" and str(value).upper() == "XTB":
            found["XTB"] = True
        else:
            found[name] = value
    return found


def _walk_cp2k(section: Any) -> Iterator[tuple[str, Any]]:
    """Names of sections, whose value is true, and of keywords with their value."""
    for name, keyword in (get_entry(section, "keywords") or {}).items():
        values = get_entry(keyword, "values")
        yield str(name).upper(), values[0] if values else True
    for name, inner in (get_entry(section, "subsections") or {}).items():
        yield str(name).upper(), True
        yield from _walk_cp2k(inner)


_READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "FHI-aims": _read_aims,
    "ABINIT": _read_abinit,
    "JDFTx": _read_jdftx,
    "CP2K": _read_cp2k,
}
