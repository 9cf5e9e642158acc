from dataclasses import replace
from typing import Any

import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.models import LinearPart
from neuros_neurofm.streaming import StreamingSession

RATES = {"spike": 100.0, "lfp": 100.0}


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "modalities": ("spike", "lfp"),
        "behavior_dim": 2,
        "window": 0.24,
        "sampling_rates": RATES,
        "patches": dict.fromkeys(RATES, 0.01),
        "perceiver_depth": 1,
        "popt_depth": 1,
    }
    # Steps of 30 ms: three samples each.
    return MultiModalNeuroFMX(16, 1, 8, 16, **(given | options)).eval()


def linear(n_lags: int = 5, *, rate: float = 100.0, dim: int = 2) -> LinearPart:
    g = torch.Generator().manual_seed(1)
    return LinearPart(
        {"spike": 4, "lfp": 2},
        rate,
        torch.rand(6, generator=g),
        0.5 + torch.rand(6, generator=g),
        torch.randn(n_lags, 6, dim, generator=g),
        torch.randn(dim, generator=g),
    )


def signals(n: int = 60, batch: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return {
        "spike": torch.poisson(torch.ones(batch, n, 4), generator=g),
        "lfp": torch.randn(batch, n, 2, generator=g),
    }


def expected(
    model: MultiModalNeuroFMX, part: LinearPart, x: dict[str, torch.Tensor], **masks: torch.Tensor
) -> torch.Tensor:
    with torch.no_grad():
        out = model(x, masks=masks)
    assert out.decoder is not None
    return out.decoder + part.at(x, out.times, masks)


def decoded(steps: list[Any]) -> torch.Tensor:
    return torch.cat([step.decoder for step in steps], 1)


@pytest.mark.parametrize("n_lags", [1, 2, 5, 9])
@pytest.mark.parametrize("sizes", [(60,), (1, 2, 7, 20, 30)])
def test_a_stream_with_a_linear_part_decodes_what_the_whole_recording_does(
    n_lags: int, sizes: tuple[int, ...]
) -> None:
    model, part, x = build(), linear(n_lags), signals()
    session, steps, at = StreamingSession(model, linear=part), [], 0
    for size in sizes:
        steps += session.push({m: v[:, at : at + size] for m, v in x.items()})
        at += size
    assert len(steps) == 20
    torch.testing.assert_close(
        decoded(steps), expected(model, part, x).float(), atol=1e-6, rtol=1e-6
    )


def test_modalities_that_arrive_apart_are_read_by_their_times() -> None:
    model, part, x = build(), linear(), signals()
    session = StreamingSession(model, linear=part)
    steps = session.push({m: v[:, :3] for m, v in x.items()})
    for at in range(3, 60, 3):
        for name in ("lfp", "spike"):
            steps += session.push({name: x[name][:, at : at + 3]})
    steps += session.finish()
    torch.testing.assert_close(
        decoded(steps), expected(model, part, x).float(), atol=1e-6, rtol=1e-6
    )


def test_masked_lost_and_left_samples_count_as_their_mean() -> None:
    model, part, x = build(), linear(), signals()
    mask = torch.ones_like(x["lfp"], dtype=torch.bool)
    mask[:, 6:10, 1] = False
    mask[:, 20:26] = False
    mask[:, 45:] = False
    session = StreamingSession(model, linear=part)
    first, rest = {}, {}
    for name, v in x.items():
        first[name], rest[name] = v[:, :20], v[:, 26:45]
    masks = {"lfp": mask[:, :20]}
    steps = session.push(first, masks=masks)
    steps += session.push({"spike": x["spike"][:, 20:26]})
    steps += session.push({"lfp": rest["lfp"]}, t=0.26)
    steps += session.push({"spike": rest["spike"]})
    steps += session.leave("lfp")
    steps += session.push({"spike": x["spike"][:, 45:]})
    whole = expected(model, part, x, lfp=mask)
    torch.testing.assert_close(decoded(steps), whole.float(), atol=1e-6, rtol=1e-6)


def test_a_stream_goes_on_from_its_state_and_keeps_no_more_than_its_lags() -> None:
    model, part, x = build(), linear(), signals()
    session = StreamingSession(model, linear=part)
    session.push({m: v[:, :30] for m, v in x.items()})
    state = session.state_dict()
    assert state["linear"].shape == (2, 5, 6)
    assert state["linear"].untyped_storage().nbytes() == 2 * 5 * 6 * 8
    again = StreamingSession(model, linear=part)
    again.load_state_dict(state)
    rest = {m: v[:, 30:] for m, v in x.items()}
    assert torch.equal(decoded(again.push(rest)), decoded(session.push(rest)))
    session.reset()
    assert "linear" not in session.state_dict()


def test_a_state_of_another_linear_part_is_refused() -> None:
    model, x = build(), signals(6)
    session = StreamingSession(model, linear=linear())
    session.push(x)
    with pytest.raises(
        ValueError, match=r"linear must have \(lag, channel\) = \(4, 6\), got \(5, 6\)"
    ):
        StreamingSession(model, linear=linear(4)).load_state_dict(session.state_dict())
    with pytest.raises(ValueError, match="of a stream with a linear part"):
        StreamingSession(model).load_state_dict(session.state_dict())
    alone = StreamingSession(model)
    alone.push(x)
    with pytest.raises(ValueError, match=r"= \(5, 6\), got None"):
        session.load_state_dict(alone.state_dict())


def test_a_linear_part_of_another_model_rate_or_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="decodes 3 variables, the model 2"):
        StreamingSession(build(), linear=linear(dim=3))
    with pytest.raises(ValueError, match=r"fitted at 50 Hz, the stream reads \{'spike': 100.0"):
        StreamingSession(build(), linear=linear(rate=50.0))
    session, x = StreamingSession(build(), linear=linear()), signals(3)
    with pytest.raises(ValueError, match="lfp: the linear part was fitted to 2 channels, got 1"):
        session.push(x | {"lfp": x["lfp"][..., :1]})
    with pytest.raises(ValueError, match="lfp: a linear part needs samples at equal intervals"):
        session.push({"lfp": x["lfp"]}, t=torch.tensor([0.001, 0.002, 0.02]))


def test_a_modality_that_the_linear_part_does_not_read_may_come_as_it_likes() -> None:
    part = replace(linear(), channels={"spike": 6})
    session = StreamingSession(build(), linear=part)
    times = torch.tensor([0.001, 0.002, 0.02])
    assert session.push({"lfp": torch.randn(1, 3, 3)}, t=times) == []
