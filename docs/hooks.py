"""Reference pages of the documentation, made of the code when it is built: nothing in them is written by hand."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import e3relax_flows

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = "e3relax_flows/weights"
CARDS = {f"{WEIGHTS}/{m}/card.md": f"model-card-{m}" for m in ("base", "small", "small-pbesol", "small-r2scan")}
PYTHON = {
    "predictions": (
        "Predictions",
        "What the network says of a structure, and the guards that judge it.",
        "Predictor PredictOptions GuardLimits Constraints Prediction PredictionDoc Verdict Reason",
    ),
    "prerelaxation": (
        "Pre-relaxation",
        "A prediction, the relaxation from it, and the outcome, as makers and flows of jobflow.",
        "PrerelaxMaker PrerelaxFlowMaker StartKind RelaxationResult OutcomeDoc OutcomeState",
    ),
    "screens": (
        "Screens",
        "Many candidates in one store of states.",
        "ScreenMaker ScreenConfig ScreenLimits run_screen run_candidates submit_screen read_screen ScreenDoc "
        "CandidateRow CandidateState OutcomeRow ScreenReport has_errors show_screen rank_screen RankedRow",
    ),
    "candidates": (
        "Candidates",
        "Where structures come from.",
        "read_structures ReadItem read_sources SubstitutionSource PrototypeSource MaterialsProjectSource CandidateList "
        "build_candidates enumerate_candidates CrystalRules draw_crystals list_prototypes COMMON INTERSTITIAL "
        "scale_volume identify_structure label_prototype",
    ),
    "engines": (
        "Engines",
        "DFT codes and potentials as values.",
        "Engine get_engine list_engines register_engine EngineEntry VaspEngine choose_gpaw_settings find_potential "
        "TaskReader read_ase_documents",
    ),
    "ledger": (
        "Ledger",
        "Predictions joined with what relaxations said about them.",
        "open_workspace Workspace find_predictions find_outcomes predictions_dataframe outcomes_dataframe "
        "savings_dataframe summarize_savings describe_savings measure_errors measure_displacements measure_log_strain",
    ),
    "models": (
        "Models",
        "Weights, the alias that names the model in service, and judgements.",
        "register_model resolve_model find_alias promote rollback open_judgements find_gates GateDoc",
    ),
    "pairs": (
        "Pairs and holdouts",
        "From relaxations to pairs of structures, and the pairs that no training sees.",
        "PairBuilder PairDoc PairFilter identify_pair settle_relaxed OutcomeDocuments open_pair_store open_pair_stores "
        "CURRENT_PAIRS save_pairs iter_pairs write_pair_file load_pairs PairSet HoldoutDoc freeze_holdout "
        "open_dataset_stores save_holdout list_holdouts find_same_holdout find_nearest_images",
    ),
    "retraining": (
        "Retraining",
        "From pairs to the next model.",
        "RetrainMaker RetrainConfig RetrainDoc run_retraining show_retraining TrainConfig train_model "
        "evaluate_pairs vary_starts recalibrate",
    ),
    "campaigns": (
        "Campaigns",
        "Generations of a screen, labels and a retraining.",
        "CampaignMaker CampaignConfig CampaignState read_pool register_campaign start_campaign resume_campaign "
        "run_campaign build_campaign_maker open_campaign_stores find_campaign load_generations build_campaign_pairs "
        "choose_candidates SelectionPool SelectionMix show_campaign",
    ),
    "submission": (
        "Submission",
        "Flows on this machine, FireWorks and jobflow-remote.",
        "submit submit_many identify_flow run_flow_locally open_job_store SQLiteStore",
    ),
    "settings": (
        "Settings and errors",
        "Where stores are, what is raised, and what makes results repeatable.",
        "E3RelaxSettings load_settings isolate_stores E3RelaxError ConfigError MissingDependencyError "
        "collect_versions draw_uniform hash_content",
    ),
    "testing": ("Testing", "Parts for tests of your own engines and flows.", ""),
}  # public names by noun; those of `e3relax_flows.testing` stand in its own list
CONFIGURATIONS = {
    "configs/screen.yaml": "e3relax_flows.schemas.screens:ScreenConfig",
    "configs/train.yaml": "e3relax_flows.schemas.training:TrainConfig",
    "configs/retrain.yaml": "e3relax_flows.schemas.retraining:RetrainConfig",
    "configs/campaign.yaml": "e3relax_flows.schemas.campaigns:CampaignConfig",
}
LINKS = {f"../{card}": f"reference/{page}.md" for card, page in CARDS.items()}  # also read in the repository
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:benchmarks|configs|workflows)/[^)]*\)")  # files without a page


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of the code."""
    from mkdocs.structure.files import File

    for path, text in build_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links into the repository into links to the pages made of the same files, or into their text."""
    for old, new in LINKS.items():
        markdown = markdown.replace(f"]({old})", f"]({new})")
    return OUTSIDE.sub(r"\1", markdown)


def build_pages() -> dict[str, str]:
    """Text of every page by its path below `docs`."""
    pages = {
        "reference/cli.md": describe_commands(),
        "reference/settings.md": describe_settings(),
        "reference/documents.md": describe_documents(),
        "reference/configuration.md": describe_configurations(),
        "reference/engines.md": describe_engines(),
        "reference/workflows.md": describe_workflows(),
        **{f"reference/{page}.md": (ROOT / card).read_text(encoding="utf-8") for card, page in CARDS.items()},
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    pages["reference/python/index.md"] = describe_public_names()
    return pages | {f"reference/python/{noun}.md": describe_noun(noun) for noun in PYTHON}


# -- the command line


def iterate_commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Words and object of every command of `e3relax`, groups and hidden ones left out."""
    import typer

    from e3relax_flows.cli.app import app

    def walk(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield words, command
            return
        for name, child in children.items():
            if not child.hidden:
                yield from walk((*words, name), child)

    yield from walk(("e3relax",), typer.main.get_command(app))


def describe_commands() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "Exit codes: 0 done; 1 done, but some items have no result; 2 nothing was done, and why; 75 a training was "
        "stopped by a signal or the walltime, and the same command continues it. "
        "`e3relax --debug ...` shows tracebacks. `e3relax --install-completion` lets the shell "
        "complete commands and options.",
    ]
    for words, command in iterate_commands():
        lines += ["", f"## {' '.join(words)}", "", *clean(command.help).splitlines(), ""]
        lines += make_table(["argument or option", "meaning"], [list(describe_parameter(p)) for p in command.params])
    return "\n".join(lines) + "\n"


def describe_parameter(parameter: Any) -> tuple[str, str]:
    """Name and meaning of an argument or option."""
    if parameter.param_type_name == "argument":
        dots = "..." if parameter.nargs == -1 else ""
        name = f"{parameter.metavar or parameter.name.upper()}{dots}"
    else:
        words = "/".join([*parameter.opts, *parameter.secondary_opts])
        value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
        name = f"{words}{value}"
    notes = []
    default = parameter.default
    if parameter.required:
        notes.append("required")
    elif default not in (None, False, ()) and not callable(default) and "Sentinel" not in type(default).__name__:
        notes.append(f"default: {default}")
    return f"`{name}`", clean(getattr(parameter, "help", "") or "") + (f" ({'; '.join(notes)})" if notes else "")


# -- settings, documents, configuration files


def describe_settings() -> str:
    """Every setting."""
    from e3relax_flows import E3RelaxSettings
    from e3relax_flows.core.roles import WorkerConfig

    rows = [
        [f"`E3RELAX_{name}`", show_default(field), clean(field.description)]
        for name, field in E3RelaxSettings.model_fields.items()
    ]
    lines = ["# Settings", "", *cut_example(E3RelaxSettings), ""]
    lines += make_table(["variable", "default", "meaning"], rows)
    lines += ["", "An entry of `WORKERS`:", "", *describe_fields(WorkerConfig)]
    lines += ["", "A file with all of them:", "", *show_file("configs/e3relax.yaml")]
    return "\n".join(lines) + "\n"


def describe_documents() -> str:
    """Every pydantic document of `e3relax_flows.schemas`."""
    from e3relax_flows import schemas

    lines = ["# Documents", "", "What stores hold and jobs return. Ids are hashes of content."]
    for info in pkgutil.iter_modules(schemas.__path__):
        module = importlib.import_module(f"{schemas.__name__}.{info.name}")
        lines += ["", f"## {info.name}", "", clean(module.__doc__)]
        for model in find_models(module):
            lines += ["", f"### {model.__name__}", "", *cut_example(model), ""]
            lines += describe_fields(model)
    return "\n".join(lines) + "\n"


def describe_configurations() -> str:
    """The files that commands read, and their keys."""
    lines = ["# Configuration files", "", "Unknown keys are refused. Relative paths are taken from the file's folder."]
    for path, where in CONFIGURATIONS.items():
        module, name = where.split(":")
        model = getattr(importlib.import_module(module), name)
        lines += ["", f"## {Path(path).name}", "", *show_file(path), ""]
        for part in list_models(model):
            lines += ["", f"### {part.__name__}", "", *cut_example(part), ""]
            lines += describe_fields(part)
    return "\n".join(lines) + "\n"


def find_models(module: Any) -> list[type[BaseModel]]:
    """Public models that a module defines, in the order of their definition."""
    return [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, BaseModel)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


def list_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and those in its fields, each once, from the outside in."""
    found = [model]
    for part in found:
        for field in part.model_fields.values():
            found += [kind for kind in _find_in(field.annotation) if kind not in found]
    return found


def _find_in(annotation: Any) -> list[type[BaseModel]]:
    """Models that a type mentions."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(dict.fromkeys(kind for part in get_args(annotation) for kind in _find_in(part)))


def describe_fields(model: type[BaseModel]) -> list[str]:
    """Table of a model's fields."""
    rows = [
        [f"`{name}`", f"`{show_type(field.annotation)}`", show_default(field), clean(field.description)]
        for name, field in model.model_fields.items()
    ]
    return make_table(["field", "type", "default", "meaning"], rows)


def show_type(annotation: Any) -> str:
    """A type as it is written, without the modules of its names."""
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    text = re.sub(r"Annotated\[(\w+), PlainSerializer\(.*?\)\]", r"\1", re.sub(r"[\w.]*\.(?=\w)", "", text))
    return "..." if "<" in text or len(text) > 80 else text


def show_default(field: FieldInfo) -> str:
    """A field's default, where it is short enough to say something."""
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return ""
    text = getattr(field.default, "value", field.default)
    return "none" if text is None else f"`{text}`" if str(text) and len(str(text)) < 40 else ""


# -- engines and scripts


def describe_engines() -> str:
    """Every engine that has a name."""
    from e3relax_flows import list_engines

    rows = [[f"`{info.name}`", "yes" if info.is_dft else "no", clean(info.description)] for info in list_engines()]
    lines = [
        "# Engines",
        "",
        "Names for `--engine`, for the key `engine` of a file, and for `get_engine`. `e3relax doctor` shows which of "
        "them can run on a machine, and the command that installs what is missing. "
        "[Write an engine](../howto/engines.md) describes engines of your own.",
        "",
        *make_table(["engine", "DFT", "what it runs"], rows),
        "",
        "GPAW has the licence GPL-3. It is an optional package and is imported only by its engine.",
    ]
    return "\n".join(lines) + "\n"


def describe_workflows() -> str:
    """The numbered scripts, by what they say of themselves."""
    import ast

    lines = ["# Workflows", "", "Scripts in `workflows/`, one purpose each; tests run them all."]
    for path in sorted((ROOT / "workflows").glob("[0-9]*.py")):
        duty, _, rest = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")
        lines += ["", f"## {path.name}", "", duty, "", "```text", rest.strip("\n"), "```"] if rest else ["", duty]
    return "\n".join(lines) + "\n"


# -- the public API


def list_public_names(noun: str) -> list[tuple[str, str]]:
    """Module and name of all that a page describes."""
    from e3relax_flows import testing

    if noun == "testing":
        return [(testing.__name__, name) for name in testing.__all__]
    return [(e3relax_flows.__name__, name) for name in PYTHON[noun][2].split()]


def describe_public_names() -> str:
    """Table of all public names with the pages that describe them."""
    rows = []
    for noun, (title, _, _) in PYTHON.items():
        links = [f"[`{name}`]({noun}.md#{module}.{name})" for module, name in list_public_names(noun)]
        rows.append([f"[{title}]({noun}.md)", " ".join(links)])
    lines = [
        "# Python",
        "",
        "These names are the public API. Import them from `e3relax_flows`, and those of the page Testing from "
        "`e3relax_flows.testing`. Nothing else is promised: other modules and names may change in any release.",
        "",
        *make_table(["page", "names"], rows),
    ]
    return "\n".join(lines) + "\n"


def describe_noun(noun: str) -> str:
    """The public names of one noun, each with its import, signature, docstring and example."""
    title, duty, _ = PYTHON[noun]
    lines = [f"# {title}", "", duty]
    for module, name in list_public_names(noun):
        value = getattr(importlib.import_module(module), name)
        lines += ["", f"## {name}", "", "```python", f"from {module} import {name}", "```", "", f"::: {module}.{name}"]
        lines += ["", describe_parts(value)]
    return "\n".join(lines) + "\n"


def describe_parts(value: Any) -> str:
    """Values of an enumeration, or where a model's fields stand; empty for all else."""
    if inspect.isclass(value) and issubclass(value, Enum):
        return f"Values: {', '.join(f'`{each.value}`' for each in value)}."
    if not (inspect.isclass(value) and issubclass(value, BaseModel)):
        return ""
    if value is e3relax_flows.E3RelaxSettings:
        return "Its fields: [Settings](../settings.md)."
    is_document = value.__module__.startswith("e3relax_flows.schemas.")
    return f"Its fields: [{value.__name__}](../documents.md#{value.__name__.lower()})." if is_document else ""


def cut_example(model: type[BaseModel]) -> list[str]:
    """Lines of a model's docstring without its example, which stands on the page of its noun."""
    return inspect.cleandoc(model.__doc__ or "").partition("\nExamples\n---")[0].splitlines()


def make_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; none where there are no rows."""
    if not rows:
        return []
    bars = [[cell.replace("|", "\\|") for cell in row] for row in [titles, ["---"] * len(titles), *rows]]
    return [f"| {' | '.join(row)} |" for row in bars]


def show_file(path: str) -> list[str]:
    """A file of the repository as a block."""
    return ["```yaml", *(ROOT / path).read_text(encoding="utf-8").splitlines(), "```"]


def clean(text: str | None) -> str:
    """Paragraphs of a docstring or help, each on a line; what looks like HTML is kept as text."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text or ""))
    return "\n\n".join(" ".join(paragraph.split()).replace("<", "&lt;") for paragraph in paragraphs)
