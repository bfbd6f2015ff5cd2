"""Engines of other packages: registered by code, or declared by an entry point of an installed distribution."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from ase.calculators.lj import LennardJones
from pymatgen.core import Lattice, Structure

from e3relax_flows.cli.app import main
from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines import EngineEntry, get_engine, list_engines, register_engine
from e3relax_flows.engines.codes import list_codes
from e3relax_flows.engines.makers import is_maker_path
from e3relax_flows.engines.registry import recall_settings, unregister_engine
from e3relax_flows.testing import EMT_ENTRY, EmtEngine, check_engine, check_relaxation

ENGINE = '''
"""Lennard-Jones for argon, as a package of its own would bring it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from atomate2.ase.jobs import LennardJonesRelaxMaker

from e3relax_flows.engines import Engine, EngineEntry
from e3relax_flows.engines.ase_documents import read_ase_documents


@dataclass
class ArgonEngine(Engine):
    """Argon by pairs."""

    is_dft: ClassVar[bool] = False
    code: ClassVar[str] = "LJ"

    def read(self, documents: list[Any]) -> Any:
        return read_ase_documents(documents, self.code, "Lennard-Jones (not DFT)", is_dft=False)


def build_argon(name: str = "argon", sigma: float = 3.4, fmax: float = 0.001) -> ArgonEngine:
    """Argon's engine."""
    calculator = {"sigma": sigma, "epsilon": 0.0104, "rc": 10.0, "smooth": True}
    maker = LennardJonesRelaxMaker(calculator_kwargs=calculator, relax_kwargs={"fmax": fmax})
    return ArgonEngine(name=name, maker=maker)


argon = EngineEntry("Lennard-Jones, argon; not DFT", build_argon, is_dft=False, packages=("ase",))
wants = EngineEntry("needs what nobody has", build_argon, packages=("no_such_package_xyz",), install="pip install xyz")
'''
POINTS = """[e3relax_flows.engines]
argon = argon_engine:argon
argon-plain = argon_engine:build_argon
wanting = argon_engine:wants
broken = argon_engine.nowhere:entry
number = argon_engine:__name__
chgnet = argon_engine:argon
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as pip fills it: a module, and the distribution that declares its engines."""
    folder = tmp_path / "site"
    info = folder / "argon_engine-0.1.dist-info"
    info.mkdir(parents=True)
    (folder / "argon_engine.py").write_text(ENGINE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: argon-engine\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("argon_engine", None)


def build_argon_crystal(sigma: float) -> Structure:
    a = 1.08 * sigma * 2**0.5
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Cu"], [[0, 0, 0]])


@pytest.mark.usefixtures("package")
def test_a_package_declares_engines_that_are_listed_built_and_checked(tmp_path):
    infos = {info.name: info for info in list_engines()}
    assert infos["argon"].description == "Lennard-Jones, argon; not DFT (package argon-engine)"
    assert (infos["argon"].available, infos["argon"].is_dft) == (True, False)
    assert infos["argon-plain"].description == "Argon's engine (package argon-engine)"
    assert (infos["wanting"].available, infos["wanting"].hint) == (False, "pip install xyz")
    assert "'broken' of package argon-engine" in infos["broken"].hint
    assert "it must be an EngineEntry, a function that builds an Engine" in infos["number"].hint
    assert infos["chgnet"].description.startswith("CHGNet")  # a name of ours stays ours
    engine = get_engine("argon", sigma=2.4)
    assert (engine.name, recall_settings(engine)) == ("argon", {"sigma": 2.4})
    assert engine.engine_id != get_engine("argon").engine_id == get_engine("argon-plain").engine_id
    crystal = build_argon_crystal(2.4)
    check_engine(engine, crystal)
    result = check_relaxation(engine, crystal, folder=tmp_path)
    atoms = result.relaxed.to_ase_atoms()
    atoms.calc = LennardJones(sigma=2.4, epsilon=0.0104, rc=10.0, smooth=True)
    assert result.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
    with pytest.raises(EngineError, match=r"'argon' .*'sigm'; .* sigma\? known: sigma"):
        get_engine("argon", sigm=3.0)
    with pytest.raises(EngineError, match=r"'argon' .* sigma: .*number"):
        get_engine("argon", sigma="wide")
    with pytest.raises(MissingDependencyError, match=r"'wanting' .*'no_such_package_xyz'.*: pip install xyz"):
        get_engine("wanting")
    with pytest.raises(EngineError, match=r"'broken' .*argon-engine .*\(ModuleNotFoundError: "):
        get_engine("broken")


@pytest.mark.usefixtures("package", "settings")
def test_doctor_lists_them_with_what_they_need(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["e3relax", "doctor", "--json"])
    with pytest.raises(SystemExit):
        main()
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["engine argon"]["state"] == "ok"
    assert (found["engine wanting"]["state"], found["engine wanting"]["hint"]) == ("missing", "pip install xyz")
    assert "cannot be loaded" in found["engine broken"]["hint"]


@pytest.mark.parametrize("command", [None, "{python} --version"])
def test_codes_say_what_they_need(command, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for name in ("CP2K", "ABINIT", "AIMS", "JDFTX"):
        monkeypatch.delenv(f"ATOMATE2_{name}_CMD", raising=False)
    if command is not None:
        monkeypatch.setenv("ATOMATE2_CP2K_CMD", command.format(python=sys.executable))
    needs = {need.code: need for need in list_codes()}
    assert list(needs) == ["CP2K", "ABINIT", "FHI-aims", "JDFTx"]
    hint = needs["CP2K"].find_hint()
    assert hint == ("" if command else "no 'cp2k.psmp' on this machine; where jobs run, set ATOMATE2_CP2K_CMD")
    assert "atomate2.cp2k.jobs.core:CellOptMaker" in needs["CP2K"].describe()
    if find_spec("abipy") is None:
        assert needs["ABINIT"].find_hint() == "pip install 'atomate2[abinit]'"
    assert all(is_maker_path(need.maker) for need in needs.values())


def test_a_name_is_given_once_and_can_be_taken_back():
    register_engine("emt", EMT_ENTRY)
    assert isinstance(get_engine("emt"), EmtEngine)
    with pytest.raises(EngineError, match=r"'emt' .*overwrite=True"):
        register_engine("emt", EMT_ENTRY)
    with pytest.raises(EngineError, match=r"'gpaw' .*overwrite=True"):
        register_engine("gpaw", EMT_ENTRY)
    with pytest.raises(EngineError, match=r"'my engine' .*my-code"):
        register_engine("my engine", EMT_ENTRY)
    register_engine("vasp", EngineEntry("EMT in its place", EmtEngine, is_dft=False), overwrite=True)
    assert isinstance(get_engine("vasp"), EmtEngine)
    for name in ("vasp", "emt", "never"):
        unregister_engine(name)
    assert type(get_engine("vasp")).__name__ == "VaspEngine"
    with pytest.raises(EngineError, match=r"'emt' .*: chgnet, "):
        get_engine("emt")
