"""The command run in this process, and a small network that moves what it sees."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.cli.app import main
from e3relax_flows.core.settings import E3RelaxSettings

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


@dataclass
class Result:
    """What a command left."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def e3relax(
    settings: E3RelaxSettings,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Result]:
    """Run `e3relax ARGUMENTS...` with an empty data folder, in an empty working directory."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["e3relax", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a network of random weights, large enough to move atoms and cells by visible amounts."""
    import torch

    from e3relax_flows.model.files import save_model
    from e3relax_flows.model.network import E3RelaxH2

    sizes = {"n_layers": 1, "n_scalars": 8, "n_vectors": 4, "n_tensors": 2, "n_densities": 2, "n_hidden": 8, "l_max": 2}
    network = E3RelaxH2.from_config(sizes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return save_model(
        tmp_path_factory.mktemp("models") / "tiny", network, "# tiny\n\nRandom weights.\n", {"functionals": ["PBE"]}
    ).path


@pytest.fixture
def wurtzite() -> Structure:
    """AlN with its internal coordinate off and a magnetic moment on every site."""
    lattice = Lattice.hexagonal(3.19, 5.19)
    sites = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.40], [2 / 3, 1 / 3, 0.90]]
    return Structure(lattice, ["Al", "Al", "N", "N"], sites, site_properties={"magmom": [1.0, -1.0, 0.0, 0.5]})


@pytest.fixture
def run_script(settings, monkeypatch, small_model):
    """Run a script of `workflows/` with arguments; gives its exit code."""
    monkeypatch.setenv("E3RELAX_MODEL", str(small_model))
    assert settings.DATA_DIR.is_absolute()

    def run(name: str, *arguments: object) -> int:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(WORKFLOWS / name), run_name="__main__")
        return int(stop.value.code or 0)

    return run
