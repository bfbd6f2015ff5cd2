"""Functional of a VASP run by name, and conditions that no name covers.

Used for folders and for task documents of any release of emmet. Settings are those of INCAR and of vasprun.xml's
`parameters`; tags and defaults are VASP's (https://www.vasp.at/wiki).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from typing import Any

from e3relax_flows.core.functionals import add_pressure, spell_functional
from e3relax_flows.engines.potcars import Potcar, find_functional

GGA_TAGS = {
    **{"CA": "LDA", "PZ": "LDA", "91": "PW91", "PE": "PBE", "PS": "PBEsol", "RP": "RPBE", "RE": "revPBE"},
    **{"AM": "AM05", "BF": "BEEF", "OR": "optPBE", "BO": "optB88", "MK": "optB86b"},
}
METAGGA_TAGS = {
    **{"SCAN": "SCAN", "R2SCAN": "r2SCAN", "RSCAN": "rSCAN", "SCANL": "SCANL", "R2SCANL": "r2SCANL"},
    **{"TPSS": "TPSS", "RTPSS": "RTPSS", "M06L": "M06L", "MS0": "MS0", "MS1": "MS1", "MS2": "MS2"},
}
# base functional, share of exact exchange, its screening in 1/Å
HYBRIDS = {
    ("PBE", 0.25, 0.0): "PBE0",
    ("PBE", 0.25, 0.2): "HSE06",
    ("PBE", 0.25, 0.3): "HSE03",
    ("PBEsol", 0.25, 0.2): "HSEsol",
}
# LUSE_VDW: the tag of the semilocal part, the settings that make it the published functional, its name
NONLOCAL: tuple[tuple[str, dict[str, float], str], ...] = (
    ("SCAN", {"BPARAM": 15.7}, "SCAN-rVV10"),
    ("R2SCAN", {"BPARAM": 11.95}, "r2SCAN-rVV10"),
    ("PE", {"BPARAM": 10.0}, "PBE-rVV10L"),
    ("ML", {"BPARAM": 6.3}, "rVV10"),
    ("RE", {"AGGAC": 0.0, "ZAB_VDW": -0.8491}, "revPBE-vdW"),
    ("OR", {"AGGAC": 0.0, "ZAB_VDW": -0.8491}, "optPBE-vdW"),
    ("BO", {"AGGAC": 0.0, "ZAB_VDW": -0.8491, "PARAM1": 0.1833333333, "PARAM2": 0.22}, "optB88-vdW"),
    ("MK", {"AGGAC": 0.0, "ZAB_VDW": -0.8491, "PARAM1": 0.1234, "PARAM2": 1.0}, "optB86b-vdW"),
    ("MK", {"AGGAC": 0.0, "ZAB_VDW": -1.8867, "PARAM1": 0.1234, "PARAM2": 0.711357}, "rev-vdW-DF2"),
    ("ML", {"AGGAC": 0.0, "ZAB_VDW": -1.8867}, "vdW-DF2"),
    ("CX", {"AGGAC": 0.0, "ZAB_VDW": -0.8491}, "vdW-DF-cx"),
)
DEFAULTS = {"ZAB_VDW": -0.8491, "PARAM1": 0.1234, "PARAM2": 1.0, "AGGAC": 1.0, "ALDAC": 1.0}
DISPERSIONS = {
    **{1: "D2", 10: "D2", 11: "D3", 12: "D3-BJ", 13: "D4", 2: "TS", 20: "TS", 21: "TS-HI", 202: "MBD", 263: "MBD-FI"},
    **{3: "ulg", 4: "dDsC"},
}
# settings that make the dispersion of a known number differ from the published one
DAMPING = ("VDW_S6", "VDW_S8", "VDW_A1", "VDW_A2", "VDW_SR", "VDW_D", "VDW_C6", "VDW_R0")
# run types of emmet that stand for several functionals, or for none with a minimum
AMBIGUOUS = {"HFCUS", "MBJL", "G0W0"}
# settings that, switched on, give another minimum or another kind of run, and are not in the name of a functional
CONDITIONS = {
    "IMAGES": "an image of a path (NEB)",
    "LCLIMB": "an image of a path (NEB)",
    "ICHAIN": "a path or a saddle point of the VTST tools",
    "EFIELD": "an electric field",
    "EFIELD_PEAD": "an electric field",
    "BEXT": "a magnetic field",
    "LDIPOL": "a dipole correction",
    "LMONO": "a monopole correction",
    "LSOL": "an implicit solvent",
    "ISOL": "an implicit solvent",
    "LCEP": "a constant electron potential",
    "TARGETMU": "a constant electron potential",
    "LSPIRAL": "a spin spiral",
    "I_CONSTRAINED_M": "constrained moments",
    "ML_LMLFF": "forces of a machine-learned force field, not of DFT",
    "OFIELD_A": "a field on an order parameter",
    "LTHOMAS": "Thomas-Fermi screening",
    "LMODELHF": "a dielectric-dependent hybrid",
    "LRHFCALC": "long-range exact exchange",
    "EXXOEP": "an optimised effective potential",
}
WITHOUT_ENERGY = ("MBJ", "MBJL")  # potentials of METAGGA that have forces of no energy
FIXED_OCCUPATIONS = -2  # of ISMEAR
NEUTRAL = 0.01  # electrons; what printing NELECT loses is less
PRESSURE_OF_KILOBAR = 0.1  # GPa
# every setting that is read, for stores that give parts of documents; vasprun.xml writes Zab_VDW
SETTINGS = (
    *CONDITIONS,
    *DEFAULTS,
    *DAMPING,
    *("GGA", "METAGGA", "LHFCALC", "AEXX", "AGGAX", "ALDAX", "HFSCREEN", "LUSE_VDW", "BPARAM", "IVDW_NL", "LIBXC1"),
    *("Zab_VDW", "Zab_vdW", "IVDW", "LVDW", "LDAU", "LSORBIT", "LNONCOLLINEAR", "PSTRESS", "NUPDOWN", "ISPIN"),
    *("ISMEAR", "VCA", "POTIM", "IOPT", "IBRION", "NSW", "EDIFFG", "ISIF", "LATTICE_CONSTRAINTS", "IOPTCELL"),
)


@dataclass(frozen=True)
class VaspRun:
    """Inputs of a run.

    Parameters
    ----------
    asked
        INCAR. It wins over `used` where both have a setting that distinguishes functionals: vasprun.xml mangles these.
    used
        The parameters of vasprun.xml.
    potcars
        All of them.
    run_type
        emmet's name of the functional; used where the settings give no more.
    charge
        Electrons removed; None if not known.
    """

    asked: Mapping[str, Any] = field(default_factory=dict)
    used: Mapping[str, Any] = field(default_factory=dict)
    potcars: Sequence[Potcar] = ()
    run_type: str | None = None
    charge: float | None = None

    def get(self, name: str) -> Any:
        """A setting as given, else as used, else VASP's default if it has a fixed one."""
        for source in (self.asked, self.used):
            if source.get(name) is not None:
                return source[name]
        return DEFAULTS.get(name)

    def find_on(self, name: str) -> Any:
        """A setting where either source has switched it on; None where none has."""
        return next((source[name] for source in (self.asked, self.used) if is_on(source.get(name))), None)

    def get_word(self, name: str) -> str | None:
        """A setting that is a word, in capitals; None where it leaves the choice to VASP."""
        word = str(self.get(name) or "").strip().strip(".").upper()
        return None if word in ("", "--", "NONE", "F", "FALSE", "T", "TRUE") else word


def tidy_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by names in capitals without the blanks that VASP 6.4.3 put there."""
    return {str(name).strip().upper(): value for name, value in settings.items()}


def is_on(value: Any) -> bool:
    """Whether a setting is another one than "off": not false, 0, empty, or zeros only."""
    if isinstance(value, str):
        return any(_is_word_on(word) for word in value.split())
    if isinstance(value, Iterable):
        return any(is_on(item) for item in value)
    return bool(value)


def name_functional(run: VaspRun) -> tuple[str | None, str | None]:
    """Name of the functional with U, dispersion, spin-orbit coupling and pressure; or None and why it is not known."""
    base, reason = _name_base(run)
    if base is None:
        return None, reason
    additions = []
    if is_on(run.get("LDAU")) or "+U" in str(run.run_type).upper():
        additions.append("U")
    number = int(run.find_on("IVDW") or (1 if run.find_on("LVDW") else 0))
    if number:
        changed = [name for name in DAMPING if run.get(name) is not None]
        if number not in DISPERSIONS or changed:
            why = f"with {', '.join(changed)} given" if changed else "which is not known here"
            return None, f"IVDW = {number} {why} is a dispersion correction without a name"
        additions.append(DISPERSIONS[number])
    if run.find_on("LSORBIT"):
        additions.append("SOC")
    pressure = PRESSURE_OF_KILOBAR * float(run.find_on("PSTRESS") or 0.0)
    return add_pressure(spell_functional("+".join([base, *additions])), pressure), None


def list_conditions(run: VaspRun) -> list[str]:
    """Why the minimum is not that of the functional alone, or the run does not seek one; empty as a rule."""
    found = [f"{name} = {_show(value)}: {words}" for name, words in CONDITIONS.items() if (value := run.find_on(name))]
    if run.find_on("LNONCOLLINEAR") and not run.find_on("LSORBIT"):
        found.append("LNONCOLLINEAR: moments of any direction")
    moment = run.get("NUPDOWN")
    if moment is not None and float(moment) >= 0 and run.get("ISPIN") in (None, 2):
        found.append(f"NUPDOWN = {_show(moment)}: a fixed total moment")
    weights = run.get("VCA")
    if weights is not None and any(float(weight) != 1 for weight in _list(weights)):
        found.append(f"VCA = {_show(weights)}: mixed species")
    if run.get("ISMEAR") == FIXED_OCCUPATIONS:
        found.append("ISMEAR = -2: fixed occupations")
    if run.get("POTIM") is not None and float(run.get("POTIM")) == 0 and not run.find_on("IOPT"):
        found.append("POTIM = 0: steps of no length")
    if run.charge is not None and abs(run.charge) > NEUTRAL:
        found.append(f"a charge of {run.charge:+g}")
    elif run.charge is None and run.asked.get("NELECT") is not None:
        found.append(f"NELECT = {_show(run.asked['NELECT'])}: the cell may be charged, the valences are not known")
    return found


def _name_base(run: VaspRun) -> tuple[str | None, str | None]:
    """Functional without additions, or why it is not known."""
    name, reason = _name_asked(run)
    if name is None:
        return None, reason
    unfit = [potcar for potcar in run.potcars if potcar.functionals and not potcar.functionals & {"PBE", name}]
    if unfit and name != "LDA":
        titles = ", ".join(dict.fromkeys(potcar.title for potcar in unfit))
        return None, f"{name} was set with POTCARs of another functional ({titles})"
    return name, None


def _name_asked(run: VaspRun) -> tuple[str | None, str | None]:
    """Functional by the settings, or by the POTCARs if the settings have none."""
    if run.get_word("LIBXC1") or run.get_word("GGA") == "LI":
        return None, "its functional is one of libxc (LIBXC1), which is not read"
    if is_on(run.get("LHFCALC")):
        return _name_hybrid(run)
    if is_on(run.get("LUSE_VDW")):
        return _name_nonlocal(run)
    if (tag := run.get_word("METAGGA")) is not None:
        lacks = "is a potential without an energy" if tag in WITHOUT_ENERGY else "is not known here"
        return METAGGA_TAGS.get(tag), f"METAGGA = {tag} {lacks}"
    if (tag := run.get_word("GGA")) is not None:
        return GGA_TAGS.get(tag), f"GGA = {tag} is not known here"
    return _name_by_run_type(run)


def _name_by_run_type(run: VaspRun) -> tuple[str | None, str | None]:
    """Functional where INCAR leaves it to the POTCARs, or only emmet's run type is known."""
    word = _read_run_type(run.run_type)
    if word in AMBIGUOUS:
        return None, f"the run type {run.run_type} names no functional, and the settings are missing"
    of_potcars, problem = find_functional(run.potcars)
    # emmet's names where the POTCAR decides; LDA is also its name for tags that it does not know
    is_left_to_potcars = word in (None, "GGA", "LDA")
    name = spell_functional(word) if word is not None else None
    if problem is not None and (is_left_to_potcars or name == "PBE"):
        return None, problem
    if is_left_to_potcars:
        name = of_potcars or name
    return name, None if name else "neither INCAR nor POTCARs name a functional"


def _read_run_type(run_type: str | None) -> str | None:
    """The run type without +U."""
    if run_type is None:
        return None
    word = run_type.strip()
    word = word[:-2] if word.upper().endswith("+U") else word
    return word.upper() if word.upper() in ("GGA", "LDA", *AMBIGUOUS) else word


def _name_hybrid(run: VaspRun) -> tuple[str | None, str | None]:
    tag = run.get_word("GGA")
    base = GGA_TAGS.get(tag) if tag else find_functional(run.potcars)[0] or "PBE"
    share, screening = _read_number(run, "AEXX", 0.25), _read_number(run, "HFSCREEN", 0.0)
    is_plain = all(
        isclose(_read_number(run, name, default), default, abs_tol=1e-6)
        for name, default in (("AGGAX", 1 - share), ("ALDAX", 1 - share), ("AGGAC", 1.0), ("ALDAC", 1.0))
    )
    what = f"a hybrid of {tag or base} with AEXX = {share:g}, HFSCREEN = {screening:g}"
    if run.get_word("METAGGA"):
        return None, f"a hybrid of METAGGA = {run.get_word('METAGGA')} is not known here"
    if tag == "B3" and isclose(share, 0.2, abs_tol=1e-6) and not screening:
        return "B3LYP", None
    if isclose(share, 1.0) and not (screening or is_on(run.get("AGGAC")) or is_on(run.get("ALDAC"))):
        return "HF", None
    if 0.2 < screening <= 0.21:  # HSE06 in three roundings of 0.11 per Bohr radius
        screening = 0.2
    name = HYBRIDS.get((str(base), round(share, 6), round(screening, 6))) if is_plain else None
    return name, f"{what} is not known here"


def _name_nonlocal(run: VaspRun) -> tuple[str | None, str | None]:
    tag = run.get_word("METAGGA") or run.get_word("GGA")
    with_vv10 = run.get("BPARAM") is not None or run.get("IVDW_NL") == 2
    for wanted, settings, name in NONLOCAL:
        same = all(
            isclose(_read_number(run, key, float("nan")), value, abs_tol=1e-4) for key, value in settings.items()
        )
        if tag == wanted and same and ("BPARAM" in settings) == with_vv10:
            return name, None
    given = ", ".join(f"{key} = {_show(run.get(key))}" for key in (*DEFAULTS, "BPARAM") if run.get(key) is not None)
    return None, f"LUSE_VDW over {tag or 'the functional of the POTCAR'} with {given} is not a functional known here"


def _is_word_on(word: str) -> bool:
    try:
        return float(word) != 0
    except ValueError:
        return word.strip(".").upper() not in ("--", "NONE", "F", "FALSE")


def _read_number(run: VaspRun, name: str, default: float) -> float:
    value = run.get(name)
    return default if value is None else float(value)


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split()
    return list(value) if isinstance(value, Iterable) else [value]


def _show(value: Any) -> str:
    return " ".join(map(str, _list(value)))
