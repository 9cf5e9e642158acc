import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuros_mechint.activations import (
    Add,
    BandStop,
    Compose,
    EditContext,
    Interpolate,
    Leaf,
    Mean,
    Noise,
    ProjectOut,
    Replace,
    Resample,
    Scale,
    Site,
    Splice,
    Zero,
    intervene,
    run,
)

CONTEXT = EditContext(Site("0"), nn.Identity())


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=dtype)


EDITS = {
    "Replace": Replace(randn(4, 5, 6, seed=1)),
    "Zero": Zero(),
    "Mean": Mean(randn(9, 5, 6, seed=1)),
    "Resample": Resample(randn(7, 5, 6, seed=1), gen()),
    "Scale": Scale(2.0),
    "Add": Add(randn(6, seed=1), 0.5),
    "ProjectOut": ProjectOut(randn(2, 6, seed=1)),
    "Noise": Noise(1.0, gen()),
    "Interpolate": Interpolate(randn(4, 5, 6, seed=1), randn(4, 5, 6, seed=2), 0.3),
    "BandStop": BandStop(1.0, 2.0, fs=10.0),
    "Splice": Splice(nn.ReLU()),
    "Leaf": Leaf(),
    "Compose": Compose(Scale(2.0), torch.neg),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_leaves_its_input_as_it_was_and_keeps_shape_and_dtype(name: str) -> None:
    x = randn(4, 5, 6)
    before = x.clone()
    result = EDITS[name](x, CONTEXT)
    assert result.shape == x.shape
    assert result.dtype == x.dtype
    assert torch.equal(x, before)
    # Its result is memory of its own: an in-place successor must not reach the input.
    result.detach().add_(1.0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["Zero", "Scale", "ProjectOut", "Noise", "BandStop", "Leaf"])
def test_an_edit_works_in_half_precision(name: str, dtype: torch.dtype) -> None:
    x = randn(4, 5, 6).to(dtype)
    result = EDITS[name](x, CONTEXT)
    assert result.dtype == dtype
    if name not in {"Noise", "Zero"}:
        exact = EDITS[name](x.double(), CONTEXT)
        torch.testing.assert_close(result.double(), exact, rtol=0.05, atol=0.05)


def test_replace_puts_a_copy_of_the_value() -> None:
    value = torch.ones(2, 3)
    result = Replace(value)(torch.zeros(2, 3), CONTEXT)
    result += 1
    assert torch.equal(value, torch.ones(2, 3))


def test_replace_broadcasts_one_row_to_all_rows() -> None:
    row = randn(1, 3)
    assert torch.equal(Replace(row)(randn(4, 3, seed=2), CONTEXT), row.expand(4, 3))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Replace(torch.zeros(2, 4)), r"value has shape \(2, 4\).*activation's shape \(2, 3\)"),
        (Replace(torch.zeros(5, 2, 3)), r"value has shape \(5, 2, 3\)"),
        (Replace(torch.zeros(2, 3).double()), r"value has dtype torch.float64 and shape \(2, 3\)"),
        (Mean(torch.zeros(9, 4)), r"the mean of reference has shape \(1, 4\)"),
        (Resample(torch.zeros(1, 3), gen()), r"reference needs at least the 2 rows"),
        (Resample(torch.zeros(()), gen()), r"reference needs at least the 2 rows"),
        (Resample(torch.zeros(4, 4), gen()), r"the rows of reference has shape \(2, 4\)"),
        (Scale(torch.ones(3)), r"alpha has shape \(3,\); it needs one number, or one per row"),
        (Add(torch.ones(4)), r"vector has shape \(4,\)"),
        (ProjectOut(torch.ones(4)), r"directions of shape \(4,\) do not fit the activation"),
        (Interpolate(torch.ones(2, 3), torch.ones(4), 0.5), r"b has shape \(4,\)"),
        (Splice(lambda x: x[:1].double()), r"the reconstruction has dtype"),
        (lambda x: x[:, :2], r"returned shape \(2, 2\).*the activation has shape \(2, 3\)"),
        (lambda x: x.double(), r"\(torch.float64\), the activation has shape \(2, 3\)"),
    ],
)
def test_a_result_of_another_shape_or_dtype_is_refused_with_both(edit, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(nn.Identity(), torch.zeros(2, 3), edits={"": edit})


def test_mean_of_one_reference_row_is_that_row() -> None:
    row = randn(1, 3)
    assert torch.equal(Mean(row)(randn(4, 3, seed=1), CONTEXT), row.expand(4, 3))


def test_mean_averages_over_the_dimensions_asked_for() -> None:
    reference = randn(8, 5, 3)
    result = Mean(reference, dims=(0, 1))(torch.zeros(2, 5, 3).double(), CONTEXT)
    torch.testing.assert_close(result, reference.mean((0, 1)).expand(2, 5, 3))


def test_resample_permutes_whole_rows() -> None:
    reference = randn(6, 2, 3)
    result = Resample(reference, gen(3))(torch.zeros(6, 2, 3).double(), CONTEXT)
    order = [next(k for k in range(6) if torch.equal(row, reference[k])) for row in result]
    assert sorted(order) == list(range(6))
    assert order != list(range(6))


def test_resample_with_the_same_seed_draws_the_same() -> None:
    x, reference = torch.zeros(3, 2).double(), randn(9, 2)
    draws = [Resample(reference, gen(5))(x, CONTEXT) for _ in range(2)]
    assert torch.equal(*draws)


def test_factors_of_rows_act_on_their_row() -> None:
    x, alpha = randn(3, 2, 4), torch.tensor([0.0, 1.0, -2.0])
    expected = torch.stack([a * row for a, row in zip(alpha.double(), x, strict=True)])
    torch.testing.assert_close(Scale(alpha)(x, CONTEXT), expected)
    v = randn(4, seed=1)
    shifted = Add(v, alpha)(x, CONTEXT)
    torch.testing.assert_close(shifted - x, alpha.double()[:, None, None] * v.expand(3, 2, 4))
    assert torch.equal(Scale(torch.tensor(2.0))(x, CONTEXT), 2 * x)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 4), width=st.integers(4, 8))
def test_projecting_out_is_idempotent_and_leaves_nothing_of_the_span(seed, rank, width) -> None:
    directions = randn(rank, width, seed=seed)
    edit, x = ProjectOut(directions), randn(3, 2, width, seed=seed + 1)
    once = edit(x, CONTEXT)
    # Double precision: errors of about 1e-15 times the width.
    assert (once @ directions.mT).abs().max() < 1e-12 * max(1.0, float(directions.abs().max()))
    torch.testing.assert_close(edit(once, CONTEXT), once, rtol=0, atol=1e-12)
    # What is removed lies in the span: its residual against the span is 0.
    torch.testing.assert_close(edit(x - once, CONTEXT), 0 * x, rtol=0, atol=1e-12)


def test_dependent_directions_span_what_independent_ones_span() -> None:
    v = randn(5)
    x = randn(3, 5, seed=1)
    both = ProjectOut(torch.stack([v, -2 * v, v]))(x, CONTEXT)
    torch.testing.assert_close(both, ProjectOut(v)(x, CONTEXT), rtol=0, atol=1e-12)


def test_projecting_out_nothing_changes_nothing() -> None:
    x = randn(3, 5)
    assert torch.equal(ProjectOut(torch.zeros(5).double())(x, CONTEXT), x)


def test_noise_has_the_given_deviation() -> None:
    n = 200_000
    noise = Noise(0.5, gen())(torch.zeros(n).double(), CONTEXT)
    # The sample deviation has a relative error of 1/sqrt(2n) = 0.0016; 5 of them are 2.9e-7.
    assert abs(noise.std().item() / 0.5 - 1) < 5 / math.sqrt(2 * n)
    assert abs(noise.mean().item()) < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_interpolation_is_exact_at_its_ends(t: float) -> None:
    a, b = randn(3, 4), randn(3, 4, seed=1)
    assert torch.equal(Interpolate(a, b, t)(a, CONTEXT), b if t else a)


def test_interpolation_takes_one_position_per_row() -> None:
    a, b, t = torch.zeros(3, 2), torch.ones(3, 2), torch.tensor([0.0, 0.25, 1.0])
    assert torch.equal(Interpolate(a, b, t)(a, CONTEXT), t[:, None].expand(3, 2))


@pytest.mark.parametrize("n_time", [200, 201])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_a_sine_in_the_band_goes_and_one_outside_stays(n_time: int, axis: int) -> None:
    time = torch.arange(n_time, dtype=torch.float64) / n_time
    low, inside, high = (torch.sin(2 * torch.pi * f * time) for f in (5.0, 20.0, 40.0))
    x = (low + inside + high).expand(2, 3, n_time).movedim(-1, axis)
    # fs = n_time: one second, so that each sine has a whole number of periods.
    edit = BandStop(15.0, 25.0, fs=float(n_time), axis=axis)
    result = edit(x, CONTEXT).movedim(axis, -1)
    rms = (result - (low + high)).square().mean().sqrt()
    assert rms < 1e-6
    single = edit(x.float(), CONTEXT).movedim(axis, -1)
    assert (single - (low + high)).square().mean().sqrt() < 1e-6


@pytest.mark.parametrize("n_time", [64, 65])
@pytest.mark.parametrize("fs", [1000.0, 0.3])
def test_a_band_that_covers_everything_leaves_zero(n_time: int, fs: float) -> None:
    result = BandStop(0.0, fs / 2, fs=fs)(randn(2, n_time, 3), CONTEXT)
    assert torch.equal(result, torch.zeros_like(result))


def test_the_edges_of_a_band_belong_to_it() -> None:
    time = torch.arange(300, dtype=torch.float64) / 300
    x = torch.sin(2 * torch.pi * 7 * time)[None]
    assert BandStop(7.0, 9.0, fs=300.0)(x, CONTEXT).abs().max() < 1e-12
    assert BandStop(5.0, 7.0, fs=300.0)(x, CONTEXT).abs().max() < 1e-12


def test_splicing_with_the_error_kept_leaves_the_output_and_routes_the_gradient() -> None:
    coder = nn.Linear(3, 3).double()
    x = randn(4, 3)
    net = nn.Sequential(nn.Identity(), nn.Linear(3, 1)).double()
    plain = net(x)
    output = run(net, x, edits={"0": Splice(coder, keep_error=True)}).output
    torch.testing.assert_close(output, plain, rtol=0, atol=1e-12)
    output.sum().backward()
    expected = net[1].weight.mT @ torch.ones(1, 4).double() @ x
    torch.testing.assert_close(coder.weight.grad, expected)


def test_a_coder_may_return_an_object_with_a_reconstruction() -> None:
    class Coded:
        reconstruction = torch.full((2,), 7.0)

    output = run(nn.Identity(), torch.zeros(2), edits={"": Splice(lambda _: Coded())}).output
    assert torch.equal(output, torch.full((2,), 7.0))


def test_a_leaf_collects_the_gradient_of_its_activation() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double()
    x = randn(2, 3)
    with intervene(net, {"0": Leaf()}, capture=["0"], detach=False) as cache:
        net(x).sum().backward()
    leaf = cache["0"]
    torch.testing.assert_close(leaf.grad, 1 - torch.tanh(leaf.detach()).square())
    assert net[0].weight.grad is None


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ProjectOut(torch.ones(1, 1, 3)), ValueError, r"directions needs shape \(d,\)"),
        (lambda: ProjectOut(torch.tensor([math.nan])), ValueError, "directions needs finite"),
        (lambda: Noise(-1.0, gen()), ValueError, "std needs a number of at least 0, got -1.0"),
        (lambda: BandStop(3.0, 2.0, fs=10.0), ValueError, "a band needs 0 <= low <= high"),
        (lambda: BandStop(1.0, 2.0, fs=0.0), ValueError, "fs > 0"),
    ],
)
def test_an_edit_refuses_settings_without_meaning(build, error, message) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("edit", "value", "error", "message"),
    [
        (BandStop(0.0, 1.0, fs=4.0), torch.ones(1, 4).long(), ValueError, "real floating-point"),
        (Leaf(), torch.ones(2).long(), ValueError, "Leaf needs a floating-point activation"),
        (Splice(lambda _: 3), torch.ones(2), TypeError, "coder needs to return a tensor"),
        (lambda _: 3, torch.ones(2), TypeError, "needs to return a tensor, got int"),
        (3, torch.ones(2), TypeError, "an edit needs a function of a tensor, got int"),
        (lambda a, b, c: a, torch.ones(2), TypeError, "got 3 parameters"),
    ],
)
def test_an_edit_says_why_it_cannot_act(edit, value, error, message) -> None:
    with pytest.raises(error, match=rf"{message}|Type-check error"):
        run(nn.Identity(), value, edits={"": edit})


def test_a_leaf_needs_gradients() -> None:
    with (
        pytest.raises(ValueError, match=r"leave torch\.inference_mode"),
        torch.inference_mode(),
    ):
        run(nn.Identity(), torch.ones(2), edits={"": Leaf()})


class WithContext:
    def __call__(self, value, context):
        return value + context.call + 1


class WithoutContext:
    def __call__(self, value):
        return value + 1


@pytest.mark.parametrize(
    "edit",
    [
        lambda x: x + 1,
        lambda x, step=1: x + step,
        lambda x, context: x + context.call + 1,
        WithContext(),
        WithoutContext(),
        nn.Softplus(beta=1e9),
    ],
)
def test_functions_of_one_or_two_arguments_are_edits(edit) -> None:
    output = run(nn.Identity(), torch.ones(2), edits={"": edit}).output
    expected = torch.ones(2) if isinstance(edit, nn.Module) else torch.full((2,), 2.0)
    torch.testing.assert_close(output, expected)


def test_composition_is_applied_from_left_to_right() -> None:
    edit = Compose(Add(torch.ones(2)), Scale(3.0), lambda x, context: x + context.call)
    assert torch.equal(edit(torch.ones(2), CONTEXT), torch.full((2,), 6.0))
