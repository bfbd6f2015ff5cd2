"""Structure relaxation workflows: one-shot prediction with E3Relax-H2 in front of DFT.

What is listed here is what users import; everything else may move. A name is loaded when it is first used, so that
`import e3relax_flows` needs neither torch nor a database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from e3relax_flows.core.moved import find_moved_modules

if TYPE_CHECKING:
    from e3relax_flows.campaigns.control import resume_campaign as resume_campaign
    from e3relax_flows.campaigns.control import run_campaign as run_campaign
    from e3relax_flows.campaigns.control import start_campaign as start_campaign
    from e3relax_flows.campaigns.maker import CampaignMaker as CampaignMaker
    from e3relax_flows.campaigns.register import build_maker as build_campaign_maker
    from e3relax_flows.campaigns.register import read_candidates as read_pool
    from e3relax_flows.campaigns.register import register_campaign as register_campaign
    from e3relax_flows.campaigns.results import build_pairs as build_campaign_pairs
    from e3relax_flows.campaigns.selection import Pool as SelectionPool
    from e3relax_flows.campaigns.selection import choose_candidates as choose_candidates
    from e3relax_flows.campaigns.store import find_campaign as find_campaign
    from e3relax_flows.campaigns.store import load_generations as load_generations
    from e3relax_flows.campaigns.store import open_campaign_stores as open_campaign_stores
    from e3relax_flows.candidates.aflow import list_prototypes as list_prototypes
    from e3relax_flows.candidates.builtin import build_candidates as build_candidates
    from e3relax_flows.candidates.enumerations import COMMON as COMMON
    from e3relax_flows.candidates.enumerations import INTERSTITIAL as INTERSTITIAL
    from e3relax_flows.candidates.enumerations import enumerate_candidates as enumerate_candidates
    from e3relax_flows.candidates.random_crystals import CrystalRules as CrystalRules
    from e3relax_flows.candidates.random_crystals import draw_crystals as draw_crystals
    from e3relax_flows.candidates.reading import ReadItem as ReadItem
    from e3relax_flows.candidates.reading import read_structures as read_structures
    from e3relax_flows.candidates.sources import read_sources as read_sources
    from e3relax_flows.candidates.spool import CandidateList as CandidateList
    from e3relax_flows.candidates.substitutions import scale_volume as scale_volume
    from e3relax_flows.core.errors import ConfigError as ConfigError
    from e3relax_flows.core.errors import E3RelaxError as E3RelaxError
    from e3relax_flows.core.errors import MissingDependencyError as MissingDependencyError
    from e3relax_flows.core.geometry import find_nearest_images as find_nearest_images
    from e3relax_flows.core.geometry import measure_displacements as measure_displacements
    from e3relax_flows.core.geometry import measure_log_strain as measure_log_strain
    from e3relax_flows.core.ids import draw_uniform as draw_uniform
    from e3relax_flows.core.ids import hash_content as hash_content
    from e3relax_flows.core.ids import identify_structure as identify_structure
    from e3relax_flows.core.run_information import collect_versions as collect_versions
    from e3relax_flows.core.settings import E3RelaxSettings as E3RelaxSettings
    from e3relax_flows.core.settings import isolate_stores as isolate_stores
    from e3relax_flows.core.settings import load_settings as load_settings
    from e3relax_flows.engines.ase_documents import read_ase_documents as read_ase_documents
    from e3relax_flows.engines.base import Engine as Engine
    from e3relax_flows.engines.gpaw_settings import choose_settings as choose_gpaw_settings
    from e3relax_flows.engines.potentials import find_potential as find_potential
    from e3relax_flows.engines.registry import EngineEntry as EngineEntry
    from e3relax_flows.engines.registry import get_engine as get_engine
    from e3relax_flows.engines.registry import list_engines as list_engines
    from e3relax_flows.engines.registry import register_engine as register_engine
    from e3relax_flows.engines.task_reader import TaskReader as TaskReader
    from e3relax_flows.engines.vasp import VaspEngine as VaspEngine
    from e3relax_flows.ledger.frames import outcomes_dataframe as outcomes_dataframe
    from e3relax_flows.ledger.frames import predictions_dataframe as predictions_dataframe
    from e3relax_flows.ledger.frames import savings_dataframe as savings_dataframe
    from e3relax_flows.ledger.joining import measure_errors as measure_errors
    from e3relax_flows.ledger.savings import summarize_savings as summarize_savings
    from e3relax_flows.ledger.store import find_outcomes as find_outcomes
    from e3relax_flows.ledger.store import find_predictions as find_predictions
    from e3relax_flows.ledger.workspace import Workspace as Workspace
    from e3relax_flows.ledger.workspace import open_workspace as open_workspace
    from e3relax_flows.pairs.builder import PairBuilder as PairBuilder
    from e3relax_flows.pairs.dataset_store import find_same_holdout as find_same_holdout
    from e3relax_flows.pairs.dataset_store import list_holdouts as list_holdouts
    from e3relax_flows.pairs.dataset_store import open_dataset_stores as open_dataset_stores
    from e3relax_flows.pairs.dataset_store import save_holdout as save_holdout
    from e3relax_flows.pairs.datasets import freeze_holdout as freeze_holdout
    from e3relax_flows.pairs.files import write_pair_file as write_pair_file
    from e3relax_flows.pairs.making import settle_relaxed as settle_relaxed
    from e3relax_flows.pairs.prototype_label import label_prototype as label_prototype
    from e3relax_flows.pairs.sources import OutcomeDocuments as OutcomeDocuments
    from e3relax_flows.pairs.store import CURRENT as CURRENT_PAIRS
    from e3relax_flows.pairs.store import iter_pairs as iter_pairs
    from e3relax_flows.pairs.store import open_pair_store as open_pair_store
    from e3relax_flows.pairs.store import open_pair_stores as open_pair_stores
    from e3relax_flows.pairs.store import save_pairs as save_pairs
    from e3relax_flows.places.local import run_flow_locally as run_flow_locally
    from e3relax_flows.places.submission import identify_flow as identify_flow
    from e3relax_flows.places.submission import submit as submit
    from e3relax_flows.places.submission import submit_many as submit_many
    from e3relax_flows.predict.predictor import Predictor as Predictor
    from e3relax_flows.prerelax.flow import PrerelaxFlowMaker as PrerelaxFlowMaker
    from e3relax_flows.prerelax.predict import PrerelaxMaker as PrerelaxMaker
    from e3relax_flows.registry.aliases import promote as promote
    from e3relax_flows.registry.aliases import rollback as rollback
    from e3relax_flows.registry.judgements import find_gates as find_gates
    from e3relax_flows.registry.judgements import open_judgements as open_judgements
    from e3relax_flows.registry.models import register_model as register_model
    from e3relax_flows.registry.models import resolve_model as resolve_model
    from e3relax_flows.registry.store import find_alias as find_alias
    from e3relax_flows.report.ranked import RankedRow as RankedRow
    from e3relax_flows.report.ranked import rank_screen as rank_screen
    from e3relax_flows.report.screens import ScreenReport as ScreenReport
    from e3relax_flows.report.tables import describe_savings as describe_savings
    from e3relax_flows.report.terminal import show_campaign as show_campaign
    from e3relax_flows.report.terminal import show_retraining as show_retraining
    from e3relax_flows.report.terminal import show_screen as show_screen
    from e3relax_flows.retraining.maker import RetrainMaker as RetrainMaker
    from e3relax_flows.retraining.run import run_retraining as run_retraining
    from e3relax_flows.schemas.campaigns import CampaignConfig as CampaignConfig
    from e3relax_flows.schemas.campaigns import CampaignState as CampaignState
    from e3relax_flows.schemas.campaigns import Mix as SelectionMix
    from e3relax_flows.schemas.candidates import MaterialsProjectSource as MaterialsProjectSource
    from e3relax_flows.schemas.candidates import PrototypeSource as PrototypeSource
    from e3relax_flows.schemas.candidates import SubstitutionSource as SubstitutionSource
    from e3relax_flows.schemas.datasets import HoldoutDoc as HoldoutDoc
    from e3relax_flows.schemas.datasets import PairFilter as PairFilter
    from e3relax_flows.schemas.models import GateDoc as GateDoc
    from e3relax_flows.schemas.outcomes import OutcomeDoc as OutcomeDoc
    from e3relax_flows.schemas.outcomes import OutcomeState as OutcomeState
    from e3relax_flows.schemas.outcomes import RelaxationResult as RelaxationResult
    from e3relax_flows.schemas.outcomes import StartKind as StartKind
    from e3relax_flows.schemas.pairs import PairDoc as PairDoc
    from e3relax_flows.schemas.pairs import identify_pair as identify_pair
    from e3relax_flows.schemas.predictions import Constraints as Constraints
    from e3relax_flows.schemas.predictions import GuardLimits as GuardLimits
    from e3relax_flows.schemas.predictions import Prediction as Prediction
    from e3relax_flows.schemas.predictions import PredictionDoc as PredictionDoc
    from e3relax_flows.schemas.predictions import PredictOptions as PredictOptions
    from e3relax_flows.schemas.predictions import Reason as Reason
    from e3relax_flows.schemas.predictions import Verdict as Verdict
    from e3relax_flows.schemas.retraining import RetrainConfig as RetrainConfig
    from e3relax_flows.schemas.retraining import RetrainDoc as RetrainDoc
    from e3relax_flows.schemas.screens import CandidateRow as CandidateRow
    from e3relax_flows.schemas.screens import CandidateState as CandidateState
    from e3relax_flows.schemas.screens import OutcomeRow as OutcomeRow
    from e3relax_flows.schemas.screens import ScreenConfig as ScreenConfig
    from e3relax_flows.schemas.screens import ScreenDoc as ScreenDoc
    from e3relax_flows.schemas.screens import ScreenLimits as ScreenLimits
    from e3relax_flows.schemas.training import TrainConfig as TrainConfig
    from e3relax_flows.screening.maker import ScreenMaker as ScreenMaker
    from e3relax_flows.screening.run import has_errors as has_errors
    from e3relax_flows.screening.run import run_candidates as run_candidates
    from e3relax_flows.screening.run import run_screen as run_screen
    from e3relax_flows.screening.store import read_screen as read_screen
    from e3relax_flows.screening.submission import submit_screen as submit_screen
    from e3relax_flows.stores.opening import open_job_store as open_job_store
    from e3relax_flows.stores.sqlite import SQLiteStore as SQLiteStore
    from e3relax_flows.train.calibrate import vary_starts as vary_starts
    from e3relax_flows.train.dataset import load_pairs as load_pairs
    from e3relax_flows.train.evaluate import evaluate_pairs as evaluate_pairs
    from e3relax_flows.train.export import train_and_export as train_model
    from e3relax_flows.train.pairs import PairSet as PairSet
    from e3relax_flows.train.recalibrate import recalibrate as recalibrate

# public names by module; name=other: what is called name there
_PUBLIC = {
    "core.errors": "ConfigError E3RelaxError MissingDependencyError",
    "core.geometry": "find_nearest_images measure_displacements measure_log_strain",
    "core.settings": "E3RelaxSettings isolate_stores load_settings",
    "core.ids": "draw_uniform hash_content identify_structure",
    "core.run_information": "collect_versions",
    "schemas.campaigns": "CampaignConfig CampaignState Mix=SelectionMix",
    "schemas.candidates": "MaterialsProjectSource PrototypeSource SubstitutionSource",
    "schemas.datasets": "HoldoutDoc PairFilter",
    "schemas.models": "GateDoc",
    "schemas.outcomes": "OutcomeDoc OutcomeState RelaxationResult StartKind",
    "schemas.pairs": "PairDoc identify_pair",
    "schemas.predictions": "Constraints GuardLimits Prediction PredictionDoc PredictOptions Reason Verdict",
    "schemas.retraining": "RetrainConfig RetrainDoc",
    "schemas.screens": "CandidateRow CandidateState OutcomeRow ScreenConfig ScreenDoc ScreenLimits",
    "schemas.training": "TrainConfig",
    "stores.opening": "open_job_store",
    "stores.sqlite": "SQLiteStore",
    "engines.ase_documents": "read_ase_documents",
    "engines.base": "Engine",
    "engines.potentials": "find_potential",
    "engines.registry": "EngineEntry get_engine list_engines register_engine",
    "engines.task_reader": "TaskReader",
    "engines.vasp": "VaspEngine",
    "engines.gpaw_settings": "choose_settings=choose_gpaw_settings",
    "candidates.builtin": "build_candidates",
    "candidates.enumerations": "COMMON INTERSTITIAL enumerate_candidates",
    "candidates.reading": "ReadItem read_structures",
    "candidates.sources": "read_sources",
    "candidates.spool": "CandidateList",
    "candidates.aflow": "list_prototypes",
    "candidates.random_crystals": "CrystalRules draw_crystals",
    "candidates.substitutions": "scale_volume",
    "ledger.frames": "outcomes_dataframe predictions_dataframe savings_dataframe",
    "ledger.savings": "summarize_savings",
    "ledger.store": "find_outcomes find_predictions",
    "ledger.workspace": "Workspace open_workspace",
    "ledger.joining": "measure_errors",
    "registry.aliases": "promote rollback",
    "registry.judgements": "find_gates open_judgements",
    "registry.models": "register_model resolve_model",
    "registry.store": "find_alias",
    "predict.predictor": "Predictor",
    "pairs.builder": "PairBuilder",
    "pairs.dataset_store": "find_same_holdout list_holdouts open_dataset_stores save_holdout",
    "pairs.datasets": "freeze_holdout",
    "pairs.files": "write_pair_file",
    "pairs.making": "settle_relaxed",
    "pairs.prototype_label": "label_prototype",
    "pairs.sources": "OutcomeDocuments",
    "pairs.store": "CURRENT=CURRENT_PAIRS iter_pairs open_pair_store open_pair_stores save_pairs",
    "places.local": "run_flow_locally",
    "places.submission": "identify_flow submit submit_many",
    "prerelax.flow": "PrerelaxFlowMaker",
    "prerelax.predict": "PrerelaxMaker",
    "report.ranked": "RankedRow rank_screen",
    "report.screens": "ScreenReport",
    "report.tables": "describe_savings",
    "report.terminal": "show_campaign show_retraining show_screen",
    "screening.maker": "ScreenMaker",
    "screening.run": "has_errors run_candidates run_screen",
    "screening.submission": "submit_screen",
    "screening.store": "read_screen",
    "retraining.maker": "RetrainMaker",
    "retraining.run": "run_retraining",
    "campaigns.control": "resume_campaign run_campaign start_campaign",
    "campaigns.maker": "CampaignMaker",
    "campaigns.register": "build_maker=build_campaign_maker read_candidates=read_pool register_campaign",
    "campaigns.results": "build_pairs=build_campaign_pairs",
    "campaigns.store": "find_campaign load_generations open_campaign_stores",
    "campaigns.selection": "choose_candidates Pool=SelectionPool",
    "train.dataset": "load_pairs",
    "train.pairs": "PairSet",
    "train.evaluate": "evaluate_pairs",
    "train.calibrate": "vary_starts",
    "train.recalibrate": "recalibrate",
    "train.export": "train_and_export=train_model",
}
_HOMES = {
    name.split("=")[-1]: (f"{__name__}.{module}", name.split("=")[0])
    for module, names in _PUBLIC.items()
    for name in names.split()
}
__all__ = [  # noqa: RUF022 - as editors and type checkers read it
    "build_campaign_maker",
    "build_campaign_pairs",
    "build_candidates",
    "CampaignConfig",
    "CampaignMaker",
    "CampaignState",
    "CandidateList",
    "CandidateRow",
    "CandidateState",
    "choose_candidates",
    "choose_gpaw_settings",
    "collect_versions",
    "COMMON",
    "ConfigError",
    "Constraints",
    "CURRENT_PAIRS",
    "describe_savings",
    "draw_crystals",
    "draw_uniform",
    "CrystalRules",
    "E3RelaxError",
    "E3RelaxSettings",
    "Engine",
    "EngineEntry",
    "enumerate_candidates",
    "evaluate_pairs",
    "find_alias",
    "find_campaign",
    "find_gates",
    "find_nearest_images",
    "find_outcomes",
    "find_potential",
    "find_predictions",
    "find_same_holdout",
    "freeze_holdout",
    "GateDoc",
    "get_engine",
    "GuardLimits",
    "has_errors",
    "hash_content",
    "HoldoutDoc",
    "identify_flow",
    "identify_pair",
    "identify_structure",
    "INTERSTITIAL",
    "isolate_stores",
    "iter_pairs",
    "label_prototype",
    "list_engines",
    "list_holdouts",
    "list_prototypes",
    "load_generations",
    "load_pairs",
    "load_settings",
    "MaterialsProjectSource",
    "measure_displacements",
    "measure_errors",
    "measure_log_strain",
    "MissingDependencyError",
    "open_campaign_stores",
    "open_dataset_stores",
    "open_job_store",
    "open_judgements",
    "open_pair_store",
    "open_pair_stores",
    "open_workspace",
    "OutcomeDoc",
    "OutcomeDocuments",
    "OutcomeRow",
    "outcomes_dataframe",
    "OutcomeState",
    "PairBuilder",
    "PairDoc",
    "PairFilter",
    "PairSet",
    "Prediction",
    "PredictionDoc",
    "predictions_dataframe",
    "PredictOptions",
    "Predictor",
    "PrerelaxFlowMaker",
    "PrerelaxMaker",
    "promote",
    "PrototypeSource",
    "rank_screen",
    "RankedRow",
    "read_ase_documents",
    "read_pool",
    "read_screen",
    "read_sources",
    "read_structures",
    "ReadItem",
    "Reason",
    "recalibrate",
    "register_campaign",
    "register_engine",
    "register_model",
    "RelaxationResult",
    "resolve_model",
    "resume_campaign",
    "RetrainConfig",
    "RetrainDoc",
    "RetrainMaker",
    "rollback",
    "run_campaign",
    "run_candidates",
    "run_flow_locally",
    "run_retraining",
    "run_screen",
    "save_holdout",
    "save_pairs",
    "savings_dataframe",
    "scale_volume",
    "ScreenConfig",
    "ScreenDoc",
    "ScreenLimits",
    "ScreenMaker",
    "ScreenReport",
    "SelectionMix",
    "SelectionPool",
    "settle_relaxed",
    "show_campaign",
    "show_retraining",
    "show_screen",
    "SQLiteStore",
    "start_campaign",
    "StartKind",
    "submit",
    "submit_many",
    "submit_screen",
    "SubstitutionSource",
    "summarize_savings",
    "TaskReader",
    "train_model",
    "TrainConfig",
    "vary_starts",
    "VaspEngine",
    "Verdict",
    "Workspace",
    "write_pair_file",
]

find_moved_modules()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
