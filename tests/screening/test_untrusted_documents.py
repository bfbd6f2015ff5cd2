"""Documents of others are data: no code is run, no class that is not a value is built, nothing grows without limit."""

from __future__ import annotations

import ast
import zlib
from pathlib import Path
from typing import Any

import pytest
from jobflow import Maker
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure

import e3relax_flows
from e3relax_flows.candidates import spool as candidates
from e3relax_flows.candidates.spool import pack_structure, unpack_structure
from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.schemas.screens import ScreenDoc
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.stores.decoding import decode_as
from e3relax_flows.testing import EmtEngine


def make_screen(maker: dict[str, Any]) -> ScreenDoc:
    return ScreenDoc(
        screen_id="s", name="s", engine="emt", engine_id="e", model="m", on_refuse="skip", control=0,
        paired_controls=False, seed=0, candidates=[], counts={}, maker=maker,
    )  # fmt: skip


@pytest.fixture
def stored() -> dict[str, Any]:
    return jsanitize(ScreenMaker(engine=EmtEngine()).as_dict(), recursive_msonable=True)


def test_a_maker_comes_back_from_the_store(stored: dict[str, Any]) -> None:
    maker = read_maker(make_screen(stored))
    assert maker.as_dict() == ScreenMaker(engine=EmtEngine()).as_dict()
    assert maker.engine.engine_id == EmtEngine().engine_id


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ({"@module": "os", "@callable": "system", "@bound": None}, r" function os\.system;"),
        (
            {"@module": "subprocess", "@class": "Popen", "args": ["touch", "harm"]},
            r"names subprocess\.Popen, ",
        ),
        ({"@module": "fireworks", "@class": "LaunchPad", "host": "evil"}, r"names fireworks\.LaunchPad, "),
        ({"@module": "no_such_module", "@class": "Engine"}, "no_such_module.Engine.*install it"),
    ],
)
def test_what_is_no_value_is_refused(
    stored: dict[str, Any], harm: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored["engine"]["maker"]["relax_kwargs"] = {"deep": [harm]}
    with pytest.raises(ConfigError, match=message):
        read_maker(make_screen(stored))
    assert list(tmp_path.iterdir()) == []


def test_what_is_another_thing_is_refused(stored: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"EmtRelaxMaker .* ScreenMaker;"):
        read_maker(make_screen(stored["engine"]["maker"]))
    with pytest.raises(ConfigError, match=r"EmtEngine, .* Maker;"):
        read_maker(make_screen(stored["engine"]))
    with pytest.raises(ConfigError, match=r"None\.None, .* Maker;"):
        decode_as({"a": 1}, Maker, "it")


def test_a_packed_structure_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    copper = Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    packed = pack_structure(copper)
    assert unpack_structure(packed) == copper
    monkeypatch.setattr(candidates, "LARGEST_STRUCTURE", 2**20)
    with pytest.raises(StoreError, match=" 1 MB;"):
        unpack_structure(zlib.compress(b" " * 2**21 + b"{}"))
    for damaged in (packed[:-6], b"no box"):
        with pytest.raises(StoreError, match=r"is incomplete|is damaged"):
            unpack_structure(damaged)


@pytest.mark.slow
def test_nothing_in_the_package_runs_what_it_reads() -> None:
    """No unsafe YAML, no pickle, no torch.load that may run code, no archive unpacked."""
    forbidden = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads",
                 "shutil.unpack_archive", "tarfile.open", "np.load", "joblib.load", "os.system"}  # fmt: skip
    found, safe_loads = [], 0
    for file in Path(e3relax_flows.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            is_unsafe = name == "torch.load" and options.get("weights_only") != "True"
            is_shell = options.get("shell") == "True"
            is_pickle = name.endswith("load") and options.get("allow_pickle") == "True"
            safe_loads += name in ("yaml.safe_load", "torch.load")
            if name in forbidden or is_unsafe or is_shell or is_pickle:
                found.append(f"{file.name}:{node.lineno} {name}")
    assert found == []
    assert safe_loads >= 4  # it does look
