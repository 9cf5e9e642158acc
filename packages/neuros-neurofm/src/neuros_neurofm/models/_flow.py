"""The steps of the model between its parts."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.models import _timing
from neuros_neurofm.models._inputs import Grid, ModalityInput
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.tokenizers import SpikeTokenizer, Tokens
from neuros_neurofm.tokenizers._channel_set import Tokenised

__all__ = [
    "check_width",
    "drop_modalities",
    "expected_future",
    "expected_samples",
    "join_tokens",
    "tokenise",
    "tokens_of",
]


def tokenise(
    tokenizers: nn.ModuleDict, streams: Mapping[str, ModalityInput], grid: Grid
) -> dict[str, Tokenised]:
    """Tokens of the raw streams."""
    return {
        name: tokens_of(cast("Tokenizer", tokenizers[name]), stream, stream.x, grid.rates[name])
        for name, stream in streams.items()
        if stream.x is not None
    }


def tokens_of(tokenizer: Tokenizer, stream: ModalityInput, x: Tensor, rate: float) -> Tokenised:
    """Tokens of one raw stream, from its events where it has them."""
    if stream.events is not None and isinstance(tokenizer, SpikeTokenizer):
        return tokenizer.tokenize(
            stream.events, units=stream.units, mask=stream.mask, coords=stream.coords, rate=rate
        )
    return tokenizer.tokenize(
        x,
        units=stream.units,
        mask=stream.mask,
        times=stream.times,
        coords=stream.coords,
        rate=rate,
    )


def check_width(name: str, tokens: Tokens, d_model: int) -> None:
    """Refuse tokens that were made for another model.

    Raises:
        ValueError: another width.
    """
    width = tokens.values.shape[-1]
    if width != d_model:
        raise ValueError(f"{name}: tokens must have the width d_model = {d_model}, got {width}")


def join_tokens(
    streams: Mapping[str, ModalityInput],
    tokenised: Mapping[str, Tokenised],
    vectors: nn.ParameterDict,
    grid: Grid,
) -> tuple[list[Tokens], list[float]]:
    """The tokens of all streams with their modality vectors, and the reach of each stream."""
    tokens, reach = [], []
    for name, stream in streams.items():
        found = tokenised[name].tokens if stream.tokens is None else stream.tokens
        check_width(name, found, vectors[name].shape[0])
        tokens.append(found._replace(values=found.values + vectors[name]))
        token_s = 0.0
        if name in tokenised:
            token_s = tokenised[name].size / grid.rates[name]
        # Two steps, or two tokens where they are longer: no token falls between two windows.
        reach.append(2 * max(grid.step, token_s))
    return tokens, reach


def drop_modalities(tokens: Sequence[Tokens], p: float) -> list[Tokens]:
    """Hides each modality of each row with probability `p`; one that has data always stays."""
    present = torch.stack([t.mask.any(-1) for t in tokens], dim=-1)
    draw = torch.rand(present.shape, device=present.device)
    # The present modality with the largest draw stays, whatever the draw.
    best = draw.masked_fill(~present, -1.0).argmax(-1, keepdim=True)
    keep = (draw >= p).scatter(-1, best, value=True)
    return [t._replace(mask=t.mask & keep[:, i : i + 1]) for i, t in enumerate(tokens)]


def expected_samples(
    heads: nn.Module,
    latents: Float[Tensor, "batch latent dim"],
    streams: Mapping[str, ModalityInput],
    tokenised: Mapping[str, Tokenised],
    grid: Grid,
) -> dict[str, Tensor]:
    """The expected samples of every raw stream."""
    samples = {}
    for name, item in tokenised.items():
        index, phase = _timing.sample_positions(
            grid, item.x.shape[1], rate=grid.rates[name], times=streams[name].times
        )
        known = item.tokens.times if item.known is None else item.known
        index = index.expand(item.x.shape[0], -1)
        steps = _timing.unit_steps(known, grid.times).gather(1, index)
        head = heads.get_submodule(name)
        samples[name] = head(latents, item.units, index, phase, steps).to(item.x.dtype)
    return samples


def expected_future(
    heads: nn.Module,
    latest: Float[Tensor, "batch dim"],
    tokenised: Mapping[str, Tokenised],
) -> dict[str, Tensor]:
    """The samples after the input of every raw stream."""
    future = {}
    for name, item in tokenised.items():
        last = _timing.last_observed(item.x, item.valid, counts=name == "spike")
        head = heads.get_submodule(name)
        future[name] = head(latest, item.units[:, -1], last).to(item.x.dtype)
    return future
