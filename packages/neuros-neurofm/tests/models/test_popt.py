import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_neurofm.models import PopT


@pytest.fixture
def popt() -> PopT:
    torch.manual_seed(0)
    return PopT(16, 2, n_heads=2).eval()


def tokens(n: int = 6) -> Tensor:
    return torch.randn(3, n, 16, generator=torch.Generator().manual_seed(1))


@settings(max_examples=20, derandomize=True, deadline=None)
@given(order=st.permutations(range(6)))
def test_cls_is_invariant_and_tokens_are_equivariant_under_permutation(order: list[int]) -> None:
    torch.manual_seed(0)
    popt, x, coords = PopT(16, 2, n_heads=2).eval(), tokens(), torch.rand(3, 6, 3)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [False] * 6])
    cls, mixed = popt(x, coords, mask)
    cls_p, mixed_p = popt(x[:, order], coords[:, order], mask[:, order])
    torch.testing.assert_close(cls, cls_p, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[:, order], mixed_p, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_masked_tokens_of_any_value_are_ignored(popt: PopT, value: float) -> None:
    x = tokens()
    wide = torch.cat([x, torch.full((3, 2, 16), value)], dim=1)
    coords = torch.rand(3, 8, 3)
    coords[:, 6:] = value
    mask = torch.tensor([[True] * 6 + [False] * 2] * 3)
    cls, mixed = popt(wide, coords, mask)
    alone, alone_mixed = popt(x, coords[:, :6])
    torch.testing.assert_close(cls, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[:, :6], alone_mixed, atol=1e-5, rtol=0)
    assert (mixed[:, 6:] == 0).all()


def test_no_token_at_all_gives_the_learned_vector_of_the_class(popt: PopT) -> None:
    empty, none = popt(tokens(0))
    masked, _ = popt(tokens(), mask=torch.zeros(3, 6, dtype=torch.bool))
    assert none.shape == (3, 0, 16)
    assert torch.isfinite(empty).all()
    torch.testing.assert_close(empty, masked, atol=1e-5, rtol=0)


def test_aggregate_is_the_class_vector_of_forward(popt: PopT) -> None:
    x, mask = tokens(), torch.rand(3, 6) > 0.3
    torch.testing.assert_close(popt.aggregate(x, mask=mask), popt(x, mask=mask)[0])


def test_positions_matter(popt: PopT) -> None:
    x = tokens()
    near, far = torch.zeros(3, 6, 3), torch.full((3, 6, 3), 0.05)
    assert not torch.allclose(popt(x, near)[0], popt(x, far)[0], atol=1e-4)


def test_wrong_shapes_are_refused(popt: PopT) -> None:
    with pytest.raises(ValueError, match=r"tokens must be \(batch, token, 16\)"):
        popt(tokens()[..., :8])
    with pytest.raises(ValueError, match=r"mask must be \(batch, token\)"):
        popt(tokens(), mask=torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"coords must be \(batch, token, 3\)"):
        popt(tokens(), torch.zeros(3, 6, 2))
    with pytest.raises(ValueError, match="built without coordinates"):
        PopT(16, 1, with_coords=False)(tokens(), torch.zeros(3, 6, 3))
    with pytest.raises(ValueError, match="depth must be >= 1"):
        PopT(16, 0)
    with pytest.raises(ValueError, match=r"width 16 must be a multiple of 2 \* n_heads = 10"):
        PopT(16, 1, n_heads=5)


@pytest.mark.parametrize("depth", [1, 3])
def test_tokens_that_were_read_before_give_the_class_vector_of_all(depth: int) -> None:
    torch.manual_seed(0)
    popt, x = PopT(16, depth, n_heads=2, with_coords=False).eval(), tokens()
    mask = torch.tensor([[True] * 6, [False] * 2 + [True] * 4, [False] * 6])
    one_by_one = [popt.first_read(x[:, i : i + 1]) for i in range(6)]
    read = torch.cat([popt.first_read(None).expand(3, -1, -1), *one_by_one], 1)
    expected = popt.aggregate(x, mask=mask)
    torch.testing.assert_close(popt.aggregate_read(x, read, mask), expected, atol=1e-6, rtol=0)
