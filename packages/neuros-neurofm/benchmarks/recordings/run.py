"""Score the model and its baselines on real recordings and write docs/recordings.md.

Usage: NEUROS_RECORDINGS=FOLDER python run.py [TASK ...] [--seeds 0 1 2] [--again] [--cebra]

Each task leaves a file in build/recordings/; a task with a file for the same seeds is not run again
without `--again`. `--cebra`, in an environment with that package, adds its rows to the files that
are there and runs nothing else. The page is written from all files there are.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from protocol import AHEAD, Row, Task

_MODULES = (
    "spikes",
    "hippocampus",
    "worm",
    "gestures",
    "ssvep",
    "grip",
    "force",
    "fmri",
)
_OURS = "neurofm"
_VARIABLE = "NEUROS_RECORDINGS"
_HEAD = """# Real recordings

Written by `packages/neuros-neurofm/benchmarks/recordings/run.py`, no number by hand. Every row of a
split was fitted on the same training blocks; what a decoder leaves open was chosen on the same
validation blocks (column "chosen"); test blocks were scored once. Intervals: 95 %, moving-block
bootstrap over test samples{seeds}. Seconds are those of fitting all candidates on one thread.
"""
_COLUMNS = (
    "| decoder | score | 95 % interval | train s | test s | parameters | seconds | chosen |\n"
    "|---|---|---|---|---|---|---|---|"
)


def find_tasks() -> dict[str, Task]:
    """Every `Task` of the modules beside this file, by name."""
    here = Path(__file__).resolve().parent
    modules = [import_module(name) for name in _MODULES if (here / f"{name}.py").is_file()]
    found = [value for module in modules for value in vars(module).values()]
    return {task.name: task for task in found if isinstance(task, Task)}


def run_task(task: Task, recordings: Path, seeds: Sequence[int], file: Path) -> None:
    """Run a task once per seed and write its rows."""
    start = time.perf_counter()
    rows = [dataclasses.asdict(row) for seed in seeds for row in task.run(recordings, seed)]
    result = {
        "task": task.name,
        "what": task.what,
        "seeds": list(seeds),
        "seconds": time.perf_counter() - start,
        "rows": rows,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")


def add_cebra(task: Task, recordings: Path, file: Path, *, again: bool) -> None:
    """Put the rows of CEBRA into the file of a finished task, unless they are there."""
    start = time.perf_counter()
    result = json.loads(file.read_text())
    there = any(row["model"].startswith("CEBRA") for row in result["rows"])
    if task.run_cebra is None or (there and not again):
        return
    rows = [
        dataclasses.asdict(row) for s in result["seeds"] for row in task.run_cebra(recordings, s)
    ]
    kept = [row for row in result["rows"] if not row["model"].startswith("CEBRA")]
    result["rows"] = kept + rows
    result["seconds"] += time.perf_counter() - start
    file.write_text(json.dumps(result, indent=1) + "\n")


def is_finished(file: Path, seeds: Sequence[int]) -> bool:
    """Whether the file holds a run with these seeds."""
    return file.is_file() and json.loads(file.read_text())["seeds"] == list(seeds)


def merged(rows: Sequence[Row]) -> Row:
    """One row of the seeds of one decoder: means of the numbers, the first note."""
    numbers = ("score", "low", "high", "seconds")
    means = {name: float(np.mean([getattr(row, name) for row in rows])) for name in numbers}
    note = rows[0].note
    if len(rows) > 1:
        scores = ", ".join(f"{row.score:.3f}" for row in rows)
        note = f"seeds: {scores}; first seed: {note}"
    return dataclasses.replace(rows[0], **means, note=note)


def page(results: Sequence[dict]) -> str:
    """The whole page."""
    seeds = sorted({len(result["seeds"]) for result in results})
    several = "" if seeds == [1] else "; scores and ends are means over the seeds named"
    parts = [_HEAD.format(seeds=several)]
    for result in results:
        rows = [Row(**row) for row in result["rows"]]
        parts.append(f"## {result['task']}\n\n{result['what']}. {result['seconds']:.0f} s.\n")
        parts += [_split_part(split, rows) for split in dict.fromkeys(row.split for row in rows)]
    return "\n".join(parts)


def learnt(rows: Sequence[Row]) -> str:
    """One sentence: the model beside the best of the others."""
    models = [row for row in rows if row.model.startswith(_OURS) and not math.isnan(row.score)]
    others = [
        row
        for row in rows
        if not row.model.startswith(_OURS)
        and not row.model.endswith(AHEAD)
        and not math.isnan(row.score)
    ]
    if not models or not others:
        return "No comparison: " + "; ".join(row.note for row in rows if math.isnan(row.score))
    # The task names its model first: the best of several on the test blocks would be a choice by
    # test scores.
    best, peer = models[0], max(others, key=lambda row: row.score)
    lead = best.score - peer.score
    ahead = "".join(
        f" {row.model}, which the others may not see: {row.score:.3f}."
        for row in rows
        if row.model.endswith(AHEAD)
    )
    if abs(lead) < 5e-4:
        return f"{best.model} ({best.score:.3f}) equals the best baseline, {peer.model}.{ahead}"
    verb = "leads" if lead > 0 else "loses to"
    inside = peer.low <= best.score <= peer.high
    unsure = " This lies within the interval of the latter." if inside else ""
    return (
        f"{best.model} ({best.score:.3f}) {verb} the best baseline, {peer.model} "
        f"({peer.score:.3f}), by {abs(lead):.3f} {best.metric}.{unsure}{ahead}"
    )


def _split_part(split: str, rows: Sequence[Row]) -> str:
    kept: dict[str, list[Row]] = {}
    for row in rows:
        if row.split == split:
            kept.setdefault(row.model, []).append(row)
    means = [merged(group) for group in kept.values()]
    lines = [_line(row) for row in means]
    metric = means[0].metric
    return "\n".join([f"### {split} ({metric})\n", learnt(means), "", _COLUMNS, *lines, ""])


def _line(row: Row) -> str:
    score, interval = f"{row.score:.3f}", f"{row.low:.3f} to {row.high:.3f}"
    if math.isnan(row.score):
        score, interval = "not scored", ""
    return (
        f"| {row.model} | {score} | {interval} | {row.n_train_s:.1f} | {row.n_test_s:.1f} | "
        f"{row.n_parameters} | {row.seconds:.1f} | {row.note} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not finished, then write the page."""
    tasks = find_tasks()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(tasks))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--again", action="store_true", help="run finished tasks again")
    parser.add_argument("--cebra", action="store_true", help="add the rows of CEBRA alone")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.tasks if name not in tasks]
    if unknown:
        parser.error(f"unknown task {', '.join(unknown)}; there are {', '.join(tasks)}")
    recordings = os.environ.get(_VARIABLE, "")
    if not Path(recordings).is_dir() or not recordings:
        print(f"set {_VARIABLE} to the folder that holds the recordings", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    root = Path(__file__).resolve().parents[4]
    out = root / "build" / "recordings"
    for name in chosen.tasks or tasks:
        file = out / f"{name}.json"
        if chosen.cebra:
            add_cebra(tasks[name], Path(recordings), file, again=chosen.again)
        elif chosen.again or not is_finished(file, chosen.seeds):
            print(f"{name}: running", flush=True)
            run_task(tasks[name], Path(recordings), chosen.seeds, file)
        print(f"{name}: {file}", flush=True)
    files = [out / f"{name}.json" for name in tasks]
    results = [json.loads(file.read_text()) for file in files if file.is_file()]
    (root / "docs" / "recordings.md").write_text(page(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
