"""What the commands share: where they are, and mistakes as one line with a hint."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from imgclf.errors import ImgclfError

# Of the whole command line.
CONTEXT_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    # `mlflow run -P batch_size=32` passes "--batch_size 32".
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 100,
}


class _Commands(Mapping[str, click.Command]):
    """Name -> command, imported when it is asked for."""

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._homes = homes

    def __getitem__(self, name: str) -> click.Command:
        return getattr(import_module(self._homes[name]), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


class Group(click.Group):
    """Imports a command when it is asked for, and shows a mistake as one line, not a traceback.

    Args:
        homes: name of a command -> the module that holds a function of this name.
        options: as `click.Group` takes them.
    """

    def __init__(self, homes: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        # click adds none to them.
        self.commands = _Commands(homes)  # pyrefly: ignore

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102
        try:
            return super().invoke(ctx)
        except ImgclfError as error:
            print_error(error.message, error.hint)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:  # wherever it comes, be it while torch is imported
            with suppress(OSError):  # nobody reads any more
                click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except ModuleNotFoundError as error:
            extra = _extra_for(error.name or "")
            if not extra:
                raise
            print_error(
                f"This command needs '{error.name}', which is not installed.",
                f"In imgclf's repository: pip install '.[{extra}]'",
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
