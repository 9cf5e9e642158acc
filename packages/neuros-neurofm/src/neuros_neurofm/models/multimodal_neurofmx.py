"""The model: any set of recordings in, one state over time and its read-outs out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from neuros_neurofm.models import _flow, _timing
from neuros_neurofm.models._channels import NamedChannels
from neuros_neurofm.models._domain_head import DomainHead, checked_labels
from neuros_neurofm.models._inputs import Grid, ModalityInput, Stream, collect, lay_grid, row_ends
from neuros_neurofm.models._options import (
    ALL,
    build_heads,
    build_tokenizers,
    check_rates,
    check_sizes,
    ordered,
    ssm_version,
)
from neuros_neurofm.models._output import NeuroFMXOutput
from neuros_neurofm.models._pretrained import Pretrained
from neuros_neurofm.models._sizes import size_options
from neuros_neurofm.models.adversary import reversal_schedule
from neuros_neurofm.models.diffusion import LatentDiffusion
from neuros_neurofm.models.mamba import MambaBackbone
from neuros_neurofm.models.perceiver import PerceiverIO
from neuros_neurofm.models.popt import PopT
from neuros_neurofm.tokenizers._channel_set import Tokenised

__all__ = ["MultiModalNeuroFMX", "NeuroFMXOutput"]


class MultiModalNeuroFMX(NamedChannels, Pretrained):
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
        use_domain_adversarial: Adds a discriminator of domains behind a gradient reversal
            (`domain`, output `domain_logits`). Its strength is 0 until `set_progress`, which
            `MultiModalTrainer` calls.
        n_domains: Number of domains, such as species.
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
        ssm: Blocks of the backbone: Mamba-2, the first Mamba, or power-law memory.
        diffusion: Adds a `LatentDiffusion` of the latents (`diffusion`); the pass does not call
            it: it is trained through `losses.DiffusionLoss` and sampled by `diffusion.sample`.
        sampling_rates: Samples per second of each modality. Without a rate (and without `times`)
            an input spans the window, and one token is one sample.
        patches: Duration of a token per modality, in seconds where the rate is known, else in
            samples; None: the default of each tokenizer.
        spike_mode: One token per patch of counts, or one per spike, as in `SpikeTokenizer`. The
            encoder predicts counts per bin either way.
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

    def __init__(  # noqa: PLR0917 - the order is part of the published signature
        self,
        d_model: int = 512,
        n_mamba_blocks: int = 8,
        n_latents: int = 64,
        latent_dim: int = 512,
        use_domain_adversarial: bool = False,  # noqa: FBT001, FBT002 - likewise
        n_domains: int = 3,
        *,
        modalities: Sequence[str] = ALL,
        behavior_dim: int = 2,
        window: float | None = None,
        causal: bool = True,
        perceiver_depth: int = 2,
        popt_depth: int = 4,
        popt_window: int = 16,
        dropout: float = 0.1,
        ssm: Literal["mamba2", "mamba", "fractional"] = "mamba2",
        diffusion: bool = False,
        sampling_rates: Mapping[str, float] | None = None,
        patches: Mapping[str, float] | None = None,
        spike_mode: Literal["counts", "events"] = "counts",
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
            "use_domain_adversarial": use_domain_adversarial,
            "n_domains": n_domains,
            "modalities": list(self.modalities),
            "behavior_dim": behavior_dim,
            "window": window,
            "causal": causal,
            "perceiver_depth": perceiver_depth,
            "popt_depth": popt_depth,
            "popt_window": popt_window,
            "dropout": dropout,
            "ssm": ssm,
            "diffusion": diffusion,
            "sampling_rates": self.sampling_rates,
            "patches": patches,
            "spike_mode": spike_mode,
            "forecast_horizon": forecast_horizon,
            "modality_dropout": modality_dropout,
            "backend": backend,
        }
        self.n_latents, self.window, self.causal = n_latents, window, causal
        self.popt_window = popt_window
        self.modality_dropout = modality_dropout
        self.tokenizers = build_tokenizers(
            self.modalities,
            d_model,
            rates=self.sampling_rates,
            patches=patches,
            dropout=dropout,
            spike_mode=spike_mode,
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
        self.domain = DomainHead(latent_dim, n_domains) if use_domain_adversarial else None
        self.diffusion = LatentDiffusion(latent_dim) if diffusion else None

    @classmethod
    def from_size(cls, size: str, **options: Any) -> "MultiModalNeuroFMX":
        """A model of about 20, 50 or 100 million parameters (all modalities, 10 samples forecast).

        Args:
            size: `small` is (256, 4), `medium` (512, 8) and `large` (768, 16) in
                (d_model, n_mamba_blocks).
            options: Arguments of the class; they win over the size's own.

        Returns:
            The model, unit tables empty.

        Raises:
            ValueError: an unknown size, or what the class refuses.

        Examples:
            >>> model = MultiModalNeuroFMX.from_size("small", modalities=("spike",))
            >>> model.config["d_model"], model.config["n_mamba_blocks"]
            (256, 4)
        """
        return cls(**(size_options(size) | options))

    def extra_repr(self) -> str:
        """Sizes for `repr`."""
        return f"modalities={self.modalities}, n_latents={self.n_latents}, causal={self.causal}"

    def forward(
        self,
        inputs: Mapping[str, Stream],
        species_labels: Tensor | None = None,
        *,
        units: Mapping[str, Sequence[str]] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        times: Mapping[str, Tensor] | None = None,
        query_times: Tensor | None = None,
        domain_lambda: float | None = None,
    ) -> NeuroFMXOutput:
        """All outputs of one batch of windows.

        Args:
            inputs: Modality -> samples (batch, time, channel), `SpikeEvents` (spikes with a
                sampling rate), `Tokens`, or a mapping with the samples "x" and any of "units",
                "mask", "times", "coords".
            species_labels: Domain of each row, (batch,) integers in [0, n_domains), -100 where
                unknown; checked, and returned as `domain_labels` beside `domain_logits`.
            units: Modality -> channel ids, the same for all rows; unknown or absent ids are
                inferred from the data.
            masks: Modality -> True = valid, broadcastable to the samples; a row whose modality is
                all False is computed as if it had been given without that modality (without a
                `window`: at the step that the longest input of the batch sets).
            times: Modality -> seconds of irregular samples, (batch, time) or (time,).
            query_times: Seconds at which the decoder is asked, (query,) or (batch, query); default:
                the grid. Causal: an answer rests on the latents that are complete by then.
            domain_lambda: Strength of the gradient reversal in this call; None: that of the
                training's progress (`set_progress`).

        Returns:
            The outputs.

        Raises:
            TypeError: a stream is no tensor, tokens or mapping, or labels are no integers.
            ValueError: no input, an unknown modality, unequal batches, values that the tokenizer
                of the modality refuses, labels outside the domains, or labels or a strength for a
                model without `use_domain_adversarial`.
        """
        streams = collect(
            inputs,
            self.modalities,
            units=units,
            masks=masks,
            times=times,
            rates=self.sampling_rates,
        )
        batch = next(iter(streams.values())).batch
        labels = checked_labels(self.domain, species_labels, domain_lambda, batch=batch)
        grid = self._grid(streams)
        tokenised = _flow.tokenise(self.tokenizers, streams, grid)
        latents = self._latents(streams, tokenised, grid)
        ends = row_ends(streams, grid, self.n_latents)
        recent, there = _timing.last_latents(latents, ends, self.popt_window)
        pooled = self.popt.aggregate(recent, mask=there)
        index, elapsed = _timing.query_positions(grid, query_times, batch, causal=self.causal)
        decoder = (
            self.heads["decoder"](latents, index, elapsed) if "decoder" in self.heads else None
        )
        forecast = None
        if "forecast" in self.heads:
            latest = _timing.last_latent(latents, ends)
            forecast = _flow.expected_future(self.heads["forecast"], latest, tokenised)
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
            domain_logits=None if self.domain is None else self.domain(pooled, domain_lambda),
            domain_labels=labels,
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
        streams = collect(
            inputs,
            self.modalities,
            units=units,
            masks=masks,
            times=times,
            rates=self.sampling_rates,
        )
        grid = self._grid(streams)
        return self._latents(streams, _flow.tokenise(self.tokenizers, streams, grid), grid)

    def forward_batch(self, batch: Mapping[str, Any]) -> NeuroFMXOutput:
        """The outputs of a `neuros_core.recording.Batch` of tensors.

        Args:
            batch: Modalities of the model with "units", "masks", "times", "rates",
                "behavior_times" and, for a model with a domain discriminator, "species" where
                present; other keys are left alone.

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
                batch.get("species") if self.domain is not None else None,
                units=own("units"),
                masks=own("masks"),
                times=own("times"),
                query_times=batch.get("behavior_times"),
            ),
        )

    def set_progress(self, progress: float) -> None:
        """Tells the model which share of its training is done: the reversal follows it.

        `MultiModalTrainer.fit` calls this before every step; a loop of your own does, too. Without
        a domain discriminator nothing depends on the progress.

        Args:
            progress: Share of the training, 0 to 1.

        Raises:
            ValueError: A progress outside [0, 1].
        """
        strength = reversal_schedule(progress)
        if self.domain is not None:
            self.domain.reversal.set_lambda(strength)

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
