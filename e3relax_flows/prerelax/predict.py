"""The prediction job: PrerelaxMaker, for one structure instead of a relaxation, or for a chunk of a screen."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from jobflow import CURRENT_JOB, Maker, job
from pymatgen.core import IStructure, Structure

from e3relax_flows.core.errors import ConfigError, ContentError, ModelError
from e3relax_flows.core.ids import hash_content, identify_structure
from e3relax_flows.core.logs import format_counts
from e3relax_flows.core.model_folders import ModelFolder
from e3relax_flows.ledger.store import find_predictions, save_predictions
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.prerelax.starts import take_start
from e3relax_flows.registry.models import resolve_model
from e3relax_flows.schemas.outcomes import StartKind
from e3relax_flows.schemas.predictions import (
    Prediction,
    PredictionDoc,
    PredictOptions,
    PrerelaxDoc,
    PrerelaxOutput,
    Reason,
    Verdict,
    identify_prediction,
)
from e3relax_flows.schemas.screens import ChunkDoc
from e3relax_flows.stores.pool import SettingsLike

PREDICT_JOB = "e3r predict"
DEFAULT_MODEL, DEFAULT_DEVICE = "default", "auto"


logger = logging.getLogger(__name__)


@dataclass
class PrerelaxMaker(Maker):
    """Predict the relaxed structure; its document has the form of a relax maker in atomate2's flows.

    A refused prediction passes on the initial structure. A structure that cannot be predicted fails the
    job. Predictions are stored, and found again instead of computed twice.

    Parameters
    ----------
    name
        Name of the jobs.
    model
        Alias, name, id or folder of a model; "default" is the one in the worker's settings.
    device
        torch device; "auto" is the one in the worker's settings.
    options
        How to predict; it may be a dictionary of the fields of `PredictOptions`.
    second_opinion
        Written into `options`, where it is read from: the potential that judges every prediction by its energies of
        initial and predicted structure, such as "chgnet"; None: as in `options`. Not the potential that relaxes
        afterwards: see `check_judge`.
    polish
        Written into `options`, too: steps of that potential from an accepted prediction, or "auto" for the calibrated
        rule; None: as in `options`.

    Examples
    --------
    The prediction, with a second opinion of CHGNet, replaces the first relaxation of an atomate2 flow:

    >>> from atomate2.vasp.flows.core import DoubleRelaxMaker
    >>> from atomate2.vasp.jobs.mp import MPGGARelaxMaker
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PrerelaxMaker
    >>> silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.4), ["Si"], [[0, 0, 0]])
    >>> predict = PrerelaxMaker(second_opinion="chgnet")
    >>> flow = DoubleRelaxMaker(relax_maker1=predict, relax_maker2=MPGGARelaxMaker()).make(silicon)
    >>> [job.name for job, _ in flow.iterflow()]
    ['e3r predict 1', 'MP GGA relax 2']
    """

    name: str = PREDICT_JOB
    model: str = DEFAULT_MODEL
    device: str = DEFAULT_DEVICE
    options: PredictOptions = field(default_factory=lambda: PredictOptions())
    second_opinion: InitVar[str | None] = None
    polish: InitVar[str | int | None] = None

    def __post_init__(self, second_opinion: str | None, polish: str | int | None) -> None:
        given = {"second_opinion": second_opinion, "polish": polish}
        options = self.options.model_dump() if isinstance(self.options, PredictOptions) else self.options or {}
        changes = {name: value for name, value in given.items() if value is not None}
        self.options = PredictOptions.model_validate(options | changes)

    def as_dict(self) -> dict[str, Any]:
        """Dictionary with plain options, so that jobflow's `dict_mod` can change them."""
        return super().as_dict() | {"options": self.options.model_dump(mode="json")}

    @job(output_schema=PrerelaxDoc)
    def make(self, structure: Structure, prev_dir: str | Path | None = None, model: str | None = None) -> PrerelaxDoc:  # noqa: ARG002
        """Predict one structure.

        Parameters
        ----------
        structure
            The structure to start from.
        prev_dir
            Accepted because atomate2's flows pass it; not used.
        model
            Instead of the maker's own; it may be a reference to the output of another job.

        Raises
        ------
        StructureError
            When the structure cannot be predicted; the message has the reason and a remedy.
        """
        (document,), _ = predict_stored([structure], [None], model or self.model, self.device, self.options)
        own = StartKind.POLISHED if document.is_polished else StartKind.PREDICTED
        start = take_start(document, own if document.verdict == Verdict.ACCEPT else StartKind.INITIAL)
        return PrerelaxDoc(structure=start, prediction=document, output=PrerelaxOutput(structure=start))

    @job(output_schema=ChunkDoc)
    def make_chunk(self, structures: Sequence[Any], ids: Sequence[str], model: str | None = None) -> ChunkDoc:
        """Predict many structures in one job; another value becomes a prediction with verdict error."""
        documents, n_reused = predict_stored(structures, ids, model or self.model, self.device, self.options)
        return ChunkDoc(predictions=documents, n_reused=n_reused)


def predict_stored(
    structures: Sequence[Any],
    ids: Sequence[str | None],
    model: str,
    device: str,
    options: PredictOptions,
    settings: SettingsLike = None,
) -> tuple[list[PredictionDoc], int]:
    """Predict the structures that are not in the prediction store, and store their predictions.

    Errors are not stored: the same structure is tried again the next time. So is one on which the potential of the
    second opinion failed, which replaces the stored one.

    Returns
    -------
    documents
        One per structure, in order.
    n_reused
        How many of them were in the store.

    Raises
    ------
    ConfigError
        When the numbers of ids and structures differ.
    ModelError
        When the model is unknown, or its files are not those registered.
    """
    if len(ids) != len(structures):
        raise ConfigError(f"{len(structures)} structures but {len(ids)} ids; give one id per structure")
    structures = [_thaw(structure) for structure in structures]
    identities = [_identify(structure) for structure in structures]
    structure_ids = [identity if isinstance(identity, str) else None for identity in identities]
    with open_workspace(settings) as workspace:
        model = workspace.settings.MODEL if model == DEFAULT_MODEL else model
        device = workspace.settings.DEVICE if device == DEFAULT_DEVICE else device
        folder = resolve_model(model, workspace)
        prediction_ids = [
            identify_prediction(structure_id or hash_content(["no structure", index, name]), folder.model_id, options)
            for index, (structure_id, name) in enumerate(zip(structure_ids, ids, strict=True))
        ]
        # the first of those with the same id represents all
        unique = {key: index for index, key in reversed(list(enumerate(prediction_ids)))}
        known = find_predictions(workspace.predictions, [key for key, index in unique.items() if structure_ids[index]])
        found = {key: doc for key, doc in known.items() if not (doc.second_opinion and doc.second_opinion.failed)}
        made: dict[str, PredictionDoc] = {}
        for key, identity, name in zip(prediction_ids, identities, ids, strict=True):
            if isinstance(identity, ContentError):
                made[key] = _add_context(_refuse(identity, name, folder.model_id), key, None, options, device)
        todo = sorted(index for key, index in unique.items() if key not in found and key not in made)
        if todo:
            predictions, used = _predict(folder, device, options, [structures[i] for i in todo], [ids[i] for i in todo])
            for i, prediction in zip(todo, predictions, strict=True):
                made[prediction_ids[i]] = _add_context(prediction, prediction_ids[i], structure_ids[i], options, used)
            save_predictions(workspace.predictions, [doc for doc in made.values() if doc.verdict != Verdict.ERROR])
    _log_predictions(folder.model_id, list(made.values()), len(found))
    documents = [
        _relabel(found.get(key) or made[key], structure, name)
        for key, structure, name in zip(prediction_ids, structures, ids, strict=True)
    ]
    return documents, sum(key in found for key in prediction_ids)


def _log_predictions(model_id: str, made: Sequence[PredictionDoc], n_known: int) -> None:
    verdicts = format_counts(Counter(str(doc.verdict) for doc in made))
    logger.info("model %s: %d structures predicted (%s), %d known", model_id, len(made), verdicts, n_known)


def _predict(
    folder: ModelFolder, device: str, options: PredictOptions, structures: list[Any], ids: list[str | None]
) -> tuple[list[Prediction], str]:
    """Predictions of a model, and the device that computed them."""
    from e3relax_flows.predict.predictor import Predictor

    predictor = Predictor.load(str(folder.path), device=device)
    if predictor.model_id != folder.model_id:
        raise ModelError(f"{folder.path} was model {folder.model_id} and is {predictor.model_id}; run again")
    names = [name for name in ids if name is not None]
    return predictor.predict(structures, options, ids=names if len(names) == len(ids) else None), str(predictor.device)


def _thaw(item: Any) -> Any:
    """The Structure of an IStructure; other values are not changed."""
    if not isinstance(item, IStructure) or isinstance(item, Structure):
        return item
    return Structure.from_sites(item.sites, charge=item._charge, properties=item.properties)


def _identify(structure: Any) -> str | ContentError | None:
    """Id of a structure, or why it has none; None for other values."""
    if not isinstance(structure, Structure):
        return None
    try:
        return identify_structure(structure)
    except ContentError as error:
        return error


def _refuse(error: ContentError, name: str | None, model_id: str) -> Prediction:
    """Error instead of the prediction of a structure without an id, which could not be found again."""
    message = f"{name or 'structure'}: {error}"
    return Prediction(
        id=name, verdict=Verdict.ERROR, reasons=[Reason.NOT_A_STRUCTURE], message=message, model_id=model_id
    )


def _relabel(document: PredictionDoc, asked: Any, name: str | None) -> PredictionDoc:
    """The document with those inputs that are not part of ids: name, properties and periodic images."""
    update: dict[str, Any] = {"id": name}
    if isinstance(asked, Structure) and document.initial is not None and document.structure is not None:
        update["initial"], update["structure"] = asked, document.structure.copy()
        update["structure"].properties = copy.deepcopy(asked.properties)
        if document.polished is not None:
            update["polished"] = document.polished.copy()
            update["polished"].properties = copy.deepcopy(asked.properties)
    return document.model_copy(update=update)


def _add_context(
    prediction: Prediction, prediction_id: str, structure_id: str | None, options: PredictOptions, device: str
) -> PredictionDoc:
    """Add the fields of the store to a prediction; the job and its flows are those that run now."""
    current = CURRENT_JOB.job
    return PredictionDoc(
        **{name: getattr(prediction, name) for name in Prediction.model_fields},
        prediction_id=prediction_id,
        structure_id=structure_id,
        options=options,
        device=device,
        metadata=dict(current.metadata) if current else {},
        job_uuid=current.uuid if current else None,
        hosts=list(current.hosts) if current else [],
    )
