"""Training: constraints, units, dead features, streams, checkpoints, and planted dictionaries."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import ActivationStore
from neuros_mechint.sae import (
    Crosscoder,
    HierarchicalSAE,
    MultiLayerSAETrainer,
    SparseAutoencoder,
    Transcoder,
)
from neuros_mechint.sae._geometry import geometric_median
from neuros_mechint.sae._losses import evaluate
from neuros_mechint.sae._recipe import Recipe
from neuros_mechint.sae._session import Session
from neuros_mechint.sae._sources import RowBuffer, as_store
from neuros_mechint.sae._stream import Stream

KINDS = ["relu", "topk", "batchtopk", "jumprelu", "gated"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def superposition(
    n_true: int, width: int, n_rows: int, rate: float, seed: int = 0, *, orthogonal: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows that are sums of few planted unit directions (Elhage 2022), and the directions."""
    source = generator(seed)
    directions = nn.functional.normalize(torch.randn(n_true, width, generator=source), dim=1)
    if orthogonal:
        directions = torch.linalg.qr(torch.randn(width, width, generator=source)).Q[:n_true]
    active = torch.rand(n_rows, n_true, generator=source) < rate
    return (active * torch.rand(n_rows, n_true, generator=source)) @ directions, directions


def cosines(directions: Tensor, coder: SparseAutoencoder) -> Tensor:
    """Largest cosine of each planted direction with a learned one."""
    return (directions @ coder.dictionary.detach().T).max(1).values


def fvu(coder: SparseAutoencoder, x: Tensor) -> float:
    with torch.no_grad():
        error = coder(x).reconstruction - x
    return float(error.square().sum() / (x - x.mean(0)).square().sum())


def small(activation: str = "topk", seed: int = 1, **options: Any) -> SparseAutoencoder:
    k = {"k": 3} if activation.endswith("topk") else {}
    return SparseAutoencoder(
        latent_dim=8, dictionary_size=32, activation=activation, generator=generator(seed),
        **k, **options,
    )  # fmt: skip


def data(n_rows: int = 600, seed: int = 0) -> Tensor:
    return 3.0 + superposition(12, 8, n_rows, 0.2, seed)[0]


# Known answers


# Five trainings of about a second.
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_topk_recovers_a_dictionary_in_superposition(seed: int) -> None:
    x, directions = superposition(64, 32, 40_000, 0.05, seed)
    coder = SparseAutoencoder(
        latent_dim=32, dictionary_size=128, activation="topk", k=3, generator=generator(seed + 9)
    )
    coder.fit(x, steps=400, batch_size=512, lr=1e-2, generator=generator(seed))
    found = cosines(directions, coder)
    # The specification asks for a
    # mean of 0.98 at all seeds, 0.99 at their median, and no direction below 0.9.
    assert found.mean() >= 0.99
    assert found.min() >= 0.9


@pytest.mark.slow  # One training each, about a second on an idle core.
@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("relu", {"sparsity_coefficient": 0.05}),
        ("batchtopk", {"k": 3}),
        ("jumprelu", {"sparsity_coefficient": 0.1, "bandwidth": 0.3}),
        ("gated", {"sparsity_coefficient": 0.15}),
    ],
)
def test_other_activations_recover_it_too(activation: str, options: dict[str, Any]) -> None:
    x, directions = superposition(64, 32, 40_000, 0.05)
    coder = SparseAutoencoder(
        latent_dim=32, dictionary_size=128, activation=activation, generator=generator(9), **options
    )
    coder.fit(x, steps=400, batch_size=512, lr=1e-2, generator=generator())
    # Measured: relu 0.991, batchtopk 0.980, jumprelu 0.983, gated 0.974.
    assert cosines(directions, coder).mean() >= 0.95


def test_an_orthogonal_dictionary_is_recovered_and_explains_the_data() -> None:
    x, directions = superposition(16, 16, 8_000, 0.1, orthogonal=True)
    coder = SparseAutoencoder(
        latent_dim=16, dictionary_size=32, activation="topk", k=5, generator=generator(3)
    )
    coder.fit(x, steps=500, batch_size=256, lr=1e-2, revive="auxk", generator=generator())
    assert cosines(directions, coder).min() >= 0.995
    assert fvu(coder, x) <= 0.02


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_longer_prefixes_of_a_matryoshka_dictionary_explain_more(activation: str) -> None:
    x, _ = superposition(24, 12, 4_000, 0.1)
    coder = HierarchicalSAE(
        latent_dim=12, levels=[4, 12, 48], activation=activation,
        k=4 if activation == "topk" else None, generator=generator(1),
    )  # fmt: skip
    coder.fit(x, steps=150, batch_size=256, lr=1e-2, generator=generator())
    total = (x - x.mean(0)).square().sum()
    with torch.no_grad():
        parts = coder.reconstructions(x)
    shares = [float((part - x).square().sum() / total) for part in parts]
    assert 1.0 > shares[0] > shares[1] > shares[2]


def share_of_dead(revive: Any) -> tuple[float, float]:
    """Dead features and last error when half of the features start with a short encoder.

    About 19 of the 32 planted directions are active in a row, and k = 12: an error is left, which
    more features help to explain.
    """
    x, _ = superposition(32, 28, 6_000, 0.6)
    coder = SparseAutoencoder(
        latent_dim=28, dictionary_size=8 * 32, activation="topk", k=12, generator=generator(1)
    )
    with torch.no_grad():
        coder.W_enc[:128] *= 0.02
    log = coder.fit(
        x, steps=200, batch_size=256, lr=6e-3, revive=revive, dead_after=5_120,
        generator=generator(),
    )  # fmt: skip
    assert (log.revived > 0) == (revive == "resample")
    assert ("auxk" in log.terms) == (revive == "auxk")
    silent = float((coder.encode(x).amax(0) <= 0).float().mean())
    # What training counts as dead, and what never fires in the data, agree but for a few.
    assert abs(silent - log.dead_fraction) < 0.02
    return silent, float(log.terms["mse"][-10:].mean())


@pytest.mark.slow  # Three trainings of 0.5 to 0.8 s.
def test_reviving_gives_dead_features_work() -> None:
    dead, error = share_of_dead(None)
    revived, lower_error = share_of_dead("auxk")
    restarted, _ = share_of_dead("resample")
    # The specification asks for less than 5 % where more than 20 % are dead without; measured 0 %
    # and 50 %. An auxiliary loss that is not divided by the variance of the error leaves 8 %.
    assert dead > 0.2
    assert revived < 0.05
    assert lower_error < error
    # The specification names no number for resampling; measured 8 %.
    assert restarted < dead / 2


def test_an_error_without_variance_revives_nothing() -> None:
    coder, dead = small().train(), torch.arange(32) < 16
    one_row = data(1)
    result = evaluate(coder, one_row, one_row, dead)
    assert result.terms["auxk"] == 0
    torch.autograd.backward(result.loss)
    assert coder.W_enc.grad.isfinite().all()


def test_the_pull_on_dead_features_does_not_fade_with_the_error() -> None:
    coder, dead, x = small().train(), torch.arange(32) < 16, data(50) - 3.0
    # Without biases a coder is homogeneous: smaller rows give a smaller error of the same shape.
    whole = evaluate(coder, x, x, dead).terms["auxk"]
    fainter = evaluate(coder, 0.01 * x, 0.01 * x, dead).terms["auxk"]
    torch.testing.assert_close(fainter, whole, rtol=1e-4, atol=1e-7)
    assert whole > 0


def test_the_loss_of_dead_features_follows_its_formula() -> None:
    coder, x = small().train(), data(50) - 3.0
    dead = torch.zeros(32, dtype=torch.bool)
    dead[5] = True
    result = evaluate(coder, x, x, dead)
    error = x - result.reconstruction.detach()
    # One dead feature is always among the strongest four dead ones.
    told = (x @ coder.W_enc[5]).relu()[:, None] * coder.W_dec[5]
    share = (told - error).square().sum() / (error - error.mean(0)).square().sum()
    torch.testing.assert_close(result.terms["auxk"], share / 32)


# Constraints and units


@pytest.mark.parametrize("activation", KINDS)
def test_training_keeps_unit_norms_and_lowers_the_loss(activation: str) -> None:
    coder, x = small(activation), data()
    log = coder.fit(x, steps=60, batch_size=100, lr=1e-2)
    assert log.steps == 60
    assert log.tokens == 6000
    assert log.loss[-10:].mean() < 0.8 * log.loss[:3].mean()
    torch.testing.assert_close(coder.dictionary.norm(dim=1), torch.ones(32))
    assert not coder.training
    if activation.endswith("topk"):
        assert log.l0.max() <= 3
    together = torch.stack([*log.terms.values()]).sum(0)
    torch.testing.assert_close(log.loss, together)


def test_inputs_are_scaled_to_their_width_and_the_bias_starts_at_the_median() -> None:
    coder, x = small(), data()
    session = Session(coder, Recipe(None, None, None, 100), 1000, seed=0)
    session.start(x, x)
    scaled = x * coder.input_scale
    torch.testing.assert_close(scaled.square().sum(1).mean(), torch.tensor(8.0))
    torch.testing.assert_close(coder.b_dec.detach(), geometric_median(scaled))


def test_the_unit_of_the_data_does_not_matter() -> None:
    first, second, x = small(), small(), data()
    first.fit(x, steps=20, batch_size=100)
    # A power of two, so that rounding is the same.
    second.fit(1024.0 * x, steps=20, batch_size=100)
    torch.testing.assert_close(first.W_dec, second.W_dec)
    torch.testing.assert_close(1024.0 * first.encode(x), second.encode(1024.0 * x))


@pytest.mark.parametrize("activation", KINDS)
def test_a_loaded_coder_starts_training_where_it_was(activation: str, tmp_path: Path) -> None:
    coder, x = small(activation), data()
    coder.fit(x, steps=10, batch_size=100)
    coder.save(tmp_path)
    loaded = SparseAutoencoder.load(tmp_path)
    before = loaded.encode(x)
    session = Session(loaded, Recipe(None, None, None, 100), 1000, seed=0)
    session.start(x, x)
    torch.testing.assert_close(loaded.encode(x), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded.input_scale, coder.input_scale)


def test_adam_never_sees_a_gradient_along_a_direction() -> None:
    coder, x = small("relu"), data()
    session = Session(coder, Recipe(1e-2, None, None, 100), 10**6, seed=0)
    session.start(x, x)
    before = coder.W_dec.detach().clone()
    session.train(x, x)
    along = (coder.W_dec.grad * before).sum(1)
    assert along.abs().max() < 1e-6 * coder.W_dec.grad.abs().max()


def test_the_rate_falls_over_the_last_fifth() -> None:
    rates = []

    class Note:
        def on_step_end(self, trainer: Session, step: int, loss: float) -> None:
            rates.append(trainer.optimizer.param_groups[0]["lr"])

        def on_epoch_end(self, trainer: Session, epoch: int, metrics: dict[str, float]) -> None:
            rates.append(-float(epoch))

    small().fit(data(500), num_epochs=2, batch_size=50, lr=0.1, callbacks=[Note()])
    steps = [rate for rate in rates if rate > 0]
    assert steps[:16] == pytest.approx([0.1] * 16)
    assert steps[16:] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert [rate for rate in rates if rate <= 0] == [-1.0, -2.0]


def test_the_default_rate_and_death_follow_their_formulas() -> None:
    session = Session(small(), Recipe(None, None, None, 10), 5000, seed=0)
    assert session.lr == pytest.approx(2e-4 / (32 / 2**14) ** 0.5)
    assert session.dead_after == 500
    assert Session(small(), Recipe(None, None, None, 10), 10**9, seed=0).dead_after == 10**6
    assert Session(small(), Recipe(None, None, None, 10), None, seed=0).dead_after == 10**6


def test_resampled_features_point_at_rows_and_adam_forgets_them() -> None:
    coder, x = small("gated"), data()
    session = Session(coder, Recipe(1e-2, "resample", 600, 600), None, seed=0)
    session.start(x, x)
    session.train(x, x)
    with torch.no_grad():
        coder.b_enc[:4] = -100.0
        coder.b_mag[:4] = -100.0
    session.train(x, x)
    assert session.revived >= 4
    assert (coder.b_enc[:4] == 0).all()
    moments = session.optimizer.state[coder.W_dec]
    assert (moments["exp_avg"][:4] == 0).all()
    assert (moments["exp_avg"][4:] != 0).any()
    centred = x * coder.input_scale - coder.b_dec
    aligned = nn.functional.normalize(centred, dim=1) @ coder.W_dec[:4].T
    assert (aligned.max(0).values > 0.999).all()


def test_resampled_thresholds_start_anew() -> None:
    coder, x = small("jumprelu"), data()
    session = Session(coder, Recipe(1e-2, "resample", 600, 600), None, seed=0)
    session.start(x, x)
    with torch.no_grad():
        coder.log_threshold[:3] = 9.0
    session.train(x, x)
    assert coder.log_threshold[:3].exp().tolist() == pytest.approx([0.03] * 3)


def test_the_median_resists_an_outlier() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1e4, 0.0]])
    assert geometric_median(x).norm() < 1.0
    torch.testing.assert_close(geometric_median(torch.ones(3, 2)), torch.ones(2))


# Where rows come from


def test_a_store_trains_like_a_tensor(tmp_path: Path) -> None:
    x = data(200)
    net = nn.Identity()
    store = ActivationStore.collect(net, [x], "", tmp_path / "one")
    first, second = small(), small()
    first.fit(store, steps=5, batch_size=200)
    second.fit(x, steps=5, batch_size=200)
    # Full batches: the order of the rows only rounds differently.
    torch.testing.assert_close(first.W_dec, second.W_dec, rtol=1e-4, atol=1e-4)
    both = ActivationStore.collect(nn.Sequential(net, nn.ReLU()), [x], ["0", "1"], tmp_path / "two")
    small().fit(both, site="1", steps=1)
    with pytest.raises(ValueError, match="takes 1 tensors per row, got 2"):
        small().fit(both, steps=1)


def test_many_coders_learn_from_one_forward_as_they_would_alone() -> None:
    calls = []

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(self.training)
            return super().forward(x)

    torch.manual_seed(0)
    net = nn.Sequential(Counted(5, 8), nn.ReLU(), nn.Linear(8, 8)).train()
    loader = [torch.randn(20, 4, 5, generator=generator(s)) for s in range(6)]
    options = {"batch_size": 64, "buffer_rows": 128}
    coders = {"0": [small(), small("relu")], "2": small(), ("0", "2"): Transcoder(
        8, 8, dictionary_size=16, activation="topk", k=2
    )}  # fmt: skip
    logs = MultiLayerSAETrainer(coders, **options).train(net, loader, num_epochs=2)
    assert calls == [False] * 12
    assert net.training
    assert net[0].training
    assert {key: [log.tokens for log in found] for key, found in logs.items()} == {
        "0": [960, 960], "2": [960], ("0", "2"): [960],
    }  # fmt: skip
    alone = small()
    log = alone.train_on_activations(net, loader, "0", num_epochs=2, **options)
    assert torch.equal(alone.W_dec, coders["0"][0].W_dec)
    assert torch.equal(log.loss, logs["0"][0].loss)


def test_a_crosscoder_learns_from_the_model() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
    coder = Crosscoder({"0": 8, "1": 3}, dictionary_size=16, activation="topk", k=2)
    log = coder.train_on_activations(net, [torch.ones(50, 5)], ("0", "1"), batch_size=25)
    assert log.steps == 2


def test_loaders_of_any_kind_are_understood() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.inner(a + b)

    x = data(40)

    def endless() -> Iterator[Any]:
        yield [x, x]
        yield {"a": x, "b": x}

    coder = small()
    log = coder.train_on_activations(Named(), endless(), "inner", batch_size=40)
    assert log.tokens == 80
    with pytest.raises(ValueError, match="the dataloader gave no batch"):
        small().train_on_activations(Named(), [], "inner")


def test_a_buffer_gives_every_row_once_and_mixes_them() -> None:
    buffer = RowBuffer(4, 16, generator())
    rows = torch.arange(50.0)[:, None]
    left: list[Tensor] = []
    for part in rows.split(5):
        left += [batch[0] for batch in buffer.push([part])]
    assert all(len(batch) == 4 for batch in left)
    left += [batch[0] for batch in buffer.flush()]
    assert torch.equal(torch.cat(left).sort(0).values, rows)
    assert not torch.equal(torch.cat(left), rows)
    assert list(buffer.flush()) == []
    with pytest.raises(ValueError, match=r"same number of rows, got \[2, 3\]"):
        list(buffer.push([torch.ones(2, 1), torch.ones(3, 1)]))


def test_a_stream_never_holds_more_than_its_buffer_and_one_batch() -> None:
    coders = {"": (small(),)}
    stream = Stream(nn.Identity(), coders, Recipe(None, None, None, 32), 128, generator())
    held = []
    for _ in range(40):
        stream.take(data(50), 40, "here")
        (group,) = stream._groups.values()
        held.append(len(group.buffer))
    # 2000 rows went through; a forward gives 50, and batches leave once 128 are there.
    assert max(held) <= 128
    stream.finish()
    assert group.sessions[0].tokens == 2000


# Checkpoints


class InterruptedTrainingError(Exception):
    """Stands for a kill."""


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Session, step: int, loss: float) -> None:
        if step == self.step:
            raise InterruptedTrainingError

    def on_epoch_end(self, trainer: Session, epoch: int, metrics: dict[str, float]) -> None:
        pass


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("activation", KINDS)
@pytest.mark.parametrize("revive", ["auxk", "resample"])
def test_an_interrupted_training_ends_with_the_same_bits(
    activation: str, revive: Any, tmp_path: Path
) -> None:
    x = data(330)
    options = {"num_epochs": 3, "batch_size": 100, "revive": revive, "dead_after": 250}
    whole, broken = small(activation), small(activation)
    expected = whole.fit(x, **options, generator=generator(5))
    place = {"checkpoint": tmp_path / "deep" / "run.pt", "checkpoint_every": 3}
    with pytest.raises(InterruptedTrainingError):
        broken.fit(x, **options, generator=generator(5), callbacks=[StopAt(8)], **place)
    # Whatever the coder holds by now, the checkpoint decides.
    resumed = small(activation, seed=99)
    log = resumed.fit(x, **options, generator=generator(5), **place)
    assert equal_states(whole, resumed)
    assert torch.equal(log.loss, expected.loss)
    assert log.revived == expected.revived
    again = small(activation).fit(x, **options, generator=generator(5), **place)
    assert torch.equal(again.loss, expected.loss)


def test_an_interrupted_stream_ends_with_the_same_bits(tmp_path: Path) -> None:
    net = nn.Identity()
    loader = list(data(500).split(25))
    options = {"batch_size": 30, "buffer_rows": 90}
    whole, broken, resumed = [small(), small("relu")], [small(), small("relu")], None
    MultiLayerSAETrainer({"": whole}, **options).train(net, loader, num_epochs=2)
    place = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 4}
    with pytest.raises(InterruptedTrainingError):
        MultiLayerSAETrainer({"": broken}, **options, callbacks=[StopAt(19)]).train(
            net, loader, num_epochs=2, **place
        )
    resumed = [small(seed=7), small("relu", seed=8)]
    trainer = MultiLayerSAETrainer({"": resumed}, **options)
    logs = trainer.train(net, loader, num_epochs=2, **place)
    assert logs[""][0].tokens == 1000
    assert all(equal_states(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    place = {"checkpoint": tmp_path / "run.pt"}
    small().fit(data(), steps=2, batch_size=50, **place)
    with pytest.raises(ValueError, match=r"was written by another training.*batch_size"):
        small().fit(data(), steps=2, batch_size=60, **place)
    (tmp_path / "run.pt").write_bytes(b"short")
    with pytest.raises(ValueError, match="is not a whole training checkpoint"):
        small().fit(data(), steps=2, batch_size=50, **place)
    with pytest.raises(ValueError, match="checkpoint_every needs at least 1"):
        small().fit(data(), steps=2, checkpoint_every=0)


# Bad input


def test_numbers_that_are_not_finite_are_named_with_their_batch() -> None:
    x = data(300)
    x[7, 3] = float("nan")
    with pytest.raises(ValueError, match=r"batch [0-5] has NaN or infinity in 1 of 50 rows"):
        small().fit(x, num_epochs=1, batch_size=50)
    loader = [data(20), torch.full((20, 8), float("inf"))]
    with pytest.raises(ValueError, match="site '' in batch 1 of epoch 0 has NaN"):
        small().train_on_activations(nn.Identity(), loader, "", batch_size=5)


def test_large_numbers_whose_sum_overflows_are_fine() -> None:
    log = small().fit(data(50) * 1e37, steps=1, batch_size=50)
    assert log.loss.isfinite().all()


def test_activations_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="takes rows of width 8 and gives 8, got activations of"):
        small().fit(torch.ones(10, 7), steps=1)
    with pytest.raises(ValueError, match=r"gave torch.int64 of shape \(3, 2\)"):
        small().train_on_activations(nn.Identity(), [torch.ones(3, 2, dtype=torch.long)], "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either steps or num_epochs"),
        ({"steps": 1, "num_epochs": 1}, "either steps or num_epochs"),
        ({"steps": 0}, "either steps or num_epochs"),
        ({"steps": 1, "batch_size": 0}, "batch_size needs a number above 0"),
        ({"steps": 1, "lr": -1.0}, "lr needs a number above 0"),
        ({"steps": 1, "dead_after": 0}, "dead_after needs a number above 0"),
    ],
)
def test_arguments_of_fit_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small().fit(data(), **options)


def test_arguments_of_the_trainer_that_make_no_sense_are_refused() -> None:
    coder = small()
    with pytest.raises(ValueError, match="at least one coder, each of them once"):
        MultiLayerSAETrainer({})
    with pytest.raises(ValueError, match="at least one coder, each of them once"):
        MultiLayerSAETrainer({"0": coder, "1": coder})
    with pytest.raises(ValueError, match="buffer_rows needs at least 1"):
        MultiLayerSAETrainer({"": coder}, buffer_rows=0)
    with pytest.raises(ValueError, match="num_epochs needs at least 1"):
        MultiLayerSAETrainer({"": coder}).train(nn.Identity(), [data()], num_epochs=0)


def test_tensors_that_are_no_rows_are_refused() -> None:
    cases: Sequence[Any] = [torch.ones(3), (torch.ones(3, 2), torch.ones(4, 2)), torch.ones(0, 2)]
    for bad in cases:
        with pytest.raises(ValueError, match="activations need"):
            as_store(bad)


class Counting(nn.Module):
    """A model that counts its forwards, and whose `train` changes a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(()))

    def train(self, mode: bool = True) -> "Counting":
        with torch.no_grad():
            self.linear.weight += 1
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.linear(x)


def test_training_on_a_model_leaves_its_buffers_weights_and_mode() -> None:
    torch.manual_seed(0)
    model = Counting()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    coder = SparseAutoencoder(latent_dim=4, dictionary_size=8, activation="topk", k=1)
    loader = [torch.randn(64, 4) for _ in range(4)]
    coder.train_on_activations(model, loader, "linear", batch_size=32)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
