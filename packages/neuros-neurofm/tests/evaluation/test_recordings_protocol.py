"""The scripts that score real recordings, on synthetic ones."""

import json
import math
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_neurofm.evaluation import Session

FOLDER = Path(__file__).parents[2] / "benchmarks" / "recordings"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a script by name; what the test imports is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if (FOLDER / f"{name}.py").is_file():
            del sys.modules[name]


def record(protocol: Any, name: str = "a") -> Session:
    x = np.random.default_rng(0).poisson(3.0, (300, 4)).astype(float)
    y = x @ np.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0], [0.0, 0.0]])
    y[::50] = np.nan
    blocks = protocol.alternating_blocks(300, n_rounds=2, gap=5)
    units = {"spike": [f"{name}{k}" for k in range(4)]}
    return Session({"spike": x}, y, 10.0, blocks, name=name, units=units)


def test_blocks_alternate_with_gaps_and_fill_the_recording(scripts: Any) -> None:
    blocks = scripts("protocol").alternating_blocks(300, n_rounds=3, gap=7)
    every = sorted((b for _, part in blocks for b in part), key=lambda b: b.start)
    assert (len(blocks.train), len(blocks.validation), len(blocks.test)) == (3, 3, 3)
    assert (every[0].start, every[-1].stop) == (0, 300)
    assert [b.start - a.stop for a, b in pairwise(every)] == [7] * 8
    assert list(blocks.train) == every[::3]


def test_a_filter_never_looks_ahead(scripts: Any) -> None:
    x = np.zeros((6, 1))
    x[3] = 1.0
    smooth = scripts("protocol").smoothed(x, 2.0)
    np.testing.assert_array_equal(smooth[:3], 0.0)
    assert smooth[3] > smooth[4] > smooth[5] > 0


def test_a_linear_target_is_scored_1_by_ridge(scripts: Any) -> None:
    protocol = scripts("protocol")
    session = record(protocol)
    fitted = protocol.ridge(session, (0.0, 1.0))
    row = protocol.score_row("task", "split", fitted, session, seed=0, block_s=2.0)
    assert row.score == pytest.approx(1.0, abs=1e-3)
    assert row.low <= row.score <= row.high
    assert (row.n_train_s, row.n_test_s) == (16.5, 6.8)
    assert "filter 0 s (of 2 settings)" in row.note


def test_validation_alone_chooses(scripts: Any) -> None:
    protocol = scripts("protocol")
    session = record(protocol)
    held_out = protocol.truth(session, "validation")

    def good() -> Any:
        return lambda part: np.nan_to_num(held_out) if part == "validation" else 0.0, 1

    def bad() -> Any:
        return lambda part: np.zeros_like(protocol.truth(session, part)), 2

    candidates = [protocol.Candidate("bad", bad), protocol.Candidate("good", good)]
    fitted = protocol.choose("x", candidates, session)
    assert (fitted.n_parameters, fitted.note) == (1, "validation 1.000: good (of 2 settings)")
    with pytest.raises(ValueError, match="x: no candidate has a finite score"):
        protocol.choose("x", [], session)


def test_model_and_neural_baselines_predict_every_test_sample(scripts: Any) -> None:
    protocol, ours = scripts("protocol"), scripts("ours")
    session = record(protocol)
    (fitted,) = ours.ours([session], [ours.Setting(8, steps=1, width=16)], seed=0)
    sized = {"windows": (8,), "n_parameters": 2000, "steps": 1, "learning_rates": (1e-3,)}
    for decoder in (fitted, protocol.neural("gru", session, **sized)):
        assert decoder.predict("test").shape == protocol.truth(session, "test").shape


def rows(protocol: Any, *scores: float) -> list[Any]:
    names = ("neurofm", "ridge", "GRU")
    return [
        protocol.Row("t", "s", name, "R2", x, x - 0.1, x + 0.1, 1.0, 1.0, 5, 2.0, 0, "why")
        for name, x in zip(names, scores, strict=False)
    ]


def test_the_page_says_who_leads_and_by_how_much(scripts: Any) -> None:
    protocol, run = scripts("protocol"), scripts("run")
    assert run.learnt(rows(protocol, 0.8, 0.5, 0.75)).startswith(
        "neurofm (0.800) leads the best baseline, GRU (0.750), by 0.050 R2. This lies within"
    )
    assert "loses to the best baseline, ridge (0.500), by 0.300" in run.learnt(
        rows(protocol, 0.2, 0.5)
    )
    assert run.learnt(rows(protocol, math.nan)) == "No comparison: why"


def test_a_decoder_that_sees_what_comes_is_told_and_not_compared(scripts: Any) -> None:
    protocol, run = scripts("protocol"), scripts("run")
    found = [
        *rows(protocol, 0.8, 0.5),
        protocol.Row("t", "s", "CEBRA 9, 1 s ahead", "R2", 0.9, 0, 1, 1.0, 1.0, 5, 2.0, 0, "why"),
    ]
    assert run.learnt(found) == (
        "neurofm (0.800) leads the best baseline, ridge (0.500), by 0.300 R2. "
        "CEBRA 9, 1 s ahead, which the others may not see: 0.900."
    )


def test_rows_of_cebra_are_added_to_a_finished_task(scripts: Any, tmp_path: Path) -> None:
    protocol, run = scripts("protocol"), scripts("run")
    calls: list[int] = []

    def cebra(folder: Path, seed: int) -> list[Any]:
        calls.append(seed)
        return [protocol.Row("t", "s", "CEBRA 9", "R2", 0.4, 0, 1, 1.0, 1.0, 5, 2.0, seed, "why")]

    task = protocol.Task("t", "what", lambda folder, seed: rows(protocol, 0.5), cebra)
    file = tmp_path / "t.json"
    run.run_task(task, tmp_path, [0, 1], file)
    # Finished rows are kept unless they are asked for again.
    for again in (False, False, True):
        run.add_cebra(task, tmp_path, file, again=again)
    names = [row["model"] for row in json.loads(file.read_text())["rows"]]
    assert names == ["neurofm", "neurofm", "CEBRA 9", "CEBRA 9"]
    assert calls == [0, 1, 0, 1]
    before = file.read_text()
    run.add_cebra(protocol.Task("t", "what", task.run), tmp_path, file, again=True)
    assert file.read_text() == before


def test_cebra_is_left_out_where_it_is_not_installed(
    scripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The import system's own sign for a package that is not there.
    monkeypatch.setitem(sys.modules, "cebra", None)
    protocol = scripts("protocol")
    assert protocol.cebra(record(protocol)) == []


def test_a_task_leaves_a_file_and_is_not_run_again(
    scripts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    protocol, run = scripts("protocol"), scripts("run")
    calls: list[int] = []

    def count(folder: Path, seed: int) -> list[Any]:
        assert folder == tmp_path
        calls.append(seed)
        return rows(protocol, 0.5 + 0.1 * seed, 0.4)

    task = protocol.Task("t", "what", count)
    file = tmp_path / "out" / "t.json"
    run.run_task(task, tmp_path, [0, 1], file)
    assert (calls, run.is_finished(file, [0, 1]), run.is_finished(file, [0])) == (
        [0, 1],
        True,
        False,
    )
    page = run.page([json.loads(file.read_text())])
    assert "| neurofm | 0.550 | 0.450 to 0.650 |" in page
    assert "seeds: 0.500, 0.600" in page
    monkeypatch.delenv("NEUROS_RECORDINGS", raising=False)
    assert run.main([]) == 2
    assert "set NEUROS_RECORDINGS" in capsys.readouterr().err
