"""Scores of coders that read or give back several sites."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_mechint import ActivationStore
from neuros_mechint.sae import Crosscoder, SAEMetrics, Transcoder, evaluate_sae

TIE = 1e-6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def unexplained(y: Tensor, again: Tensor) -> float:
    wide = y.double()
    return float((wide - again).square().sum() / (wide - wide.mean(0)).square().sum())


def assert_same(one: SAEMetrics, other: SAEMetrics) -> None:
    assert one[:8] == pytest.approx(other[:8], rel=TIE, abs=TIE)


def transcoder() -> Transcoder:
    coder = Transcoder(4, 5, dictionary_size=12, activation="topk", k=3, generator=gen())
    with torch.no_grad():
        coder.input_scale.fill_(0.5)
        coder.output_scale.fill_(2.0)
        coder.b_dec.copy_(normal(5, seed=8))
    return coder.eval()


def crosscoder() -> Crosscoder:
    coder = Crosscoder({"0": 4, "2": 5}, dictionary_size=12, generator=gen())
    with torch.no_grad():
        coder.input_scale.copy_(torch.tensor([0.5, 4.0]))
        coder.b_dec.copy_(normal(9, seed=8))
    return coder.eval()


class Net(nn.Module):
    """The site "2" is a function of the site "0" alone, and the output one of both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleDict()
        for name, module in {"0": nn.Linear(3, 4), "2": nn.Linear(4, 5)}.items():
            self.add_module(name, module)
        self.head = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        early = getattr(self, "0")(x)
        return self.head(torch.cat([early, getattr(self, "2")(early.tanh())], -1))


def squared(output: Tensor) -> Tensor:
    return (output - 1).square().sum(-1)


def test_a_transcoder_is_scored_on_its_target() -> None:
    coder, x, y = transcoder(), normal(80, 4), normal(80, 5, seed=1)
    scores = evaluate_sae(coder, (x, y), batch_size=32)
    with torch.no_grad():
        f = coder.encode(x)
        again = coder.decode(f).double()
    assert scores.n_rows == 80
    assert scores.fvu == pytest.approx(unexplained(y, again), rel=TIE)
    assert scores.cosine == pytest.approx(
        float(torch.cosine_similarity(y.double(), again, dim=1).mean()), rel=TIE
    )
    assert scores.l0 == pytest.approx(float((f > 0).sum(1).double().mean()))
    assert scores.l1 == pytest.approx(float(f.double().sum(1).mean()), rel=TIE)


def test_a_perfect_transcoder_recovers_the_whole_loss() -> None:
    # Features are relu(+-(W x)), so that their difference is the layer itself.
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 1))
    W = net[1].weight.detach()
    coder = Transcoder(4, 2, dictionary_size=4)
    with torch.no_grad():
        coder.W_enc.copy_(torch.cat([W, -W]))
        coder.W_dec.copy_(torch.cat([torch.eye(2), -torch.eye(2)]))
    x = normal(60, 3)
    scores = evaluate_sae(coder, x, net, ("0", "1"), squared, batch_size=25)
    assert scores.fvu == pytest.approx(0, abs=1e-9)
    assert scores.loss_recovered == pytest.approx(1, abs=1e-5)
    assert scores.loss_recovered_mean == pytest.approx(1, abs=1e-5)


def test_the_loss_that_a_transcoder_recovers_is_that_of_its_prediction_at_the_target() -> None:
    net, coder, x = Net(), transcoder(), normal(60, 3)
    scores = evaluate_sae(coder, x, net, ("0", "2"), squared, batch_size=25)
    with torch.no_grad():
        early = getattr(net, "0")(x)
        late = getattr(net, "2")(early.tanh())

        def loss(value: Tensor) -> float:
            return float(squared(net.head(torch.cat([early, value], -1))).double().mean())

        coded, zero, mean = (
            loss(value)
            for value in (
                coder.decode(coder.encode(early)),
                torch.zeros_like(late),
                late.mean(0).expand_as(late),
            )
        )
        clean = loss(late)
    assert scores.loss_recovered == pytest.approx((zero - coded) / (zero - clean), rel=1e-4)
    assert scores.loss_recovered_mean == pytest.approx((mean - coded) / (mean - clean), rel=1e-4)
    assert_same(scores, evaluate_sae(coder, (early, late)))


def test_a_crosscoder_is_scored_at_every_site() -> None:
    coder, x = crosscoder(), {"2": 10 * normal(80, 5, seed=1), "0": normal(80, 4)}
    scores = evaluate_sae(coder, x, batch_size=32)
    assert list(scores) == ["0", "2"]
    with torch.no_grad():
        f = coder.encode(x)
        for site, again in coder.decode(f).items():
            assert scores[site].fvu == pytest.approx(unexplained(x[site], again.double()), rel=TIE)
            assert scores[site].l0 == pytest.approx(float((f > 0).sum(1).double().mean()))


def test_a_crosscoder_recovers_the_loss_of_each_site_alone() -> None:
    net, coder, x = Net(), crosscoder(), normal(60, 3)
    scores = evaluate_sae(coder, x, net, metric=squared, batch_size=25)
    with torch.no_grad():
        early = getattr(net, "0")(x)
        late = getattr(net, "2")(early.tanh())
        found = coder.decode(coder.encode({"0": early, "2": late}))
        losses = {}
        for name, value in {"clean": late, "coded": found["2"], "zero": 0 * late}.items():
            output = net.head(torch.cat([early, value], -1))
            losses[name] = float(squared(output).double().mean())
    expected = (losses["zero"] - losses["coded"]) / (losses["zero"] - losses["clean"])
    assert scores["2"].loss_recovered == pytest.approx(expected, rel=1e-4)
    assert scores["0"].loss_recovered != pytest.approx(expected, rel=1e-2)


@settings(max_examples=8, derandomize=True, deadline=None)
@given(batch_size=st.integers(1, 90), cut=st.integers(1, 80))
def test_the_cut_into_batches_does_not_matter(batch_size: int, cut: int) -> None:
    x, y = normal(80, 4), normal(80, 5, seed=1)
    pairs = list(zip(x.split(cut), y.split(cut), strict=True))
    assert_same(
        evaluate_sae(transcoder(), [list(pair) for pair in pairs], batch_size=batch_size),
        evaluate_sae(transcoder(), (x, y)),
    )
    named = [{"0": a, "2": b} for a, b in pairs]
    found = evaluate_sae(crosscoder(), named, batch_size=batch_size)
    whole = evaluate_sae(crosscoder(), {"0": x, "2": y})
    for site in whole:
        assert_same(found[site], whole[site])


def test_a_store_is_data(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)), normal(6, 10, 3)
    store = ActivationStore.collect(net, [x], ["0", "2"], tmp_path, shard_size=7)
    with torch.no_grad():
        early = net[0](x)
        late = net[2](net[1](early))
    found = evaluate_sae(transcoder(), store, site=("0", "2"), batch_size=9)
    assert_same(found, evaluate_sae(transcoder(), (early, late)))
    by_name = evaluate_sae(crosscoder(), store, batch_size=9)
    assert_same(by_name["2"], evaluate_sae(crosscoder(), {"0": early, "2": late})["2"])
    with pytest.raises(ValueError, match=r"this coder reads 2 sites, name them with site="):
        evaluate_sae(transcoder(), store)


def concepts() -> tuple[Tensor, Tensor]:
    """Three concepts, each on an axis of its own."""
    labels = torch.arange(600) % 3
    return 2 * torch.eye(4)[labels] + 0.1 * normal(600, 4), labels


def test_labels_are_told_from_the_features_of_a_transcoder() -> None:
    x, labels = concepts()
    coder = Transcoder(4, 5, dictionary_size=4)
    with torch.no_grad():
        coder.W_enc.copy_(torch.eye(4))
        coder.b_enc.fill_(-1.0)
        coder.W_dec.copy_(torch.eye(5)[:4])
    y = nn.functional.pad(x, (0, 1))
    scores = evaluate_sae(coder, (x, y), labels=labels, generator=gen(), probe_sizes=(1,))
    assert scores.probing == {1: pytest.approx(1, abs=0.01)}
    assert scores.probing_dense == pytest.approx(1, abs=0.01)
    assert scores.absorption == 0


def test_each_site_of_a_crosscoder_is_probed_by_itself() -> None:
    x, labels = concepts()
    coder = Crosscoder({"told": 4, "silent": 2}, dictionary_size=4)
    with torch.no_grad():
        coder.W_enc.copy_(torch.eye(6)[:4])
        coder.b_enc.fill_(-1.0)
        coder.W_dec.copy_(torch.eye(6)[:4])
    sites = {"told": x, "silent": normal(600, 2, seed=4)}
    scores = evaluate_sae(coder, sites, labels=labels, generator=gen(), probe_sizes=(1,))
    # Features are shared, what the activations of a site tell is not.
    assert scores["told"].probing == scores["silent"].probing == {1: pytest.approx(1, abs=0.01)}
    assert scores["told"].probing_dense == pytest.approx(1, abs=0.01)
    # 180 held-out rows, 60 of a class: 5 standard errors of a balanced accuracy.
    assert scores["silent"].probing_dense == pytest.approx(0.5, abs=5 * 0.04)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_absorption_at_a_site_of_a_crosscoder_ignores_its_unit(scale: float) -> None:
    """Feature 0 is the concept's, feature 1 takes over where a special part is there as well."""
    labels = torch.arange(1000) % 2
    special = (labels == 1) & (torch.arange(1000) // 2 % 100 < 1)
    x = 0.01 * normal(1000, 4)
    x[labels == 1, 0] += 2
    x[labels == 0, 2] += 2
    x[special, 1] += 2
    coder = Crosscoder({"a": 4, "b": 1}, dictionary_size=3)
    root = 0.5**0.5
    with torch.no_grad():
        coder.input_scale.copy_(torch.tensor([1 / scale, 1.0]))
        coder.W_enc.zero_()
        coder.b_enc.fill_(-1.0)
        coder.W_enc[0, :2] = torch.tensor([1.0, -1.0])
        coder.W_enc[1, 1] = 2.0
        coder.W_enc[2, 2] = 1.0
        directions = [[1.0, 0, 0, 0, 0], [root, root, 0, 0, 0], [0, 0, 1, 0, 0]]
        coder.W_dec.copy_(torch.tensor(directions))
    sites = {"a": scale * x, "b": torch.ones(1000, 1) + normal(1000, 1, seed=2)}
    held = torch.randperm(1000, generator=torch.Generator().manual_seed(2))[:300]
    expected = int(special[held].sum()) / int((labels[held] == 1).sum()) / 2
    scores = evaluate_sae(coder, sites, labels=labels, generator=torch.Generator().manual_seed(2))
    assert expected > 0
    assert scores["a"].absorption == pytest.approx(expected, abs=1e-12)
    # At the other site the feature has no direction to point anywhere with.
    assert scores["b"].absorption == 0


def test_data_and_sites_that_do_not_fit_are_refused() -> None:
    pair, cross = transcoder(), crosscoder()
    x, y = normal(8, 4), normal(8, 5)
    with pytest.raises(ValueError, match=r"needs batches of 2 tensors, .* got \(8, 4\)"):
        evaluate_sae(pair, [x, y])
    with pytest.raises(ValueError, match=r"needs batches of 2 tensors, .* got \['\(8, 4\)'\]"):
        evaluate_sae(pair, (x,))
    with pytest.raises(ValueError, match="same number of rows, got"):
        evaluate_sae(pair, (x, y[:3]))
    with pytest.raises(ValueError, match=r"the sites \['0', '2'\] by name, .* 'NoneType'|'0':"):
        evaluate_sae(cross, {"0": x})
    with pytest.raises(ValueError, match=r"the sites \['0', '2'\] by name, .* got \(8, 4\)"):
        evaluate_sae(cross, x[None])
    with pytest.raises(ValueError, match="site= needs a model, or a store of activations"):
        evaluate_sae(pair, (x, y), site=("0", "2"))
    with pytest.raises(ValueError, match=r"site needs 2 for this coder, .* got 1: \['0'\]"):
        evaluate_sae(pair, normal(8, 3), Net(), "0")
    with pytest.raises(ValueError, match="model= needs site=, the place"):
        evaluate_sae(pair, normal(8, 3), Net())
