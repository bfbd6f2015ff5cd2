"""Documents of pairs, datasets, evaluations and campaigns in a notebook: what is shown of them."""

from __future__ import annotations

from datetime import UTC, datetime

from made_models import EVIL, make_campaign, make_evaluation
from pymatgen.core import Lattice, Structure

from e3relax_flows.schemas.campaigns import GenerationDoc
from e3relax_flows.schemas.datasets import DatasetDoc, HoldoutDoc
from e3relax_flows.schemas.displays import Displayed
from e3relax_flows.schemas.pairs import Freedom, PairDoc, PairStart

MOMENT = datetime(2026, 11, 23, 4, 5, tzinfo=UTC)


def read(document: Displayed) -> tuple[str, dict[str, str]]:
    assert "<script" not in document._repr_html_()
    title, facts = document.summarize()
    return title, dict(facts)


def test_an_evaluation_shows_means_beside_those_of_leaving_alone():
    title, facts = read(make_evaluation())
    assert title == "evaluation of model m-2"
    assert (facts["pairs"], facts["without prediction"], facts["refused"]) == ("4", "1", "0")
    assert facts["displacement, initial → predicted"] == "0.2167 → 0.2 Å"
    assert facts["strain, initial → predicted"] == "0.04667 → 0.02667"
    assert "volume, initial → predicted" not in facts  # no row has one


def test_a_campaign_and_its_generations():
    campaign, generations, _ = make_campaign()
    title, facts = read(campaign)
    assert title == f"oxides {EVIL}: new"
    assert (facts["pool"], facts["labels per generation"], facts["engine"]) == ("500", "10", "vasp")
    title, facts = read(generations[1])
    assert title == f"generation 1 of campaign {campaign.campaign_id}: conclude"
    assert [facts[name] for name in ("candidates chosen", "- scored", "- diverse", "- random")] == ["10", "5", "3", "2"]
    assert (facts["relaxations failed"], facts["relaxations successful"], facts["pairs"]) == ("1", "9", "9")
    assert facts["gate"] == "keep"
    assert facts["error, Å"] == "0.08 (0.07 to 0.09)"
    fresh = GenerationDoc(campaign_id="c", generation=0)
    assert read(fresh) == ("generation 0 of campaign c: not begun", {})


def test_a_pair_says_what_was_held_and_that_a_potential_is_not_dft():
    cells = [Structure(Lattice.cubic(a), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for a in (4.0, 4.1)]
    pair = PairDoc(
        pair_id="p", origin_id="o", id=EVIL, initial=cells[0], relaxed=cells[1], start_kind=PairStart.CONTROL,
        source="screen", functional="CHGNet", code="CHGNet", is_dft=False, free=Freedom(shape=False), formula="CsCl",
        chemical_system="Cl-Cs", prototype="AB_221_a_b", n_atoms=2,
    )  # fmt: skip
    title, facts = read(pair)
    assert title == f"{EVIL}: pair p"
    assert (facts["initial"], facts["relaxed"]) == ("CsCl, 2 atoms, 64.00 Å³", "CsCl, 2 atoms, 68.92 Å³")
    assert (facts["held"], facts["code"], facts["started from"]) == ("shape", "CHGNet, not DFT", "control")


def test_a_dataset_and_a_holdout_count():
    dataset = DatasetDoc(
        dataset_id="d", train=["a", "b"], val=["c"], group_by="prototype", val_fraction=0.1, created_at=MOMENT,
        sources={"mine": 2}, functionals={"PBE": 2}, n_quarantined=3,
    )  # fmt: skip
    title, facts = read(dataset)
    assert title == "dataset d"
    assert [facts[name] for name in ("train", "- mine", "- PBE", "val", "quarantined")] == ["2", "2", "2", "1", "3"]
    assert facts["created"] == "2026-11-23 04:05 UTC"
    holdout = HoldoutDoc(
        holdout_id="h", name="mine", group_by="prototype", groups=["x"], pair_ids=["a", "b"], fraction=0.25
    )
    title, facts = read(holdout)
    assert title == "mine: holdout h"
    assert (facts["pairs"], facts["groups by prototype"], facts["fraction of groups"]) == ("2", "1", "0.25")
