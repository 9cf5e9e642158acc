"""Which weights of a latent circuit are free, of which sign, and where they start."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_mechint._arrays import Number, one_of

__all__ = [
    "Activation",
    "Constraint",
    "Mask",
    "activation_named",
    "check_room",
    "check_sizes",
    "dale_constraint",
    "haar",
    "mask_constraint",
    "recurrent_start",
]

Mask: TypeAlias = Literal["diagonal"] | Tensor | None
_RADIUS = 0.9


class Activation(NamedTuple):
    """An elementwise nonlinearity and its derivative.

    Attributes:
        name: What it is called; "callable" for a function of the caller.
        function: The nonlinearity.
        derivative: Its derivative, of the same argument.
        homogeneous: Whether a positive factor passes through it.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    homogeneous: bool


def activation_named(activation: str | Callable[[Tensor], Tensor]) -> Activation:
    """The nonlinearity of a name, or of an elementwise function.

    Raises:
        ValueError: When the name is not known.
    """
    if not isinstance(activation, str):
        return Activation("callable", activation, _derivative_of(activation), homogeneous=False)
    one_of("activation", activation, ("relu", "tanh", "softplus", "identity"))
    return {
        "relu": Activation("relu", torch.relu, _relu_slope, homogeneous=True),
        "tanh": Activation("tanh", torch.tanh, _tanh_slope, homogeneous=False),
        "softplus": Activation(
            "softplus", torch.nn.functional.softplus, torch.sigmoid, homogeneous=False
        ),
        "identity": Activation("identity", torch.clone, torch.ones_like, homogeneous=True),
    }[activation]


def _relu_slope(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


def _tanh_slope(z: Tensor) -> Tensor:
    return 1 - z.tanh().square()


def _derivative_of(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def derivative(z: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
        return slope

    return derivative


class Constraint(NamedTuple):
    """Free entries of a weight, and the sign that they keep.

    Attributes:
        mask: True where an entry may differ from zero.
        sign: +1 or -1 where an entry keeps that sign, 0 where it may have either.
    """

    mask: Tensor
    sign: Tensor

    def apply(self, raw: Tensor) -> Tensor:
        """The weight that unconstrained numbers stand for; what obeys already stays."""
        return _constrained(raw, self.mask, self.sign)


def _constrained(
    raw: Float[Tensor, "*batch row column"],
    mask: Bool[Tensor, "row column"],
    sign: Float[Tensor, "row column"],
) -> Float[Tensor, "*batch row column"]:
    # Reflection, not clamping: a gradient step that overshoots zero is not stuck there.
    return torch.where(sign == 0, raw, sign * raw.abs()) * mask


def mask_constraint(
    name: str, mask: Mask, shape: tuple[int, int], diagonal: Bool[Tensor, "row column"]
) -> Constraint:
    """The constraint of `input_mask` or `output_mask`.

    Raises:
        TypeError: When a mask is no tensor of booleans.
        ValueError: When its shape is another.
    """
    free = torch.zeros(shape)
    if mask is None:
        return Constraint(torch.ones(shape, dtype=torch.bool), free)
    if isinstance(mask, str):
        one_of(name, mask, ("diagonal",))
        return Constraint(diagonal, diagonal.to(free.dtype))
    if getattr(mask, "dtype", None) != torch.bool:
        raise TypeError(
            f"{name} must be 'diagonal', None or a tensor of booleans, got "
            f"{getattr(mask, 'dtype', type(mask).__name__)}; write {name} != 0"
        )
    if mask.shape != shape:
        raise ValueError(f"{name} must be {shape}, got shape {tuple(mask.shape)}")
    return Constraint(mask.clone(), free)


def dale_constraint(n_latent: int, signs: Sequence[int] | Tensor | None) -> Constraint:
    """Column j keeps the sign `signs[j]`; by default 80 % of the columns are positive.

    Raises:
        ValueError: When the signs are not one +1 or -1 of each latent.
    """
    if signs is None:
        n_excitatory = round(0.8 * n_latent)
        given = torch.cat([torch.ones(n_excitatory), -torch.ones(n_latent - n_excitatory)])
    else:
        given = torch.as_tensor(signs).to(torch.get_default_dtype())
    if given.shape != (n_latent,) or bool((given.abs() != 1).any()):
        raise ValueError(
            f"dale_signs must hold +1 or -1 for each of the {n_latent} latents, got {signs}"
        )
    everywhere = torch.ones(n_latent, n_latent, dtype=torch.bool)
    return Constraint(everywhere, given.expand(n_latent, n_latent).clone())


def recurrent_start(
    n_restarts: int, constraint: Constraint, generator: torch.Generator | None
) -> Float[Tensor, "restart latent latent"]:
    """Dense weights of spectral radius 0.9 that obey their constraint."""
    n = constraint.mask.shape[0]
    raw = torch.randn(n_restarts, n, n, generator=generator)
    weight = constraint.apply(raw)
    # LAPACK may fail to converge on a matrix of zeros only, which has no radius to set.
    radius = torch.linalg.eigvals(weight).abs().amax(-1).to(weight.dtype)
    scaled: Tensor = weight * (_RADIUS / radius.clamp(min=1e-12))[:, None, None]
    return scaled


def haar(
    n_rows: int, n_columns: int, generator: torch.Generator | None, *, batch: int = 1
) -> Float[Tensor, "batch row column"]:
    """Orthonormal columns, uniform over all such matrices."""
    q, r = torch.linalg.qr(
        torch.randn(batch, n_rows, n_columns, generator=generator, dtype=torch.float64)
    )
    # The signs of R make the distribution invariant (Mezzadri 2007).
    drawn: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    return drawn


def check_sizes(
    n_latent: int, n_observed: int, n_inputs: int, n_outputs: int, alpha: Number
) -> None:
    """Refuse sizes that make no circuit.

    Raises:
        ValueError: When one is too small, or alpha leaves (0, 1].
    """
    for name, count, low in (
        ("n_latent", n_latent, 1), ("n_inputs", n_inputs, 1), ("n_outputs", n_outputs, 0),
    ):  # fmt: skip
        if count < low:
            raise ValueError(f"{name} must be at least {low}, got {count}")
    if not n_latent < n_observed:
        raise ValueError(
            f"n_latent must be smaller than n_observed, got {n_latent} nodes for {n_observed} units"
        )
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], got {alpha}")


def check_room(
    n_latent: int, n_inputs: int, n_outputs: int, input_mask: Mask, output_mask: Mask
) -> None:
    """Refuse diagonal masks that would meet on one node.

    Raises:
        ValueError: When there are fewer nodes than tagged channels.
    """
    wanted = [
        (n_inputs, "n_inputs", isinstance(input_mask, str)),
        (n_outputs, "n_outputs", isinstance(output_mask, str)),
    ]
    used = [(count, name) for count, name, diagonal in wanted if diagonal]
    if sum(count for count, _ in used) > n_latent:
        total = " + ".join(f"{name}={count}" for count, name in used)
        raise ValueError(
            f"diagonal masks need a node for every input and output, got {total} for "
            f"n_latent={n_latent}; raise n_latent or pass a mask"
        )
