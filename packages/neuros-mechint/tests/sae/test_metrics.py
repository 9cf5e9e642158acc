from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_mechint import ActivationStore
from neuros_mechint.sae import SparseAutoencoder, evaluate_sae, hungarian_mcs, mmcs

TIE = 1e-6


class Directions(nn.Module):
    """A coder with given directions whose features are their positive projections."""

    def __init__(self, dictionary: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.dictionary = dictionary
        self.bias = bias

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.dictionary.T + self.bias).relu()

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.dictionary


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coder_of(activation: str = "relu", **options: object) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    return SparseAutoencoder(
        latent_dim=6, dictionary_size=20, activation=activation, generator=generator, **options
    )


def test_the_scores_are_their_definitions() -> None:
    x, coder = normal(200, 6), coder_of()
    scores = evaluate_sae(coder, x)
    with torch.no_grad():
        f = coder.encode(x)
        again = coder.decode(f)
    wide = x.double()
    fvu = float((wide - again).square().sum() / (wide - wide.mean(0)).square().sum())
    density = (f > 0).double().mean(0)
    assert scores.n_rows == 200
    assert scores.l0 == pytest.approx(float((f > 0).sum(1).double().mean()), abs=1e-12)
    assert scores.l1 == pytest.approx(float(f.double().sum(1).mean()), rel=1e-6)
    assert scores.fvu == pytest.approx(fvu, rel=1e-6)
    assert scores.explained_variance == 1 - scores.fvu
    expected = torch.cosine_similarity(wide, again.double()).mean()
    assert scores.cosine == pytest.approx(float(expected), abs=1e-9)
    assert scores.dead_fraction == float((density == 0).double().mean())
    assert scores.dense_fraction == float((density > 0.1).double().mean())
    assert scores.loss_recovered is scores.loss_recovered_mean is scores.probing is None


def test_a_perfect_coder_leaves_nothing_unexplained() -> None:
    coder = Directions(torch.cat([torch.eye(4), -torch.eye(4)]))
    scores = evaluate_sae(coder, normal(50, 4))
    assert scores.fvu == pytest.approx(0, abs=1e-12)
    assert scores.cosine == pytest.approx(1)
    assert scores.l0 == 4


def test_rows_of_zeros_have_no_cosine() -> None:
    x = torch.cat([normal(10, 4), torch.zeros(90, 4)])
    assert evaluate_sae(Directions(torch.eye(4).repeat(2, 1) * 0.5), x).cosine == pytest.approx(
        evaluate_sae(Directions(torch.eye(4).repeat(2, 1) * 0.5), x[:10]).cosine
    )


def test_a_coder_of_the_mean_explains_nothing() -> None:
    class Constant(Directions):
        def decode(self, f: Tensor) -> Tensor:
            return normal(50, 4).mean(0).expand(len(f), 4)

    assert evaluate_sae(Constant(torch.eye(4)), normal(50, 4)).fvu == pytest.approx(1)


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"activation": "topk", "k": 3},
        {"activation": "batchtopk", "k": 3},
        {"activation": "jumprelu"},
        {"activation": "gated"},
    ],
    ids=lambda options: options["activation"],
)
@settings(max_examples=6, derandomize=True, deadline=None)
@given(batch_size=st.integers(1, 150), cut=st.integers(1, 120))
def test_the_cut_into_batches_does_not_matter(
    options: dict[str, object], batch_size: int, cut: int
) -> None:
    coder, x = coder_of(**options).train(), normal(120, 6) + 3
    whole = evaluate_sae(coder, x, batch_size=120)
    again = evaluate_sae(coder, list(x.split(cut)), batch_size=batch_size)
    assert again[:8] == pytest.approx(whole[:8], abs=TIE, rel=TIE)
    assert coder.training


def test_a_store_is_data(tmp_path: Path) -> None:
    x, coder = normal(4, 10, 6), coder_of()
    net = nn.Sequential(nn.Identity(), nn.Tanh())
    store = ActivationStore.collect(net, [x], ["0", "1"], tmp_path, shard_size=7)
    scores = evaluate_sae(coder, store, site="0", batch_size=9)
    assert scores[:8] == pytest.approx(evaluate_sae(coder, x)[:8], rel=TIE)
    with pytest.raises(ValueError, match="the store holds several sites, name one of"):
        evaluate_sae(coder, store)
    single = ActivationStore.collect(net, [x], "0", tmp_path / "single")
    assert evaluate_sae(coder, single).fvu == pytest.approx(scores.fvu, rel=TIE)


def squared(output: Tensor) -> Tensor:
    """One value per row."""
    return (output - 1).square().sum(-1).flatten()


def linear_model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3))


def test_the_recovered_loss_is_its_definition() -> None:
    model, coder, inputs = linear_model(), coder_of(), normal(64, 5)
    scores = evaluate_sae(coder, inputs, model, "2", squared, batch_size=10)
    assert model.training
    model.eval()
    with torch.no_grad():
        h = model[:3](inputs)
        variants = [h, coder.decode(coder.encode(h)), torch.zeros_like(h), h.mean(0).expand_as(h)]
        clean, sae, zero, mean = (float(squared(model[3](v)).double().mean()) for v in variants)
    assert scores.loss_recovered == pytest.approx((zero - sae) / (zero - clean), rel=1e-5)
    assert scores.loss_recovered_mean == pytest.approx((mean - sae) / (mean - clean), rel=1e-5)
    assert scores[:8] == pytest.approx(evaluate_sae(coder, h)[:8], rel=TIE)


def test_a_perfect_coder_recovers_the_whole_loss_and_a_silent_one_none() -> None:
    inputs = normal(32, 5)
    perfect = Directions(torch.cat([torch.eye(6), -torch.eye(6)]))
    scores = evaluate_sae(perfect, inputs, linear_model(), "2", squared)
    assert scores.loss_recovered == pytest.approx(1, abs=1e-6)
    assert scores.loss_recovered_mean == pytest.approx(1, abs=1e-6)
    silent = Directions(torch.eye(6), bias=-1e3)
    assert evaluate_sae(silent, inputs, linear_model(), "2", squared).loss_recovered == 0


@settings(max_examples=8, derandomize=True, deadline=None)
@given(cut=st.integers(1, 64))
def test_losses_do_not_depend_on_the_batches(cut: int) -> None:
    # In float64, because a ratio of differences of losses loses digits.
    model, inputs = linear_model().double(), normal(64, 5).double()
    coder = Directions(normal(20, 6, seed=2).double())
    targets = torch.arange(64) % 3
    pairs = list(zip(inputs.split(cut), targets.split(cut), strict=True))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: Tensor, _target: Tensor) -> Tensor:
            return self.layers(x)

    def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(output, batch[1])

    scores = evaluate_sae(coder, pairs, Model(), "layers.2", loss)
    whole = evaluate_sae(coder, [(inputs, targets)], Model(), "layers.2", loss)
    assert scores[:10] == pytest.approx(whole[:10], rel=TIE, abs=TIE)


def test_a_site_with_an_index_is_scored_and_edited_there_only() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.hidden(x).sum(1)

    inputs = normal(32, 2, 6)
    scores = evaluate_sae(
        Directions(torch.cat([torch.eye(6), -torch.eye(6)])), inputs, Two(), "hidden[:, 0]", squared
    )
    assert scores.n_rows == 32
    assert scores.loss_recovered == pytest.approx(1, abs=1e-5)


def planted(n: int = 600) -> tuple[Tensor, Tensor, Tensor]:
    """Three concepts on directions of their own, in noise."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (n,), generator=generator)
    directions = torch.eye(8)
    x = 2 * directions[labels] + 0.1 * torch.randn(n, 8, generator=generator)
    return x, labels, directions


def test_a_probe_on_one_feature_finds_planted_concepts() -> None:
    x, labels, directions = planted()
    generator = torch.Generator().manual_seed(0)
    scores = evaluate_sae(
        Directions(directions), x, labels=labels, generator=generator, probe_sizes=(1, 3)
    )
    assert scores.probing == {1: pytest.approx(1, abs=0.01), 3: pytest.approx(1, abs=0.01)}
    assert scores.probing_dense == pytest.approx(1, abs=0.01)
    assert scores.absorption == 0


def test_labels_without_relation_to_the_data_are_at_chance() -> None:
    x, labels, directions = planted(2000)
    shuffled = labels[torch.randperm(2000, generator=torch.Generator().manual_seed(9))]
    generator = torch.Generator().manual_seed(0)
    scores = evaluate_sae(
        Directions(directions), x, labels=shuffled, generator=generator, probe_sizes=(2,)
    )
    # 600 test rows, a third of them of the class: 5 standard errors of the mean of two rates.
    error = 5 * (0.25 / 200 + 0.25 / 400) ** 0.5 / 2
    assert scores.probing is not None
    assert abs(scores.probing[2] - 0.5) < error


def test_scores_with_labels_do_not_depend_on_the_batches() -> None:
    x, labels, directions = planted()
    found = [
        evaluate_sae(
            Directions(directions),
            x,
            labels=labels,
            generator=torch.Generator().manual_seed(0),
            batch_size=batch_size,
        )
        for batch_size in (600, 37)
    ]
    assert found[0].probing == pytest.approx(found[1].probing, abs=TIE)
    assert found[0].absorption == pytest.approx(found[1].absorption, abs=TIE)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), scale=st.floats(0.01, 100))
def test_similarities_ignore_order_and_length(seed: int, n: int, scale: float) -> None:
    D = normal(n, 5, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert mmcs(D, scale * D[order]) == pytest.approx(1)
    assert hungarian_mcs(D, scale * D[order]) == pytest.approx(1)
    other = normal(4, 5, seed=seed + 1)
    assert hungarian_mcs(D, other) <= 1
    assert hungarian_mcs(D, other) == pytest.approx(hungarian_mcs(other, D))
    assert hungarian_mcs(D[:4], other) <= mmcs(D[:4], other) + 1e-12


def test_mean_max_cosine_is_not_fooled_by_a_sign() -> None:
    assert mmcs(torch.eye(2), -torch.eye(2)) == 0
    half = torch.tensor([[1.0, 1.0]])
    assert mmcs(torch.eye(2), half) == pytest.approx(0.5**0.5)
    assert mmcs(half, torch.eye(2)) == pytest.approx(0.5**0.5)


def test_one_direction_cannot_match_two() -> None:
    learned = torch.tensor([[1.0, 1.0], [0.0, 0.0]]) + torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    assert mmcs(torch.eye(2), learned) == pytest.approx(0.5**0.5)
    assert hungarian_mcs(torch.tensor([[1.0, 0.0], [1.0, 0.01]]), torch.eye(2)) < 0.52


def test_bad_directions_are_refused() -> None:
    good = torch.eye(3)
    with pytest.raises(ValueError, match=r"D1 needs directions of shape \(n, width\), n >= 1"):
        mmcs(good[0], good)
    with pytest.raises(ValueError, match=r"D2 needs directions of shape .* got \(0, 3\)"):
        hungarian_mcs(good, good[:0])
    with pytest.raises(ValueError, match="D2 holds a direction that is zero or not finite"):
        mmcs(good, good * 0)
    with pytest.raises(ValueError, match="directions of one width, got 3 and 2"):
        mmcs(good, torch.eye(2))


def test_bad_data_are_refused() -> None:
    coder = coder_of()
    with pytest.raises(ValueError, match="data gave no rows"):
        evaluate_sae(coder, [])
    with pytest.raises(ValueError, match="all 3 rows of data are equal"):
        evaluate_sae(coder, torch.ones(3, 6))
    with pytest.raises(ValueError, match="data needs finite activations, batch 1 has others"):
        evaluate_sae(coder, [normal(3, 6), normal(3, 6) / 0])
    with pytest.raises(ValueError, match=r"data needs activations of shape .* got \(6,\)"):
        evaluate_sae(coder, normal(6))
    with pytest.raises(ValueError, match=r"data needs activations of shape .* got str"):
        evaluate_sae(coder, ["x"])
    with pytest.raises(TypeError, match="coder"):
        evaluate_sae(nn.Linear(6, 6), normal(3, 6))


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    coder, x, model = coder_of(), normal(30, 6), nn.Identity()
    generator = torch.Generator()

    def refuse(message: str, *args: object, **kwargs: object) -> None:
        with pytest.raises(ValueError, match=message):
            evaluate_sae(coder, *args, **kwargs)

    refuse("batch_size needs at least 1, got 0", x, batch_size=0)
    refuse("model= needs site=", x, model)
    refuse("metric= needs model= and site=", x, metric=squared)
    refuse("site= needs a model, or a store", x, site="0")
    refuse("labels= needs generator=", x, labels=torch.zeros(30))
    refuse("probe_sizes needs numbers", x, labels=x[:, 0], generator=generator, probe_sizes=[])
    refuse(r"one label per row .* \(30,\), got \(4,\)", x, labels=[1, 2, 1, 2], generator=generator)
    refuse("at least two classes", x, labels=[1] * 30, generator=generator)
    refuse("class a has 29 of 30 rows", x, labels=["a"] * 29 + ["b"], generator=generator)
    store = ActivationStore.collect(model, [x], "", tmp_path)
    refuse("model= needs data of model inputs", store, model, "")


def test_metrics_that_do_not_fit_are_refused() -> None:
    coder, x, model = coder_of(), normal(8, 6), nn.Identity()

    def twice() -> Iterator[Tensor]:
        yield x

    with pytest.raises(TypeError, match="data are read twice, which a generator does not allow"):
        evaluate_sae(coder, twice(), model, "", squared)
    with pytest.raises(TypeError, match="metric needs to return a tensor, got float"):
        evaluate_sae(coder, x, model, "", lambda y: float(y.sum()))
    with pytest.raises(ValueError, match="a site that does not matter has no loss to recover"):
        evaluate_sae(coder, x, model, "", lambda y: y.sum() * 0 + 1)

    class Shrinking(list):
        def __iter__(self) -> Iterator[Tensor]:
            yield from [self.pop(), self.pop()]

    with pytest.raises(ValueError, match="data gave other batches when they were read a second"):
        evaluate_sae(coder, Shrinking([x[:1], x[:1], x, x]), model, "", squared)
