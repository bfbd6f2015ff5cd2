"""Structures of the Materials Project by query: a page at a time, kept on disk, with pauses between requests."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from monty.json import jsanitize
from pymatgen.core import SETTINGS

from e3relax_flows.candidates.page_cache import name_page, read_page, write_page
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import E3RelaxError, StructureError
from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.optional import require
from e3relax_flows.core.records import build_structure
from e3relax_flows.schemas.candidates import MPQuery

MP_CACHE = "materials_project"  # in DATA_DIR
PAGE_SIZE = 500  # documents per request; with their structures some MB
PAUSE_S = 0.5  # between requests
N_TRIES, BACK_OFF_S = 5, 4.0  # the waits are 4, 8, 16 and 32 s
FIELDS = ["material_id", "structure"]
COMPLETE_FILE = "complete.json"
KEY_ADVICE = "get one at https://materialsproject.org/api and type: export MP_API_KEY=..."

REFUSAL = re.compile(r"status code 4(?!29|08)\d\d")  # in mp-api's message: a repetition would not help

logger = logging.getLogger(__name__)
T = TypeVar("T")


def read_materials_project(query: MPQuery, cache: Path, refresh: bool = False) -> Iterator[ReadItem]:
    """Structures that match, with their mp-ids, in the order of these.

    The response is kept page by page below `cache`, so that a query is sent once and an interrupted one
    continues where it stopped. Only one page is held in memory.

    Raises
    ------
    MissingDependencyError
        When mp-api is not installed and a request is necessary.
    E3RelaxError
        Without a key, or when the server does not answer after several tries.
    """
    terms = query.express()
    folder = cache / f"query-{hash_content(terms)}"
    n_given = 0
    for page in _iterate_pages(terms, folder, refresh, query.limit):
        for entry in page:
            if query.limit is not None and n_given == query.limit:
                return
            n_given += 1
            yield _convert(entry)


def fetch_entries(chemsys: str, cache: Path, refresh: bool = False) -> list[dict[str, Any]]:
    """Entries of a chemical system and those in it, with the Materials Project's own GGA/GGA+U corrections.

    Returns
    -------
    entries
        ComputedStructureEntry objects as dictionaries.

    Raises
    ------
    MissingDependencyError, E3RelaxError
        As `read_materials_project`.
    """
    file = cache / f"entries-{'-'.join(sorted(chemsys.split('-')))}.json.gz"
    if refresh or not file.exists():
        with _open_client() as client:
            entries = _ask(
                lambda: client.get_entries_in_chemsys(
                    chemsys.split("-"), additional_criteria={"thermo_types": ["GGA_GGA+U"]}
                )
            )
        write_page(file, [jsanitize(entry.as_dict()) for entry in entries])
        time.sleep(PAUSE_S)
    return read_page(file)


def _iterate_pages(
    terms: dict[str, Any], folder: Path, refresh: bool, limit: int | None
) -> Iterator[list[dict[str, Any]]]:
    """Pages from the disk first, then from the server, each written before it is returned."""
    if refresh:
        for file in [folder / COMPLETE_FILE, *folder.glob("page-*.json.gz")]:
            file.unlink(missing_ok=True)
    complete = json.loads((folder / COMPLETE_FILE).read_text()) if (folder / COMPLETE_FILE).exists() else None
    n_pages, number, n_given = (complete["n_pages"] if complete else None), 0, 0
    with ExitStack() as stack:
        client = None
        while (n_pages is None or number < n_pages) and (limit is None or n_given < limit):
            number += 1
            file = name_page(folder, number)
            if not file.exists():
                client = client or stack.enter_context(_open_client())
                write_page(file, _fetch_page(client, terms, number))
                time.sleep(PAUSE_S)
            page = read_page(file)
            if len(page) < PAGE_SIZE and n_pages is None:
                n_pages = number
                (folder / COMPLETE_FILE).write_text(json.dumps({"query": terms, "n_pages": n_pages}))
            n_given += len(page)
            yield page


def _fetch_page(client: Any, terms: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """One page of id and structure, both plain."""
    documents = _ask(
        lambda: client.materials.summary.search(
            **terms,
            all_fields=False,
            fields=FIELDS,
            num_chunks=1,
            chunk_size=PAGE_SIZE,
            _page=number,
            _sort_fields="material_id",
        )
    )
    page = []
    for document in documents:
        id, structure = (
            document[field] if isinstance(document, dict) else getattr(document, field) for field in FIELDS
        )
        page.append({"id": str(id), "structure": jsanitize(structure, recursive_msonable=True)})
    return page


def _open_client() -> Any:
    """mp-api's client, which finds the key itself; it is checked here, so that its absence gives one clear message."""
    client = require("mp_api.client", "mp", "the Materials Project as a source").MPRester
    if not _find_key():
        raise E3RelaxError(f"the Materials Project needs an API key and none is set; {KEY_ADVICE}")
    try:
        return client(mute_progress_bars=True, use_document_model=False)
    except Exception as error:  # mp-api raises its own and requests' errors
        raise E3RelaxError(f"the Materials Project cannot be reached: {_hide_key(error)}; {KEY_ADVICE}") from None


def _find_key() -> str:
    return os.environ.get("MP_API_KEY") or str(SETTINGS.get("PMG_MAPI_KEY") or "")


def _ask(request: Callable[[], T]) -> T:
    """The response, after some tries; the chain of errors is cut, since those of requests show headers."""
    for trial in range(1, N_TRIES + 1):
        try:
            return request()
        except (TypeError, AttributeError):  # another release of mp-api: a repetition does not help
            raise
        except Exception as error:  # mp-api raises its own and requests' errors, on the network
            reason = _hide_key(error)
        if REFUSAL.search(reason):
            raise E3RelaxError(f"the Materials Project refuses: {reason}; correct the query, or {KEY_ADVICE}")
        if trial < N_TRIES:
            logger.warning("the Materials Project did not answer (%s); try %d of %d", reason, trial, N_TRIES)
            time.sleep(BACK_OFF_S * 2 ** (trial - 1))
    raise E3RelaxError(
        f"the Materials Project did not answer after {N_TRIES} tries: {reason}; pages so far are kept, try again later"
    )


def _hide_key(error: Exception) -> str:
    text, key = f"{type(error).__name__}: {error}", _find_key()
    return text.replace(key, "***") if key else text


def _convert(entry: dict[str, Any]) -> ReadItem:
    try:
        if entry["structure"] is None:
            return ReadItem(entry["id"], None, f"{entry['id']}: its 'structure' is missing")
        return ReadItem(entry["id"], build_structure(entry["structure"], "structure"), None)
    except StructureError as error:
        return ReadItem(entry["id"], None, f"{entry['id']}: {error}")
    except Exception as error:  # the boundary between materials
        return ReadItem(entry["id"], None, f"{entry['id']}: {type(error).__name__}: {error}")
