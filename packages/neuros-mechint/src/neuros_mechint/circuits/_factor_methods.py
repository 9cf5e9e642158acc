"""Four ways to write activity as a few factors, each with the same two questions to ask of it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.circuits.dunl import DUNLModel

__all__ = ["METHODS", "Decomposition", "Fitted"]


class Fitted(NamedTuple):
    """Factors, and what becomes of other activity.

    Attributes:
        factors: (factors, channels), or (factors, taps) for DUNL.
        apply: Scores and reconstruction of activity (trials, time, channels).
    """

    factors: Tensor
    apply: Callable[[Tensor], tuple[Tensor, Tensor]]


Decomposition = Callable[[Tensor, int, torch.Generator | None, int], Fitted]


def _pca(
    activity: Float[Tensor, "trial time channel"], n: int, generator: object, taps: int
) -> Fitted:
    """Principal axes, by the singular values of the centred samples."""
    del generator, taps
    samples = activity.flatten(0, 1)
    mean = samples.mean(0)
    axes = torch.linalg.svd(samples - mean, full_matrices=False).Vh[:n]

    def apply(other: Tensor) -> tuple[Tensor, Tensor]:
        scores = (other - mean) @ axes.T
        return scores, scores @ axes + mean

    return Fitted(axes, apply)


def _sklearn(name: str) -> Decomposition:
    def fit(activity: Tensor, n: int, generator: torch.Generator | None, taps: int) -> Fitted:
        del taps
        from sklearn import decomposition

        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        settings = {"FastICA": {"whiten": "unit-variance", "max_iter": 1000, "tol": 1e-4}}
        settings["NMF"] = {"init": "nndsvda", "max_iter": 2000}
        made = getattr(decomposition, name)(n, random_state=seed, **settings[name])
        made.fit(activity.flatten(0, 1).cpu().double().numpy())
        # What mixes the sources are the factors: columns of the mixing matrix, rows of NMF's H.
        factors = made.components_ if name == "NMF" else made.mixing_.T

        def apply(other: Tensor) -> tuple[Tensor, Tensor]:
            scores = made.transform(other.flatten(0, 1).cpu().double().numpy())
            back = torch.as_tensor(made.inverse_transform(scores)).to(other)
            shape = other.shape[:2]
            return torch.as_tensor(scores).to(other).reshape(*shape, -1), back.reshape(other.shape)

        return Fitted(torch.as_tensor(factors).to(activity), apply)

    return fit


def _dunl(
    activity: Float[Tensor, "trial time channel"],
    n: int,
    generator: torch.Generator | None,
    taps: int,
) -> Fitted:
    """Kernels in time that all channels share, with sparse codes of either sign."""
    signals = activity.mT
    # Second differences of noise have 6 times its variance.
    noise = float((1.4826 * signals.diff(n=2, dim=-1).abs().median()).square() / 6) ** 0.5
    model = DUNLModel(
        signals.shape[1], n, kernel_length=taps, sparsity=3 * noise, nonneg_codes=False,
        n_iterations=60, generator=generator,
    ).to(activity)  # fmt: skip
    model.fit(signals, n_epochs=8, generator=generator)

    def apply(other: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            found = model(other.mT)
        return found.codes.permute(0, 3, 1, 2).flatten(2), found.reconstruction.mT

    return Fitted(model.extract_factors(), apply)


METHODS: Mapping[str, Decomposition] = MappingProxyType(
    {"pca": _pca, "ica": _sklearn("FastICA"), "nmf": _sklearn("NMF"), "dunl": _dunl}
)
