"""`e3relax predict`: structures from files in, predicted structures out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e3relax_flows.cli.groups import PredictionGroup, spread
from e3relax_flows.cli.options import (
    DeviceOption,
    DryRunOption,
    ModelOption,
    OutOption,
)
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.candidates.reading import ReadItem
    from e3relax_flows.cli.prediction_files import PredictionWriter
    from e3relax_flows.schemas.predictions import Prediction, PredictOptions

MAX_ROWS = 100
MAX_MESSAGES = 10
LEGEND = (
    "volume ratio: predicted over initial. displaced: mean over atoms. expected error: displacement + 2.5 Å · strain "
    "to the relaxed structure. harm: probability that the prediction is further from the relaxed structure "
    "than the initial one, by more than 10 % and 0.02 Å."
)


@spread
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Files that pymatgen reads, folders of them, .json(.gz) lists or dicts of structures."),
    ],
    *,
    model: ModelOption = None,
    how: PredictionGroup,
    device: DeviceOption = None,
    out: OutOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines on stdout and nothing else.")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Predict the relaxed structures of initial ones.

    With --out, DIR/predictions.jsonl has one prediction per line in the order
    of the input, and a CIF of each is beside it.

    Exit code 0: each was accepted or refused; 1: some have no prediction;
    2: nothing was done.
    """
    options = how.build()
    if dry_run:
        raise typer.Exit(_plan(inputs, model, options, out, as_json))
    counts: Counter[str] = Counter()
    shown: list[Prediction] = []
    silent: list[str] = []
    with ExitStack() as stack:
        predictions = _iterate_predictions(inputs, model, device, options, stack)
        writer = _open_writer(out, stack) if out else None
        for prediction in predictions:
            counts[str(prediction.verdict)] += 1
            if prediction.second_opinion is not None and prediction.second_opinion.message:
                silent.append(prediction.second_opinion.message)
            if writer is not None:
                writer.write(prediction)
            if as_json:
                from e3relax_flows.cli.prediction_files import dump_line

                typer.echo(dump_line(prediction))
            elif len(shown) < MAX_ROWS:
                shown.append(prediction)
    if not as_json:
        _show(shown, counts, out)
    if silent:
        share = f"{len(silent)} of {sum(counts.values())}"
        console.err.print(
            console.plain(f"{share} have no second opinion, and the guard judged alone; the first: {silent[0]}"),
            style="yellow",
            soft_wrap=True,
        )
    raise typer.Exit(1 if counts["error"] else 0)


def _plan(inputs: list[str], model: str | None, options: PredictOptions, out: Path | None, as_json: bool) -> int:
    """Read the inputs and report what would be predicted; return the exit code."""
    from e3relax_flows.candidates.reading import read_structures
    from e3relax_flows.cli.model_choice import choose_model, choose_usual_model
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.prerelax.judges import check_calibrated

    settings = load_settings()
    folder = choose_model(model, settings) if model else choose_usual_model(settings)
    check_calibrated(options, folder, is_local=True)
    good, bad = 0, 0
    with console.hide_warnings():
        for item in console.show_notes(read_structures(inputs)):
            if item.structure is None:
                bad += 1
                error = item.error or ""
                console.print_error(error if item.id in error else f"{item.id}: {error}")
            else:
                good += 1
    plan = {"structures": good, "unreadable": bad, "model_id": folder.model_id, "out": str(out) if out else None}
    if as_json:
        typer.echo(json.dumps({"dry_run": True, **plan}))
    else:
        where = f", written into {out}" if out else ""
        console.out.print(
            f"{good} structures would be predicted by model {folder.model_id}{where}; {bad} unreadable; nothing was "
            "done: that was a dry run",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    return int(bad > 0)


def _iterate_predictions(
    inputs: list[str], model: str | None, device: str | None, options: PredictOptions, stack: ExitStack
) -> Iterator[Prediction]:
    """Read all inputs, then predict them; unreadable ones become errors in their position."""
    from e3relax_flows.candidates.reading import read_structures
    from e3relax_flows.cli.model_choice import choose_model, choose_usual_model
    from e3relax_flows.core.settings import load_settings

    settings = load_settings()
    folder = choose_model(model, settings) if model else choose_usual_model(settings)
    progress = stack.enter_context(console.make_progress())
    task = progress.add_task("reading", total=None, note="")
    items: list[ReadItem] = []
    with console.hide_warnings():
        for item in read_structures(inputs):
            items.append(item)
            progress.update(task, completed=len(items))
    good = [item for item in items if item.structure is not None]
    progress.update(task, description="loading the model", completed=0, total=len(good))

    from e3relax_flows.predict.predictor import Predictor

    predictor = Predictor.load(str(folder.path), device or settings.DEVICE)
    progress.update(task, description=f"predicting on {predictor.device}")
    made = predictor.iter_predict(
        [item.structure for item in good],
        options,
        ids=[item.id for item in good],
        on_progress=lambda done, total: progress.update(task, completed=done, total=total),
    )
    for item in items:
        if item.structure is None:
            yield _refuse_to_read(item, predictor.model_id)
            continue
        prediction = next(made)
        if item.note is not None:
            prediction.message = "; ".join(filter(None, [prediction.message, f"read with a warning: {item.note}"]))
        yield prediction


def _refuse_to_read(item: ReadItem, model_id: str) -> Prediction:
    from e3relax_flows.schemas.predictions import Prediction, Reason, Verdict

    return Prediction(
        id=item.id, verdict=Verdict.ERROR, reasons=[Reason.UNREADABLE], message=item.error, model_id=model_id
    )


def _open_writer(out: Path, stack: ExitStack) -> PredictionWriter:
    from e3relax_flows.cli.prediction_files import PredictionWriter

    return stack.enter_context(PredictionWriter(out))


def _show(predictions: list[Prediction], counts: Counter[str], out: Path | None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("structure", overflow="fold")
    table.add_column("verdict", min_width=len("verdict"))
    for name in ("volume\nratio", "displaced\nÅ", "expected\nerror Å", "harm"):
        table.add_column(name, justify="right", min_width=len("0.0000"))
    table.add_column("why", overflow="fold", min_width=len("unreadable"))
    for prediction in predictions:
        table.add_row(
            console.plain(prediction.id or ""),
            console.color_word(str(prediction.verdict)),
            console.format_number(prediction.volume_ratio, 4),
            console.format_number(prediction.displacement, 4),
            console.format_number(prediction.expected_error, 3),
            console.format_number(prediction.harm_probability, 2),
            console.plain(", ".join(map(str, prediction.reasons))),
        )
    console.out.print(table)
    hidden = sum(counts.values()) - len(predictions)
    if hidden:
        console.out.print(f"... and {hidden} more", highlight=False)
    words = (("accept", "accepted"), ("refuse", "refused"), ("error", "without prediction"))
    console.out.print(", ".join(f"{counts[key]} {word}" for key, word in words) + ".", highlight=False)
    _show_messages(predictions)
    if any(prediction.harm_probability is not None for prediction in predictions):
        console.out.print(LEGEND, style="dim", highlight=False)
    if out is not None:
        console.out.print(f"Predictions: {(out / 'predictions.jsonl').absolute()}", highlight=False, soft_wrap=True)


def _show_messages(predictions: list[Prediction]) -> None:
    """Messages of refused and failed structures; those without a prediction first."""
    found = sorted(
        (prediction for prediction in predictions if prediction.message),
        key=lambda prediction: prediction.verdict != "error",
    )
    for prediction in found[:MAX_MESSAGES]:
        message, name = str(prediction.message), prediction.id or ""
        console.out.print(console.plain(message if name in message else f"{name}: {message}"), soft_wrap=True)
    if len(found) > MAX_MESSAGES:
        hidden = len(found) - MAX_MESSAGES
        console.out.print(f"... and {hidden} more messages: --json prints them, --out keeps them", highlight=False)
