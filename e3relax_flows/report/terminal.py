"""Terminal output of screens, retrainings and campaigns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from e3relax_flows.report import console
from e3relax_flows.report.screens import DOCUMENT_FILE, ScreenReport
from e3relax_flows.report.tables import ScreenTable, TableRow, describe_medians
from e3relax_flows.schemas.campaigns import CampaignDoc, GenerationDoc, Interval
from e3relax_flows.schemas.outcomes import OutcomeState
from e3relax_flows.schemas.retraining import RetrainDoc
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenPhase, count_states

MAX_ROWS = 200
MAX_SENTENCES = 5
MAX_NOTE = 30  # characters of a note in the table
IDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(, )?")
TITLES = (
    "pairs",
    "labels\nok/failed",
    "DFT h",
    "error, Å\nholdout",
    "of start",
    "error, Å\nrandom arm",
    "gate",
    "saved h",
)


def dump_screen(screen: ScreenDoc, counts: dict[str, int]) -> dict[str, Any]:
    """A screen as values for JSON."""
    kept = {"maker", "candidates", "counts"}
    return {**screen.model_dump(mode="json", exclude=kept), "counts": counts}


def describe_screen(screen: ScreenDoc, counts: dict[str, int]) -> str:
    """One line: id, phase, candidates by state, and what to type."""
    words = ", ".join(f"{count} {state}" for state, count in counts.items())
    reason = f" ({screen.message})" if screen.message else ""
    hint = "" if screen.phase == ScreenPhase.FINISHED else f"; see: e3relax screen status {screen.screen_id}"
    return f"screen {screen.screen_id} is {screen.phase}{reason}: {words}{hint}"


def show_screen(report: ScreenReport, as_json: bool = False) -> None:
    """Print the table, the sums and the path of the page on stdout, or a document for programs.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PrerelaxMaker, ScreenMaker, isolate_stores, run_screen, show_screen
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> maker = ScreenMaker(prerelax=PrerelaxMaker(device="cpu"), engine=EmtEngine(), control=0)
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> show_screen(run_screen(maker, [copper], ["copper"], settings, Path("runs/copper")))
    initial → predicted → relaxed with EMT: a potential, not DFT
    ...
      copper      accept ...   successful
    ...
    Page: ...report.html
    """
    table = report.table
    if as_json:
        files = {"page": str(report.page), "document": str(report.page.with_name(DOCUMENT_FILE))}
        console.print_json({**dump_screen(report.screen, count_states(report.screen.candidates)), **files})
        return
    console.out.print(build_rich_table(table))
    if len(table.rows) > MAX_ROWS:
        console.out.print(f"... and {len(table.rows) - MAX_ROWS} more: all are on the page")
    _show_notes(table.rows[:MAX_ROWS])
    console.out.print("Displacements are those from the relaxed structure, means over atoms.", style="dim")
    if any(row.steps_from_initial is not None and not row.initial_is_control for row in table.rows):
        console.out.print("† refused, so relaxed from the initial structure; not a control.", style="dim")
    console.out.print(", ".join(f"{count} {name}" for name, count in table.funnel) + ".", highlight=False)
    reused = sum(outcome.reused for row in report.screen.candidates for outcome in row.outcomes)
    if reused:
        console.out.print(f"{reused} outcomes were in the store already and were not computed again.", highlight=False)
    if any(row.state == CandidateState.FAILED for row in report.screen.candidates):
        console.out.print(
            "What failed is not tried again by itself: correct the cause and run `e3relax screen` with --retry-failed.",
            highlight=False,
        )
    for text in (describe_medians(table), report.savings, *report.arms):
        if text:
            console.out.print(text, highlight=False)
    console.out.print(f"Page: {report.page}", highlight=False, soft_wrap=True)


def build_rich_table(table: ScreenTable) -> Table:
    """The rows for a terminal, the first `MAX_ROWS` of them."""
    rich_table = Table(
        title=f"initial → predicted → relaxed with {table.engine_label}", title_justify="left", box=SIMPLE_HEAD
    )
    rich_table.add_column("candidate", overflow="fold", min_width=len("candidate"))
    rich_table.add_column("verdict", no_wrap=True)
    rich_table.add_column("volume Å³/atom\ninit. → pred. → relaxed", justify="right", min_width=len("22.58 → 21.00"))
    rich_table.add_column("displaced Å\ninit. → pred.", justify="right", min_width=len("displaced"))
    starts = f"{'pol. | ' if table.has_polished else ''}pred. | init."
    rich_table.add_column(f"ionic steps\n{starts}", justify="right", no_wrap=True)
    if table.has_scf:
        rich_table.add_column(f"SCF steps\n{starts}", justify="right", no_wrap=True)
    rich_table.add_column("relaxation", overflow="fold", min_width=10)
    for row in table.rows[:MAX_ROWS]:
        rich_table.add_row(*_format_row(row, table))
    return rich_table


def _format_row(row: TableRow, table: ScreenTable) -> list[Any]:
    mark = "†" if row.steps_from_initial is not None and not row.initial_is_control else ""
    volumes = (row.initial_volume, row.predicted_volume, row.relaxed_volume)
    displacements = (row.initial_displacement, row.predicted_displacement)
    cells: list[Any] = [
        console.plain(row.id),
        console.color_word(row.verdict),
        " → ".join(f"{console.format_number(volume, 2):>5}" for volume in volumes),
        " → ".join(console.format_number(displacement, 3) for displacement in displacements),
        _format_steps(table, row.steps_from_polished, row.steps_from_predicted, row.steps_from_initial) + mark,
    ]
    if table.has_scf:
        cells.append(_format_steps(table, row.scf_from_polished, row.scf_from_predicted, row.scf_from_initial))
    state = console.color_word(row.state)
    return [*cells, state.append(f" ({row.note})", style="dim") if row.note and not _is_long(row) else state]


def _is_long(row: TableRow) -> bool:
    """Whether a note is a sentence, which is printed below the table."""
    return len(row.note) > MAX_NOTE and row.state != CandidateState.DUPLICATE


def _show_notes(rows: Sequence[TableRow]) -> None:
    """The notes that do not fit into the table, each once with its candidates."""
    names: dict[str, list[TableRow]] = {}
    for row in filter(_is_long, rows):
        names.setdefault(IDS.sub("…", row.note), []).append(row)
    for found in list(names.values())[:MAX_SENTENCES]:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        note = found[0].note if found[0].id in found[0].note else f"{found[0].id}{more}: {found[0].note}"
        console.out.print(console.plain(note), soft_wrap=True)
    if len(names) > MAX_SENTENCES:
        console.out.print(f"... and {len(names) - MAX_SENTENCES} more: all are on the page", highlight=False)


def _format_steps(table: ScreenTable, polished: int | None, predicted: int | None, initial: int | None) -> str:
    first = f"{console.format_number(polished, 0)} | " if table.has_polished else ""
    return f"{first}{console.format_number(predicted, 0):>{3 if first else 1}} | {console.format_number(initial, 0):>3}"


def show_retraining(document: RetrainDoc) -> None:
    """Print what was trained and what the gate decided, with its reasons.

    Examples
    --------
    >>> from e3relax_flows import RetrainDoc, show_retraining
    >>> ids = {"dataset_id": "d", "holdout_id": "h", "incumbent_id": "m"}
    >>> data = {**ids, "alias_version": -1, "n_train": 9, "n_val": 1}
    >>> judged = {"challenger_id": "c", "gate_id": "g", "decision": "keep", "reasons": ["errors are equal"]}
    >>> fields = {"snapshot": data, "trainings": [], "promoted": False, "message": "default stays"}
    >>> document = RetrainDoc(name="oxides", alias="default", **fields, **judged)
    >>> show_retraining(document)
    gate g: keep
      errors are equal
    default stays
    """
    for training in document.trainings:
        console.out.print(
            f"run {training.run_id}: {training.step} steps in {training.hours:.2g} h, error on validation "
            f"{training.best_score:.3f} of the identity's, model {training.model_id}",
            highlight=False,
            soft_wrap=True,
        )
    console.out.print(f"gate {document.gate_id}: {document.decision}", style="bold", highlight=False)
    for reason in document.reasons:
        console.out.print(f"  {reason}", highlight=False, soft_wrap=True, markup=False)
    console.out.print(str(document.message), highlight=False, soft_wrap=True, markup=False)


def show_campaign(campaign: CampaignDoc, generations: list[GenerationDoc]) -> None:
    """Print the state of a campaign, and its generations in one table.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from e3relax_flows import build_campaign_maker, isolate_stores, open_campaign_stores, read_pool
    >>> from e3relax_flows import register_campaign, show_campaign
    >>> from e3relax_flows.testing import prepare_campaign
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> config = prepare_campaign(settings)
    >>> with open_campaign_stores(settings) as stores:
    ...     pool = read_pool(config, settings)
    ...     campaign, _ = register_campaign(stores, build_campaign_maker(config), pool, settings)
    >>> show_campaign(campaign, [])
    campaign ... is new: 0 generations, a pool of 2; next: e3relax campaign run ...
    """
    console.out.print(summarize_campaign(campaign, len(generations)), highlight=False, soft_wrap=True, markup=False)
    if not generations:
        return
    table = Table(box=SIMPLE_HEAD)
    table.add_column("gen.", justify="right")
    table.add_column("model", no_wrap=True)
    for title in TITLES:
        table.add_column(title, justify="right", overflow="fold")
    for item in generations:
        table.add_row(*_format_generation(item))
    console.out.print(table)
    kind = "hours of relaxations, of one core each times `stop.cores`"
    console.out.print(
        f"Errors are displacement + 2.5 Å · strain with bootstrap 95 % intervals; {kind}.", style="dim", soft_wrap=True
    )


def summarize_campaign(campaign: CampaignDoc, n_generations: int) -> str:
    """One line: id, state, why, and what to type."""
    reason = f" ({campaign.message})" if campaign.message else ""
    hints = {"new": "run", "running": "status", "halted": "resume", "stopped": "resume"}
    hint = hints.get(campaign.state)
    text = f"campaign {campaign.campaign_id} ({campaign.name}) is {campaign.state}{reason}"
    text += f": {n_generations} generations, a pool of {campaign.n_pool}"
    return text + (f"; next: e3relax campaign {hint} {campaign.campaign_id}" if hint else "")


def _format_generation(item: GenerationDoc) -> list[str]:
    end, retrain = item.conclude, item.retrain
    labels = item.label.labels if item.label else []
    n_failed = sum(label.state != OutcomeState.SUCCESSFUL for label in labels)
    model = end.model_id if end else item.begin.model_id if item.begin else "–"
    if item.conclude is None:
        gate = f"after {item.phases[-1]}" if item.phases else "–"
    else:
        gate = str(retrain.decision) if retrain and retrain.decision else "nothing trained"
    return [
        str(item.generation),
        model[:8],
        str(item.snapshot.n_train) if item.snapshot else "–",
        f"{len(labels) - n_failed}/{n_failed}" if item.label else "–",
        f"{end.dft_hours:.3g}" if end else "–",
        _format_interval(end.error if end else None),
        f"{end.identity_error.mean:.3f}" if end and end.identity_error else "–",
        _format_interval(end.random_error if end else None),
        gate,
        f"{end.saved_hours:.3g}" if end and end.saved_hours is not None else "–",
    ]


def _format_interval(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
