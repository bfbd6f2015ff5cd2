"""`e3relax doctor`: what is installed and reachable, and what to type for the rest; checks are independent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from e3relax_flows.core.errors import mask_secrets
from e3relax_flows.report import console


@dataclass(frozen=True)
class Finding:
    """Result of one check; `hint` is what to type if it is not ok."""

    what: str
    state: str  # ok, missing (optional) or failed (something that is configured does not work)
    detail: str
    hint: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", mask_secrets(self.detail))


def doctor(
    place: Annotated[
        str | None,
        typer.Option(help="Also check what jobs at this place need.", metavar="fireworks|remote"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Report what is installed, which models, stores, engines and devices can be used, and what to type for the rest.

    Exit code 1 when something that is configured, or that jobs at --place need, does not work; optional parts that are
    missing do not count as failure.
    """
    from e3relax_flows.cli.doctor_places import check_place_needs

    findings: list[Finding] = []
    checks: list[Callable[[], list[Finding]]] = [
        check_packages, check_settings, check_models, check_registry, check_devices, check_stores, check_engines,
    ]  # fmt: skip
    if place:
        checks.append(partial(check_place_needs, place))
    for check in checks:
        findings += run_check(check)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _show(findings)
    raise typer.Exit(int(any(finding.state == "failed" for finding in findings)))


def run_check(check: Callable[[], list[Finding]]) -> list[Finding]:
    """Findings of a check; an error of the check is a finding."""
    try:
        return check()
    except Exception as error:  # the boundary between checks
        name = getattr(check, "__name__", "place").removeprefix("check_")
        hint = _read_hint(error)
        return [Finding(name, "failed", f"{type(error).__name__}: {error}" if hint else str(error), hint)]


def check_packages() -> list[Finding]:
    """Versions of what is installed."""
    from e3relax_flows.core.run_information import PACKAGES, collect_versions

    versions = collect_versions()
    extras = {"chgnet": "mlip", "gpaw": "gpaw"}
    rows = []
    for package in ("python", *PACKAGES):
        if package in versions:
            rows.append(Finding(package, "ok", versions[package]))
        elif package in extras:
            hint = f"pip install 'e3relax-flows[{extras[package]}]'"
            rows.append(Finding(package, "missing", "optional, not installed", hint))
        else:
            rows.append(Finding(package, "failed", "not installed", "pip install e3relax-flows"))
    return rows


def check_settings() -> list[Finding]:
    """Source of the settings, and the folder of the embedded stores."""
    from e3relax_flows.core.settings import load_settings

    settings = load_settings()
    file = settings.CONFIG_FILE.expanduser()
    place = settings.DATA_DIR.absolute()
    free = next((shutil.disk_usage(path).free for path in (place, *place.parents) if path.exists()), 0) / 2**30
    return [
        Finding("settings", "ok", f"{file}{'' if file.exists() else ' (missing: all settings are defaults)'}"),
        Finding("data folder", "ok", f"{place}, {free:.1f} GiB free"),
    ]


def check_models() -> list[Finding]:
    """The models that can be named, and whether the one in use is among them."""
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.registry.models import list_models, resolve_model

    settings = load_settings()
    folder = resolve_model(settings.MODEL, settings)
    inventory = list_models(settings)
    names = ", ".join(sorted({model.name for model in inventory.models}))
    row = Finding("model", "ok", f"{settings.MODEL} is {folder.name} ({folder.model_id}); known: {names}")
    return [row, *(Finding("model folder", "failed", problem) for problem in inventory.problems.values())]


def check_registry() -> list[Finding]:
    """Stores of models, aliases and weights, and the models of the aliases."""
    from e3relax_flows.core.model_folders import ALIASES, find_model
    from e3relax_flows.core.settings import load_settings
    from e3relax_flows.registry.store import describe_registry, find_model_docs, list_aliases
    from e3relax_flows.registry.weights import open_weights

    settings = load_settings()
    docs = find_model_docs({}, settings)
    meanings = {alias: find_model(alias).model_id for alias in ALIASES}
    names = {model_id: f"the bundled {ALIASES[alias]}" for alias, model_id in meanings.items()}
    names |= {doc.model_id: doc.name for doc in docs}
    meanings |= {doc.name: doc.model_id for doc in list_aliases(settings)}
    meant = ", ".join(f"{alias} is {names.get(meaning, 'model')} ({meaning})" for alias, meaning in meanings.items())
    weights = open_weights(settings)
    weights.check()
    return [
        Finding("registry", "ok", f"{describe_registry(settings)}, models registered: {len(docs)}; {meant}"),
        Finding("weights of models", "ok", weights.name),
    ]


def check_devices() -> list[Finding]:
    """What torch can compute on."""
    import torch

    rows = [Finding("cpu", "ok", f"threads: {torch.get_num_threads()}")]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            rows.append(Finding(f"cuda:{i}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    else:
        built = torch.version.cuda is not None
        detail = "no device is visible" if built else "this torch is built for CPU only"
        hint = "check the driver with nvidia-smi" if built else "install torch's build for CUDA to use a GPU"
        rows.append(Finding("cuda", "missing", detail, hint))
    return rows


def check_stores() -> list[Finding]:
    """Open each store and count its documents; a missing embedded one is not created."""
    from e3relax_flows.cli.model_choice import PATIENCE_MS, shorten_patience
    from e3relax_flows.core.settings import DATA_FILE, load_settings
    from e3relax_flows.ledger.store import open_outcome_store, open_prediction_store
    from e3relax_flows.pairs.store import open_pair_stores
    from e3relax_flows.stores.opening import JOB_FILE, is_job_store_configured, open_job_store

    settings = load_settings()
    names = ("PREDICTION_STORE", "OUTCOME_STORE", "PAIR_STORE")
    hurried = settings.model_copy(update={name: shorten_patience(getattr(settings, name)) for name in names})
    stores: dict[str, tuple[Callable[..., Any], Path | None]] = {
        "store of predictions": (open_prediction_store, None if settings.PREDICTION_STORE else Path(DATA_FILE)),
        "store of outcomes": (open_outcome_store, None if settings.OUTCOME_STORE else Path(DATA_FILE)),
        "store of jobs": (
            partial(open_job_store, patience_ms=PATIENCE_MS),
            None if is_job_store_configured() else Path(JOB_FILE),
        ),
        "store of pairs": (open_pair_stores, None if settings.PAIR_STORE else Path(DATA_FILE)),
    }

    def check_one(name: str) -> list[Finding]:
        opener, embedded = stores[name]
        file = settings.DATA_DIR.absolute() / embedded if embedded else None
        if file is not None and not file.exists():
            return [_check_new_file(name, file)]
        with opener(hurried) as opened:
            store = getattr(opened, "pairs", opened)
            return [Finding(name, "ok", f"{store.name}, {store.count()} documents")]

    rows: list[Finding] = []
    for name in stores:
        found = run_check(partial(check_one, name))
        rows += [Finding(name, row.state, row.detail, row.hint) for row in found]
    return rows


def _check_new_file(name: str, file: Path) -> Finding:
    """Check that an embedded store can be created."""
    folder = next(path for path in file.parents if path.exists())
    if os.access(folder, os.W_OK):
        return Finding(name, "ok", f"{file}, made when it is first needed")
    return Finding(name, "failed", f"{folder} may not be written", "name another folder with E3RELAX_DATA_DIR")


def check_engines() -> list[Finding]:
    """Which engines can run on this machine."""
    from e3relax_flows.engines.codes import list_codes
    from e3relax_flows.engines.registry import list_engines

    engines = [
        Finding(f"engine {info.name}", "ok" if info.available else "missing", info.description, info.hint)
        for info in list_engines()
    ]
    codes = [
        Finding(f"code {need.code}", "missing" if need.find_hint() else "ok", need.describe(), need.find_hint())
        for need in list_codes()
    ]
    return [*engines, *codes]


def _read_hint(error: Exception) -> str:
    from e3relax_flows.core.errors import E3RelaxError

    return "" if isinstance(error, E3RelaxError) else "run with --debug for more: e3relax --debug doctor"


def _show(findings: list[Finding]) -> None:
    from rich.table import Table

    table = Table(show_lines=False)
    table.add_column("what", no_wrap=True)
    table.add_column("state")
    table.add_column("found, and what to type for the rest", overflow="fold")
    last = ""
    for finding in findings:
        hint = "" if finding.state == "ok" or not finding.hint else f"\n→ {finding.hint}"
        if hint and finding.hint == last:
            hint = "; as above"
        last = finding.hint or last
        table.add_row(
            console.plain(finding.what), console.color_word(finding.state), console.plain(finding.detail + hint)
        )
    console.out.print(table)
