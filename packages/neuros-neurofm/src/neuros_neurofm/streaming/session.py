"""The model on a recording that is still running."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.models._inputs import ModalityInput, Stream, collect
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.models.linear_part import LinearPart
from neuros_neurofm.streaming._arrival import (
    check_late,
    check_same,
    check_whole_bins,
    joined_rates,
    own_times,
    start_index,
    times_of,
)
from neuros_neurofm.streaming._core import Core, decoded, first_core, grid_step
from neuros_neurofm.streaming._linear import LinearLags, check_linear, check_regular
from neuros_neurofm.streaming._output import StepOutput
from neuros_neurofm.streaming._source import Reader, Source
from neuros_neurofm.streaming._tensors import read_state, write_state

__all__ = ["StepOutput", "StreamingSession"]


class StreamingSession:
    """Feeds chunks of a running recording to a model and returns its outputs step by step.

    The outputs of all steps together are those of `model(...)` on the whole recording, whatever
    the chunks. The state has the same size after a second and after a day; of event tokens
    (`spike_mode="events"`) it holds those that coming steps see.

    A modality is in the stream from its first chunk until `leave`. A step of the grid is returned
    as soon as every modality in the stream has delivered each sample that is due by the end of the
    step (with equal intervals), or a sample after it (with times of its own; of event tokens the
    bin after it). Where a step ends inside a patch, that takes one further sample: it tells whether
    the patch goes on. A modality that has left is masked from then on. One whose next sample is
    overdue by more than `max_lag` is taken out, so that no queue grows without bound; to come back
    it must say at which time.

    Args:
        model: A causal model with a `window`; it is put in evaluation mode.
        sampling_rates: Samples per second of modalities for which the model has no rate of its
            own.
        max_lag: Seconds that a modality may fall behind the others; None: a second, or one window
            where that is longer.
        linear: Added to what the decoder says: the linear part of a `LinearSkipDecoder`, whose
            method `stream` passes it. Of its samples only those of its lags are kept.

    Raises:
        ValueError: a model that is not causal or has no window, a rate that is not > 0, of an
            unknown modality or other than the model's, `max_lag` is not > 0, or a linear part of
            other variables or another rate.

    Examples:
        >>> import torch
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> model = MultiModalNeuroFMX(
        ...     32, 1, 8, 16, modalities=("spike",), sampling_rates={"spike": 100.0}, window=0.16
        ... )
        >>> session = StreamingSession(model)
        >>> len(session.push({"spike": torch.ones(1, 3, 5)}))
        1
        >>> [step.times.item() for step in session.push({"spike": torch.ones(1, 3, 5)})]
        [0.04, 0.06]
    """

    def __init__(
        self,
        model: MultiModalNeuroFMX,
        sampling_rates: Mapping[str, float] | None = None,
        *,
        max_lag: float | None = None,
        linear: LinearPart | None = None,
    ) -> None:
        if not model.causal:
            raise ValueError(
                "a stream needs a model that does not look ahead; build it with causal=True"
            )
        if model.window is None:
            raise ValueError(
                "a stream needs to know the step of the grid, but this model spreads its "
                "n_latents over whatever it is given; build it with window=... seconds"
            )
        self.model = model.eval()
        self.step = model.window / model.n_latents
        self.rates = joined_rates(model.modalities, model.sampling_rates, sampling_rates)
        self._readers = {
            name: Reader(
                name,
                cast("Tokenizer", model.tokenizers[name]),
                model.modality_vectors[name],
                rate,
                self.step,
            )
            for name, rate in self.rates.items()
        }
        self.max_lag = max(1.0, model.window) if max_lag is None else max_lag
        if not self.max_lag > 0:
            raise ValueError(f"max_lag must be > 0 s, got {max_lag}")
        dim = model.config["behavior_dim"]
        self.linear = None if linear is None else check_linear(linear, self.rates, dim)
        self.reset()

    def reset(self) -> None:
        """Forgets everything: the next chunk begins a recording."""
        self._sources: dict[str, Source] = {}
        self._core: Core | None = None
        self._n_steps = 0
        self._lags = None if self.linear is None else LinearLags(self.linear, self.step)

    @property
    def time(self) -> float:
        """End of the last step that was returned, in seconds since the start of the stream."""
        return self._n_steps * self.step

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities in the stream."""
        found = self._sources
        return tuple(m for m in self.model.modalities if m in found and found[m].present)

    def push(
        self,
        chunks: Mapping[str, Stream],
        t: float | Tensor | Mapping[str, float | Tensor] | None = None,
        *,
        units: Mapping[str, Sequence[str]] | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> list[StepOutput]:
        """The next samples of one or several modalities; the steps that are complete now.

        Args:
            chunks: Modality -> samples (batch, time, channel), or a mapping as in the model's
                `forward`. Any number of samples; rows and channels stay what they were at first.
                `SpikeEvents` have times from the start of the chunk and the duration of whole bins.
            t: When the samples were taken, in seconds since the start of the stream; one value
                for all modalities or one each. A number is the start of the chunk: samples that
                are missing before it count as masked. A tensor (time,) holds a time per sample;
                the modality then has times of its own throughout. None: the chunk follows the
                one before, and a modality that joins or comes back begins with the next step.
            units: Modality -> channel ids; may be left out after the first chunk.
            masks: Modality -> True = valid, for the chunk.

        Returns:
            One output per step, oldest first; possibly none.

        Raises:
            TypeError: What the model refuses.
            ValueError: What the model refuses; other rows, channels or ids than before; no
                sampling rate; samples that come twice or belong to a step that was returned;
                events that end within a bin.
        """
        streams = collect(
            chunks, self.model.modalities, units=units, masks=masks, times=None, rates=self.rates
        )
        times = times_of(t, list(streams))
        with torch.no_grad():
            # All or nothing: a chunk that is refused leaves the session as it was.
            fresh = {m: self._read(m, s, times.get(m)) for m, s in streams.items()}
            self._sources |= fresh
            if self._core is None:
                batch = next(iter(fresh.values())).state.x.shape[0]
                self._core = first_core(self.model, batch)
            return self._drain()

    def leave(self, *modalities: str) -> list[StepOutput]:
        """Takes modalities out of the stream; steps no longer wait for them.

        The patch in progress ends with the samples that it has. A modality comes back with its
        next chunk, from the next patch on.

        Args:
            modalities: Names of modalities in the stream.

        Returns:
            The steps that are complete now.

        Raises:
            ValueError: A modality that is not in the stream.
        """
        unknown = [m for m in modalities if m not in self.modalities]
        if unknown:
            raise ValueError(f"{unknown} are not in the stream, which holds {self.modalities}")
        with torch.no_grad():
            for name in modalities:
                self._sources[name] = self._readers[name].leave(self._sources[name])
            return self._drain()

    def finish(self) -> list[StepOutput]:
        """Ends the recording: all modalities leave, and the step in progress is returned.

        Returns:
            The steps up to the last sample.
        """
        reached = [self._readers[m].reached(self._sources[m]) for m in self.modalities]
        steps = self.leave(*self.modalities)
        end = max(reached, default=0.0)
        with torch.no_grad():
            while self.time < end - 1e-6 * self.step:
                steps.append(self._step())
        return steps

    def state_dict(self) -> dict[str, Tensor]:
        """The state as tensors by name, for `torch.save` or safetensors.

        Returns:
            Copies, so that a later `push` does not change them.
        """
        state = write_state(self._core, self._sources, self._n_steps)
        if self._lags is not None and self._lags.lags is not None:
            state["linear"] = self._lags.lags.clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues where `state_dict` was taken, with the same model.

        Args:
            state: From `state_dict`.

        Raises:
            ValueError: The state is that of another model, or of a stream with another linear part.
        """
        rest = {name: value for name, value in state.items() if name != "linear"}
        if self.linear is None and len(rest) < len(state):
            raise ValueError(
                "the state is that of a stream with a linear part; pass it as linear= as well"
            )
        lags = None if self.linear is None else LinearLags(self.linear, self.step, state)
        self._core, self._sources, self._n_steps = read_state(self.model, rest)
        self._lags = lags

    def _reader(self, name: str) -> Reader:
        if name not in self._readers:
            raise ValueError(
                f"{name}: a stream needs to know its samples per second; build the model with "
                f"sampling_rates={{{name!r}: ...}} or pass them to StreamingSession"
            )
        return self._readers[name]

    def _read(self, name: str, stream: ModalityInput, t: float | Tensor | None) -> Source:
        reader, before = self._reader(name), self._sources.get(name)
        x = stream.x
        if x is None:
            raise ValueError(f"{name}: a stream takes samples (batch, time, channel), not tokens")
        if stream.events is not None:
            check_whole_bins(name, stream.events, reader.rate)
        own = t if stream.times is None else stream.times
        regular = not isinstance(own, Tensor)
        batch = None if self._core is None else self._core.recent.shape[0]
        exact = reader.exact(stream)
        check_same(name, stream, before, batch, regular=regular, exact=exact)
        if self.linear is not None:
            check_regular(self.linear, name, x.shape[2], regular=regular)
        source = reader.join(stream, x, regular=regular) if before is None else before
        start = 0
        if isinstance(own, Tensor):
            stream = stream._replace(times=own_times(name, own, x, after=source.clock))
            first = float(own[0])
        else:
            start = self._start(reader, before, own, exact=exact)
            first = (start + (not exact)) / reader.rate
        check_late(name, first, self._n_steps, self.step)
        return reader.read(source, stream, x, start)

    def _start(self, reader: Reader, before: Source | None, t: float | None, *, exact: bool) -> int:
        received = 0 if before is None else before.received
        if t is not None:
            return start_index(reader.name, t, reader.rate, received=received)
        if before is not None and before.lagged:
            raise ValueError(
                f"{reader.name}: its samples were overdue by more than max_lag = "
                f"{self.max_lag:g} s, so it was taken out of the stream, which has reached "
                f"{self.time:g} s; pass t = the start of the chunk to bring it back"
            )
        if before is not None and before.present:
            return received
        if exact and self._n_steps:
            # A spike at the very end of the last step would have belonged to it.
            return max(received, math.floor(self.time * reader.rate + 1e-6) + 1)
        return max(received, math.ceil(self.time * reader.rate - 1e-6))

    def _drain(self) -> list[StepOutput]:
        steps = []
        while self._ready() or self._drop_laggards():
            if self._ready():
                steps.append(self._step())
        for name, source in self._sources.items():
            self._sources[name] = self._readers[name].forget(source, self.time)
        return steps

    def _ready(self) -> bool:
        tau = (self._n_steps + 1) * self.step
        present = self.modalities
        return bool(present) and all(
            self._readers[m].has_passed(self._sources[m], tau) for m in present
        )

    def _drop_laggards(self) -> bool:
        readers = {m: self._readers[m] for m in self.modalities}
        newest = max((r.reached(self._sources[m]) for m, r in readers.items()), default=0.0)
        late = [m for m, r in readers.items() if newest - r.due(self._sources[m]) > self.max_lag]
        for name in late:
            self._sources[name] = replace(readers[name].leave(self._sources[name]), lagged=True)
        return bool(late)

    def _step(self) -> StepOutput:
        tau = (self._n_steps + 1) * self.step
        readers = {m: self._readers[m] for m in self.model.modalities if m in self._sources}
        core = cast("Core", self._core)
        time = torch.tensor([tau], dtype=torch.float64, device=core.recent.device)
        windows = [reader.window(self._sources[m], tau) for m, reader in readers.items()]
        reach = [reader.reach for reader in readers.values()]
        latents, self._core = grid_step(self.model, windows, time, core, reach=reach)
        decoder = decoded(self.model, latents)
        if self._lags is not None and decoder is not None:
            arrived = {m: self._sources[m].arrived for m in readers}
            decoder = decoder + self._lags.read(arrived, self._n_steps, latents).to(decoder)
        encoder, forecast = {}, {}
        for name, reader in readers.items():
            phase, source = reader.take(self._sources[name], self._n_steps)
            self._sources[name] = source
            vectors = reader.vectors_at(source, tau)
            if phase.shape[1]:
                index = torch.zeros_like(phase, dtype=torch.int64)
                head = self.model.heads["encoder"].get_submodule(name)
                encoder[name] = head(latents, vectors, index, phase)
            if source.present and "forecast" in self.model.heads:
                head = self.model.heads["forecast"].get_submodule(name)
                forecast[name] = head(latents[:, 0], vectors[:, 0], reader.last_value(source.last))
        self._n_steps += 1
        return StepOutput(
            latents=latents,
            times=time,
            encoder=encoder,
            decoder=decoder,
            forecast=forecast if "forecast" in self.model.heads else None,
            modalities=self.modalities,
            recent=self._core.recent,
            read=self._core.read,
            n=self._core.n,
            model=self.model,
        )
