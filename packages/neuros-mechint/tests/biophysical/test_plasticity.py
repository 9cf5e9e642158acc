"""Spike-timing-dependent plasticity against sums over single pairs and triplets."""

import math

import pytest
import torch

from neuros_mechint.biophysical import STDP


def trains(n_pre: int = 3, n_post: int = 4, n_times: int = 150, seed: int = 0, share: float = 0.1):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(2, n_times, n_pre + n_post, generator=generator, dtype=torch.float64)
    spikes = (draws < share).double()
    return spikes[..., :n_pre], spikes[..., n_pre:]


def times(spikes: torch.Tensor) -> list[int]:
    return torch.nonzero(spikes).squeeze(-1).tolist()


def by_pairs(rule: STDP, pre: torch.Tensor, post: torch.Tensor, dt: float) -> torch.Tensor:
    """The double, or triple, sum over the spikes of each synapse."""
    change = torch.zeros(post.shape[-1], pre.shape[-1], dtype=torch.float64)

    def trace(spikes: list[int], at: int, tau: float) -> float:
        gaps = [at - t for t in spikes if t < at]
        gaps = gaps[-1:] if rule.interaction == "nearest" else gaps
        return sum(math.exp(-gap * dt / tau) for gap in gaps)

    for i in range(post.shape[-1]):
        for j in range(pre.shape[-1]):
            before, after = times(pre[:, j]), times(post[:, i])
            for t in after:
                size = rule.A_plus + rule.A3_plus * trace(after, t, rule.tau_y)
                change[i, j] += size * trace(before, t, rule.tau_plus)
            for t in before:
                size = rule.A_minus + rule.A3_minus * trace(before, t, rule.tau_x)
                change[i, j] -= size * trace(after, t, rule.tau_minus)
    return change


@pytest.mark.parametrize("interaction", ["all", "nearest"])
@pytest.mark.parametrize(
    "settings", [{}, {"rule": "triplet"}, {"rule": "triplet", "A_plus": 0.003, "A3_minus": 0.001}]
)
def test_changes_are_sums_over_pairs_and_triplets(interaction: str, settings: dict) -> None:
    rule = STDP(interaction=interaction, **settings)
    pre, post = trains()
    for dt in (1.0, 0.5):
        found = rule.compute(pre, post, dt)
        for b in range(2):
            expected = by_pairs(rule, pre[b], post[b], dt)
            torch.testing.assert_close(found[b], expected, rtol=0, atol=1e-10)


def test_one_pair_is_the_window() -> None:
    rule = STDP(A_plus=0.02, tau_minus=35.0)
    for lag in (-30, -1, 0, 1, 30):
        pre, post = (torch.zeros(70, 1, dtype=torch.float64) for _ in range(2))
        pre[35], post[35 + lag] = 1, 1
        delta = torch.tensor([[lag * 0.5]], dtype=torch.float64)
        torch.testing.assert_close(rule.compute(pre, post, 0.5), rule.window(delta))
    assert rule.window(torch.tensor([0.0])).tolist() == [0.0]


def test_weights_between_the_bounds_change_by_the_sum() -> None:
    pre, post = trains()
    rule = STDP()
    W = torch.full((4, 3), 0.5, dtype=torch.float64)
    kept = W.clone()
    found = rule(W, pre, post, 0.5)
    torch.testing.assert_close(found, W + rule.compute(pre, post, 0.5), rtol=0, atol=1e-12)
    assert torch.equal(W, kept)


@pytest.mark.parametrize("mu", [0.0, 0.4, 1.0])
def test_weights_follow_the_online_rule(mu: float) -> None:
    rule = STDP(A_plus=0.3, A_minus=0.2, mu=mu, w_min=-1.0, w_max=2.0)
    pre, post = (x[0] for x in trains(seed=1))
    generator = torch.Generator().manual_seed(2)
    W = 3 * torch.rand(4, 3, generator=generator, dtype=torch.float64) - 1
    found = rule(W, pre, post)
    for i in range(4):
        for j in range(3):
            w, x, y = float(W[i, j]), 0.0, 0.0
            for t in range(len(pre)):
                x, y = x * math.exp(-1 / 20), y * math.exp(-1 / 20)
                share = (w + 1) / 3
                up = 0.3 * (1 - share) ** mu * x * float(post[t, i])
                down = 0.2 * share**mu * y * float(pre[t, j])
                w = min(max(w + up - down, -1.0), 2.0)
                x, y = x + float(pre[t, j]), y + float(post[t, i])
            assert float(found[i, j]) == pytest.approx(w, abs=1e-10)
    assert float(found.min()) >= -1
    assert float(found.max()) <= 2


def test_triplets_potentiate_more_at_high_rates() -> None:
    """Pairs of +10 ms: at 1 Hz next to nothing, at 50 Hz more than pairs alone could."""
    rule = STDP(rule="triplet")
    changes = []
    for gap in (1000, 20):
        pre, post = (torch.zeros(60 * gap, 1, dtype=torch.float64) for _ in range(2))
        pre[::gap], post[10::gap] = 1, 1
        changes.append(float(rule.compute(pre, post)))
    assert abs(changes[0]) < 0.01
    assert changes[1] > 0.1


def test_a_batch_is_a_loop_and_the_dtype_stays() -> None:
    pre, post = trains()
    found = STDP().compute(pre.float(), post.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[1], STDP().compute(pre[1].float(), post[1].float()))
    W = torch.full((4, 3), 0.5)
    assert STDP()(W, pre.float(), post.float()).shape == (2, 4, 3)
    assert "rule='pair'" in repr(STDP())


def test_bad_arguments_are_named() -> None:
    pre, post = (x[0] for x in trains())
    W = torch.full((4, 3), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"pre must be 0 or 1, got 2"):
        STDP().compute(2 * pre, post)
    with pytest.raises(ValueError, match=r"pre and post must share \(\.\.\., time\)"):
        STDP().compute(pre[1:], post)
    with pytest.raises(ValueError, match=r"W must be \(\.\.\., n_post=4, n_pre=3\), got shape"):
        STDP()(W.mT, pre, post)
    with pytest.raises(ValueError, match=r"W must lie between w_min=0 and w_max=1, got 1\.5"):
        STDP()(W + 1, pre, post)
    with pytest.raises(ValueError, match="W holds NaN or inf"):
        STDP()(W * math.nan, pre, post)
    with pytest.raises(ValueError, match="A3_plus belong to rule='triplet', got rule='pair'"):
        STDP(A3_plus=0.1)
    with pytest.raises(ValueError, match="w_max must be above w_min, got 0 and 1"):
        STDP(w_min=1, w_max=0)
    with pytest.raises(ValueError, match="tau_plus must be positive, got 0"):
        STDP(tau_plus=0)
    with pytest.raises(ValueError, match="A_minus must be at least 0, got -1"):
        STDP(A_minus=-1)
    with pytest.raises(ValueError, match="mu must be at least 0, got -1"):
        STDP(mu=-1)
    with pytest.raises(TypeError, match=r"delta_t must be a floating tensor, got torch\.int64"):
        STDP().window(torch.tensor([3]))
