"""Finds out, without raising, what a call would make of each channel."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from neuros_neurofm.models._flow import check_width, tokens_of
from neuros_neurofm.models._inputs import ModalityInput, Stream, collect
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.models.input_report import ChannelStatus, InputReport
from neuros_neurofm.tokenizers import Tokens

__all__ = ["explain"]


def explain(
    tokenizers: nn.ModuleDict,
    inputs: Mapping[str, Stream],
    extras: Mapping[str, Mapping[str, Any] | None],
    *,
    d_model: int,
) -> InputReport:
    """The report of a call; `extras` are its arguments units, masks and times."""
    modalities = list(tokenizers)
    given = {key: dict(values or {}) for key, values in extras.items()}
    found: list[ChannelStatus] = []
    built = {name: cast("Tokenizer", t).core.sampling_rate for name, t in tokenizers.items()}
    rates = {name: rate for name, rate in built.items() if rate is not None}
    with _evaluating(tokenizers), torch.no_grad():
        for name, value in inputs.items():
            own = {k: {name: v[name]} if name in v else {} for k, v in given.items()}
            try:
                stream = collect({name: value}, modalities, **own, rates=rates)[name]
            except (TypeError, ValueError) as error:
                found.append(_rejected(name, error))
                continue
            if stream.tokens is not None:
                found.append(_of_tokens(name, stream.tokens, d_model))
            elif stream.x is not None:
                found += _of_stream(cast("Tokenizer", tokenizers[name]), name, stream, stream.x)
    if all(channel.status != "rejected" for channel in found):
        try:
            collect(inputs, modalities, **given, rates=rates)
        except (TypeError, ValueError) as error:
            found.append(_rejected("inputs", error))
    return InputReport(found)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, so that no dropout draws random numbers; every flag is put back."""
    modes = [(m, m.training) for m in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for m, mode in modes:
            m.training = mode


def _rejected(name: str, error: Exception) -> ChannelStatus:
    return ChannelStatus(name, None, None, "rejected", str(error))


def _of_tokens(name: str, tokens: Tokens, d_model: int) -> ChannelStatus:
    try:
        check_width(name, tokens, d_model)
    except ValueError as error:
        return _rejected(name, error)
    if not bool(tokens.mask.any()):
        return ChannelStatus(name, None, None, "masked", "ready tokens, none of them valid")
    return ChannelStatus(name, None, None, "matched", "ready tokens, their channels unseen")


def _of_stream(
    tokenizer: Tokenizer, name: str, stream: ModalityInput, x: Tensor
) -> list[ChannelStatus]:
    valid = torch.ones_like(x, dtype=torch.bool) if stream.mask is None else stream.mask
    faults = _channel_faults(x, valid, counts=name == "spike")
    sound = torch.tensor([not fault for fault in faults], device=valid.device)
    try:
        # What is wrong with single channels is known; the rest must pass without them.
        rate = tokenizer.core.sampling_rate or 1.0
        tokens_of(tokenizer, stream._replace(mask=valid & sound), x, rate)
    except (TypeError, ValueError) as error:
        return [_rejected(name, error)]
    ids = [None] * len(faults) if stream.units is None else list(stream.units)
    rows = [-1] * len(faults) if stream.units is None else tokenizer.units.table.rows(stream.units)
    seen = valid.any(1).sum(0).tolist()
    return [
        ChannelStatus(name, i, ids[i], "rejected", fault)
        if fault
        else _sound_channel(name, i, ids[i], known=rows[i] >= 0, seen=seen[i], batch=len(valid))
        for i, fault in enumerate(faults)
    ]


def _sound_channel(
    name: str, index: int, unit: str | None, *, known: bool, seen: int, batch: int
) -> ChannelStatus:
    if not seen:
        return ChannelStatus(name, index, unit, "masked", "no valid sample in any row")
    gap = f"; no valid sample in {batch - seen} of {batch} rows" if seen < batch else ""
    if known:
        return ChannelStatus(name, index, unit, "matched", f"the id is known{gap}")
    why = "no id was given" if unit is None else "the id is not known; add_units lets it be learned"
    return ChannelStatus(name, index, unit, "inferred", f"{why}{gap}")


def _channel_faults(
    x: Tensor, valid: Bool[Tensor, "batch time channel"], *, counts: bool
) -> list[str]:
    """What is wrong with each channel, empty where nothing is."""
    bad = (~torch.isfinite(x) & valid).sum((0, 1)).tolist()
    negative = [0] * len(bad)
    if counts and not x.is_complex():
        negative = ((x < 0) & valid).sum((0, 1)).tolist()
    return [
        f"{n} NaN or infinite values among the valid samples"
        if n
        else (f"{k} negative counts" if k else "")
        for n, k in zip(bad, negative, strict=True)
    ]
