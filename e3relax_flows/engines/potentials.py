"""Potentials by name and checkpoint: label, functional, hash of the weights, and their ASE calculator."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.core.ids import hash_content
from e3relax_flows.engines.potential_table import FAMILIES, Checkpoint, Family, find_family
from e3relax_flows.schemas.outcomes import PotentialInfo

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

CACHE = Path("~/.cache")
DEVICE_ARGUMENTS = ("device", "use_device")
SHORT_HASH = 8  # digits in the names of weights that have no name of their own


@dataclass(frozen=True)
class Potential:
    """One checkpoint of one potential: its description in documents, and its calculator.

    Attributes
    ----------
    info
        Label, weights and functional.
    family
        Its entry in our table; None for a calculator by dotted path and for other names of atomate2.
    weights
        Its file of weights; None where it is not known or not there.
    kwargs
        Further keyword arguments of the calculator.
    """

    info: PotentialInfo
    family: Family | None = None
    weights: Path | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Versioned name, such as "SevenNet-l3i5"."""
        return self.info.label

    @property
    def force_field(self) -> str:
        """Its name in atomate2; of no use for a calculator by dotted path."""
        return self.info.potential if self.family is None else next(iter(self.family.force_fields))

    def check(self, structure: Structure) -> None:
        """Raise EngineError if `structure` has elements that were not in the training data of the weights."""
        if self.family is None or self.info.checkpoint not in self.family.checkpoints:
            return
        elements = structure.composition.element_composition
        unknown = sorted(element.symbol for element in elements if element.Z not in self.family.elements)
        if unknown:
            raise EngineError(
                f"{structure.composition.reduced_formula}: {self.label} was not trained on {', '.join(unknown)}; "
                "use a DFT engine for it (list them with: e3relax doctor)"
            )

    def check_installed(self) -> None:
        """Raise where package or weights are missing.

        Raises
        ------
        MissingDependencyError
            When the package is not installed.
        EngineError
            When the weights are not in a wheel and were not downloaded.
        """
        if self.family is None:
            return
        if self.weights is None and (url := _get_checkpoint(self).url):
            raise EngineError(
                f"the weights of {self.label} are not in its package and not in {CACHE / 'mace'}; download {url} and "
                f"give the file: potential={self.family.name} checkpoint=FILE"
            )
        if find_spec(self.family.package) is None:
            raise MissingDependencyError(
                f"potential {self.label} needs {self.family.package!r}, which is not installed; "
                f"install it with: {self.family.install}"
            )
        if self.weights is None:
            raise EngineError(
                f"the installed {self.family.package!r} does not hold the weights of {self.label}; "
                f"install a version that does: {self.family.install}"
            )

    def load(self, device: str = "auto") -> Calculator:
        """ASE calculator of the potential (energy in eV, forces in eV/Å, stress in eV/Å³), for one of `find_potential`.

        Raises
        ------
        EngineError, MissingDependencyError
            As `check_installed`, or when a dotted path names something else than an ASE calculator.
        """
        self.check_installed()
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # CHGNet greets
            warnings.filterwarnings("ignore", message="No tensor product accelerator")  # SevenNet's advice
            return _load_calculator(self, device)


def find_potential(
    name: str,
    checkpoint: str | None = None,
    modal: str | None = None,
    calculator_kwargs: Mapping[str, Any] | None = None,
) -> Potential:
    """Find a potential without loading it; nothing of its package is imported.

    Parameters
    ----------
    name
        CHGNet, SevenNet, MACE, another force field of atomate2, or the dotted path of an ASE calculator
        ("module:Class").
    checkpoint
        Name of the weights in their package, such as "7net-l3i5", or their file; None: the usual one.
    modal
        Which task of a network that serves several.
    calculator_kwargs
        Further keyword arguments of the calculator.

    Raises
    ------
    EngineError
        When name, checkpoint or modal is unknown; the nearest known one is in the message.

    Examples
    --------
    >>> potential = find_potential("SevenNet", "7net-l3i5")
    >>> potential.label, potential.info.functional
    ('SevenNet-l3i5', 'PBE(+U)')
    """
    kwargs = dict(calculator_kwargs or {})
    if is_path(name):
        return _describe_other(name.replace(":", "."), checkpoint, kwargs)
    found = find_family(name)
    if found is None:
        return _describe_other(_check_name(name), checkpoint, kwargs)
    family, usual = found
    named = kwargs.pop(family.argument, None)
    if named is not None and checkpoint is not None and str(named) != checkpoint:
        raise EngineError(
            f"potential {family.name}: checkpoint={checkpoint!r} and calculator_kwargs {family.argument}={named!r} "
            "are two; give one"
        )
    chosen = checkpoint or (usual if named is None else str(named))
    if chosen in family.checkpoints:
        return _describe_checkpoint(family, chosen, modal, kwargs)
    return _describe_file(family, chosen, modal, kwargs)


def is_path(name: str) -> bool:
    """Whether the name of a potential is the path of a class, `module:Class` or dotted."""
    return ":" in name or "." in name.removeprefix("MLFF.")


def hash_file(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    found = path.stat()
    return _hash_file(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _hash_file(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _describe_checkpoint(family: Family, name: str, modal: str | None, kwargs: dict[str, Any]) -> Potential:
    """A checkpoint of our table."""
    checkpoint = family.checkpoints[name]
    label, functional = checkpoint.label, checkpoint.functional
    known = {word: (label, functional) for word, label, functional in checkpoint.modals}
    if modal is not None or known:
        if modal not in known:
            words = ", ".join(known) or "none"
            raise EngineError(f"checkpoint {name!r} of {family.name} has no modal {modal!r}; known: {words}")
        label, functional = known[modal]
    weights = _find_weights(family, checkpoint)
    info = PotentialInfo(
        label=label,
        potential=family.name,
        checkpoint=name,
        modal=modal,
        functional=functional,
        weights_hash=hash_file(weights) if weights is not None else None,
    )
    return Potential(info, family, weights, kwargs)


def _describe_file(family: Family, chosen: str, modal: str | None, kwargs: dict[str, Any]) -> Potential:
    """Weights in a file of the user."""
    path = Path(chosen).expanduser()
    if not path.is_file():
        nearest = get_close_matches(chosen, family.checkpoints, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise EngineError(
            f"checkpoint {chosen!r} of {family.name} is unknown, and there is no such file; {hint}"
            f"known: {', '.join(family.checkpoints)}"
        )
    digest = hash_file(path)
    label = f"{family.name}-{path.stem}-{digest[:SHORT_HASH]}" + (f"-{modal}" if modal else "")
    info = PotentialInfo(
        label=label, potential=family.name, checkpoint=str(path.absolute()), modal=modal, weights_hash=digest
    )
    return Potential(info, family, path.absolute(), kwargs)


def _describe_other(name: str, checkpoint: str | None, kwargs: dict[str, Any]) -> Potential:
    """Potentials that only keyword arguments distinguish: other names of atomate2, and calculators by path."""
    if checkpoint is not None:
        raise EngineError(
            f"potential {name!r} takes its weights by a keyword argument of its calculator; give "
            f"calculator_kwargs.NAME={checkpoint} instead of checkpoint={checkpoint}"
        )
    files = {key: Path(value) for key, value in kwargs.items() if isinstance(value, str) and Path(value).is_file()}
    hashes = {key: hash_file(path) for key, path in files.items()}
    content = {key: value for key, value in (kwargs | hashes).items() if key != "device"}  # which changes no result
    label = f"{name}-{hash_content(content)[:SHORT_HASH]}" if content else name
    digest = next(iter(hashes.values())) if len(hashes) == 1 else (hash_content(hashes) if hashes else None)
    weights = next(iter(files.values())) if len(files) == 1 else None
    return Potential(PotentialInfo(label=label, potential=name, weights_hash=digest), None, weights, kwargs)


def _check_name(name: str) -> str:
    """The name of a force field of atomate2 as atomate2 writes it."""
    from atomate2.forcefields import MLFF

    plain = name.removeprefix("MLFF.")
    for member in MLFF:
        if plain.lower() in (member.value.lower(), member.name.lower()) and member != MLFF.Forcefield:
            return str(member.value)
    known = list(
        dict.fromkeys([*(family.name for family in FAMILIES), *(m.value for m in MLFF if m.name != "Forcefield")])
    )
    nearest = get_close_matches(plain, known, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise EngineError(
        f"potential {name!r} is unknown; {hint}known: {', '.join(known)}, or an ASE calculator as module:Class"
    )


def _find_weights(family: Family, checkpoint: Checkpoint) -> Path | None:
    """File of the weights, in the installed package or where the package keeps downloads."""
    if checkpoint.url:
        path = (CACHE / checkpoint.weights).expanduser()
        plain = path.with_name("".join(letter for letter in path.name if letter.isalnum() or letter == "_"))
        return next((file for file in (path, plain) if file.is_file()), None)
    spec = find_spec(family.package)
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders if (path := Path(folder) / checkpoint.weights).is_file()), None)


def _get_checkpoint(potential: Potential) -> Checkpoint:
    assert potential.family is not None
    return potential.family.checkpoints[str(potential.info.checkpoint)]


def _load_calculator(potential: Potential, device: str) -> Calculator:
    """Calculator on a device; a potential that is not in our table chooses its own unless one is named."""
    family, kwargs = potential.family, dict(potential.kwargs)
    if family is None:
        return _load_other(potential.info.potential, kwargs, device)
    from e3relax_flows.graphs.devices import resolve_device

    resolved, weights = str(resolve_device(device)), str(potential.weights)
    if family.name == "CHGNet":
        from chgnet.model import CHGNet
        from chgnet.model.dynamics import CHGNetCalculator

        name = str(potential.info.checkpoint)
        named = name in family.checkpoints
        model = CHGNet.load(model_name=name, use_device=resolved, verbose=False) if named else CHGNet.from_file(weights)
        # without neighbours there are no forces, so a cell that flew apart would count as relaxed
        return CHGNetCalculator(model, use_device=resolved, **{"on_isolated_atoms": "error", **kwargs})
    if family.name == "SevenNet":
        return _load_sevennet(potential, weights, resolved)
    from mace.calculators import MACECalculator

    return MACECalculator(model_paths=weights, device=resolved, **{"default_dtype": "float64", **kwargs})


def _load_sevennet(potential: Potential, weights: str, resolved: str) -> Calculator:
    """On the CPU the evaluation in half the time, if it supports the network; else SevenNet's own."""
    from e3relax_flows.engines.batches import EvaluatedCalculator, load_batches

    if resolved == "cpu" and (batches := load_batches(potential, resolved)) is not None:
        return EvaluatedCalculator(batches)
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(weights, modal=potential.info.modal, device=resolved, **potential.kwargs)


def _load_other(name: str, kwargs: dict[str, Any], device: str) -> Calculator:
    if not is_path(name):
        from atomate2.forcefields.utils import _DEFAULT_CALCULATOR_KWARGS, MLFF, ase_calculator

        named = {} if device == "auto" else {"device": device}
        usual = _DEFAULT_CALCULATOR_KWARGS.get(MLFF(name), {})
        return cast("Calculator", ase_calculator(MLFF(name), **{**usual, **named, **kwargs}))
    kind = find_calculator_class(name)
    accepted = inspect.signature(kind).parameters
    argument = next((key for key in DEVICE_ARGUMENTS if key in accepted), None)
    if device != "auto" and argument is not None:
        kwargs.setdefault(argument, device)
    return kind(**kwargs)


def find_calculator_class(path: str) -> type[Calculator]:
    """The ASE calculator that a dotted path names.

    Raises
    ------
    EngineError
        When there is none; only a class of calculators is ever called.
    """
    from ase.calculators.calculator import BaseCalculator

    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EngineError(f"calculator {path!r} cannot be imported ({error}); give it as module:Class") from error
    if not (isinstance(found, type) and issubclass(found, BaseCalculator)):
        raise EngineError(f"{path!r} is not a class of ASE calculators, so it was not called; write an engine for it")
    return cast("type[Calculator]", found)
