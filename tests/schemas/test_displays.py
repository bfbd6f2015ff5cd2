"""Documents in a notebook: what is shown, and that no text of a document becomes markup."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from pymatgen.core import Lattice, Structure

from e3relax_flows.schemas.displays import Displayed, Summary, format_value, keep_known
from e3relax_flows.schemas.models import Comparison, Decision, GateDoc, GateLimits, ModelDoc
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, RelaxationResult, StartKind, StructureErrors
from e3relax_flows.schemas.predictions import Prediction, PredictionDoc, PredictOptions, Reason, Verdict
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, ScreenDoc

EVIL = "<script>alert('x')</script> & \"q\" | `code` [a](javascript:alert(1)) *b*"
CSCL = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


class Cells(HTMLParser):
    """Texts of cells in order, and tags."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def read(document) -> tuple[str, dict[str, str]]:
    parser = Cells()
    parser.feed(document._repr_html_())
    assert set(parser.tags) <= {"table", "caption", "tbody", "tr", "th", "td"}
    title, *rest = parser.texts
    return title, dict(zip(rest[::2], rest[1::2], strict=True))


def make_prediction(**changes) -> Prediction:
    fields = {
        "id": "cscl",
        "initial": CSCL,
        "structure": Structure(Lattice.cubic(70.0 ** (1 / 3)), CSCL.species, CSCL.frac_coords),
        "verdict": Verdict.REFUSE,
        "reasons": [Reason.HARM, Reason.VOLUME],
        "message": EVIL,
        "expected_error": 0.123456,
        "error_interval": (0.05, 0.4),
        "volume_ratio": 1.09375,
        "model_id": "m-1",
    }
    return Prediction(**(fields | changes))


def make_outcome() -> OutcomeDoc:
    result = RelaxationResult(
        initial=CSCL, relaxed=CSCL, energy=-7.25, n_ionic_steps=9, converged=True, code="CHGNet", is_dft=False
    )
    return OutcomeDoc(
        outcome_id="o",
        prediction_id="p",
        structure_id="s",
        id="cscl",
        model_id="m-1",
        engine="chgnet",
        engine_id="e",
        start_kind=StartKind.CONTROL,
        state=OutcomeState.SUCCESSFUL,
        result=result,
        initial_errors=StructureErrors(displacement=0.2, strain=0.1, volume=0.125),
        same_basin=True,
    )


def make_screen() -> ScreenDoc:
    rows = [CandidateRow(id=EVIL, state=state) for state in (CandidateState.FAILED, CandidateState.SUCCESSFUL)]
    more = {"on_refuse": "initial", "control": 0.5, "paired_controls": True, "seed": 0}
    return ScreenDoc(name=EVIL, engine="vasp", engine_id="e", model="default", candidates=[*rows, rows[1]], **more)


def make_model() -> ModelDoc:
    return ModelDoc(
        model_id="m-1",
        name="small",
        kind="e3relax_h2",
        weights_sha256="0",
        n_bytes=865_060,
        metrics={"oxides": {"displacement": 0.0921, "strain": 0.05}},
        created_at=datetime(2026, 11, 23, 4, 5, tzinfo=UTC),
    )


def make_gate() -> GateDoc:
    sums = {"n": 100, "challenger": 0.09, "incumbent": 0.1, "identity": 0.3}
    return GateDoc(
        gate_id="g",
        challenger_id="m-2",
        incumbent_id="m-1",
        holdout_id="h",
        decision=Decision.PROMOTE,
        reasons=["better by 10 %"],
        comparisons=[Comparison(name="all", change=-0.1, low=-0.15, high=-0.05, **sums)],
        limits=GateLimits(),
        n_looks=2,
    )


def test_a_prediction_shows_what_decides():
    title, facts = read(make_prediction())
    assert title == "cscl: refuse"
    assert facts["initial"] == "CsCl, 2 atoms, 64.00 Å³"
    assert facts["predicted"] == "CsCl, 2 atoms, 70.00 Å³"
    assert facts["reasons"] == "harm, volume"
    assert facts["message"] == EVIL
    assert facts["expected error, Å"] == "0.1235"
    assert facts["nine of ten lie in, Å"] == "0.05 to 0.4"
    assert facts["predicted / initial volume"] == "1.094"
    assert "strain" not in facts


def test_an_outcome_says_that_a_potential_is_not_dft():
    title, facts = read(make_outcome())
    assert title == "cscl: successful from control"
    assert facts["code"] == "CHGNet, not DFT"
    assert (facts["ionic steps"], facts["energy, eV"]) == ("9", "-7.25")
    assert facts["volume off, initial, %"] == "12.5"
    assert facts["predicted in the same basin"] == "yes"


def test_a_screen_counts_its_candidates():
    title, facts = read(make_screen())
    assert title == f"{EVIL}: finished"
    assert (facts["candidates"], facts["- successful"], facts["- failed"]) == ("3", "2", "1")


def test_a_model_shows_its_errors_and_a_gate_its_reasons():
    title, facts = read(make_model())
    assert title == "small: model m-1"
    assert facts["oxides"] == "displacement 0.0921, strain 0.05"
    assert facts["created"] == "2026-11-23 04:05 UTC"
    title, facts = read(make_gate())
    assert title == "gate g: promote"
    assert facts["reason 1"] == "better by 10 %"
    assert facts["all"] == "-10.0% (-15.0% to -5.0%), 100 pairs"


@pytest.mark.parametrize("document", [make_prediction(id=EVIL), make_screen()])
def test_markup_in_documents_stays_text(document):
    assert "<script" not in document._repr_html_()
    text = document._repr_markdown_()
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    tags = Cells()
    tags.feed(rendered)
    assert set(tags.tags) == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert EVIL in "".join(tags.texts)
    assert all(line.count("|") - line.count("\\|") == 3 for line in text.splitlines() if line.startswith("|"))


def test_printed_documents_are_one_line():
    text = str(make_prediction(message=None))
    assert text.startswith("cscl: refuse, initial CsCl, 2 atoms")
    assert "\n" not in text
    stored = PredictionDoc(**make_prediction().model_dump(), prediction_id="p", options=PredictOptions())
    assert read(stored) == read(make_prediction())


def test_values_as_texts():
    assert keep_known([("a", None), ("b", 0), ("c", ""), ("d", []), ("e", False)]) == [("b", "0"), ("e", "no")]
    assert format_value([1.23456, "x"]) == "1.235, x"
    with pytest.raises(NotImplementedError, match=r"^Bare .*summary"):
        type("Bare", (Displayed,), {})().summarize()
    assert Summary("t", []).title == "t"
