"""The command line: which commands there are, and where."""

import io
import sys
import warnings

import click

from imgclf import __version__
from imgclf.command import CONTEXT_SETTINGS, Group

# Only the one that is asked for is imported: to predict takes a moment, and no training.
_HOMES = {
    "train": "imgclf.train_commands",
    "export": "imgclf.train_commands",
    "evaluate": "imgclf.train_commands",
    "runs": "imgclf.train_commands",
    "recipes": "imgclf.train_commands",
    "datasets": "imgclf.train_commands",
    "models": "imgclf.train_commands",
    "predict": "imgclf.model_commands",
    "verify": "imgclf.model_commands",
    "serve": "imgclf.serve_command",
    "sync": "imgclf.sync_command",
}


@click.group(
    cls=Group,
    homes=_HOMES,
    context_settings=CONTEXT_SETTINGS,
    epilog="Start with:  imgclf train",
)
@click.version_option(__version__, prog_name="imgclf")
def main() -> None:
    """Train an image classifier, track it in MLflow, export it as one proved ONNX file."""
    # A name may hold what the encoding of a terminal or of a log lacks: that must end no run.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    # Pillow remarks on the damaged EXIF data of photos that it reads all the same.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
