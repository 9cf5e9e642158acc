"""`prepare`: recordings from raw files that a store has."""

import os
from collections.abc import Sequence
from typing import Any

from neuros_data.preparation._report import PreparationReport, settled
from neuros_data.preparation._request import Named, check_request, find_sources
from neuros_data.preparation._run import fetched_before, finish, held
from neuros_data.preparation._sessions import Choice, is_finished
from neuros_data.store import Store, open_store


def prepare(
    source: Named | Sequence[Named],
    *,
    root: str | os.PathLike[str] = "store",
    jobs: int | None = None,
    settings: Any = None,
    split: str = "auto",
    executor: str = "local",
    require: Sequence[str] = (),
    strict: bool = False,
    force: bool = False,
) -> Store:
    """Prepare the sessions whose raw files a store has; nothing is fetched.

    Args:
        source: Name of a source, a `Source`, or several.
        root: Folder of the store, to which `download(raw_only=True)` fetched.
        jobs: Worker processes; by default as many as there are processors.
        settings: Settings of the source in place of its own; for one source only.
        split: As in `download`.
        executor: As in `download`.
        require: As in `download`.
        strict: True raises at the first session that fails.
        force: True prepares again what is finished.

    Returns:
        The store. Sessions that failed are warned of and listed in its `failures.jsonl`.

    Raises:
        KeyError: When there is no such source.
        ValueError: When the store has no raw files of it, or no session could be prepared.
    """
    report = run_prepare(
        source,
        root=root,
        jobs=jobs,
        settings=settings,
        split=split,
        executor=executor,
        require=require,
        strict=strict,
        force=force,
    )
    return settled(report)


def run_prepare(
    source: Named | Sequence[Named],
    *,
    root: str | os.PathLike[str] = "store",
    jobs: int | None = None,
    settings: Any = None,
    split: str = "auto",
    executor: str = "local",
    require: Sequence[str] = (),
    strict: bool = False,
    force: bool = False,
) -> PreparationReport:
    """`prepare`, with a report of what was prepared, skipped and failed.

    Args:
        source: As `prepare`.
        root: As `prepare`.
        jobs: As `prepare`.
        settings: As `prepare`.
        split: As `prepare`.
        executor: As `prepare`.
        require: As `prepare`.
        strict: As `prepare`.
        force: As `prepare`.

    Returns:
        The report; sessions that failed are in it and not raised, unless `strict`.

    Raises:
        ValueError: When the store has no raw files of a source.
    """
    chosen = find_sources(source, settings)
    work = check_request(
        jobs=jobs, executor=executor, split=split, require=require, strict=strict, force=force
    )
    open_store(root)
    with held(root) as store:
        choice = Choice()
        for found in chosen:
            choice.sessions += fetched_before(store.path, found)
        pending = [s for s in choice.sessions if force or not is_finished(store, s)]
        accepted = store.manifest.get("accepted", {})
        return finish(store, choice, pending, work, accepted=accepted, split=split)
