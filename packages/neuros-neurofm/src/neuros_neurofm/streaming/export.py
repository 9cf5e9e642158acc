"""The model as modules of tensors in and tensors out, for `torch.export`."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from neuros_neurofm.models import FractionalMambaBlock, MultiModalNeuroFMX
from neuros_neurofm.models._flow import join_tokens, tokenise
from neuros_neurofm.models._inputs import collect, lay_grid
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.streaming._arrival import joined_rates
from neuros_neurofm.streaming._core import decoded, first_core, grid_step, summary
from neuros_neurofm.streaming._source import Reader
from neuros_neurofm.streaming._tensors import core_tensors, read_core
from neuros_neurofm.tokenizers import Tokens
from neuros_neurofm.tokenizers._channel_set import Tokenised
from neuros_neurofm.tokenizers._samples import TokenizerState

__all__ = ["EncodeProgram", "StepProgram"]


Outputs: TypeAlias = dict[str, Tensor | dict[str, Tensor]]


class EncodeProgram(nn.Module):
    """`model.encode` for inputs of fixed shape at equal intervals.

    An exported program has no branch on values: it does not check that counts are not negative
    or that samples are finite.

    Args:
        model: The model; the program holds a copy without gradients.
        units: Modality -> channel ids, as in the model's `forward`.

    Raises:
        ValueError: units of an unknown modality, or `spike_mode="events"`.

    Examples:
        >>> import torch
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> model = MultiModalNeuroFMX(
        ...     32, 1, 8, 16, modalities=("spike",), sampling_rates={"spike": 100.0}, window=0.16
        ... )
        >>> inputs = {"spike": torch.ones(1, 16, 5)}
        >>> program = torch.export.export(EncodeProgram(model), (inputs,))
        >>> program.module()(inputs).shape
        torch.Size([1, 8, 16])
    """

    def __init__(
        self, model: MultiModalNeuroFMX, *, units: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__()
        self.units = _checked_units(units, model.modalities)
        self.model = _frozen(model)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor] | None = None) -> Tensor:
        """The latents.

        Args:
            inputs: Modality -> samples, (batch, time, channel).
            masks: Modality -> True = valid, broadcastable to the samples.

        Returns:
            (batch, latent, latent_dim).
        """
        model = self.model
        units = {name: ids for name, ids in self.units.items() if name in inputs}
        streams = collect(inputs, model.modalities, units=units, masks=masks, times=None)
        grid = lay_grid(
            streams,
            model.sampling_rates,
            window=model.window,
            n_latents=model.n_latents,
            device=model.fusion.latent.device,
        )
        tokenised = tokenise(model.tokenizers, streams, grid)
        tokens, reach = join_tokens(streams, tokenised, model.modality_vectors, grid)
        span = 1 if model.causal else 2
        slots = [
            # Tokens come once per patch; one that a mask cuts short comes earlier.
            math.ceil(span * r * grid.rates[name] / tokenised[name].size - 1e-6) + 1
            for name, r in zip(streams, reach, strict=True)
        ]
        fused = model.fusion(tokens, grid.times, reach=reach, slots=slots)
        latents: Tensor = model.to_latent(model.backbone(fused))
        return latents


class StepProgram(nn.Module):
    """One step of a stream, with a state of fixed size: tensors in and tensors out.

    Every call takes the samples of one step of the grid from every modality and gives what
    `StreamingSession` gives. Needs a step that is a whole number of patches of every modality;
    samples that are missing are masked. Nothing is checked on the values.

    Args:
        model: A causal model with a `window`; the program holds a copy without gradients.
        channels: Modality -> number of channels, for the modalities of the stream.
        units: Modality -> channel ids.
        sampling_rates: Samples per second of modalities for which the model has no rate.

    Raises:
        ValueError: a model that cannot stream, or has `spike_mode="events"`; a modality that the
            model does not have, without a rate, or whose patches do not fill a step; units that do
            not name the channels.

    Examples:
        >>> import torch
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> model = MultiModalNeuroFMX(
        ...     32, 1, 8, 16, modalities=("spike",), sampling_rates={"spike": 100.0}, window=0.16
        ... )
        >>> step = StepProgram(model, {"spike": 5})
        >>> state, chunk = step.init_state(1), {"spike": torch.ones(1, 2, 5)}
        >>> program = torch.export.export(step, (chunk, state)).module()
        >>> for _ in range(3):
        ...     outputs, state = program(chunk, state)
        >>> outputs["times"].item(), outputs["decoder"].shape
        (0.06, torch.Size([1, 1, 2]))
    """

    def __init__(
        self,
        model: MultiModalNeuroFMX,
        channels: Mapping[str, int],
        *,
        units: Mapping[str, Sequence[str]] | None = None,
        sampling_rates: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not model.causal or model.window is None:
            raise ValueError("a stream needs a model with causal=True and window=... seconds")
        unknown = [name for name in channels if name not in model.modalities]
        if unknown or not channels:
            raise ValueError(
                f"channels must name modalities out of {list(model.modalities)}, got "
                f"{list(channels)}"
            )
        self.units = _checked_units(units, list(channels))
        self.model = _frozen(model)
        self.step = model.window / model.n_latents
        rates = joined_rates(model.modalities, model.sampling_rates, sampling_rates)
        self.channels = {name: channels[name] for name in model.modalities if name in channels}
        self.readers = {name: self._reader(name, rates) for name in self.channels}
        self.samples = {name: _per_step(reader) for name, reader in self.readers.items()}

    def _reader(self, name: str, rates: Mapping[str, float]) -> Reader:
        if name not in rates:
            raise ValueError(f"{name}: a stream needs its samples per second; pass sampling_rates")
        ids = self.units.get(name)
        if ids is not None and len(ids) != self.channels[name]:
            raise ValueError(
                f"{name}: units must name the {self.channels[name]} channels, got {len(ids)}"
            )
        tokenizer = cast("Tokenizer", self.model.tokenizers[name])
        vector = self.model.modality_vectors[name]
        return Reader(name, tokenizer, vector, rates[name], self.step)

    def init_state(self, batch: int) -> dict[str, Tensor]:
        """The state before the first step.

        Args:
            batch: Number of rows.

        Returns:
            Tensors by name.
        """
        state = core_tensors(first_core(self.model, batch))
        for name, channels in self.channels.items():
            core = self.readers[name].tokenizer.core
            x = self.readers[name].vector.new_zeros(batch, self.samples[name], channels)
            silent, mask = core.init_state(batch, channels), torch.zeros_like(x, dtype=torch.bool)
            found, after = self._advance(name, x, mask, silent)
            # What a silent step leaves has the names and shapes of the state.
            kept = {f"{name}.memory.{key}": value for key, value in after.memory.items()}
            kept |= {f"{name}.tokens.{k}": v for k, v in found.tokens._asdict().items()}
            kept[f"{name}.last"] = x.new_zeros(batch, channels, 2, dtype=torch.float64)
            state |= {key: torch.zeros_like(value) for key, value in kept.items()}
        return state

    def forward(
        self,
        inputs: dict[str, Tensor],
        state: dict[str, Tensor],
        masks: dict[str, Tensor] | None = None,
    ) -> tuple[Outputs, dict[str, Tensor]]:
        """The outputs of one step and the state after it.

        Args:
            inputs: Modality -> the samples of the step, (batch, time, channel).
            state: From `init_state` or the step before.
            masks: Modality -> True = valid, broadcastable to the samples.

        Returns:
            Fields of `StepOutput` by name without `modalities`, those that are None left out; and
            the state.

        Raises:
            ValueError: other modalities or numbers of samples than those of a step.
        """
        self._check(inputs)
        core = read_core(self.model, state)
        time = ((core.n + 1).to(torch.float64) * self.step).unsqueeze(0)
        windows, vectors = [], {}
        after: dict[str, Tensor] = {}
        for name, reader in self.readers.items():
            memory = _below(state, f"{name}.memory.")
            mask = (masks or {}).get(name)
            x = inputs[name]
            empty = reader.tokenizer.core.init_state(x.shape[0], x.shape[2])
            found, now = self._advance(name, x, mask, empty._replace(memory=memory))
            new = found.tokens._replace(values=found.tokens.values + reader.vector)
            before = Tokens(**_below(state, f"{name}.tokens."))
            windows.append(Tokens(*(torch.cat(pair, 1) for pair in zip(before, new, strict=True))))
            vectors[name] = found.units[:, -1:]
            after |= {f"{name}.memory.{key}": value for key, value in now.memory.items()}
            after |= {f"{name}.tokens.{key}": value for key, value in new._asdict().items()}
            after[f"{name}.last"] = reader.continued(state[f"{name}.last"], found.x, found.valid)
        latents, core = grid_step(
            self.model,
            windows,
            time,
            core,
            reach=[reader.reach for reader in self.readers.values()],
            slots=[window.mask.shape[1] for window in windows],
        )
        outputs: Outputs = {"latents": latents, "times": time}
        outputs["pooled"] = pooled = summary(self.model, core.recent, core.read, core.n)
        outputs |= self._read_out(latents, pooled, vectors, after)
        return outputs, core_tensors(core) | after

    def _advance(
        self, name: str, x: Tensor, mask: Tensor | None, state: TokenizerState
    ) -> tuple[Tokenised, TokenizerState]:
        reader = self.readers[name]
        return reader.tokenizer.core.advance(
            x,
            state,
            units=self.units.get(name),
            mask=mask,
            times=None,
            coords=None,
            rate=reader.rate,
        )

    def _read_out(
        self,
        latents: Tensor,
        pooled: Tensor,
        vectors: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
    ) -> Outputs:
        encoder, forecast = {}, {}
        for name, n in self.samples.items():
            phase = torch.arange(1, n + 1, device=latents.device).unsqueeze(0) / n
            index = torch.zeros_like(phase, dtype=torch.int64)
            head = self.model.heads["encoder"].get_submodule(name)
            encoder[name] = head(latents, vectors[name], index, phase)
            if "forecast" in self.model.heads:
                head = self.model.heads["forecast"].get_submodule(name)
                last = self.readers[name].last_value(after[f"{name}.last"])
                forecast[name] = head(latents[:, 0], vectors[name][:, 0], last)
        outputs: Outputs = {
            "contrastive": self.model.heads["contrastive"](pooled),
            "encoder": encoder,
        }
        decoder = decoded(self.model, latents)
        if decoder is not None:
            outputs["decoder"] = decoder
        if self.model.domain is not None:
            outputs["domain_logits"] = self.model.domain(pooled)
        return outputs | ({"forecast": forecast} if forecast else {})

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        given = {name: tuple(x.shape[1:]) for name, x in inputs.items()}
        needed = {name: (self.samples[name], n) for name, n in self.channels.items()}
        if given != needed:
            raise ValueError(f"a step takes (time, channel) = {needed}, got {given}")


def _frozen(model: MultiModalNeuroFMX) -> MultiModalNeuroFMX:
    if model.config["spike_mode"] == "events":
        raise ValueError(
            "a model with spike_mode='events' cannot be exported: a program has fixed shapes, and "
            "its tokens are as many as the spikes; stream it with StreamingSession"
        )
    # Without gradients the scans run in place, which an exported program can record.
    frozen = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    for module in frozen.modules():
        if isinstance(module, FractionalMambaBlock):
            module.fix_modes()
    return frozen


def _checked_units(
    units: Mapping[str, Sequence[str]] | None, names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    unknown = [name for name in units or {} if name not in names]
    if unknown:
        raise ValueError(f"units names {unknown}, the modalities are {list(names)}")
    return {name: tuple(ids) for name, ids in (units or {}).items()}


def _per_step(reader: Reader) -> int:
    samples, size = reader.step * reader.rate, reader.tokenizer.core.size
    n = round(samples)
    if abs(samples - n) > 1e-6 * samples or n % size or not n:
        raise ValueError(
            f"{reader.name}: a step of {reader.step:g} s holds {samples:g} samples, which must be "
            f"a whole number of patches of {size}; change window, n_latents or patches, or use "
            f"StreamingSession"
        )
    return n


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
