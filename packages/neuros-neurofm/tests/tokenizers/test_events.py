"""Spike events: binned inside, and as tokens of their own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_neurofm.tokenizers import LFPTokenizer, SpikeEvents, SpikeTokenizer, Tokens
from neuros_neurofm.tokenizers.spike import _check_mode

RATE, DURATION, UNITS, BATCH = 100.0, 0.6, 5, 3
few = settings(max_examples=20, derandomize=True, deadline=None)


def spikes(n: int = 60, seed: int = 0, *, dtype: torch.dtype = torch.float64) -> SpikeEvents:
    generator = torch.Generator().manual_seed(seed)
    return SpikeEvents(
        (torch.rand(n, generator=generator, dtype=torch.float64) * DURATION * 0.999).to(dtype),
        torch.randint(UNITS, (n,), generator=generator),
        torch.randint(BATCH, (n,), generator=generator),
        UNITS,
        DURATION,
        BATCH,
    )


def by_hand(events: SpikeEvents) -> Tensor:
    counts = np.zeros((BATCH, 60, UNITS))
    edges = np.arange(61) / RATE
    for row in range(BATCH):
        for unit in range(UNITS):
            chosen = (events.rows == row) & (events.units == unit)
            counts[row, :, unit] = np.histogram(events.times[chosen].numpy(), edges)[0]
    return torch.from_numpy(counts).float()


def tokenizer(mode: str = "events", **options: float) -> SpikeTokenizer:
    torch.manual_seed(0)
    tok = SpikeTokenizer(16, sampling_rate=RATE, patch=0.03, mode=mode, **options)
    return tok.eval()


def keep(events: SpikeEvents, chosen: Tensor) -> SpikeEvents:
    return events._replace(
        times=events.times[chosen], units=events.units[chosen], rows=events.rows[chosen]
    )


def assert_same(a: Tokens, b: Tokens) -> None:
    torch.testing.assert_close(a.mask, b.mask)
    torch.testing.assert_close(a.times, b.times, atol=1e-12, rtol=0)
    torch.testing.assert_close(a.values, b.values, atol=1e-5, rtol=1e-5)


def unpadded(tokens: Tokens, row: int) -> Tokens:
    n = int(tokens.mask[row].sum())
    return Tokens(*(part[row : row + 1, :n] for part in tokens))


# Counts mode


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_events_give_the_tokens_of_counts_binned_by_hand(dtype: torch.dtype) -> None:
    tok, events = tokenizer("counts"), spikes(dtype=dtype)
    counts = by_hand(events)
    assert int(counts.sum()) == 60
    found, expected = tok.tokenize(events), tok.tokenize(counts)
    assert torch.equal(found.x, counts)
    assert torch.equal(found.tokens.values, expected.tokens.values)
    assert torch.equal(found.tokens.times, expected.tokens.times)


def test_units_and_masks_go_with_events_as_with_counts() -> None:
    tok, events = tokenizer("counts"), spikes()
    ids = [f"u{i}" for i in range(UNITS)]
    tok.units.extend(ids[:2], generator=torch.Generator().manual_seed(1))
    mask = torch.rand(BATCH, 60, UNITS, generator=torch.Generator().manual_seed(2)) > 0.3
    found = tok(events._replace(n_units=None), units=ids, mask=mask)
    assert torch.equal(found.values, tok(by_hand(events), units=ids, mask=mask).values)


@few
@given(k=st.integers(0, 59), rate=st.sampled_from([100.0, 30.0, 1000.0 / 3]))
def test_a_spike_at_the_edge_of_a_bin_belongs_to_the_bin_that_starts_there(
    k: int, rate: float
) -> None:
    tok = SpikeTokenizer(4, sampling_rate=rate, patch=1 / rate)
    events = torch.tensor([k / rate], dtype=torch.float64), torch.tensor([0]), torch.tensor([0])
    x = tok.tokenize(SpikeEvents(*events, duration=60 / rate)).x
    assert x.shape == (1, 60, 1)
    assert x[0, :, 0].nonzero().flatten().tolist() == [k]


def test_sizes_that_are_not_given_end_with_the_last_spike() -> None:
    tok = tokenizer("counts")
    plain = torch.tensor([0.25, 0.031]), torch.tensor([1, 3]), torch.tensor([0, 1])
    assert tok.tokenize(plain).x.shape == (2, 26, 4)
    assert torch.equal(tok(plain).values, tok(SpikeEvents(*plain)).values)
    assert tok.tokenize(plain, units=["a", "b", "c", "d", "e"]).x.shape == (2, 26, 5)
    silent = SpikeEvents(torch.zeros(0), *(torch.zeros(0, dtype=torch.int64),) * 2, 4, 0.1, 2)
    assert torch.equal(tok.tokenize(silent).x, torch.zeros(2, 10, 4))


# Events mode


def test_every_spike_is_one_token_at_its_own_time() -> None:
    events = spikes()
    tokens = tokenizer()(events)
    for row in range(BATCH):
        times = events.times[events.rows == row].sort().values
        assert torch.equal(tokens.times[row, tokens.mask[row]], times)
        assert (tokens.times[row].diff() >= 0).all()
    longest = int(events.rows.bincount().max())
    assert tokens.values.shape == (BATCH, longest, 16)
    assert (tokens.values[~tokens.mask] == 0).all()
    assert (tokens.times[~tokens.mask] > 1e6).all()


def test_the_token_of_a_known_unit_is_its_vector_plus_the_learned_value() -> None:
    tok, events = tokenizer(), spikes()
    ids = [f"u{i}" for i in range(UNITS)]
    tok.units.extend(ids, generator=torch.Generator().manual_seed(1))
    tokens = tok(events, units=ids)
    chosen = events.rows == 1
    order = events.times[chosen].argsort()
    fired = [ids[i] for i in events.units[chosen][order]]
    expected = tok.units.subset(fired) @ tok.core.read.weight.T + tok.core.spike
    torch.testing.assert_close(unpadded(tokens, 1).values[0], expected)


def test_the_order_of_events_and_of_units_does_not_matter() -> None:
    tok, events = tokenizer(), spikes()
    tok.units.extend(["u0", "u3"], generator=torch.Generator().manual_seed(1))
    ids, to = [f"u{i}" for i in range(UNITS)], torch.tensor([3, 0, 4, 1, 2])
    shuffled = keep(events, torch.randperm(60, generator=torch.Generator().manual_seed(3)))
    moved = shuffled._replace(units=to[shuffled.units])
    renamed = [""] * UNITS
    for old, new in enumerate(to.tolist()):
        renamed[new] = ids[old]
    assert_same(tok(events, units=ids), tok(moved, units=renamed))


def test_masked_units_vanish() -> None:
    tok, events = tokenizer(), spikes()
    mask = torch.tensor([True, True, False, True, False]).view(1, 1, UNITS)
    visible = (events.units != 2) & (events.units != 4)
    order = torch.tensor([0, 1, -1, 2, -1])
    fewer = keep(events, visible)
    fewer = fewer._replace(units=order[fewer.units], n_units=3)
    assert_same(tok(events, mask=mask), tok(fewer))


def test_masking_the_last_bins_equals_a_shorter_window() -> None:
    tok, events = tokenizer(), spikes()
    mask = (torch.arange(60) < 30).view(1, 60, 1)
    early = keep(events, events.times < 0.3)._replace(duration=0.3)
    assert_same(tok(events, mask=mask), tok(early))


def test_a_row_equals_the_batch_of_one_without_the_others() -> None:
    tok, events = tokenizer(), spikes()
    together = tok(events)
    for row in range(BATCH):
        own = keep(events, events.rows == row)
        alone = tok(own._replace(rows=torch.zeros_like(own.rows), batch=1))
        assert_same(unpadded(together, row), alone)


@few
@given(cut=st.floats(0.05, 0.55), seed=st.integers(0, 20))
def test_a_token_rests_on_no_later_spike(cut: float, seed: int) -> None:
    tok, events, other = tokenizer(), spikes(seed=seed), spikes(seed=seed + 50)
    before, after = keep(events, events.times < cut), keep(other, other.times >= cut)
    changed = before._replace(
        **{
            k: torch.cat([getattr(before, k), getattr(after, k)])
            for k in ("times", "units", "rows")
        }
    )
    a, b = tok(events), tok(changed)
    for row in range(BATCH):
        n = int((before.rows == row).sum())
        assert torch.equal(a.values[row, :n], b.values[row, :n])


def test_inferred_vectors_of_a_spike_rest_on_the_complete_patches() -> None:
    tok, events = tokenizer(), spikes()
    found = tok.tokenize(events)
    assert found.units.shape[1] == 21
    assert found.known is not None
    torch.testing.assert_close(found.known[0], torch.arange(1, 21).double() * 0.03)
    one = keep(events, events.rows == 0)
    order = one.times.argsort()
    patch = (one.times[order] / 0.03).long()
    vectors = found.units[0, patch, one.units[order]]
    expected = vectors @ tok.core.read.weight.T + tok.core.spike
    torch.testing.assert_close(unpadded(found.tokens, 0).values[0], expected)


def test_counts_become_events_at_the_end_of_their_bins() -> None:
    tok = tokenizer()
    counts = torch.zeros(2, 6, 2)
    counts[0, 1, 0], counts[0, 4, 1] = 2, 1
    tokens = tok(counts)
    assert tokens.mask.tolist() == [[True] * 3, [False] * 3]
    torch.testing.assert_close(tokens.times[0], torch.tensor([0.02, 0.02, 0.05]).double())
    assert torch.equal(tokens.values[0, 0], tokens.values[0, 1])
    own = tok(counts, times=torch.tensor([0.1, 0.3, 0.4, 0.5, 0.9, 1.0]))
    torch.testing.assert_close(own.times[0], torch.tensor([0.3, 0.3, 0.9]), check_dtype=False)


@pytest.mark.parametrize("masked", [True, False])
def test_without_any_spike_one_empty_token_is_left(masked: bool) -> None:
    events = spikes() if masked else keep(spikes(), torch.zeros(60, dtype=torch.bool))
    mask = torch.full((1, 1, 1), not masked)
    tokens = tokenizer()(events, mask=mask)
    assert tokens.values.shape == (BATCH, 1, 16)
    assert not tokens.mask.any()
    assert torch.isfinite(tokens.values).all()
    assert torch.isfinite(tokens.times).all()


def test_gradients_reach_every_part() -> None:
    tok = tokenizer().train()
    tok(spikes()).values.square().sum().backward()
    silent = {name for name, p in tok.named_parameters() if p.numel() and p.grad is None}
    assert not silent


def test_dropout_acts_in_training_only() -> None:
    tok, events = tokenizer(dropout=0.5), spikes()
    assert torch.equal(tok(events).values, tok(events).values)
    assert (tok.train()(events).values[tok(events).mask] == 0).any()


def test_state_returns_with_its_unit_ids() -> None:
    tok, other = tokenizer(), tokenizer()
    tok.units.extend(["a", "b"], generator=torch.Generator().manual_seed(1))
    other.load_state_dict(tok.state_dict())
    ids = ["a", "b", "c", "d", "e"]
    assert torch.equal(tok(spikes(), units=ids).values, other(spikes(), units=ids).values)
    assert "spike events, patch=3 samples" in repr(tok)


# Errors


NAN = torch.tensor([0.1, math.nan])
INDEX = torch.tensor([0, 1])


@pytest.mark.parametrize("mode", ["counts", "events"])
@pytest.mark.parametrize(
    ("events", "error", "message"),
    [
        ((NAN, INDEX, INDEX), ValueError, "1 times of events are NaN or infinite; drop them"),
        ((torch.tensor([0.1, -0.2]), INDEX, INDEX), ValueError, "must be >= 0 s .* got -0.2"),
        ((torch.rand(2), INDEX.float(), INDEX), TypeError, "units of events must be integers"),
        ((torch.rand(2), INDEX, INDEX.bool()), TypeError, "rows of events must be integers"),
        ((INDEX, INDEX, INDEX), TypeError, "times of events must be floating-point"),
        ((torch.rand(3), INDEX, INDEX), ValueError, r"equal length, got \[\(3,\), \(2,\), \(2,\)"),
        ((torch.rand(2, 1), INDEX[:, None], INDEX[:, None]), ValueError, r"must be \(event,\)"),
        ((torch.rand(2), INDEX - 1, INDEX), ValueError, "name -1 to 0, but n_units = 1"),
        ((torch.rand(2), INDEX, INDEX, 1), ValueError, "name 0 to 1, but n_units = 1"),
        ((torch.rand(2), INDEX, INDEX, 2, 9.0, 1), ValueError, "name 0 to 1, but batch = 1"),
        ((torch.rand(2), INDEX, INDEX, 0), ValueError, "n_units of events must be >= 1, got 0"),
        ((torch.rand(2), INDEX, INDEX, 2, 0.0), ValueError, "duration of events must be > 0 s"),
        ((torch.ones(2), INDEX, INDEX, 2, 1.0), ValueError, "before the end of the window at 1.0"),
    ],
)
def test_events_are_checked(
    mode: str, events: tuple[Tensor, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"spike: .*{message}"):
        tokenizer(mode)(SpikeEvents(*events))


@pytest.mark.parametrize("mode", ["counts", "events"])
def test_what_no_spike_tells_must_be_given(mode: str) -> None:
    tok, none = tokenizer(mode), (torch.zeros(0), INDEX[:0], INDEX[:0])
    with pytest.raises(ValueError, match="without a spike need their duration"):
        tok(none)
    with pytest.raises(ValueError, match="without a spike need their n_units"):
        tok(SpikeEvents(*none, duration=1.0))
    with pytest.raises(ValueError, match="without a spike need their batch"):
        tok(SpikeEvents(*none, duration=1.0, n_units=2))
    with pytest.raises(ValueError, match="events carry their times; leave `times` out"):
        tok(spikes(), times=torch.arange(60.0))
    with pytest.raises(ValueError, match="need a sampling_rate in bins per second"):
        SpikeTokenizer(8, mode=mode)(spikes())
    with pytest.raises(ValueError, match=r"mask must be 3-D and broadcast .* = \(3, 60, 5\)"):
        tok(spikes(), mask=torch.ones(3, 61, 5, dtype=torch.bool))


@few
@given(cuts=st.lists(st.integers(1, 59), max_size=8, unique=True).map(sorted), known=st.booleans())
def test_chunks_of_counts_give_the_event_tokens_of_the_whole(cuts: list[int], known: bool) -> None:
    tok, counts = tokenizer(), by_hand(spikes())
    ids = [f"u{i}" for i in range(UNITS)]
    tok.units.extend(ids[: UNITS if known else 2], generator=torch.Generator().manual_seed(1))
    whole, state, found = tok(counts, units=ids), tok.init_state(BATCH, UNITS), []
    for start, stop in zip([0, *cuts], [*cuts, 60], strict=True):
        tokens, state = tok.step(counts[:, start:stop], state, units=ids)
        found.append(tokens)
    for row in range(BATCH):
        parts = [unpadded(tokens, row) for tokens in found]
        joined = Tokens(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
        assert_same(joined, unpadded(whole, row))


def test_event_tokens_need_whole_counts() -> None:
    tok = tokenizer()
    with pytest.raises(ValueError, match="2 counts are no whole numbers; event tokens need"):
        tok(torch.tensor([0.5, 1.0, 2.5]).view(1, 3, 1))
    with pytest.raises(ValueError, match="spike counts must be >= 0"):
        tok(-torch.ones(1, 3, 1))
    with pytest.raises(ValueError, match="counts are not standardised, nothing to calibrate"):
        tok.calibrate(torch.ones(1, 3, 1), units=["a"])
    with pytest.raises(ValueError, match="mode must be 'counts' or 'events', got 'rates'"):
        _check_mode("rates")


def test_other_modalities_have_no_events() -> None:
    # The type is wrong too, so this is what a call without type checks says.
    with pytest.raises(Exception, match="SpikeEvents"):
        LFPTokenizer(8, sampling_rate=100.0)(spikes())
