import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_mechint.sae import SparseAutoencoder, interpret_feature, interpret_features


def coder_of(width: int = 4, size: int = 9, **options: object) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    return SparseAutoencoder(latent_dim=width, dictionary_size=size, generator=generator, **options)


class Embedded(nn.Module):
    """Tokens to vectors to logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(12, 4)
        self.unembed = nn.Linear(4, 12, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.unembed(self.embed(tokens))


def tokens(n: int = 40, time: int = 6) -> Tensor:
    return torch.randint(0, 12, (n, time), generator=torch.Generator().manual_seed(1))


def test_a_report_holds_the_strongest_inputs_and_where_they_peak() -> None:
    model, coder, data = Embedded(), coder_of(), tokens()
    report = interpret_feature(coder, 2, model, data.split(7), top_k=5, site="embed")
    with torch.no_grad():
        f = coder.encode(model.embed(data))[..., 2]
    peaks = f.amax(1)
    order = peaks.argsort(descending=True, stable=True)[:5]
    assert report.feature == 2
    assert torch.equal(report.rows, order)
    torch.testing.assert_close(report.activations, peaks[order])
    torch.testing.assert_close(report.traces, f[order])
    assert torch.equal(torch.stack(report.top_inputs), data[order])
    assert torch.equal(report.positions[:, 0], f[order].argmax(1))
    assert report.density == pytest.approx(float((f > 0).double().mean()))
    assert report.max == pytest.approx(float(f.max()))
    assert report.mean_when_active == pytest.approx(float(f[f > 0].mean()), rel=1e-6)
    assert report.readout is None


@settings(max_examples=10, derandomize=True, deadline=None)
@given(cut=st.integers(1, 40), ids=st.lists(st.integers(0, 8), min_size=1, max_size=4))
def test_one_pass_over_any_batches_serves_any_list_of_features(cut: int, ids: list[int]) -> None:
    model, coder, data = Embedded(), coder_of(activation="topk", k=2), tokens()
    reports = interpret_features(coder, ids, model, data.split(cut), 3, site="embed")
    assert [report.feature for report in reports] == ids
    for report in reports:
        alone = interpret_feature(coder, report.feature, model, [data], 3, site="embed")
        assert torch.equal(report.rows, alone.rows)
        torch.testing.assert_close(report.traces, alone.traces, rtol=1e-6, atol=1e-6)
        assert report.density == alone.density


def test_the_readout_is_the_effect_of_a_direction_on_the_logits() -> None:
    model, coder = Embedded(), coder_of()
    for readout in ("unembed", model.unembed.weight):
        report = interpret_feature(coder, 1, model, [tokens()], site="embed", readout=readout)
        expected = model.unembed(coder.dictionary[1]).detach()
        assert report.readout is not None
        torch.testing.assert_close(report.readout, expected)


def test_activations_without_positions_have_none() -> None:
    report = interpret_feature(coder_of(), 0, nn.Identity(), [torch.eye(4)], site="")
    assert report.positions.shape == (len(report.rows), 0)
    assert report.traces.shape == report.activations.shape


def test_a_silent_feature_has_an_empty_report() -> None:
    coder = coder_of()
    with torch.no_grad():
        coder.b_enc[3] = -1e3
    report = interpret_feature(coder, 3, Embedded(), [tokens()], site="embed")
    assert report.top_inputs == ()
    assert report.traces.numel() == report.positions.numel() == len(report.rows) == 0
    assert report.density == report.max == 0
    assert report.mean_when_active != report.mean_when_active


def test_inputs_of_different_lengths_are_filled_up() -> None:
    coder = coder_of(width=2, size=2)
    with torch.no_grad():
        coder.W_enc.copy_(torch.eye(2))
    data = [torch.ones(1, 3, 2), 2 * torch.ones(1, 5, 2)]
    report = interpret_feature(coder, 0, nn.Identity(), data, site="")
    assert [x.shape[0] for x in report.top_inputs] == [5, 3]
    assert report.traces.shape == (2, 5)
    assert report.traces[1].isnan().sum() == 2
    assert report.activations.tolist() == [2, 1]


def test_the_model_runs_up_to_the_site_and_keeps_its_mode() -> None:
    class Costly(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    model = nn.Sequential(nn.Dropout(0.9), Costly()).train()
    report = interpret_feature(coder_of(), 0, model, [torch.ones(3, 4)], site="0")
    assert model.training
    assert report.activations.unique().numel() <= 1


def test_what_does_not_fit_is_refused() -> None:
    model, coder, data = Embedded(), coder_of(), [tokens()]
    with pytest.raises(IndexError, match=r"the coder has features 0 to 8, got \[9\]"):
        interpret_feature(coder, 9, model, data, site="embed")
    with pytest.raises(ValueError, match="top_k needs at least 1, got 0"):
        interpret_feature(coder, 0, model, data, 0, site="embed")
    with pytest.raises(ValueError, match="dataloader gave no inputs"):
        interpret_feature(coder, 0, model, [], site="embed")
    with pytest.raises(ValueError, match=r"gave shape \(6, 4\) for 40 inputs; its first dim"):
        interpret_feature(coder, 0, model, data, site="embed[0]")
    with pytest.raises(TypeError, match="coder"):
        interpret_feature(nn.ReLU(), 0, model, data, site="embed")
    with pytest.raises(TypeError, match=r"readout '' has no weight; pass the matrix \(out, 4\)"):
        interpret_feature(coder, 0, model, data, site="embed", readout="")
    with pytest.raises(ValueError, match=r"matrix of shape \(out, 4\), got \(4, 12\)"):
        interpret_feature(coder, 0, model, data, site="embed", readout=model.unembed.weight.T)
