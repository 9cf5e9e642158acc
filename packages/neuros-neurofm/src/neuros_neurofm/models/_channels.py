"""What a model knows of single channels: their vectors, their calibration, their fate in a call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from torch import Generator, Tensor, nn

from neuros_neurofm.models._explain import explain
from neuros_neurofm.models._identify import Batch, Masker, Objective, fit_units
from neuros_neurofm.models._inputs import Stream
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.models.input_report import InputReport

__all__ = ["NamedChannels"]


class NamedChannels(nn.Module):
    """A model with one tokenizer per modality, whose channels may have names."""

    modalities: tuple[str, ...]
    tokenizers: nn.ModuleDict
    modality_vectors: nn.ParameterDict

    def add_units(
        self,
        modality: str,
        ids: Sequence[str],
        x: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        coords: Tensor | None = None,
        generator: Generator | None = None,
    ) -> None:
        """Gives channels learned vectors of their own; build the optimiser afterwards.

        Args:
            modality: Modality of the channels.
            ids: New ids.
            x: Recording of these channels, (batch, time, channel): the vectors start from the
                inferred value. Without it they start from unit noise.
            mask: True = valid.
            coords: Positions in metres, (channel, 3).
            generator: Source of the noise.

        Raises:
            ValueError: the model was built without the modality, or an id is known already.
        """
        units = self._tokenizer(modality).units
        units.extend(ids, x, mask=mask, coords=coords, generator=generator)

    def calibrate(
        self, modality: str, x: Tensor, *, units: Sequence[str], mask: Tensor | None = None
    ) -> None:
        """Fixes mean and deviation of named channels from training data.

        Args:
            modality: Modality of the channels, other than spikes.
            x: Training recording, (batch, time, channel).
            units: Ids of the channels.
            mask: True = valid.

        Raises:
            ValueError: the model was built without the modality, spikes, or a constant channel.
        """
        self._tokenizer(modality).calibrate(x, units=units, mask=mask)

    def identify_units(
        self,
        loader: Iterable[Batch],
        steps: int,
        *,
        learning_rate: float = 1e-2,
        loss: Objective | None = None,
        masker: Masker | None = None,
        generator: Generator | None = None,
        progress: bool = True,
    ) -> list[float]:
        """Learns the vectors of named units and the bias of the decoder; all else stands still.

        The fast way to a new session: `add_units` first, then this. The model runs in eval mode,
        with every parameter frozen but the vectors of named units (of those alone that the loader
        holds) and the bias of the decoder. Afterwards all others are bit-identical, and modes,
        `requires_grad` and gradients are what they were, also after an exception.

        Args:
            loader: Batches as for `forward_batch`, with "units"; read again until `steps` are done.
            steps: Number of updates (Adam).
            learning_rate: Step size.
            loss: A `CombinedLoss` or one objective; default: fill in a random quarter of the input
                (`MaskedModelingLoss`) and decode "behavior" where the batch has it
                (`BehaviorLoss`).
            masker: Hides a part of each batch, `(batch, generator) -> batch`; with a `loss` of
                your own nothing is hidden without it.
            generator: What the masker draws from; None: one seeded with 0.
            progress: False turns the progress bar off; it is off anyway where nobody can see it.

        Returns:
            The loss before each step.

        Raises:
            ValueError: no named unit in the model or in a batch, a unit that is not known, a
                loader that ends early, or `steps` or `learning_rate` out of range.
            FloatingPointError: a loss that is not finite.
        """
        forward = cast("Callable[[Batch], Mapping[str, Any]]", self.forward_batch)
        return fit_units(
            self,
            forward,
            {name: self._tokenizer(name).units for name in self.modalities},
            loader,
            steps,
            learning_rate=learning_rate,
            loss=loss,
            masker=masker,
            generator=generator,
            progress=progress,
        )

    def explain_inputs(
        self,
        inputs: Mapping[str, Stream],
        *,
        units: Mapping[str, Sequence[str]] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        times: Mapping[str, Tensor] | None = None,
    ) -> InputReport:
        """Which channels are matched, inferred, masked or rejected, and why; it never raises.

        Args:
            inputs: As in `forward`.
            units: As in `forward`.
            masks: As in `forward`.
            times: As in `forward`.

        Returns:
            One entry per channel; `print` shows a table. `forward` raises for these inputs where
            any entry is "rejected", and takes them otherwise.
        """
        extras = {"units": units, "masks": masks, "times": times}
        d_model = self.modality_vectors[self.modalities[0]].shape[0]
        return explain(self.tokenizers, inputs, extras, d_model=d_model)

    def _tokenizer(self, name: str) -> Tokenizer:
        if name not in self.modalities:
            raise ValueError(
                f"this model was built without {name!r}; its modalities are {list(self.modalities)}"
            )
        return cast("Tokenizer", self.tokenizers[name])
