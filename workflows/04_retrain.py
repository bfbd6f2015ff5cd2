"""Show the whole loop of retraining: screen, build pairs, train, judge, promote, refuse what is worse, go back.

    python workflows/04_retrain.py                       # 190 candidates, CHGNet (no DFT): 16 min, 2 trainings of 8
    python workflows/04_retrain.py --engine gpaw --n 8   # real DFT; too few for a verdict of the gate
    python workflows/04_retrain.py --quick               # a minute; its verdicts mean nothing

The candidates are borides, carbides and nitrides of transition metals, in which the bundled weights are weak. A part of
their chemical systems is held out; on them the new model is compared with the one that it began with, and on common
salts, semiconductors and oxides too, so that forgetting is seen. Then a model is trained on pairs whose relaxed
lattices are 5 % too long, which the gate must refuse. All stores are in the folder --out: your own aliases are not
touched. Run it again after an interruption: what was relaxed and trained is found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from time import perf_counter
from typing import Any

from maggma.utils import grouper
from pymatgen.core import Structure

from e3relax_flows import (
    COMMON,
    CURRENT_PAIRS,
    INTERSTITIAL,
    E3RelaxError,
    E3RelaxSettings,
    GateDoc,
    OutcomeDocuments,
    PairBuilder,
    PairDoc,
    PairFilter,
    PrerelaxMaker,
    RetrainConfig,
    RetrainDoc,
    RetrainMaker,
    ScreenDoc,
    ScreenMaker,
    enumerate_candidates,
    find_alias,
    find_gates,
    freeze_holdout,
    get_engine,
    identify_pair,
    isolate_stores,
    iter_pairs,
    list_engines,
    list_holdouts,
    load_settings,
    open_dataset_stores,
    open_judgements,
    open_pair_store,
    open_pair_stores,
    open_workspace,
    promote,
    register_model,
    resolve_model,
    rollback,
    run_retraining,
    run_screen,
    save_holdout,
    save_pairs,
    show_retraining,
)

ALIAS = "proof"
NEW, ORIGINAL, CORRUPTED = "interstitial", "original", "corrupted"  # sources of pairs; holdouts of the first two
HELD_OUT = 0.3  # of the chemical systems
STRETCH = 1.05  # of the relaxed lattices of the corrupted pairs
FEW_ATOMS = 3  # for DFT and for a quick run


def main() -> int:
    arguments = parse_arguments()
    start = resolve_model(arguments.model, load_settings())
    settings = isolate_stores(arguments.out)
    register_model(start, settings)
    if find_alias(ALIAS, settings) is None:
        promote(ALIAS, start.model_id, "where the proof begins", settings=settings)

    prerelax, engine = PrerelaxMaker(model=start.model_id), get_engine(arguments.engine)
    maker = ScreenMaker(prerelax=prerelax, engine=engine, paired_controls=False)  # one pair of each candidate
    candidates = enumerate_candidates(INTERSTITIAL, arguments.n, arguments.max_atoms)
    screen(replace(maker, name=NEW), candidates, arguments.out, settings)
    if arguments.n_common:
        common = enumerate_candidates(COMMON, arguments.n_common)
        screen(replace(maker, name=ORIGINAL), common, arguments.out, settings)
    good = retrain(describe_retraining(NEW, arguments), start.model_id, arguments, settings)

    corrupt_pairs(settings)
    bad = retrain(describe_retraining(CORRUPTED, arguments), None, arguments, settings)

    if good.promoted:
        rollback(ALIAS, "the proof is over", settings)
    show_history(settings)
    return int(not good.promoted or bad.promoted)


def screen(maker: ScreenMaker, candidates: list[tuple[str, Structure]], out: Path, settings: E3RelaxSettings) -> None:
    """Predict and relax candidates, make pairs of what came out, and hold some of their chemical systems out."""
    source = maker.name
    names, structures = [name for name, _ in candidates], [structure for _, structure in candidates]
    begin = perf_counter()
    report = run_screen(maker, structures, names, settings, out / source)
    print(f"{source}: {describe_counts(dict(report.table.funnel))}; {perf_counter() - begin:.0f} s")
    print(f"  {report.savings}")
    counts = build_pairs(report.screen, settings)
    with open_pair_store(settings) as pairs, open_dataset_stores(settings) as datasets:
        kept = {holdout.name: holdout for holdout in list_holdouts(datasets)}
        wanted = PairFilter(sources=[source], dft_only=maker.engine.is_dft)
        holdout = kept.get(source) or save_holdout(
            datasets, freeze_holdout(iter_pairs(pairs), source, "chemical_system", HELD_OUT, wanted, min_pairs=2)
        )
    held = f"{len(holdout.pair_ids)} of {len(holdout.groups)} chemical systems"
    print(f"  pairs: {describe_counts(counts)}; held out: {held}", flush=True)


def build_pairs(screen: ScreenDoc, settings: E3RelaxSettings) -> Mapping[str, int]:
    """Make pairs of the outcomes of a screen, and of no other's; counts by what became of them."""
    wanted = {outcome.outcome_id for row in screen.candidates for outcome in row.outcomes}
    with open_workspace(settings) as stores, open_pair_stores(settings) as targets:
        builder = PairBuilder(
            targets.pairs,
            targets.records,
            predictions=stores.predictions,
            outcomes=stores.outcomes,
            source=screen.name,
        )
        builder.connect()
        items = (
            item
            for item in builder.get_items()
            if isinstance(item, OutcomeDocuments) and item.outcome.outcome_id in wanted
        )
        for chunk in grouper(items, builder.chunk_size):
            builder.update_targets([builder.process_item(item) for item in chunk])
    return builder.counts


def describe_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "nothing new"


def describe_retraining(source: str, arguments: argparse.Namespace) -> RetrainConfig:
    """Fine-tune on the pairs of a source; common ones are replayed beside the new, and judged by, where there are."""
    has_common = bool(arguments.n_common)
    replays = has_common and source == NEW
    wanted: dict[str, Any] = {
        "sources": [source, *([ORIGINAL] if replays else [])],
        "dft_only": is_dft(arguments.engine),
    }
    return RetrainConfig.model_validate(
        {
            "name": f"{ALIAS}-{source}",
            "alias": ALIAS,
            "holdout": NEW,
            "original_holdout": ORIGINAL if has_common else None,
            "dataset": {"filter": wanted, "val_fraction": 0.15},
            "replay": {"fraction": 0.4 if replays else 0, "sources": [ORIGINAL]},
            "training": {
                "data": {"max_atoms": 160},
                "schedule": {
                    "max_steps": arguments.steps,
                    "learning_rate": arguments.learning_rate,
                    "warmup_steps": arguments.steps // 20,
                    "ema_decay": 0.99,
                },
                "val_every": max(arguments.steps // 10, 1),
                "threads": 1,
            },
            "gate": {"min_stratum": arguments.min_pairs},
        }
    )


def retrain(
    config: RetrainConfig, incumbent: str | None, arguments: argparse.Namespace, settings: E3RelaxSettings
) -> RetrainDoc:
    """Run the flow and show the decision of the gate."""
    print(f"\nretraining {config.name}", flush=True)
    flow = RetrainMaker(config=config).make(incumbent)
    document = run_retraining(flow, settings, arguments.out / config.name)
    show_retraining(document)
    with open_judgements(settings) as stores:
        (gate,) = find_gates(stores, {"gate_id": document.gate_id})
    if gate.comparisons:  # an incomplete judgement has none
        print("\n".join(tabulate(gate)), flush=True)
    return document


def tabulate(gate: GateDoc) -> Iterable[str]:
    """Lines of Markdown tables of what was judged: errors of the initial structures and both models, and harm."""
    interval = f"{gate.limits.confidence:.0%} interval"
    yield f"| compared on | pairs (groups) | initial, Å | incumbent, Å | challenger, Å | change | {interval} |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in filter(attrgetter("judged"), gate.comparisons):
        yield (
            f"| {row.name} | {row.n} ({row.n_groups or 'singly'}) | {row.identity:.4f} | {row.incumbent:.4f} | "
            f"{row.challenger:.4f} | {row.change:+.1%} | {row.low:+.1%} to {row.high:+.1%} |"
        )
    yield ""
    yield f"| served on | pairs | harmed by the incumbent | by the challenger | {interval} of difference | refused |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for harm in filter(attrgetter("judged"), gate.harm):
        yield (
            f"| {harm.name} | {harm.n} | {harm.incumbent:.1%} | {harm.challenger:.1%} | {harm.low:+.1%} to "
            f"{harm.high:+.1%} | {harm.incumbent_refused:.1%}, {harm.challenger_refused:.1%} |"
        )


def corrupt_pairs(settings: E3RelaxSettings) -> None:
    """Write the new pairs again, each with a relaxed lattice that is too long."""
    with open_pair_store(settings) as store:
        save_pairs(store, [stretch_pair(pair) for pair in iter_pairs(store, {"source": NEW, **CURRENT_PAIRS})])


def stretch_pair(pair: PairDoc) -> PairDoc:
    """The pair as a calculation with a wrong lattice constant would have given it."""
    relaxed = Structure(pair.relaxed.lattice.matrix * STRETCH, pair.relaxed.species, pair.relaxed.frac_coords)
    changes = {"relaxed": relaxed, "source": CORRUPTED, "origin_id": f"{CORRUPTED}-{pair.origin_id}"}
    stretched = pair.model_copy(update=changes)
    return stretched.model_copy(update={"pair_id": identify_pair(stretched)})


def show_history(settings: E3RelaxSettings) -> None:
    """Print what the alias has meant, and why."""
    alias = find_alias(ALIAS, settings)
    print(f"\nalias {ALIAS!r}")
    for move in alias.history if alias else []:
        print(f"  {'back to' if move.rollback else 'to'} {move.model_id}: {move.reason}")


def is_dft(engine: str) -> bool:
    return {info.name: info.is_dft for info in list_engines()}.get(engine, True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="chgnet", help="engine that relaxes; `e3relax doctor` lists them")
    parser.add_argument("--n", type=int, help="candidates (190; DFT engines: 8)")
    parser.add_argument("--n-common", type=int, help="common crystals, replayed and judged by (150; DFT engines: 0)")
    parser.add_argument("--max-atoms", type=int, help=f"of a candidate (any; DFT engines: {FEW_ATOMS})")
    parser.add_argument("--steps", type=int, help="of training (3,000; DFT engines: 200)")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="at its peak")
    parser.add_argument("--min-pairs", type=int, help="fewest pairs of a holdout or stratum that are judged (20)")
    parser.add_argument("--model", default="default", help="model in service: alias, name, id or folder")
    parser.add_argument("--out", type=Path, default=None, help="folder of everything (runs/retrain-ENGINE)")
    parser.add_argument("--quick", action="store_true", help="all of it in a minute, with numbers that mean little")
    arguments = parser.parse_args()
    usual = {"n": 190, "n_common": 150, "max_atoms": None, "steps": 3000, "min_pairs": 20}
    if is_dft(arguments.engine):
        usual |= {"n": 8, "n_common": 0, "max_atoms": FEW_ATOMS, "steps": 200}
    if arguments.quick:
        usual |= {"n": 8, "n_common": 6, "max_atoms": FEW_ATOMS, "steps": 60, "min_pairs": 2}
    for name, value in usual.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    ending = "-quick" if arguments.quick else ""
    arguments.out = arguments.out or Path(f"runs/retrain-{arguments.engine}{ending}")
    return arguments


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
