import pytest
import torch
from torch import Tensor, nn

from neuros_mechint import Splice, run
from neuros_mechint.sae import FeatureAnalyzer, SparseAutoencoder

ACTIVATIONS = [
    {"activation": "relu"},
    {"activation": "topk", "k": 3},
    {"activation": "batchtopk", "k": 3},
    {"activation": "jumprelu"},
    {"activation": "gated"},
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coder_of(width: int = 6, size: int = 20, **options: object) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    coder = SparseAutoencoder(
        latent_dim=width, dictionary_size=size, generator=generator, **options
    )
    coder.input_scale.fill_(1.7)
    return coder.eval()


def model_of(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


def first_output(output: Tensor) -> Tensor:
    """One value per row, the mean over positions."""
    return output[..., 0].flatten(1).mean(1) if output.ndim > 2 else output[..., 0]


@pytest.mark.parametrize("options", ACTIVATIONS, ids=lambda o: o["activation"])
def test_a_splice_that_keeps_its_error_changes_nothing_and_passes_gradients(
    options: dict[str, object],
) -> None:
    model, coder, x = model_of(), coder_of(**options), normal(7, 4, 5)
    plain = model(x)
    spliced = run(model, x, edits={"1": Splice(coder, keep_error=True)}).output
    torch.testing.assert_close(spliced, plain, rtol=0, atol=1e-5)
    spliced.sum().backward()
    assert coder.W_dec.grad is not None
    assert coder.W_dec.grad.abs().sum() > 0
    without = run(model, x, edits={"1": Splice(coder)}).output
    assert (without - plain).abs().max() > 1e-3


@pytest.mark.parametrize("options", ACTIVATIONS, ids=lambda o: o["activation"])
def test_attribution_of_a_linear_readout_is_the_effect_of_ablation(
    options: dict[str, object],
) -> None:
    model, coder, x = model_of(), coder_of(**options), normal(7, 4, 5)
    analyzer = FeatureAnalyzer(coder, model, "1")
    shares = analyzer.attribute(x, first_output).set_index("feature")
    effects = analyzer.ablate(x, first_output).set_index("feature")
    assert set(shares.index) == set(effects.index)
    for feature, row in effects.iterrows():
        assert row["effect"] == pytest.approx(-shares.loc[feature, "attribution"], abs=1e-6)
    assert (effects["effect"].abs().diff().dropna() <= 0).all()
    assert (shares["attribution"].abs().diff().dropna() <= 0).all()


def test_ablation_equals_a_forward_with_the_feature_set_to_zero() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    coder, x = coder_of(), normal(9, 5)
    frame = FeatureAnalyzer(coder, model, "1").ablate(x, lambda y: y.square(), batch_size=20)
    with torch.no_grad():
        h = model[:2](x)
        f = coder.encode(h)
        baseline = float(model(x).square().mean())
        assert set(frame["feature"]) == set((f > 0).any(0).nonzero().flatten().tolist())
        for row in frame.itertuples():
            without = f.clone()
            without[:, row.feature] = 0
            edited = h - coder.decode(f) + coder.decode(without)
            expected = float(model[2:](edited).square().mean())
            assert row.ablated == pytest.approx(expected, abs=1e-6)
            assert row.baseline == pytest.approx(baseline, abs=1e-6)


def test_attribution_is_the_gradient_times_the_feature() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    coder, x = coder_of(activation="topk", k=3), normal(9, 5)
    frame = FeatureAnalyzer(coder, model, "1").attribute(x, lambda y: y.mean())
    with torch.no_grad():
        h = model[:2](x)
        f = coder.encode(h)
    f.requires_grad_()
    error = (h - coder.decode(f)).detach()
    model[2:](coder.decode(f) + error).sum().backward()
    expected = (f * f.grad).detach().sum(0) / 9
    for row in frame.itertuples():
        assert row.attribution == pytest.approx(float(expected[row.feature]), abs=1e-6)
    assert len(frame) == int((f > 0).any(0).sum())


def test_effects_leave_the_model_as_it_was() -> None:
    model, coder = model_of().train(), coder_of().train()
    analyzer = FeatureAnalyzer(coder, model, "1")
    analyzer.attribute(normal(3, 5), first_output)
    analyzer.ablate(normal(3, 5), first_output)
    assert model.training
    assert coder.training
    assert all(p.grad is None for p in [*model.parameters(), *coder.parameters()])


def test_inputs_may_be_several_arguments_or_keywords() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model_of()

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.layers(x) * scale

    analyzer = FeatureAnalyzer(coder_of(), Scaled(), "layers.1")
    x, scale = normal(4, 5), torch.full((4, 1), 2.0)
    frames = [
        analyzer.ablate(inputs, first_output)
        for inputs in ((x, scale), [x, scale], {"scale": scale, "x": x})
    ]
    assert frames[0].equals(frames[1])
    assert frames[0].equals(frames[2])


def test_coactivation_counts_pairs() -> None:
    coder, x = coder_of(), normal(10, 30, 6)
    found = FeatureAnalyzer(coder).coactivation(x, batch_size=37)
    with torch.no_grad():
        active = (coder.encode(x).reshape(-1, 20) > 0).double()
    assert found.n_rows == 300
    assert torch.equal(found.counts.double(), active.T @ active)
    i, j = 3, 11
    both = (active[:, i] * active[:, j]).sum()
    either = ((active[:, i] + active[:, j]) > 0).sum()
    assert float(found.jaccard[i, j]) == pytest.approx(float(both / either))
    expected = torch.corrcoef(active.T)
    torch.testing.assert_close(found.phi, expected, rtol=1e-9, atol=1e-9)
    some = FeatureAnalyzer(coder).coactivation(list(x), features=[11, 3])
    assert torch.equal(some.features, torch.tensor([11, 3]))
    assert int(some.counts[0, 1]) == int(both)


def test_features_that_never_fire_have_no_correlation() -> None:
    coder = coder_of()
    with torch.no_grad():
        coder.b_enc[2] = -1e3
    found = FeatureAnalyzer(coder).coactivation(normal(30, 6))
    assert found.counts[2].sum() == 0
    assert found.jaccard[2].abs().sum() == 0
    assert found.phi[2].abs().sum() == 0


def test_the_decoder_graph_joins_similar_directions() -> None:
    coder = coder_of(width=3, size=4)
    directions = torch.tensor([[1.0, 0, 0], [0.0, 1, 0], [0.8, 0.6, 0], [-1.0, 0, 0]])
    with torch.no_grad():
        coder.W_dec.copy_(directions)
    graph = FeatureAnalyzer(coder).decoder_graph(threshold=0.5)
    assert sorted(graph.edges) == [(0, 2), (1, 2)]
    assert graph.edges[0, 2]["cosine"] == pytest.approx(0.8)
    assert sorted(graph.nodes) == [0, 1, 2, 3]
    assert sorted(FeatureAnalyzer(coder).decoder_graph(features=[3, 2]).nodes) == [2, 3]


def test_what_does_not_fit_is_refused() -> None:
    coder, model, x = coder_of(), model_of(), normal(4, 5)
    analyzer = FeatureAnalyzer(coder, model, "1")
    with pytest.raises(TypeError, match="coder"):
        FeatureAnalyzer(nn.ReLU())
    with pytest.raises(ValueError, match="model= and site= are needed together"):
        FeatureAnalyzer(coder, model)
    with pytest.raises(ValueError, match=r"effects need FeatureAnalyzer\(coder, model, site\)"):
        FeatureAnalyzer(coder).ablate(x, first_output)
    with pytest.raises(IndexError, match=r"the coder has features 0 to 19, got \[20, -1\]"):
        analyzer.ablate(x, first_output, features=[3, 20, -1])
    with pytest.raises(ValueError, match="data gave no rows, so there is nothing to count"):
        analyzer.coactivation([])
    with pytest.raises(TypeError, match="metric needs to return a tensor, got float"):
        analyzer.attribute(x, lambda y: float(y.detach().sum()))
    with pytest.raises(ValueError, match="metric does not depend on the features"):
        analyzer.attribute(x, lambda y: y.detach().sum())
    with pytest.raises(RuntimeError, match="never reached"):
        FeatureAnalyzer(coder, nn.ModuleList([model, nn.Identity()])[0], "1@3").attribute(
            x, first_output
        )


def test_a_metric_that_reads_around_the_site_has_no_attribution() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Identity()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            self.hidden(x)
            return self.gain * x

    frame = FeatureAnalyzer(coder_of(), Around(), "hidden").attribute(normal(4, 6), first_output)
    assert (frame["attribution"] == 0).all()
