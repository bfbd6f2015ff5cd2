"""Families of chemistry, by anion: the strata in which a model must not become worse."""

from __future__ import annotations

from collections.abc import Iterable

OXIDES, HALIDES, CHALCOGENIDES, PNICTIDES = "oxides", "halides", "chalcogenides", "pnictides"
OTHER_COMPOUNDS, INTERMETALLICS = "other compounds", "intermetallics"

# the first one with an element of the crystal; a carbonate and an oxyhalide are oxides, a thiohalide is a halide
_ANIONS: tuple[tuple[str, frozenset[int]], ...] = (
    (OXIDES, frozenset({8})),
    (HALIDES, frozenset({9, 17, 35, 53, 85})),
    (CHALCOGENIDES, frozenset({16, 34, 52, 84})),
    (PNICTIDES, frozenset({7, 15, 33, 51, 83})),
    (OTHER_COMPOUNDS, frozenset({1, 2, 5, 6, 10, 14, 18, 36, 54, 86})),  # hydrides, borides, carbides, silicides
)


def name_family(numbers: Iterable[int]) -> str:
    """Family of a crystal from its atomic numbers; without an anion it is an intermetallic, also a pure element."""
    elements = {int(number) for number in numbers}
    return next((family for family, anions in _ANIONS if elements & anions), INTERMETALLICS)
