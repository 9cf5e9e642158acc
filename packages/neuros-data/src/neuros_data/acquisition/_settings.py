"""The settings that a source is given are its own."""

from typing import Any, TypeVar

T = TypeVar("T")


def check_settings(settings: Any, kind: type[T]) -> T:
    """The settings, when they are of the source's kind.

    Raises:
        TypeError: When they are something else.
    """
    if not isinstance(settings, kind):
        raise TypeError(f"settings needs {kind.__name__}, got {type(settings).__name__}")
    return settings
