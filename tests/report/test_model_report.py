"""Pages of models and campaigns: exact values of figures and tables, escaping, what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_models import EVIL, make_campaign, make_evaluation, make_gate, make_model
from pymatgen.core import Element

from e3relax_flows.report.campaign_page import build_campaign_page, describe_lineage, draw_costs, draw_learning
from e3relax_flows.report.html import render_campaign_page, render_model_page
from e3relax_flows.report.model_figures import (
    average_by_element,
    count_coverage,
    draw_groups,
    draw_harm_bins,
    draw_known_elements,
    place_element,
)
from e3relax_flows.report.model_page import ModelDocuments, build_model_page
from e3relax_flows.report.pages import encode_json, pack, render_markdown


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href") and value[0] != "#"]

    def handle_data(self, data):
        self.texts.append(data)


def read(text: str) -> Texts:
    parser = Texts()
    parser.feed(text)
    return parser


def find_section(page, name):
    return next(section for section in page.sections if section.id == name)


def test_errors_by_source_are_means_over_pairs_with_a_prediction():
    (figure,) = draw_groups(make_evaluation(), "source", "by-source", "Error by source")
    alone, predicted = figure.data
    assert predicted["y"][0] == "mp (2)"
    assert predicted["x"] == [pytest.approx((0.15 + 0.3) / 2), pytest.approx(0.35)]
    assert alone["x"] == [pytest.approx(0.3), pytest.approx(0.4)]
    assert "&lt;script&gt;" in predicted["y"][1]
    empty = make_evaluation().model_copy(update={"rows": make_evaluation().rows[3:]})
    assert draw_groups(empty, "source", "by-source", "") == []


def test_errors_by_element_count_each_pair_for_each_of_its_elements():
    documents = make_model()
    elements = average_by_element(documents.evaluations[0], documents.systems)
    assert sorted(elements) == ["Fe", "La", "Mg", "O"]  # the pair with S has no prediction
    assert elements["O"].n == 3
    assert elements["O"].error == pytest.approx((0.15 + 0.3 + 0.35) / 3)
    assert elements["O"].ratio == pytest.approx((0.15 + 0.3 + 0.35) / (0.3 + 0.3 + 0.4))
    assert elements["Mg"].ratio == pytest.approx(0.5)
    assert average_by_element(documents.evaluations[0], {}) == {}


def test_the_periodic_table_has_its_shape():
    places = {place_element(Element.from_Z(number).symbol) for number in range(1, 104)}
    assert len(places) == 103
    assert place_element("H") == (0, 0)
    assert place_element("He") == (0, 17)
    assert place_element("Fe") == (3, 7)
    assert place_element("La") == (8, 2)
    assert place_element("Lu") == (8, 16)
    assert place_element("U") == (9, 5)
    (figure,) = draw_known_elements([8, 92])
    cells = figure.data[0]["z"]
    assert (cells[1][15], cells[9][5]) == (1.0, 1.0)
    assert sum(value is not None for row in cells for value in row) == 2


def test_calibration_is_checked_by_what_was_relaxed():
    trust = make_model().trust
    assert count_coverage(trust) == (2, 3)  # 0.12 and 0.15 lie within, 0.3 does not
    (figure,) = draw_harm_bins(trust)
    said, was = figure.data
    assert said["x"] == was["x"] == ["0 to 0.02", "0.2 to 0.4"]
    assert said["y"] == [0.01, 0.3]
    assert was["y"] == [0.0, 0.5]
    assert was["text"] == ["1", "2"]
    words = find_section(build_model_page(make_model()), "calibration").paragraphs
    assert words == ["3 of its predictions were relaxed since: the interval held the error of 67% of them."]


def test_a_model_without_documents_has_a_page():
    page = build_model_page(ModelDocuments("m", "bare", {"kind": "released"}))
    assert [section.id for section in page.sections] == [
        "errors",
        "chemistry",
        "calibration",
        "gates",
        "origin",
        "card",
    ]
    assert "not calibrated" in find_section(page, "calibration").paragraphs[0]
    assert "This model has no card." in render_model_page(ModelDocuments("m", "bare", {"kind": "released"}))
    known = replace(make_model(), evaluations=[], systems={})
    assert find_section(build_model_page(known), "chemistry").figures[0].title == "Elements of the training"


def test_the_page_of_a_model_is_escaped_and_loads_nothing():
    text = render_model_page(make_model())
    page = read(text)
    assert page.tags.count("h1") == 2  # its own, and the card's
    assert EVIL not in text
    assert "b" not in page.tags
    assert "img" not in page.tags
    assert [url for url in page.loads if url not in ("data:,", "https://example.org/x.png")] == []
    assert f"better by 10 % {EVIL}" in page.texts
    figures = json.loads(re.search(r'id="content">(.*?)</script>', text, re.DOTALL)[1])["figures"]
    assert sorted(figures) == ["by-family", "by-source", "elements", "expected", "harm-bins"]


def test_markdown_keeps_tables_and_no_html():
    assert "<td>1</td>" in render_markdown("| a |\n| --- |\n| 1 |")
    assert "<script" not in render_markdown("<script>alert(1)</script>")
    assert "href" not in render_markdown("[a](javascript:alert(1))")


def test_json_in_pages_cannot_end_a_script():
    value = {"</script>": ["<!--", "\u2028&", "ü"]}
    text = encode_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028") & set(text)
    assert "ü" in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        pack(float("nan"))


def test_the_learning_curve_begins_before_the_first_label():
    _, generations, _ = make_campaign()
    (figure,) = draw_learning(generations)
    served, alone, random, left = figure.data
    assert served["x"] == [0, 10, 20, 30]
    assert served["y"] == [0.1, 0.09, 0.08, 0.07]
    assert served["error_y"]["arrayminus"] == [0.01] * 4
    assert served["error_y"]["array"] == [0.02, 0.01, 0.01, 0.01]
    assert (alone["x"], alone["y"]) == ([0, 10, 20, 30], [0.3] * 4)
    assert (random["x"], random["y"]) == ([0, 10, 20], [0.15, 0.14, 0.13])  # before training on them
    assert random["error_y"]["array"] == [0.0] * 3  # of one there is no interval
    assert left["y"] == [0.4] * 3
    generations[2].conclude = None
    assert draw_learning(generations)[0].data[0]["x"] == [0, 10, 20]
    assert draw_learning([]) == []


def test_cost_and_lineage_of_a_campaign():
    campaign, generations, gates = make_campaign()
    hours, labels = draw_costs(generations)
    assert hours.data[0]["y"] == [12.5] * 3
    assert hours.data[1]["y"] == [None, 3.0, 3.0]
    assert [(trace["name"], trace["y"]) for trace in labels.data] == [("successful", [9] * 3), ("failed", [1] * 3)]
    assert describe_lineage(generations) == "m-1 → m-2 (generation 0) → m-4 (generation 2)"
    assert describe_lineage(generations[1:2]) == "m-2; nothing was promoted."
    page = build_campaign_page(campaign, generations, gates)
    assert [tile.value for tile in page.tiles] == ["new", "3", "27", "37.5", "0.0700"]
    assert page.tiles[-1].note == "-30.0% against the beginning"
    first = find_section(page, "generations").tables[0].rows[0]
    assert first[2:6] == ["2 random, 5 scored, 3 diverse", "9 / 1", "9", "0.0900 (0.0800 to 0.1000)"]
    assert first[6:] == ["0.1500", "promoted", "12.5", "–"]
    assert find_section(page, "cost").paragraphs == [
        "37.5 core hours of DFT and 0.75 h of training. Relaxations from predictions took 70% of the hours from "
        "initial structures."
    ]
    decisions = find_section(page, "gates").tables[0].rows
    assert [row[4] for row in decisions] == ["promote", "keep", "promote"]


def test_a_campaign_that_has_just_begun_has_a_page():
    campaign, _, _ = make_campaign()
    text = render_campaign_page(campaign, [], {})
    assert "No generation is concluded yet" in text
    assert "No challenger was judged yet." in text
    assert EVIL not in text
    begun = make_campaign(1)[1][0].model_copy(update={"conclude": None, "retrain": None, "label": None, "pairs": None})
    assert "10 scored" not in render_campaign_page(campaign, [begun], {"g-1": make_gate()})


@pytest.mark.parametrize("kind", ["model", "campaign"])
def test_pages_open_in_a_browser_at_any_width(kind, open_page, tmp_path):
    text = render_model_page(make_model()) if kind == "model" else render_campaign_page(*make_campaign())
    path = tmp_path / f"{kind}.html"
    path.write_text(text, encoding="utf-8")
    opened = open_page(path, width=390)
    figures = opened.page.locator("[data-figure]")
    for number in range(figures.count()):
        figures.nth(number).scroll_into_view_if_needed()
        figures.nth(number).locator(".main-svg").first.wait_for()
    assert figures.count() == (5 if kind == "model" else 3)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.check()
