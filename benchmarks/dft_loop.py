"""What a campaign with a real DFT code gains: SCF iterations of each generation, against the model that it began with.

    python benchmarks/dft_loop.py --out FOLDER [--labels 20] [--generations 3]

The family is all compounds of four elements (Li, Al, Si, P) in the prototypes of pymatgen's AFLOW table with 3 or 4
atoms per cell, the cheaper half of them; most are not known phases. Those of a quarter of the prototypes are the
holdout, on which the gate judges each retrained model. A campaign draws its generations at random from the others,
relaxes them with GPAW (PBE, plane waves, coarse k-points) from what the model in service serves, retrains, and promotes
if the gate says so. Then each candidate of the campaign is relaxed from what the first model serves, too: the table
compares the two, in pairs.

All stores are in FOLDER: run it again after an interruption, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from pathlib import Path

from dft_savings_cases import count_kpoints, estimate_cost
from dft_savings_table import Ratio, measure_ratio
from monty.json import jsanitize
from pymatgen.core import Composition, Structure

from e3relax_flows import (
    CampaignConfig,
    CampaignState,
    E3RelaxSettings,
    OutcomeDoc,
    PairFilter,
    PrerelaxMaker,
    PrototypeSource,
    ScreenMaker,
    build_campaign_pairs,
    choose_gpaw_settings,
    draw_uniform,
    find_alias,
    find_outcomes,
    find_same_holdout,
    freeze_holdout,
    get_engine,
    isolate_stores,
    iter_pairs,
    label_prototype,
    load_generations,
    load_settings,
    open_campaign_stores,
    open_dataset_stores,
    open_pair_store,
    open_workspace,
    promote,
    read_sources,
    register_model,
    resolve_model,
    run_campaign,
    run_screen,
    save_holdout,
)

ELEMENTS = ("Li", "Al", "Si", "P")
VALENCE = {"Li": 3, "Al": 3, "Si": 4, "P": 5}  # electrons of GPAW's PBE datasets
PROPORTIONS = ((1, 2), (1, 3), (1, 4), (2, 3), (1, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 2, 2))
LEAST_ATOMS, MOST_ATOMS = 3, 4
MAX_COST = 0.06  # millions of plane-wave coefficients, see dft_savings_cases.py
K_LENGTH = 7.0  # Å of real space that the k-points stand for
HELD_OUT = 0.25  # of the prototypes
ALIAS, HOLDOUT, SOURCE = "loop", "prototypes", "screen"
ENGINE = {"k_length": K_LENGTH, "k_length_metal": K_LENGTH, "steps": 40}
TRAINING = {
    "data": {"max_atoms": 160},
    "schedule": {"max_steps": 600, "learning_rate": 3e-4, "warmup_steps": 30, "ema_decay": 0.99},
    "val_every": 60,
    "threads": 1,
}

Item = tuple[str, Structure]


@dataclass(frozen=True)
class Row:
    """One candidate: SCF iterations from what its generation's model and what the first model served."""

    generation: int
    model_id: str
    id: str
    n_now: int
    n_first: int
    is_same_start: bool
    refused_now: bool
    refused_first: bool


def list_family() -> list[Item]:
    """All candidates that are cheap enough, by their names."""
    formulas = sorted({formula for names in _choose_elements() for formula in names})
    source = PrototypeSource(type="prototypes", prototypes=_list_prototypes(), compounds=formulas)
    found: dict[str, Structure] = {}
    for item in read_sources([source], load_settings()):
        if item.structure is not None and LEAST_ATOMS <= len(item.structure) <= MOST_ATOMS:
            found.setdefault(item.id, item.structure)
    costs = {name: _estimate(structure) for name, structure in found.items()}
    return [(name, found[name]) for name in sorted(found) if costs[name] <= MAX_COST]


def _choose_elements() -> Iterable[list[str]]:
    for proportions in PROPORTIONS:
        for elements in combinations(ELEMENTS, len(proportions)):
            orders = sorted(set(permutations(proportions)))
            yield [Composition(dict(zip(elements, order, strict=True))).reduced_formula for order in orders]


def _list_prototypes() -> list[str]:
    """AFLOW's labels of the prototypes of few enough atoms."""
    from pymatgen.analysis.prototypes._data import AFLOW_PROTOTYPE_LIBRARY

    small = [entry for entry in AFLOW_PROTOTYPE_LIBRARY if len(entry["snl"].structure) <= 4 * MOST_ATOMS]
    return sorted({entry["tags"]["aflow"] for entry in small})


def _estimate(structure: Structure) -> float:
    settings = choose_gpaw_settings(structure, K_LENGTH, K_LENGTH)
    grid = settings["kpts"]["size"]
    n_valence = sum(VALENCE[site.specie.symbol] for site in structure)
    n_kpoints = count_kpoints(structure, (grid[0], grid[1], grid[2]))
    return estimate_cost(n_kpoints, structure.volume, settings["mode"]["ecut"], n_valence)


def split_family(family: Sequence[Item], n_known: int) -> tuple[list[Item], list[Item]]:
    """Candidates of prototypes that are held out, `n_known` of them, and those of all others; in random order."""
    order = sorted(family, key=lambda item: draw_uniform(0, item[0]))
    prototypes = {name: label_prototype(structure) for name, structure in family}
    held = {label for label in prototypes.values() if draw_uniform(1, str(label)) < HELD_OUT}
    known = [item for item in order if prototypes[item[0]] in held]
    return known[:n_known], [item for item in order if prototypes[item[0]] not in held]


def relax_served(name: str, items: Sequence[Item], model_id: str, settings: E3RelaxSettings, out: Path) -> list[str]:
    """Relax candidates from what a model serves; the ids of the outcomes."""
    engine = get_engine("gpaw", **ENGINE)
    prerelax = PrerelaxMaker(model=model_id, device="cpu")
    maker = ScreenMaker(name=name, prerelax=prerelax, engine=engine, control=0, deduplicate=False)
    report = run_screen(maker, [item for _, item in items], [name for name, _ in items], settings, out / name)
    return [outcome.outcome_id for row in report.screen.candidates for outcome in row.outcomes]


def hold_out(ids: Sequence[str], settings: E3RelaxSettings) -> None:
    """Freeze all pairs of some outcomes as the holdout."""
    build_campaign_pairs(list(ids), SOURCE, settings)
    with open_pair_store(settings) as pairs, open_dataset_stores(settings) as datasets:
        current = [pair for pair in iter_pairs(pairs) if pair.origin_id in set(ids)]
        groups = sorted({str(pair.prototype) for pair in current})
        holdout = freeze_holdout(current, HOLDOUT, "prototype", groups, PairFilter(), min_pairs=2)
        if find_same_holdout(datasets, holdout) is None:
            save_holdout(datasets, holdout)


def describe_campaign(pool: Path, arguments: argparse.Namespace) -> CampaignConfig:
    """The campaign; everything that is not here is a default."""
    retraining = {
        "name": f"{ALIAS}-tuned",
        "alias": ALIAS,
        "holdout": HOLDOUT,
        "dataset": {"group_by": "prototype", "val_fraction": 0.2},
        "replay": {"bundled": "auto", "predictions": 0},
        "blend": 0,  # as it was measured: the default came later
        "training": TRAINING,
        "device": "cpu",
    }
    return CampaignConfig.model_validate(
        {
            "name": "loop",
            "inputs": [str(pool.absolute())],
            "engine": "gpaw",
            "engine_settings": ENGINE,
            "device": "cpu",
            "labels": arguments.labels,
            "control": 0,
            "source": SOURCE,
            "retraining": retraining,
            "stop": {"labels": arguments.labels * arguments.generations, "without_promotion": None},
        }
    )


def compare(
    campaign_id: str, pool: dict[str, Structure], first: str, settings: E3RelaxSettings, out: Path
) -> tuple[list[Row], list[str]]:
    """Relax all labelled candidates from what the first model serves, too; the rows, and each gate's decision."""
    with open_campaign_stores(settings) as stores:
        generations = load_generations(stores, campaign_id)
    chosen = [one for generation in generations if generation.select for one in generation.select.selected]
    reference = relax_served("first-model", [(one.id, pool[one.id]) for one in chosen], first, settings, out)
    with open_workspace(settings) as workspace:
        by_first = {doc.structure_id: doc for doc in find_outcomes(workspace.outcomes, reference).values()}
        rows = []
        for generation in generations:
            labels = generation.label.labels if generation.label else []
            names = {one.structure_id: one.id for one in generation.select.selected} if generation.select else {}
            found = find_outcomes(workspace.outcomes, [label.outcome_id for label in labels])
            for now in found.values():
                then = by_first.get(now.structure_id)
                if then and (row := _join(generation.generation, names[now.structure_id], now, then)):
                    rows.append(row)
    decisions = [str(generation.retrain.decision) if generation.retrain else "none" for generation in generations]
    return rows, decisions


def _join(generation: int, name: str, now: OutcomeDoc, then: OutcomeDoc) -> Row | None:
    """None where one of the two did not converge."""
    counts = [
        doc.result.n_electronic_steps if doc.result and doc.state == "successful" else None for doc in (now, then)
    ]
    if counts[0] is None or counts[1] is None:
        return None
    starts = [str(doc.start_kind) for doc in (now, then)]
    return Row(
        generation=generation, model_id=now.model_id, id=name, n_now=counts[0], n_first=counts[1],
        is_same_start=now.outcome_id == then.outcome_id, refused_now=starts[0] == "initial",
        refused_first=starts[1] == "initial",
    )  # fmt: skip


def measure_generations(rows: Sequence[Row]) -> list[tuple[int, list[Row], Ratio]]:
    """Rows by generation, with the ratio of their sums of SCF iterations."""
    numbers = sorted({row.generation for row in rows})
    groups = [(number, [row for row in rows if row.generation == number]) for number in numbers]
    return [
        (n, group, measure_ratio([one.n_now for one in group], [one.n_first for one in group])) for n, group in groups
    ]


def write_table(rows: Sequence[Row], decisions: Sequence[str]) -> str:
    """A row for each generation, in Markdown."""
    lines = [
        "| generation | model | candidates | refused (before) | SCF (before) | ratio | 95 % interval | gate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, group, ratio in measure_generations(rows):
        refused = f"{sum(one.refused_now for one in group)} ({sum(one.refused_first for one in group)})"
        interval = "" if ratio.low is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
        lines.append(
            f"| {number} | {group[0].model_id} | {len(group)} | {refused} | {ratio.above:.0f} ({ratio.below:.0f}) | "
            f"**{ratio.ratio:.2f}** | {interval} | {decisions[number]} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The ratio by generation, with its interval."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    groups = measure_generations(rows)
    ratios = [ratio.ratio for _, _, ratio in groups]
    low = [max(ratio.ratio - (ratio.low if ratio.low is not None else ratio.ratio), 0) for _, _, ratio in groups]
    high = [max((ratio.high if ratio.high is not None else ratio.ratio) - ratio.ratio, 0) for _, _, ratio in groups]
    with mpl.rc_context({"svg.hashsalt": "loop", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(5.0, 3.0), layout="constrained")
        axes.axhline(1.0, color="#888888", linewidth=1.0)
        axes.errorbar([n for n, _, _ in groups], ratios, yerr=[low, high], fmt="o-", color="#2a6fb0", capsize=3)
        axes.set_xticks([n for n, _, _ in groups])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("generation")
        axes.set_ylabel("SCF iterations over those\nwith the first model")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--known", type=int, default=22, help="candidates of the holdout")
    parser.add_argument("--labels", type=int, default=20, help="of each generation")
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--count", action="store_true", help="say how many candidates there are, and stop")
    arguments = parser.parse_args()
    known, pool = split_family(list_family(), arguments.known)
    print(f"{len(known)} candidates held out, {len(pool)} in the pool", flush=True)
    if arguments.count:
        return
    first = resolve_model("default", load_settings())
    settings, out = isolate_stores(arguments.out), arguments.out
    register_model(first, settings)
    if find_alias(ALIAS, settings) is None:
        promote(ALIAS, first.model_id, "where the campaign begins", settings=settings)
    hold_out(relax_served("held-out", known, first.model_id, settings, out), settings)
    path = out / "pool.json"
    path.write_text(json.dumps(jsanitize({name: item.as_dict() for name, item in pool}, recursive_msonable=True)))
    config = describe_campaign(path, arguments)
    campaign = run_campaign(config, settings, out, lambda job: print(job.name, job.error or "", file=sys.stderr))
    if campaign.state != CampaignState.FINISHED:
        raise SystemExit(f"the campaign is {campaign.state}: {campaign.message}; type the same again")
    rows, decisions = compare(campaign.campaign_id, dict(pool), first.model_id, settings, out)
    (out / "rows.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    draw(rows, out / "dft_loop.svg")
    print(write_table(rows, decisions))


if __name__ == "__main__":
    main()
