"""Abduction in affine models with Gaussian noise when some variables were not observed."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["check_possible", "posterior_noise"]

Propagate = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]


def posterior_noise(
    propagate: Propagate,
    stds: Mapping[str, float],
    observed: Mapping[str, Tensor],
    zero: Tensor,
) -> dict[str, Tensor]:
    r"""Expectation of the noise given the evidence.

    With $v = c + A z$, $z \sim N(0, 1)$ and the rows of the evidence observed without error, it is
    $E[z] = A_E^+ (v_E - c_E)$.

    Raises:
        ValueError: When the model is not affine, or the evidence has probability zero.
    """
    offset = propagate({}, zero)
    columns = [propagate({name: zero + std}, zero) for name, std in stds.items()]
    A = torch.stack(
        [torch.stack([column[v] - offset[v] for v in offset], dim=-1) for column in columns], dim=-1
    )
    c = torch.stack([*offset.values()], dim=-1)
    _check_affine(propagate, stds, A, c)
    rows = [list(offset).index(name) for name in observed]
    v = torch.stack([*observed.values()], dim=-1) if observed else c[..., :0]
    z = torch.linalg.pinv(A[..., rows, :]) @ (v - c[..., rows])[..., None]
    noise = {name: std * z[..., k, 0] for k, (name, std) in enumerate(stds.items())}
    check_possible(observed, propagate(noise, zero))
    return noise


def check_possible(observed: Mapping[str, Tensor], explained: Mapping[str, Tensor]) -> None:
    """Refuse evidence that the equations cannot produce.

    Raises:
        ValueError: Naming the variable.
    """
    for name, value in observed.items():
        if not torch.allclose(value, explained[name], rtol=1e-8, atol=1e-8):
            raise ValueError(
                f"the evidence has probability zero: nothing makes '{name}' {value.tolist()}, the "
                f"equations give {explained[name].tolist()}"
            )


def _check_affine(
    propagate: Propagate,
    stds: Mapping[str, float],
    A: Float[Tensor, "*case variable noise"],
    c: Float[Tensor, "*case variable"],
) -> None:
    # One probe of either sign: an even term shows at both, a kink at zero at one of them.
    for size in (1.7, -2.3):
        z = [size * math.cos(k + 1.0) for k in range(len(stds))]
        noise = {n: c[..., 0] * 0 + u * std for u, (n, std) in zip(z, stds.items(), strict=True)}
        found = torch.stack([*propagate(noise, c[..., 0] * 0).values()], dim=-1)
        if not torch.allclose(found, c + A @ torch.tensor(z, dtype=A.dtype), rtol=1e-8, atol=1e-8):
            raise ValueError(
                "evidence needs every noisy variable of a model whose equations are not affine"
            )
