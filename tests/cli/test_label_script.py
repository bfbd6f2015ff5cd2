"""The script that labels candidates with a potential keeps what others confirm."""

from __future__ import annotations

import gzip
import json
import runpy
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


def test_structures_are_labelled_and_kept_where_potentials_agree(run_script, tmp_path, capsys):
    pytest.importorskip("chgnet", reason="the potentials are an extra: pip install 'e3relax-flows[mlip]'")
    excluded = tmp_path / "held_out.txt"
    excluded.write_text("Cs\nA_cI2_229_a\n")
    arguments = ("--n", 3, "--max-atoms", 2, "--teacher", "chgnet", "--exclude", excluded)
    arguments += ("--second", "chgnet-r2scan", 3, "--second", "chgnet", 1)
    assert run_script("09_label_with_potential.py", *arguments, "--out", tmp_path / "out") == 0
    first = capsys.readouterr().out
    assert "3 started" in first
    files = [tmp_path / "out" / name for name in ("pairs.jsonl.gz", "disputed.jsonl.gz")]
    before = [gzip.decompress(file.read_bytes()) for file in files]
    pairs = [json.loads(line) for content in before for line in content.splitlines()]
    assert 0 < len(pairs) <= 3
    assert {(pair["is_dft"], pair["functional"], pair["source"]) for pair in pairs} == {
        (False, "CHGNet-0.3.0", "teacher")
    }
    assert not {"Cs"} & {pair["chemical_system"] for pair in pairs}
    assert not {"A_cI2_229_a"} & {pair["prototype"] for pair in pairs}
    assert all(pair["initial"]["lattice"] != pair["relaxed"]["lattice"] for pair in pairs)
    assert run_script("09_label_with_potential.py", *arguments, "--out", tmp_path / "out") == 0
    assert [gzip.decompress(file.read_bytes()) for file in files] == before
    assert "was registered before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("volume", "shift", "reason"), [(1.009, 0.0, ""), (0.985, 0.0, "volume"), (1.0, 0.09, "basin")]
)
def test_minima_are_the_same_or_disputed(volume: float, shift: float, reason: str):
    explain = runpy.run_path(str(WORKFLOWS / "09_label_with_potential.py"))["explain_dispute"]
    teacher = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    second = Structure(teacher.lattice.scale(volume * 64), teacher.species, [[0.1, 0, 0], [0.6 + shift, 0.5, 0.5]])
    assert explain(teacher, second, 0.01) == reason
    assert explain(teacher, None, 0.01) == "no minimum"
