"""A domain classifier that the features are trained against, through a reversed gradient."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

__all__ = ["DomainDiscriminator", "GradientReversal", "reversal_schedule"]


def reversal_schedule(progress: float) -> float:
    r"""Strength of the reversal after a share of the training.

    $\lambda(p) = 2 / (1 + e^{-10 p}) - 1$: 0 at the start, where the classifier knows nothing, and
    nearly 1 at the end.

    Args:
        progress: Share of the training that is done, 0 to 1.

    Returns:
        $\lambda$ in [0, 1).

    Raises:
        ValueError: A progress outside [0, 1].

    Examples:
        >>> reversal_schedule(0.0), round(reversal_schedule(0.5), 4)
        (0.0, 0.9866)

    References:
        Ganin, Y. et al. (2016). Domain-adversarial training of neural networks. JMLR 17.
        https://doi.org/10.48550/arXiv.1505.07818
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress must lie in [0, 1], got {progress}")
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0


class GradientReversal(nn.Module):
    r"""Identity whose gradient is $-\lambda g$.

    What comes before it climbs the loss that what comes after it descends. $\lambda$ scales the
    gradient of the features alone: the modules after the reversal learn at full strength whatever
    it is. It is a buffer, so it is saved and resumed with the model.

    Args:
        lambd: $\lambda$ >= 0.

    Raises:
        ValueError: A $\lambda$ that is negative or not finite.

    Examples:
        >>> import torch
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> GradientReversal(lambd=0.5)(x).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])

    References:
        Ganin, Y. et al. (2016). Domain-adversarial training of neural networks. JMLR 17.
        https://doi.org/10.48550/arXiv.1505.07818
    """

    lambd: Tensor

    def __init__(self, lambd: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("lambd", torch.tensor(_checked(lambd)))

    def extra_repr(self) -> str:
        """Strength for `repr`."""
        return f"lambd={float(self.lambd):g}"

    def set_lambda(self, lambd: float) -> None:
        r"""Changes $\lambda$ for the calls to come.

        Args:
            lambd: $\lambda$ >= 0.

        Raises:
            ValueError: A $\lambda$ that is negative or not finite.
        """
        # A new tensor: one that a pending backward pass has saved must keep its value.
        self.lambd = torch.full_like(self.lambd, _checked(lambd))

    def forward(self, x: Tensor, lambd: float | None = None) -> Tensor:
        r"""The input itself.

        Args:
            x: Features of any shape.
            lambd: $\lambda$ of this call; None: the module's own.

        Returns:
            `x`.

        Raises:
            ValueError: A $\lambda$ that is negative or not finite.
        """
        strength = self.lambd if lambd is None else torch.full_like(self.lambd, _checked(lambd))
        # torch does not annotate `apply`.
        reverse = cast("Callable[[Tensor, Tensor], Tensor]", _Reverse.apply)
        return reverse(x, strength)


def _checked(lambd: float) -> float:
    if not (math.isfinite(lambd) and lambd >= 0):
        raise ValueError(f"lambd must be finite and >= 0, got {lambd}; the sign is reversed here")
    return float(lambd)


class _Reverse(Function):
    @staticmethod
    def forward(x: Tensor, lambd: Tensor) -> Tensor:
        del lambd
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        del output
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (lambd,) = ctx.saved_tensors
        return -lambd.to(grads[0].dtype) * grads[0], None


class DomainDiscriminator(nn.Module):
    """Classifier of the domain (a species, a laboratory) that a feature vector comes from.

    A perceptron with two hidden layers. It knows nothing of reversal: put a `GradientReversal`
    before it.

    Args:
        dim: Width of the features.
        n_domains: Number of domains.
        hidden: Width of the hidden layers.

    Raises:
        ValueError: Fewer than 2 domains.

    Examples:
        >>> import torch
        >>> DomainDiscriminator(8, n_domains=3)(torch.randn(5, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(self, dim: int, n_domains: int = 3, *, hidden: int = 128) -> None:
        super().__init__()
        if n_domains < 2:
            raise ValueError(f"n_domains must be >= 2 to be told apart, got {n_domains}")
        self.n_domains = n_domains
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, n_domains),
        )

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch domain"]:
        """The logits of the domains.

        Args:
            x: One feature vector per row, (batch, dim).

        Returns:
            (batch, n_domains).
        """
        logits: Tensor = self.layers(x)
        return logits
