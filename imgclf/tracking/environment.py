"""What a run was computed with, as tags."""

import platform
import subprocess
from importlib.metadata import version

from imgclf import __version__
from imgclf.config import TrainConfig

_PACKAGES = ("torch", "mlflow", "numpy", "pillow", "onnx", "onnxruntime")


def environment_tags(device_name: str, config: TrainConfig) -> dict[str, str]:
    """Return what a training run was computed with: `software_tags` and the device.

    Args:
        device_name: the device as its maker calls it.
        config: resolved: it names the device, the precision and the threads in use.
    """
    return {
        **software_tags(),
        "device": config.device,
        "device.name": device_name,
        "precision": config.precision,
        "threads": str(config.threads),
    }


def software_tags() -> dict[str, str]:
    """Return platform, versions and the state of the git checkout that the command ran in."""
    tags = {f"version.{name}": version(name) for name in _PACKAGES}
    tags["version.imgclf"] = __version__
    tags["version.python"] = platform.python_version()
    tags["platform"] = platform.platform()
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
