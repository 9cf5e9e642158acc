"""Coders between sites: from one site to another, and of several sites at once."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuros_mechint.activations import SiteLike
from neuros_mechint.sae._arguments import Activation
from neuros_mechint.sae._boundary import (
    SAEOutput,
    coded,
    decoded_from,
    features_of,
    strongest_of,
)
from neuros_mechint.sae._coder import Coder

__all__ = ["Crosscoder", "CrosscoderOutput", "Transcoder"]


class Transcoder(Coder):
    r"""Predict one site's activations from another's by few features.

    $\hat y = b_{dec} + \sum_i f_i(x) d_i$ with pre-activations $W_{enc} x + b_{enc}$; a sparse
    stand-in for the layer that makes $y$ from $x$. Losses and units as in `SparseAutoencoder`, with
    a scale of their own for $x$ and $y$.

    Args:
        in_dim: Width of the input's activations.
        out_dim: Width of the target's activations.
        dictionary_size: Number of features F.
        sparsity_coefficient: As in `SparseAutoencoder`.
        activation: As in `SparseAutoencoder`.
        k: As in `SparseAutoencoder`.
        matryoshka: As in `SparseAutoencoder`.
        target_l0: As in `SparseAutoencoder`.
        bandwidth: As in `SparseAutoencoder`.
        generator: As in `SparseAutoencoder`.

    Raises:
        ValueError: As `SparseAutoencoder`.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> coder = Transcoder(
        ...     in_dim=3, out_dim=5, dictionary_size=8, activation="topk", k=2, generator=generator
        ... )
        >>> coder(torch.ones(4, 3), torch.ones(4, 5)).reconstruction.shape
        torch.Size([4, 5])

    References:
        J. Dunefsky, P. Chlenski, N. Nanda (2024). Transcoders find interpretable LLM feature
        circuits. doi:10.48550/arXiv.2406.11944
    """

    n_parts = 2

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        dictionary_size: int,
        sparsity_coefficient: float = 0.01,
        activation: Activation = "relu",
        k: int | None = None,
        matryoshka: Sequence[int] | None = None,
        target_l0: float | None = None,
        bandwidth: float = 0.03,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            [in_dim],
            [out_dim],
            dictionary_size=dictionary_size,
            sparsity_coefficient=sparsity_coefficient,
            activation=activation,
            k=k,
            # The two sides are different spaces.
            tied_init=False,
            matryoshka=matryoshka,
            target_l0=target_l0,
            bandwidth=bandwidth,
            generator=generator,
        )
        self.in_dim, self.out_dim = in_dim, out_dim

    def _widths(self) -> dict[str, Any]:
        return {"in_dim": self.in_dim, "out_dim": self.out_dim}

    def joined(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Input and target of training."""
        return parts[0], parts[1]

    @property
    def dictionary(self) -> Tensor:
        """Directions of the features in the target's space, shape (feature, out_dim)."""
        return self.W_dec

    def encode(self, x: Tensor) -> Tensor:
        """Features of input activations.

        Args:
            x: Shape (..., in_dim).

        Returns:
            Shape (..., feature), in the unit of the target.

        Raises:
            TypeError: When `x` is not a floating-point tensor.
            ValueError: When its width is another.

        Examples:
            >>> Transcoder(3, 5, dictionary_size=8).encode(torch.ones(2, 3)).shape
            torch.Size([2, 8])
        """
        return features_of(self, x, "x")

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Largest features of input activations, as `SparseAutoencoder.encode_sparse`.

        Args:
            x: Shape (..., in_dim).

        Returns:
            Values and feature indices, both of shape (..., m).

        Raises:
            TypeError: When `x` is not a floating-point tensor.
            ValueError: When its width is another.

        Examples:
            >>> coder = Transcoder(3, 5, dictionary_size=8, activation="topk", k=2)
            >>> coder.encode_sparse(torch.ones(3))[1].shape
            torch.Size([2])
        """
        return strongest_of(self, x, "x")

    def decode(self, f: Tensor) -> Tensor:
        """Target activations of features.

        Args:
            f: Shape (..., feature).

        Returns:
            Shape (..., out_dim).

        Raises:
            TypeError: When `f` is not a floating-point tensor.
            ValueError: When it has another number of features.

        Examples:
            >>> Transcoder(3, 5, dictionary_size=8).decode(torch.zeros(8)).detach()
            tensor([0., 0., 0., 0., 0.])
        """
        return decoded_from(self, f)

    def forward(self, x: Tensor, y: Tensor) -> SAEOutput:
        """Predict the target and score the prediction.

        Args:
            x: Shape (..., in_dim).
            y: Target, shape (..., out_dim).

        Returns:
            Prediction, features and loss.

        Raises:
            TypeError: When `x` or `y` is not a floating-point tensor.
            ValueError: When a width is another, or the numbers of rows differ.

        Examples:
            >>> coder = Transcoder(3, 5, dictionary_size=8)
            >>> coder(torch.zeros(1, 3), torch.ones(1, 5)).terms["mse"].item()
            1.0
        """
        return coded(self, x, y)


class CrosscoderOutput(NamedTuple):
    """What a crosscoder makes of a batch.

    Attributes:
        reconstruction: Site -> tensor of the shape of its input.
        features: Shape (..., feature).
        loss: Training loss, the sum of `terms`.
        terms: The parts of the loss by name.
    """

    reconstruction: dict[str, Tensor]
    features: Tensor
    loss: Tensor
    terms: dict[str, Tensor]


class Crosscoder(Coder):
    r"""Code several sites by shared features, each with a direction at every site.

    Pre-activations are $z = \sum_s W_{enc}^s (x^s - b_{dec}^s) + b_{enc}$ and $\hat x^s = b_{dec}^s
    + \sum_i f_i d_i^s$. The directions of a feature have unit norm together; `"relu"` pays
    $\lambda \sum_i f_i \sum_s \Vert d_i^s \Vert$, so that a feature that one site alone needs goes
    to that site alone. Every site has a scale of its own; features are in units between them.

    Args:
        dims: Site -> width of its activations.
        dictionary_size: Number of features F.
        sparsity_coefficient: As in `SparseAutoencoder`.
        activation: As in `SparseAutoencoder`.
        k: As in `SparseAutoencoder`.
        tied_init: As in `SparseAutoencoder`.
        matryoshka: As in `SparseAutoencoder`.
        target_l0: As in `SparseAutoencoder`.
        bandwidth: As in `SparseAutoencoder`.
        generator: As in `SparseAutoencoder`.

    Raises:
        ValueError: As `SparseAutoencoder`.

    Examples:
        >>> coder = Crosscoder({"early": 3, "late": 5}, dictionary_size=16)
        >>> output = coder({"early": torch.ones(2, 3), "late": torch.ones(2, 5)})
        >>> {site: tuple(x.shape) for site, x in output.reconstruction.items()}
        {'early': (2, 3), 'late': (2, 5)}
        >>> {site: tuple(rows.shape) for site, rows in coder.dictionaries.items()}
        {'early': (16, 3), 'late': (16, 5)}

    References:
        J. Lindsey et al. (2024). Sparse crosscoders for cross-layer features and model diffing.
        Transformer Circuits Thread.
    """

    def __init__(
        self,
        dims: Mapping[SiteLike, int],
        *,
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
            list(dims.values()),
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
        self.dims = {str(site): width for site, width in dims.items()}
        self.n_parts = len(self.dims)

    def _widths(self) -> dict[str, Any]:
        return {"dims": self.dims}

    def joined(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Input and target of training: all sites side by side."""
        together = torch.cat(list(parts), 1)
        return together, together

    def site_names(self, site: Any) -> list[str]:
        """Names of the sites to read; the coder's own when none are given."""
        return super().site_names(site) or list(self.dims)

    @property
    def dictionary(self) -> Tensor:
        """Directions of the features, the sites side by side, shape (feature, sum of widths)."""
        return self.W_dec

    @property
    def dictionaries(self) -> dict[str, Tensor]:
        """Directions of the features at each site, shape (feature, width)."""
        return dict(zip(self.dims, torch.split(self.W_dec, list(self.out_widths), 1), strict=True))

    def encode(self, x: Mapping[str, Tensor]) -> Tensor:
        """Features of the activations of all sites.

        Args:
            x: Site -> activations, shape (..., width), with the same leading shape.

        Returns:
            Shape (..., feature).

        Raises:
            TypeError: When an activation is not a floating-point tensor.
            ValueError: When a site is missing, or a shape does not fit.

        Examples:
            >>> coder = Crosscoder({"a": 1, "b": 1}, dictionary_size=4)
            >>> coder.encode({"a": torch.ones(3, 1), "b": torch.ones(3, 1)}).shape
            torch.Size([3, 4])
        """
        return features_of(self, self._side_by_side(x), "x")

    def encode_sparse(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Largest features, as `SparseAutoencoder.encode_sparse`.

        Args:
            x: Site -> activations, as in `encode`.

        Returns:
            Values and feature indices, both of shape (..., m).

        Raises:
            TypeError: When an activation is not a floating-point tensor.
            ValueError: When a site is missing, or a shape does not fit.

        Examples:
            >>> coder = Crosscoder({"a": 1, "b": 1}, dictionary_size=4, activation="topk", k=1)
            >>> coder.encode_sparse({"a": torch.ones(1), "b": torch.ones(1)})[1].shape
            torch.Size([1])
        """
        return strongest_of(self, self._side_by_side(x), "x")

    def decode(self, f: Tensor) -> dict[str, Tensor]:
        """Activations of every site from features.

        Args:
            f: Shape (..., feature).

        Returns:
            Site -> shape (..., width).

        Raises:
            TypeError: When `f` is not a floating-point tensor.
            ValueError: When it has another number of features.

        Examples:
            >>> coder = Crosscoder({"a": 1, "b": 2}, dictionary_size=4)
            >>> {site: x.tolist() for site, x in coder.decode(torch.zeros(4)).items()}
            {'a': [0.0], 'b': [0.0, 0.0]}
        """
        return self._apart(decoded_from(self, f))

    def forward(self, x: Mapping[str, Tensor]) -> CrosscoderOutput:
        """Code the activations of all sites and score the result.

        Args:
            x: Site -> activations, as in `encode`.

        Returns:
            Reconstructions, features and loss.

        Raises:
            TypeError: When an activation is not a floating-point tensor.
            ValueError: When a site is missing, or a shape does not fit.

        Examples:
            >>> coder = Crosscoder({"a": 1, "b": 2}, dictionary_size=4)
            >>> coder({"a": torch.zeros(5, 1), "b": torch.zeros(5, 2)}).terms["mse"].item()
            0.0
        """
        together = self._side_by_side(x)
        output = coded(self, together, together)
        return CrosscoderOutput(
            self._apart(output.reconstruction), output.features, output.loss, output.terms
        )

    def _side_by_side(self, x: Mapping[str, Tensor]) -> Tensor:
        missing = [site for site in self.dims if site not in x]
        if missing:
            raise ValueError(f"x needs the sites {list(self.dims)}, {missing} are missing")
        shapes = {site: tuple(x[site].shape) for site in self.dims}
        fits = all(shape[-1:] == (self.dims[site],) for site, shape in shapes.items())
        if not fits or len({shape[:-1] for shape in shapes.values()}) > 1:
            raise ValueError(
                f"x needs the same rows at every site and the widths {self.dims}, got {shapes}"
            )
        return torch.cat([x[site] for site in self.dims], -1)

    def _apart(self, together: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.dims, torch.split(together, list(self.out_widths), -1), strict=True))
