"""Candidates from OPTIMADE responses, stores and substitutions, and all of them as one stream."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.optimade import OptimadeStructureAdapter

from e3relax_flows.candidates.builtin import build_candidates
from e3relax_flows.candidates.optimade import convert_resource, read_optimade
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.sources import read_sources, resolve_paths
from e3relax_flows.candidates.substitutions import scale_volume, substitute
from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.schemas.candidates import Source, SubstitutionRules
from e3relax_flows.stores.sqlite import SQLiteStore

SOURCES: TypeAdapter[list[Source]] = TypeAdapter(list[Source])


def make_salt(cation: str = "Na", anion: str = "Cl", length: float = 5.640) -> Structure:
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return cell.get_primitive_structure()


def make_resource(structure: Structure, id: str = "db/1", **changes: object) -> dict:
    attributes = OptimadeStructureAdapter.get_optimade_structure(structure)["attributes"] | changes
    return {"id": id, "type": "structures", "attributes": attributes}


def test_optimade_page_gives_structures_and_reasons(tmp_path):
    salt = make_salt()
    mixed = [{"name": "M", "chemical_symbols": ["Na", "K"], "concentration": [0.5, 0.5]}]
    broken = make_resource(salt, "db/2", species_at_sites=["M", "Cl"], species=mixed)
    slab = make_resource(salt, "db/3", dimension_types=[1, 1, 0])
    calculation = {"id": "c", "type": "calculations", "attributes": {}}
    page = {"data": [make_resource(salt), broken, slab, calculation], "meta": {"data_returned": 3}}
    (tmp_path / "page.json").write_text(json.dumps(page))
    items = list(read_optimade([tmp_path / "page.json"]))
    assert [item.id for item in items] == ["db/1", "db/2", "db/3"]
    assert items[0].structure.composition.reduced_formula == "NaCl"
    assert np.allclose(items[0].structure.distance_matrix, salt.distance_matrix)
    assert "0.5 Na, 0.5 K" in items[1].error
    assert "periodic along [1, 1, 0]" in items[2].error


def test_names_of_optimade_species_are_looked_up_and_not_taken_for_elements():
    labelled = [
        {"name": "C", "chemical_symbols": ["Na"], "concentration": [1.0]},
        {"name": "Cl1", "chemical_symbols": ["Cl"], "concentration": [1.0]},
    ]
    resource = make_resource(make_salt(), species_at_sites=["C", "Cl1"], species=labelled)
    assert [site.specie.symbol for site in convert_resource(resource)] == ["Na", "Cl"]


def test_order_of_optimade_sites_is_that_of_the_response():
    structure = Structure(
        Lattice.cubic(4),
        ["O", "Ti", "O", "Sr", "O"],
        [[0.5, 0.5, 0], [0.5] * 3, [0.5, 0, 0.5], [0, 0, 0], [0, 0.5, 0.5]],
    )
    found = convert_resource(make_resource(structure))
    assert [site.specie.symbol for site in found] == ["O", "Ti", "O", "Sr", "O"]
    assert np.allclose(found.frac_coords, structure.frac_coords)


def test_optimade_lines_and_errors_of_servers(tmp_path):
    folder = tmp_path / "responses"
    folder.mkdir()
    lines = [{"x-optimade": {"meta": {}}}, make_resource(make_salt(), "a"), make_resource(make_salt("K"), "b")]
    with gzip.open(folder / "lines.jsonl.gz", "wt") as stream:
        stream.write("\n".join(map(json.dumps, lines)))
    (folder / "failed.json").write_text(json.dumps({"errors": [{"detail": "bad filter"}]}))
    items = {item.id: item for item in read_optimade([folder])}
    assert items.keys() == {"a", "b", "failed"}
    assert items["b"].structure.composition.reduced_formula == "KCl"
    assert "bad filter" in items["failed"].error
    with pytest.raises(ConfigError, match=r"nowhere: .*OPTIMADE"):
        list(read_optimade([tmp_path / "nowhere"]))


def test_store_is_read_by_query_and_field(tmp_path, settings):
    path = tmp_path / "mine.sqlite"
    with SQLiteStore(path, "tasks", key="task_id") as store:
        store.update(
            [
                {"task_id": "t1", "output": {"structure": make_salt().as_dict()}, "state": "successful"},
                {"task_id": "t2", "output": {"structure": make_salt("K").as_dict()}, "state": "failed"},
                {"task_id": "t3", "output": {}, "state": "successful"},
            ]
        )
    source = {
        "type": "store",
        "store": {"type": "SQLiteStore", "path": str(path), "collection_name": "tasks"},
        "criteria": {"state": "successful"},
        "structure": "output.structure",
        "id": "task_id",
    }
    items = list(read_sources(SOURCES.validate_python([source]), settings))
    assert [item.id for item in items] == ["t1", "t3"]
    assert items[0].structure == make_salt()
    assert "'output.structure' is NoneType" in items[1].error
    source["store"] = {"type": "SQLiteStore", "path": str(tmp_path / "absent.sqlite")}
    with pytest.raises(StoreError, match=r"absent\.sqlite.*`store`"):
        list(read_sources(SOURCES.validate_python([source]), settings))
    assert not (tmp_path / "absent.sqlite").exists()


def test_lists_of_elements_are_combined_and_never_merged():
    rules = SubstitutionRules(exchanges=[{"Na": ["K", "Cl", "Na"], "Cl": ["Br", "Cl"]}], volume="keep")
    items = list(substitute(ReadItem("mp-22862", make_salt(), None), rules))
    # K with Br and Cl, Cl with Br, Na with Br; not Cl with Cl, and not the parent
    assert [item.id for item in items] == [f"{f} from mp-22862" for f in ("KBr", "KCl", "BrCl", "NaBr")]
    assert all(item.structure.volume == pytest.approx(make_salt().volume) for item in items)
    limited = SubstitutionRules(**rules.model_dump() | {"per_parent": 2, "elements": ["Br", "K"]})
    assert [item.id.split()[0] for item in substitute(ReadItem("x", make_salt(), None), limited)] == ["KBr", "KCl"]


@pytest.mark.parametrize(("rule", "tolerance"), [("atomic", 0.12), ("ionic", 0.10), ("bonds", 0.14)])
def test_scaled_volume_is_near_the_measured_one(rule, tolerance):
    """KBr (6.598 Å) from NaCl (5.640 Å), whose own volume is 38 % too small."""
    exchanged = Structure(make_salt().lattice, ["K", "Br"], make_salt().frac_coords)
    measured = make_salt("K", "Br", 6.598)
    assert exchanged.volume / measured.volume < 0.63
    scaled = scale_volume(exchanged, make_salt(), rule)
    assert abs(scaled.volume / measured.volume - 1) < tolerance
    assert scaled.lattice.angles == pytest.approx(exchanged.lattice.angles)
    assert np.allclose(scaled.frac_coords, exchanged.frac_coords)


@pytest.mark.slow
def test_predictor_gives_the_most_probable_first_without_oxidation_states():
    rules = SubstitutionRules(threshold=0.02)
    items = list(substitute(ReadItem("NaCl", make_salt(), None), rules))
    formulas = [item.structure.composition.reduced_formula for item in items]
    assert 1 <= len(formulas) == len(set(formulas))
    assert "NaCl" not in formulas
    assert {"NaF", "NaBr"} & set(formulas)
    assert all(getattr(site.specie, "oxi_state", None) is None for item in items for site in item.structure)
    fewer = list(substitute(ReadItem("NaCl", make_salt(), None), SubstitutionRules(threshold=0.02, per_parent=1)))
    assert [item.id for item in fewer] == [items[0].id]


def test_a_parent_that_cannot_be_used_says_why():
    disordered = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    rules = SubstitutionRules(exchanges=[{"Cu": ["Ag"]}])
    (item,) = substitute(ReadItem("alloy", disordered, None), rules)
    assert item.structure is None
    assert "disordered" in item.error
    metal = Structure(Lattice.cubic(3), ["Cu", "Au"], [[0, 0, 0], [0.5] * 3])
    (item,) = substitute(ReadItem("metal", metal, None), SubstitutionRules(threshold=0.01))
    assert "no oxidation states fit it" in item.error
    gone = ReadItem("gone", None, "no file")
    assert list(substitute(gone, rules)) == [gone]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "either exchanges or a threshold"),
        ({"exchanges": [{"Na": ["K"]}], "threshold": 0.1}, "either exchanges or a threshold"),
        ({"exchanges": [{"Na": ["Qq"]}]}, "error, .*: Qq "),
        ({"exchanges": [{"Na": []}]}, r"\{Na: \[Li, K\]\}"),
    ],
)
def test_wrong_rules_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        SubstitutionRules(**changes)


def test_sources_are_one_stream_with_unique_ids_and_nested_parents(tmp_path, settings):
    make_salt().to_file(str(tmp_path / "salt.cif"))
    raw = [
        {"type": "files", "paths": ["salt.cif"]},
        {"type": "built-in"},
        {"type": "files", "paths": ["salt.cif"]},
        {"type": "substitution", "parents": [{"type": "files", "paths": ["salt.cif"]}], "exchanges": [{"Na": ["K"]}]},
    ]
    sources = SOURCES.validate_python(resolve_paths(raw, tmp_path))
    items = list(read_sources(sources, settings))
    n = len(build_candidates())
    assert [item.id for item in items] == ["salt", *(name for name, _ in build_candidates()), "salt-2", "KCl from salt"]
    assert len(items) == n + 3
    assert all(item.error is None for item in items)
    assert StructureMatcher(scale=True).fit(items[-1].structure, make_salt("K", "Cl"))


def test_unknown_source_and_key_are_refused():
    with pytest.raises(ValidationError, match="materials-project"):
        SOURCES.validate_python([{"type": "aflow"}])
    with pytest.raises(ValidationError, match=r"built-in\.path"):
        SOURCES.validate_python([{"type": "built-in", "path": Path("x")}])
