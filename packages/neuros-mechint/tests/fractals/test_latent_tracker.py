"""Following fractal metrics of activations."""

import copy
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from neuros_core import Callback
from neuros_mechint.activations import run
from neuros_mechint.fractals import (
    DetrendedFluctuationAnalysis,
    HiguchiFractalDimension,
    HurstExponent,
    LatentFDTracker,
    MultifractalSpectrum,
    SpectralSlope,
)

N_TIME = 64


class Block(nn.Module):
    """Attention and an MLP with dropout, each added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True, dropout=0.2)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x)[0]
        return x + self.mlp(x)


def transformer(width: int = 8, depth: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width) for _ in range(depth)))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that hangs on the modules of a model, hooks included."""
    return {name: copy.copy(vars(module)) for name, module in model.named_modules()}


class Pair(NamedTuple):
    """What some models return."""

    mask: Tensor | None
    hidden: Tensor


class Returning(nn.Module):
    """A module that packs what passes through it."""

    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(x)


@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_random_state_are_those_of_the_untracked_model(
    training: bool,
) -> None:
    model, x = transformer().train(training), noise(3, N_TIME, 8)
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    plain = twin(x)
    plain.square().sum().backward()
    before = state(model)
    torch.manual_seed(5)
    with LatentFDTracker(model, ["0", "1.mlp", ""], metrics=["higuchi", "beta"]) as tracker:
        output = model(x)
    output.square().sum().backward()
    assert torch.equal(output, plain)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert {name: set(kept) for name, kept in state(model).items()} == {
        name: set(kept) for name, kept in before.items()
    }
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert len(tracker.history) == 6
    assert not torch.is_tensor(tracker.history[0].mean)


def test_the_fused_encoder_of_torch_gives_the_same_but_for_its_last_bits() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = noise(2, N_TIME, 8)
    with torch.no_grad():
        plain = model(x)
        with LatentFDTracker(model, ["layers.0"], every=2) as tracker:
            measured, passed = model(x), model(x)
    # A forward that is not measured has no hook on its layers, so it takes the fused path.
    assert torch.equal(passed, plain)
    assert torch.allclose(measured, plain, rtol=0, atol=1e-5)
    assert [record.step for record in tracker.history] == [0]


def test_the_history_holds_what_the_estimators_give() -> None:
    model, x = transformer().eval(), noise(2, 1024, 8)
    value = run(model, x, capture=["1"]).cache["1"].mT
    expected = {
        "higuchi": HiguchiFractalDimension().compute(value),
        "dfa": DetrendedFluctuationAnalysis().compute(value).alpha,
        "hurst": HurstExponent().compute(value),
        "beta": SpectralSlope().compute(value),
        "mf_width": MultifractalSpectrum().compute(value).width,
    }
    with LatentFDTracker(model, ["1"], metrics=list(expected)) as tracker:
        model(x)
    for record in tracker.history:
        values = expected[record.metric].double()
        assert (record.step, record.layer) == (0, "1")
        assert record.mean == pytest.approx(float(values.mean()), abs=1e-6)
        assert record.std == pytest.approx(float(values.std(correction=0)), abs=1e-6)
    frame = tracker.to_frame()
    assert list(frame["metric"]) == list(expected)
    assert frame.shape == (5, 5)


def test_estimators_of_ones_own_are_named_by_their_keys() -> None:
    model, x = nn.Sequential(nn.Identity()), noise(2, N_TIME, 3)
    estimator = HiguchiFractalDimension(k_max=4)
    with LatentFDTracker(model, "0", metrics={"rough": estimator}) as tracker:
        model(x)
    (record,) = tracker.history
    assert record.metric == "rough"
    assert record.mean == pytest.approx(float(estimator.compute(x, dim=1).mean()), abs=1e-6)


def test_every_nth_forward_is_measured_beginning_with_the_first() -> None:
    model = nn.Sequential(nn.Identity())
    tracker = LatentFDTracker(model, ["0"], every=3)
    for _ in range(2):
        with tracker:
            for _ in range(5):
                model(noise(1, N_TIME, 1))
    assert [record.step for record in tracker.history] == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("layout", "axes"),
    [("btc", (0, 1, 2)), ("bct", (0, 2, 1)), ("tbc", (1, 0, 2))],
)
def test_layouts_say_where_time_is(layout: str, axes: tuple[int, ...]) -> None:
    model, x = nn.Sequential(nn.Identity()), noise(2, N_TIME, 3).cumsum(1)
    with LatentFDTracker(model, ["0"], layout=layout) as tracker:
        model(x.permute(axes))
    expected = HiguchiFractalDimension().compute(x, dim=1).mean()
    assert tracker.history[0].mean == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(("layout", "transposed"), [("bt", False), ("bc", True)])
def test_without_channels_or_without_time_two_axes_are_enough(
    layout: str, transposed: bool
) -> None:
    model, x = nn.Sequential(nn.Identity()), noise(3, N_TIME).cumsum(1)
    with LatentFDTracker(model, ["0"], layout=layout) as tracker:
        model(x.T if transposed else x)
    expected = HiguchiFractalDimension().compute(x).mean()
    assert tracker.history[0].mean == pytest.approx(float(expected), abs=1e-6)


def test_every_layer_may_have_a_layout_of_its_own() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), Returning(lambda x: x.mT))
    with LatentFDTracker(model, ["0", "1"], layout={"0": "bct", "1": "btc"}) as tracker:
        model(noise(2, 2, N_TIME))
    first, second = tracker.history
    assert first.mean == pytest.approx(second.mean, abs=1e-9)


@pytest.mark.parametrize(
    ("pack", "site"),
    [
        (lambda x: (x, x + 1), "0"),
        (lambda x: (None, [x.cumsum(1), x]), "0:out.1"),
        (lambda x: {"first": x.cumsum(1), "second": x}, "0:out.second"),
        (lambda x: Pair(None, x), "0"),
    ],
)
def test_outputs_in_containers_are_the_same_objects(pack: Any, site: str) -> None:
    model, x = nn.Sequential(Returning(pack)), noise(1, N_TIME, 2)
    kept = []
    model.register_forward_hook(lambda _m, _a, out: kept.append(out))
    with LatentFDTracker(model, [site]) as tracker:
        output = model(x)
    assert output is kept[0]
    target = x.cumsum(1) if site == "0:out.1" else x
    expected = HiguchiFractalDimension().compute(target, dim=1).mean()
    assert tracker.history[0].mean == pytest.approx(float(expected), abs=1e-6)


def test_only_some_signals_are_taken_the_same_ones_every_time() -> None:
    # Rows of one channel are alike, so a choice that met few channels would have another mean.
    H = torch.linspace(0, 1, 64)
    x = (noise(63, N_TIME, 64) * (1 - H) + noise(63, N_TIME, 64, seed=1).cumsum(1) * H / 8).float()
    model = nn.Sequential(nn.Identity())
    with LatentFDTracker(model, ["0"], max_items=64) as some:
        model(x)
        model(x)
    with LatentFDTracker(model, ["0"], max_items=10**6) as every:
        model(x)
    assert some.history[0][1:] == some.history[1][1:]
    # 64 of 4032 values with a deviation near .2: standard error .025, five of them.
    assert some.history[0].mean == pytest.approx(every.history[0].mean, abs=0.125)
    assert some.history[0].mean != every.history[0].mean


def test_a_module_called_several_times_has_one_record_per_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(self.part(x).cumsum(1))

    model, x = Twice(), noise(1, N_TIME, 2)
    with LatentFDTracker(model, ["part", "part@1"]) as tracker:
        model(x)
    assert [record.layer for record in tracker.history] == ["part@0", "part@1", "part@1"]
    assert tracker.history[1].mean == tracker.history[2].mean
    assert tracker.history[0].mean > tracker.history[1].mean


def test_an_index_and_an_input_are_sites_as_well() -> None:
    model, x = nn.Sequential(nn.Linear(2, 2)), noise(1, N_TIME, 2)
    with LatentFDTracker(model, ["0:in[..., :1]"]) as tracker:
        model(x)
    expected = HiguchiFractalDimension().compute(x[..., 0])
    assert tracker.history[0].mean == pytest.approx(float(expected), abs=1e-6)


def test_a_silent_unit_is_left_out_and_told_once() -> None:
    model, x = nn.Sequential(nn.Identity()), noise(1, N_TIME, 2)
    x[..., 0] = 0.0
    with LatentFDTracker(model, ["0"]) as tracker:
        with pytest.warns(UserWarning, match="1 of 2 signals of layer '0' have no higuchi at st"):
            model(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(x)
    expected = float(HiguchiFractalDimension().compute(x[..., 1]))
    assert tracker.history[0].mean == pytest.approx(expected, abs=1e-6)
    with LatentFDTracker(model, ["0"]) as silent, pytest.warns(UserWarning, match="2 of 2"):
        model(x * 0)
    assert str(silent.history[0].mean) == str(silent.history[0].std) == "nan"


def test_a_forward_that_ends_half_way_is_kept_and_the_next_one_is_whole() -> None:
    model = nn.Sequential(nn.Identity(), nn.Identity())
    with LatentFDTracker(model, ["0", "1"]) as tracker:
        run(model, noise(1, N_TIME, 1), capture=["1"], stop=True)
        model(noise(1, N_TIME, 1))
    assert [(record.step, record.layer) for record in tracker.history] == [
        (0, "0"),
        (1, "0"),
        (1, "1"),
    ]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nothing_is_left_after_an_error() -> None:
    def fail(_x: Tensor) -> Tensor:
        raise ZeroDivisionError

    model = nn.Sequential(nn.Identity(), Returning(fail))
    with pytest.raises(ZeroDivisionError), LatentFDTracker(model, ["0"]) as tracker:
        model(noise(1, N_TIME, 1))
    assert tracker.history == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_trackers_nest() -> None:
    model, x = nn.Sequential(nn.Identity()), noise(1, N_TIME, 2)
    with (
        LatentFDTracker(model, ["", "0"]) as outer,
        LatentFDTracker(model, ["", "0"], every=2) as inner,
    ):
        model(x)
        model(x)
    assert [record.step for record in outer.history] == [0, 0, 1, 1]
    assert [record.step for record in inner.history] == [0, 0]
    assert not model._forward_hooks


def test_a_trainer_tells_the_numbers_of_its_steps() -> None:
    model = nn.Sequential(nn.Identity())
    tracker = LatentFDTracker(model, ["0"])
    assert isinstance(tracker, Callback)
    for epoch in range(2):
        for step in range(1, 4):
            model(noise(1, N_TIME, 1))
            tracker.on_step_end(None, 10 * epoch + step, 0.5)
        tracker.on_epoch_end(None, epoch, {})
    assert [record.step for record in tracker.history] == [2, 3, 12, 13]
    assert not model._forward_hooks
    tracker.on_step_end(None, 20, 0.5)
    with tracker:  # the block decides now
        tracker.on_epoch_end(None, 2, {})
        model(noise(1, N_TIME, 1))
    assert tracker.history[-1].step == 21
    assert not model._forward_hooks


@pytest.mark.slow  # imports Lightning and fits
def test_lightning_keeps_the_tracker_active(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(1, 2)

        def training_step(self, batch: Tensor, _index: int) -> Tensor:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Module()
    tracker = LatentFDTracker(module.net, [""], every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning.Trainer(
            max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
            callbacks=[tracker.lightning_callback()],
        ).fit(module, torch.utils.data.DataLoader(noise(6, N_TIME, 1), batch_size=2))  # fmt: skip
    assert [record.step for record in tracker.history] == [0, 2, 4]
    assert not module.net._forward_hooks


def test_what_cannot_be_tracked_is_refused() -> None:
    net = nn.Sequential(nn.Identity())
    with pytest.raises(ValueError, match="every needs at least 1, got 0"):
        LatentFDTracker(net, ["0"], every=0)
    with pytest.raises(ValueError, match="max_items needs at least 1, got 0"):
        LatentFDTracker(net, ["0"], max_items=0)
    with pytest.raises(ValueError, match="at least one layer is needed"):
        LatentFDTracker(net, [])
    with pytest.raises(ValueError, match="at least one metric is needed"):
        LatentFDTracker(net, ["0"], metrics=())
    with pytest.raises(ValueError, match="no metric named 'fd'; known: higuchi, dfa"):
        LatentFDTracker(net, ["0"], metrics="fd")
    with pytest.raises(TypeError, match="a metric needs a name or an estimator"):
        LatentFDTracker(net, ["0"], metrics={"a": 3})
    with pytest.raises(ValueError, match="layout needs the letters b, t and c with one t"):
        LatentFDTracker(net, ["0"], layout="bhwc")
    with pytest.raises(ValueError, match="layout needs the letters"):
        LatentFDTracker(net, ["0"], layout="c")
    with pytest.raises(KeyError, match=r"layout has no entry for the layers \['0'\]"):
        LatentFDTracker(net, ["0"], layout={"": "btc"})
    with pytest.raises(KeyError, match="no module 'x'"):
        LatentFDTracker(net, ["x"])


def test_what_goes_wrong_inside_is_told() -> None:
    net = nn.Sequential(nn.Identity(), nn.Identity())
    with (
        pytest.raises(ValueError, match=r"layout 'btc' needs 3 axes, got .*\(2, 5\) at '0'"),
        LatentFDTracker(net, ["0"]),
    ):
        net(torch.ones(2, 5))
    with (
        pytest.raises(ValueError, match="needs at least 21 samples") as caught,
        LatentFDTracker(net, ["0"]),
    ):
        net(torch.ones(2, 5, 3))
    assert "in the metric 'higuchi' of the layers ['0']" in caught.value.__notes__
    with pytest.raises(RuntimeError, match="never called inside"), LatentFDTracker(net, ["0"]):
        net[0](noise(1, N_TIME, 1))
    with (
        pytest.raises(RuntimeError, match="the layer '1@3' was never reached in a measured"),
        LatentFDTracker(net, ["1@3"]),
    ):
        net(noise(1, N_TIME, 1))
    tracker = LatentFDTracker(net, ["0"])
    with (
        pytest.raises(RuntimeError, match="active already; leave its block or call stop"),
        tracker,
    ):
        tracker.start()
    assert repr(tracker) == (
        "LatentFDTracker(Sequential, ['0'], metrics=['higuchi'], every=1, max_items=64)"
    )

    class Vague:
        def compute(self, x: Tensor, *, dim: int = -1) -> Tensor:
            return x

    with (
        pytest.raises(TypeError, match=r"one number for each signal .* from Vague"),
        LatentFDTracker(net, ["0"], metrics={"v": Vague()}),
    ):
        net(noise(1, N_TIME, 1))


def test_without_lightning_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightning.pytorch.callbacks", None)
    with pytest.raises(ImportError, match=r"neuros-mechint\[lightning\]"):
        LatentFDTracker(nn.Sequential(nn.Identity()), ["0"]).lightning_callback()
