"""PairBuilder on documents of DFT codes other than VASP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dft_documents import aims_output, cp2k_output, jdftx_output
from task_bench import NEAR, RAW, RELAXED, Bench


def test_pairs_are_built_of_their_documents():
    bench = Bench()
    bench.add(aims_output(RAW, NEAR), "a-1", 1, hosts=["f"])
    bench.add(aims_output(NEAR, RELAXED), "a-2", 2, hosts=["f"])
    bench.add(jdftx_output(RAW, RELAXED), "j-1", 3, hosts=["g"])
    static = aims_output(RELAXED, RELAXED, relax_geometry="none")
    bench.add(static, "a-3", 4, hosts=["h"])
    bench.add(cp2k_output(RAW, RELAXED), "c-1", 5, hosts=["i"])
    assert bench.build() == {"new": 3, "not_a_relaxation": 1}
    found = {pair.origin_id: pair for pair in bench.list_pairs()}
    assert {key: (pair.code, pair.functional, pair.is_dft) for key, pair in found.items()} == {
        "a-1": ("FHI-aims", "PBEsol", True),
        "j-1": ("JDFTx", "PBE", True),
        "c-1": ("CP2K", "PBE", True),
    }
    assert found["a-1"].relaxed.volume == pytest.approx(RELAXED.volume)
    assert (found["a-1"].n_ionic_steps, found["j-1"].n_ionic_steps) == (8, 5)


@pytest.mark.parametrize(
    ("code", "steps", "initial"), [("ABINIT", (7, 31), 46.026), ("CP2K", (13, 82), 40.354)], ids=["ABINIT", "CP2K"]
)
def test_real_relaxations_are_pairs(code, steps, initial):
    path = Path(__file__).resolve().parents[1] / "files" / f"{code.lower()}_documents.json"
    predicted, control = [record["output"] for record in json.loads(path.read_text())][:2]
    bench = Bench()
    bench.add(predicted, "b-1", 1, hosts=["f"])
    bench.add(control, "b-2", 2, hosts=["g"])
    assert bench.build() == {"new": 2}
    first, second = bench.list_pairs()
    assert (first.code, first.functional, first.is_dft, first.free.is_full) == (code, "PBE", True, True)
    assert (first.n_ionic_steps, first.n_electronic_steps) == steps
    # from both starts the same minimum
    assert first.relaxed.volume == pytest.approx(second.relaxed.volume, rel=5e-4)
    assert second.initial.volume == pytest.approx(initial, abs=1e-3)
