"""The page of a screen in a real browser, without a network: search, sort, open a candidate, turn its structures."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from made_screens import make_screen

from e3relax_flows.report.html import write_screen_page
from e3relax_flows.report.screen_page import ScreenDocuments
from e3relax_flows.report.tables import build_table

N_CANDIDATES = 120
LIMIT_MB = 20.0
EVIL = "</script><script>alert('x')</script> \"q\" <img src=x onerror=alert(1)> ü–λ \u2028 #/%&"


def write(path: Path, screen, documents: ScreenDocuments) -> Path:
    table = build_table(screen, documents.predictions.values(), documents.outcomes.values())
    return write_screen_page(path, screen, table, "", documents)


@pytest.fixture(scope="module")
def made():
    return make_screen(N_CANDIDATES)


@pytest.fixture(scope="module")
def file(made, tmp_path_factory):
    return write(tmp_path_factory.mktemp("pages") / "screen.html", *made)


def list_names(page) -> list[str]:
    return page.locator("#candidate-table tbody td.name").all_inner_texts()


def list_column(page, name: str) -> list[str]:
    place = page.locator("#candidate-table th").all_inner_texts().index(name)
    return page.locator(f"#candidate-table tbody td:nth-child({place + 1})").all_inner_texts()


def test_search_and_filter(open_page, file, made):
    opened = open_page(file)
    page, rows = opened.page, made[0].candidates
    assert len(list_names(page)) == 50
    assert page.inner_text("#found") == f"{N_CANDIDATES} of {N_CANDIDATES} candidates"
    page.fill("#search", "00017")
    assert list_names(page) == [rows[17].id]
    page.fill("#search", "")
    page.select_option("#state", "failed")
    failed = [row.id for row in rows if row.state == "failed"]
    assert 1 < len(failed) < N_CANDIDATES
    assert sorted(list_names(page)) == sorted(failed)
    page.fill("#search", "nowhere to be found")
    assert page.inner_text("#found") == f"0 of {N_CANDIDATES} candidates"
    assert list_names(page) == []
    opened.check()


def test_sort_both_ways_with_what_has_no_value_last(open_page, file, made):
    opened = open_page(file)
    page, rows = opened.page, made[0].candidates
    page.click("#candidate-table th button:has-text('score')")
    expected = sorted(rows, key=lambda row: row.score)
    assert list_names(page) == [row.id for row in expected[:50]]
    assert page.get_attribute("#candidate-table th:has-text('score')", "aria-sort") == "ascending"
    page.click("#later")
    page.click("#later")
    assert list_names(page) == [row.id for row in expected[100:]]
    assert page.is_disabled("#later")
    page.click("#candidate-table th button:has-text('score')")
    assert list_names(page) == [row.id for row in expected[::-1][:50]]
    page.click("#candidate-table th button:has-text('steps, initial')")
    while not page.is_disabled("#later"):
        page.click("#later")
    assert list_column(page, "steps, initial")[-1] == "–"
    page.select_option("#order", label="atoms ↓")
    atoms = sorted((len(doc.initial) for doc in made[1].predictions.values()), reverse=True)
    assert list_column(page, "atoms") == [str(count) for count in atoms[:50]]
    opened.check()


def test_a_candidate_opens_with_three_structures_that_turn_together(open_page, file):
    opened = open_page(file)
    page = opened.page
    name = list_names(page)[2]
    page.click("#candidate-table tbody tr:nth-child(3) a")
    page.wait_for_selector("dialog[open][data-ready]")
    assert page.inner_text("#candidate-title") == name
    assert page.evaluate("decodeURIComponent(location.hash)") == f"#candidate/{name}"
    scenes = page.locator(".scene").evaluate_all("nodes => nodes.map(node => node.dataset.scene)")
    assert scenes == ["initial", "predicted", "relaxed"]
    page.wait_for_timeout(500)
    before = read_cameras(page)
    assert before[0] == before[1] == before[2]
    box = page.locator(".scene").nth(1).bounding_box()
    page.mouse.move(box["x"] + 120, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 170, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    turned = read_cameras(page)
    assert abs(turned[1]["x"] - before[1]["x"]) > 0.05
    assert turned[0] == pytest.approx(turned[1], abs=1e-6)
    assert turned[2] == pytest.approx(turned[1], abs=1e-6)
    page.focus(".scene")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    assert abs(read_cameras(page)[0]["x"] - turned[0]["x"]) > 0.01
    page.click("text=Reset view")
    page.wait_for_timeout(300)
    assert read_cameras(page)[2] == pytest.approx(before[2])
    opened.check()


def read_cameras(page) -> list[dict[str, float]]:
    return page.evaluate(
        "[...document.querySelectorAll('.scene')].map(n => n._fullLayout.scene._scene.getCamera().eye)"
    )


def test_the_atoms_that_are_drawn_are_those_of_the_structure(open_page, file, made):
    screen, documents = made
    row = screen.candidates[5]
    relaxed = documents.predictions[row.prediction_id].initial
    opened = open_page(file, f"#candidate/{quote(row.id)}")
    opened.page.wait_for_selector("dialog[data-ready]")
    drawn = opened.page.evaluate(
        "document.querySelector('.scene').data.filter(trace => trace.type === 'mesh3d')"
        ".map(trace => [trace.name, new Set(trace.text).size])"
    )
    assert dict(drawn) == {str(element): int(count) for element, count in relaxed.composition.items()}
    text = opened.page.inner_text("#candidate-body")
    assert row.prediction_id in text
    assert f"{relaxed.lattice.a:.4f}" in text
    assert "e3relax screen" in opened.page.inner_text("#command")
    opened.check()


def test_keys_alone_open_walk_and_close(open_page, file):
    opened = open_page(file)
    page = opened.page
    names = list_names(page)
    page.focus("#candidate-table tbody a")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[data-ready]")
    page.keyboard.press("n")
    page.wait_for_selector(f"dialog[data-ready='{names[1]}']")
    page.keyboard.press("p")
    page.wait_for_selector(f"dialog[data-ready='{names[0]}']")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")
    assert page.evaluate("location.hash") == "#candidates"
    opened.check()


def test_a_point_of_a_figure_opens_its_candidate(open_page, file):
    opened = open_page(file)
    page = opened.page
    page.locator("[data-figure='parity-volume']").scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure='parity-volume'] .points path")
    row, name = page.evaluate(
        "(() => { const t = document.querySelector(\"[data-figure='parity-volume']\").data[1];"
        " return [t.customdata[3], t.text[3]]; })()"
    )
    click = "row => document.querySelector(\"[data-figure='parity-volume']\").emit('plotly_click', {points: [row]})"
    page.evaluate(click, {"customdata": row})
    page.wait_for_selector("dialog[data-ready]")
    assert page.inner_text("#candidate-title") == name
    opened.check()


def test_every_figure_is_drawn_in_light_and_dark(open_page, file):
    opened = open_page(file, scheme="dark")
    page = opened.page
    assert read_brightness(page) < 60
    figures = page.locator("[data-figure]")
    for number in range(figures.count()):
        figures.nth(number).scroll_into_view_if_needed()
        figures.nth(number).locator(".main-svg").first.wait_for()
    assert figures.count() == 8
    page.click("#theme")  # light
    assert read_brightness(page) > 200
    page.wait_for_timeout(300)
    color = page.evaluate("document.querySelector(\"[data-figure='funnel']\")._fullLayout.font.color")
    assert color == "#1b2329"
    opened.check()


def read_brightness(page) -> float:
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(float, color[color.index("(") + 1 : -1].split(",")[:3])) / 3


def test_nothing_is_wider_than_a_phone(open_page, file):
    opened = open_page(file, width=390)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.page.click("#candidate-table tbody a >> nth=0")
    opened.page.wait_for_selector("dialog[data-ready]")
    assert opened.page.evaluate("document.getElementById('candidate').scrollWidth") <= 390
    opened.check()


def test_texts_of_documents_never_become_markup(open_page, tmp_path):
    screen, documents = make_screen(3, n_atoms=4)
    screen.name = f"screen {EVIL}"
    row = screen.candidates[1]
    row.id = row.message = EVIL
    prediction = documents.predictions[row.prediction_id]
    prediction.id, prediction.job_uuid, prediction.message = EVIL, EVIL, None
    opened = open_page(write(tmp_path / "evil.html", screen, documents), f"#candidate/{quote(EVIL)}")
    page = opened.page
    page.wait_for_selector("dialog[data-ready]")
    assert page.evaluate("document.getElementById('candidate-title').textContent") == EVIL
    assert page.locator("h1").text_content() == f"screen {EVIL}"
    assert page.locator("#candidate-body .notice").text_content() == EVIL
    assert EVIL in page.locator("#candidate-body .facts").nth(1).text_content()
    assert page.locator("img").count() == 0
    page.click("#close")
    page.fill("#search", "onerror")
    assert page.locator("#candidate-table tbody td.name").all_text_contents() == [EVIL]
    page.locator("[data-figure='parity-volume']").scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure='parity-volume'] .points path")
    page.locator("[data-figure='parity-volume'] .points path").first.hover(force=True)
    page.wait_for_timeout(300)
    opened.check()


def test_a_page_can_fetch_nothing(open_page, file):
    """Even what would ask for something: the browser itself refuses."""
    page = open_page(file).page
    ask = """url => new Promise(resolve => {
        addEventListener('securitypolicyviolation', event => resolve(event.violatedDirective));
        fetch(url).then(() => resolve('fetched'), () => setTimeout(() => resolve('failed'), 1000));
    })"""
    assert page.evaluate(ask, "https://example.org/") == "connect-src"
    assert page.evaluate(ask, "data:text/plain,here") == "fetched"


def test_5000_candidates_stay_below_20_mb(made, file, tmp_path):
    """Every candidate is packed on its own hundred, so that pages grow by the candidate."""
    none, nothing = make_screen(0)
    fixed = write(tmp_path / "none.html", none, nothing).stat().st_size
    each = (file.stat().st_size - fixed) / N_CANDIDATES
    assert sum(len(doc.initial) for doc in made[1].predictions.values()) / N_CANDIDATES > 15  # as large as real ones
    assert (fixed + 5000 * each) / 1e6 < LIMIT_MB
