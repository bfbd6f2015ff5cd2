"""The page of a campaign from its documents: results and costs of each generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from e3relax_flows.report.pages import Figure, Page, Section, TextTable, Tile, list_table, round_number
from e3relax_flows.report.tables import tabulate_comparisons, tabulate_gates
from e3relax_flows.schemas.campaigns import Arm, CampaignDoc, GenerationDoc, Interval
from e3relax_flows.schemas.displays import format_number
from e3relax_flows.schemas.models import GateDoc
from e3relax_flows.schemas.outcomes import OutcomeState


def build_campaign_page(
    campaign: CampaignDoc, generations: Sequence[GenerationDoc], gates: Mapping[str, GateDoc]
) -> Page:
    """The parts of the page.

    Parameters
    ----------
    campaign
        Its name is the title.
    generations
        In order, finished or not.
    gates
        Gates of its retrainings, by id.
    """
    ids = [one.retrain.gate_id for one in generations if one.retrain]
    judged = [gates[gate_id] for gate_id in ids if gate_id is not None and gate_id in gates]
    learned = draw_learning(generations)
    known = "" if learned else "No generation is concluded yet, so there is no error to draw."
    words = [f"Why it ended: {campaign.message or campaign.reason}."] if campaign.reason else []
    sections = [
        Section("learning", "Learning curve", [*words, *([known] if known else [])], learned),
        Section("generations", "Generations", tables=[tabulate_generations(generations)]),
        Section("cost", "Cost", [describe_cost(generations)], draw_costs(generations)),
        Section(
            "gates", "Gates", _explain_gates(judged), tables=[tabulate_gates(judged), *tabulate_comparisons(judged)]
        ),
        Section("lineage", "Lineage", [describe_lineage(generations)]),
        Section("settings", "Settings", tables=[_tabulate_settings(campaign)]),
    ]
    return Page(campaign.name, _describe_origin(campaign), list_tiles(campaign, generations), sections)


def list_tiles(campaign: CampaignDoc, generations: Sequence[GenerationDoc]) -> list[Tile]:
    """The headline numbers."""
    states = count_labels(generations)
    concluded = [one.conclude for one in generations if one.conclude]
    hours = sum(one.dft_hours for one in concluded)
    saved = [one.saved_hours for one in concluded if one.saved_hours is not None]
    errors = [one.error for one in concluded if one.error]
    first = next((one.error_before for one in concluded if one.error_before), None)
    n_promoted = sum(bool(one.retrain and one.retrain.promoted) for one in generations)
    tiles = [
        Tile("state", str(campaign.state), str(campaign.reason or "")),
        Tile("generations", str(len(generations)), f"{n_promoted} promoted a model"),
        Tile("labels", f"{states[OutcomeState.SUCCESSFUL]:,}", f"{states[OutcomeState.FAILED]:,} relaxations failed"),
        Tile("core hours of DFT", f"{hours:,.1f}", f"{sum(saved):,.1f} saved" if saved else "savings not known"),
    ]
    if errors and first:
        change = f"{errors[-1].mean / first.mean - 1:+.1%} against the beginning" if first.mean else ""
        tiles.append(Tile("error on the holdout, Å", f"{errors[-1].mean:.4f}", change))
    return tiles


def count_labels(generations: Sequence[GenerationDoc]) -> Counter[OutcomeState | None]:
    """Relaxations by their state; None: without outcome."""
    return Counter(label.state for one in generations if one.label for label in one.label.labels)


def draw_learning(generations: Sequence[GenerationDoc]) -> list[Figure]:
    """Errors against the labels spent: on the holdout, with those of the initial structures, and on the random arm."""
    spent = list(accumulate(one.n_labels for one in generations))
    series: dict[str, list[tuple[int, Interval]]] = {"holdout": [], "identity": [], "random": [], "left": []}
    for before, after, one in zip([0, *spent], spent, generations, strict=False):
        done = one.conclude
        if done is None:
            continue
        if done.error_before and not series["holdout"]:
            series["holdout"].append((before, done.error_before))
        if done.identity_error and not series["identity"]:
            series["identity"].append((before, done.identity_error))
        named = (("holdout", done.error), ("identity", done.identity_error))
        series["random"] += [(before, done.random_error)] if done.random_error else []
        series["left"] += [(before, done.random_identity_error)] if done.random_identity_error else []
        for name, interval in named:
            series[name] += [(after, interval)] if interval else []
    styles = {
        "holdout": ("model in service, holdout", "@blue", "circle", "solid"),
        "identity": ("initial structures, holdout", "@grey", "square-open", "dot"),
        "random": ("model before, random labels", "@orange", "diamond", "dash"),
        "left": ("initial structures, random labels", "@purple", "triangle-up-open", "dot"),
    }
    data = [_draw_intervals(series[name], *styles[name]) for name in styles if series[name]]
    if not data:
        return []
    layout = {
        "xaxis": {"title": {"text": "labels chosen"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "mean error, Å"}, "rangemode": "tozero"},
        "legend": {"y": -0.25},
    }
    caption = (
        "Displacement + 2.5 Å · strain to the relaxed structure; bars are bootstrap 95 % intervals. The random labels "
        "are predicted before anything is trained on them: they are what is left of the pool, without bias."
    )
    return [Figure("learning-curve", "Error against labels", caption, data, layout, wide=True)]


def draw_costs(generations: Sequence[GenerationDoc]) -> list[Figure]:
    """Core hours of each generation, spent and saved, and its labels by state."""
    done = [(str(one.generation), one.conclude) for one in generations if one.conclude]
    labelled = [(str(one.generation), count_labels([one])) for one in generations if one.label]
    figures = []
    if done:
        data = [
            _draw_columns("spent on labels", done, [one.dft_hours for _, one in done], "@blue", ""),
            _draw_columns("saved by predictions", done, [one.saved_hours for _, one in done], "@green", "/"),
        ]
        caption = "Core hours of relaxations. Savings are measured on controls, and not known without them."
        figures.append(Figure("hours", "Hours", caption, data, _layout_columns("core hours")))
    if labelled:
        kinds: list[tuple[OutcomeState | None, str, str]] = [
            (OutcomeState.SUCCESSFUL, "@blue", ""),
            (OutcomeState.UNCONVERGED, "@yellow", "x"),
            (OutcomeState.FAILED, "@orange", "/"),
            (None, "@grey", "."),
        ]
        data = [
            _draw_columns(str(state or "no outcome"), labelled, [counts[state] for _, counts in labelled], color, shape)
            for state, color, shape in kinds
            if any(counts[state] for _, counts in labelled)
        ]
        layout = _layout_columns("relaxations") | {"barmode": "stack"}
        figures.append(
            Figure("labels", "Labels", "Relaxations of chosen candidates, controls among them.", data, layout)
        )
    return figures


def tabulate_generations(generations: Sequence[GenerationDoc]) -> TextTable:
    """A row per generation: choices, results, decision."""
    columns = ["", "model", "chosen", "ok / failed", "pairs", "error, Å", "random, Å", "decision", "hours", "saved"]
    return list_table(columns, [_describe_generation(one) for one in generations])


def describe_lineage(generations: Sequence[GenerationDoc]) -> str:
    """The models that were in service, in order."""
    begun = [one for one in generations if one.begin]
    if not begun or begun[0].begin is None:
        return "No model was in service yet."
    words = [begun[0].begin.model_id]
    for one in generations:
        if one.retrain and one.retrain.promoted and one.retrain.challenger_id:
            words.append(f"{one.retrain.challenger_id} (generation {one.generation})")
    return " → ".join(words) if len(words) > 1 else f"{words[0]}; nothing was promoted."


def describe_cost(generations: Sequence[GenerationDoc]) -> str:
    """The costs of the campaign, in words."""
    hours = sum(one.conclude.dft_hours for one in generations if one.conclude)
    training = sum(one.retrain.hours for one in generations if one.retrain)
    ratios = [one.conclude.control_ratio for one in generations if one.conclude and one.conclude.control_ratio]
    ratio = (
        f" Relaxations from predictions took {ratios[-1]:.0%} of the hours from initial structures." if ratios else ""
    )
    return f"{hours:,.1f} core hours of DFT and {training:,.2f} h of training.{ratio}"


def _describe_generation(one: GenerationDoc) -> list[Any]:
    states = count_labels([one])
    arms = Counter(chosen.arm for chosen in one.select.selected) if one.select else Counter[Arm]()
    done, retrain = one.conclude, one.retrain
    decision = None
    if retrain is not None:
        decision = "promoted" if retrain.promoted else str(retrain.decision or "no training data")
    return [
        one.generation,
        one.begin.model_id if one.begin else None,
        ", ".join(f"{arms[arm]} {arm}" for arm in Arm if arms[arm]) or None,
        f"{states[OutcomeState.SUCCESSFUL]} / {states[OutcomeState.FAILED]}" if one.label else None,
        len(one.pairs.pair_ids) if one.pairs else None,
        _format_interval(done.error if done else None),
        _format_interval(done.random_error if done else None),
        decision,
        format_number(done.dft_hours if done else None, 1),
        format_number(done.saved_hours if done else None, 1),
    ]


def _format_interval(interval: Interval | None) -> str | None:
    if interval is None:
        return None
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _draw_intervals(points: Sequence[tuple[int, Interval]], name: str, color: str, symbol: str, dash: str) -> Any:
    ends = [(one, one.low is not None and one.high is not None) for _, one in points]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [labels for labels, _ in points],
        "y": [round_number(one.mean, 5) for _, one in points],
        "line": {"color": color, "dash": dash, "width": 2},
        "marker": {"color": color, "symbol": symbol, "size": 9},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [round_number(one.high - one.mean, 5) if has else 0.0 for one, has in ends],  # type: ignore[operator]
            "arrayminus": [round_number(one.mean - one.low, 5) if has else 0.0 for one, has in ends],  # type: ignore[operator]
            "color": color,
        },
        "hovertemplate": "%{x} labels: %{y:.4f} Å<extra>" + name + "</extra>",
    }


def _draw_columns(
    name: str, rows: Sequence[tuple[str, Any]], values: Sequence[float | None], color: str, shape: str
) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": [generation for generation, _ in rows],
        "y": [round_number(value, 4) for value in values],
        "marker": {"color": color, "pattern": {"shape": shape, "fillmode": "replace"}},
        "hovertemplate": "generation %{x}: %{y}<extra>" + name + "</extra>",
    }


def _layout_columns(title: str) -> dict[str, Any]:
    return {
        "barmode": "group",
        "xaxis": {"title": {"text": "generation"}, "type": "category"},
        "yaxis": {"title": {"text": title}, "rangemode": "tozero"},
    }


def _explain_gates(gates: Sequence[GateDoc]) -> list[str]:
    if not gates:
        return ["No challenger was judged yet."]
    return ["Each challenger is compared with the model in service on the frozen holdout before it may replace it."]


def _tabulate_settings(campaign: CampaignDoc) -> TextTable:
    config = campaign.config
    rows = [
        ("campaign", f"{campaign.name}, id {campaign.campaign_id}"),
        ("pool", f"{campaign.n_pool:,} candidates, {campaign.n_duplicates:,} duplicates left out"),
        ("engine", str(config.engine)),
        ("labels of a generation", str(config.labels)),
        (
            "chosen by",
            f"{config.mix.scored:.0%} score, {config.mix.diverse:.0%} diversity, {config.mix.random:.0%} chance",
        ),
        ("score", config.scored_by),
        ("control fraction", f"{config.control:g}"),
        ("holdout", config.retraining.holdout),
        ("alias", config.retraining.alias),
        ("seed", str(config.seed)),
        ("ends", config.stop.model_dump_json(exclude_none=True)),
        ("where its jobs run", campaign.place),
        ("started", f"{campaign.n_starts} times"),
    ]
    return list_table(["setting", "value"], rows)


def _describe_origin(campaign: CampaignDoc) -> str:
    version = campaign.versions.get("e3relax-flows", "")
    return f"Campaign · {campaign.last_updated:%Y-%m-%d %H:%M} UTC · e3relax-flows {version} · {campaign.campaign_id}"
