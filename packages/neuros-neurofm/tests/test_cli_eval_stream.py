import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.datasets.sessions import cut_blocks, load_session, windows
from neuros_neurofm.evaluation import RidgeDecoder, r2_score
from neuros_neurofm.evaluation._recorded import _bins
from neuros_neurofm.evaluation.evaluate import main as evaluate
from neuros_neurofm.streaming.stream import main as stream
from neuros_neurofm.training import MultiModalTrainer, collate
from neuros_neurofm.training._run_folder import load_model, write_run

RATE = 50.0


def build(behavior_dim: int = 2) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16, 1, 10, 16, modalities=("spike", "lfp"), sampling_rates={"spike": RATE, "lfp": 100.0},
        behavior_dim=behavior_dim, window=1.0, popt_depth=1, perceiver_depth=1,
    ).eval()  # fmt: skip


def write_session(path: Path, *, labels: bool = False, behavior: bool = True) -> Path:
    rng = np.random.default_rng(1)
    state = np.sin(np.arange(1000)[:, None] / np.array([30.0, 45.0]))
    target = state.copy()
    target[100:120] = np.nan
    arrays: dict[str, Any] = {
        "spike": rng.poisson(np.exp(state @ rng.normal(size=(2, 12)))),
        "rate_spike": RATE,
        "units_spike": [f"u{i}" for i in range(12)],
        "lfp": rng.normal(size=(2000, 3)),
        "rate_lfp": 100.0,
    }
    if behavior:
        arrays["behavior"] = (state[:, 0] > 0).astype(int) if labels else target
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model beside a folder of one session."""
    folder = tmp_path_factory.mktemp("place")
    build().save_pretrained(folder / "model")
    (folder / "data").mkdir()
    write_session(folder / "data" / "monday.npz")
    return folder


def error_of(main: Any, prog: str, capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{prog}: error: ")
    assert error.count("\n") == 1
    return error


def scores_of(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert evaluate([*(str(word) for word in words), "--n_bootstrap=20", "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_scores_are_those_of_the_test_block(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = scores_of(capsys, "--checkpoint", place / "model", "--data_dir", place / "data")
    rows = {row["decoder"]: row for row in content["scores"]}
    assert list(rows) == ["model", "mean", "ridge", "wiener"]
    # 20 s less two gaps of 1 s: the last 30 % of 18 s.
    session = load_session(place / "data" / "monday.npz")
    blocks = cut_blocks(20.0, gap=1.0)
    assert content["protocol"]["gap"] == 1.0
    (sample,) = windows(session, blocks.test, window=blocks.test[1] - blocks.test[0])
    with torch.no_grad():
        decoded = build().forward_batch(collate([sample])).decoder[0]
    expected = r2_score(sample["behavior"].numpy(), decoded.numpy())
    assert rows["model"]["score"] == pytest.approx(expected, abs=1e-4)
    assert rows["model"]["n_samples"] == len(sample["behavior"]) == 270
    lfp = session.signals["lfp"].reshape(1000, 2, 3).mean(axis=1)
    x = np.concatenate([session.signals["spike"], lfp], axis=1)
    train = [slice(0, 100), slice(120, 540)]
    ridge = RidgeDecoder().fit([x[r] for r in train], [session.behavior[r] for r in train])
    expected = r2_score(session.behavior[730:], ridge.predict(x[730:]))
    assert rows["ridge"]["score"] == pytest.approx(expected, abs=1e-6)
    assert rows["ridge"]["low"] < rows["ridge"]["score"] < rows["ridge"]["high"]
    assert rows["ridge"]["score"] > 0.7


def test_the_table_has_one_row_per_session_and_decoder(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(place / "model"), "--data_dir", str(place / "data")]
    assert evaluate([*given, "--n_bootstrap=20"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["session", "decoder", "metric", "score"]
    assert [row.split()[:3] for row in rows] == [
        ["monday", name, "R2"] for name in ("model", "mean", "ridge", "wiener")
    ]


def test_labels_are_scored_by_balanced_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    write_session(tmp_path / "data" / "a.npz", labels=True)
    build(2).save_pretrained(tmp_path / "model")
    given = ["--checkpoint", tmp_path / "model", "--data_dir", tmp_path / "data"]
    rows = scores_of(capsys, *given)["scores"]
    assert [row["decoder"] for row in rows] == ["model", "chance", "lda", "logistic"]
    assert {row["metric"] for row in rows} == {"balanced accuracy"}
    assert rows[1]["score"] == 0.5
    assert min(rows[2]["score"], rows[3]["score"]) > 0.8
    build(1).save_pretrained(tmp_path / "narrow")
    given[1] = tmp_path / "narrow"
    assert "label 1 is none" in error_of(evaluate, "neurofm-eval", capsys, *given)


def test_the_split_of_the_run_is_scored(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model = place / "run", build()
    MultiModalTrainer(model, [], device="cpu").save_checkpoint(run / "last.ckpt")
    protocol = {"split": [0.5, 0, 0.5], "gap": 2.0, "window": 1.0, "modalities": ["spike"]}
    write_run(run, model, None, protocol)
    given = ["--checkpoint", run, "--data_dir", place / "data"]
    content = scores_of(capsys, *given)
    assert content["checkpoint"].endswith("last.ckpt")
    assert content["scores"][0]["n_samples"] == 450
    assert scores_of(capsys, *given, "--gap=4")["scores"][0]["n_samples"] == 400
    refused = error_of(evaluate, "neurofm-eval", capsys, *given, "--split=[1,0,0]")
    assert "no test block" in refused


def test_slow_streams_are_held_and_fast_ones_averaged(tmp_path: Path) -> None:
    x = np.arange(8.0)[:, None]
    np.savez(
        tmp_path / "a.npz", spike=x, rate_spike=4.0, lfp=x[:2], rate_lfp=1.0,
        behavior=x[:4, 0] * 1.0, rate_behavior=2.0,
    )  # fmt: skip
    session = load_session(tmp_path / "a.npz")
    (sample,) = windows(session, window=2.0)
    # Before the first sample is complete there is nothing: 0.
    assert _bins(session, sample).tolist() == [[0.5, 0.0], [2.5, 0.0], [4.5, 0.0], [6.5, 1.0]]


def test_bad_input_of_the_scoring_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*words: Any) -> str:
        return error_of(evaluate, "neurofm-eval", capsys, *words)

    data = ["--data_dir", place / "data"]
    assert "give --checkpoint and --data_dir" in error(*data)
    assert "nor one that save_pretrained wrote" in error(*data, "--checkpoint", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    (tmp_path / "config.json").write_text("{}")
    assert "cannot be read" in error(*data, "--checkpoint", tmp_path)
    model = ["--checkpoint", place / "model"]
    assert "no data folder" in error(*model, "--data_dir", tmp_path / "nowhere")
    (tmp_path / "data").mkdir()
    write_session(tmp_path / "data" / "a.npz", behavior=False)
    assert "nothing to score" in error(*model, "--data_dir", tmp_path / "data")
    build(3).save_pretrained(tmp_path / "wide")
    assert "has 2 dimensions, the model decodes 3" in error(
        *data, "--checkpoint", tmp_path / "wide"
    )
    build(0).save_pretrained(tmp_path / "without")
    assert "the model has no decoder" in error(*data, "--checkpoint", tmp_path / "without")


def lines_of(
    capsys: pytest.CaptureFixture[str], *words: Any, exit_code: int = 0
) -> list[dict[str, Any]]:
    assert stream([str(word) for word in words]) == exit_code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_replayed_session_gives_the_offline_answers(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "data" / "monday.npz"
    given = ["--checkpoint", place / "model", "--input", path, "--chunk=0.37"]
    steps = lines_of(capsys, *given, "--outputs", "decoder", "encoder")
    assert [step["t"] for step in steps] == pytest.approx(np.arange(1, 201) / 10)
    assert steps[0]["modalities"] == ["spike", "lfp"]
    assert np.shape(steps[0]["encoder"]["lfp"]) == (10, 3)
    session = load_session(path)
    (sample,) = windows(session, window=20.0)
    with torch.no_grad():
        inputs = {name: sample[name][None] for name in ("spike", "lfp")}
        offline = build()(inputs, units={"spike": session.units["spike"]}).decoder[0]
    streamed = np.array([step["decoder"] for step in steps])
    assert np.abs(streamed - offline.numpy()).max() < 1e-4


def test_lines_of_json_are_streamed(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = {"spike": [[0, 1, None]] * 5, "units": {"spike": ["a", "b", "c"]}}
    later = {"spike": [[1, 1, 1]] * 5, "t": 0.2}
    text = "\n\n".join(json.dumps(c) for c in (chunk, later, {"leave": ["spike"]}))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    steps = lines_of(capsys, "--checkpoint", place / "model", "--outputs", "latents", "pooled")
    assert [step["t"] for step in steps] == [0.1, 0.2, 0.3]
    assert len(steps[0]["latents"]) == len(steps[0]["pooled"]) == 16


def test_bad_input_of_the_stream_is_one_line(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def error(text: str, *words: Any) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return error_of(stream, "neurofm-stream", capsys, *words)

    model = ["--checkpoint", place / "model"]
    assert "give --checkpoint" in error("")
    assert "outputs must be among" in error("", *model, "--outputs", "thoughts")
    assert "line 1 is no JSON" in error("spike", *model)
    assert "line 2 must be a JSON object" in error("\n[1]\n", *model)
    assert "equally many numbers" in error('{"spike": [[1], [1, 2]]}', *model)
    assert "must be (time, channel)" in error('{"spike": [1]}', *model)
    assert "chunk 1: " in error('{"meg": [[1]]}', *model)
    assert "no session file" in error("", *model, "--input", tmp_path / "nowhere.npz")
    session = ["--input", place / "data" / "monday.npz"]
    assert "chunk must be > 0" in error("", *model, *session, "--chunk=0")
    np.savez(tmp_path / "emg.npz", emg=np.ones((10, 2)), rate_emg=10)
    refused = error("", *model, "--input", tmp_path / "emg.npz")
    assert "none of the model's modalities" in refused


def test_a_checkpoint_is_loaded_alone(place: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a checkpoint"):
        load_model(tmp_path / "nowhere.ckpt")
    assert load_model(place / "model").protocol == {}
