"""What is known of a parameter beside its type and its default, and the check of its value."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from imgclf.errors import UsageError
from imgclf.recipes import nearest


@dataclass(frozen=True)
class Option:
    """What is known of one parameter beside its type and its default.

    ``minimum`` and ``maximum`` are inclusive; ``alias`` is a second option name.
    """

    group: str
    help: str
    choices: tuple[str, ...] = ()
    minimum: float = -math.inf
    maximum: float = math.inf
    alias: str = ""

    @property
    def range_text(self) -> str:
        """The allowed values in words, or an empty string where anything goes."""
        if self.choices:
            return ", ".join(self.choices)
        if self.minimum > -math.inf and self.maximum < math.inf:
            return f"{exact(self.minimum)} to {exact(self.maximum)}"
        return f"{exact(self.minimum)} or more" if self.minimum > -math.inf else ""


def exact(number: float) -> str:
    """Write a number as a person would, without rounding it."""
    return repr(number).removesuffix(".0")


def parameter(group: str, default: Any, help: str, **details: Any) -> Any:
    """Define a field of a configuration, with its `Option`."""
    return dataclasses.field(
        default=default, metadata={"option": Option(group=group, help=help, **details)}
    )


def option_of(field: "dataclasses.Field[Any]") -> Option:
    """Return the `Option` of one of `TrainConfig`'s fields."""
    option = field.metadata["option"]
    assert isinstance(option, Option)
    return option


_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def checked(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return ``value`` as the field's type.

    Raises:
        UsageError: it has another type, is out of range or not among the choices.
    """
    flag = "--" + field.name.replace("_", "-")
    option = option_of(field)
    if type(value) is not field.type and not (field.type is float and type(value) is int):
        raise UsageError(f"{flag} takes {_KINDS[field.type]}, not {value!r}.")
    if option.choices and value not in option.choices:
        raise UsageError(
            f"{flag} '{value}' is unknown.{nearest(str(value), option.choices)}",
            f"Choose one of: {option.range_text}.",
        )
    if isinstance(value, int | float) and not option.minimum <= value <= option.maximum:
        raise UsageError(
            f"{flag} {exact(value)} is out of range.", f"It takes {option.range_text}."
        )
    return float(value) if field.type is float else value
