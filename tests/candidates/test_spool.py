"""Lists of candidates on disk: duplicates, order, and as few structures in memory as possible."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Species, Structure

from e3relax_flows.candidates.duplicates import CellMatcher, reduce_cell
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.spool import CandidateList
from e3relax_flows.core.ids import identify_structure


def make_rutile(length: float = 4.6, x: float = 0.305) -> Structure:
    return Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(length, 2.96), ["Ti", "O"], [[0, 0, 0], [x, x, 0]])


def make_items() -> list[ReadItem]:
    """Rutile in five guises, two other crystals of its formula and two things that are none of it."""
    rutile = make_rutile()
    shifted = rutile.copy()
    shifted.translate_sites(range(len(shifted)), [0.21, 0.3, 0.07])
    double = rutile * (1, 1, 2)
    magnetic = rutile.copy(site_properties={"magmom": [1.0, -1.0, 0, 0, 0, 0]})
    held = rutile.copy(site_properties={"selective_dynamics": [[True] * 3] * 6})
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structures = {
        "rutile": rutile,
        "again": rutile.copy(),
        "shifted": shifted,
        "double": double,
        "distorted": make_rutile(x=0.34),
        "swollen": make_rutile(4.9),
        "magnetic": magnetic,
        "held": held,
        "salt": salt,
        "primitive": salt.get_primitive_structure(),
    }
    return [*(ReadItem(id, structure, None) for id, structure in structures.items()), ReadItem("gone", None, "no file")]


def test_the_first_of_equal_candidates_is_kept():
    with CandidateList() as candidates:
        candidates.add(make_items())
        assert candidates.deduplicate() == 3
        kept = list(candidates.iterate())
        assert [one.id for one in kept] == ["rutile", "distorted", "swollen", "magnetic", "held", "salt"]
        assert kept[0].structure == make_rutile()
        assert kept[0].structure_id == identify_structure(make_rutile())
        assert set(candidates.iterate_duplicates()) == {
            ("again", "rutile", "id"),
            ("shifted", "rutile", "structure"),
            ("double", "rutile", "structure"),
            ("primitive", "salt", "structure"),
        }
        assert candidates.errors == [("gone", "no file")]
        counts = candidates.count()
    assert counts == {"read": 11, "unreadable": 1, "equal_ids": 1, "equal_structures": 3, "candidates": 6}
    assert counts["read"] == counts["unreadable"] + counts["equal_ids"] + counts["equal_structures"] + len(kept)


def test_site_properties_and_moments_survive_the_disk():
    with CandidateList() as candidates:
        candidates.add(make_items())
        found = {one.id: one.structure for one in candidates.iterate()}
    assert found["magnetic"].site_properties["magmom"] == [1.0, -1.0, 0, 0, 0, 0]
    assert found["held"].site_properties["selective_dynamics"] == [[True] * 3] * 6


def test_streaming_finds_what_comparing_everything_finds():
    """40 crystals of one formula whose volumes overlap, against every pair of them."""
    rng = np.random.default_rng(3)
    structures = [make_rutile(4.5 + 0.02 * (n % 10), 0.29 + 0.015 * (n % 4)) for n in range(20)]
    structures += [structure.copy().perturb(0.01, seed=rng) for structure in structures]
    matcher, cells, expected = CellMatcher(), [], []
    for number, structure in enumerate(structures):
        cell = reduce_cell(structure)
        if not any(matcher.match(other, cell) for other in cells):
            cells.append(cell)
            expected.append(str(number))
    with CandidateList() as candidates:
        candidates.add(ReadItem(str(number), structure, None) for number, structure in enumerate(structures))
        candidates.deduplicate()
        assert [one.id for one in candidates.iterate()] == expected
    assert 2 <= len(expected) < 20


def test_the_smallest_score_is_first_and_unknown_ones_last_as_they_came():
    scores = {"rutile": 0.3, "distorted": None, "swollen": -1.0, "magnetic": float("nan"), "held": 0.2, "salt": 0.2}
    with CandidateList() as candidates:
        candidates.add(make_items())
        candidates.deduplicate()
        assert candidates.score(lambda id, _: scores[id]) == 4
        ranked = [(one.id, one.score) for one in candidates.iterate()]
        assert [one.id for one in candidates.iterate(limit=2)] == ["swollen", "held"]
    assert ranked == [
        ("swollen", -1.0),
        ("held", 0.2),
        ("salt", 0.2),
        ("rutile", 0.3),
        ("distorted", None),
        ("magnetic", None),
    ]


def test_nothing_is_left_on_disk(tmp_path):
    with CandidateList(tmp_path) as candidates:
        candidates.add(make_items())
        assert list(tmp_path.glob("*/candidates.sqlite"))
    assert not list(tmp_path.iterdir())


def test_what_a_ranking_raises_comes_through():
    with CandidateList() as candidates:
        candidates.add(make_items())
        with pytest.raises(ZeroDivisionError):
            candidates.score(lambda *_: 1 / 0)


def test_lists_longer_than_a_page_are_scored_and_given_whole():
    half = Lattice.cubic(3.0)
    items = [ReadItem(str(n), Structure(half.scale(27 + 0.1 * n), ["Cu"], [[0, 0, 0]]), None) for n in range(450)]
    with CandidateList() as candidates:
        candidates.add(items)
        assert candidates.score(lambda id, _: -float(id) if int(id) % 2 else None) == 225
        found = [int(one.id) for one in candidates.iterate()]
    assert found == [*range(449, 0, -2), *range(0, 450, 2)]


@pytest.mark.parametrize("swap", [False, True])
def test_a_crystal_with_moments_is_not_the_one_without(swap):
    plain = Structure(Lattice.cubic(4.1), ["Mn", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    up, down, still = (plain.copy(site_properties={"magmom": moments}) for moments in ([4, 0.5], [-4, -0.5], [0, None]))
    ions = plain.copy()
    ions.add_oxidation_state_by_site([2, -2])
    named = {"plain": plain, "up": up, "down": down, "ions": ions}
    with CandidateList() as candidates:
        candidates.add(ReadItem(name, named[name], None) for name in sorted(named, reverse=swap))
        candidates.add([ReadItem("still", still, None)])
        assert candidates.deduplicate() == 1
        assert list(candidates.iterate_duplicates()) == [("still", "plain", "structure")]


def test_what_cannot_be_compared_is_kept_and_costs_the_others_nothing():
    def build(length=4.1, pbc=(True, True, True), **more):
        lattice = Lattice(np.eye(3) * length, pbc=pbc)
        return Structure(lattice, ["Mn", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], **more)

    broken = build()
    broken[0].frac_coords = [np.nan, 0, 0]
    kept = {
        "broken": broken,
        "layer": build(pbc=(True, True, False)),
        "plain": build(),
        "words": build(site_properties={"magmom": ["4.0", "0.0"]}),
        "vectors": build(site_properties={"magmom": [[4.0, 0, 0], [0, 0, 0]]}),
        "other vectors": build(site_properties={"magmom": np.array([[0, 4.0, 0], [0, 0, 0]])}),
        "no number": build(site_properties={"magmom": [np.nan, 0]}),
        "number": build(site_properties={"magmom": [np.array(4.0), None]}),
        "spin": Structure(Lattice.cubic(4.1), [Species("Mn", 2, np.array([5, 0])), "Cl"], [[0, 0, 0], [0.5] * 3]),
    }  # fmt: skip
    shifted = build(site_properties={"magmom": [4.0, 0.0]})
    shifted.translate_sites([0, 1], [0.1, 0.2, 0.3])
    with CandidateList() as candidates:
        candidates.add(ReadItem(name, structure, None) for name, structure in kept.items())
        candidates.add(
            [ReadItem("shifted", shifted, None), ReadItem("odd", build(site_properties={"x": [{1}, 2]}), None)]
        )
        candidates.add([ReadItem("empty", Structure(Lattice.cubic(3), [], []), None)])
        assert candidates.deduplicate() == 1
        assert list(candidates.iterate_duplicates()) == [("shifted", "number", "structure")]
        assert [one.id for one in candidates.iterate()] == list(kept)
        (odd, message), (empty, no_atoms) = candidates.errors
    assert (odd, empty, no_atoms) == ("odd", "empty", "the structure has no atoms; leave it out")
    assert message.startswith("site_properties['x'][0] is set {1}, which has no canonical form")
