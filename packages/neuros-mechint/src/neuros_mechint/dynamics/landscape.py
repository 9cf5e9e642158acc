"""The loss around the parameters of a model: paths, planes and curvature."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint._arrays import Number
from neuros_mechint.dynamics._landscape_hessian import hutch_plus_plus, lanczos
from neuros_mechint.dynamics._landscape_state import as_point, held, put

__all__ = ["HessianSpectrum", "LossLandscape", "LossPath", "LossPlane"]


class HessianSpectrum(NamedTuple):
    """Largest eigenvalues of the Hessian of the loss.

    Attributes:
        eigenvalues: (k,), descending.
        eigenvectors: (k, parameters), one unit vector per row, parameters in the model's order.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists.

        Returns:
            Field name -> value.

        Examples:
            >>> HessianSpectrum(torch.ones(1), torch.ones(1, 1)).to_dict()["eigenvalues"]
            [1.0]
        """
        return {name: value.tolist() for name, value in self._asdict().items()}


class LossPath(NamedTuple):
    """Loss on the line from one point to another.

    Attributes:
        alphas: 0 at the first point, 1 at the second, (points,).
        losses: (points,).
    """

    alphas: Tensor
    losses: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists.

        Returns:
            Field name -> value.

        Examples:
            >>> LossPath(torch.zeros(1), torch.ones(1)).to_dict()
            {'alphas': [0.0], 'losses': [1.0]}
        """
        return {name: value.tolist() for name, value in self._asdict().items()}


class LossPlane(NamedTuple):
    """Loss on a plane through the parameters.

    Attributes:
        alphas: Steps along both directions, (points,); 0 is the model.
        losses: (points, points), first direction first.
        directions: Two directions as name -> tensor.
    """

    alphas: Tensor
    losses: Tensor
    directions: tuple[dict[str, Tensor], dict[str, Tensor]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists; the directions are left out.

        Returns:
            Field name -> value.

        Examples:
            >>> LossPlane(torch.zeros(1), torch.ones(1, 1), ({}, {})).to_dict()
            {'alphas': [0.0], 'losses': [[1.0]]}
        """
        return {"alphas": self.alphas.tolist(), "losses": self.losses.tolist()}


class LossLandscape:
    r"""Look at the loss around the parameters of a model.

    Parameters, buffers, gradients and modes are the same bits after every call, also when the loss
    raises. Products with the Hessian are second derivatives, $H v = \nabla (\nabla L^T v)$.

    Args:
        model: Any module with floating-point parameters.
        loss_fn: Loss of the model, `loss_fn(model) -> scalar`, the same at every call.

    Raises:
        ValueError: When the model has no parameters.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> scale = torch.tensor([1.0, 3.0])
        >>> bowl = LossLandscape(model, lambda m: (m.weight.square() * scale).sum())
        >>> bowl.hessian_spectrum(2).eigenvalues.round(decimals=3)
        tensor([6., 2.])

    References:
        Li, H., Xu, Z., Taylor, G., Studer, C. & Goldstein, T. (2018). Visualizing the loss
        landscape of neural nets. NeurIPS 31. doi:10.48550/arXiv.1712.09913

        Meyer, R. A., Musco, C., Musco, C. & Woodruff, D. P. (2021). Hutch++: optimal stochastic
        trace estimation. SOSA, 142-155. doi:10.1137/1.9781611976496.16

        Frankle, J., Dziugaite, G. K., Roy, D. & Carbin, M. (2020). Linear mode connectivity and the
        lottery ticket hypothesis. ICML 37. doi:10.48550/arXiv.1912.05671
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[nn.Module], Tensor]) -> None:
        if next(model.parameters(), None) is None:
            raise ValueError(f"model needs parameters, {type(model).__name__} has none")
        self.model = model
        self.loss_fn = loss_fn

    def __repr__(self) -> str:
        return f"LossLandscape({type(self.model).__name__})"

    def interpolate(
        self, theta_a: Mapping[str, Tensor], theta_b: Mapping[str, Tensor], *, n: int = 11
    ) -> LossPath:
        """Measure the loss on the line between two points.

        Args:
            theta_a: Parameters by name, such as a state dict; its buffers are not used.
            theta_b: The other end.
            n: Number of points, both ends included.

        Returns:
            The path; both ends are exact.

        Raises:
            TypeError: When a point is no mapping.
            ValueError: When a point does not fit the model, n is below 2, or the loss is no scalar.
        """
        if n < 2:
            raise ValueError(f"n must be at least 2, got {n}")
        with held(self.model) as parameters, torch.no_grad():
            a = as_point("theta_a", theta_a, parameters)
            b = as_point("theta_b", theta_b, parameters)
            alphas = torch.linspace(0, 1, n)
            losses = []
            for alpha in alphas.tolist():
                put(parameters, {k: torch.lerp(a[k], b[k], alpha) for k in a})
                losses.append(self._loss().detach())
        return LossPath(alphas.to(losses[0]), torch.stack(losses))

    def barrier(
        self, theta_a: Mapping[str, Tensor], theta_b: Mapping[str, Tensor], *, n: int = 25
    ) -> Tensor:
        """Measure how far the loss rises above the line between its ends.

        Args:
            theta_a: Parameters by name.
            theta_b: The other end.
            n: Number of points, both ends included.

        Returns:
            Scalar; 0 for points that a line connects without a rise.

        Raises:
            TypeError: When a point is no mapping.
            ValueError: When a point does not fit the model, n is below 2, or the loss is no scalar.
        """
        alphas, losses = self.interpolate(theta_a, theta_b, n=n)
        return (losses - torch.lerp(losses[0], losses[-1], alphas)).max()

    def plane(
        self,
        n: int = 11,
        *,
        radius: Number = 1.0,
        filter_normalize: bool = True,
        generator: torch.Generator | None = None,
    ) -> LossPlane:
        """Measure the loss on a random plane through the model.

        Args:
            n: Points along each direction.
            radius: Largest step.
            filter_normalize: Whether every filter (first axis of a weight) of a direction gets the
                norm of that filter of the model, and biases and norms' scales stay; otherwise each
                direction has the norm of all parameters.
            generator: Source of the directions; None takes the one of torch.

        Returns:
            Losses on a square grid; n odd puts the model in its middle.

        Raises:
            ValueError: When n is below 2, the radius not positive, or the loss no scalar.
        """
        if n < 2 or not radius > 0:
            raise ValueError(f"plane needs n >= 2 and radius > 0, got n={n}, radius={radius}")
        with held(self.model) as parameters, torch.no_grad():
            here = {k: p.detach().clone() for k, p in parameters.items()}
            first, second = (
                _direction(here, generator, filter_normalize=filter_normalize) for _ in range(2)
            )
            alphas = torch.linspace(-1, 1, n) * radius
            losses = []
            for alpha in alphas.tolist():
                for beta in alphas.tolist():
                    moved = {k: v + alpha * first[k] + beta * second[k] for k, v in here.items()}
                    put(parameters, moved)
                    losses.append(self._loss().detach())
        grid = torch.stack(losses).view(n, n)
        return LossPlane(alphas.to(grid), grid, (first, second))

    def hessian_spectrum(
        self,
        k: int = 5,
        *,
        n_steps: int = 200,
        tol: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> HessianSpectrum:
        """Find the largest (algebraic) eigenvalues of the Hessian by the Lanczos method.

        Args:
            k: How many.
            n_steps: Most products with the Hessian.
            tol: Residual at which an eigenpair counts as found, over the largest eigenvalue.
            generator: Source of the starting vector; None takes the one of torch.

        Returns:
            Eigenvalues, descending, and their vectors.

        Raises:
            ValueError: When k is not between 1 and the number of parameters and of steps, or the
                loss is no scalar.
        """
        with held(self.model) as parameters:
            product, like = self._product(parameters)
            if not 1 <= k <= min(len(like), n_steps):
                raise ValueError(
                    f"k must be between 1 and {min(len(like), n_steps)}, the smaller of parameters "
                    f"and n_steps, got {k}"
                )
            start = torch.randn(
                len(like), generator=generator, dtype=like.dtype, device=like.device
            )
            return HessianSpectrum(*lanczos(product, start, k, n_steps, tol))

    def hessian_trace(
        self, *, n_products: int = 30, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the trace of the Hessian by Hutch++.

        Args:
            n_products: Products with the Hessian: a third each for the sketch, its range and the
                random signs beside it; exact once a third is the rank.
            generator: Source of the signs; None takes the one of torch.

        Returns:
            Scalar.

        Raises:
            ValueError: When `n_products` is below 3 or the loss is no scalar.
        """
        if n_products < 3:
            raise ValueError(f"n_products must be at least 3, got {n_products}")
        with held(self.model) as parameters:
            product, like = self._product(parameters)
            third = n_products // 3

            def signs(n_columns: int) -> Tensor:
                shape = (len(like), n_columns)
                drawn = torch.rand(shape, generator=generator, device=like.device)
                return torch.where(drawn < 0.5, -1.0, 1.0).to(like.dtype)

            return hutch_plus_plus(product, signs(min(third, len(like))), signs(third))

    def _loss(self) -> Tensor:
        # What a caller brings may return anything.
        loss: object = self.loss_fn(self.model)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn must return a scalar tensor, got {shape}")
        return loss.reshape(())

    def _product(
        self, parameters: Mapping[str, nn.Parameter]
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Product with the Hessian at the model, and the flat gradient."""
        wanted = [p for p in parameters.values() if p.requires_grad]
        gradients = torch.autograd.grad(
            self._loss(), wanted, create_graph=True, materialize_grads=True
        )
        flat = torch.cat([g.reshape(-1) for g in gradients])

        def product(vector: Tensor) -> Tensor:
            if not flat.requires_grad:
                return torch.zeros_like(vector)
            parts = torch.autograd.grad(
                flat @ vector, wanted, retain_graph=True, materialize_grads=True
            )
            return torch.cat([part.reshape(-1) for part in parts])

        return product, flat.detach()


def _direction(
    here: Mapping[str, Tensor], generator: torch.Generator | None, *, filter_normalize: bool
) -> dict[str, Tensor]:
    drawn = {
        k: torch.randn(v.shape, generator=generator, dtype=v.dtype, device=v.device)
        for k, v in here.items()
    }
    if not filter_normalize:
        size = torch.stack([v.square().sum() for v in here.values()]).sum().sqrt()
        length = torch.stack([d.square().sum() for d in drawn.values()]).sum().sqrt()
        return {k: d * size / length for k, d in drawn.items()}
    return {k: _normalized(d, here[k]) for k, d in drawn.items()}


def _normalized(direction: Tensor, value: Tensor) -> Tensor:
    if value.ndim < 2:
        return torch.zeros_like(direction)
    axes = tuple(range(1, value.ndim))
    size = value.square().sum(axes, keepdim=True).sqrt()
    return direction * size / direction.square().sum(axes, keepdim=True).sqrt()
