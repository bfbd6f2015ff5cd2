"""`e3relax evaluate`: errors of a model on pairs initial -> relaxed, by source, against the identity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e3relax_flows.cli.groups import PredictionGroup, spread
from e3relax_flows.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
)
from e3relax_flows.report.console import make_progress, out, print_json

if TYPE_CHECKING:
    from e3relax_flows.train.evaluate import Evaluation


@spread
def evaluate(
    pairs: Annotated[list[Path], typer.Argument(help="Pair files: .jsonl or .jsonl.gz.")],
    *,
    model: ModelOption = None,
    how: PredictionGroup,
    device: DeviceOption = None,
    file: Annotated[Path | None, typer.Option("--out", "-o", help="Write the figures to this JSON file.")] = None,
    predictions_file: Annotated[
        Path | None,
        typer.Option(
            "--predictions", help="Write a line with id, verdict, structure and served structure for every pair."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict from the initial side of every pair and compare with the relaxed side."""
    from e3relax_flows.cli.model_choice import choose_model
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.predict.predictor import Predictor
    from e3relax_flows.train.dataset import load_pairs
    from e3relax_flows.train.evaluate import evaluate_pairs, write_predictions

    options = how.build()
    settings = load_settings(MODEL=model, DEVICE=device)
    with make_progress() as progress:
        reading = progress.add_task("reading pairs", total=None, note="")
        rows = load_pairs(pairs, lambda n: progress.update(reading, advance=n))
        progress.remove_task(reading)
        predictor = Predictor.load(str(choose_model(settings.MODEL, settings).path), settings.DEVICE)
        task = progress.add_task("predicting", total=len(rows), note="")
        evaluation, predictions = evaluate_pairs(
            predictor, rows, options, lambda done, total: progress.update(task, completed=done, total=total)
        )
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(evaluation.model_dump_json(indent=2) + "\n")
    if predictions_file:
        predictions_file.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(predictions_file, predictions, rows)
    if as_json:
        print_json(evaluation.model_dump(mode="json"))
    else:
        _print_table(evaluation)


def _print_table(evaluation: Evaluation) -> None:
    from rich.table import Table

    table = Table(
        title=f"model {evaluation.model_id}, {evaluation.n_pairs} pairs, up to {evaluation.options.passes} passes"
    )
    for header in ("source", "pairs"):
        table.add_column(header, justify="left" if header == "source" else "right")
    for header in ("displacement, Å", "strain", "volume error, %"):
        table.add_column(f"{header}\ninitial -> predicted", justify="right")
    table.add_column("refused, %", justify="right")
    table.add_column("harmed,\nmaterially, %", justify="right")
    table.add_column("of what can\nbe saved, %", justify="right")
    for source, predicted in evaluation.predicted.items():
        identity = evaluation.identity[source]
        table.add_row(
            source,
            str(int(predicted["n"])),
            f"{identity['displacement']:.4f} -> {predicted['displacement']:.4f}",
            f"{identity['strain']:.4f} -> {predicted['strain']:.4f}",
            f"{100 * identity['volume']:.2f} -> {100 * predicted['volume']:.2f}",
            f"{100 * evaluation.refused[source]:.1f}",
            f"{100 * evaluation.harmed[source]:.1f}, {100 * evaluation.materially_harmed[source]:.1f}",
            f"{100 * evaluation.saving[source]:.0f}",
        )
    out.print(table)
    out.print(
        "Means over pairs, refused predictions too. Harmed: accepted, and further from the relaxed structure than the "
        "initial one (displacement + 2.5 Å · strain); materially: by more than 10 % and 0.02 Å. Saved: the mean of "
        "ln(error of the initial structure / error of what is served), 100 % with the better of both every time. "
        f"{1 / max(evaluation.seconds_per_structure, 1e-9):.0f} structures per second.",
        soft_wrap=True,
    )
