"""Settings: environment variables E3RELAX_* over the file ~/.e3relax.yaml; read at the edges only."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource
from yaml import YAMLError

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.logs import LogLevel, show_log
from e3relax_flows.core.roles import Role, WorkerConfig

DEFAULT_CONFIG_FILE = "~/.e3relax.yaml"
DATA_FILE = "e3relax.sqlite"  # in DATA_DIR: the embedded stores
# folders that jobflow and FireWorks make for single jobs
JOB_FOLDER = re.compile(r"(job|launcher)_\d{4}(-\d\d){5}-\d+(-\d+)?")


class E3RelaxSettings(BaseSettings):
    """Everything that may differ between machines.

    An environment variable E3RELAX_<NAME> wins over the configuration file, which is
    E3RELAX_CONFIG_FILE or ~/.e3relax.yaml. Relative paths, those of stores too, are below the working directory; in a
    folder that jobflow or FireWorks has made for one job, below the folder around it, so that all jobs of a run see
    the same stores.

    Examples
    --------
    >>> from pathlib import Path
    >>> from e3relax_flows import E3RelaxSettings
    >>> settings = E3RelaxSettings(DATA_DIR=Path("runs/data"), DEVICE="cpu")
    >>> settings.DATA_DIR.is_absolute(), settings.DEVICE, settings.MODEL
    (True, 'cpu', 'default')
    """

    model_config = SettingsConfigDict(env_prefix="E3RELAX_", extra="forbid", env_nested_delimiter="__")

    CONFIG_FILE: Path = Field(Path(DEFAULT_CONFIG_FILE), description="YAML file with these settings")
    DATA_DIR: Path = Field(Path("e3relax_data"), description="folder of the embedded stores and of imported models")
    MODEL: str = Field("default", description="model that predicts when none is named")
    DEVICE: str = Field("auto", description="torch device, or auto: CUDA where there is one")
    PREDICTION_STORE: dict[str, Any] | None = Field(
        None, description="maggma store of predictions, written as in jobflow.yaml; none: embedded"
    )
    OUTCOME_STORE: dict[str, Any] | None = Field(
        None, description="maggma store of outcomes, written as in jobflow.yaml; none: embedded"
    )
    MODEL_STORE: dict[str, Any] | None = Field(
        None, description="maggma store of registered models and of aliases, written as in jobflow.yaml; none: embedded"
    )
    WEIGHTS_STORE: dict[str, Any] | None = Field(
        None,
        description="maggma store of their weights (GridFSStore, S3Store, ...), or {type: FileStore, path: FOLDER} for "
        "model folders below it; none: the folder models in DATA_DIR",
    )
    PAIR_STORE: dict[str, Any] | None = Field(
        None, description="maggma store of pairs to train on, written as in jobflow.yaml; none: embedded"
    )
    LOG_LEVEL: LogLevel | None = Field(
        None,
        description="from which level on the log is printed on stderr: DEBUG, INFO, WARNING or ERROR; none: warnings "
        "only, as Python prints them",
    )
    WORKERS: dict[Role, WorkerConfig] = Field(
        default_factory=dict,
        description="where submitted jobs run, by role (predict, dft, train, light); configs/e3relax.yaml shows them",
    )

    @field_validator("DATA_DIR", "CONFIG_FILE")
    @classmethod
    def _expand(cls, path: Path) -> Path:
        return _make_absolute(path)

    @field_validator("PREDICTION_STORE", "OUTCOME_STORE", "PAIR_STORE", "MODEL_STORE", "WEIGHTS_STORE")
    @classmethod
    def _expand_store(cls, spec: dict[str, Any] | None) -> dict[str, Any] | None:
        return spec if spec is None else _expand_paths(spec)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order of the sources: arguments, environment, file."""
        file = env_settings().get("CONFIG_FILE") or DEFAULT_CONFIG_FILE
        yaml = YamlConfigSettingsSource(settings_cls, yaml_file=Path(str(file)).expanduser())
        return (init_settings, env_settings, yaml)


def load_settings(**overrides: Any) -> E3RelaxSettings:
    """Read the settings as they are now, and print the log at `LOG_LEVEL`.

    Raises
    ------
    ConfigError
        When an entry is unknown or of the wrong type, or the file does not hold settings in YAML.

    Examples
    --------
    Arguments win over environment variables, and these over the file:

    >>> import os
    >>> from e3relax_flows import load_settings
    >>> os.environ["E3RELAX_DEVICE"] = "cuda:1"
    >>> load_settings().DEVICE, load_settings(DEVICE="cpu").DEVICE
    ('cuda:1', 'cpu')
    >>> del os.environ["E3RELAX_DEVICE"]
    """
    try:
        settings = E3RelaxSettings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"settings (E3RELAX_* and the file {DEFAULT_CONFIG_FILE}): {lines}; known: "
            + ", ".join(E3RelaxSettings.model_fields)
        ) from error
    except (YAMLError, TypeError, ValueError, OSError) as error:
        raise ConfigError(
            f"the settings file (E3RELAX_CONFIG_FILE or {DEFAULT_CONFIG_FILE}) cannot be read ({error}); "
            "write one setting per line, such as DATA_DIR: /home/me/e3relax_data"
        ) from error
    show_log(settings.LOG_LEVEL)
    return settings


def isolate_stores(folder: Path) -> E3RelaxSettings:
    """Keep all stores of this process and of those it starts in one folder, whatever the user's settings are.

    It changes the environment: E3RELAX_DATA_DIR is `folder`/data, E3RELAX_CONFIG_FILE is `folder`/settings.yaml, which
    need not exist, and no E3RELAX_*_STORE is left.

    Examples
    --------
    >>> from pathlib import Path
    >>> from e3relax_flows import isolate_stores
    >>> isolate_stores(Path("runs/trial")).DATA_DIR.parts[-3:]
    ('runs', 'trial', 'data')
    """
    for name in [name for name in os.environ if re.fullmatch("E3RELAX_.*_STORE.*", name)]:
        del os.environ[name]
    os.environ["E3RELAX_CONFIG_FILE"] = str((folder / "settings.yaml").absolute())
    os.environ["E3RELAX_DATA_DIR"] = str((folder / "data").absolute())
    return load_settings()


def _expand_paths(spec: dict[str, Any]) -> dict[str, Any]:
    """The description of a store with absolute paths, also those of the stores in it."""
    expanded = {name: _expand_paths(value) if isinstance(value, dict) else value for name, value in spec.items()}
    if isinstance(expanded.get("path"), str):
        expanded["path"] = str(_make_absolute(Path(str(expanded["path"]))))
    return expanded


def _make_absolute(path: Path) -> Path:
    folder = Path.cwd()
    while JOB_FOLDER.fullmatch(folder.name):
        folder = folder.parent
    return folder / path.expanduser()
