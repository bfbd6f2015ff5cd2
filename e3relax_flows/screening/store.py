"""The store of screens: one document per screen, one per chunk of its structures, one small row per candidate."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from maggma.core import Store
from maggma.stores import MemoryStore
from pydantic import BaseModel, Field, ValidationError
from pymatgen.core import Structure

from e3relax_flows.candidates.spool import unpack_structure
from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.core.run_information import now
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, OutcomeRow, ScreenDoc, ScreenRow
from e3relax_flows.stores.opening import (
    IDS_PER_QUERY,
    build_store,
    connect_store,
    describe_store,
    dump_document,
    find_by_id,
    validate_document,
    write_documents,
)
from e3relax_flows.stores.pool import SettingsLike, shared

ROWS_PER_WRITE = 1000
RESULT_FIELDS = ("energy", "n_ionic_steps", "n_electronic_steps", "wall_time_s")
SHORTEST_ID = 4  # digits of an id that are enough to find a screen

logger = logging.getLogger(__name__)


class ChunkInput(BaseModel):
    """Structures of one chunk; found by `chunk_key`."""

    chunk_key: str = Field(description="screen_id:number")
    screen_id: str
    number: int
    ids: list[str]
    packed: list[str] = Field(description="pymatgen dictionaries as JSON, deflated, in base 64")

    def unpack(self) -> list[Structure]:
        """The structures."""
        return [unpack_structure(base64.b64decode(text)) for text in self.packed]


@dataclass(frozen=True)
class ScreenStores:
    """The three collections, connected."""

    screens: Store
    chunks: Store
    rows: Store


@shared
@contextmanager
def open_screen_stores(settings: E3RelaxSettings) -> Iterator[ScreenStores]:
    """The collections of screens, in the store of the outcomes, connected, closed at the end.

    Raises
    ------
    ConfigError
        When the store of outcomes is described wrongly, or is in the memory of this process.
    StoreError
        When it cannot be reached.
    """
    with ExitStack() as stack:
        stores = [
            _open(stack, settings, name, key, indexed)
            for name, key, indexed in (
                ("screens", "screen_id", ["name"]),
                ("screen_chunks", "chunk_key", ["screen_id"]),
                ("screen_rows", "row_key", ["screen_id", "group"]),
            )
        ]
        yield ScreenStores(*stores)


def _open(stack: ExitStack, settings: E3RelaxSettings, name: str, key: str, indexed: list[str]) -> Store:
    spec = settings.OUTCOME_STORE
    if spec and "collection_name" in spec:
        spec = {**spec, "collection_name": f"{spec['collection_name']}_{name}"}
    store = build_store(spec, settings, name, key)
    if isinstance(store, MemoryStore) and type(store).__name__ == "MemoryStore":
        raise ConfigError(
            "OUTCOME_STORE is a MemoryStore, and the workers of a screen would each see another one; leave it out "
            "for the embedded store, or describe a MongoStore"
        )
    return stack.enter_context(connect_store(store, indexed, "OUTCOME_STORE"))


def find_screen(stores: ScreenStores, name: str) -> ScreenDoc:
    """A screen by its id, the first digits of it, or its name; without its candidates.

    Raises
    ------
    ConfigError
        When there is none, or more than one.
    """
    raw = stores.screens.query_one({"screen_id": name})
    found = [raw] if raw else list(stores.screens.query({"name": name}))
    if not found and len(name) >= SHORTEST_ID:
        ids = [screen_id for screen_id in stores.screens.distinct("screen_id") if screen_id.startswith(name)]
        found = list(stores.screens.query({"screen_id": {"$in": ids}})) if ids else []
    if len(found) == 1:
        return validate_document(found[0], ScreenDoc, stores.screens)
    listed = ", ".join(f"{doc['screen_id']} ({doc['name']})" for doc in found or stores.screens.query(limit=10))
    if found:
        raise ConfigError(f"screen {name!r} may be any of {listed}; give the id")
    raise ConfigError(f"screen {name!r} is not in {describe_store(stores.screens)} (there: {listed or 'none'})")


def list_screens(stores: ScreenStores) -> list[ScreenDoc]:
    """All screens without their candidates, the latest last."""
    screens = [validate_document(raw, ScreenDoc, stores.screens) for raw in stores.screens.query()]
    return sorted(screens, key=lambda screen: screen.created)


def save_screen(stores: ScreenStores, screen: ScreenDoc) -> None:
    """Replace a stored screen; its candidates are kept as rows."""
    screen.last_updated = now()
    stores.screens.update([dump_document(screen.model_copy(update={"candidates": []}))])


def load_screen(stores: ScreenStores, name: str) -> ScreenDoc:
    """A screen with its candidates in order; parameters and errors are those of `find_screen`."""
    screen = find_screen(stores, name)
    raws = stores.rows.query({"screen_id": screen.screen_id})
    rows = [validate_document(raw, ScreenRow, stores.rows) for raw in raws]
    fields = set(CandidateRow.model_fields)
    screen.candidates = [
        CandidateRow.model_construct(**{key: value for key, value in row if key in fields})
        for row in sorted(rows, key=lambda row: row.number)
    ]
    screen.counts = count_rows(stores, str(screen.screen_id))
    return screen


def read_screen(name: str, settings: SettingsLike = None) -> ScreenDoc:
    """A screen with its candidates from its file, the folder of that, or by its id or name from the store.

    Raises
    ------
    ConfigError
        When it is none of these.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PrerelaxMaker, ScreenMaker, isolate_stores, read_screen, run_screen
    >>> from e3relax_flows.testing import EmtEngine
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> maker = ScreenMaker(name="copper", prerelax=PrerelaxMaker(device="cpu"), engine=EmtEngine(), control=0.0)
    >>> report = run_screen(maker, [copper], ["Cu"], settings, Path("runs/copper"))
    >>> [(row.id, str(row.state)) for row in read_screen("copper", settings).candidates]
    [('Cu', 'successful')]
    """
    if not Path(name).exists() and not name.endswith(".json"):
        with open_screen_stores(settings) as stores:
            return load_screen(stores, name)
    file = Path(name) / "screen.json" if Path(name).is_dir() else Path(name)
    try:
        return ScreenDoc.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(
            f"{file} is not the document of a screen ({error}); give the screen.json in its folder"
        ) from error


def find_rows(
    stores: ScreenStores,
    screen_id: str,
    states: Sequence[CandidateState],
    criteria: dict[str, Any] | None = None,
    limit: int = 0,
) -> list[ScreenRow]:
    """Rows in these states that match, in the order in which they are to be relaxed."""
    query = {"group": {"$in": [name_group(screen_id, state) for state in states]}, **(criteria or {})}
    raws = stores.rows.query(query, sort={"rank": 1, "number": 1}, limit=limit)
    return [validate_document(raw, ScreenRow, stores.rows) for raw in raws]


def list_row_keys(
    stores: ScreenStores,
    screen_id: str,
    state: CandidateState,
    criteria: dict[str, Any] | None = None,
    limit: int = 0,
) -> list[str]:
    """Keys of rows in a state that match, in the order in which they are to be relaxed."""
    group = {"group": name_group(screen_id, state), **(criteria or {})}
    found = [
        (raw["rank"], raw["number"], raw["row_key"]) for raw in stores.rows.query(group, ["rank", "number", "row_key"])
    ]
    return [key for *_, key in sorted(found)[: limit or None]]


def load_rows(stores: ScreenStores, keys: Sequence[str]) -> list[ScreenRow]:
    """Rows by their keys, in the order of these."""
    return list(find_by_id(stores.rows, list(keys), ScreenRow, "row_key", None).values())


def load_row(stores: ScreenStores, key: str) -> ScreenRow:
    """One row by its key.

    Raises
    ------
    StoreError
        When it is missing.
    """
    rows = load_rows(stores, [key])
    if not rows:
        raise StoreError(
            f"candidate {key!r} is not in {describe_store(stores.rows)}; all workers must share their stores: "
            "compare `e3relax doctor` on them"
        )
    return rows[0]


def list_waiting_chunks(stores: ScreenStores, screen_id: str) -> list[int]:
    """Numbers of the chunks that have rows without prediction."""
    waiting = {"group": name_group(screen_id, CandidateState.WAITING)}
    return sorted({raw["chunk"] for raw in stores.rows.query(waiting, ["chunk"]) if raw.get("chunk") is not None})


def count_rows(stores: ScreenStores, screen_id: str) -> dict[str, int]:
    """Candidates by state, in the order of `CandidateState`, without zeros."""
    counts = {str(state): stores.rows.count({"group": name_group(screen_id, state)}) for state in CandidateState}
    return {state: count for state, count in counts.items() if count}


def count_state(stores: ScreenStores, screen_id: str, state: CandidateState) -> int:
    """How many candidates are in a state."""
    return stores.rows.count({"group": name_group(screen_id, state)})


def has_rows(stores: ScreenStores, screen_id: str, state: CandidateState) -> bool:
    """Whether a candidate is in a state."""
    return stores.rows.query_one({"group": name_group(screen_id, state)}, ["row_key"]) is not None


def save_rows(stores: ScreenStores, rows: Iterable[ScreenRow], replacing: Sequence[CandidateState] | None) -> int:
    """Write rows, each replacing the one with its key if that is in one of these states; return the number written.

    Each candidate whose state is another one is logged.

    Parameters
    ----------
    stores
        Of the screen.
    rows
        Their `group` is set by their state.
    replacing
        None: only rows that are new are written.
    """
    states = None if replacing is None else {"state": {"$in": [state.value for state in replacing]}}
    stream, n_written = iter(rows), 0
    while part := list(islice(stream, ROWS_PER_WRITE)):
        for row in part:
            row.group = name_group(row.screen_id, row.state)
        n_new = write_documents(stores.rows, [dump_document(row) for row in part], states)
        if n_new < len(part):
            logger.info("screen %s: %d of %d rows written, others had moved on", part[0].screen_id, n_new, len(part))
        if n_new and logger.isEnabledFor(logging.INFO):
            _log_rows(part, replacing)
        n_written += n_new
    return n_written


def _log_rows(rows: Sequence[ScreenRow], replacing: Sequence[CandidateState] | None) -> None:
    """Log the candidates whose state is another one, with the ids by which the search goes on."""
    before = ["registered"] if replacing is None else [state.value for state in replacing]
    for row in rows:
        if before == [row.state]:
            continue
        change = f"{before[0]} -> {row.state}" if len(before) == 1 else f"-> {row.state}"
        place = row.submitted
        words = {
            "verdict": row.verdict,
            "prediction": row.prediction_id,
            "duplicate of": row.duplicate_of,
            "place": place.place if place else None,
            "flow": place.flow if place else None,
            **{f"{planned.start_kind.value} outcome": planned.outcome_id for planned in row.outcomes},
            "message": row.message,
        }
        found = ", ".join(f"{name} {value}" for name, value in words.items() if value is not None)
        logger.info("candidate %s of screen %s: %s%s", row.id, row.screen_id, change, f" ({found})" if found else "")


def find_outcome_rows(outcomes: Store, ids: Iterable[str]) -> dict[str, OutcomeRow]:
    """The numbers of those outcomes of `ids` that are in the store, by id; their structures stay there."""
    wanted, found = list(ids), {}
    own = ["outcome_id", "start_kind", "state", "message"]
    fields = [*own, "last_updated", *(f"result.{name}" for name in RESULT_FIELDS)]
    for start in range(0, len(wanted), IDS_PER_QUERY):
        for raw in outcomes.query({"outcome_id": {"$in": wanted[start : start + IDS_PER_QUERY]}}, fields):
            numbers = raw.pop("result", None) or {}
            found[raw["outcome_id"]] = OutcomeRow(
                **{key: raw.get(key) for key in own}, **numbers, recorded=raw["last_updated"]
            )
    return found


def read_chunk(stores: ScreenStores, screen_id: str, number: int) -> ChunkInput:
    """Structures of one chunk.

    Raises
    ------
    StoreError
        When they are not in the store.
    """
    raw = stores.chunks.query_one({"chunk_key": f"{screen_id}:{number}"})
    if raw is None:
        raise StoreError(
            f"chunk {number} of screen {screen_id} is not in {describe_store(stores.chunks)}; workers must share their "
            "stores: compare `e3relax doctor` here and where the screen was submitted"
        )
    return validate_document(raw, ChunkInput, stores.chunks)


def name_group(screen_id: str, state: CandidateState) -> str:
    """Common key of the rows of a screen in one state."""
    return f"{screen_id}:{state.value}"
