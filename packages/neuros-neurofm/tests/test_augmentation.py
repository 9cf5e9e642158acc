from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from neuros_neurofm.augmentation import (
    AmplitudeScale,
    Chain,
    ChannelNoise,
    TimeJitter,
    TimeMask,
    UnitDropout,
)
from neuros_neurofm.losses import NeuralMasker

STEPS = [
    UnitDropout(0.4),
    TimeMask(0.3, span=5),
    TimeJitter(6),
    AmplitudeScale(0.3),
    ChannelNoise(0.2),
    Chain([UnitDropout(0.2), TimeJitter(3), ChannelNoise(0.1)]),
]


def make_batch(n_rows: int = 3, n_times: int = 40) -> dict[str, Any]:
    draw = Generator().manual_seed(7)
    lfp = torch.randn(n_rows, n_times, 5, generator=draw)
    masks = {"lfp": torch.rand(n_rows, n_times, 5, generator=draw) < 0.8}
    spikes = torch.poisson(torch.full((n_rows, n_times, 4), 3.0), generator=draw)
    return {"lfp": lfp, "spike": spikes, "masks": masks, "behavior": torch.ones(n_rows, 2, 1)}


def clone(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: clone(value) for key, value in batch.items()}
    return batch.clone() if isinstance(batch, Tensor) else batch


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b)


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_batch_is_never_changed_in_place_and_a_seed_repeats(step: Any) -> None:
    batch = make_batch()
    before = clone(batch)
    first = step(batch, Generator().manual_seed(1))
    assert equal(batch, before)
    assert equal(first, step(batch, Generator().manual_seed(1)))
    assert not equal(first, step(batch, Generator().manual_seed(2)))
    assert torch.equal(first["behavior"], batch["behavior"])
    assert repr(step).startswith(type(step).__name__)


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_what_comes_later_changes_nothing_earlier(step: Any) -> None:
    batch = make_batch()
    later = clone(batch)
    later["lfp"][:, 25:] += 100.0
    later["masks"]["lfp"][:, 25:] = True
    a, b = (step(x, Generator().manual_seed(3)) for x in (batch, later))
    assert torch.equal(a["lfp"][:, :25], b["lfp"][:, :25])


@pytest.mark.parametrize("step", [UnitDropout(0.4), TimeMask(0.3, span=5)], ids=repr)
def test_what_was_invalid_stays_so(step: Any) -> None:
    batch = make_batch()
    mask = step(batch, Generator().manual_seed(1))["masks"]["lfp"]
    assert not (mask & ~batch["masks"]["lfp"]).any()
    assert (batch["masks"]["lfp"] & ~mask).any()


# 20,000 draws of probability p: 5 standard errors are 5 sqrt(p (1 - p) / 20,000) < 0.018.
def test_a_channel_is_hidden_with_its_probability_and_one_stays() -> None:
    batch = {"eeg": torch.ones(2000, 2, 10)}
    mask = UnitDropout(0.3)(batch, Generator().manual_seed(0))["masks"]["eeg"]
    assert float((~mask).float().mean()) == pytest.approx(0.3, abs=0.018)
    assert (mask[:, 0] == mask[:, 1]).all()
    all_but_one = UnitDropout(1.0)(batch, Generator().manual_seed(0))["masks"]["eeg"]
    assert (all_but_one.sum(-1) == 1).all()


# A sample is hidden by any of 5 stretches, which are shared by neighbours: 100,000 samples in
# stretches of about 5 are 20,000 draws.
def test_a_share_of_the_time_is_hidden_in_stretches() -> None:
    batch = {"eeg": torch.ones(100, 1000, 2)}
    mask = TimeMask(0.3, span=5)(batch, Generator().manual_seed(0))["masks"]["eeg"]
    hidden = ~mask[:, :, 0]
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=0.018)
    assert torch.equal(mask[..., 0], mask[..., 1])
    runs = "".join("#" if x else " " for x in hidden[0].tolist()).split()
    # Stretches at the two ends may be cut.
    assert all(len(run) >= 5 for run in runs[1:-1])


def test_a_delay_moves_values_and_masks_together() -> None:
    batch = make_batch(n_rows=50)
    moved = TimeJitter(6)(batch, Generator().manual_seed(0))
    delays = set()
    for row in range(50):
        delay = next(
            d for d in range(7) if torch.equal(moved["lfp"][row, d:], batch["lfp"][row, : 40 - d])
        )
        delays.add(delay)
        assert torch.equal(
            moved["masks"]["lfp"][row, delay:], batch["masks"]["lfp"][row, : 40 - delay]
        )
        assert not moved["masks"]["lfp"][row, :delay].any()
    assert delays == set(range(7))


def test_amplitudes_change_by_one_factor_per_channel() -> None:
    batch = make_batch(n_rows=2000, n_times=2)
    scaled = AmplitudeScale(0.3)(batch, Generator().manual_seed(0))
    ratio = scaled["lfp"] / batch["lfp"]
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1])
    # 10,000 factors: the deviation of their logarithm is known to 0.3 / sqrt(20,000) x 5.
    assert float(ratio[:, 0].log().std()) == pytest.approx(0.3, abs=0.011)


def test_spikes_are_thinned_and_stay_poisson() -> None:
    counts = torch.poisson(torch.full((4000, 5, 1), 3.0), generator=Generator().manual_seed(1))
    thinned = AmplitudeScale(0.5)({"spike": counts}, Generator().manual_seed(0))["spike"]
    assert thinned.dtype == counts.dtype
    assert (thinned <= counts).all()
    assert (thinned >= 0).all()
    # Given its factor a count is Poisson: the variance within rows equals the mean of the rows.
    within = float(thinned.var(dim=1).mean())
    assert within == pytest.approx(float(thinned.mean()), rel=0.06)
    assert float(thinned.mean()) < 0.8 * float(counts.mean())


def test_a_chain_ends_in_a_masker() -> None:
    batch = make_batch()
    chain = Chain([UnitDropout(0.5), NeuralMasker("random", 0.5)])
    shown = chain(batch, Generator().manual_seed(0))
    dropped = UnitDropout(0.5)(batch, Generator().manual_seed(0))["masks"]["lfp"]
    assert not (shown["masked"]["lfp"] & ~dropped).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UnitDropout(1.5), r"probability must lie in \[0, 1\], got 1.5"),
        (lambda: TimeMask(0.1, span=0), "span must be at least 1 sample, got 0"),
        (lambda: TimeJitter(-1), "max_delay must be >= 0 samples, got -1"),
        (lambda: AmplitudeScale(-0.1), "deviation must be finite and >= 0, got -0.1"),
        (lambda: ChannelNoise(float("nan")), "deviation must be finite and >= 0, got nan"),
        (lambda: Chain([]), "needs at least one step"),
        (lambda: UnitDropout(0.1)({"x": 1}, Generator()), r"no modality, only \['x'\]"),
        (
            lambda: TimeJitter(1)({"times": {"lfp": torch.zeros(3)}}, Generator()),
            r"by whole samples; \['lfp'\] have irregular times",
        ),
    ],
)
def test_bad_requests_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
