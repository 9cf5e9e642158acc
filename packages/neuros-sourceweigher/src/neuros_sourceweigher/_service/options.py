"""The methods that the service offers, and their options as the library declares them."""

import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuros_sourceweigher import weigher

__all__: list[str] = []

# Offered by POST /v1/weights: what fits sources and a target given as statistics.
METHODS: Mapping[str, type] = {"moment-matching": weigher.SourceWeigher}
DEFAULT_METHOD = "moment-matching"
# Offered by POST /v1/class-weights.
CLASS_METHOD: type | None = getattr(weigher, "ClassConditionalWeigher", None)

# Where the library has no upper end but a server needs one.
_BOUNDS = {
    "n_bootstrap": (0, 10_000),
    "seed": (0, 2**63 - 1),
    "min_count": (1, 2**53),
    "folds": (2, 100),
}
_TEXT = 64
_KINDS = {str: "string", float: "number", int: "integer", bool: "boolean", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword of a method: its JSON types and what it is when it is not given."""

    name: str
    kinds: frozenset[str]
    default: Any

    def fault(self, value: Any) -> str | None:
        """Return what `value` needs to be of the right type, or None."""
        if not self.kinds & _kinds_of(value):
            return f"needs {' or '.join(sorted(self.kinds))}"
        low, high = _BOUNDS.get(self.name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not low <= value <= high:
            return f"needs a number from {low} to {high}"
        return None

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema."""
        forms = [self._form(kind) for kind in sorted(self.kinds)]
        found = forms[0] if len(forms) == 1 else {"anyOf": forms}
        plain = self.default is None or isinstance(self.default, str | int | float)
        return found | ({"default": self.default} if plain else {})

    def _form(self, kind: str) -> dict[str, Any]:
        if kind == "array":
            return {"type": "array", "items": {"type": "number"}}
        if kind == "string":
            return {"type": "string", "maxLength": _TEXT}
        low, high = _BOUNDS.get(self.name, (None, None))
        bounds = {} if low is None else {"minimum": low, "maximum": high}
        return {"type": kind} | (bounds if kind in ("number", "integer") else {})


def _kinds_of(value: Any) -> set[str]:
    """JSON types of a decoded value; a whole number is a number too."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, float):
        whole = {"integer"} if value.is_integer() else set()
        return {"number"} | whole if math.isfinite(value) else set()
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, str):
        return {"string"} if len(value) <= _TEXT else set()
    if isinstance(value, list):
        return {"array"} if all("number" in _kinds_of(v) for v in value) else set()
    return {"null"} if value is None else set()


def options_of(method: type) -> dict[str, Option]:
    """Return the keyword-only arguments of a method, as far as JSON has a type for them."""
    found = {}
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            kinds = frozenset(_declared(parameter.annotation))
            if kinds:
                found[name] = Option(name, kinds, parameter.default)
    return found


def _declared(annotation: Any) -> set[str]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(annotation) for kind in _declared(part)}
    if origin is typing.Literal:
        return {_KINDS[type(value)] for value in typing.get_args(annotation)}
    if annotation in _KINDS:
        return {_KINDS[annotation]}
    listed = isinstance(origin, type) and issubclass(origin, typing.Sequence)
    return {"array"} if listed else set()


def plain(option: Option, value: Any) -> Any:
    """Return a checked value as the library's type: 2.0 for an integer is 2."""
    if isinstance(value, float) and "number" not in option.kinds:
        return int(value)
    return value


TABLES = {name: options_of(method) for name, method in METHODS.items()}
CLASS_TABLE = {} if CLASS_METHOD is None else options_of(CLASS_METHOD)
