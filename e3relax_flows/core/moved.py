"""Old module paths in stored documents (makers, jobs, firetasks, stores), and the modules that replaced them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "e3relax_flows"
MOVED = {
    "data.sqlite": "stores.sqlite",
    "driver.firetask": "screening.launchpad",
    "flows.campaign": "campaigns.maker",
    "flows.ordering": "prerelax.ordering",
    "flows.prerelax": "prerelax.flow",
    "flows.retrain": "retraining.maker",
    "flows.screen": "screening.maker",
    "jobs.claim": "prerelax.relax",
    "jobs.dispatch": "prerelax.starts",
    "jobs.outcome": "prerelax.record",
    "jobs.predict": "prerelax.predict",
    "jobs.screening": "screening.jobs",
    "submit.onetask": "places.one_task",
    "train.config": "schemas.training",
}
_MODULES = {f"{PACKAGE}.{old}": f"{PACKAGE}.{new}" for old, new in MOVED.items()}
_PACKAGES = {f"{PACKAGE}.{old.split('.')[0]}" for old in MOVED}


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its old path, so that monty, jobflow and FireWorks decode documents of earlier versions."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Spec of an old path; None for all others."""
        if fullname in _MODULES:
            return ModuleSpec(fullname, self)
        return ModuleSpec(fullname, self, is_package=True) if fullname in _PACKAGES else None

    def exec_module(self, module: ModuleType) -> None:
        """Use the present module instead of the old one; old packages stay empty."""
        if module.__name__ in _MODULES:
            vars(sys.modules[PACKAGE]).pop("submit", None)  # the public function, not the old package
            sys.modules[module.__name__] = importlib.import_module(_MODULES[module.__name__])


def find_moved_modules() -> None:
    """Make old paths importable; asked last, after all other ways to find a module."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
