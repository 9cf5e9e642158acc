"""The model: any set of recordings in, one state over time and its read-outs out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn

from neuros_neurofm.models import _flow, _parts, _pretrained, _timing
from neuros_neurofm.models._inputs import Grid, ModalityInput, Stream, collect, lay_grid
from neuros_neurofm.models._options import (
    ALL,
    Tokenizer,
    build_heads,
    build_tokenizers,
    check_rates,
    check_sizes,
    ordered,
    ssm_version,
)
from neuros_neurofm.models._output import NeuroFMXOutput
from neuros_neurofm.models.mamba import MambaBackbone
from neuros_neurofm.models.perceiver import PerceiverIO
from neuros_neurofm.models.popt import PopT
from neuros_neurofm.tokenizers._channel_set import Tokenised

__all__ = ["MultiModalNeuroFMX", "NeuroFMXOutput"]


class MultiModalNeuroFMX(
    nn.Module, PyTorchModelHubMixin, library_name="neuros-neurofm", license="mit"
):
    r"""Tokenizers, fusion on a grid of time, a state-space backbone and read-out heads.

    The latents are the points $\tau_j = (j + 1) \Delta$ of a time grid, $\Delta$ = window /
    n_latents. Latent j attends to the tokens of its own trailing window, the backbone runs along
    the grid, and the heads read it. With `causal=True` latents, decoder and encoder at one time
    depend on no sample of a later grid step. Any number of channels and any non-empty subset of
    the modalities is accepted per call, and per row through `masks`.

    Args:
        d_model: Width of tokens and backbone.
        n_mamba_blocks: Depth of the backbone.
        n_latents: Grid points per window.
        latent_dim: Width of the latents.
        modalities: Recordings that the model can read.
        behavior_dim: Number of decoded variables; 0: no decoder.
        window: Seconds that `n_latents` span; None: the duration of the input. Longer inputs get
            more latents of the same step.
        causal: No look-ahead; False lets windows and backbone see both directions.
        perceiver_depth: Attention layers of the fusion.
        popt_depth: Layers of the aggregation.
        popt_window: Number of last latents that the aggregation reads; what was before reaches it
            through the backbone.
        dropout: Dropout in tokens, fusion and aggregation.
        ssm: Blocks of the backbone: Mamba-2, or the first Mamba.
        sampling_rates: Samples per second of each modality. Without a rate (and without `times`)
            an input spans the window, and one token is one sample.
        patches: Duration of a token per modality, in seconds where the rate is known, else in
            samples; None: the default of each tokenizer.
        forecast_horizon: Samples forecast after the input; 0: no forecast.
        modality_dropout: In training, the probability per row of hiding a modality; one that has
            data always stays.
        backend: Kernels of the backbone, as in `MambaBackbone`.

    Raises:
        ValueError: an unknown modality, or a size, rate or probability outside its range.

    Examples:
        >>> import torch
        >>> model = MultiModalNeuroFMX(
        ...     32, 1, 8, 16, modalities=("spike",), sampling_rates={"spike": 100.0}
        ... )
        >>> out = model({"spike": torch.ones(2, 64, 5)})
        >>> out.latents.shape, out["decoder"].shape, out.encoder["spike"].shape
        (torch.Size([2, 8, 16]), torch.Size([2, 8, 2]), torch.Size([2, 64, 5]))

    References:
        Dao and Gu (2024), Transformers are SSMs, ICML, arXiv:2405.21060. Jaegle et al. (2021),
        Perceiver IO, arXiv:2107.14795. Azabou et al. (2023), A unified, scalable framework for
        neural population decoding, NeurIPS, arXiv:2310.16046.
    """

    def __init__(
        self,
        d_model: int = 512,
        n_mamba_blocks: int = 8,
        n_latents: int = 64,
        latent_dim: int = 512,
        *,
        modalities: Sequence[str] = ALL,
        behavior_dim: int = 2,
        window: float | None = None,
        causal: bool = True,
        perceiver_depth: int = 2,
        popt_depth: int = 4,
        popt_window: int = 16,
        dropout: float = 0.1,
        ssm: Literal["mamba2", "mamba"] = "mamba2",
        sampling_rates: Mapping[str, float] | None = None,
        patches: Mapping[str, float] | None = None,
        forecast_horizon: int = 0,
        modality_dropout: float = 0.3,
        backend: Literal["auto", "torch", "cuda"] = "auto",
    ) -> None:
        super().__init__()
        check_sizes(
            sizes={
                "d_model": d_model,
                "n_latents": n_latents,
                "latent_dim": latent_dim,
                "popt_window": popt_window,
            },
            probabilities={"dropout": dropout, "modality_dropout": modality_dropout},
            window=window,
            non_negative={"behavior_dim": behavior_dim, "forecast_horizon": forecast_horizon},
        )
        self.modalities = ordered(modalities)
        self.sampling_rates = check_rates("sampling_rates", sampling_rates, self.modalities)
        patches = check_rates("patches", patches, self.modalities)
        self.config: dict[str, Any] = {
            "d_model": d_model,
            "n_mamba_blocks": n_mamba_blocks,
            "n_latents": n_latents,
            "latent_dim": latent_dim,
            "modalities": list(self.modalities),
            "behavior_dim": behavior_dim,
            "window": window,
            "causal": causal,
            "perceiver_depth": perceiver_depth,
            "popt_depth": popt_depth,
            "popt_window": popt_window,
            "dropout": dropout,
            "ssm": ssm,
            "sampling_rates": self.sampling_rates,
            "patches": patches,
            "forecast_horizon": forecast_horizon,
            "modality_dropout": modality_dropout,
            "backend": backend,
        }
        self.n_latents, self.window, self.causal = n_latents, window, causal
        self.popt_window = popt_window
        self.modality_dropout = modality_dropout
        self._frozen: set[str] = set()
        self.tokenizers = build_tokenizers(
            self.modalities, d_model, rates=self.sampling_rates, patches=patches, dropout=dropout
        )
        self.fusion = PerceiverIO(d_model, perceiver_depth, dropout=dropout, causal=causal)
        self.modality_vectors = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(d_model)) for name in self.modalities}
        )
        self.backbone = MambaBackbone(
            d_model,
            n_mamba_blocks,
            version=ssm_version(ssm),
            headdim=math.gcd(2 * d_model, 64),
            backend=backend,
            bidirectional=not causal,
        )
        self.to_latent = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, latent_dim))
        self.popt = PopT(latent_dim, popt_depth, dropout=dropout, with_coords=False)
        self.heads = build_heads(
            self.modalities, latent_dim, behavior_dim=behavior_dim, horizon=forecast_horizon
        )

    def extra_repr(self) -> str:
        """Sizes for `repr`."""
        return f"modalities={self.modalities}, n_latents={self.n_latents}, causal={self.causal}"

    def forward(
        self,
        inputs: Mapping[str, Stream],
        *,
        units: Mapping[str, Sequence[str]] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        times: Mapping[str, Tensor] | None = None,
        query_times: Tensor | None = None,
    ) -> NeuroFMXOutput:
        """All outputs of one batch of windows.

        Args:
            inputs: Modality -> samples (batch, time, channel), `Tokens`, or a mapping with the
                samples "x" and any of "units", "mask", "times", "coords".
            units: Modality -> channel ids, the same for all rows; unknown or absent ids are
                inferred from the data.
            masks: Modality -> True = valid, broadcastable to the samples; a row whose modality is
                all False is computed as if it had been given without that modality.
            times: Modality -> seconds of irregular samples, (batch, time) or (time,).
            query_times: Seconds at which the decoder is asked, (query,) or (batch, query); default:
                the grid. Causal: an answer rests on the latents that are complete by then.

        Returns:
            The outputs.

        Raises:
            TypeError: a stream is no tensor, tokens or mapping.
            ValueError: no input, an unknown modality, unequal batches, or values that the tokenizer
                of the modality refuses.
        """
        streams = collect(inputs, self.modalities, units=units, masks=masks, times=times)
        grid = self._grid(streams)
        tokenised = _flow.tokenise(self.tokenizers, streams, grid)
        latents = self._latents(streams, tokenised, grid)
        pooled = self.popt.aggregate(latents[:, -self.popt_window :])
        index, elapsed = _timing.query_positions(
            grid, query_times, latents.shape[0], causal=self.causal
        )
        decoder = (
            self.heads["decoder"](latents, index, elapsed) if "decoder" in self.heads else None
        )
        forecast = None
        if "forecast" in self.heads:
            forecast = _flow.expected_future(self.heads["forecast"], latents[:, -1], tokenised)
        return NeuroFMXOutput(
            latents=latents,
            times=grid.times,
            pooled=pooled,
            contrastive=self.heads["contrastive"](pooled),
            encoder=_flow.expected_samples(
                self.heads["encoder"], latents, streams, tokenised, grid
            ),
            decoder=decoder,
            forecast=forecast,
        )

    def encode(
        self,
        inputs: Mapping[str, Stream],
        *,
        units: Mapping[str, Sequence[str]] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        times: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The latents alone.

        Args:
            inputs: As in `forward`.
            units: As in `forward`.
            masks: As in `forward`.
            times: As in `forward`.

        Returns:
            (batch, latent, latent_dim).
        """
        streams = collect(inputs, self.modalities, units=units, masks=masks, times=times)
        grid = self._grid(streams)
        return self._latents(streams, _flow.tokenise(self.tokenizers, streams, grid), grid)

    def forward_batch(self, batch: Mapping[str, Any]) -> NeuroFMXOutput:
        """The outputs of a `neuros_core.recording.Batch` of tensors.

        Args:
            batch: Modalities of the model with "units", "masks", "times", "rates" and
                "behavior_times" where present; other keys are left alone.

        Returns:
            The outputs; the decoder is asked at "behavior_times".

        Raises:
            ValueError: a rate that differs from the one the model was built with, or what
                `forward` refuses.
        """
        inputs = {name: batch[name] for name in self.modalities if name in batch}
        for name, rate in (batch.get("rates") or {}).items():
            built = self.sampling_rates.get(name)
            if name in inputs and built is not None and not math.isclose(built, rate, rel_tol=1e-6):
                raise ValueError(
                    f"{name}: the batch is sampled at {rate} Hz, the model expects {built} Hz; "
                    f"resample the recording"
                )

        def own(key: str) -> dict[str, Any]:
            return {name: v for name, v in (batch.get(key) or {}).items() if name in inputs}

        return cast(
            "NeuroFMXOutput",
            self(
                inputs,
                units=own("units"),
                masks=own("masks"),
                times=own("times"),
                query_times=batch.get("behavior_times"),
            ),
        )

    def _grid(self, streams: Mapping[str, ModalityInput]) -> Grid:
        return lay_grid(
            streams,
            self.sampling_rates,
            window=self.window,
            n_latents=self.n_latents,
            device=self.fusion.latent.device,
        )

    def _latents(
        self,
        streams: Mapping[str, ModalityInput],
        tokenised: Mapping[str, Tokenised],
        grid: Grid,
    ) -> Tensor:
        tokens, reach = _flow.join_tokens(streams, tokenised, self.modality_vectors, grid)
        if self.training and self.modality_dropout and len(tokens) > 1:
            tokens = _flow.drop_modalities(tokens, self.modality_dropout)
        fused = self.fusion(tokens, grid.times, reach=reach)
        latents: Tensor = self.to_latent(self.backbone(fused))
        return latents

    def _tokenizer(self, name: str) -> Tokenizer:
        return cast("Tokenizer", self.tokenizers[name])

    def add_units(
        self,
        modality: str,
        ids: Sequence[str],
        x: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        coords: Tensor | None = None,
        generator: torch.Generator | None = None,
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
        self._require(modality)
        self._tokenizer(modality).units.extend(
            ids, x, mask=mask, coords=coords, generator=generator
        )

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
        self._require(modality)
        self._tokenizer(modality).calibrate(x, units=units, mask=mask)

    def _require(self, modality: str) -> None:
        if modality not in self.modalities:
            raise ValueError(
                f"this model was built without {modality!r}; its modalities are "
                f"{list(self.modalities)}"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names that `freeze`, `unfreeze` and `num_parameters` understand, besides "all"."""
        return tuple(_parts.part_modules(self))

    def freeze(self, *parts: str) -> "MultiModalNeuroFMX":
        """Stops training of parts; they also stay in eval mode (no dropout) under `train()`.

        Args:
            parts: Names out of `parts`, or "all".

        Returns:
            The model.

        Raises:
            ValueError: an unknown part.
        """
        return self._set_trainable(parts, trainable=False)

    def unfreeze(self, *parts: str) -> "MultiModalNeuroFMX":
        """Trains parts again.

        Args:
            parts: Names out of `parts`, or "all".

        Returns:
            The model.

        Raises:
            ValueError: an unknown part.
        """
        return self._set_trainable(parts, trainable=True)

    def _set_trainable(self, parts: Sequence[str], *, trainable: bool) -> "MultiModalNeuroFMX":
        modules = _parts.part_modules(self)
        leaves = _parts.leaves(_parts.check_parts(parts, list(modules)), list(modules))
        for part in leaves:
            for parameter in _parts.part_parameters(modules[part]):
                parameter.requires_grad_(trainable)
        self._frozen = self._frozen - leaves if trainable else self._frozen | leaves
        return self.train(self.training)

    def train(self, mode: bool = True) -> "MultiModalNeuroFMX":  # noqa: FBT001, FBT002 - the signature of nn.Module
        """Sets training mode, except in frozen parts.

        Args:
            mode: Training or evaluation.

        Returns:
            The model.
        """
        super().train(mode)
        modules = _parts.part_modules(self) if self._frozen else {}
        for part in self._frozen:
            for module in modules[part]:
                module.eval()
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that are not frozen, for an optimiser."""
        return (p for p in self.parameters() if p.requires_grad)

    @overload
    def num_parameters(self, *, by_part: Literal[False] = False) -> int: ...
    @overload
    def num_parameters(self, *, by_part: Literal[True]) -> dict[str, int]: ...
    def num_parameters(self, *, by_part: bool = False) -> int | dict[str, int]:
        """Number of parameters, in all or per part.

        Args:
            by_part: Per part; each "heads.x" is also counted in "heads".

        Returns:
            A number, or part -> number.
        """
        if not by_part:
            return sum(p.numel() for p in self.parameters())
        return {
            part: sum(p.numel() for p in _parts.part_parameters(modules))
            for part, modules in _parts.part_modules(self).items()
        }

    def generate_model_card(
        self,
        *,
        data: object = None,
        species: object = None,
        metrics: object = None,
        licence: object = None,
        limits: object = None,
    ) -> ModelCard:
        """The model card that `save_pretrained(..., model_card_kwargs={...})` writes.

        Args:
            data: What the weights were trained on.
            species: Species of the subjects.
            metrics: Scores with their protocol, text or a mapping.
            licence: Licence of the weights.
            limits: Known limits.

        Returns:
            The card; facts that are not given are marked "Not stated."
        """
        facts = {
            "data": data,
            "species": species,
            "metrics": metrics,
            "licence": licence,
            "limits": limits,
        }
        units = {name: len(self._tokenizer(name).units.ids) for name in self.modalities}
        text = _pretrained.card_text(self.config, facts, units, self.num_parameters())
        return ModelCard(text, ignore_metadata_errors=True)

    def _save_pretrained(self, save_directory: Path) -> None:
        _pretrained.write_model(self, self.config, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str = "cpu",
        **options: Any,
    ) -> "MultiModalNeuroFMX":
        path = _pretrained.weights_file(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        model = cls(**options)
        _pretrained.load_weights(model, path, map_location)
        return model.eval()
