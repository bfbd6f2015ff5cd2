"""Rows, funnel, medians and the HTML page of a screen with one candidate of every kind."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from made_screen import EVIL, make_documents, relax
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.ledger.savings import summarize_savings
from e3relax_flows.report.candidate_pages import CommandBook, describe_elements, pack_structure
from e3relax_flows.report.html import render_screen_page, write_screen_page
from e3relax_flows.report.screen_figures import MAX_LOG_LABELS, Points, lay_log_axis, thin_points
from e3relax_flows.report.screen_page import ScreenDocuments
from e3relax_flows.report.tables import build_table, describe_medians, describe_savings
from e3relax_flows.schemas.outcomes import (
    StartKind,
)
from e3relax_flows.schemas.predictions import GuardLimits, PredictOptions, SecondOpinion
from e3relax_flows.schemas.screens import CandidateState, OutcomeRow, ScreenConfig


@pytest.fixture
def documents():
    return make_documents()


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
    """Collects tags, texts and whatever a page would load, and checks that tags are closed in order."""

    VOID = ("meta", "link", "br", "input")

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.loads, self.cells, self.scripts = [], [], [], [], {}

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href") and value[0] != "#"]
        if tag not in self.VOID:
            self.stack.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1][0] == "script" and "id" in self.stack[-1][1]:
            name = self.stack[-1][1]["id"]
            self.scripts[name] = self.scripts.get(name, "") + data
        elif self.stack and self.stack[-1][0] in ("td", "dd", "p", "title"):
            self.cells.append(data)


def read_page(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.stack == []
    return checker


def unpack(text: str):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def collect(documents) -> ScreenDocuments:
    _, predictions, outcomes = documents
    limits = {"m" * 16: {None: 0.08, "CHGNet-0.3.0": 0.06}}
    return ScreenDocuments(
        {doc.prediction_id: doc for doc in predictions}, {doc.outcome_id: doc for doc in outcomes}, limits
    )


def test_page_is_whole_escaped_and_loads_nothing(documents, tmp_path):
    screen, predictions, outcomes = documents
    table = build_table(screen, predictions, outcomes)
    path = write_screen_page(tmp_path / "deep" / "page.html", screen, table, f"saved 3 {EVIL}", collect(documents))
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    text = path.read_text(encoding="utf-8")
    page = read_page(text)
    assert page.loads == ["data:,"]  # no icon
    assert EVIL not in text
    assert "alert" not in page.tags
    assert f"screen {EVIL}" in page.cells
    assert f"saved 3 {EVIL}" in page.cells
    assert "Relaxed with CHGNet: a potential, not DFT." in page.cells
    assert json.loads(page.scripts["content"])["candidates"]["rows"][-1][0] == EVIL
    assert unpack(page.scripts["chunk-0"])[-1]["message"] == f"site 3: {EVIL}"


def test_page_without_documents_has_the_rows(documents):
    screen = documents[0]
    page = read_page(render_screen_page(screen, build_table(screen, [], []), ""))
    content = json.loads(page.scripts["content"])
    assert [row[0] for row in content["candidates"]["rows"]] == ["pair", "single", "refused", "twin", EVIL]
    assert unpack(page.scripts["chunk-0"])[0]["structures"] == []
    assert sorted(content["figures"]) == ["funnel", "refusals"]


def test_values_of_a_candidate(documents):
    screen, predictions, outcomes = documents
    content = read_content(documents)
    names = [column["id"] for column in content["candidates"]["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in content["candidates"]["rows"]]
    assert rows[0]["id"] == "pair"
    assert (rows[0]["steps"], rows[0]["control"], rows[0]["atoms"]) == (5, 17, 2)
    assert rows[0]["volume"] == round(4.3**3 / 8, 3)
    assert rows[0]["relaxed"] == round(4.2**3 / 8, 3)
    assert (rows[0]["initial_off"], rows[0]["predicted_off"]) == (0.2, 0.05)
    assert "scf" not in names
    outcomes[1].result.n_electronic_steps = 61
    screen.candidates[0].outcomes = [OutcomeRow.from_outcome(doc) for doc in outcomes[:2]]
    content = read_content((screen, predictions, outcomes))
    names = [column["id"] for column in content["candidates"]["columns"]]
    assert content["candidates"]["rows"][0][names.index("scf")] == 61


def test_candidates_of_one_formula_are_ranked_by_energy_and_figures_follow(documents):
    screen, _, outcomes = documents
    for doc, energy in zip(outcomes, (-10.0, -10.2, -11.0, -9.0), strict=True):  # pair twice, single, refused
        doc.result.energy = energy
    for row in screen.candidates[:3]:
        row.outcomes = [OutcomeRow.from_outcome(doc) for doc in outcomes if doc.prediction_id == row.prediction_id]
    content = read_content(documents)
    names = [column["id"] for column in content["candidates"]["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in content["candidates"]["rows"]]
    assert [row["id"] for row in rows[:3]] == ["single", "pair", "refused"]
    assert [row["above"] for row in rows] == [0.0, 0.4, 1.0, None, None]
    assert [row["energy"] for row in rows[:3]] == [-5.5, -5.1, -4.5]
    (predicted,) = [trace for trace in content["figures"]["parity-volume"]["data"] if trace["name"] == "predicted"]
    assert dict(zip(predicted["text"], predicted["customdata"], strict=True)) == {"single": 0, "pair": 1, "refused": 2}
    assert predicted["x"][0] == round(4.4**3 / 8, 4)
    assert predicted["y"][0] == round(4.3**3 / 8, 4)
    (initial,) = [trace for trace in content["figures"]["parity-lengths"]["data"] if trace["name"] == "initial"]
    assert initial["y"][:3] == [round(4 / 2**0.5, 4)] * 3
    assert initial["text"][:3] == ["single, a", "single, b", "single, c"]


def test_errors_stand_against_score_and_risk_with_the_threshold(documents):
    predictions = documents[1]
    for doc, score, harm in zip(predictions[:3], (0.01, 0.02, 0.3), (0.02, 0.05, 0.7), strict=True):
        doc.score, doc.harm_probability = score, harm
    figures = read_content(documents)["figures"]
    accepted, refused = figures["scores"]["data"]
    assert (accepted["name"], refused["name"]) == ("accepted", "refused")
    assert accepted["x"] == [0.01, 0.02]
    assert accepted["y"] == [0.075, 0.075]  # 0.05 Å + 2.5 Å x 0.01
    assert refused["x"] == [0.3]
    assert figures["scores"]["layout"]["shapes"] == []
    assert figures["harm"]["data"][0]["y"] == [round(0.075 / 0.45, 4)] * 2
    limits = [shape["x0"] for shape in figures["harm"]["layout"]["shapes"] if shape["x0"] == shape["x1"]]
    assert limits == [0.08]
    predictions[0].second_opinion = SecondOpinion(potential="CHGNet-0.3.0", energy_change=-0.1)
    predictions[1].second_opinion = SecondOpinion(potential="CHGNet-0.3.0", message="failed")  # the guard judged alone
    shapes = read_content(documents)["figures"]["harm"]["layout"]["shapes"]
    assert [shape["x0"] for shape in shapes if shape["x0"] == shape["x1"]] == [0.06, 0.08]
    for doc in predictions:
        doc.options = PredictOptions(guards=GuardLimits(max_harm=0.3, max_score=0.2))
    figures = read_content(documents)["figures"]
    assert figures["scores"]["layout"]["shapes"][0]["x0"] == 0.2
    assert [shape["x0"] for shape in figures["harm"]["layout"]["shapes"] if shape["x0"] == shape["x1"]] == [0.3]


def test_histograms_share_their_bins_and_count_everyone(documents):
    initial, predicted = read_content(documents)["figures"]["displacements"]["data"]
    assert initial["x"] == predicted["x"]
    assert (sum(initial["y"]), sum(predicted["y"])) == (3, 3)
    assert initial["y"][-1] == 3  # 0.2 Å, the largest
    assert predicted["y"][10] == 3  # 0.05 Å of 0.2 Å in 40 bins
    assert predicted["x"][10] == pytest.approx(0.0525)


def test_savings_figure_has_the_ratio_of_the_pairs(documents):
    (trace,) = read_content(documents)["figures"]["savings-ratio"]["data"]
    assert trace["x"] == [round(100 * 5 / 17, 2)]
    assert trace["y"] == ["ionic steps"]
    assert trace["error_x"]["array"] == [0.0]  # one pair has no interval


def test_structures_are_kept_to_a_hundred_thousandth_of_the_cell():
    structure = Structure(Lattice.hexagonal(3.19005, 5.19), ["Al", "N"], [[1 / 3, 2 / 3, -0.25], [0, 0, 0.999999]])
    packed = pack_structure("initial", structure, "as given")
    assert packed["sites"] == [33333, 66667, -25000, 0, 0, 100000]
    assert packed["lattice"] == pytest.approx(list(structure.lattice.matrix.ravel()), abs=5e-5)
    assert (packed["labels"], packed["kinds"]) == (["Al", "N"], [0, 1])
    mixed = Structure(Lattice.cubic(3.0), [{"Fe": 0.5, "Co": 0.5}], [[0, 0, 0]])
    label = pack_structure("initial", mixed, "")["labels"][0]
    elements = describe_elements([label, "Fe"])
    assert elements[label]["metal"]
    assert elements["Fe"]["color"] == "#e06633"  # Jmol's
    assert elements["Fe"]["radius"] == pytest.approx(1.32, abs=0.2)


def test_many_points_are_thinned_and_the_worst_kept():
    values = [float(i) for i in range(5000)]
    off = [value + (1000.0 if value == 4321 else 0.0) for value in values]
    points = thin_points(Points(values, off, [str(i) for i in range(5000)], list(range(5000))))
    assert 1900 <= len(points.x) <= 2000
    assert 4321 in points.rows
    assert points.rows == sorted(points.rows)
    assert [points.names[place] for place in (0, -1)] == [str(points.rows[0]), str(points.rows[-1])]


def test_funnel_counts_states_on_the_way(documents):
    screen = documents[0]
    screen.candidates[3].state = CandidateState.PLANNED
    assert dict(build_table(*documents).funnel)["planned"] == 1


def test_a_page_is_not_written_over_a_folder(documents, tmp_path):
    screen = documents[0]
    with pytest.raises(ConfigError, match=rf"{tmp_path} .*{tmp_path}/report\.html"):
        write_screen_page(tmp_path, screen, build_table(*documents), "")
    assert list(tmp_path.iterdir()) == []


def read_content(documents):
    screen, predictions, outcomes = documents
    text = render_screen_page(screen, build_table(screen, predictions, outcomes), "", collect(documents))
    return json.loads(read_page(text).scripts["content"])


def test_savings_of_pairs_have_a_ratio_and_say_what_is_not_dft(documents):
    outcomes = documents[2]
    text = describe_savings(summarize_savings(outcomes))
    assert "took 29% of the ionic steps" in text  # 5 of 17
    assert "(too few for an interval: 1 pair)" in text
    assert "1 refused prediction relaxed from the initial structure" in text
    assert text.endswith("steps of a potential, not of DFT.")


def test_the_page_lists_what_every_arm_saved_and_shows_polished_structures(documents):
    screen, predictions, outcomes = documents
    interval = "(too few for an interval: 1 pair)"
    page = read_page(render_screen_page(screen, build_table(*documents), "", collect(documents)))
    assert f"29% {interval}" not in page.cells  # the sentence on savings has what there is of one start
    predictions[0].polished, predictions[0].n_polish_steps = predictions[0].structure.copy(), 7
    more = [relax("pair", StartKind.POLISHED, 3, 30), relax("refused", StartKind.PREDICTED, 45)]
    for number, doc in ((0, more[0]), (2, more[1])):
        screen.candidates[number].outcomes.append(OutcomeRow.from_outcome(doc))
    whole = (screen, predictions, [*outcomes, *more])
    page = read_page(render_screen_page(screen, build_table(*whole), "", collect(whole)))
    for cells in (
        ("predicted", "initial", f"29% {interval}"),
        ("polished", "initial", f"18% {interval}"),  # 3 of 17
        ("polished", "predicted", f"60% {interval}"),
        ("predicted, though refused", "initial", f"150% {interval}"),
    ):
        assert any(tuple(page.cells[start : start + 3]) == cells for start in range(len(page.cells)))
    content = read_content(whole)
    names = [column["id"] for column in content["candidates"]["columns"]]
    row = dict(zip(names, content["candidates"]["rows"][0], strict=True))
    assert (row["polished"], row["steps"], row["control"], row["scf_polished"]) == (3, 5, 17, 30)
    structures = unpack(page.scripts["chunk-0"])[0]["structures"]
    assert [one["name"] for one in structures] == ["initial", "predicted", "polished", "relaxed"]
    assert structures[2]["note"].endswith("7 steps of a potential")


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


@pytest.mark.parametrize(
    ("settings", "expected"), [({"fmax": 0.05}, {"fmax": 0.05}), ({}, {}), (None, "not recorded, as the engine was")]
)
def test_the_command_repeats_the_settings_of_the_engine(documents, settings, expected):
    screen, (prediction, *_), _ = documents
    book = CommandBook()
    number, name = book.note(screen.model_copy(update={"engine_settings": settings}), prediction)
    (text,) = (text for text, place in book.templates.items() if place == number)
    assert name == "p-pair"
    config = text.split("yaml <<'END'\n")[1].split("END\n")[0]
    if settings is None:
        assert expected in config
    else:
        assert yaml.safe_load(config)["engine_settings"] == expected
    assert ScreenConfig.model_validate(yaml.safe_load(config)).engine == "chgnet"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.03, 0.2], [0.05, 0.1, 0.2]),
        ([0.0002, 0.02], [0.0003, 0.001, 0.003, 0.01]),
        ([1e-5, 0.7], [1e-5, 1e-4, 1e-3, 1e-2, 0.1]),
        ([0.0, 1.0], [1.0]),
    ],
)
def test_labels_of_a_logarithmic_axis_have_room(values, expected):
    inside = [tick for tick in lay_log_axis(values)["tickvals"] if min(filter(None, values)) <= tick <= max(values)]
    assert inside == pytest.approx(expected, rel=1e-9)
    assert len(inside) <= MAX_LOG_LABELS
