"""Spike events as input of the whole model, binned or as tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neuros_neurofm.losses import MaskedModelingLoss, NeuralMasker
from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.tokenizers import SpikeEvents, SpikeTokenizer

RATES = {"spike": 100.0, "lfp": 100.0}
BATCH, UNITS, DURATION = 3, 4, 0.64


def model(mode: str = "events", **options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    built = MultiModalNeuroFMX(
        32,
        1,
        16,
        24,
        modalities=("spike", "lfp"),
        popt_depth=1,
        sampling_rates=RATES,
        spike_mode=mode,
        forecast_horizon=2,
        **options,
    )
    return built.eval()


def spikes(n: int = 80, seed: int = 0) -> SpikeEvents:
    generator = torch.Generator().manual_seed(seed)
    return SpikeEvents(
        torch.rand(n, generator=generator, dtype=torch.float64) * DURATION * 0.999,
        torch.randint(UNITS, (n,), generator=generator),
        torch.randint(BATCH, (n,), generator=generator),
        UNITS,
        DURATION,
        BATCH,
    )


def field() -> Tensor:
    return torch.randn(BATCH, 64, 2, generator=torch.Generator().manual_seed(5))


def binned(events: SpikeEvents) -> Tensor:
    counts = torch.zeros(BATCH, 64, UNITS)
    for t, u, r in zip(events.times, events.units, events.rows, strict=True):
        counts[r, int(t * 100 + 1e-9), u] += 1
    return counts


def rows(events: SpikeEvents, row: int) -> SpikeEvents:
    own = events.rows == row
    return events._replace(
        times=events.times[own],
        units=events.units[own],
        rows=torch.zeros_like(events.rows[own]),
        batch=1,
    )


def test_a_model_of_counts_takes_events_and_gives_the_outputs_of_the_counts() -> None:
    net, events = model("counts"), spikes()
    found, expected = net({"spike": events}), net({"spike": binned(events)})
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.encoder["spike"], expected.encoder["spike"])


def test_all_outputs_of_event_tokens_have_their_shapes() -> None:
    out = model()({"spike": spikes(), "lfp": field()})
    assert out.latents.shape == (BATCH, 16, 24)
    assert out.encoder["spike"].shape == (BATCH, 64, UNITS)
    assert out.forecast is not None
    assert out.forecast["spike"].shape == (BATCH, 2, UNITS)
    assert all(torch.isfinite(part).all() for part in (out.latents, out.decoder, out.pooled))


def test_exact_spike_times_matter_within_a_bin() -> None:
    net, events = model(), spikes()
    early = events._replace(times=(events.times * 100).floor() / 100 + 1e-4)
    assert torch.equal(binned(early), binned(events))
    a, b = net({"spike": events}).latents, net({"spike": early}).latents
    assert not torch.allclose(a, b, atol=1e-4)


def test_units_and_fields_of_a_mapping_go_with_events() -> None:
    net, events = model(), spikes()
    ids = ["a", "b", "c", "d"]
    net.add_units("spike", ids[:2], generator=torch.Generator().manual_seed(1))
    with_ids = net({"spike": events}, units={"spike": ids}).latents
    mapping = {"x": events._replace(n_units=None), "units": ids}
    assert torch.equal(net({"spike": mapping}).latents, with_ids)
    assert not torch.equal(net({"spike": events}).latents, with_ids)
    assert net.forward_batch({"spike": events, "units": {"spike": ids}}).latents.equal(with_ids)


@pytest.mark.parametrize("mode", ["counts", "events"])
def test_a_row_equals_the_batch_of_one(mode: str) -> None:
    net, events, lfp = model(mode), spikes(), field()
    together = net({"spike": events, "lfp": lfp})
    for row in range(BATCH):
        alone = net({"spike": rows(events, row), "lfp": lfp[row : row + 1]})
        torch.testing.assert_close(alone.latents[0], together.latents[row], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            alone.encoder["spike"][0], together.encoder["spike"][row], atol=1e-5, rtol=1e-4
        )


def test_a_row_without_spikes_equals_a_batch_of_one_without_the_modality() -> None:
    net, events, lfp = model(), spikes(), field()
    mask = torch.ones(BATCH, 1, 1, dtype=torch.bool)
    mask[1] = False
    out = net({"spike": events, "lfp": lfp}, masks={"spike": mask})
    without = net({"lfp": lfp[1:2]})
    torch.testing.assert_close(out.latents[1:2], without.latents, atol=1e-5, rtol=1e-4)
    full = net({"spike": events, "lfp": lfp})
    torch.testing.assert_close(out.latents[0], full.latents[0], atol=1e-5, rtol=1e-4)


def test_latents_of_a_causal_model_rest_on_no_later_spike() -> None:
    net, events, other = model(), spikes(), spikes(seed=9)
    cut = 0.32  # the end of step 8 of 16
    past, future = events.times < cut, other.times >= cut
    mixed = events._replace(
        **{
            k: torch.cat([getattr(events, k)[past], getattr(other, k)[future]])
            for k in ("times", "units", "rows")
        }
    )
    a, b = net({"spike": events}).latents, net({"spike": mixed}).latents
    torch.testing.assert_close(a[:, :8], b[:, :8], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(a[:, 8:], b[:, 8:], atol=1e-3)


def test_counts_are_event_tokens_at_the_ends_of_their_bins() -> None:
    net, counts = model(), binned(spikes())
    out = net({"spike": counts})
    index = counts.nonzero().repeat_interleave(counts[counts > 0].long(), 0)
    # The grid of counts and of events is the same; only a last bin would end with the window.
    times = (index[:, 1] + 1) / 100
    inside = times < DURATION
    fewer = counts.clone()
    fewer[:, -1] = 0
    events = SpikeEvents(times[inside], index[inside, 2], index[inside, 0], UNITS, DURATION, BATCH)
    tokens = SpikeTokenizer(32, sampling_rate=100.0, mode="events").eval()
    assert torch.equal(tokens(fewer).times.float(), tokens(events).times.float())
    assert out.latents.shape == (BATCH, 16, 24)


def test_ready_event_tokens_lay_the_grid_of_their_spikes_and_not_of_their_padding() -> None:
    net, events = model(), spikes()
    tokens = net.tokenizers["spike"](events)
    assert not tokens.mask.all()
    out = net({"spike": tokens})
    assert out.latents.shape[1] == 16
    assert float(out.times[-1]) == pytest.approx(float(events.times.max()))


def test_the_option_is_saved_and_the_weights_return(tmp_path: Path) -> None:
    net, events = model(), spikes()
    net.save_pretrained(tmp_path)
    again = MultiModalNeuroFMX.from_pretrained(tmp_path)
    assert again.config["spike_mode"] == "events"
    assert torch.equal(again({"spike": events}).latents, net({"spike": events}).latents)
    assert MultiModalNeuroFMX(32, 1, 8, 16, modalities=("lfp",)).config["spike_mode"] == "counts"


def test_gradients_reach_the_event_tokens() -> None:
    net = model(modality_dropout=0.0).train()
    out = net({"spike": spikes(), "lfp": field()})
    (out.encoder["spike"].square().mean() + out.decoder.square().mean()).backward()
    for name, parameter in net.tokenizers["spike"].named_parameters():
        if parameter.numel():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all()


def test_masked_modelling_trains_event_tokens_from_counts() -> None:
    net, batch = model(modality_dropout=0.0).train(), {"spike": binned(spikes()), "lfp": field()}
    hidden = NeuralMasker("random", 0.3)(batch, torch.Generator().manual_seed(0))
    loss = MaskedModelingLoss()(net.forward_batch(hidden), hidden)
    loss.backward()
    value = net.tokenizers["spike"].core.spike
    assert torch.isfinite(loss)
    assert value.grad is not None
    assert float(value.grad.abs().max()) > 0


def test_channels_of_events_are_explained() -> None:
    net, events = model(), spikes()
    net.add_units("spike", ["a"], generator=torch.Generator().manual_seed(1))
    report = net.explain_inputs({"spike": events}, units={"spike": ["a", "b", "c", "d"]})
    assert [channel.status for channel in report.channels] == ["matched", *["inferred"] * 3]


def test_wrong_events_are_refused_in_words() -> None:
    events = spikes()
    bare = MultiModalNeuroFMX(32, 1, 8, 16, modalities=("spike",), spike_mode="events")
    with pytest.raises(ValueError, match="build the model with sampling_rates="):
        bare({"spike": events})
    with pytest.raises(ValueError, match="lfp: events are spikes, got SpikeEvents"):
        model()({"lfp": events})
    with pytest.raises(ValueError, match="spike: events carry their times"):
        model()({"spike": events}, times={"spike": torch.arange(64.0)})
    with pytest.raises(ValueError, match="times of events are NaN"):
        model()({"spike": events._replace(times=events.times * float("nan"))})
    with pytest.raises(ValueError, match="the same number of rows"):
        model()({"spike": events, "lfp": field()[:2]})
    with pytest.raises(ValueError, match="spike_mode = 'events' needs 'spike'"):
        MultiModalNeuroFMX(32, 1, 8, 16, modalities=("lfp",), spike_mode="events")
