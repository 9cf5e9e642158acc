"""What is asked for, checked before anything is done."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from neuros_core.errors import check_choice
from neuros_data._files import shorten
from neuros_data.acquisition.source import Source, sources
from neuros_data.preparation._divide import SPLITS

Named = str | Source


@dataclass(frozen=True)
class Work:
    """How sessions are prepared."""

    jobs: int
    executor: str
    require: tuple[str, ...]
    strict: bool
    force: bool


def find_sources(given: Named | Sequence[Named], settings: Any) -> list[Source]:
    names: Sequence[Named] = (
        list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    )
    if settings is not None and len(names) != 1:
        raise ValueError(f"settings are those of one source, got {len(names)} sources")
    found = [_source(name) for name in names]
    if not found or len({s.name for s in found}) < len(found):
        raise ValueError(f"sources need to be one or more that differ, got {names}")
    if settings is None:
        return found
    chosen: Any = found[0]
    return [replace(chosen, settings=settings)]


def _source(given: Named) -> Source:
    if not isinstance(given, str):
        if not isinstance(given, Source):
            raise TypeError(f"source needs a name or a Source, got {type(given).__name__}")
        if type(given).__module__ == "__main__":
            raise TypeError(
                f"source {given.name!r} needs a class that workers can import; "
                "define it in a module instead of the running script"
            )
        return given
    known = sources()
    if given not in known:
        raise KeyError(f"no source {given!r}; there are {shorten(sorted(known))}")
    return known[given]


def check_request(
    *,
    n: int | None = None,
    n_of: str = "session",
    jobs: int | None = None,
    executor: str = "local",
    split: str = "auto",
    require: Sequence[str] = (),
    strict: bool = False,
    force: bool = False,
) -> Work:
    if n is not None and n < 1:
        raise ValueError(f"n needs 1 or more, got {n}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs needs 1 or more, got {jobs}")
    check_choice("n_of", n_of, ("session", "subject"))
    check_choice("split", split, SPLITS)
    if isinstance(require, str):
        raise TypeError(f"require needs a list of names, got the text {require!r}")
    check_choice("executor", executor.partition(":")[0], ("local", "dask"))
    if executor.startswith("local:"):
        raise ValueError(f"executor local has no address, got {executor!r}")
    return Work(jobs or os.cpu_count() or 1, executor, tuple(require), strict, force)
