"""Sparse autoencoders: activations as sums of few directions from a large dictionary."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuros_mechint.sae._arguments import Activation
from neuros_mechint.sae._boundary import (
    SAEOutput,
    checked_rows,
    coded,
    decoded_from,
    features_of,
    strongest_of,
)
from neuros_mechint.sae._coder import Coder
from neuros_mechint.sae._features import code_of
from neuros_mechint.sae._losses import prefix_reconstructions

__all__ = ["HierarchicalSAE", "SAEOutput", "SparseAutoencoder"]


class SparseAutoencoder(Coder):
    r"""Reconstruct activations from few features, $\hat x = b_{dec} + \sum_i f_i(x) d_i$.

    Pre-activations are $z = W_{enc} (x - b_{dec}) + b_{enc}$; directions $d_i$ have unit norm.

    | `activation` | features | loss beside the mean squared error |
    | --- | --- | --- |
    | `"relu"` | $z^+ = \max(z, 0)$ | $\lambda \sum_i f_i \Vert d_i \Vert$ (Bricken 2023) |
    | `"topk"` | $z^+$ of the k largest of each row | none (Gao 2024) |
    | `"batchtopk"` | $z^+$ of the k B largest of B rows | none (Bussmann 2024) |
    | `"jumprelu"` | $z H(z - \theta)$ | $\lambda L_0$, or $\lambda (L_0 / target - 1)^2$ |
    | `"gated"` | $H(z) (e^r (z - b_{enc}) + b_{mag})^+$ | see below |

    The loss of `"gated"` is $\lambda \sum_i z_i^+ \Vert d_i \Vert$ and the error of $z^+$ with the
    decoder held fixed (Rajamanoharan 2024a); `"jumprelu"` is from Rajamanoharan 2024b.

    Losses are means over rows and coordinates, in units in which $E \Vert x \Vert^2$ is the width:
    training measures that scale and stores it in `input_scale`. Everything that goes in and comes
    out is in raw units.

    `"batchtopk"` depends on the batch in training mode only. In eval mode it keeps what exceeds
    `threshold`, which training estimates; before any training that is relu.

    Args:
        latent_dim: Width of the activations.
        dictionary_size: Number of features F.
        sparsity_coefficient: $\lambda$, without effect on the top-k activations.
        activation: One of the five.
        k: Features per row of the top-k activations; None for the others.
        tied_init: Start the encoder as the transposed decoder, else as directions of its own.
        matryoshka: Rising prefix sizes up to F: the loss sums the error of every prefix.
        target_l0: Number of active features that `"jumprelu"` is driven to; None for the plain
            penalty.
        bandwidth: Width of the kernel that gives `"jumprelu"` thresholds their gradient, and their
            start value, in the units of training.
        generator: Source of the start values; None takes torch's own, as `torch.nn.Linear` does.

    Raises:
        ValueError: When a size, `k`, a coefficient or the prefixes make no sense together.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> coder = SparseAutoencoder(
        ...     latent_dim=4, dictionary_size=16, activation="topk", k=2, generator=generator
        ... )
        >>> output = coder(torch.randn(8, 4, generator=generator))
        >>> output.reconstruction.shape, output.features.count_nonzero(-1).max().item()
        (torch.Size([8, 4]), 2)

    References:
        T. Bricken et al. (2023). Towards monosemanticity. Transformer Circuits Thread.
        L. Gao et al. (2024). Scaling and evaluating sparse autoencoders.
            doi:10.48550/arXiv.2406.04093
        B. Bussmann, P. Leask, N. Nanda (2024). BatchTopK sparse autoencoders.
            doi:10.48550/arXiv.2412.06410
        S. Rajamanoharan et al. (2024a). Improving dictionary learning with gated sparse
            autoencoders. doi:10.48550/arXiv.2404.16014
        S. Rajamanoharan et al. (2024b). Jumping ahead: improving reconstruction fidelity with
            JumpReLU sparse autoencoders. doi:10.48550/arXiv.2407.14435
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        dictionary_size: int,
        sparsity_coefficient: float = 0.01,
        activation: Activation = "relu",
        k: int | None = None,
        tied_init: bool = True,
        matryoshka: Sequence[int] | None = None,
        target_l0: float | None = None,
        bandwidth: float = 0.03,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            [latent_dim],
            None,
            dictionary_size=dictionary_size,
            sparsity_coefficient=sparsity_coefficient,
            activation=activation,
            k=k,
            tied_init=tied_init,
            matryoshka=matryoshka,
            target_l0=target_l0,
            bandwidth=bandwidth,
            generator=generator,
        )
        self.latent_dim = latent_dim

    def _widths(self) -> dict[str, Any]:
        return {"latent_dim": self.latent_dim}

    def joined(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Input and target of training: the same rows."""
        return parts[0], parts[0]

    @property
    def dictionary(self) -> Tensor:
        """Directions of the features, shape (feature, latent_dim), one row per feature."""
        return self.W_dec

    def encode(self, x: Tensor) -> Tensor:
        """Features of activations.

        Args:
            x: Shape (..., latent_dim).

        Returns:
            Shape (..., feature), in the unit of `x`.

        Raises:
            TypeError: When `x` is not a floating-point tensor.
            ValueError: When its width is another.

        Examples:
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
            >>> _ = coder.load_state_dict({"W_enc": torch.eye(2)}, strict=False)
            >>> coder.encode(torch.tensor([3.0, -1.0])).detach()
            tensor([3., 0.])
        """
        return features_of(self, x, "x")

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Largest features of activations, without the zeros.

        Args:
            x: Shape (..., latent_dim).

        Returns:
            Values and feature indices, both of shape (..., m), values falling along the last
            dimension; m is `k` for `"topk"` and else the largest number of active features of a
            row. Places that a row does not need hold features whose value is 0.

        Raises:
            TypeError: When `x` is not a floating-point tensor.
            ValueError: When its width is another.

        Examples:
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
            >>> _ = coder.load_state_dict({"W_enc": torch.eye(2)}, strict=False)
            >>> values, indices = coder.encode_sparse(torch.tensor([-1.0, 3.0]))
            >>> values.detach(), indices
            (tensor([3.]), tensor([1]))
        """
        return strongest_of(self, x, "x")

    def decode(self, f: Tensor) -> Tensor:
        """Activations of features.

        Args:
            f: Shape (..., feature).

        Returns:
            Shape (..., latent_dim).

        Raises:
            TypeError: When `f` is not a floating-point tensor.
            ValueError: When it has another number of features.

        Examples:
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
            >>> _ = coder.load_state_dict({"W_dec": torch.eye(2)}, strict=False)
            >>> coder.decode(torch.tensor([3.0, 0.0])).detach()
            tensor([3., 0.])
        """
        return decoded_from(self, f)

    def forward(self, x: Tensor) -> SAEOutput:
        """Code activations and score the result.

        Args:
            x: Shape (..., latent_dim).

        Returns:
            Reconstruction, features and loss.

        Raises:
            TypeError: When `x` is not a floating-point tensor.
            ValueError: When its width is another.

        Examples:
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
            >>> eye = torch.eye(2)
            >>> _ = coder.load_state_dict({"W_enc": eye, "W_dec": eye}, strict=False)
            >>> output = coder(torch.tensor([[3.0, 0.0]]))
            >>> round(output.terms["mse"].item(), 4), round(output.terms["sparsity"].item(), 4)
            (0.0, 0.03)
        """
        return coded(self, x, x)

    def to_sae_lens(self, folder: str | os.PathLike[str]) -> None:
        """Write the coder as a folder that SAELens loads, folded to raw units.

        Args:
            folder: Folder to write to; it is made when it does not exist.

        Raises:
            ValueError: When SAELens has no such coder.

        Examples:
            >>> import tempfile
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=4)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     coder.to_sae_lens(folder)
            ...     back = SparseAutoencoder.from_sae_lens(folder)
            >>> torch.allclose(back.encode(torch.ones(2)), coder.encode(torch.ones(2)))
            True
        """
        from neuros_mechint.sae._interchange import write_sae_lens

        write_sae_lens(self, folder)

    @classmethod
    def from_sae_lens(cls, folder: str | os.PathLike[str]) -> "SparseAutoencoder":
        """Read a folder that SAELens, or `to_sae_lens`, wrote.

        Args:
            folder: Its folder.

        Returns:
            The coder in evaluation mode.

        Raises:
            FileNotFoundError: When there is none.
            ValueError: When the folder holds a coder of an unknown kind.

        Examples:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     SparseAutoencoder(latent_dim=2, dictionary_size=4).to_sae_lens(folder)
            ...     SparseAutoencoder.from_sae_lens(folder).dictionary_size
            4
        """
        from neuros_mechint.sae._interchange import read_sae_lens

        # A Matryoshka coder has no own form there: it comes back as a plain one.
        return read_sae_lens(SparseAutoencoder, folder)


class HierarchicalSAE(SparseAutoencoder):
    """Matryoshka autoencoder: the first features of the dictionary reconstruct on their own.

    Args:
        latent_dim: Width of the activations.
        levels: Rising numbers of features; the last one is the size of the dictionary.
        sparsity_coefficient: As in `SparseAutoencoder`.
        activation: As in `SparseAutoencoder`.
        k: As in `SparseAutoencoder`.
        tied_init: As in `SparseAutoencoder`.
        target_l0: As in `SparseAutoencoder`.
        bandwidth: As in `SparseAutoencoder`.
        generator: As in `SparseAutoencoder`.

    Raises:
        ValueError: When the levels do not rise, or as in `SparseAutoencoder`.

    Examples:
        >>> coder = HierarchicalSAE(latent_dim=4, levels=[2, 8], activation="topk", k=2)
        >>> [part.shape for part in coder.reconstructions(torch.ones(1, 4))]
        [torch.Size([1, 4]), torch.Size([1, 4])]

    References:
        B. Bussmann, N. Nabeshima, A. Karvonen, N. Nanda (2025). Learning multi-level features with
        Matryoshka sparse autoencoders. doi:10.48550/arXiv.2503.17547
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        levels: Sequence[int],
        sparsity_coefficient: float = 0.01,
        activation: Activation = "relu",
        k: int | None = None,
        tied_init: bool = True,
        target_l0: float | None = None,
        bandwidth: float = 0.03,
        generator: torch.Generator | None = None,
    ) -> None:
        if not levels:
            raise ValueError("levels needs at least one number of features, got none")
        super().__init__(
            latent_dim=latent_dim,
            dictionary_size=levels[-1],
            sparsity_coefficient=sparsity_coefficient,
            activation=activation,
            k=k,
            tied_init=tied_init,
            matryoshka=levels,
            target_l0=target_l0,
            bandwidth=bandwidth,
            generator=generator,
        )
        self.levels = self.matryoshka

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that make a coder of the same kind, without the start values."""
        config = super().config
        del config["dictionary_size"]
        config["levels"] = config.pop("matryoshka")
        return config

    def reconstructions(self, x: Tensor) -> list[Tensor]:
        """Reconstruct from each prefix of the dictionary.

        Args:
            x: Shape (..., latent_dim).

        Returns:
            One tensor of the shape of `x` per level, from the fewest features to all.

        Raises:
            TypeError: When `x` is not a floating-point tensor.
            ValueError: When its width is another.

        Examples:
            >>> coder = HierarchicalSAE(latent_dim=2, levels=[1, 2])
            >>> eye = torch.eye(2)
            >>> _ = coder.load_state_dict({"W_enc": eye, "W_dec": eye}, strict=False)
            >>> [part.tolist() for part in coder.reconstructions(torch.tensor([3.0, 2.0]))]
            [[3.0, 0.0], [3.0, 2.0]]
        """
        rows = self.scaled_input(checked_rows(self, x, "x", self.in_widths))
        code = code_of(self, rows)
        return [
            self.raw_output(part).reshape(x.shape) for part in prefix_reconstructions(self, code)
        ]
