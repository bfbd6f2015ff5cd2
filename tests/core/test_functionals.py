"""One spelling of every functional."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e3relax_flows.core.functionals import (
    ADDITIONS,
    ALIASES,
    NAMES,
    add_pressure,
    read_pressure,
    spell_functional,
)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("PBESol", "PBEsol"),  # emmet before 0.84.9
        ("PBESol+U", "PBEsol+U"),
        ("R2SCAN", "r2SCAN"),
        ("R2SCAN-rVV10", "r2SCAN-rVV10"),
        ("RevPBE+PADE", "RPBE"),
        ("revPBE+PADE+U", "RPBE+U"),
        ("GGA+U", "PBE+U"),
        ("gga", "PBE"),
        (" pbe + u ", "PBE+U"),
        ("PBE+U+vdW-DFT-D3-BJ", "PBE+U+D3-BJ"),  # pymatgen
        ("PBE-D3(BJ)", "PBE+D3-BJ"),
        ("PBE+D3BJ+U", "PBE+U+D3-BJ"),
        ("SCAN+rVV10", "SCAN-rVV10"),
        ("GGA_X_PBE_SOL+GGA_C_PBE_SOL", "PBEsol"),  # libxc, as GPAW takes it
        ("pbesol at 50.0 GPa", "PBEsol at 50 GPa"),
        ("PBE at 0 GPa", "PBE"),
        ("CHGNet", "CHGNet"),
        ("PBE(+U)", "PBE(+U)"),
        ("MACE-MP-0", "MACE-MP-0"),
        ("", ""),
    ],
)
def test_names_are_spelled(written, name):
    assert spell_functional(written) == name


names = st.sampled_from([*NAMES, *ALIASES, "MACE", "PBE(+U)"])
additions = st.lists(st.sampled_from(list(ADDITIONS)), max_size=3, unique_by=lambda word: ADDITIONS[word])
pressures = st.one_of(st.just(0.0), st.integers(-20, 400).map(float), st.floats(0.1, 99.0).map(lambda x: round(x, 3)))


@given(names, additions, pressures, st.sampled_from([str, str.upper, str.lower]))
def test_spelling_is_settled_and_ignores_case(name, words, pressure, change):
    written = add_pressure("+".join([name, *words]), pressure)
    spelled = spell_functional(written)
    assert spell_functional(spelled) == spelled
    assert read_pressure(spelled) == pytest.approx(pressure, rel=1e-5)
    if name in NAMES:
        assert spell_functional(change(written)) == spelled


@given(st.text(max_size=30))
def test_any_text_is_spelled_once(text):
    assert spell_functional(spell_functional(text)) == spell_functional(text)
