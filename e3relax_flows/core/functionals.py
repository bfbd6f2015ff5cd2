"""Spell names of functionals in one way, whether they come from emmet, pymatgen, GPAW or a user.

A name is BASE, then each addition after a +, then the pressure: "PBE+U", "PBE+D3-BJ", "r2SCAN at 50 GPa".
"""

from __future__ import annotations

import re
from functools import lru_cache

NAMES = (
    *("LDA", "PW91", "PBE", "PBEsol", "revPBE", "RPBE", "AM05", "BEEF", "optPBE", "optB88", "optB86b"),
    *("TPSS", "RTPSS", "M06L", "MBJL", "MS0", "MS1", "MS2", "SCAN", "rSCAN", "r2SCAN", "SCANL", "r2SCANL"),
    *("HF", "B3LYP", "PBE0", "HSE03", "HSE06", "HSEsol", "SCAN-rVV10", "r2SCAN-rVV10", "PBE-rVV10L", "rVV10"),
    *("revPBE-vdW", "optPBE-vdW", "optB88-vdW", "optB86b-vdW", "vdW-DF2", "rev-vdW-DF2", "vdW-DF-cx"),
)
ALIASES = {
    "gga": "PBE",  # emmet's and pymatgen's name where INCAR leaves the functional to POTCARs of PBE
    "revpbe+pade": "RPBE",
    "revpbe+padé": "RPBE",
    "revtpss": "RTPSS",
    "m06-l": "M06L",
    "madesimple0": "MS0",
    "madesimple1": "MS1",
    "madesimple2": "MS2",
    "vdw-df": "revPBE-vdW",
    "perdew-zunger81": "LDA",
    "scan+rvv10": "SCAN-rVV10",
    "r2scan+rvv10": "r2SCAN-rVV10",
    "pypbesol": "PBEsol",  # of GPAW without libxc
    "gga_x_pbe+gga_c_pbe": "PBE",  # libxc's names, as GPAW takes them
    "gga_x_pbe_sol+gga_c_pbe_sol": "PBEsol",
    "mgga_x_scan+mgga_c_scan": "SCAN",
    "mgga_x_r2scan+mgga_c_r2scan": "r2SCAN",
    **{name.lower(): name for name in NAMES},
}
ADDITIONS = {
    "u": "U",
    "d2": "D2",
    "d3": "D3",
    "d3(0)": "D3",
    "d3-zero": "D3",
    "d3bj": "D3-BJ",
    "d3(bj)": "D3-BJ",
    "d3-bj": "D3-BJ",
    "d4": "D4",
    "ts": "TS",
    "ts-h": "TS-HI",
    "ts-hi": "TS-HI",
    "mbd": "MBD",
    "mbd-fi": "MBD-FI",
    "mbd-nl": "MBD-NL",
    "ulg": "ulg",
    "ddsc": "dDsC",
    "soc": "SOC",
}
ORDER = {name: index for index, name in enumerate(dict.fromkeys(ADDITIONS.values()))}
PRESSURE = re.compile(r"(.*?)\s+at\s+([-+]?[\d.]+(?:e[-+]?\d+)?)\s*gpa", re.IGNORECASE)
ADDED_BY_HYPHEN = re.compile(r"(.+?)-((?:dft-)?(?:d2|d3.*|d4|ts|mbd))", re.IGNORECASE)
HUBBARD = re.compile(r"\(\+U\)|\+U(?=\+| |$)")
OF_PYMATGEN = re.compile(r"(?:vdw-)?(?:dft-)?(.+)")  # vdW-DFT-D3-BJ is D3-BJ


@lru_cache(maxsize=1024)
def spell_functional(name: str) -> str:
    """The one name of a functional; a name that is not known here stays as it is.

    Examples
    --------
    >>> spell_functional("R2SCAN"), spell_functional("pbesol+u"), spell_functional("PBE-D3(BJ)")
    ('r2SCAN', 'PBEsol+U', 'PBE+D3-BJ')
    """
    pressed = PRESSURE.fullmatch(name.strip())
    if pressed is not None:
        return add_pressure(spell_functional(pressed[1]), float(pressed[2]))
    base, additions = _split(" ".join(name.split()))
    return "+".join([base, *sorted(additions, key=lambda word: (ORDER.get(word, len(ORDER)), word))])


def strip_u(name: str) -> str:
    """Name of a functional without its U; PBE(+U), where only some relaxations have U, is PBE.

    Examples
    --------
    >>> strip_u("PBE+U"), strip_u("PBE(+U)"), strip_u("PBE+U+D3-BJ at 5 GPa")
    ('PBE', 'PBE', 'PBE+D3-BJ at 5 GPa')
    """
    return spell_functional(HUBBARD.sub("", spell_functional(name)))


def add_pressure(name: str, pressure: float) -> str:
    """Name of a functional at a pressure in GPa; 0 adds nothing to the name."""
    return f"{name} at {pressure:g} GPa" if pressure else name


def read_pressure(name: str) -> float:
    """Pressure in GPa that the name of a functional states; 0 where it states none."""
    pressed = PRESSURE.fullmatch(name.strip())
    return float(pressed[2]) if pressed is not None else 0.0


def _split(name: str) -> tuple[str, list[str]]:
    """Base and additions of a name without a pressure, both spelled."""
    name = name.strip()
    if name.lower() in ALIASES:
        return ALIASES[name.lower()], []
    head, plus, last = name.rpartition("+")
    if plus and head:
        base, additions = _split(head)
        return base, [*additions, _spell_addition(last)]
    hyphened = ADDED_BY_HYPHEN.fullmatch(name)
    if hyphened and hyphened[1].lower() in ALIASES:
        return ALIASES[hyphened[1].lower()], [_spell_addition(hyphened[2])]
    return name, []


def _spell_addition(word: str) -> str:
    plain = OF_PYMATGEN.fullmatch(word.strip().lower())
    return ADDITIONS.get(plain[1], word.strip()) if plain else word.strip()
