"""Options of a command from the configuration of a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from imgclf.config import TrainConfig
from imgclf.options import option_of


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
