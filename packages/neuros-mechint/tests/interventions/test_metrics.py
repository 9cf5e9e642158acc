import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.interventions import cross_entropy, kl_divergence, logit_difference


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "wrap",
    [lambda z: z, Output, lambda z: {"loss": torch.zeros(()), "logits": z}, lambda z: ("text", z)],
)
def test_metrics_find_the_logits_in_an_output(wrap) -> None:
    z = logits(2, 5)
    assert torch.equal(logit_difference(3, 1)(wrap(z)), z[:, 3] - z[:, 1])
    assert torch.equal(kl_divergence(wrap(z))(wrap(z)), torch.zeros(2).double())
    assert cross_entropy(torch.tensor([0, 1]))(wrap(z)).shape == (2,)


def test_logit_difference_reads_one_position_and_tokens_of_each_row() -> None:
    z = logits(2, 4, 5)
    assert torch.equal(logit_difference(3, 1)(z), z[:, -1, 3] - z[:, -1, 1])
    correct, wrong = torch.tensor([0, 2]), torch.tensor([4, 1])
    expected = torch.stack([z[0, 1, 0] - z[0, 1, 4], z[1, 1, 2] - z[1, 1, 1]])
    assert torch.equal(logit_difference(correct, wrong, pos=1)(z), expected)


def test_divergence_of_two_coins_is_known() -> None:
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert kl_divergence(p)(q).item() == pytest.approx(expected, abs=1e-7)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50))
def test_divergence_is_not_negative_and_blind_to_a_shift_of_the_logits(seed, shift) -> None:
    p, q = logits(3, 2, 5, seed=seed), logits(3, 2, 5, seed=seed + 1)
    divergence = kl_divergence(p)(q)
    assert divergence.shape == (3,)
    assert (divergence >= 0).all()
    torch.testing.assert_close(kl_divergence(p + shift)(q - shift), divergence)


def test_entropy_of_uniform_logits_is_the_logarithm_of_the_classes() -> None:
    labels = torch.tensor([[0, 3], [-100, 2]])
    expected = torch.full((2,), math.log(4)).double()
    torch.testing.assert_close(cross_entropy(labels)(torch.zeros(2, 2, 4).double()), expected)


def test_entropy_equals_the_one_of_torch_and_leaves_out_masked_positions() -> None:
    z, labels = logits(3, 4, 5), torch.tensor([[0, 1, 2, 3], [4, -100, 0, 1], [-100] * 4])
    found = cross_entropy(labels)(z)
    for row in range(2):
        expected = torch.nn.functional.cross_entropy(z[row], labels[row])
        torch.testing.assert_close(found[row], expected)
    assert found[2].isnan()


@pytest.mark.parametrize(
    ("metric", "output", "message"),
    [
        (logit_difference(0, 1), torch.zeros(3), r"logits need shape .* got \(3,\)"),
        (kl_divergence(torch.zeros(1, 3)), torch.zeros(2, 3), r"shape \(2, 3\) do not fit .*1, 3"),
        (cross_entropy(torch.zeros(2).long()), torch.zeros(3, 4), r"labels of shape \(2,\)"),
    ],
)
def test_metrics_refuse_shapes_that_do_not_fit(metric, output, message) -> None:
    with pytest.raises(ValueError, match=message):
        metric(output)
