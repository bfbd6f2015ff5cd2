"""OPTIMADE servers that are asked by a filter: a server of this process answers over HTTP as the specification says."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from pydantic import TypeAdapter, ValidationError
from pymatgen.core import Lattice, Structure
from pymatgen.io.optimade import OptimadeStructureAdapter

from e3relax_flows.candidates import optimade_query
from e3relax_flows.candidates.optimade_query import OPTIMADE_CACHE, read_optimade_servers
from e3relax_flows.candidates.sources import read_sources
from e3relax_flows.core.errors import ConfigError, MissingDependencyError
from e3relax_flows.schemas.candidates import OptimadeQuery, OptimadeSource, Source

PAGE = 2
FILTER = 'elements HAS "Na"'
CATIONS = ("Na", "Na", "K", "Na", "Na", "Na")  # five that match, in three pages


@dataclass
class Database:
    """What a server has, what it was asked, and how it fails."""

    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)  # status of the next answers
    links_are_objects: bool = False

    def answer(self, path: str, terms: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.requests.append(terms)
        if self.failures:
            return self.failures.pop(0), {"errors": [{"title": "Busy", "detail": "come back"}]}
        element = re.fullmatch(r'elements HAS "(\w+)"', terms.get("filter", ""))
        if path != "/v1/structures" or element is None:
            return 400, {"errors": [{"title": "Bad Request", "detail": f"no filter {terms.get('filter')}"}]}
        found = [
            resource for resource in map(make_resource, range(6)) if element[1] in CATIONS[int(resource["id"][3:])]
        ]
        start = int(terms.get("page_offset", 0))
        rest = {**terms, "page_offset": str(start + PAGE)}
        following: Any = f"{self.url}/v1/structures?{urlencode(rest)}" if start + PAGE < len(found) else None
        if self.links_are_objects and following:
            following = {"href": following}
        for resource in found:
            wanted = terms["response_fields"].split(",")
            resource["attributes"] = {key: value for key, value in resource["attributes"].items() if key in wanted}
        meta = {"api_version": "1.1.0", "data_available": 6, "more_data_available": following is not None}
        return 200, {"data": found[start : start + PAGE], "meta": meta, "links": {"next": following}}


def make_resource(number: int) -> dict[str, Any]:
    salt = Structure(Lattice.cubic(4 + 0.1 * number), [CATIONS[number], "Cl"], [[0, 0, 0], [0.5] * 3])
    attributes = OptimadeStructureAdapter.get_optimade_structure(salt)["attributes"]
    if number == 4:
        attributes["dimension_types"] = [1, 1, 0]
    return {"id": f"db-{number}", "type": "structures", "attributes": json.loads(json.dumps(attributes))}


@pytest.fixture
def serve() -> Iterator[Any]:
    """Start servers on free ports of this machine."""
    servers: list[ThreadingHTTPServer] = []

    def start(**fields: Any) -> Database:
        database = Database(**fields)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                status, content = database.answer(parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()})
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.api+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        database.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return database

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def read(cache, *databases: Database, **terms: Any):
    query = OptimadeQuery(**{"filter": FILTER, "servers": [database.url for database in databases], **terms})
    return list(read_optimade_servers(query, cache))


@pytest.fixture
def _client(monkeypatch) -> None:
    pytest.importorskip("optimade.client")
    monkeypatch.setattr(optimade_query, "BACK_OFF_S", 0.01)


@pytest.mark.usefixtures("_client")
@pytest.mark.parametrize("links_are_objects", [False, True])
def test_all_pages_are_read_once_and_kept(tmp_path, serve, links_are_objects):
    database = serve(links_are_objects=links_are_objects)
    items = read(tmp_path, database)
    assert [item.id for item in items] == ["db-0", "db-1", "db-3", "db-4", "db-5"]
    assert items[2].structure.volume == pytest.approx(4.3**3)
    assert items[3].structure is None
    assert "periodic along [1, 1, 0]" in items[3].error
    assert [terms.get("page_offset") for terms in database.requests] == [None, "2", "4"]
    assert {terms["filter"] for terms in database.requests} == {FILTER}
    again = read(tmp_path, database)
    assert [item.id for item in again] == [item.id for item in items]
    assert len(database.requests) == 3


@pytest.mark.usefixtures("_client")
def test_an_interrupted_query_goes_on_at_its_next_page(tmp_path, serve):
    database = serve()
    assert [item.id for item in read(tmp_path, database, limit=2)] == ["db-0", "db-1"]
    assert len(database.requests) == 1
    database.failures = [503, 429]
    assert len(read(tmp_path, database)) == 5
    assert [terms.get("page_offset") for terms in database.requests] == [None, "2", "2", "2", "4"]


@pytest.mark.usefixtures("_client")
def test_a_server_that_fails_costs_no_other(tmp_path, serve):
    broken, good = serve(failures=[503] * 50), serve()
    first, *others = read(tmp_path, broken, good)
    assert first.structure is None
    assert f"{broken.url} did not answer the filter: RetryError" in first.error
    assert len(broken.requests) == 1 + optimade_query.N_TRIES
    assert [item.id for item in others] == ["db-0", "db-1", "db-3", "db-4", "db-5"]
    (refused,) = read(tmp_path, good, filter="nelements=2")
    assert "Bad Request: no filter nelements=2" in refused.error


@pytest.mark.usefixtures("_client")
def test_a_wrong_filter_asks_nothing(tmp_path, serve):
    database = serve()
    with pytest.raises(ConfigError, match="filter 'elements HAVE Na' "):
        read(tmp_path, database, filter="elements HAVE Na")
    assert database.requests == []


@pytest.mark.usefixtures("_client")
def test_a_source_gives_them_with_the_others(settings, serve):
    database = serve()
    raw = {"type": "optimade", "filter": FILTER, "servers": [f"{database.url}/"], "limit": 3}
    sources = TypeAdapter(list[Source]).validate_python([raw, raw])
    items = list(read_sources(sources, settings))
    assert [item.id for item in items] == ["db-0", "db-1", "db-3", "db-0-2", "db-1-2", "db-3-2"]
    assert len(list((settings.DATA_DIR / OPTIMADE_CACHE).glob("query-*/page-*.json.gz"))) == 2


def test_without_the_client_it_is_one_message(tmp_path):
    try:
        import optimade.client  # noqa: F401
    except ImportError:
        query = OptimadeQuery(filter=FILTER, servers=["http://127.0.0.1:9"])
        with pytest.raises(MissingDependencyError, match=r"pip install 'e3relax-flows\[optimade\]'"):
            list(read_optimade_servers(query, tmp_path))
    else:
        pytest.skip("it is installed")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "either paths of saved responses, or a filter"),
        ({"paths": ["a.json"], "filter": FILTER}, "either paths"),
        ({"paths": ["a.json"], "limit": 3}, "belong to a filter"),
        ({"filter": FILTER}, "needs servers"),
        ({"filter": FILTER, "servers": ["odbx"]}, "error, 'odbx' .*https://"),
    ],
)
def test_what_a_source_needs(fields, words):
    with pytest.raises(ValidationError, match=words):
        OptimadeSource(type="optimade", **fields)
