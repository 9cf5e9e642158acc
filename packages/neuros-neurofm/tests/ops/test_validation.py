import pytest
import torch

from neuros_neurofm.ops._validation import check_mask, check_seq_idx, check_tensor, compute_dtype


def test_lists_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"signal needs to be a torch.Tensor \(time,\), got list"):
        check_tensor("signal", [1.0], 1, "(time,)")
    with pytest.raises(TypeError, match=r"seq_idx needs to be an integer torch.Tensor, got list"):
        check_seq_idx([0], 1, 1)
    with pytest.raises(TypeError, match=r"mask needs to be a bool torch.Tensor .* got list"):
        check_mask([True], 1, 1)


def test_half_precision_is_computed_in_float32() -> None:
    half, double = torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.float64)
    assert compute_dtype(half, None) == torch.float32
    assert compute_dtype(half, double) == torch.float64
