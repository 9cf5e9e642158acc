"""What every sparse coder is made of: parameters, units, training and files."""

import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.sae._arguments import Activation, check_jump, check_sizes, checked_prefixes
from neuros_mechint.sae._geometry import unit_rows
from neuros_mechint.sae._recipe import Recipe, Revive, StepCallback, TrainLog
from neuros_mechint.sae._sources import Activations, SiteKey

__all__ = ["Coder"]

CoderT = TypeVar("CoderT", bound="Coder")


class Coder(nn.Module):
    """Parameters and methods that the public coders share; `_features` has the formulas.

    Rows enter in raw units. Inside, each part of the input and of the output is multiplied by one
    stored number, so that losses and coefficients mean the same whatever the data's unit.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    input_scale: Tensor
    output_scale: Tensor
    threshold: Tensor

    def __init__(
        self,
        in_widths: Sequence[int],
        out_widths: Sequence[int] | None,
        *,
        dictionary_size: int,
        sparsity_coefficient: float,
        activation: Activation,
        k: int | None,
        tied_init: bool,
        matryoshka: Sequence[int] | None,
        target_l0: float | None,
        bandwidth: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        check_sizes(
            in_widths,
            out_widths or (),
            dictionary_size=dictionary_size,
            sparsity_coefficient=sparsity_coefficient,
            activation=activation,
            k=k,
        )
        check_jump(activation, target_l0, bandwidth)
        self.dictionary_size = dictionary_size
        self.sparsity_coefficient = sparsity_coefficient
        self.activation = activation
        self.k = k
        self.matryoshka = checked_prefixes(matryoshka, dictionary_size)
        self.target_l0 = target_l0
        self.bandwidth = bandwidth
        self.in_widths = tuple(in_widths)
        # An autoencoder subtracts the decoder's bias from its input; a transcoder's output is
        # another space.
        self.autoencodes = out_widths is None
        self.out_widths = self.in_widths if out_widths is None else tuple(out_widths)
        self._create(tied_init=tied_init, generator=generator)

    def _create(self, *, tied_init: bool, generator: torch.Generator | None) -> None:
        n_in, n_out, F = sum(self.in_widths), sum(self.out_widths), self.dictionary_size
        W_dec = unit_rows(torch.randn(F, n_out, generator=generator))
        W_enc = W_dec if tied_init else unit_rows(torch.randn(F, n_in, generator=generator))
        self.W_dec = nn.Parameter(W_dec)
        self.W_enc = nn.Parameter(W_enc.clone())
        self.b_enc = nn.Parameter(torch.zeros(F))
        self.b_dec = nn.Parameter(torch.zeros(n_out))
        if self.activation == "gated":
            self.log_gain = nn.Parameter(torch.zeros(F))
            self.b_mag = nn.Parameter(torch.zeros(F))
        if self.activation == "jumprelu":
            self.log_threshold = nn.Parameter(torch.full((F,), self.bandwidth).log())
        self.register_buffer("input_scale", torch.ones(len(self.in_widths)))
        if not self.autoencodes:
            self.register_buffer("output_scale", torch.ones(len(self.out_widths)))
        if self.activation == "batchtopk":
            self.register_buffer("threshold", torch.zeros(()))

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that make a coder of the same kind, without the start values."""
        shared = {
            "dictionary_size": self.dictionary_size,
            "sparsity_coefficient": self.sparsity_coefficient,
            "activation": self.activation,
            "k": self.k,
            "matryoshka": list(self.matryoshka) or None,
            "target_l0": self.target_l0,
            "bandwidth": self.bandwidth,
        }
        return {**self._widths(), **shared}

    def _widths(self) -> dict[str, Any]:
        raise NotImplementedError

    def joined(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Input and target rows from the tensors of a batch."""
        raise NotImplementedError

    n_parts = 1
    """Number of tensors that a batch of activations consists of."""

    @property
    def scales(self) -> tuple[Tensor, Tensor]:
        """Factor of each part of the input and of the output."""
        return self.input_scale, self.input_scale if self.autoencodes else self.output_scale

    @property
    def feature_scale(self) -> Tensor:
        """Factor between features in the units of training and in raw units."""
        return self.scales[1].mean()

    def scaled_input(self, rows: Float[Tensor, "batch n_in"]) -> Float[Tensor, "batch n_in"]:
        """Bring raw inputs to the units of training."""
        return rows * per_column(self.scales[0], self.in_widths)

    def scaled_output(self, rows: Float[Tensor, "batch n_out"]) -> Float[Tensor, "batch n_out"]:
        """Bring raw targets to the units of training."""
        return rows * per_column(self.scales[1], self.out_widths)

    def raw_output(self, rows: Float[Tensor, "batch n_out"]) -> Float[Tensor, "batch n_out"]:
        """Bring reconstructions back to raw units."""
        return rows / per_column(self.scales[1], self.out_widths)

    def fit(
        self,
        activations: Activations,
        *,
        site: SiteKey | None = None,
        steps: int | None = None,
        num_epochs: int | None = None,
        batch_size: int = 1024,
        lr: float | None = None,
        revive: Revive | None = None,
        dead_after: int | None = None,
        generator: torch.Generator | None = None,
        callbacks: Iterable[StepCallback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1000,
    ) -> TrainLog:
        r"""Train on activations that are at hand, with Adam.

        At the start the units of training are measured and, in a new coder, the decoder's bias is
        set to the geometric median of the data. The learning rate falls to 0 over the last fifth.
        After every step each direction has unit norm again; the part of its gradient along itself
        never reaches Adam. The coder ends in evaluation mode.

        Args:
            activations: Tensor (..., width), or a store of rows on disk such as `ActivationStore`.
                A `Transcoder` takes a pair of tensors, a `Crosscoder` a mapping site -> tensor.
            site: Which site of a store or mapping that holds several: one site, or as many as the
                coder takes, in its order.
            steps: Number of optimizer steps; the data is repeated as needed.
            num_epochs: Passes over the data; either this or `steps`.
            batch_size: Rows of one step.
            lr: Learning rate; None takes $2 \cdot 10^{-4} / \sqrt{F / 16384}$ (Gao 2024).
            revive: What happens to dead features: `"auxk"` adds the loss by which they explain the
                error of the others,
                $\frac{1}{32} \Vert e - \hat e \Vert^2 / \Vert e - \bar e \Vert^2$ (Gao 2024);
                `"resample"` restarts them at badly reconstructed rows until the rate falls
                (Bricken 2023).
            dead_after: Rows without firing after which a feature is dead; None takes $10^6$ or a
                tenth of all rows of the training, whichever is smaller.
            generator: Source of the order, on the CPU; None is a generator with seed 0.
            callbacks: Called after every step and epoch, as `neuros_core.Callback`.
            checkpoint: File to write to and to continue from. An interrupted training that is
                started again with the same arguments ends with the same bits.
            checkpoint_every: Steps between two writes.

        Returns:
            Course of the training.

        Raises:
            TypeError: When `activations` is neither tensors nor a store.
            ValueError: When a batch is not finite, with its index; when the width is another; when
                a number is out of its range, or the checkpoint is of another training.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> generator = torch.Generator().manual_seed(0)
            >>> x = torch.eye(4)[torch.randint(4, (512,), generator=generator)]
            >>> coder = SparseAutoencoder(
            ...     latent_dim=4, dictionary_size=8, activation="topk", k=1, generator=generator
            ... )
            >>> log = coder.fit(x, steps=300, batch_size=64, generator=generator)
            >>> log.loss[-1].item() < 0.1 * log.loss[0].item()
            True
        """
        # The modules of training and of files import this one.
        from neuros_mechint.sae.training import fit

        return fit(
            self,
            activations,
            Recipe(lr, revive, dead_after, batch_size, tuple(callbacks)),
            names=self.site_names(site),
            steps=steps,
            num_epochs=num_epochs,
            generator=generator,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
        )

    def train_on_activations(
        self,
        model: nn.Module,
        dataloader: Iterable[Any],
        site: SiteKey,
        *,
        num_epochs: int = 1,
        batch_size: int = 1024,
        buffer_rows: int = 16_384,
        lr: float | None = None,
        revive: Revive | None = None,
        dead_after: int | None = None,
        generator: torch.Generator | None = None,
        callbacks: Iterable[StepCallback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1000,
    ) -> TrainLog:
        """Train on the activations of a model while it runs.

        The same as `MultiLayerSAETrainer` with this coder alone.

        Args:
            model: Any module; it runs without gradient and in evaluation mode.
            dataloader: Batches, as in `MultiLayerSAETrainer.train`.
            site: Site, or the tuple of sites that the coder takes.
            num_epochs: Passes over the data.
            batch_size: Rows of one step.
            buffer_rows: Rows that are mixed, at least one batch.
            lr: As in `fit`.
            revive: As in `fit`.
            dead_after: As in `fit`.
            generator: As in `fit`.
            callbacks: As in `fit`.
            checkpoint: As in `MultiLayerSAETrainer.train`.
            checkpoint_every: Steps between two writes.

        Returns:
            Course of the training.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site is not reached in the forward.
            ValueError: As in `MultiLayerSAETrainer.train`.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
            >>> coder = SparseAutoencoder(latent_dim=4, dictionary_size=8)
            >>> log = coder.train_on_activations(net, [torch.ones(50, 3)] * 4, "1", batch_size=20)
            >>> log.tokens
            200
        """
        from neuros_mechint.sae.training import MultiLayerSAETrainer

        trainer = MultiLayerSAETrainer(
            {site: self},
            lr=lr,
            batch_size=batch_size,
            buffer_rows=buffer_rows,
            revive=revive,
            dead_after=dead_after,
            generator=generator,
            callbacks=callbacks,
        )
        logs = trainer.train(
            model,
            dataloader,
            num_epochs=num_epochs,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
        )
        return logs[site][0]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `coder.safetensors` and `coder.json`, folded to raw units.

        Args:
            folder: Folder to write to; it is made when it does not exist.

        Examples:
            >>> import tempfile
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=4)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     coder.save(folder)
            ...     loaded = SparseAutoencoder.load(folder)
            >>> torch.equal(loaded.dictionary, coder.dictionary)
            True
        """
        from neuros_mechint.sae._files import save_coder

        save_coder(self, folder)

    @classmethod
    # beartype, which checks shapes in the tests, takes `Self` in classes that it decorates only.
    def load(cls: type[CoderT], folder: str | os.PathLike[str]) -> CoderT:  # noqa: PYI019 - see above
        """Read a coder that `save` wrote.

        Args:
            folder: Its folder.

        Returns:
            The coder in evaluation mode, on the CPU.

        Raises:
            FileNotFoundError: When there is none.
            ValueError: When the folder holds another kind of coder, or files that are damaged.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> SparseAutoencoder.load("missing")
            Traceback (most recent call last):
            FileNotFoundError: no sparse coder in missing: coder.json is missing
        """
        from neuros_mechint.sae._files import load_coder

        return load_coder(cls, folder)

    def site_names(self, site: SiteKey | None) -> list[str] | None:
        """Names of the sites to read, in the order of the coder; None for whatever there is."""
        if site is None:
            return None
        return [str(one) for one in (site if isinstance(site, tuple) else (site,))]

    def folded(self) -> "Coder":
        """Copy whose parameters act on raw units: every stored scale is 1.

        Returns:
            A coder that computes the same.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=4)
            >>> _ = coder.input_scale.fill_(5.0)
            >>> folded = coder.folded()
            >>> folded.input_scale
            tensor([1.])
            >>> torch.allclose(folded.encode(torch.ones(2)), coder.encode(torch.ones(2)))
            True
        """
        from neuros_mechint.sae._units import set_scales

        copy = deepcopy(self)
        set_scales(copy, *(torch.ones_like(scale) for scale in self.scales))
        return copy

    def encoder_bias(self) -> Float[Tensor, "feature"]:
        r"""Bias of the pre-activations, $b_{enc} - W_{enc} b_{dec}$ for an autoencoder.

        Subtracting the decoder's bias from the input instead would give the same numbers and a
        gradient that costs as much as the whole encoder.
        """
        return self.b_enc - self.W_enc @ self.b_dec if self.autoencodes else self.b_enc


def per_column(scale: Float[Tensor, "part"], widths: Sequence[int]) -> Tensor:
    """One factor per column from one per part; a single part keeps its single factor."""
    if len(widths) == 1:
        return scale
    return scale.repeat_interleave(torch.tensor(widths, device=scale.device))
