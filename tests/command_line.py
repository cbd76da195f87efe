"""The commands as tests run them: in this process, or in one of their own."""

import os
import subprocess
import sys
from typing import Any

from click.testing import CliRunner, Result

from imgclf.cli import main


def imgclf(*arguments: "str | os.PathLike[str]", **options: Any) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [os.fspath(argument) for argument in arguments], **options)


def process(
    *arguments: "str | os.PathLike[str]", blocked: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own, where some modules cannot be imported."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {blocked.split()!r}:\n"
        "            raise ModuleNotFoundError(f\"No module named '{name}'\", name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from imgclf.cli import main\n"
        "main(prog_name='imgclf')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=120,
    )
