"""Fixture `fake_vasp`: atomate2 runs the program of fake_vasp_program.py through custodian in place of VASP."""

from __future__ import annotations

import functools
import os
import stat
import sys
from pathlib import Path
from typing import Any

import fake_vasp_program
import pytest


@pytest.fixture
def fake_vasp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put the fake VASP in atomate2's hands; POTCAR.spec stands for POTCAR. Gives the executable's path."""
    return install_fake_vasp(monkeypatch, tmp_path / "bin")


def install_fake_vasp(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Write the executables vasp_std and vasp_gam into `folder` and make atomate2 use them until the test ends."""
    import atomate2.vasp.jobs.base
    from atomate2.vasp.sets.base import VaspInputGenerator
    from pymatgen.io.vasp.sets import VaspInputSet

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vasp_std", "vasp_gam"):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(fake_vasp_program.__file__).resolve()}"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    run_vasp = functools.partial(
        atomate2.vasp.jobs.base.run_vasp,
        vasp_cmd=str(folder / "vasp_std"),
        vasp_gamma_cmd=str(folder / "vasp_gam"),
        custodian_kwargs={"polling_time_step": 0.05, "monitor_freq": 10},  # custodian looks every 10 s otherwise
    )
    monkeypatch.setattr(atomate2.vasp.jobs.base, "run_vasp", run_vasp)
    for owner in (VaspInputSet, VaspInputGenerator):
        get_input_set = owner.get_input_set

        def with_potcar_spec(self: Any, *args: Any, _original: Any = get_input_set, **kwargs: Any) -> Any:
            return _original(self, *args, **{**kwargs, "potcar_spec": True})

        monkeypatch.setattr(owner, "get_input_set", with_potcar_spec)
    monkeypatch.setattr(VaspInputSet, "nelect", property(lambda self: 4.0 * len(self.structure)))
    return folder / "vasp_std"
