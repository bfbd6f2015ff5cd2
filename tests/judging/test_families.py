from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Composition

from e3relax_flows.judging.assess import name_family


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("SrTiO3", "oxides"),
        ("CaCO3", "oxides"),
        ("BiOCl", "oxides"),
        ("NH4Cl", "halides"),
        ("BiTeI", "halides"),
        ("CuInS2", "chalcogenides"),
        ("Bi2Te3", "chalcogenides"),
        ("GaAs", "pnictides"),
        ("Ti4N3C", "pnictides"),
        ("SiC", "other compounds"),
        ("MgB2", "other compounds"),
        ("TiNiSn", "intermetallics"),
        ("Cu", "intermetallics"),
    ],
)
def test_the_anion_names_the_family(formula, family):
    numbers = [element.Z for element in Composition(formula)]
    assert name_family(np.array(numbers)) == name_family(reversed(numbers)) == family
