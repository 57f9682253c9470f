"""JSON to the dataclasses of `answers`, checked field by field."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read(kind: type[T], value: Any, where: str = "answer") -> T:
    """The value as a dataclass. Fields it does not have are left out, those with a default may be missing.

    Raises:
        ValueError: a field is missing or of another type; the message names it, and not what is in it.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    found = {}
    for name, (hint, required) in _fields(kind).items():  # type: ignore[arg-type]
        if name in value:
            found[name] = _value(hint, value[name], f"{where}.{name}")
        elif required:
            raise ValueError(f"{where}.{name} is missing")
    return kind(**found)


@cache
def _fields(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    hints = get_type_hints(kind)
    return {
        field.name: (hints[field.name], field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _value(hint, value, where)
    if is_dataclass(hint):
        return read(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], one, f"{where}[{index}]") for index, one in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {name: _value(arguments[1], one, f"{where}.{name}") for name, one in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    # Not isinstance: a boolean is an int there.
    if type(value) is hint:
        return value
    raise ValueError(f"{where} is of another type than {getattr(hint, '__name__', hint)}")
