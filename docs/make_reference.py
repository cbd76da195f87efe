"""Write docs/reference.md from the configuration: python docs/make_reference.py."""

import dataclasses
from pathlib import Path

from imgclf.config import TrainConfig
from imgclf.options import option_of

HEAD = """# Options of `imgclf train`

Each is a field of `imgclf.TrainConfig`, an option of the command (`--batch-size` and `--batch_size`
are the same) and a parameter of the MLflow project (`-P batch_size=32`). This page is written by
`python docs/make_reference.py`.
"""


def reference() -> str:
    """Return the page."""
    lines = [HEAD]
    group = ""
    for field in dataclasses.fields(TrainConfig):
        option = option_of(field)
        if option.group != group:
            group = option.group
            lines.append(
                f"\n## {group}\n\n| option | default | values | meaning |\n|---|---|---|---|"
            )
        name = f"`--{field.name.replace('_', '-')}`"
        if option.alias:
            name += f", `--{option.alias}`"
        default = str(field.default).lower() if field.type is bool else str(field.default)
        values = "true, false" if field.type is bool else option.range_text
        shown = f"`{default}`" if default else "empty"
        lines.append(f"| {name} | {shown} | {values} | {option.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(reference(), encoding="utf-8")
