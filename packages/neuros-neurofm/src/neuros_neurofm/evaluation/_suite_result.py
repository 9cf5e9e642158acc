"""The scores of a benchmark, and the ways to read them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from neuros_core import RunManifest
from neuros_neurofm.evaluation._suite_report import Curve, write_report


class BenchmarkScore(NamedTuple):
    """One decoder on one task and session.

    Attributes:
        task: Name of the task.
        session: Name of the session.
        decoder: `model`, `mean` or `chance`, or the name of a baseline or decoder.
        reads: What it reads.
        metric: `R2`, `bits/spike` or `balanced accuracy`; larger is better.
        score: On the test blocks.
        low: Lower end of the 95 % interval.
        high: Upper end of the interval.
        lead: Score of the model less this score.
        lead_low: Lower end of the paired 95 % interval of the lead.
        lead_high: Upper end of it.
    """

    task: str
    session: str
    decoder: str
    reads: str
    metric: str
    score: float
    low: float
    high: float
    lead: float
    lead_low: float
    lead_high: float


@dataclass(frozen=True, slots=True, eq=False)
class BenchmarkResult:
    """Scores of a model and of its baselines on the same splits.

    Args:
        scores: One per task, session and decoder; the model comes first.
        manifest: What made the scores.
        curves: Test data and predictions that the report draws.
        notes: What the reader of the scores must know.
    """

    scores: tuple[BenchmarkScore, ...]
    manifest: RunManifest
    curves: tuple[Curve, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def best_baseline(self, task: str, session: str) -> BenchmarkScore:
        """Find the best score other than the model's.

        Args:
            task: Name of the task.
            session: Name of the session.

        Returns:
            The score.

        Raises:
            KeyError: There is no such task and session.
        """
        rows = [
            s
            for s in self.scores
            if (s.task, s.session) == (task, session) and s.decoder != "model"
        ]
        if not rows:
            known = sorted({(s.task, s.session) for s in self.scores})
            raise KeyError(f"no scores of {task!r} on {session!r}; there are {known}")
        return max(rows, key=lambda s: s.score)

    def table(self) -> str:
        """Write the scores as a Markdown table.

        Returns:
            One line per score, with its interval and the model's lead over it; then the notes.
        """
        head = ["task", "session", "decoder", "reads", "metric", "score [95 %]", "lead [95 %]"]
        rows = [
            [
                s.task,
                s.session,
                s.decoder,
                s.reads,
                s.metric,
                _interval(s.score, s.low, s.high),
                "" if s.decoder == "model" else _interval(s.lead, s.lead_low, s.lead_high),
            ]
            for s in self.scores
        ]
        lines = [head, ["---"] * len(head), *rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([table, *self.notes])

    def to_json(self) -> str:
        """Write scores and manifest as JSON.

        Returns:
            An object with `scores`, a list of objects with the fields of `BenchmarkScore`,
            `notes` and `manifest`.
        """
        content = {
            "scores": [s._asdict() for s in self.scores],
            "notes": self.notes,
            "manifest": self.manifest.to_dict(),
        }
        return json.dumps(content, indent=2, allow_nan=False)

    def report(self, path: str | Path) -> Path:
        """Write one HTML file with the table, figures (inline SVG) and the manifest.

        The file asks the network for nothing.

        Args:
            path: Where to write; an older file is replaced.

        Returns:
            The path.

        Raises:
            OSError: The file cannot be written.
        """
        path = Path(path)
        scores = [s._asdict() for s in self.scores]
        path.write_text(
            write_report(scores, self.curves, self.notes, self.manifest), encoding="utf-8"
        )
        return path


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
