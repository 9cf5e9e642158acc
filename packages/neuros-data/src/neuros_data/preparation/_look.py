"""What `download` would do: sessions, terms, files and bytes, before anything is done."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuros_data.acquisition.source import SessionInfo
from neuros_data.preparation._ledger import store_at, terms_to_accept
from neuros_data.preparation._plan import DownloadPlan, plan
from neuros_data.preparation._request import Named, check_request, find_sources
from neuros_data.preparation._run import pending_sessions
from neuros_data.preparation._sessions import choose_sessions, name_files
from neuros_data.transfer import TransferSettings


def list_sessions(
    source: Named | Sequence[Named],
    n: int | None = None,
    *,
    seed: int = 0,
    n_of: str = "session",
    transfer: TransferSettings | None = None,
) -> list[SessionInfo]:
    """Say which sessions `download` would take; only the archive is asked.

    Args:
        source: As `download`.
        n: As `download`.
        seed: As `download`.
        n_of: As `download`.
        transfer: As `download`.

    Returns:
        The sessions, source by source, sorted by id.

    Raises:
        NetworkError: When an archive cannot be listed.
    """
    check_request(n=n, n_of=n_of)
    how = transfer or TransferSettings()
    choice = choose_sessions(find_sources(source, None), n=n, n_of=n_of, seed=seed, transfer=how)
    return [session.info for session in choice.sessions]


def licence_terms(
    source: Named | Sequence[Named], root: str | os.PathLike[str] = "store"
) -> dict[str, str]:
    """Say which terms `download` asks for.

    Args:
        source: As `download`.
        root: As `download`.

    Returns:
        Source -> its terms; sources under an open licence, and terms that the store records as
        accepted, are left out.
    """
    return terms_to_accept(store_at(Path(root)), find_sources(source, None))


def plan_download(
    source: Named | Sequence[Named],
    n: int | None = None,
    *,
    root: str | os.PathLike[str] = "store",
    seed: int = 0,
    n_of: str = "session",
    settings: Any = None,
    transfer: TransferSettings | None = None,
) -> DownloadPlan:
    """Say what `download` would fetch, how much, and what is free; only the archive is asked.

    Args:
        source: As `download`.
        n: As `download`.
        root: As `download`.
        seed: As `download`.
        n_of: As `download`.
        settings: As `download`.
        transfer: As `download`.

    Returns:
        The plan.

    Raises:
        NetworkError: When an archive cannot be listed.
    """
    where = Path(root).absolute()
    chosen = find_sources(source, settings)
    check_request(n=n, n_of=n_of)
    choice = choose_sessions(
        chosen, n=n, n_of=n_of, seed=seed, transfer=transfer or TransferSettings()
    )
    store = store_at(where)
    if store is None:
        name_files(choice.sessions)
        pending = choice.sessions
    else:
        pending = pending_sessions(store, choice, force=False)
    return plan(where, store, choice, [s for s in pending if s.failure is None])
