"""Structures of OPTIMADE servers by a filter: a page at a time, kept on disk, through the client of `optimade`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from e3relax_flows.candidates.items import ReadItem
from e3relax_flows.candidates.optimade import read_resource
from e3relax_flows.candidates.page_cache import name_page, read_page, write_page
from e3relax_flows.core.errors import ConfigError, E3RelaxError, MissingDependencyError
from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.optional import require
from e3relax_flows.schemas.candidates import OptimadeQuery

OPTIMADE_CACHE = "optimade"  # in DATA_DIR
FIELDS = [
    *("id", "lattice_vectors", "cartesian_site_positions", "species_at_sites", "species", "nsites"),
    *("dimension_types", "structure_features", "chemical_formula_reduced"),
]
PURPOSE = "querying OPTIMADE servers by a filter"
N_TRIES, BACK_OFF_S = 4, 1.0  # urllib3 waits 0, 2, 4 and 8 s, or as long as the server asks
BUSY = (429, 500, 502, 503, 504)  # responses after which the request is repeated
TIMEOUT_S = 60.0

logger = logging.getLogger(__name__)


def read_optimade_servers(query: OptimadeQuery, cache: Path, refresh: bool = False) -> Iterator[ReadItem]:
    """Structures that match, server after server, with the ids of their databases.

    Responses are kept page by page below `cache`: a query is sent once, and an interrupted one continues where it
    stopped. A server that does not answer becomes an item with its error; the others are still queried.

    Raises
    ------
    MissingDependencyError
        When `optimade` is not installed and a request is necessary.
    ConfigError
        When the filter is not written in OPTIMADE's language, or a provider is not known.
    """
    servers = [*query.servers, *_find_servers(query.providers)]
    for server in dict.fromkeys(url.rstrip("/") for url in servers):
        folder = cache / f"query-{hash_content({'filter': query.filter, 'server': server})}"
        try:
            yield from _read_server(server, query, folder, refresh)
        except (ConfigError, MissingDependencyError):
            raise
        except E3RelaxError as error:  # the boundary between servers
            yield ReadItem(urlparse(server).netloc, None, str(error))


def _read_server(server: str, query: OptimadeQuery, folder: Path, refresh: bool) -> Iterator[ReadItem]:
    n_given = 0
    for number, page in enumerate(_iterate_pages(server, query.filter, folder, refresh), start=1):
        for index, resource in enumerate(page["data"], start=1):
            if query.limit is not None and n_given == query.limit:
                return
            n_given += 1
            yield from read_resource(resource, f"{urlparse(server).netloc}-{number}-{index}", server)
        if query.limit is not None and n_given == query.limit:  # the next page is not needed
            return


def _iterate_pages(server: str, text: str, folder: Path, refresh: bool) -> Iterator[dict[str, Any]]:
    """Pages from the disk first, then from the server, each written before it is returned."""
    if refresh:
        for file in folder.glob("page-*.json.gz"):
            file.unlink()
    client, number, url = None, 0, None
    while True:
        number += 1
        file = name_page(folder, number)
        if not file.exists():
            client = client or _open_client(server, text)
            write_page(file, _ask(client, server, text, url))
        page = read_page(file)
        yield page
        if not (url := page["next"]):
            return


def _open_client(server: str, text: str) -> Any:
    """The client of `optimade`, after a check of the filter."""
    client = require("optimade.client", "optimade", PURPOSE)
    try:
        require("optimade.filterparser", "optimade", PURPOSE).LarkParser().parse(text)
    except Exception as error:  # Lark's and optimade's own
        reason = " ".join(str(getattr(error, "detail", None) or error).split())
        raise ConfigError(
            f'the filter {text!r} is not a filter of OPTIMADE ({reason}); write it like elements HAS ALL "Na","Cl" AND '
            "nelements=2"
        ) from error
    return client.OptimadeClient(
        base_urls=[server], use_async=False, silent=True, http_client=_build_session(), http_timeout=TIMEOUT_S
    )


def _build_session() -> type:
    """The class of sessions that repeat requests to a busy server a few times; the client repeats without end."""
    requests = require("requests", "optimade", PURPOSE)
    retry = require("urllib3.util", "optimade", PURPOSE).Retry(
        total=N_TRIES, backoff_factor=BACK_OFF_S, status_forcelist=BUSY, allowed_methods=["GET"]
    )

    class PatientSession(requests.Session):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            for scheme in ("https://", "http://"):
                self.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))

    return PatientSession


def _ask(client: Any, server: str, text: str, url: str | None) -> dict[str, Any]:
    """One page: its resources, and the URL of the next one.

    Raises
    ------
    E3RelaxError
        When the server returned errors, or no response.
    """
    found = client.get_one("structures", text, server, response_fields=FIELDS, override_url=url, paginate=False)
    (result,) = found.values()
    if result.errors or not isinstance(result.data, list):
        reason = "; ".join(map(str, result.errors)) or "its answer has no list of structures"
        raise E3RelaxError(f"{server} did not answer the filter: {reason}; earlier pages are kept, so try again")
    following = result.links.get("next")
    if isinstance(following, dict):
        following = following.get("href")
    if following == url and url is not None:
        raise E3RelaxError(f"{server} gives the page {url} as its own successor; use a narrower filter")
    return {"data": result.data, "next": following}


def _find_servers(providers: list[str]) -> list[str]:
    """Base URLs of the databases of providers, which their index names.

    Raises
    ------
    ConfigError
        When a provider is not in the register, or has no database at present.
    """
    if not providers:
        return []
    utils = require("optimade.utils", "optimade", PURPOSE)
    known = sorted(provider["id"] for provider in utils.get_providers())
    if unknown := sorted(set(providers) - set(known)):
        raise ConfigError(f"{', '.join(unknown)} is not in the register of OPTIMADE; known: {', '.join(known)}")
    found = []
    for provider in providers:
        servers = list(utils.get_all_databases(include_providers={provider}))
        if not servers:
            raise ConfigError(f"provider {provider} names no database that answers; give its URL under servers")
        logger.info("%s: %s", provider, ", ".join(servers))
        found += servers
    return found
