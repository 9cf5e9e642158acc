"""Windows that occur in the training blocks and in the test blocks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm.evaluation.session import Session

# Expected number of windows that agree by chance.
_FALSE_ALARMS = 1e-6


class Duplicates(NamedTuple):
    """What the search found.

    Attributes:
        window: Samples per window; 0 where no window is long enough to tell a copy from chance.
        n_test: Windows of the test blocks that were looked for.
        n_found: How many of them occur in a training block.
        first: Session and sample at which the first of them begins.
    """

    window: int
    n_test: int
    n_found: int
    first: tuple[str, int] | None


class _Rows(NamedTuple):
    """Samples of all blocks, one after the other, as numbers of equal samples."""

    code: NDArray[np.int64]
    block: NDArray[np.int64]
    is_test: NDArray[np.bool_]
    session: NDArray[np.int64]
    sample: NDArray[np.int64]


def find_duplicates(sessions: Sequence[Session]) -> Duplicates:
    """Look for windows of test blocks in training blocks, also of other sessions.

    The window is the shortest that random agreement would give less than once in a million
    searches, if samples followed on each other as those of the training blocks do. Windows in which
    nothing changes are left out: silence resembles silence.
    """
    found = [_search(group) for group in _comparable(sessions)]
    searched = [result for result in found if result.window]
    if not searched:
        return Duplicates(0, 0, 0, None)
    return Duplicates(
        max(result.window for result in searched),
        sum(result.n_test for result in searched),
        sum(result.n_found for result in searched),
        next((result.first for result in searched if result.first is not None), None),
    )


def _comparable(sessions: Sequence[Session]) -> list[list[Session]]:
    """Sessions of the same modalities and numbers of channels."""
    groups: dict[tuple[tuple[str, int], ...], list[Session]] = {}
    for session in sessions:
        key = tuple(sorted((name, x.shape[1]) for name, x in session.inputs.items()))
        groups.setdefault(key, []).append(session)
    return list(groups.values())


def _search(sessions: Sequence[Session]) -> Duplicates:
    rows = _rows(sessions)
    window = _window(rows)
    if not window:
        return Duplicates(0, 0, 0, None)
    code = _window_codes(rows.code, window)
    inside = rows.block[: len(code)] == rows.block[window - 1 :]
    changes = np.concatenate([[0], np.cumsum(rows.code[1:] != rows.code[:-1])])
    usable = inside & (changes[window - 1 :] > changes[: len(code)])
    is_test = rows.is_test[: len(code)]
    copied = is_test & usable & np.isin(code, code[usable & ~is_test])
    at = np.flatnonzero(copied)
    first = (sessions[rows.session[at[0]]].name, int(rows.sample[at[0]])) if len(at) else None
    return Duplicates(window, int((is_test & usable).sum()), len(at), first)


def _rows(sessions: Sequence[Session]) -> _Rows:
    values: list[NDArray[np.float64]] = []
    block: list[NDArray[np.int64]] = []
    is_test: list[NDArray[np.bool_]] = []
    session: list[NDArray[np.int64]] = []
    sample: list[NDArray[np.int64]] = []
    for k, recording in enumerate(sessions):
        # Zero may have a sign, and equal numbers have one pattern of bits otherwise.
        x = np.concatenate([recording.inputs[n] for n in sorted(recording.inputs)], axis=1) + 0.0
        for part in ("train", "test"):
            for piece in dict(recording.blocks)[part]:
                length = piece.stop - piece.start
                values.append(x[piece].astype(np.float64))
                block.append(np.full(length, len(block)))
                is_test.append(np.full(length, part == "test"))
                session.append(np.full(length, k))
                sample.append(np.arange(piece.start, piece.stop))
    _, code = np.unique(np.concatenate(values), axis=0, return_inverse=True)
    return _Rows(
        code.reshape(-1).astype(np.int64),
        np.concatenate(block),
        np.concatenate(is_test),
        np.concatenate(session),
        np.concatenate(sample),
    )


def _window(rows: _Rows) -> int:
    """Samples that tell a copy from chance; 0 where no block of both kinds has that many."""
    train = np.flatnonzero(~rows.is_test)
    follows = train[:-1][np.diff(rows.block[train]) == 0]
    n_codes = int(rows.code.max()) + 1
    alone = _agreement(rows.code[train])
    pairs = _agreement(rows.code[follows] * n_codes + rows.code[follows + 1])
    # Where one sample agrees, the next may agree more often than by chance alone.
    chance = max(alone, pairs / alone if alone else 0.0, 1.0 / len(train))
    if chance >= 1.0:
        return 0
    n_test = int(rows.is_test.sum())
    log_pairs = math.log(max(n_test, 1) * len(train) / _FALSE_ALARMS)
    window = max(math.ceil(log_pairs / -math.log(chance)), 2)
    longest = [
        int(np.bincount(rows.block[rows.is_test == kind]).max(initial=0)) for kind in (False, True)
    ]
    return window if window <= min(longest) else 0


def _agreement(code: NDArray[np.int64]) -> float:
    """Share of the pairs of different places that hold the same code."""
    _, n = np.unique(code, return_counts=True)
    total = len(code)
    return float((n * (n - 1.0)).sum() / (total * (total - 1.0))) if total > 1 else 1.0


def _window_codes(code: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """One number per window, equal where all samples are; doubling makes it exact."""
    length = 1
    while 2 * length <= window:
        code = _joined(code, length)
        length *= 2
    return code if length == window else _joined(code, window - length)


def _joined(code: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    both = code[:-shift] * (int(code.max()) + 1) + code[shift:]
    joined: NDArray[np.int64] = np.unique(both, return_inverse=True)[1].reshape(-1)
    return joined
