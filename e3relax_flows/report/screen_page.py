"""The page of a screen from its documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from e3relax_flows.ledger.energies import Correction
from e3relax_flows.ledger.savings import summarize_savings
from e3relax_flows.report.candidate_pages import CommandBook, describe_candidate, describe_elements
from e3relax_flows.report.pages import CandidateList, Page, Section, Tile, list_table, pack_chunks, round_number
from e3relax_flows.report.ranked import RankedRow, rank_candidates
from e3relax_flows.report.screen_figures import (
    Relaxed,
    draw_displacements,
    draw_funnel,
    draw_harm,
    draw_parity,
    draw_refusals,
    draw_savings,
    draw_scores,
)
from e3relax_flows.report.tables import (
    MIN_PAIRS,
    ScreenTable,
    TableRow,
    choose_relaxed,
    describe_medians,
    has_arms,
    list_arms,
)
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, SavingsSummary
from e3relax_flows.schemas.predictions import PredictionDoc
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, ScreenDoc

_POLISHED_COLUMNS: list[dict[str, Any]] = [
    {"id": "polished", "name": "steps, polished", "digits": 0, "help": "ionic steps from the polished prediction"},
]
_POLISHED_SCF: list[dict[str, Any]] = [
    {
        "id": "scf_polished",
        "name": "SCF, polished",
        "digits": 0,
        "help": "electronic steps from the polished one",
    },
]
CHUNK_SIZE = 100  # candidates that are unpacked together when one of them is opened


@dataclass(frozen=True)
class ScreenDocuments:
    """Documents of a screen in the stores."""

    predictions: Mapping[str, PredictionDoc] = field(default_factory=dict)  # by prediction id
    outcomes: Mapping[str, OutcomeDoc] = field(default_factory=dict)  # by outcome id
    # calibrated largest probability of harm, by model and by potential of the second opinion; None: the guard alone
    thresholds: Mapping[str, Mapping[str | None, float]] = field(default_factory=dict)
    ranked: Sequence[RankedRow] = ()  # of `rank_candidates`; none: ranked by energies within each formula


def build_screen_page(screen: ScreenDoc, table: ScreenTable, savings: str, documents: ScreenDocuments) -> Page:
    """The parts of the page.

    Parameters
    ----------
    screen
        Its name is the title.
    table
        The table by `build_table`.
    savings
        Savings against the controls, in words.
    documents
        Predictions and outcomes that the screen names; candidates whose documents are missing have their row only.
    """
    ranking = rank_screen(screen, documents)
    relaxed = find_relaxed(screen, documents, ranking)
    summary = summarize_savings(documents.outcomes.values())
    medians = describe_medians(table) or "No prediction has a converged relaxation yet."
    funnel = [draw_funnel(table.funnel), *draw_refusals(table.refusals)]
    errors = [
        *draw_parity(relaxed),
        *draw_displacements(relaxed),
        *draw_scores(relaxed),
        *draw_harm(relaxed, find_thresholds(documents)),
    ]
    sections = [
        Section("funnel", "Funnel", [f"Relaxed with {table.engine_label}."], funnel),
        Section("savings", "Savings", [savings] if savings else [], draw_savings(summary), _tabulate_arms(summary)),
        Section("errors", "Errors", [medians], errors),
        Section("candidates", "Candidates", [ranking.explanation], candidates=True),
        Section("settings", "Settings", tables=[_tabulate_settings(screen)]),
    ]
    return Page(
        title=screen.name,
        subtitle=_describe_origin(screen),
        tiles=_list_tiles(screen, table, summary),
        sections=sections,
        candidates=list_candidates(screen, table, documents, ranking),
    )


@dataclass(frozen=True)
class ScreenRanking:
    """The order in which candidates are listed."""

    order: list[int]  # indices in the screen, best first
    rows: Mapping[str, RankedRow]  # by the candidate's id
    lowest: Mapping[str, float]  # eV per atom, of each formula
    has_hull: bool

    @property
    def explanation(self) -> str:
        """The order in words."""
        if self.has_hull:
            return "Ranked by energy above the hull of the given entries."
        return (
            "Ranked by energy above the lowest candidate of the same formula. With entries to compare with, the "
            "command that wrote this page ranks by energy above hull."
        )


def rank_screen(screen: ScreenDoc, documents: ScreenDocuments) -> ScreenRanking:
    """Candidates by energy above hull, or without a hull above the lowest of the same formula."""
    ranked = documents.ranked or rank_candidates(screen, documents.outcomes, None, Correction.NONE)
    rows = {row.id: row for row in ranked}
    lowest: dict[str, float] = {}
    for row in ranked:
        if row.energy is not None:
            name = row.formula or ""
            lowest[name] = min(row.energy, lowest.get(name, row.energy))
    has_hull = any(row.rank is not None for row in ranked)

    def judge(number: int) -> tuple[bool, float]:
        row = rows[screen.candidates[number].id]
        value = row.energy_above_hull if has_hull else _measure_above(row, lowest)
        return value is None, value or 0.0

    return ScreenRanking(sorted(range(len(screen.candidates)), key=judge), rows, lowest, has_hull)


def find_relaxed(screen: ScreenDoc, documents: ScreenDocuments, ranking: ScreenRanking) -> list[Relaxed]:
    """Candidates with a converged relaxation and a prediction; of these the errors are known."""
    found = []
    for place, number in enumerate(ranking.order):
        row = screen.candidates[number]
        prediction = documents.predictions.get(row.prediction_id or "")
        best = choose_relaxed(_find_outcomes(row, documents))
        if prediction is not None and best is not None and best.state == OutcomeState.SUCCESSFUL:
            found.append(Relaxed(place, row.id, prediction, best))
    return found


def find_thresholds(documents: ScreenDocuments) -> list[float]:
    """Largest probabilities of harm that were accepted: the user's limit if set, or else the models'.

    A model has one for the guard alone and one for each second opinion.
    """
    limits = set()
    for prediction in documents.predictions.values():
        own, opinion = prediction.options.guards.max_harm, prediction.second_opinion
        judge = opinion.potential if opinion is not None and opinion.energy_change is not None else None
        calibrated = documents.thresholds.get(prediction.model_id, {})
        limits.add(calibrated.get(judge, calibrated.get(None)) if own is None else own)
    return sorted(limit for limit in limits if limit is not None)


def list_candidates(
    screen: ScreenDoc, table: ScreenTable, documents: ScreenDocuments, ranking: ScreenRanking
) -> CandidateList:
    """Rows of all candidates in the order of the ranking, and their own pages, packed."""
    columns = choose_columns(table, ranking.has_hull)
    book = CommandBook()
    rows, details = [], []
    labels: set[str] = set()
    for number in ranking.order:
        candidate = screen.candidates[number]
        prediction = documents.predictions.get(candidate.prediction_id or "")
        values = _list_values(candidate, table.rows[number], ranking)
        rows.append([values[column["id"]] for column in columns])
        detail = describe_candidate(candidate, prediction, _find_outcomes(candidate, documents), screen, book)
        labels.update(label for structure in detail["structures"] for label in structure["labels"])
        details.append(detail)
    return CandidateList(
        columns=columns,
        rows=rows,
        chunk_size=CHUNK_SIZE,
        chunks=pack_chunks(details, CHUNK_SIZE),
        elements=describe_elements(labels),
        commands=list(book.templates),
    )


def choose_columns(table: ScreenTable, has_hull: bool) -> list[dict[str, Any]]:
    """Columns of the list: those with digits are numbers and sorted as such; the others are searched."""
    has_scf = table.has_scf
    energy = (
        {"id": "above", "name": "above hull, eV", "digits": 3, "help": "eV per atom, above the hull of the entries"}
        if has_hull
        else {"id": "above", "name": "ΔE, eV", "digits": 3, "help": "eV per atom, above the lowest of the formula"}
    )
    columns: list[dict[str, Any]] = [
        {"id": "id", "name": "candidate"},
        {"id": "formula", "name": "formula"},
        {"id": "state", "name": "state", "words": True},
        {"id": "verdict", "name": "verdict", "words": True},
        energy,
        {"id": "energy", "name": "energy, eV", "digits": 3, "help": "eV per atom, relaxed"},
        {"id": "atoms", "name": "atoms", "digits": 0},
        {"id": "volume", "name": "V predicted, Å³", "digits": 2, "help": "Å³ per atom"},
        {"id": "relaxed", "name": "V relaxed, Å³", "digits": 2, "help": "Å³ per atom"},
        {
            "id": "initial_off",
            "name": "initial off, Å",
            "digits": 3,
            "help": "mean displacement of the atoms from the relaxed structure",
        },
        {
            "id": "predicted_off",
            "name": "predicted off, Å",
            "digits": 3,
            "help": "mean displacement of the atoms from the relaxed structure",
        },
        {"id": "score", "name": "score, Å", "digits": 4},
        {
            "id": "harm",
            "name": "harm",
            "digits": 2,
            "help": "probability that the prediction is materially further from the relaxed structure",
        },
        *(_POLISHED_COLUMNS if table.has_polished else []),
        {"id": "steps", "name": "steps", "digits": 0, "help": "ionic steps from the predicted structure"},
        {"id": "control", "name": "steps, initial", "digits": 0, "help": "ionic steps from the initial structure"},
        {"id": "note", "name": "note", "long": True},
    ]
    scf = [
        *(_POLISHED_SCF if table.has_polished else []),
        {"id": "scf", "name": "SCF", "digits": 0, "help": "electronic steps from the predicted structure"},
        {
            "id": "scf_control",
            "name": "SCF, initial",
            "digits": 0,
            "help": "electronic steps from the initial structure",
        },
    ]
    return [*columns[:-1], *(scf if has_scf else []), columns[-1]]


def _list_values(candidate: CandidateRow, shown: TableRow, ranking: ScreenRanking) -> dict[str, Any]:
    ranked = ranking.rows[candidate.id]
    above = ranked.energy_above_hull if ranking.has_hull else _measure_above(ranked, ranking.lowest)
    return {
        "id": candidate.id,
        "formula": shown.formula,
        "state": shown.state,
        "verdict": shown.verdict,
        "above": round_number(above, 4),
        "energy": round_number(ranked.energy, 4),
        "atoms": shown.n_atoms,
        "volume": round_number(shown.predicted_volume, 3),
        "relaxed": round_number(shown.relaxed_volume, 3),
        "initial_off": round_number(shown.initial_displacement, 4),
        "predicted_off": round_number(shown.predicted_displacement, 4),
        "score": round_number(candidate.score, 8),
        "harm": round_number(candidate.harm_probability, 3),
        "steps": shown.steps_from_predicted,
        "control": shown.steps_from_initial,
        "polished": shown.steps_from_polished,
        "scf_polished": shown.scf_from_polished,
        "scf": shown.scf_from_predicted,
        "scf_control": shown.scf_from_initial,
        "note": shown.note,
    }


def _measure_above(row: RankedRow, lowest: Mapping[str, float]) -> float | None:
    return None if row.energy is None else row.energy - lowest[row.formula or ""]


def _find_outcomes(row: CandidateRow, documents: ScreenDocuments) -> list[OutcomeDoc]:
    return [documents.outcomes[one.outcome_id] for one in row.outcomes if one.outcome_id in documents.outcomes]


def _list_tiles(screen: ScreenDoc, table: ScreenTable, savings: SavingsSummary) -> list[Tile]:
    counts = dict(table.funnel)
    n_failed = sum(row.state == CandidateState.FAILED for row in screen.candidates)
    tiles = [
        Tile("candidates", f"{len(screen.candidates):,}", f"{counts['duplicates']:,} of them duplicates"),
        Tile("accepted", f"{counts['accepted']:,}", f"{counts['refused']:,} refused"),
        Tile("relaxed", f"{counts['relaxed']:,}", f"{n_failed:,} failed"),
    ]
    for name, saving in (("ionic steps", savings.ionic), ("SCF steps", savings.electronic)):
        if saving is not None:
            ends = saving.n_pairs >= MIN_PAIRS and saving.low is not None and saving.high is not None
            interval = f"{1 - saving.high:.0%} to {1 - saving.low:.0%}, " if ends else ""  # type: ignore[operator]
            tiles.append(Tile(f"{name} saved", f"{1 - saving.ratio:.0%}", f"{interval}{saving.n_pairs} pairs"))
    if savings.ionic is None:
        tiles.append(Tile("ionic steps saved", "–", "no pairs with controls"))
    return tiles


def _tabulate_arms(savings: SavingsSummary) -> list[Any]:
    """Savings of each start; None if the sentence on savings is complete."""
    if not has_arms(savings):
        return []
    return [list_table(["start", "compared with", "ionic steps", "SCF steps"], list_arms(savings))]


def _tabulate_settings(screen: ScreenDoc) -> Any:
    settings = [
        ("screen", screen.name),
        ("engine", f"{screen.engine}, id {screen.engine_id}"),
        ("model", _name_model(screen)),
        ("after a refused prediction", screen.on_refuse),
        ("served start", screen.served),
        ("second opinion", _name_opinion(screen)),
        ("arms", f"{screen.described_arms}{', also relaxed from the served start' if screen.paired_controls else ''}"),
        ("seed", str(screen.seed)),
        *((f"version of {name}", version) for name, version in sorted(screen.versions.items())),
    ]
    return list_table(["setting", "value"], settings)


def _name_opinion(screen: ScreenDoc) -> str:
    """The configured name of the potential of second opinions, and its steps."""
    options = screen.maker.get("prerelax", {}).get("options", {})
    name, polish = options.get("second_opinion"), options.get("polish", 0)
    if name is None:
        return "none"
    return name if polish == 0 else f"{name}, {'steps as calibrated' if polish == 'auto' else f'{polish} steps'}"


def _describe_origin(screen: ScreenDoc) -> str:
    version = screen.versions.get("e3relax-flows", "")
    return f"Screen · {screen.last_updated:%Y-%m-%d %H:%M} UTC · e3relax-flows {version} · model {_name_model(screen)}"


def _name_model(screen: ScreenDoc) -> str:
    """The configured name of the model, and its resolved ids if they differ."""
    resolved = ", ".join(sorted({row.model_id for row in screen.candidates if row.model_id})) or "none"
    return resolved if screen.model == resolved else f"{screen.model} ({resolved})"
