"""Every engine passes the checks of e3relax_flows.testing; those that cannot run here, on documents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dft_documents import aims_output, jdftx_output
from fake_vasp_program import relaxed_volume
from jobflow import Maker
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines import get_engine
from e3relax_flows.engines.dft import AbinitEngine, AimsEngine, Cp2kEngine, JdftxEngine
from e3relax_flows.testing import EmtEngine, check_engine, check_relaxation

COPPER_EDGE = 3.59  # Å, effective medium theory
COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]])
COPPER.translate_sites([0], [0.02, 0.01, 0.0])


def build_salt(edge: float) -> Structure:
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return cell.get_primitive_structure()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chgnet", "sevennet-0", "gpaw"])
def test_engines_by_name(name, tmp_path):
    package = {"chgnet": "chgnet", "sevennet-0": "sevenn", "gpaw": "gpaw"}[name]
    pytest.importorskip(package)
    engine = get_engine(name)
    check_engine(engine, build_salt(5.7))
    if not engine.is_dft:
        check_relaxation(engine, build_salt(5.7), folder=tmp_path)


def test_emt_and_a_maker_by_its_path(tmp_path):
    for engine in (EmtEngine(), get_engine("atomate2.ase.jobs:EmtRelaxMaker", relax_kwargs={"fmax": 0.01})):
        check_engine(engine, COPPER)
        result = check_relaxation(engine, COPPER, folder=tmp_path)
        assert result.relaxed.volume == pytest.approx(COPPER_EDGE**3, rel=0.01)


@pytest.mark.usefixtures("fake_vasp")
@pytest.mark.parametrize("name", ["vasp-single", pytest.param("vasp-mp-gga-static", marks=pytest.mark.slow)])
def test_vasp(name, tmp_path):
    volume = relaxed_volume(["Na", "Cl"])
    start = build_salt((4 * 1.1 * volume) ** (1 / 3))
    check_engine(get_engine(name), start)
    assert check_relaxation(get_engine(name), start, folder=tmp_path).relaxed.volume == pytest.approx(volume, rel=1e-3)


@dataclass
class OpaqueMaker(Maker):
    """A maker of which no code is known."""

    name: str = "opaque"


@pytest.mark.parametrize(("engine", "write"), [(AimsEngine, aims_output), (JdftxEngine, jdftx_output)])
def test_codes_that_are_not_here_by_documents_after_their_schemas(engine, write):
    start, middle, end = build_salt(5.9), build_salt(5.7), build_salt(5.65)
    documents = [write(start, middle), write(middle, end)]
    result = check_relaxation(engine(name="x", maker=OpaqueMaker()), start, documents=documents)
    assert (result.relaxed.volume, result.code) == (pytest.approx(end.volume), engine.code)


@pytest.mark.parametrize(("kind", "file"), [(AbinitEngine, "abinit"), (Cp2kEngine, "cp2k")])
def test_codes_by_documents_of_our_own_runs(kind, file):
    recorded = json.loads((Path(__file__).resolve().parents[1] / "files" / f"{file}_documents.json").read_text())
    engine = kind(name=file, maker=OpaqueMaker())
    for record in recorded:
        document = record["output"]
        start = Structure.from_dict(document["input"]["structure"])
        check_relaxation(engine, start, documents=[document])


@dataclass
class ForgetfulEngine(EmtEngine):
    """Says that the relaxation began at its end."""

    def read(self, documents: list[Any]) -> Any:
        result = super().read(documents)
        return result.model_copy(update={"initial": result.relaxed})


@dataclass
class ChangingEngine(EmtEngine):
    """Writes into its maker."""

    def make(self, structure: Any, prev_dir: Any = None) -> Any:
        self.maker.steps += 1
        return super().make(structure, prev_dir)


@dataclass
class NamedEngine(EmtEngine):
    """Takes its name for its content."""

    @property
    def engine_id(self) -> str:
        return self.name


@dataclass
class TrustingEngine(EmtEngine):
    """Reads a relaxation from nothing."""

    def read(self, documents: list[Any]) -> Any:
        try:
            return super().read(documents)
        except EngineError:
            return None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ChangingEngine, "make changes the engine"),
        (NamedEngine, "engine_id depends on the name"),
        (TrustingEngine, "read gives a result where no job left a document"),
    ],
)
def test_the_checks_find_what_is_wrong_before_anything_runs(kind, message):
    with pytest.raises(AssertionError, match=message):
        check_engine(kind(), COPPER)


def test_the_checks_find_a_start_that_is_not_the_true_one(tmp_path):
    with pytest.raises(EngineError, match=r"strained by 0\.\d+ .*\(Cu4\)"):
        check_relaxation(ForgetfulEngine(), COPPER, folder=tmp_path)
