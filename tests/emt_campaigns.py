"""Small campaigns on alloys of fcc metals, labelled by effective medium theory, with a network trained in seconds."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import torch
from pymatgen.core import Lattice, Structure

from e3relax_flows.campaigns.control import resume_campaign, start_campaign
from e3relax_flows.campaigns.maker import CampaignMaker
from e3relax_flows.campaigns.register import register_campaign
from e3relax_flows.campaigns.store import find_campaign, load_generations, open_campaign_stores
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.model.files import save_model
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.pairs.dataset_store import open_dataset_stores, save_holdout
from e3relax_flows.pairs.datasets import freeze_holdout
from e3relax_flows.pairs.making import settle_relaxed
from e3relax_flows.pairs.store import iter_pairs, open_pair_store, save_pairs
from e3relax_flows.places.submission import Submission
from e3relax_flows.registry.aliases import promote
from e3relax_flows.registry.models import register_model
from e3relax_flows.schemas.campaigns import CampaignDoc, GenerationDoc
from e3relax_flows.schemas.datasets import PairFilter
from e3relax_flows.schemas.pairs import PairDoc, PairStart, identify_pair
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

TINY = {"n_layers": 1, "n_scalars": 8, "n_vectors": 4, "n_tensors": 2, "n_densities": 2, "n_hidden": 8, "n_radial": 6}
SYSTEMS = list(combinations(sorted(EMT_LATTICES), 2))
HELD, FREE = SYSTEMS[::4], [system for number, system in enumerate(SYSTEMS) if number % 4]
ALIAS, HOLDOUT = "serving", "held"
CONFIG: dict[str, Any] = {
    "name": "alloys",
    "inputs": ["none"],
    "engine": "chgnet",
    "labels": 4,
    "mix": {"scored": 0.5, "diverse": 0.3, "random": 0.2},
    "chunk_size": 8,
    "control": 0.5,
    "retraining": {
        "name": "alloys",
        "alias": ALIAS,
        "holdout": HOLDOUT,
        "replay": {"fraction": 0},
        "dataset": {"filter": {"dft_only": False}, "val_fraction": 0.3},
        "training": {
            "data": {"max_atoms": 64, "val_size": 20},
            "schedule": {"max_steps": 60, "learning_rate": 0.01, "warmup_steps": 5, "ema_decay": 0.8},
            "val_every": 20,
            "threads": 1,
        },
        "gate": {"n_resamples": 500, "min_stratum": 5},
    },
    "stop": {"labels": 8},
}


def make_alloy(first: str, second: str, scale: float) -> Structure:
    """An L1_2 alloy of three parts of the first, in a cell that is too large."""
    a = scale * (0.75 * EMT_LATTICES[first] + 0.25 * EMT_LATTICES[second])
    sites = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0, 0]]
    return Structure(Lattice.cubic(a), [first] * 3 + [second], sites)


def make_candidates() -> list[ReadItem]:
    """Twenty candidates of other systems than the holdout's; one of iron, which the engine cannot treat."""
    rng = np.random.default_rng(4)
    orders = [*FREE, *(system[::-1] for system in FREE[:4])]
    items = [
        ReadItem(f"{first}3{second}", make_alloy(first, second, float(rng.uniform(1.06, 1.14))), None)
        for first, second in orders
    ]
    iron = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.9), ["Fe"], [[0, 0, 0]])
    return [*items, ReadItem("iron", iron, None)]


def make_pair(system: tuple[str, str], number: int) -> PairDoc:
    """A pair relaxed by Vegard's rule."""
    rng = np.random.default_rng([number, *map(ord, "".join(system))])
    relaxed = make_alloy(*system, 1.0)
    initial = Structure(
        Lattice.cubic(relaxed.lattice.a * rng.uniform(1.06, 1.14)), relaxed.species, relaxed.frac_coords
    )
    pair = PairDoc(
        pair_id="",
        origin_id=f"{'-'.join(system)}-{number}",
        initial=initial,
        relaxed=settle_relaxed(initial, relaxed),
        start_kind=PairStart.RAW,
        source="screen",
        functional="EMT",
        code="EMT",
        is_dft=False,
        formula=initial.composition.reduced_formula,
        chemical_system=initial.chemical_system,
        prototype="A3B_221",
        n_atoms=len(initial),
    )
    return pair.model_copy(update={"pair_id": identify_pair(pair)})


def prepare(settings: E3RelaxSettings) -> str:
    """Known pairs, a frozen holdout, and an alias that means a network that was never trained; gives its id."""
    held = [make_pair(order, number) for system in HELD for order in (system, system[::-1]) for number in range(2)]
    known = [make_pair(system[::-1], number) for system in FREE for number in range(2)]
    with open_pair_store(settings) as pairs, open_dataset_stores(settings) as stores:
        save_pairs(pairs, [*held, *known])
        groups = sorted({pair.chemical_system for pair in held})
        wanted = PairFilter(dft_only=False)
        save_holdout(stores, freeze_holdout(iter_pairs(pairs), HOLDOUT, "chemical_system", groups, wanted))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        folder = save_model(settings.DATA_DIR / "models" / "untrained", E3RelaxH2.from_config(TINY), "for this test")
    register_model(folder, settings)
    promote(ALIAS, folder.model_id, "there is no other", settings=settings)
    return folder.model_id


def register(settings: E3RelaxSettings, **changes: Any) -> CampaignDoc:
    """Register a campaign with some entries of its configuration changed."""
    maker = CampaignMaker(config=CONFIG | changes, engine=EmtEngine())
    with open_campaign_stores(settings) as stores:
        return register_campaign(stores, maker, make_candidates(), settings)[0]


def run(settings: E3RelaxSettings, campaign_id: str) -> Submission:
    with open_campaign_stores(settings) as stores:
        campaign = find_campaign(stores, campaign_id)
        return start_campaign(stores, campaign, settings, "local", settings.DATA_DIR.parent / "run")


def resume(settings: E3RelaxSettings, campaign_id: str, **budgets: Any) -> Submission:
    with open_campaign_stores(settings) as stores:
        resume_campaign(stores, find_campaign(stores, campaign_id), **budgets)
    return run(settings, campaign_id)


def read(settings: E3RelaxSettings, campaign_id: str) -> tuple[CampaignDoc, list[GenerationDoc]]:
    with open_campaign_stores(settings) as stores:
        return find_campaign(stores, campaign_id), load_generations(stores, campaign_id)


def count_jobs(settings: E3RelaxSettings) -> Counter[str]:
    """Documents in the job store by the name of their job, those that were not replaced."""
    with open_job_store(settings) as jobs:
        return Counter(raw["name"] for raw in jobs.query({}, ["name", "output"]) if raw.get("output") is not None)


def list_labels(generations: list[GenerationDoc]) -> list[Any]:
    return [label for item in generations if item.label for label in item.label.labels]
