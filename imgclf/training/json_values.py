"""JSON that a stranger may have changed: read as what it must be, or refused."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_origin, get_type_hints

_Values = TypeVar("_Values")
_LARGEST = 2**63 - 1


def read_values(kind: type[_Values], values: object) -> _Values:
    """Make a dataclass of an object of JSON.

    Args:
        kind: a dataclass whose fields are text, whole numbers, numbers, or mappings of a text to a
            number.
        values: what JSON came to.

    Raises:
        ValueError: it has other names, a value is of another type, or a whole number is larger
            than 64 bits hold.
    """
    types = get_type_hints(kind)
    if not isinstance(values, dict) or values.keys() != types.keys():
        raise ValueError(f"{kind.__name__} has the fields {', '.join(types)}")
    for name, wanted in types.items():
        if not _is_of(wanted, values[name]):
            raise ValueError(f"{name} is no {getattr(wanted, '__name__', wanted)}")
    return kind(**values)


def is_number(value: object) -> bool:
    """Tell whether a value of JSON is a number that 64 bits hold; none is true or false."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= _LARGEST
    return isinstance(value, float)


def _is_of(wanted: Any, value: object) -> bool:
    if get_origin(wanted) is Mapping:
        return isinstance(value, dict) and all(map(is_number, value.values()))
    if wanted is float:
        return is_number(value)
    return isinstance(value, wanted) and (wanted is not int or is_number(value))
