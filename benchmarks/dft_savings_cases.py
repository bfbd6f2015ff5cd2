"""Which crystals of a pair file `dft_savings.py` relaxes: rules that look at cost, chemistry and start only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from pymatgen.core import Composition, Element, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from e3relax_flows import E3RelaxError, choose_gpaw_settings, draw_uniform, measure_displacements, measure_log_strain

MAGNETIC = {"V", "Cr", "Mn", "Fe", "Co", "Ni"}
NOBLE = {"He", "Ne", "Ar", "Kr", "Xe", "Rn"}
LANTHANIDES = range(57, 72)
HUBBARD = {"V", "Cr", "Mn", "Fe", "Co", "Ni", "Mo", "W"}  # with O or F the Materials Project adds U to these
SYMPREC = 0.01  # Å

# plane waves per Å^3 and eV^1.5: half the volume of a sphere of radius sqrt(2 m E) / hbar times 2, over (2 pi)^3
WAVES = (1 / 3.8099821) ** 1.5 / (6 * math.pi**2)


@dataclass(frozen=True)
class Rules:
    """What may be chosen; the ids of the crystals and `seed` decide the rest."""

    max_atoms: int = 12
    max_cost: float = 0.5  # see estimate_cost; about 20 s per ionic step and unit on one core
    least_per_group: int = 4  # a group with fewer within max_cost is topped up with its cheapest others ...
    topping_cost: float = 2.0  # ... as long as the costs of these add up to no more than this
    min_strain: float = 0.03  # Frobenius norm of the logarithmic strain, initial to relaxed
    min_displacement: float = 0.05  # Å, mean over atoms; enough of either
    max_per_prototype: int = 2  # space group and proportions
    needs_balance: bool = True  # oxidation states that add up to nothing; most others are metals
    needs_distance: bool = True  # the least strain or displacement
    even_electrons: bool = True
    k_length: float = 15.0  # Å of real space that the k-points stand for
    k_length_metal: float = 25.0
    coarse_above: float = math.inf  # cost from which a crystal, chosen all the same, has k-points for coarse_k_length
    coarse_k_length: float = 7.0
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """One crystal, and the settings that all its relaxations share."""

    id: str
    source: str
    initial: Structure
    relaxed: Structure | None  # of the pair file: it sets the k-points, never a start
    ecut: float  # eV
    kpts: tuple[int, int, int]
    cost: float  # with k-points that are not coarse
    strain: float | None  # initial to relaxed; None where the file has no relaxed structure
    displacement: float | None  # Å, the same

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return self.initial.composition.reduced_formula

    @property
    def chemistry(self) -> str:
        """Chemical system, such as Mg-O."""
        return self.initial.composition.chemical_system

    @property
    def space_group(self) -> str:
        """International symbol of the initial structure."""
        return SpacegroupAnalyzer(self.initial, SYMPREC).get_space_group_symbol()

    @property
    def group(self) -> str:
        """Fluoride or oxide, which need the highest cut-off and are many, else the source."""
        symbols = {element.symbol for element in self.initial.composition}
        return "fluoride" if "F" in symbols else "oxide" if "O" in symbols else self.source

    @property
    def stratum(self) -> tuple[str, bool]:
        """Group, and whether more than the volume has to relax."""
        if self.relaxed is None or self.displacement is None:
            return self.group, True
        strain = measure_log_strain(self.initial.lattice.matrix, self.relaxed.lattice.matrix)
        deviator = strain - np.eye(3) * np.trace(strain) / 3
        return self.group, bool(np.linalg.norm(deviator) > 0.01 or self.displacement > 0.02)


def read_side(row: dict[str, Any], side: str) -> Structure | None:
    """Initial or relaxed structure of a row of a pair file; None where the row does not have it."""
    content = row.get(side)
    return content and Structure(content["lattice"], row["numbers"], content["frac"])


def find_refusal(row: dict[str, Any], rules: Rules) -> str | None:
    """First rule on composition and size that the row breaks, in words; None: it may be tried."""
    if len(row["numbers"]) > rules.max_atoms:
        return f"more than {rules.max_atoms} atoms"
    elements = {Element.from_Z(number) for number in row["numbers"]}
    symbols = {element.symbol for element in elements}
    if len(symbols) < 2:
        return "an element alone"
    if symbols & NOBLE or any(element.Z in LANTHANIDES for element in elements):
        return "noble gas or lanthanide"
    if symbols & HUBBARD and symbols & {"O", "F"} and "+U" in str(row.get("functional", "+U")):
        return "relaxed with +U"
    if symbols & MAGNETIC:
        return "possibly magnetic"
    if rules.even_electrons and sum(row["numbers"]) % 2:
        return "an odd number of electrons"
    if not has_datasets(row["numbers"]):
        return "no PBE dataset"
    return None


def has_datasets(numbers: list[int]) -> bool:
    """Whether GPAW has a PBE dataset for each element."""
    cell = Structure(np.eye(3), sorted(set(numbers)), np.zeros((len(set(numbers)), 3)))
    try:
        choose_gpaw_settings(cell)
    except E3RelaxError:
        return False
    return True


def is_charge_balanced(composition: Composition) -> bool:
    """Whether known oxidation states of the elements can add up to nothing; most others are metals."""
    return bool(composition.reduced_composition.oxi_state_guesses(max_sites=-1))


def count_kpoints(structure: Structure, kpts: tuple[int, int, int]) -> int:
    """Irreducible points of a Gamma-centred grid."""
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    mapping, _ = spglib.get_ir_reciprocal_mesh(kpts, cell, is_shift=[0, 0, 0], symprec=SYMPREC)
    return len(set(mapping.tolist()))


def estimate_cost(n_kpoints: int, volume: float, ecut: float, n_valence: float) -> float:
    """Millions of plane-wave coefficients of the bands: k-points x plane waves x bands."""
    return n_kpoints * WAVES * volume * ecut**1.5 * (0.6 * n_valence + 4) / 1e6


def build_case(row: dict[str, Any], rules: Rules, count_valence: Callable[[str], float]) -> Case:
    """Case of a row; the k-points are, axis by axis, the more of what initial and relaxed structure need."""
    initial, relaxed = read_side(row, "initial"), read_side(row, "relaxed")
    if initial is None:
        raise ValueError(f"row {row.get('id')}: it has no initial structure")
    sides = [side for side in (initial, relaxed) if side is not None]
    kpts = _choose_grid(sides, rules.k_length, rules.k_length_metal)
    ecut = choose_gpaw_settings(initial)["mode"]["ecut"]
    volume = max(side.volume for side in sides)
    n_valence = sum(count_valence(element.symbol) * n for element, n in initial.composition.items())
    cost = estimate_cost(count_kpoints(initial, kpts), volume, ecut, n_valence)
    if cost > rules.coarse_above:
        kpts = _choose_grid(sides, rules.coarse_k_length, rules.coarse_k_length)
    strain = displacement = None
    if relaxed is not None:
        strain = float(np.linalg.norm(measure_log_strain(initial.lattice.matrix, relaxed.lattice.matrix)))
        moved = measure_displacements(initial.frac_coords, relaxed.frac_coords, relaxed.lattice.matrix)
        displacement = float(moved.mean())
    return Case(
        id=str(row["id"]),
        source=str(row.get("source") or "unknown"),
        initial=initial,
        relaxed=relaxed,
        ecut=ecut,
        kpts=kpts,
        cost=cost,
        strain=strain,
        displacement=displacement,
    )


def _choose_grid(sides: list[Structure], length: float, length_metal: float) -> tuple[int, int, int]:
    """Axis by axis the most that a side needs."""
    grids = [choose_gpaw_settings(side, length, length_metal)["kpts"]["size"] for side in sides]
    first, second, third = (max(counts) for counts in zip(*grids, strict=True))
    return first, second, third


def is_near(case: Case, rules: Rules) -> bool:
    """Whether the relaxed structure is known and within the least distance of the initial one."""
    if case.strain is None or case.displacement is None:
        return False
    return case.strain < rules.min_strain and case.displacement < rules.min_displacement


def choose_cases(
    rows: Iterable[dict[str, Any]], n: int, rules: Rules, count_valence: Callable[[str], float]
) -> tuple[list[Case], list[tuple[str, int]]]:
    """At most `n` cases, and how many rows each rule left.

    Each chemical system occurs once, each prototype `max_per_prototype` times at most. Strata, a group and
    whether more than the volume relaxes, take turns, so that any first part of the list is balanced; within a stratum
    the order is that of random numbers drawn from the seed and the id alone.
    """
    counts: dict[str, int] = defaultdict(int)
    cases: list[Case] = []
    total = 0
    for row in rows:
        total += 1
        reason = find_refusal(row, rules)
        if reason:
            counts[reason] += 1
            continue
        case = build_case(row, rules, count_valence)
        if rules.needs_distance and is_near(case, rules):
            counts["start within the least distance of the relaxed structure"] += 1
        elif rules.needs_balance and not is_charge_balanced(case.initial.composition):
            counts["not charge-balanced"] += 1
        else:
            cases.append(case)
    cheap = _drop_expensive(cases, rules)
    counts["too expensive"] = len(cases) - len(cheap)
    left, funnel = total, [("pairs in the file", total)]
    for reason, count in counts.items():
        left -= count
        funnel.append((f"without: {reason}", left))
    chosen = list(_take_turns(cheap, n, rules))
    return chosen, [*funnel, ("chosen", len(chosen))]


def _drop_expensive(cases: list[Case], rules: Rules) -> list[Case]:
    kept: list[Case] = []
    for group in sorted({case.group for case in cases}):
        ordered = sorted((case for case in cases if case.group == group), key=lambda case: (case.cost, case.id))
        cheap = [case for case in ordered if case.cost <= rules.max_cost]
        budget = rules.topping_cost
        for case in ordered[len(cheap) : max(len(cheap), rules.least_per_group)]:
            budget -= case.cost
            if budget < 0:
                break
            cheap.append(case)
        kept += cheap
    return kept


def _take_turns(cases: list[Case], n: int, rules: Rules) -> Iterator[Case]:
    strata: dict[tuple[str, bool], list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: draw_uniform(rules.seed, case.id)):
        strata[case.stratum].append(case)
    chemistries: set[str] = set()
    prototypes: dict[tuple[str, str], int] = defaultdict(int)
    n_chosen = 0
    # crystals in which more than the volume relaxes come first
    queues = [strata[key] for key in sorted(strata, key=lambda key: (not key[1], key[0]))]
    while n_chosen < n and any(queues):
        for queue in queues:
            while queue:
                case = queue.pop(0)
                prototype = (case.space_group, case.initial.composition.anonymized_formula)
                if case.chemistry in chemistries or prototypes[prototype] >= rules.max_per_prototype:
                    continue
                chemistries.add(case.chemistry)
                prototypes[prototype] += 1
                n_chosen += 1
                yield case
                break
            if n_chosen >= n:
                return
