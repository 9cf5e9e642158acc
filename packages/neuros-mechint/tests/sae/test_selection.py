"""The largest entries of rows and of a batch, and the code that holds them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.sae._selection import largest_of_batch, largest_of_rows
from neuros_mechint.sae._sparse import SparseCode, decoded, pattern_of_positions, pattern_of_rows

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(0, 10**6))


def numbers(n_rows: int, n_features: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Few different values, so that many entries tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-20, 20, (n_rows, n_features), generator=generator).to(dtype)


@given(SIZES, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_rows_keep_exactly_their_largest(sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    n_features, k, seed = sizes
    k = min(k, n_features)
    values = numbers(7, n_features, seed, dtype)
    columns = largest_of_rows(values, k)
    assert columns.shape == (7, k)
    assert all(len(set(row.tolist())) == k for row in columns)
    found = values.gather(1, columns).sort(1, descending=True).values
    assert torch.equal(found, values.topk(k).values)


@given(SIZES, st.floats(-25, 25), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_a_batch_keeps_exactly_its_largest_whatever_the_hint(
    sizes: tuple[int, int, int], hint: float, dtype: torch.dtype
) -> None:
    n_features, k, seed = sizes
    n = 5 * min(k, n_features)
    values = numbers(5, n_features, seed, dtype)
    positions = largest_of_batch(values, n, hint)
    assert len(positions) == n
    assert (positions.diff() > 0).all()
    found = values.flatten()[positions].sort(descending=True).values
    assert torch.equal(found, values.flatten().topk(n).values)


def test_positions_and_columns_describe_the_same_code() -> None:
    columns = torch.tensor([[0, 2], [1, 2]])
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]])
    for pattern in (
        pattern_of_rows(columns, 3),
        pattern_of_positions(torch.tensor([0, 2, 4, 5]), 2, 3),
    ):
        assert torch.equal(SparseCode(values, pattern).dense(), expected)
        assert torch.equal(decoded(values, torch.eye(3), pattern), expected)


@pytest.mark.parametrize("n_features", [50, 2**15 + 5])
def test_rows_without_entries_decode_to_zero(n_features: int) -> None:
    pattern = pattern_of_positions(torch.tensor([n_features + 3]), 3, n_features)
    weight = torch.ones(n_features, 2, requires_grad=True)
    result = decoded(torch.tensor([2.0], requires_grad=True), weight, pattern)
    assert result.tolist() == [[0.0, 0.0], [2.0, 2.0], [0.0, 0.0]]
    result.sum().backward()
    assert weight.grad.sum() == 4.0
    assert weight.grad[3].tolist() == [2.0, 2.0]
