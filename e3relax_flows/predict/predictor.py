"""Predictor: structures in, predictions out, in the same number and order."""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from pymatgen.core import IMolecule, IStructure, Structure

from e3relax_flows.core.errors import ConfigError, StructureError
from e3relax_flows.core.model_folders import find_model
from e3relax_flows.graphs.batching import Crystal
from e3relax_flows.graphs.devices import resolve_device
from e3relax_flows.model.files import load_network
from e3relax_flows.model.interface import RelaxationNetwork
from e3relax_flows.predict.batches import BatchRunner
from e3relax_flows.predict.items import Item, ask_opinions, polish_item, start_passes
from e3relax_flows.predict.opinions import Judge
from e3relax_flows.predict.polish import PolishRule, count_steps
from e3relax_flows.predict.trust import TrustModel, check_opinion, check_polish
from e3relax_flows.schemas.predictions import Prediction, PredictOptions, Verdict

# Structures are read, predicted and returned in windows, so that memory does not grow with their number.
WINDOW_STRUCTURES = 2_048
WINDOW_ATOMS = 40_000

OnProgress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


class Predictor:
    """A network ready to predict.

    Examples
    --------
    CaO in the cell of CdO: a prediction with the verdict of the guards.

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import Predictor
    >>> oxide = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.695), ["Ca", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> prediction = Predictor.load(device="cpu").predict([oxide])[0]
    >>> print(prediction.verdict, round(prediction.volume_ratio, 1), prediction.structure.composition.reduced_formula)
    accept 1.1 CaO

    Parameters
    ----------
    network
        The network; it is put into evaluation mode on `device`.
    model_id
        Content id of the model, written into every prediction.
    calibration
        Calibration of the model: "trust" gives expected errors and the limits of the guard, "elements" the
        atomic numbers in its training data.
    device
        auto, cpu, cuda or cuda:N.
    """

    def __init__(
        self,
        network: RelaxationNetwork,
        model_id: str,
        calibration: dict[str, Any] | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.device = resolve_device(str(device))
        self.network = network.to(self.device).eval()
        self.model_id = model_id
        self.calibration = calibration or {}
        self.trust = TrustModel.from_calibration(self.calibration)
        self.runner = BatchRunner(self.network, self.device)
        self._judges: dict[str, Judge] = {}

    @classmethod
    def load(cls, model: str = "default", device: str = "auto", models_dir: Path | None = None) -> Self:
        """Load a model by alias, name, id or path of its folder.

        Parameters
        ----------
        model
            "default" is the bundled one; `e3relax models list` shows the others.
        device
            auto (CUDA where there is one), cpu, cuda or cuda:N.
        models_dir
            Folder of imported models.

        Raises
        ------
        ModelError
            When the model is unknown or its files are damaged.
        ConfigError
            When the device is not available.
        """
        resolved = resolve_device(device)
        folder = find_model(model, models_dir)
        network = load_network(folder, resolved, torch.float32)
        logger.info("model %s: loaded from %s on %s", folder.model_id, folder.path, resolved)
        return cls(network, folder.model_id, folder.config.get("calibration"), resolved)

    def predict(
        self,
        structures: Iterable[Any],
        options: PredictOptions | None = None,
        ids: Sequence[str | None] | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> list[Prediction]:
        """Predict the relaxed structures of initial ones: one prediction per item, in order.

        A structure that cannot be relaxed gets the verdict error and does not affect the others.

        Parameters
        ----------
        structures
            pymatgen structures.
        options
            Passes, symmetry, constraints and limits; None: the defaults.
        ids
            Names of the structures, for the predictions and their messages.
        on_progress
            Called with the number of finished items and of all items (those read so far if their number is
            not known).
        fields
            Single fields of `PredictOptions` that override those of `options`: passes=3, symmetry="free".

        Raises
        ------
        ConfigError
            When a single structure is given instead of a list, the number of `ids` differs, an option is
            unknown or out of range, or the model is not calibrated for the requested second opinion.
        EngineError, MissingDependencyError
            When the potential of the second opinion is unknown or not installed.
        """
        return list(self.iter_predict(structures, options, ids, on_progress, **fields))

    def iter_predict(
        self,
        structures: Iterable[Any],
        options: PredictOptions | None = None,
        ids: Sequence[str | None] | None = None,
        on_progress: OnProgress | None = None,
        **fields: Any,
    ) -> Iterator[Prediction]:
        """Predict like `predict`, but yield predictions while the input is read, with constant memory."""
        if isinstance(structures, IStructure | IMolecule | str | dict) or not isinstance(structures, Iterable):
            raise ConfigError(
                f"predict takes a list of structures, not one {type(structures).__name__}; write predict([structure])"
            )
        options = _resolve_options(options, fields)
        if options.second_opinion is not None:
            judge = self.get_judge(options.second_opinion)
            if options.polish == "auto":
                check_polish(self.calibration, judge.label, self.model_id)
        if ids is not None and isinstance(structures, Sized) and len(structures) != len(ids):
            raise ConfigError(f"{len(ids)} ids for {len(structures)} structures; give one per structure")
        wrong = [id for id in ids or () if not isinstance(id, str | None)]
        if wrong:
            raise ConfigError(f"the id {wrong[0]!r} is a {type(wrong[0]).__name__}; give strings, e.g. str(id)")
        total = len(ids) if ids is not None else operator.length_hint(structures)
        return self._iter_windows(structures, options, ids, _Counter(on_progress, total))

    def embed(self, structures: Sequence[Any]) -> NDArray[np.float64]:
        """Embeddings of the initial structures, to compare them; nothing is predicted.

        Returns
        -------
        embeddings
            [n_structures, n_channels]: the mean over atoms of their features after the last layer of one
            application. The same for every cell, orientation and numbering of a crystal. A structure that cannot be
            treated has a row of NaN.

        Raises
        ------
        ConfigError
            When the network has no embedding.
        """
        options, found = PredictOptions(symmetry="free"), {}
        for start in range(0, len(structures), WINDOW_STRUCTURES):
            window = [
                self._start(item, index, None, options)
                for index, item in enumerate(structures[start : start + WINDOW_STRUCTURES])
            ]
            positions = {id(item): start + index for index, item in enumerate(window)}
            items, crystals = self._build(window)
            for batch in self.runner.plan(crystals):
                for index, output in zip(batch, self.runner.run([crystals[i] for i in batch]), strict=True):
                    if isinstance(output, StructureError):
                        continue
                    if output.embedding is None:
                        raise ConfigError(f"model {self.model_id} has no embedding of crystals")
                    found[positions[id(items[index])]] = output.embedding
        width = len(next(iter(found.values()))) if found else 0
        embeddings = np.full((len(structures), width), np.nan)
        for index, row in found.items():
            embeddings[index] = row
        return embeddings

    def _iter_windows(
        self, structures: Iterable[Any], options: PredictOptions, ids: Sequence[str | None] | None, counter: _Counter
    ) -> Iterator[Prediction]:
        window: list[Item] = []
        n_atoms = n_read = 0
        for index, structure in enumerate(structures):
            if ids is not None and index >= len(ids):
                raise ConfigError(f"{len(ids)} ids for more structures than that; give one per structure")
            item = self._start(structure, index, ids, options)
            window.append(item)
            n_read += 1
            n_atoms += len(item.passes.numbers) if item.passes else 0
            if len(window) >= WINDOW_STRUCTURES or n_atoms >= WINDOW_ATOMS:
                yield from self._finish_window(window, options, counter)
                window, n_atoms = [], 0
        yield from self._finish_window(window, options, counter)
        if ids is not None and n_read != len(ids):
            raise ConfigError(f"{len(ids)} ids for {n_read} structures; give one per structure")

    def _start(self, structure: Any, index: int, ids: Sequence[str | None] | None, options: PredictOptions) -> Item:
        start = time.perf_counter()
        id = ids[index] if ids is not None else None
        item = Item(id, id or f"structure {index}", structure if isinstance(structure, Structure) else None)
        try:
            item.passes = start_passes(structure, options, self.network.keeps_symmetry)
            item.given = item.passes.structure
        except Exception as error:  # the boundary between items
            item.fail(error)
        item.wall_time_s += time.perf_counter() - start
        return item

    def _finish_window(self, window: list[Item], options: PredictOptions, counter: _Counter) -> list[Prediction]:
        counter.add_read(len(window))
        items, crystals = self._build(window)
        counter.add_done(len(window) - len(items))
        for batch in self.runner.plan(crystals):
            self._relax([items[index] for index in batch], [crystals[index] for index in batch], options)
            counter.add_done(len(batch))
        for item in window:
            self._settle(item)
        if options.second_opinion is not None:
            ask_opinions([item for item in window if item.has_crystal], self.get_judge(options.second_opinion))
        predictions = [self._conclude(item, options) for item in window]
        if options.second_opinion is not None and options.polish != 0:
            self._polish(window, predictions, options)
        return predictions

    def _polish(self, window: list[Item], predictions: list[Prediction], options: PredictOptions) -> None:
        """Polish every accepted prediction with the number of steps in the options or by the calibration."""
        judge = self.get_judge(str(options.second_opinion))
        rule = PolishRule.from_calibration(self.calibration, judge.label)
        for item, prediction in zip(window, predictions, strict=True):
            if prediction.verdict is Verdict.ACCEPT:
                steps = count_steps(options.polish, rule, prediction.expected_error)
                limit = rule.find_limit(prediction.expected_error) if rule and options.polish == "auto" else None
                polish_item(item, prediction, judge, steps, limit)

    def get_judge(self, name: str) -> Judge:
        """The potential of a second opinion, loaded once.

        Raises
        ------
        ConfigError
            When the model is not calibrated for it.
        EngineError, MissingDependencyError
            When it is unknown or not installed.
        """
        if name not in self._judges:
            judge = Judge(name, str(self.device))
            check_opinion(self.calibration, name, judge.label, self.model_id)
            self._judges[name] = judge
        return self._judges[name]

    @staticmethod
    def _settle(item: Item) -> None:
        try:
            item.settle()
        except Exception as error:  # the boundary between items
            item.passes = None
            item.fail(error)

    def _build(self, items: Sequence[Item]) -> tuple[list[Item], list[Crystal]]:
        """Crystals of the active items, and those items."""
        kept, crystals = [], []
        for item in items:
            if item.passes is None or item.passes.is_done:
                continue
            start = time.perf_counter()
            try:
                crystals.append(item.passes.build_crystal(self.network))
                kept.append(item)
            except Exception as error:  # the boundary between items
                item.fail(error)
            item.wall_time_s += time.perf_counter() - start
        return kept, crystals

    def _relax(self, items: list[Item], crystals: list[Crystal], options: PredictOptions) -> None:
        """All passes of one batch, and the application that gives the residual."""
        while items:
            start = time.perf_counter()
            n_atoms = sum(crystal.n_atoms for crystal in crystals)
            for item, output in zip(items, self.runner.run(crystals), strict=True):
                try:
                    if isinstance(output, StructureError):
                        raise output
                    if item.passes is not None:
                        item.passes.advance(output, options)
                except Exception as error:  # the boundary between items
                    item.fail(error)
            share = (time.perf_counter() - start) / n_atoms
            for item, crystal in zip(items, crystals, strict=True):
                item.wall_time_s += share * crystal.n_atoms
            items, crystals = self._build(items)

    def _conclude(self, item: Item, options: PredictOptions) -> Prediction:
        start = time.perf_counter()
        try:
            prediction = item.conclude(self.model_id, options, self.calibration, self.trust)
        except Exception as error:  # the boundary between items
            item.passes = None
            item.fail(error)
            prediction = item.conclude(self.model_id, options, {}, None)
        prediction.wall_time_s += time.perf_counter() - start
        return prediction


def _resolve_options(options: PredictOptions | None, fields: dict[str, Any]) -> PredictOptions:
    if not isinstance(options, PredictOptions | None):
        raise ConfigError(
            f"options is a {type(options).__name__}; give PredictOptions(...), or single fields by name: passes=3"
        )
    try:
        return PredictOptions.model_validate(dict(options or PredictOptions()) | fields)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise ConfigError(f"{lines}; the options are {', '.join(PredictOptions.model_fields)}") from error


class _Counter:
    """Counts read and finished items, and reports them."""

    def __init__(self, on_progress: OnProgress | None, total: int) -> None:
        self._report = on_progress
        self._total, self._read, self._done = total, 0, 0

    def add_read(self, number: int) -> None:
        self._read += number

    def add_done(self, number: int) -> None:
        self._done += number
        if self._report and number:
            self._report(self._done, max(self._total, self._read))
