"""Register a screen: write its candidates into the store, or find it there."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from monty.json import jsanitize

from e3relax_flows.candidates.ranking import build_score
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.spool import CandidateList, PackedCandidate
from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.logs import format_counts
from e3relax_flows.core.model_folders import is_model_folder
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines.registry import recall_settings
from e3relax_flows.ledger.claims import hold_submission
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.places.kinds import find_kind
from e3relax_flows.prerelax.functionals import warn_of_functional
from e3relax_flows.prerelax.judges import check_calibrated
from e3relax_flows.prerelax.predict import DEFAULT_MODEL
from e3relax_flows.registry.models import resolve_model
from e3relax_flows.schemas.candidates import RankByChange, Ranking
from e3relax_flows.schemas.predictions import Reason, Verdict
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenLimits, ScreenPhase, ScreenRow
from e3relax_flows.screening.store import ChunkInput, ScreenStores, find_screen, name_group, save_rows, save_screen
from e3relax_flows.stores.opening import dump_document, validate_document, write_documents
from e3relax_flows.stores.pool import SettingsLike

if TYPE_CHECKING:
    from e3relax_flows.screening.maker import ScreenMaker

SHOWN = 5

logger = logging.getLogger(__name__)


def register_screen(
    stores: ScreenStores,
    maker: ScreenMaker,
    items: Iterable[ReadItem],
    settings: SettingsLike,
    ranking: Ranking | None = None,
    place: str = "local",
    limits: ScreenLimits | None = None,
) -> tuple[ScreenDoc, bool]:
    """Write a screen and its candidates into the store; they are kept on disk, never all in memory.

    The id of a screen depends on its content: the resolved model, the settings of predictions and
    relaxations, its name and candidates.

    Parameters
    ----------
    stores
        From `open_screen_stores`.
    maker, items
        How to screen, and the candidates; an unreadable one gets a row with the reason.
    settings
        For the model.
    ranking
        Most promising first; None: in their order, or by the maker's own `order`.
    place
        Where its jobs run: local, fireworks, remote, or flow, that of a ScreenMaker.
    limits
        Of a new screen; none: no limits. `resume_screen` changes those of a known one.

    Returns
    -------
    screen
        Without its candidates.
    is_new
        False if it was stored before; then only its place is changed.

    Raises
    ------
    ConfigError
        When no structure could be read, or the model is not calibrated for the second opinion.
    ModelError
        When the model is unknown.
    """
    model_id, model = resolve_screen_model(maker, settings, find_kind(place).is_here)
    with CandidateList() as candidates:
        candidates.add(items)
        _check_any(candidates)
        if ranking is not None and not isinstance(ranking, RankByChange):
            candidates.score(build_score(ranking))
        screen_id = _identify(maker, model_id, candidates)
        if known := _find_whole(stores, screen_id, place, settings):
            return known, False
        screen = _describe(maker, screen_id, model, place)
        screen.limits = limits or screen.limits
        _save_incomplete(stores, screen)  # without chunks: not yet complete
        screen.n_chunks = _write_candidates(stores, screen, candidates, maker.chunk_size)
    if not _save_incomplete(stores, screen) and (known := _find_whole(stores, screen_id, place, settings)):
        return known, False
    return screen, True


def _save_incomplete(stores: ScreenStores, screen: ScreenDoc) -> bool:
    """Write a screen unless another process has registered it meanwhile, which may have advanced it already."""
    return bool(write_documents(stores.screens, [dump_document(screen)], {"n_chunks": 0}))


def _find_whole(stores: ScreenStores, screen_id: str, place: str, settings: SettingsLike) -> ScreenDoc | None:
    """The stored screen with this id, moved to the place, if all of its candidates are written."""
    raw = stores.screens.query_one({"screen_id": screen_id})
    known = validate_document(raw, ScreenDoc, stores.screens) if raw else None
    if known is None or not known.n_chunks:
        return None
    if known.place != place:
        with hold_submission(settings, f"screen {screen_id}"):  # others advance it
            known = find_screen(stores, screen_id)
            known.place = place
            save_screen(stores, known)
    logger.info("screen %s: registered before, phase %s, place %s", screen_id, known.phase, known.place)
    return known


def _check_any(candidates: CandidateList) -> None:
    """Raise ConfigError where nothing could be read."""
    if candidates.count()["candidates"] == 0:
        reasons = "; ".join(text if name in text else f"{name}: {text}" for name, text in candidates.errors[:SHOWN])
        raise ConfigError(f"no structure could be read ({reasons or 'nothing there'})")


def name_screen_model(maker: ScreenMaker, settings: E3RelaxSettings) -> str:
    """What names the model of a maker: the settings where the maker names none."""
    return settings.MODEL if maker.prerelax.model == DEFAULT_MODEL else maker.prerelax.model


def resolve_screen_model(maker: ScreenMaker, settings: SettingsLike, is_local: bool) -> tuple[str, str]:
    """The resolved model of a maker, checked for the maker's options; a warning where its functional is another one.

    Errors are those of `resolve_model` and `check_calibrated`.

    Returns
    -------
    model_id, spec
        Its id, and what jobs find it by: also the id, whatever an alias will mean; the name in the maker where only
        the path of a folder leads to it.
    """
    with open_workspace(settings) as workspace:
        spec, name = maker.prerelax.model, name_screen_model(maker, workspace.settings)
        folder = resolve_model(name, workspace)
        check_calibrated(maker.prerelax.options, folder, is_local)
        is_used = maker.served == "predicted" or not {"predicted", "polished"}.isdisjoint(dict(maker.rules.arms))
        if is_used:
            warn_of_functional(maker.engine, folder)
        if is_model_folder(name):
            try:
                resolve_model(folder.model_id, workspace)
            except ModelError:
                return folder.model_id, spec
    return folder.model_id, folder.model_id


def _describe(maker: ScreenMaker, screen_id: str, model: str, place: str) -> ScreenDoc:
    """A new screen, none of whose candidates is written yet."""
    return ScreenDoc(
        screen_id=screen_id,
        phase=ScreenPhase.PREDICTING,
        place=place,
        maker=jsanitize(maker.as_dict(), recursive_msonable=True),
        name=maker.name,
        engine=maker.engine.name,
        engine_id=maker.engine.engine_id,
        engine_settings=recall_settings(maker.engine),
        model=model,
        on_refuse=maker.on_refuse,
        control=maker.rules.arms.get("initial", 0.0),
        arms=dict(maker.rules.arms),
        served=maker.served,
        paired_controls=maker.paired_controls,
        seed=maker.seed,
    )


def _identify(maker: ScreenMaker, model_id: str, candidates: CandidateList) -> str:
    """Content id of a screen."""
    digest = hashlib.sha256()
    for candidate in candidates.iterate_packed():
        digest.update(f"{candidate.id}\n{candidate.structure_id}\n".encode())
    arms = {arm: float(share) for arm, share in maker.rules.arms.items() if arm == "initial" or share > 0}
    content: list[Any] = [
        maker.name, model_id, maker.engine.engine_id, maker.prerelax.options.model_dump(mode="json"), maker.on_refuse,
        arms.pop("initial", 0.0), maker.paired_controls, maker.seed, maker.deduplicate, maker.order,
        sorted(name for name, _ in candidates.errors), digest.hexdigest(),
    ]  # fmt: skip
    if arms or maker.served != "predicted":  # without these, screens have the ids of earlier releases
        content += [arms, maker.served]
    return hash_content(content)


def _write_candidates(stores: ScreenStores, screen: ScreenDoc, candidates: CandidateList, chunk_size: int) -> int:
    """Write chunks and rows; return the number of chunks. Documents of a killed registration are kept."""
    screen_id, number, n_chunks, notes = str(screen.screen_id), 0, 0, dict(candidates.notes)
    pending = candidates.iterate_packed()
    while part := list(islice(pending, chunk_size)):
        chunk, n_chunks = n_chunks, n_chunks + 1
        document = ChunkInput(
            chunk_key=f"{screen_id}:{chunk}",
            screen_id=screen_id,
            number=chunk,
            ids=[candidate.id for candidate in part],
            packed=[base64.b64encode(candidate.packed).decode() for candidate in part],
        )
        write_documents(stores.chunks, [dump_document(document)])
        rows = [_make_row(screen_id, candidate, number + place, chunk) for place, candidate in enumerate(part)]
        for row in rows:
            row.note = notes.get(row.id)
        save_rows(stores, rows, None)
        number += len(part)
    others = [
        _make_final(screen_id, duplicate.id, CandidateState.DUPLICATE, {"duplicate_of": duplicate.kept})
        for duplicate in candidates.iterate_duplicates()
    ]
    others += [
        _make_final(
            screen_id,
            name,
            CandidateState.ERROR,
            {"verdict": Verdict.ERROR, "reasons": [Reason.UNREADABLE], "message": error},
        )
        for name, error in candidates.errors
    ]
    for place, row in enumerate(others):
        row.number = number + place
    save_rows(stores, others, None)
    counts = format_counts(candidates.count())
    words = screen.name, counts, screen.model, screen.engine, screen.engine_id, n_chunks, screen.place
    logger.info("screen %s: registered as %s, %s; model %s, engine %s (%s), %d chunks, place %s", screen_id, *words)
    return n_chunks


def _make_row(screen_id: str, candidate: PackedCandidate, number: int, chunk: int) -> ScreenRow:
    return ScreenRow(
        row_key=f"{screen_id}:{candidate.id}",
        screen_id=screen_id,
        group=name_group(screen_id, CandidateState.WAITING),
        number=number,
        chunk=chunk,
        rank=number,
        id=candidate.id,
        state=CandidateState.WAITING,
        formula=candidate.formula,
        structure_id=candidate.structure_id,
    )


def _make_final(screen_id: str, name: str, state: CandidateState, update: dict[str, Any]) -> ScreenRow:
    """Row of a candidate that is neither predicted nor relaxed."""
    return ScreenRow(
        row_key=f"{screen_id}:{name}",
        screen_id=screen_id,
        group=name_group(screen_id, state),
        number=0,
        rank=0.0,
        id=name,
        state=state,
        **update,
    )
