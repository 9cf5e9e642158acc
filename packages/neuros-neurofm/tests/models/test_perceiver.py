import pytest
import torch
from torch import Tensor

from neuros_neurofm.models import PerceiverIO
from neuros_neurofm.tokenizers import Tokens


def stream(times: list[float], *, batch: int = 2, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, len(times), 16, generator=generator)
    at = torch.tensor(times, dtype=torch.float64).expand(batch, -1)
    return Tokens(values, at, torch.ones(batch, len(times), dtype=torch.bool))


def fusion(*, causal: bool = True) -> PerceiverIO:
    torch.manual_seed(0)
    return PerceiverIO(16, 2, n_heads=2, causal=causal).eval()


def grid(n: int = 5) -> Tensor:
    return torch.arange(1, n + 1, dtype=torch.float64) * 0.1


def reached(model: PerceiverIO, reach: float) -> list[list[int]]:
    """Per token the latents that change when the token does."""
    base = stream([0.05, 0.1, 0.3, 0.42])
    out = model([base], grid(), reach=[reach])
    changed = []
    for s in range(4):
        values = base.values.clone()
        values[:, s] += 1
        other = model([base._replace(values=values)], grid(), reach=[reach])
        changed.append((out != other).any(-1).any(0).nonzero().flatten().tolist())
    return changed


def test_a_latent_sees_the_tokens_of_its_trailing_window_only() -> None:
    # Windows (t - 0.2, t]: the token at 0.3 is seen at 0.3 and 0.4, no longer at 0.5.
    assert reached(fusion(), 0.2) == [[0, 1], [0, 1], [2, 3], [4]]


def test_without_causality_the_window_is_centred() -> None:
    assert reached(fusion(causal=False), 0.1) == [[0], [0, 1], [1, 2, 3], [3, 4]]


def test_a_shift_of_all_times_leaves_the_latents_unchanged() -> None:
    base = stream([0.05, 0.1, 0.3, 0.42])
    late = base._replace(times=base.times + 3_000.0)
    model = fusion()
    torch.testing.assert_close(
        model([base], grid(), reach=[0.25]),
        model([late], grid() + 3_000.0, reach=[0.25]),
        atol=1e-5,
        rtol=0,
    )


def test_the_time_between_token_and_latent_matters() -> None:
    early, late = stream([0.02]), stream([0.09])
    model = fusion()
    assert not torch.allclose(
        model([early], grid(1), reach=[0.2]), model([late], grid(1), reach=[0.2]), atol=1e-4
    )


def test_the_order_of_the_streams_does_not_matter() -> None:
    a, b = stream([0.1, 0.2]), stream([0.05, 0.15, 0.4], seed=1)
    model = fusion()
    torch.testing.assert_close(
        model([a, b], grid(), reach=[0.2, 0.3]), model([b, a], grid(), reach=[0.3, 0.2])
    )


def test_masked_tokens_equal_absent_ones_and_a_row_without_any_is_finite() -> None:
    a, b = stream([0.1, 0.2]), stream([0.05, 0.15, 0.4], seed=1)
    mask = b.mask.clone()
    mask[1] = False
    model = fusion()
    out = model([a, b._replace(mask=mask)], grid(), reach=[0.2, 0.2])
    alone = model([Tokens(*(part[1:] for part in a))], grid(), reach=[0.2])
    torch.testing.assert_close(out[1:], alone, atol=1e-5, rtol=0)
    silent = model([a._replace(mask=a.mask & False)], grid(), reach=[0.2])
    assert torch.isfinite(silent).all()
    torch.testing.assert_close(silent[:, :1].expand_as(silent), silent)


def test_rows_may_have_times_of_their_own() -> None:
    base = stream([0.1, 0.2, 0.3])
    times = base.times.clone()
    times[1] += 0.07
    model = fusion()
    out = model([base._replace(times=times)], grid(), reach=[0.2])
    single = model([Tokens(base.values[1:], times[1:], base.mask[1:])], grid(), reach=[0.2])
    torch.testing.assert_close(out[1:], single)


def test_calls_without_streams_and_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one token sequence and one reach each"):
        fusion()([], grid(), reach=[])
    with pytest.raises(ValueError, match="got 1 streams and 2 reaches"):
        fusion()([stream([0.1])], grid(), reach=[0.1, 0.2])
    with pytest.raises(ValueError, match="depth must be >= 1"):
        PerceiverIO(16, 0)
    with pytest.raises(ValueError, match="slots needs one number per stream = 1, got 2"):
        fusion()([stream([0.1])], grid(), reach=[0.1], slots=[1, 2])


def test_slots_beyond_those_of_the_window_change_nothing() -> None:
    base, model = stream([0.05, 0.1, 0.3, 0.42]), fusion()
    expected = model([base], grid(), reach=[0.2])
    for slots in (2, 3, 9):
        torch.testing.assert_close(model([base], grid(), reach=[0.2], slots=[slots]), expected)
    fewer = model([base], grid(), reach=[0.2], slots=[1])
    assert not torch.allclose(fewer, expected, atol=1e-4)
