import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.models._sizes import SIZES
from neuros_neurofm.training._balanced_loss import BalancedLoss
from neuros_neurofm.training._checkpoint_file import read_checkpoint, write_checkpoint
from neuros_neurofm.training._loggers import WandbLogger
from neuros_neurofm.training._run_folder import BehaviorScale, load_model, unscale_decoder
from neuros_neurofm.training.train_multimodal import main

SMALL = [
    "--d_model=16",
    "--n_mamba_blocks=1",
    "--n_latents=10",
    "--latent_dim=16",
    "--perceiver_depth=1",
    "--popt_depth=1",
    "--window=1",
    "--batch_size=8",
    "--num_epochs=2",
    "--device=cpu",
    "--no_progress",
]
# Returns 0, and ends the process as a machine does at one forward pass, once.
KILLER = """
import os, signal
from pathlib import Path
import torch
from torch import nn

class Killer(nn.Module):
    reads = "latents"
    name = "killer"

    def __init__(self, marker: str, at: int) -> None:
        super().__init__()
        self.marker, self.at, self.n = Path(marker), at, 0

    def forward(self, latents):
        self.n += torch.is_grad_enabled()
        if self.n == self.at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return latents.sum() * 0
"""
LOADERS = """
import torch
from neuros_neurofm.training import collate

def build():
    x = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0))
    batch = collate([{"lfp": row} for row in x])
    return [batch, batch], [batch]

def wrong():
    return 3

number = 3
"""


def write_sessions(folder: Path, n: int = 2, *, labels: bool = False, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(n):
        state = np.cumsum(rng.normal(size=(1000, 2)), axis=0)
        rates = np.exp(0.5 * np.tanh(state @ rng.normal(size=(2, 6))))
        np.savez(
            folder / f"s{k}.npz",
            spike=rng.poisson(rates),
            rate_spike=50.0,
            units_spike=[f"s{k}/u{i}" for i in range(6)],
            behavior=(state[:, 0] > 0).astype(int) if labels else 40 * state + 1000,
            species=("mouse", "macaque")[k % 2],
            **more,
        )
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sessions(tmp_path_factory.mktemp("data"))


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def error_of(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main([str(word) for word in words]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("neurofm-train: error: ")
    assert error.count("\n") == 1
    return error


def test_a_run_leaves_its_configuration_checkpoints_and_a_saved_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = ["--data_dir", str(data), "--checkpoint_dir", str(run), *SMALL]
    assert main([*given, "--patience=5", "--warmup_steps=3"]) == 0
    assert capsys.readouterr().out.startswith("2 epochs, 8 steps, val_loss ")
    assert {p.name for p in run.iterdir()} == {
        "best.ckpt", "config.yaml", "last.ckpt", "model", "run.json",
    }  # fmt: skip
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert (stored["d_model"], stored["warmup_steps"], stored["stride"]) == (16, 3, None)
    model = load_model(run).model
    assert model.config["behavior_dim"] == 2
    assert len(model.tokenizers["spike"].units.ids) == 12
    # The behaviour lies around 1000: an untrained decoder of z-scores answers near its mean.
    decoded = model({"spike": torch.ones(1, 50, 6)}).decoder
    assert 500 < float(decoded.detach().mean()) < 1500
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    assert "exists already; pass --resume" in error_of(capsys, *given)
    assert before == {p: p.read_bytes() for p in run.iterdir() if p.is_file()}


def test_a_file_of_flags_is_the_same_as_the_flags(data: Path, tmp_path: Path) -> None:
    given = ["--data_dir", str(data), "--seed=3", *SMALL]
    assert main([*given, "--checkpoint_dir", str(tmp_path / "a")]) == 0
    stored = tmp_path / "a" / "config.yaml"
    assert main(["--config", str(stored), "--checkpoint_dir", str(tmp_path / "b")]) == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.slow  # A process that loads torch and Lightning, and two runs.
def test_a_killed_run_resumes_to_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "killed"
    config = tmp_path / "run.yaml"
    objective = {"class_path": "killer.Killer", "init_args": {"marker": str(marker), "at": 7}}
    config.write_text(yaml.safe_dump({"objectives": [objective], "checkpoint_every": 3}))
    given = ["--config", str(config), "--data_dir", str(data), *SMALL]
    command = [sys.executable, "-m", "neuros_neurofm.training.train_multimodal", *given]
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    killed = subprocess.run(
        [*command, "--checkpoint_dir", str(tmp_path / "killed_run")],
        check=False,
        capture_output=True,
        env=environment,
    )
    assert marker.exists()
    assert killed.returncode == -9
    assert not (tmp_path / "killed_run" / "model").exists()
    assert main([*given, "--checkpoint_dir", str(tmp_path / "whole")]) == 0
    assert main(["--resume", "--checkpoint_dir", str(tmp_path / "killed_run")]) == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed_run")


def test_more_epochs_go_on_from_a_run_that_is_done(data: Path, tmp_path: Path) -> None:
    given = ["--data_dir", str(data), *SMALL]
    assert main([*given, "--num_epochs=3", "--checkpoint_dir", str(tmp_path / "whole")]) == 0
    run = ["--checkpoint_dir", str(tmp_path / "run")]
    assert main([*given, *run]) == 0
    assert main(["--resume", "--num_epochs=3", *run]) == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "run")


def test_a_resumed_run_refuses_another_configuration_and_a_damaged_checkpoint(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--checkpoint_dir", str(tmp_path / "run")]
    assert "no run to resume" in error_of(capsys, "--resume", *run)
    assert main(["--data_dir", str(data), *SMALL, *run]) == 0
    capsys.readouterr()
    changed = error_of(capsys, "--resume", "--d_model=32", "--seed=1", *run)
    assert "cannot change d_model, seed" in changed
    checkpoint = tmp_path / "run" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert "truncated, damaged" in error_of(capsys, "--resume", *run)


def test_a_run_of_other_processes_is_not_resumed_and_stays_as_it_was(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = ["--checkpoint_dir", str(run)]
    assert main(["--data_dir", str(data), *SMALL, *given]) == 0
    capsys.readouterr()
    for name in ("last.ckpt", "best.ckpt"):
        content = read_checkpoint(run / name)
        # What two processes would have left.
        write_checkpoint(run / name, content | {"processes": content["processes"] * 2})
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    refusal = error_of(capsys, "--resume", "--num_epochs=9", *given)
    assert "is of a run of 2 processes, this one has 1" in refusal
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_bad_input_is_one_line_and_exit_code_2(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--checkpoint_dir", tmp_path / "run"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "unrecognized arguments: --bad" in error_of(capsys, "--bad", "1")
    assert "Expected a <class 'int'>" in error_of(capsys, "--d_model", "wide")
    assert "File does not exist" in error_of(capsys, "--config", "nowhere.yaml")
    assert "give the folder of the run" in error_of(capsys, "--data_dir", data)
    assert "give the data by one of" in error_of(capsys, *run)
    assert "no data folder" in error_of(capsys, "--data_dir", tmp_path / "nowhere", *run)
    assert "holds no .npz session" in error_of(capsys, "--data_dir", empty, *run)
    unknown = error_of(capsys, "--data_dir", data, "--modalities", "spike", "meg", *run)
    assert "modalities must be" in unknown
    absent = error_of(capsys, "--data_dir", data, "--modalities", "spike", "lfp", *run)
    assert "has ['spike']" in absent
    path = empty / "broken.npz"
    path.write_bytes(b"PK")
    assert "broken.npz is damaged" in error_of(capsys, "--data_dir", empty, *run)
    nothing = error_of(capsys, "--data_dir", data, *run, *SMALL, "--checkpoint_every=0")
    assert "checkpoint_every must be at least 1" in nothing
    weight = error_of(
        capsys, "--data_dir", data, *run, *SMALL,
        "--balancing_method=manual", "--loss_weights.speed=2",
    )  # fmt: skip
    assert "the tasks of this run are ['masked_modeling', 'behavior']" in weight
    long = error_of(capsys, "--data_dir", data, *run, "--window=9", "--gap=0")
    assert "no window of 9 s fits into a validation block" in long
    gaps = error_of(capsys, "--data_dir", data, *run, "--window=15")
    assert "session s0: a recording of 20 s has no room" in gaps
    assert not (tmp_path / "run").exists()


def test_a_run_without_anything_to_learn_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(folder / "a.npz", lfp=np.ones((1000, 2)), rate_lfp=50)
    run = ["--checkpoint_dir", tmp_path / "run", *SMALL]
    error = error_of(capsys, "--data_dir", folder, *run, "--mask_ratio=0")
    assert "nothing to learn" in error


@pytest.mark.parametrize("method", ["gradnorm", "manual"])
def test_labels_and_species_are_learned_under_every_balance(method: str, tmp_path: Path) -> None:
    folder = write_sessions(tmp_path / "data", labels=True)
    given = ["--data_dir", str(folder), "--checkpoint_dir", str(tmp_path / "run"), *SMALL]
    if method == "manual":
        given += ["--loss_weights.behavior=2"]
    assert main([*given, f"--balancing_method={method}", "--use_domain_adversarial"]) == 0
    model = load_model(tmp_path / "run").model
    assert model.config["behavior_dim"] == 2
    assert model.domain is not None


def test_one_species_is_not_enough_to_be_adversarial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sessions(tmp_path / "data", 1)
    given = ["--data_dir", folder, "--checkpoint_dir", tmp_path / "run", *SMALL]
    assert "at least two species" in error_of(capsys, *given, "--use_domain_adversarial")


def test_loaders_of_a_function_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_loaders.py").write_text(LOADERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = ["--checkpoint_dir", str(tmp_path / "run"), *SMALL]
    given = [*run, "--modalities", "lfp"]
    assert main([*given, "--data", "own_loaders:build"]) == 0
    assert load_model(tmp_path / "run").model.modalities == ("lfp",)
    capsys.readouterr()
    given[1] = str(tmp_path / "other")
    assert "has no function nothing" in error_of(capsys, *given, "--data", "own_loaders:nothing")
    assert "must return (train_loader" in error_of(capsys, *given, "--data", "own_loaders:wrong")
    assert "not callable" in error_of(capsys, *given, "--data", "own_loaders:number")
    assert "module:function" in error_of(capsys, *given, "--data", "own_loaders")
    assert "No module named" in error_of(capsys, *given, "--data", "absent_module:build")


@pytest.mark.parametrize("flag", ["use_wandb", "use_tensorboard"])
def test_a_missing_extra_is_named(
    flag: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = flag.removeprefix("use_")
    monkeypatch.setitem(sys.modules, name, None)
    given = ["--data_dir", data, "--checkpoint_dir", tmp_path / "run", *SMALL, f"--{flag}"]
    assert f"pip install 'neuros-neurofm[{name}]'" in error_of(capsys, *given)
    assert not (tmp_path / "run").exists()


def test_numbers_reach_the_client_of_weights_and_biases(tmp_path: Path) -> None:
    class Run:
        id = "abc"
        logged: ClassVar[list[Any]] = []

        def log(self, metrics: dict[str, float], step: int | None) -> None:
            self.logged.append((metrics, step))

        def finish(self, exit_code: int) -> None:
            self.logged.append(exit_code)

    asked: dict[str, Any] = {}
    client = SimpleNamespace(init=lambda **settings: asked.update(settings) or Run())
    logger = WandbLogger(client, tmp_path / "run", "atlas", "offline")
    logger.finalize("failed")
    assert (logger.name, logger.version, asked) == ("run", None, {})
    logger.log_hyperparams({"seed": 1})
    logger.log_metrics({"loss": 2.0}, 5)
    logger.log_metrics({"loss": 1.0}, 6)
    logger.finalize("success")
    assert Run.logged == [({"loss": 2.0}, 5), ({"loss": 1.0}, 6), 0]
    assert asked == {
        "project": "atlas",
        "name": "run",
        "dir": str(tmp_path / "run"),
        "mode": "offline",
    }
    assert logger.version == "abc"


def test_the_configuration_is_printed_and_nothing_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["--config", "medium", "--checkpoint_dir", str(run), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["d_model"], printed["precision"]) == (512, "bf16-mixed")
    assert not run.exists()
    assert main(["--config=large", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["devices"] == "auto"


@pytest.mark.parametrize("name", ["cross_species", "fractal_priors", "large", "medium", "small"])
def test_a_shipped_configuration_has_the_size_of_its_name(name: str) -> None:
    content = yaml.safe_load((files("neuros_neurofm.configs") / f"{name}.yaml").read_text())
    size = SIZES.get(name, SIZES["small"])
    assert {key: content[key] for key in size} == size


def test_a_decoder_of_z_scores_answers_in_its_own_units() -> None:
    model = MultiModalNeuroFMX(16, 1, 4, 8, modalities=("lfp",), dropout=0.0).eval()
    x = {"lfp": torch.randn(1, 8, 2)}
    scores = model(x).decoder
    unscale_decoder(model, BehaviorScale([10.0, -3.0], [2.0, 0.5]))
    expected = scores * torch.tensor([2.0, 0.5]) + torch.tensor([10.0, -3.0])
    assert torch.allclose(model(x).decoder, expected, atol=1e-5)


class _Constant(torch.nn.Module):
    def __init__(self, name: str, value: float) -> None:
        super().__init__()
        self.name, self.value = name, value

    def forward(self, outputs: Any, batch: Any) -> torch.Tensor:
        return self.value * outputs["x"].sum()


def test_learned_weights_scale_the_training_and_not_the_validation() -> None:
    shared = torch.ones(1, requires_grad=True)
    loss = BalancedLoss(
        [_Constant("a", 4.0)], [_Constant("b", 3.0)],
        method="uncertainty", weights={}, shared=shared,
    )  # fmt: skip
    outputs = {"x": shared}
    # ½ e^{-s} L + ½ s at s = 0.
    values = loss.evaluate(outputs, {})
    assert {k: float(v.detach()) for k, v in values.items()} == {"a": 2.0, "b": 3.0}
    assert {k: float(v) for k, v in loss.terms.items()} == {"a": 4.0, "b": 3.0}
    with torch.no_grad():
        assert float(loss.evaluate(outputs, {})["a"]) == 4.0


def test_given_weights_scale_both() -> None:
    shared = torch.ones(1, requires_grad=True)
    loss = BalancedLoss(
        [_Constant("a", 4.0), _Constant("c", 1.0)], [],
        method="manual", weights={"a": 0.5}, shared=shared,
    )  # fmt: skip
    with torch.no_grad():
        values = loss.evaluate({"x": shared}, {})
    assert {k: float(v) for k, v in values.items()} == {"a": 2.0, "c": 1.0}


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    folder = write_sessions(tmp_path / "data", 1)
    given = ["--data_dir", str(folder), "--checkpoint_dir", str(tmp_path / "run"), *SMALL]
    assert main([*given, "--split", "[0.7, 0, 0.3]", "--num_epochs=1"]) == 0
    assert not (tmp_path / "run" / "best.ckpt").exists()
    assert load_model(tmp_path / "run").source.name == "last.ckpt"
