"""What the annotations of the 14 motor runs mean: T1 is another movement in another run."""

from typing import NamedTuple

import numpy as np

from neuros_core import Intervals, Signal

LABELS = ("rest", "left_fist", "right_fist", "both_fists", "both_feet")


class Run(NamedTuple):
    """One run: its condition, and the labels of T0, T1 and T2."""

    condition: str
    labels: tuple[str, ...]


def _runs() -> dict[int, Run]:
    runs = {1: Run("eyes_open", ("rest",)), 2: Run("eyes_closed", ("rest",))}
    fist, both = LABELS[:3], (LABELS[0], *LABELS[3:])
    for first in (3, 7, 11):
        runs[first] = Run("real", fist)
        runs[first + 1] = Run("imagined", fist)
        runs[first + 2] = Run("real", both)
        runs[first + 3] = Run("imagined", both)
    return dict(sorted(runs.items()))


RUNS = _runs()


def label_trials(
    annotations: Signal | Intervals | None, run: int, signal: Signal
) -> tuple[Intervals, tuple[str, ...]]:
    """Trials of one run, and notes about annotations that are none.

    Args:
        annotations: Those of the file, with the column `label`: T0, T1, T2.
        run: Number of the run.
        signal: What was recorded; trials end with it.

    Returns:
        Intervals with the columns `label`, `code` (place in `LABELS`), `imagined`, `condition`.

    Raises:
        ValueError: When there is no annotation of a trial.
    """
    kind = RUNS[run]
    meaning = {f"T{i}": label for i, label in enumerate(kind.labels)}
    if not isinstance(annotations, Intervals) or "label" not in annotations.columns:
        raise ValueError(f"run {run} needs the annotations T0, T1 and T2, the file has none")
    written = [str(text) for text in annotations.columns["label"]]
    end = np.minimum(annotations.end, signal.start + signal.duration)
    known = np.array([text in meaning for text in written]) & (end > annotations.start)
    if not known.any():
        raise ValueError(f"run {run} needs annotations among {', '.join(meaning)}, got {written}")
    labels = [meaning[text] for text, good in zip(written, known, strict=True) if good]
    other = sorted({text for text in written if text not in meaning})
    n = len(labels)
    trials = Intervals(
        annotations.start[known],
        end[known],
        {
            "label": np.array(labels),
            "code": np.array([LABELS.index(label) for label in labels]),
            "imagined": np.full(n, kind.condition == "imagined"),
            "condition": np.full(n, kind.condition),
        },
    )
    return trials, tuple(f"annotation {text!r} of run {run} is left out" for text in other)
