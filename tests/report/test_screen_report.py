"""Rows, funnel, medians and the HTML page of a screen with one candidate of every kind."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.data.outcomes import summarize_savings
from e3relax_flows.report.html import build_volume_chart, render_screen_page, write_screen_page
from e3relax_flows.report.tables import build_table, describe_medians, describe_savings
from e3relax_flows.schemas.outcomes import (
    OutcomeDoc,
    OutcomeState,
    RelaxationResult,
    StartKind,
    StructureErrors,
)
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Reason, Verdict
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, OutcomeRow, ScreenDoc

EVIL = "<script>alert('x')</script> & \"co\""


def rock_salt(a: float) -> Structure:
    """Primitive cell of cube edge `a`, of volume a³/4 with 2 atoms."""
    half = a / 2
    return Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), ["Mg", "O"], [[0] * 3, [0.5] * 3])


def predict(name: str, verdict: Verdict, a: float | None = 4.3) -> PredictionDoc:
    return PredictionDoc(
        id=name,
        initial=rock_salt(4.0),
        structure=rock_salt(a) if a else None,
        verdict=verdict,
        model_id="m" * 16,
        prediction_id=f"p-{name}",
        structure_id=f"s-{name}",
        options=PredictOptions(),
    )


def relax(name: str, kind: StartKind, steps: int, scf: int | None = None, a: float = 4.2) -> OutcomeDoc:
    return OutcomeDoc(
        outcome_id=f"o-{name}-{kind}",
        prediction_id=f"p-{name}",
        structure_id=f"s-{name}",
        model_id="m" * 16,
        engine="chgnet",
        engine_id="e",
        start_kind=kind,
        state=OutcomeState.SUCCESSFUL,
        result=RelaxationResult(
            initial=rock_salt(4.3),
            relaxed=rock_salt(a),
            n_ionic_steps=steps,
            n_electronic_steps=scf,
            converged=True,
            code="CHGNet",
            is_dft=False,
        ),
        initial_errors=StructureErrors(displacement=0.2, strain=0.1, volume=abs(4.0**3 / a**3 - 1)),
        prediction_errors=StructureErrors(displacement=0.05, strain=0.01, volume=abs(4.3**3 / a**3 - 1)),
    )


def list_candidate(
    name: str,
    state: CandidateState,
    verdict: Verdict,
    outcomes: tuple[OutcomeDoc, ...] = (),
    **more,
) -> CandidateRow:
    return CandidateRow(
        id=name,
        state=state,
        verdict=verdict,
        formula="MgO",
        prediction_id=f"p-{name}",
        model_id="m" * 16,
        outcomes=[OutcomeRow.from_outcome(doc) for doc in outcomes],
        **more,
    )


@pytest.fixture
def documents():
    predictions = [
        predict("pair", Verdict.ACCEPT),
        predict("single", Verdict.ACCEPT),
        predict("refused", Verdict.REFUSE, 9.0),
        predict("twin", Verdict.ACCEPT),
        predict(EVIL, Verdict.ERROR, None),
    ]
    outcomes = {
        "pair": (relax("pair", StartKind.CONTROL, 17), relax("pair", StartKind.PREDICTED, 5)),
        "single": (relax("single", StartKind.PREDICTED, 7, a=4.4),),
        "refused": (relax("refused", StartKind.INITIAL, 30),),
    }
    state = CandidateState.SUCCESSFUL
    candidates = [
        list_candidate("pair", state, Verdict.ACCEPT, outcomes["pair"]),
        list_candidate("single", state, Verdict.ACCEPT, outcomes["single"]),
        list_candidate("refused", state, Verdict.REFUSE, outcomes["refused"], reasons=[Reason.VOLUME]),
        list_candidate("twin", CandidateState.DUPLICATE, Verdict.ACCEPT, duplicate_of="pair"),
        list_candidate(
            EVIL, CandidateState.ERROR, Verdict.ERROR, reasons=[Reason.DISORDERED], message=f"site 3: {EVIL}"
        ),
    ]
    screen = ScreenDoc(
        name=f"screen {EVIL}",
        engine="chgnet",
        engine_id="e",
        model="default",
        on_refuse="initial",
        control=0.5,
        paired_controls=True,
        seed=1,
        candidates=candidates,
    )
    return screen, predictions, [doc for docs in outcomes.values() for doc in docs]


def test_row_joins_prediction_relaxation_and_control(documents):
    table = build_table(*documents)
    row = table.rows[0]
    assert row.initial_volume == pytest.approx(8.0)
    assert row.predicted_volume == pytest.approx(4.3**3 / 8)
    assert row.relaxed_volume == pytest.approx(4.2**3 / 8)
    assert (row.steps_from_predicted, row.steps_from_initial, row.initial_is_control) == (5, 17, True)
    assert (row.initial_displacement, row.predicted_displacement) == (0.2, 0.05)


def test_refused_candidate_shows_steps_from_the_initial_structure_but_is_no_control(documents):
    row = build_table(*documents).rows[2]
    assert (row.steps_from_predicted, row.steps_from_initial, row.initial_is_control) == (None, 30, False)
    assert row.note == "volume"


def test_funnel_and_refusals_count_every_candidate_once(documents):
    table = build_table(*documents)
    assert dict(table.funnel) == {
        "candidates": 5,
        "accepted": 3,
        "refused": 1,
        "no prediction": 1,
        "duplicates": 1,
        "relaxed": 3,
        "failed": 0,
    }
    assert sorted(table.refusals) == [("disordered", 1), ("volume", 1)]


def test_medians_are_of_accepted_and_relaxed_candidates_only(documents):
    medians = build_table(*documents).medians
    assert medians.n == 2
    assert medians.initial_volume == pytest.approx((1 - (4.0 / 4.2) ** 3 + 1 - (4.0 / 4.4) ** 3) / 2)
    assert medians.predicted_volume == pytest.approx(((4.3 / 4.2) ** 3 - 1 + 1 - (4.3 / 4.4) ** 3) / 2)
    assert "of 2 accepted candidates" in describe_medians(build_table(*documents))


def test_label_says_that_a_potential_is_not_dft(documents):
    screen, predictions, outcomes = documents
    assert build_table(screen, predictions, outcomes).engine_label == "CHGNet: a potential, not DFT"
    for doc in outcomes:
        doc.result.is_dft, doc.result.code, doc.result.functional = True, "GPAW", "PBE"
    assert build_table(screen, predictions, outcomes).engine_label == "GPAW (PBE)"
    assert build_table(screen, predictions, []).engine_label == "chgnet"


class Checker(HTMLParser):
    """Collects tags and whatever a page would load, and checks that tags are closed in order."""

    VOID = ("meta", "line", "circle", "br")

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop() == tag


def test_page_is_whole_escaped_and_loads_nothing(documents, tmp_path):
    screen, predictions, outcomes = documents
    table = build_table(screen, predictions, outcomes)
    path = write_screen_page(tmp_path / "deep" / "page.html", screen, table, f"saved 3 {EVIL}")
    text = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert checker.stack == []
    assert checker.loads == []
    assert "script" not in checker.tags
    assert EVIL not in text
    assert text.count("&lt;script&gt;") == 5  # title twice, id and note of the row, savings
    assert "CHGNet: a potential, not DFT" in text
    assert "30†" in text
    assert "17†" not in text
    assert "SCF steps" not in text


def test_page_has_scf_columns_only_where_the_code_counts_them(documents):
    screen, predictions, outcomes = documents
    outcomes[1].result.n_electronic_steps = 61
    screen.candidates[0].outcomes = [OutcomeRow.from_outcome(doc) for doc in outcomes[:2]]
    text = render_screen_page(screen, build_table(screen, predictions, outcomes), "")
    assert "SCF steps" in text
    assert "<td>61</td>" in text


def test_chart_places_the_relaxed_volume_at_zero(documents):
    table = build_table(*documents)
    chart = build_volume_chart(table.rows)
    (zero,) = [tick.x for tick in chart.ticks if tick.zero]
    assert [row.name for row in chart.rows] == ["pair", "single"]
    pair = chart.rows[0]
    assert pair.initial < zero < pair.predicted
    # positions are proportional to V / V_relaxed - 1
    ratio = (pair.predicted - zero) / (pair.initial - zero)
    assert ratio == pytest.approx(((4.3 / 4.2) ** 3 - 1) / ((4.0 / 4.2) ** 3 - 1), rel=0.01)
    assert build_volume_chart([]).rows == []


def test_report_does_not_import_torch():
    code = "import sys, e3relax_flows.report.html; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_savings_of_pairs_have_a_ratio_and_say_what_is_not_dft(documents):
    outcomes = documents[2]
    text = describe_savings(summarize_savings(outcomes))
    assert "took 29% of the ionic steps" in text  # 5 of 17
    assert "(too few for an interval: 1 pair)" in text
    assert "1 refused prediction relaxed from the initial structure" in text
    assert text.endswith("steps of a potential, not of DFT.")


def test_without_controls_no_saving_is_claimed(documents):
    outcomes = [doc for doc in documents[2] if doc.start_kind == StartKind.PREDICTED]
    assert describe_savings(summarize_savings(outcomes)).startswith("No control")
    control = documents[2][0].model_copy(update={"structure_id": "another"})
    text = describe_savings(summarize_savings([*outcomes, control]))
    assert text.startswith("6 ionic steps (median of 2) from the predicted structure, 17 ionic steps (median of 1)")
    assert "%" not in text


def test_interval_is_told_from_five_pairs_on():
    steps = [(4, 10), (5, 12), (6, 20), (7, 9), (5, 15)]
    pairs = [
        doc.model_copy(update={"structure_id": f"s-{i}"})
        for i, (predicted, control) in enumerate(steps)
        for doc in (relax("x", StartKind.PREDICTED, predicted), relax("x", StartKind.CONTROL, control))
    ]
    assert "(too few for an interval: 4 pairs)" in describe_savings(summarize_savings(pairs[:8]))
    text = describe_savings(summarize_savings(pairs))
    assert "took 41% of the ionic steps" in text  # 27 of 66
    low, high = map(int, re.search(r"95 % interval (\d+)% to (\d+)%, 5 pairs", text).groups())
    assert 25 <= low < 41 < high <= 80
