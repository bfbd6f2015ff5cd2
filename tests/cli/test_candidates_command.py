"""`e3relax candidates`, `e3relax table`, and sources and ranking in the configuration of a screen."""

from __future__ import annotations

import csv
import gzip
import json

import pytest
import yaml
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from e3relax_flows.candidates.reading import read_structures
from e3relax_flows.cli.config_files import load_candidates_config, load_screen_config
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.engines import register_engine
from e3relax_flows.ledger.store import find_outcomes, open_stores
from e3relax_flows.testing import EMT_ENTRY, EMT_LATTICES

METALS = ("Cu", "Ag", "Au")


@pytest.fixture
def folder(tmp_path):
    """Three strained metals as files, one of them twice, and a configuration beside them."""
    (tmp_path / "metals").mkdir()
    for name, element, repeat in (*((metal, metal, 1) for metal in METALS), ("Cu_double", "Cu", 2)):
        half = EMT_LATTICES[element] * 1.03 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        structure = Structure(lattice, [element], [[0, 0, 0]]) * (1, 1, repeat)
        structure.to_file(str(tmp_path / "metals" / f"{name}.cif"))
    (tmp_path / "values.csv").write_text("id,value\nAu,1\nAg,2\nCu,3\n")
    config = {
        "inputs": ["metals"],
        "sources": [
            {
                "type": "substitution",
                "parents": [{"type": "files", "paths": ["metals/Cu.cif"]}],
                "exchanges": [{"Cu": ["Ni", "Pd"]}],
            }
        ],
        "ranking": {"by": "table", "file": "values.csv"},
    }
    (tmp_path / "candidates.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_a_list_is_written_ranked_and_read_again(e3relax, folder):
    out = folder / "lists" / "all.jsonl.gz"
    result = e3relax("candidates", folder / "candidates.yaml", "-o", out, "--duplicates", folder / "twins.csv")
    assert result.code == 0
    assert "6 read: 5 candidates, 0 identical, 1 the same crystal, 0 unreadable. 3 ranked." in result.stdout
    items = list(read_structures([out]))
    assert [item.id for item in items] == ["Au", "Ag", "Cu", "Ni from Cu", "Pd from Cu"]
    assert all(item.error is None for item in items)
    with gzip.open(out, "rt") as stream:
        assert [json.loads(line).get("score") for line in stream] == [1, 2, 3, None, None]
    with (folder / "twins.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [{"id": "Cu_double", "kept": "Cu", "how": "structure"}]

    limited = e3relax("candidates", folder / "candidates.yaml", "-o", out, "--limit", 2, "--no-compare", "--json")
    assert json.loads(limited.stdout) == {
        "read": 6, "unreadable": 0, "equal_ids": 0, "equal_structures": 0, "candidates": 6, "scored": 3, "written": 2,
        "out": str(out),
    }  # fmt: skip
    assert [item.id for item in read_structures([out])] == ["Au", "Ag"]


def test_a_dry_run_counts_and_writes_nothing(e3relax, folder):
    (folder / "metals" / "broken.cif").write_text("not a crystal")
    before = sorted(folder.rglob("*"))
    result = e3relax("candidates", folder / "metals", "--dry-run", "--json", "-o", folder / "x.jsonl")
    assert result.code == 1
    counts = json.loads(result.stdout)
    assert (counts["read"], counts["unreadable"], counts["candidates"], counts["written"]) == (5, 1, 3, 0)
    assert "broken.cif" in result.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["metals"], "--out FILE is needed"),
        (["metals", "-o", "list.csv"], "ends in .jsonl or .jsonl.gz"),
        (["a.yaml", "metals", "-o", "x.jsonl"], "either structures or one configuration file"),
    ],
)
def test_wrong_usage_is_one_message(e3relax, arguments, message):
    result = e3relax("candidates", *arguments)
    assert result.code == 2
    assert message in " ".join(result.stderr.split())


def test_configuration_of_a_screen_is_one_of_candidates(folder, tmp_path):
    config = load_candidates_config(folder / "candidates.yaml")
    assert config.sources[0].parents[0].paths == [folder / "metals" / "Cu.cif"]
    assert config.ranking.file == folder / "values.csv"
    raw = yaml.safe_load((folder / "candidates.yaml").read_text())
    (folder / "screen.yaml").write_text(yaml.safe_dump(raw | {"engine": "chgnet"}))
    assert load_screen_config(folder / "screen.yaml").sources == config.sources
    assert load_candidates_config(folder / "screen.yaml").ranking == config.ranking
    (tmp_path / "none.yaml").write_text("engine: chgnet\n")
    with pytest.raises(ConfigError, match=r"none\.yaml: .* inputs, sources, or"):
        load_screen_config(tmp_path / "none.yaml")


@pytest.mark.slow
@pytest.mark.usefixtures("predictor")
def test_a_screen_takes_sources_in_their_rank_and_its_table_a_hull(e3relax, folder):
    register_engine("emt", EMT_ENTRY, overwrite=True)
    raw = yaml.safe_load((folder / "candidates.yaml").read_text())
    (folder / "screen.yaml").write_text(yaml.safe_dump(raw | {"engine": "emt", "control": 0.0, "out": "run"}))
    assert e3relax("screen", folder / "screen.yaml").code == 0
    document = json.loads((folder / "run" / "screen.json").read_text())
    states = {row["id"]: row["state"] for row in document["candidates"]}
    assert list(states) == ["Au", "Ag", "Cu", "Cu_double", "Ni from Cu", "Pd from Cu"]
    assert states["Cu_double"] == "duplicate"

    # EMT's energies of the relaxed metals are a few meV from zero
    entries = folder / "entries.json"
    entries.write_text(json.dumps([ComputedEntry(metal, -0.5).as_dict() for metal in (*METALS, "Ni")]))
    table = e3relax("table", folder / "run", "--entries", entries, "-o", folder / "ranked.csv", "--json")
    assert table.code == 0
    rows = {row["id"]: row for row in json.loads(table.stdout)}
    assert all(rows[metal]["energy_above_hull"] == pytest.approx(0.5, abs=0.1) for metal in METALS)
    assert rows["Pd from Cu"]["energy_above_hull"] is None
    assert "no entry of the element Pd" in rows["Pd from Cu"]["message"]
    assert rows["Cu_double"]["duplicate_of"] == "Cu"
    with (folder / "ranked.csv").open(newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == list(rows)
    shown = e3relax("table", folder / "run" / "screen.json", "--entries", entries, "--correction", "mp2020")
    assert "computed with emt" in " ".join(shown.stdout.split()).lower()
    assert "not the document of a screen" in " ".join(e3relax("table", folder / "values.csv").stderr.split())


@pytest.mark.slow
@pytest.mark.usefixtures("predictor")
def test_a_screen_ranked_by_change_relaxes_what_moves_least_first(e3relax, settings, tmp_path):
    register_engine("emt", EMT_ENTRY, overwrite=True)
    (tmp_path / "metals").mkdir()
    for element, stretch in (("Ag", 1.05), ("Au", 1.03), ("Cu", 1.01), ("Pd", 1.04)):
        half = EMT_LATTICES[element] * stretch / 2
        structure = Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), [element], [[0, 0, 0]])
        structure.to_file(str(tmp_path / "metals" / f"{element}.cif"))
    orders = {}
    for by in (None, {"by": "change"}):
        config = {"inputs": ["metals"], "engine": "emt", "control": 0.0, "out": "run", "ranking": by}
        (tmp_path / "screen.yaml").write_text(yaml.safe_dump(config))
        assert e3relax("screen", tmp_path / "screen.yaml").code == 0
        document = json.loads((tmp_path / "run" / "screen.json").read_text())
        assert [row["id"] for row in document["candidates"]] == ["Ag", "Au", "Cu", "Pd"]
        with open_stores(settings) as stores:
            orders[bool(by)] = [outcome.id for outcome in find_outcomes(stores.outcomes).values()]
            stores.outcomes.remove_docs({})
    assert orders == {False: ["Ag", "Au", "Cu", "Pd"], True: ["Cu", "Au", "Pd", "Ag"]}


@pytest.mark.slow
@pytest.mark.usefixtures("predictor")
def test_the_hull_may_be_the_materials_projects(e3relax, folder, monkeypatch):
    register_engine("emt", EMT_ENTRY, overwrite=True)
    asked = []

    def fetch(system, cache):
        asked.append((system, cache.name))
        return [ComputedEntry(system, -0.5).as_dict()]

    monkeypatch.setattr("e3relax_flows.report.ranked.fetch_entries", fetch)
    assert e3relax("screen", folder / "metals", "--engine", "emt", "--out", folder / "run").code == 0
    table = e3relax("table", folder / "run", "--entries", "mp", "--json")
    assert asked == [(metal, "materials_project") for metal in sorted(METALS)]
    ranks = {row["id"]: row["rank"] for row in json.loads(table.stdout)}
    assert sorted(ranks[metal] for metal in METALS) == [1, 2, 3]
    assert ranks["Cu_double"] is None
