"""Arguments and options shared by several commands."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from palettery.app.client import Client
    from palettery.app.settings import Settings
    from palettery.schemas.config import KMeansPalettizerConfig
    from palettery.schemas.targets import Choices

Model = Annotated[
    list[Path],
    typer.Argument(help="Model file; several for shards, with or without their index."),
]
Config = Annotated[Path | None, typer.Option("--config", help="Config, as JSON or YAML.")]
Preset = Annotated[str | None, typer.Option("--preset", help="Preset: w4, w6, w8 or small.")]
Sensitivities = Annotated[
    list[Path] | None,
    typer.Option(
        "--sensitivities",
        help="Importance of each weight's error: a tensor per weight; repeatable for shards.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="Size to reach instead of a list of bits: 16MB, 3.5bpw (bits per weight) or 0.25x; or "
        "quality to keep: 'cosine>=0.98', 'cosine.p5>=0.95', 'snr_db>=20', 'top1>=0.9'.",
    ),
]
TargetInputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--inputs",
        help="Inputs on which a target of a quality is measured: a .safetensors file; repeatable.",
    ),
]
ChoicesFile = Annotated[
    Path | None,
    typer.Option("--choices", help="What a target may choose, as JSON or YAML: docs/targets.md."),
]
ConfigOut = Annotated[
    Path | None, typer.Option("--config-out", help="Also write the config that a target chose.")
]
CurveFile = Annotated[
    Path | None,
    typer.Option(
        "--curve", help="Also write a target's sizes and errors: HTML if named .html, else JSON."
    ),
]
CalibrationFolder = Annotated[
    Path | None,
    typer.Option("--calibration", help="Folder that `palettery calibrate` wrote for this model."),
]
Feedback = Annotated[
    bool,
    typer.Option(
        "--feedback/--no-feedback",
        help="Minimise errors of layers' outputs where the calibration has second moments.",
    ),
]
Inputs = Annotated[
    list[Path],
    typer.Option(
        "--inputs",
        help="A .safetensors file with the model's inputs by name, a sample a row; repeatable.",
    ),
]
AtLeast = Annotated[
    list[str] | None,
    typer.Option(
        "--at-least",
        help="Quality to reach, such as cosine=0.98, cosine.p5=0.95, snr_db=20, top1=0.9 or "
        "accuracy=0.8; repeatable. Exit code 1 if an output misses it.",
    ),
]
PerSample = Annotated[bool, typer.Option("--per-sample", help="Also show each sample.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail if a config key matches nothing, or a rule cannot be applied to a tensor.",
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Output path.")]
Server = Annotated[str, typer.Option("--server", envvar="PALETTERY_SERVER", help="Server's URL.")]
ApiKey = Annotated[
    str | None, typer.Option("--key", envvar="PALETTERY_KEY", help="API key.", show_envvar=True)
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Label = Annotated[
    str | None, typer.Option("--label", help="Display name, for lists and the dashboard.")
]
KeepDense = Annotated[
    bool, typer.Option("--keep-dense", help="Keep tensors dense that a format cannot express.")
]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report", help="Also write the report: HTML if the name ends in .html, else JSON."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

LOCAL_SERVER = "http://127.0.0.1:8400"


def settings_of(**options: Any) -> "Settings":
    """Return the settings of the environment, overridden by options of the command line."""
    from palettery.app.settings import read_settings

    return read_settings(**{name: value for name, value in options.items() if value is not None})


def text_of(config: Path | None) -> str | None:
    """Return the text of a config file.

    Raises:
        BadInput: it cannot be read.
    """
    from palettery.app.errors import BadInput

    if config is None:
        return None
    try:
        return config.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"the config {config} is not UTF-8 text: byte {error.object[error.start]:#04x} at "
            f"{error.start}; save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)"
        ) from error
    except OSError as error:
        raise BadInput(f"cannot read the config {config}: {error}") from error


def read_choices(path: Path | None) -> "Choices":
    """Return the choices in a JSON or YAML file; the defaults without one.

    Raises:
        InvalidConfig: lists every invalid field.
    """
    from pydantic import ValidationError

    from palettery.app.errors import InvalidConfig
    from palettery.schemas.config.errors import ConfigError, describe_errors
    from palettery.schemas.config.parsing import load_text
    from palettery.schemas.targets import Choices

    if path is None:
        return Choices()
    try:
        return Choices.model_validate(load_text(text_of(path) or ""))
    except ConfigError as error:
        raise InvalidConfig(f"the choices {path} are not valid", error.errors) from error
    except ValidationError as error:
        faults = describe_errors(error, Choices)
        raise InvalidConfig(f"the choices {path} are not valid", faults) from error


@contextmanager
def connected(server: str, key: str | None) -> "Iterator[Client]":
    """Open a client of a server.

    Raises:
        Unauthenticated: the server requires a key.
    """
    from palettery.app.client import Client
    from palettery.app.errors import Unauthenticated

    with Client(server, key=key) as client:
        try:
            yield client
        except Unauthenticated as error:
            if key:
                raise
            message = f"{server} requires a key; set --key or PALETTERY_KEY"
            raise Unauthenticated(message) from error


def config_of(config: Path | None, preset: str | None) -> "KMeansPalettizerConfig":
    """Return the config of a file, or of a preset."""
    from palettery.app.configs.selection import select_config

    return select_config(text_of(config), preset)


def print_json(items: "Iterable[BaseModel]") -> None:
    """Print a list as JSON, one item per line."""
    typer.echo("[" + ",\n".join(item.model_dump_json() for item in items) + "]")
