"""Prototypes of pymatgen's AFLOW table as candidates."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from e3relax_flows.candidates.aflow import find_prototypes, read_prototypes
from e3relax_flows.candidates.sources import read_sources
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.candidates import PrototypeSource, SubstitutionSource


def source(*prototypes: str, **more) -> PrototypeSource:
    return PrototypeSource(type="prototypes", prototypes=list(prototypes), **more)


@pytest.mark.parametrize("word", ["B1", "AB_cF8_225_a_b", "rock salt", "Halite", "NaCl"])
def test_one_prototype_has_many_names(word):
    ((name, structure),) = find_prototypes(word)
    assert (name, structure.formula) == ("B1 NaCl", "Na1 Cl1")
    assert structure.get_space_group_info() == ("Fm-3m", 225)
    assert structure.volume == pytest.approx(5.63931**3 / 4, rel=0.01)


def test_compounds_take_the_places_of_their_number_and_electronegativity():
    wanted = source("B1", "C1", "rutile", compounds=["LiF", "TiO2", "SnO2", "MgS"])
    items = {item.id: item for item in read_prototypes(wanted)}
    assert list(items) == [
        *("LiF in B1 NaCl", "MgS in B1 NaCl"),
        *("TiO2 in C1 CaF2", "SnO2 in C1 CaF2", "TiO2 in C4 TiO2", "SnO2 in C4 TiO2"),
    ]
    salt, fluorite = items["MgS in B1 NaCl"].structure, items["TiO2 in C1 CaF2"].structure
    prototype = find_prototypes("B1")[0][1]
    places = {old.specie.symbol: new.specie.symbol for old, new in zip(prototype, salt, strict=True)}
    assert places == {"Na": "Mg", "Cl": "S"}
    assert fluorite.get_space_group_info()[1] == 225
    # measured: 5.20 Å; the radii scale the volume of NaCl towards it
    assert salt.volume == pytest.approx(5.20**3 / 4, rel=0.15)
    assert salt.volume < prototype.volume
    kept = next(iter(read_prototypes(source("B1", compounds=["MgS"], volume="keep"))))
    assert kept.structure.volume == pytest.approx(prototype.volume)


def test_elements_are_exchanged_in_prototypes_as_in_any_source(settings):
    rules = SubstitutionSource(
        type="substitution", parents=[source("A4")], exchanges=[{"C": ["Si", "Ge"]}], volume="atomic"
    )
    assert [item.id for item in read_sources([rules], settings)] == ["Si from A4 C", "Ge from A4 C"]


def test_every_prototype_of_the_table_is_a_crystal_with_a_name():
    from e3relax_flows.candidates.aflow import _load_table

    table = _load_table()
    assert len(table) == 288
    assert all(entry["structure"].is_ordered and entry["structure"].volume > 0 and entry["words"] for entry in table)


def test_unknown_words_are_errors_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'fluorit' .*288; .*fluorite"):
        find_prototypes("fluorit")
    with pytest.raises(ValidationError, match="error, 'Xx2' "):
        source("B1", compounds=["Xx2"])
