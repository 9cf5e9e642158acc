"""Watching a training with Lightning, with a trainer of another package, and with a plain loop."""

import copy
import itertools
import json
import math
import pickle
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from neuros_core import Callback, RunManifest
from neuros_mechint.activations import (
    AnalysisContext,
    MechIntCallback,
    TrainingHooks,
    _analyses,
    register_analysis,
)

CONFIG = {"fractal_dims": {"k_max": 4}}


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Analyses that a test registers are gone after it."""
    before = dict(_analyses._REGISTRY)
    yield
    _analyses._REGISTRY.clear()
    _analyses._REGISTRY.update(before)


class Net(nn.Module):
    """Dropout draws, batch norm has buffers, and the forward draws in evaluation mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(3, 5, 3)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.3)
        self.readout = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.01 * torch.randn_like(x)
        hidden = self.norm(self.encoder(x.mT)).relu().mT
        return self.readout(self.drop(hidden)).mean((1, 2))


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(40, 20, 3, generator=generator)
    return TensorDataset(x, x.mean((1, 2)))


@register_analysis("intrusive")
def intrusive(context: AnalysisContext) -> dict[str, Any]:
    """Does whatever an analysis should not do to a training."""
    torch.rand(3), random.getrandbits(8), np.random.mtrand.rand()
    context.model.train()
    for parameter in context.model.parameters():
        parameter.requires_grad_(False).requires_grad_(True)
    with torch.enable_grad():
        # In train mode: batch norm counts it, dropout draws.
        context.model(context.batches[0][0]).sum().backward()
    return {"drawn": torch.rand((), generator=context.generator)}


def train(hooks: TrainingHooks | None, steps: int = 20) -> nn.Module:
    """Twenty steps of a plain loop that draws from global generators.

    Not from Python's, from which the type checks of the tests draw as well.
    """
    torch.manual_seed(0)
    np.random.mtrand.seed(0)
    net = Net()
    net.drop.eval()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    batches = itertools.cycle(DataLoader(data(), 8, shuffle=True))
    for step, (x, y) in zip(range(1, steps + 1), batches, strict=False):
        if step == 7:
            net.drop.train()
        # Gradients are carried over every second step.
        if step % 2:
            optimizer.zero_grad()
        loss = (net(x) - y + np.random.mtrand.rand()).square().mean()
        loss.backward()
        optimizer.step()
        if hooks is not None:
            hooks.step(net, (x, y), step)
            if step % 3 == 0:
                hooks.evaluate(net, epoch=step // 3)
    return net


def assert_same_parameters(a: nn.Module, b: nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_plain_loop_trains_as_if_it_were_not_watched(tmp_path: Path) -> None:
    hooks = TrainingHooks(
        ["fractal_dims", "intrusive"], CONFIG, sites=["encoder", "norm:in"], out_dir=tmp_path
    )
    # The channels of a convolution come before its time.
    hooks._configs["fractal_dims"]["axis"] = 2
    watched, alone = train(hooks), train(None)
    assert len(hooks.history) == 6
    assert_same_parameters(watched, alone)
    assert all(
        torch.equal(a.grad, b.grad)
        for a, b in zip(watched.parameters(), alone.parameters(), strict=True)
    )
    assert [m.training for m in watched.modules()] == [m.training for m in alone.modules()]
    assert all(p.requires_grad for p in watched.parameters())
    assert not any(module._forward_hooks for module in watched.modules())


def test_every_global_generator_is_put_back(tmp_path: Path) -> None:
    hooks = TrainingHooks(["intrusive"], sites=["encoder"], out_dir=tmp_path, probe=[data()[:4]])
    net = Net()
    before = random.getstate(), np.random.mtrand.get_state()[1].tolist(), torch.get_rng_state()
    hooks.evaluate(net, epoch=1)
    after = random.getstate(), np.random.mtrand.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_a_training_is_put_back_after_a_failing_analysis(tmp_path: Path) -> None:
    @register_analysis("failing")
    def failing(context: AnalysisContext) -> dict[str, Any]:
        intrusive(context)
        raise ZeroDivisionError("no such thing")

    net = Net()
    net.drop.eval()
    state, buffers = torch.get_rng_state(), net.norm.running_mean.clone()
    hooks = TrainingHooks(["failing"], sites=["encoder"], out_dir=tmp_path)
    hooks.step(net, data()[:4], 1)
    with pytest.raises(ZeroDivisionError, match="no such thing") as caught:
        hooks.evaluate(net, epoch=3)
    assert caught.value.__notes__ == ["in the analysis 'failing' after 3 epochs"]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net.norm.running_mean, buffers)
    assert (net.training, net.drop.training) == (True, False)
    assert all(p.grad is None for p in net.parameters())
    assert list(tmp_path.iterdir()) == []


class Loop:
    """A trainer that knows its callbacks by the protocol of neuros_core alone."""

    def __init__(self, model: nn.Module, callbacks: list[Callback]) -> None:
        assert all(isinstance(callback, Callback) for callback in callbacks)
        self.model, self.callbacks = model, callbacks

    def fit(self, n_epochs: int) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        step = 0
        for epoch in range(1, n_epochs + 1):
            for x, y in DataLoader(data(), 10, shuffle=True):
                optimizer.zero_grad()
                loss = (self.model(x) - y).square().mean()
                loss.backward()
                optimizer.step()
                step += 1
                for callback in self.callbacks:
                    callback.on_step_end(self, step, float(loss.detach()))
            for callback in self.callbacks:
                callback.on_epoch_end(self, epoch, {"loss": float(loss.detach())})


@pytest.mark.parametrize(
    "kind",
    [
        TrainingHooks,
        pytest.param(MechIntCallback, marks=pytest.mark.slow),  # imports Lightning
    ],
)
def test_a_trainer_of_the_protocol_is_served(
    tmp_path: Path, kind: type[TrainingHooks] | type[MechIntCallback]
) -> None:
    trained = []
    for watch in (True, False):
        torch.manual_seed(1)
        callback = kind(
            ["fractal_dims"],
            {"fractal_dims": {"axis": 2, "k_max": 4}},
            sites="encoder",
            every_n_epochs=2,
            out_dir=tmp_path,
            probe=[data()[:6], data()[6:8]],
        )
        net = Net()
        Loop(net, [callback] if watch else []).fit(5)
        trained.append(net)
        if watch:
            hooks = getattr(callback, "hooks", callback)
            assert [(r["epoch"], r["step"]) for r in hooks.history] == [(2, 8), (4, 16)]
            assert list(hooks.history[0]["metrics"]) == ["loss"]
    assert_same_parameters(*trained)


def test_a_loss_is_kept_for_an_evaluation_between_epochs(tmp_path: Path) -> None:
    hooks = TrainingHooks(["intrusive"], sites=["encoder"], out_dir=tmp_path, probe=[data()[:4]])
    loop = Loop(Net(), [hooks])
    hooks.on_step_end(loop, 3, 0.5)
    hooks.evaluate(loop.model, epoch=0)
    assert hooks.history[0]["metrics"] == {"loss": 0.5}


def test_results_are_written_whole_with_their_manifest(tmp_path: Path) -> None:
    class Pair(NamedTuple):
        low: float
        high: float

    @register_analysis("assorted")
    def assorted(context: AnalysisContext, *, scale: float) -> dict[str, Any]:
        (value,) = context.activations.values()
        assert context.epoch == 1
        return {
            "shape": value.shape,
            "pair": Pair(-math.inf, scale),
            "array": np.array([1.0, math.nan]),
            "tensor": torch.arange(2),
            "text": "x",
            "flag": True,
            "none": None,
        }

    out_dir = tmp_path / "new" / "folder"
    hooks = TrainingHooks(
        ["assorted"], {"assorted": {"scale": 2.0}}, sites=["0"], out_dir=out_dir, seed=3
    )
    net = nn.Sequential(nn.Linear(3, 2))
    hooks.step(net, torch.ones(4, 3), 12)
    hooks.step(net, torch.ones(2, 3), 13)
    results = hooks.evaluate(net, epoch=1)
    assert math.isnan(results["assorted"]["array"][1])
    (file,) = out_dir.iterdir()
    assert file.name == "epoch-0001-step-00000013.json"
    record = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert record["results"]["assorted"] == {
        "shape": [6, 2],
        "pair": {"low": "-inf", "high": 2.0},
        "array": [1.0, "nan"],
        "tensor": [0, 1],
        "text": "x",
        "flag": True,
        "none": None,
    }
    manifest = RunManifest.from_dict(record["manifest"])
    assert (manifest.kind, manifest.seed) == ("training-analysis", 3)
    assert manifest.config["analysis_configs"] == {"assorted": {"scale": 2.0}}
    assert len(manifest.model_hash or "") == 64
    frame = hooks.to_dataframe()
    assert frame["quantity"].tolist() == ["pair/low", "pair/high", "flag"]
    assert frame[["epoch", "step", "analysis"]].drop_duplicates().values.tolist() == [
        [1, 13, "assorted"]
    ]
    assert repr(hooks) == "TrainingHooks(['assorted'], sites=1, evaluations=1)"


def test_the_probe_is_the_first_batches_and_stays(tmp_path: Path) -> None:
    @register_analysis("rows")
    def rows(context: AnalysisContext) -> dict[str, Any]:
        return {site: x[:, 0] for site, x in context.activations.items()}

    net = nn.Sequential(nn.Identity())
    hooks = TrainingHooks(["rows"], sites=[net[0]], max_batches=2, out_dir=tmp_path)
    batch = torch.zeros(1, 1)
    for step in range(1, 5):
        # One buffer, filled anew, as some loaders do.
        hooks.step(net, batch.fill_(step), step)
        assert hooks.evaluate(net, epoch=step)["rows"]["0"] == [1.0, 2.0][:step]


def test_half_precision_is_analysed_in_single(tmp_path: Path) -> None:
    @register_analysis("type")
    def kind(context: AnalysisContext) -> dict[str, Any]:
        return {site: str(x.dtype) for site, x in context.activations.items()}

    hooks = TrainingHooks(["type"], sites=["0"], out_dir=tmp_path)
    net = nn.Sequential(nn.Identity())
    hooks.step(net, torch.ones(2, 2, dtype=torch.bfloat16), 1)
    assert hooks.evaluate(net, epoch=1) == {"type": {"0": "torch.float32"}}


class Keyed(nn.Module):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x * scale


class Whole(nn.Module):
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["x"] * 3


class Own(nn.Module):
    def forward_batch(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.inner(batch["x"] * 4)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()


@pytest.mark.parametrize(
    ("net", "site", "batch", "expected"),
    [
        (nn.Identity(), "", torch.ones(1, 1), 1.0),
        (nn.Identity(), "", (torch.ones(1, 1), None), 1.0),
        (nn.Identity(), "", [torch.ones(1, 1), torch.zeros(1)], 1.0),
        (Keyed(), "", {"x": torch.ones(1, 1), "scale": 2.0, "label": 7}, 2.0),
        (Keyed(), "", {"x": torch.ones(1, 1), "label": 7}, 1.0),
        (Whole(), "", {"x": torch.ones(1, 1), "label": 7}, 3.0),
        (Own(), "inner", {"x": torch.ones(1, 1)}, 4.0),
    ],
)
def test_a_batch_is_run_as_a_training_would(
    tmp_path: Path, net: nn.Module, site: str, batch: Any, expected: float
) -> None:
    @register_analysis("value")
    def value(context: AnalysisContext) -> dict[str, Any]:
        return {"first": float(next(iter(context.activations.values()))[0, 0])}

    hooks = TrainingHooks(["value"], sites=[site], out_dir=tmp_path, probe=[batch])
    assert hooks.evaluate(net, epoch=1)["value"] == {"first": expected}


def test_a_forward_of_ones_own_is_used(tmp_path: Path) -> None:
    calls = []
    hooks = TrainingHooks(
        ["intrusive"],
        sites=["encoder"],
        out_dir=tmp_path,
        probe=[data()[:4]],
        forward=lambda model, batch: calls.append(model(batch[0])),
    )
    hooks.evaluate(Net(), epoch=1)
    assert len(calls) == 1


def test_the_dimension_of_straight_activations_is_one(tmp_path: Path) -> None:
    ramp = torch.arange(30.0)[None, :, None].expand(2, 30, 3).clone()
    ramp[1, :, 0] = 1.0
    hooks = TrainingHooks(["fractal_dims"], CONFIG, sites=["0"], out_dir=tmp_path, probe=[ramp])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = hooks.evaluate(nn.Sequential(nn.Identity()), epoch=1)["fractal_dims"]["0"]
    assert found["mean"] == pytest.approx(1.0, abs=1e-5)
    assert found["std"] == pytest.approx(0.0, abs=1e-5)
    assert found["undefined"] == pytest.approx(1 / 6)


def test_the_geometry_of_a_plane_has_two_dimensions(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    # Two independent directions of equal variance in a space of five.
    basis = torch.linalg.qr(torch.randn(5, 2, generator=generator)).Q
    x = torch.randn(400, 10, 2, generator=generator) @ basis.mT
    net = nn.Sequential(nn.Identity())
    for axis, batch in ((-1, x), (1, x.mT)):
        hooks = TrainingHooks(
            ["geometry"],
            {"geometry": {"unit_axis": axis}},
            sites=["0"],
            out_dir=tmp_path,
            probe=[batch],
        )
        found = hooks.evaluate(net, epoch=1)["geometry"]["0"]
        # 4000 rows: the two variances differ by a few percent.
        assert found["participation_ratio"] == pytest.approx(2.0, abs=0.02)
        assert found["dimensionality"] == 2


def test_a_coder_is_trained_and_scored_on_held_out_rows(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.eye(4)[torch.randint(4, (64, 16), generator=generator)]
    config = {"sae": {"dictionary_size": 8, "k": 1, "steps": 150, "batch_size": 64}}
    hooks = TrainingHooks(["sae"], config, sites=["0"], out_dir=tmp_path, probe=[x])
    net = nn.Sequential(nn.Linear(4, 4))
    found = hooks.evaluate(net, epoch=1)["sae"]["0"]
    # A quarter of 64 trials of 16 positions.
    assert found["n_rows"] == 256
    assert found["l0"] <= 1.0
    assert found["fvu"] < 0.2
    assert "loss_recovered" not in found
    # Whatever else runs, its draws are the same.
    together = TrainingHooks(["geometry", "sae"], config, sites=["0"], out_dir=tmp_path, probe=[x])
    assert together.evaluate(net, epoch=1)["sae"]["0"] == found
    assert all(parameter.grad is None for parameter in net.parameters())


def test_what_cannot_be_watched_is_refused_at_once(tmp_path: Path) -> None:
    def hooks(*names: str, **settings: Any) -> TrainingHooks:
        arguments = {"sites": ["0"], "out_dir": tmp_path, **settings}
        return TrainingHooks(list(names), **arguments)

    with pytest.raises(
        ValueError,
        match=r"no analysis named 'colour'; known: alignment, dynamics, fractal_dims, geometry",
    ):
        hooks("colour")
    with pytest.raises(TypeError, match=r"'fractal_dims' does not take .'lag': 3.: got an unexpec"):
        hooks("fractal_dims", analysis_configs={"fractal_dims": {"lag": 3}})
    with pytest.raises(ValueError, match=r"analysis_configs holds \['sae'\], which are not among"):
        hooks("fractal_dims", analysis_configs={"sae": {}})
    with pytest.raises(ValueError, match="at least one analysis is needed"):
        hooks()
    with pytest.raises(ValueError, match="at least one site is needed"):
        hooks("fractal_dims", sites=[])
    for name in ("every_n_epochs", "max_batches"):
        with pytest.raises(ValueError, match=f"{name} needs at least 1, got 0"):
            hooks("fractal_dims", **{name: 0})
    with pytest.raises(ValueError, match="named 'fractal_dims' is registered already"):
        register_analysis("fractal_dims")(dict)
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(KeyError, match="no module '1'"):
        hooks("fractal_dims", sites=["1"]).step(net, torch.ones(1, 3), 1)
    with pytest.raises(RuntimeError, match="no batch to analyse: call step"):
        hooks("fractal_dims").evaluate(net, epoch=1)
    uneven = [torch.ones(1, 30, 3), torch.ones(1, 29, 3)]
    with pytest.raises(ValueError, match=r"activations at '0' have the shapes .*pad them, or pass"):
        hooks("fractal_dims", probe=uneven).evaluate(net, epoch=1)


def test_an_analysis_returns_a_mapping_of_plain_values(tmp_path: Path) -> None:
    register_analysis("number")(lambda _: 3)
    register_analysis("object")(lambda _: {"x": object()})
    net, batch = nn.Sequential(nn.Identity()), torch.ones(1, 1)
    with pytest.raises(TypeError, match="analysis 'number' needs to return a mapping, got"):
        TrainingHooks(["number"], sites=["0"], out_dir=tmp_path, probe=[batch]).evaluate(net, 1)
    with pytest.raises(TypeError, match="analysis 'object' returned a object; a result is made of"):
        TrainingHooks(["object"], sites=["0"], out_dir=tmp_path, probe=[batch]).evaluate(net, 1)


def test_a_failed_write_leaves_no_half_file(tmp_path: Path) -> None:
    hooks = TrainingHooks(["intrusive"], sites=["encoder"], out_dir=tmp_path, probe=[data()[:4]])
    (tmp_path / "epoch-0001-step-00000000.json").mkdir()
    with pytest.raises(OSError, match="epoch-0001"):
        hooks.evaluate(Net(), epoch=1)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0001-step-00000000.json"]


def test_without_lightning_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fresh(MechIntCallback):
        """A class that has not met Lightning yet."""

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'neuros-mechint\[lightning\]'"):
        Fresh(["fractal_dims"], sites=["0"], out_dir=tmp_path)


def lightning_fit(callbacks: list[Any], tmp_path: Path) -> nn.Module:
    from lightning.pytorch import LightningModule, Trainer, seed_everything

    class Regression(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return (self(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    seed_everything(0, verbose=False)
    model = Regression()
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        # Lightning advises on workers and log intervals.
        warnings.simplefilter("ignore")
        trainer.fit(model, DataLoader(data(), 8, shuffle=True))
    model.logged = dict(trainer.callback_metrics)
    return model


@pytest.mark.slow  # imports Lightning and fits twice
def test_lightning_trains_as_if_it_were_not_watched(tmp_path: Path) -> None:
    from lightning.pytorch import Callback as LightningCallback

    callback = MechIntCallback(
        ["fractal_dims", "intrusive"],
        {"fractal_dims": {"axis": 2, "k_max": 4}},
        sites=["net.encoder"],
        every_n_epochs=2,
        out_dir=tmp_path / "watch",
    )
    assert isinstance(callback, LightningCallback)
    assert isinstance(callback, Callback)
    watched, alone = lightning_fit([callback], tmp_path), lightning_fit([], tmp_path)
    assert_same_parameters(watched, alone)
    files = sorted(path.name for path in (tmp_path / "watch").iterdir())
    assert files == ["epoch-0002-step-00000010.json", "epoch-0004-step-00000020.json"]
    logged = watched.logged["mechint/fractal_dims/net.encoder/mean"]
    mean = callback.hooks.history[-1]["results"]["fractal_dims"]["net.encoder"]["mean"]
    assert float(logged) == pytest.approx(mean, rel=1e-6)
    assert alone.logged == {}


def test_another_process_than_the_first_does_nothing(tmp_path: Path) -> None:
    from types import SimpleNamespace

    callback = MechIntCallback(["fractal_dims"], sites=["x"], out_dir=tmp_path)
    trainer = SimpleNamespace(is_global_zero=False, current_epoch=0, global_step=1)
    callback.on_train_batch_end(trainer, nn.Identity(), None, torch.ones(1), 0)
    callback.on_train_epoch_end(trainer, nn.Identity())
    assert callback.hooks.history == []


def test_a_callback_can_be_copied_and_pickled(tmp_path: Path) -> None:
    callback = MechIntCallback(["fractal_dims"], CONFIG, sites=["x"], out_dir=tmp_path, seed=9)
    # A copy goes the way of a pickle.
    again = copy.deepcopy(callback)
    assert (
        type(again)
        is type(callback)
        is type(
            type(callback)(["sae"], {"sae": {"dictionary_size": 4}}, sites=["x"], out_dir=tmp_path)
        )
    )
    assert (again.hooks.seed, again.hooks.out_dir) == (9, tmp_path)
    assert b"seed" in pickle.dumps(callback)
