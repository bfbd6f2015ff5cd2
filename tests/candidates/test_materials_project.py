"""The Materials Project as a source, played by a client with the signature of mp-api 0.46."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass, field

import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from e3relax_flows.candidates import materials_project as sources_mp
from e3relax_flows.candidates.materials_project import fetch_entries, read_materials_project
from e3relax_flows.core.errors import E3RelaxError, MissingDependencyError
from e3relax_flows.schemas.candidates import MPQuery

KEY = "k" * 32


@dataclass
class Server:
    """What is there, what was asked, and how often it fails first."""

    materials: list[dict]
    failures: list[Exception] = field(default_factory=list)
    requests: list[dict] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    n_clients: int = 0
    n_closed: int = 0


@pytest.fixture
def server(monkeypatch) -> Server:
    """A server of 7 salts of growing size in pages of 3, in the place of mp-api."""
    salts = [
        {
            "material_id": f"mp-{n}",
            "structure": Structure(Lattice.cubic(4 + 0.1 * n), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]).as_dict(),
        }
        for n in range(1, 8)
    ]
    state = Server(salts)

    class Summary:
        def search(
            self, *, fields, all_fields, num_chunks, chunk_size, _page, _sort_fields, deprecated, chemsys=None,
            elements=None, energy_above_hull=None, num_sites=None,
        ):  # fmt: skip
            terms = {"chemsys": chemsys, "elements": elements, "hull": energy_above_hull, "sites": num_sites}
            state.requests.append({"page": _page, "deprecated": deprecated, **terms})
            if state.failures:
                raise state.failures.pop(0)
            assert (num_chunks, all_fields, _sort_fields) == (1, False, "material_id")
            page = state.materials[(_page - 1) * chunk_size : _page * chunk_size]
            return [{name: material[name] for name in fields} for material in page]

    class MPRester:
        def __init__(self, *, mute_progress_bars, use_document_model):
            assert mute_progress_bars
            assert not use_document_model
            self.materials = types.SimpleNamespace(summary=Summary())
            state.n_clients += 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            state.n_closed += 1

        def get_entries_in_chemsys(self, elements, additional_criteria):
            state.requests.append({"entries": elements, **additional_criteria})
            structure = Structure.from_dict(state.materials[0]["structure"])
            return [ComputedStructureEntry(structure, -6.5, entry_id="mp-1-GGA", parameters={"run_type": "GGA"})]

    package, module = types.ModuleType("mp_api"), types.ModuleType("mp_api.client")
    module.MPRester = MPRester
    monkeypatch.setitem(sys.modules, "mp_api", package)
    monkeypatch.setitem(sys.modules, "mp_api.client", module)
    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.setattr(sources_mp, "PAGE_SIZE", 3)
    monkeypatch.setattr(sources_mp.time, "sleep", state.waits.append)
    return state


def test_pages_are_asked_for_once_and_politely(server, tmp_path):
    query = MPQuery(chemsys=["Na-Cl"], energy_above_hull=(0, 0.05), num_sites=(1, 20))
    items = list(read_materials_project(query, tmp_path))
    assert [item.id for item in items] == [f"mp-{n}" for n in range(1, 8)]
    assert [round(item.structure.lattice.a, 3) for item in items] == [4.1, 4.2, 4.3, 4.4, 4.5, 4.6, 4.7]
    assert [request["page"] for request in server.requests] == [1, 2, 3]
    expected = {"deprecated": False, "chemsys": ["Na-Cl"], "elements": None, "hull": (0, 0.05), "sites": (1, 20)}
    assert all(request == {"page": request["page"], **expected} for request in server.requests)
    assert server.waits == [sources_mp.PAUSE_S] * 3
    assert (server.n_clients, server.n_closed) == (1, 1)

    assert list(read_materials_project(query, tmp_path)) == items
    assert len(server.requests) == 3
    assert server.n_clients == 1
    list(read_materials_project(query, tmp_path, refresh=True))
    assert len(server.requests) == 6


def test_an_exact_last_page_ends_the_query(server, tmp_path):
    del server.materials[6:]
    query = MPQuery(elements=["Na"])
    assert len(list(read_materials_project(query, tmp_path))) == 6
    assert len(list(read_materials_project(query, tmp_path))) == 6
    assert [request["page"] for request in server.requests] == [1, 2, 3]


def test_a_limit_stops_early_and_what_came_serves_the_next_query(server, tmp_path):
    assert len(list(read_materials_project(MPQuery(elements=["Na"], limit=2), tmp_path))) == 2
    assert [request["page"] for request in server.requests] == [1]
    assert len(list(read_materials_project(MPQuery(elements=["Na"], limit=5), tmp_path))) == 5
    assert [request["page"] for request in server.requests] == [1, 2]
    assert len(list(read_materials_project(MPQuery(elements=["Na"]), tmp_path))) == 7
    assert [request["page"] for request in server.requests] == [1, 2, 3]


def test_failures_are_tried_again_with_growing_waits_and_resumed(server, tmp_path, caplog):
    query = MPQuery(elements=["Na"])
    server.failures = [ConnectionError(f"no route, header {KEY}")] * 2
    assert len(list(read_materials_project(query, tmp_path / "first"))) == 7
    assert server.waits[:2] == [4, 8]
    assert KEY not in caplog.text
    assert "***" in caplog.text

    stream = read_materials_project(query, tmp_path / "second")
    assert [next(stream).id for _ in range(3)] == ["mp-1", "mp-2", "mp-3"]
    server.failures = [ConnectionError(f"no route, header {KEY}")] * sources_mp.N_TRIES
    with pytest.raises(E3RelaxError, match="after 5 tries") as caught:
        next(stream)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    server.requests.clear()
    assert len(list(read_materials_project(query, tmp_path / "second"))) == 7
    assert [request["page"] for request in server.requests] == [2, 3]


def test_a_refusal_is_not_asked_again(server, tmp_path):
    server.failures = [RuntimeError("REST query returned with error status code 403 on URL x")]
    with pytest.raises(E3RelaxError, match=r"refuses: .* 403"):
        list(read_materials_project(MPQuery(elements=["Na"]), tmp_path))
    assert len(server.requests) == 1


@pytest.mark.usefixtures("server")
def test_without_a_key_one_message_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("MP_API_KEY")
    monkeypatch.setattr(sources_mp, "SETTINGS", {})
    with pytest.raises(E3RelaxError, match=r"materialsproject\.org/api .*: export MP_API_KEY"):
        list(read_materials_project(MPQuery(elements=["Na"]), tmp_path))


def test_without_mp_api_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mp_api", None)
    monkeypatch.delitem(sys.modules, "mp_api.client", raising=False)
    with pytest.raises(MissingDependencyError, match=r"e3relax-flows\[mp\]"):
        list(read_materials_project(MPQuery(elements=["Na"]), tmp_path))


def test_entries_are_those_of_the_pbe_hull_and_kept(server, tmp_path):
    (entry,) = fetch_entries("Na-Cl", tmp_path)
    assert entry["energy"] == -6.5
    assert server.requests == [{"entries": ["Na", "Cl"], "thermo_types": ["GGA_GGA+U"]}]
    assert fetch_entries("Cl-Na", tmp_path) == [entry]
    assert len(server.requests) == 1
    assert json.dumps(entry)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "whole Materials Project"),
        ({"elements": ["Na"], "num_sites": (20, 1)}, r"num_sites .*\[20, 1\]"),
        ({"limit": 0}, r"(?s)limit.* 1 \[.*input_value=0"),
    ],
)
def test_queries_that_cannot_be_meant_are_refused(terms, message):
    with pytest.raises(ValidationError, match=message):
        MPQuery(**terms)
