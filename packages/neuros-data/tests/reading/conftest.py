"""Reading with the warnings kept apart."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from neuros_core import Recording
from neuros_data import reading

Read = Callable[..., tuple[Recording, str]]


@pytest.fixture
def read() -> Read:
    """Read a file; returns the recording and all that was warned, as one text."""

    def run(*args: Any, **options: Any) -> tuple[Recording, str]:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            recording = reading.read(*args, **options)
        return recording, "\n".join(str(w.message) for w in heard if w.category is UserWarning)

    return run
