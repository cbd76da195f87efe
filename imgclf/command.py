"""What the commands share: mistakes as one line with a hint, options from the configuration."""

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError
from imgclf.options import option_of

# Of the whole command line.
CONTEXT_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    # `mlflow run -P batch_size=32` passes "--batch_size 32".
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 100,
}


class Group(click.Group):
    """Shows a person's mistake as one line with a hint, never as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102
        try:
            return super().invoke(ctx)
        except ImgclfError as error:
            print_error(error.message, error.hint)
            ctx.exit(error.exit_code)
        except ModuleNotFoundError as error:
            extra = _extra_for(error.name or "")
            if not extra:
                raise
            print_error(
                f"This command needs '{error.name}', which is not installed.",
                f"Install it with: pip install 'imgclf[{extra}]'",
            )
            ctx.exit(1)


def print_error(message: str, hint: str = "") -> None:
    """Print what went wrong to standard error, and below it what to do."""
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    if hint:
        click.echo(hint, err=True)


def _extra_for(module: str) -> str:
    """Return the extra that brings a module; empty for one that no extra brings."""
    trained = ("torch", "torchvision", "mlflow", "onnx", "onnxscript", "sklearn", "matplotlib")
    tools = ("rich", "safetensors", "yaml", "psutil", "pynvml", "jinja2", "filelock")
    served = ("fastapi", "starlette", "uvicorn", "httptools", "prometheus_client")
    forms = ("python_multipart", "multipart")
    top = module.split(".")[0]
    return "serve" if top in (*served, *forms) else "train" if top in (*trained, *tools) else ""


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each field of `TrainConfig`, in the order of the fields."""
    for field in reversed(dataclasses.fields(TrainConfig)):
        option = option_of(field)
        names = [f"--{field.name.replace('_', '-')}"]
        if option.alias:
            names.append(f"--{option.alias}")
        default = "true" if field.default is True else "false" if field.default is False else None
        shown = f"{default or field.default}" or "empty"
        allowed = f"; {option.range_text}" if option.range_text and field.type is not bool else ""
        command = click.option(
            *names,
            field.name,
            type=field.type,
            metavar="BOOLEAN" if field.type is bool else None,
            help=f"{option.help}  [default: {shown}{allowed}]",
        )(command)
    return command


class ConfigCommand(click.Command):
    """Lists the options of `TrainConfig` under its groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: D102
        groups = {field.name: option_of(field).group for field in dataclasses.fields(TrainConfig)}
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(groups.get(parameter.name or "", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
