"""A first split of a store that was just made, saved under the name `auto`."""

from neuros_data.split import make_split
from neuros_data.store import Store

SPLITS = ("auto", "none", "session", "source", "subject", "time")
_GROUPS = 3
# Seconds of the windows for which a guard is left between parts: BOLD is slow.
_WINDOW, _WINDOW_FMRI = 2.0, 60.0


def divide(store: Store, how: str) -> list[str]:
    """Save a split of all recordings.

    Args:
        store: The store.
        how: `"auto"`, `"none"`, or what to divide by.

    Returns:
        What the user should know: why there is no split.
    """
    metas = [store.files.meta(name) for name in store.files.ids]
    if how == "none" or not metas:
        return []
    by = how
    if how == "auto":
        by = "time"
        for group in ("session", "subject"):
            keys = {(m["subject"], m["session"] if group == "session" else "") for m in metas}
            by = group if len(keys) >= _GROUPS else by
    slow = all("fmri" in meta["modalities"] for meta in metas)
    window = _WINDOW_FMRI if slow else _WINDOW
    try:
        make_split(store, by, window=window).save(store, "auto")
    except ValueError as error:
        return [f"no split was made: {error}; make one with `neuros-data split`"]
    return []
