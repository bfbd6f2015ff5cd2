"""Candidates by exchange of elements: all combinations once, in the known compound's cell and symmetry."""

from __future__ import annotations

import pytest
from pymatgen.core import Structure

from e3relax_flows.candidates.enumerations import COMMON, INTERSTITIAL, Enumeration, enumerate_candidates
from e3relax_flows.core.errors import ConfigError

SALT = Enumeration(
    "rock salt",
    "NaCl",
    "Fm-3m",
    (5.64, 5.64, 5.64, 90.0),
    (("Na", 0, 0, 0), ("Cl", 0.5, 0.5, 0.5)),
    {"Na": "Na K Cl", "Cl": "Cl Br"},
)


def test_all_combinations_but_the_known_one_are_built() -> None:
    built = dict(SALT.build())
    # Na Cl is known, Cl Cl one element only
    assert set(built) == {f"rock salt {formula}" for formula in ("NaBr", "KCl", "KBr", "BrCl")}
    assert all(structure.volume == pytest.approx(5.64**3 / 4) for structure in built.values())
    bond = built["rock salt KBr"].get_distance(0, 1)
    assert bond == pytest.approx(5.64 / 2)


def test_exchanges_happen_at_once() -> None:
    (other,) = Enumeration(**{**vars(SALT), "choices": {"Na": "Cl", "Cl": "Na"}}).build()
    assert other[1].composition.reduced_formula == "NaCl"  # not two of the same element


def test_what_is_not_exchanged_stays_and_is_not_doubled() -> None:
    (other,) = Enumeration(**{**vars(SALT), "choices": {"Na": "Na Cl K"}}).build()
    assert other[0] == "rock salt KCl"


@pytest.mark.parametrize("enumeration", [*INTERSTITIAL, *COMMON], ids=lambda each: f"{each.prototype} {each.known}")
def test_candidates_have_the_symmetry_of_the_known_compound(enumeration: Enumeration) -> None:
    candidates = enumeration.build()
    n_combinations = 1
    for choice in enumeration.choices.values():
        n_combinations *= len(choice.split())
    assert n_combinations - 3 <= len(candidates) <= n_combinations
    for _, structure in (candidates[0], candidates[-1]):
        assert structure.get_space_group_info()[0] == enumeration.space_group
        assert len(structure) <= 8
        assert 5 < structure.volume / len(structure) < 40
        assert min(structure.distance_matrix[structure.distance_matrix > 0.01]) > 1.4


def test_names_tell_candidates_apart_and_the_draw_depends_on_them_alone() -> None:
    names = [name for enumeration in (*INTERSTITIAL, *COMMON) for name, _ in enumeration.build()]
    assert len(set(names)) == len(names) > 380
    drawn = enumerate_candidates(INTERSTITIAL, 30)
    assert drawn == enumerate_candidates(INTERSTITIAL[::-1], 30)
    assert [name for name, _ in enumerate_candidates(INTERSTITIAL, 20)] == [name for name, _ in drawn[:20]]
    assert {name for name, _ in drawn} != {name for name, _ in enumerate_candidates(INTERSTITIAL, 30, seed=1)}
    small: list[Structure] = [structure for _, structure in enumerate_candidates(INTERSTITIAL, 500, max_atoms=3)]
    assert {len(structure) for structure in small} == {2, 3}
    assert len(small) == 67


def test_that_there_is_none_is_said() -> None:
    with pytest.raises(ConfigError, match="at most 1 atoms"):
        enumerate_candidates(INTERSTITIAL, 5, max_atoms=1)
