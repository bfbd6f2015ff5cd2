"""`e3relax models calibrate`: a model with a guard fitted to pairs, by itself and with a second opinion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e3relax_flows.cli.groups import AnswerGroup, spread
from e3relax_flows.cli.options import DeviceOption, complete_potential
from e3relax_flows.report import console

if TYPE_CHECKING:
    from e3relax_flows.predict.opinions import Judge
    from e3relax_flows.predict.predictor import Predictor
    from e3relax_flows.train.pairs import PairSet


@spread
def calibrate_model(
    model: Annotated[str, typer.Argument(help="Alias, name, id or folder of a model.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name becomes the new model's.")],
    pairs: Annotated[
        list[Path], typer.Option("--pairs", help="Pairs the model was not trained on, .jsonl or .jsonl.gz; repeatable.")
    ],
    *,
    second_opinion: Annotated[
        list[str] | None,
        typer.Option(
            help="Potential whose second opinion is to be calibrated, such as chgnet; repeatable.",
            metavar="POTENTIAL",
            autocompletion=complete_potential,
        ),
    ] = None,
    keep_guard: Annotated[
        bool, typer.Option("--keep-guard", help="Keep the guard; calibrate second opinions only.")
    ] = False,
    device: DeviceOption = None,
    answer: AnswerGroup,
) -> None:
    """Fit a model's guard to pairs; the weights do not change, and the model gets another id.

    Second opinions extend the guard, so that a new guard drops those that are not named again.
    """
    from e3relax_flows.core.model_folders import CARD_FILE
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.model.files import save_model
    from e3relax_flows.predict.opinions import Judge
    from e3relax_flows.predict.predictor import Predictor
    from e3relax_flows.registry.models import resolve_model
    from e3relax_flows.train.dataset import load_pairs

    settings = load_settings(DEVICE=device)
    found = resolve_model(model, settings)
    predictor = Predictor.load(str(found.path), settings.DEVICE)
    rows, names = load_pairs(pairs), second_opinion or []
    judges = [Judge(name, str(predictor.device)) for name in names]  # missing files are reported first
    if answer.dry_run:
        plan = {"dry_run": True, "model_id": found.model_id, "pairs": len(rows), "path": str(folder.absolute())}
        plan |= {"second_opinions": [judge.label for judge in judges], "keep_guard": keep_guard}
        typer.echo(json.dumps(plan) if answer.as_json else f"would calibrate {found.name} with {len(rows)} pairs")
        return
    calibration = _calibrate(predictor, rows, judges, keep_guard)
    card = found.path / CARD_FILE
    kept = {name: found.config[name] for name in ("functionals", "provenance") if name in found.config}
    content = {"provenance": {}} | kept | {"calibration": calibration}
    made = save_model(folder, predictor.network, card.read_text() if card.exists() else "", content)
    if answer.as_json:
        typer.echo(json.dumps({"model_id": made.model_id, "path": str(folder.absolute()), "calibration": calibration}))
        return
    limit, opinions = calibration["trust"]["max_harm"], ", ".join(calibration.get("second_opinions", {})) or "none"
    console.out.print(
        console.plain(
            f"{made.name}, model id {made.model_id}, is in {folder.absolute()}: probability of harm up to {limit:.3f}; "
            f"second opinions: {opinions}"
        ),
        soft_wrap=True,
    )


def _calibrate(predictor: Predictor, pairs: PairSet, judges: list[Judge], keep_guard: bool) -> dict[str, Any]:
    """The new calibration."""
    from e3relax_flows.train.opinions import calibrate_opinion
    from e3relax_flows.train.recalibrate import recalibrate

    if not keep_guard:
        predictor = recalibrate(predictor, pairs)
    calibration = dict(predictor.calibration)
    opinions = dict(calibration.get("second_opinions", {}))
    for judge in judges:
        opinions[judge.label] = calibrate_opinion(predictor, pairs, judge)
    return calibration | ({"second_opinions": opinions} if opinions else {})
