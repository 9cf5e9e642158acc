"""Structural causal models with additive noise, and their exact counterfactuals."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from neuros_mechint.interventions._graph_rules import Values, broadcast, sorted_nodes
from neuros_mechint.interventions._linear_gaussian import check_possible, posterior_noise

__all__ = ["StructuralCausalModel"]

Equation = Callable[..., Tensor | float]
Sampler = Callable[[int, torch.Generator], Tensor]


class StructuralCausalModel:
    r"""Equations $v = f_v(\mathrm{parents}) + u_v$ with independent noise.

    Args:
        equations: Variable -> function whose parameters are named after its parents; a variable
            without parents has a function without parameters. Functions get tensors of any one
            shape and work elementwise.
        noise: Variable -> standard deviation of Gaussian noise, or a function
            `(n_samples, generator) -> Tensor` of shape (n_samples,); variables that are left out
            have none.

    Raises:
        ValueError: When a parent or a noise belongs to no variable, a standard deviation is
            negative or not finite, or the equations close a cycle.

    Examples:
        >>> model = StructuralCausalModel(
        ...     {"x": lambda: 0.0, "y": lambda x: 2.0 * x}, {"x": 1.0, "y": 1.0}
        ... )
        >>> model.counterfactual({"x": 1.0, "y": 5.0}, do={"x": 0.0})["y"]
        tensor(3., dtype=torch.float64)

    References:
        Pearl, J. (2009). Causality: Models, Reasoning, and Inference, 2nd ed., section 7.1.
        Cambridge University Press. doi:10.1017/CBO9780511803161
    """

    def __init__(
        self, equations: Mapping[str, Equation], noise: Mapping[str, float | Sampler]
    ) -> None:
        self.equations = MappingProxyType(dict(equations))
        self.noise = MappingProxyType({name: s for name, s in noise.items() if s != 0.0})
        self.parents = {name: _parameters(name, f) for name, f in equations.items()}
        _check(self.parents, noise)
        weights = {name: dict.fromkeys(sources, 1.0) for name, sources in self.parents.items()}
        self.order = sorted_nodes(weights)
        self.held: Mapping[str, Values] = MappingProxyType({})

    def __repr__(self) -> str:
        terms = [f"{name}({', '.join(self.parents[name])})" for name in self.equations]
        return f"StructuralCausalModel({'; '.join(terms)})"

    def do(self, interventions: Mapping[str, Values]) -> "StructuralCausalModel":
        """Model in which variables are set from outside.

        Args:
            interventions: Variable -> value: a number, or one per sample.

        Returns:
            A model in which they have no parents and no noise.

        Raises:
            KeyError: When there is no such variable.

        Examples:
            >>> equations = {"x": lambda: 0.0, "y": lambda x: 2.0 * x}
            >>> model = StructuralCausalModel(equations, {"x": 1.0})
            >>> model.do({"x": 3.0}).sample(2, torch.Generator())["y"]
            tensor([6., 6.], dtype=torch.float64)
        """
        self._known(interventions)
        held = {**self.held, **interventions}
        equations = {n: _constant if n in held else f for n, f in self.equations.items()}
        noise = {n: source for n, source in self.noise.items() if n not in held}
        changed = StructuralCausalModel(equations, noise)
        changed.held = MappingProxyType(held)
        return changed

    def sample(self, n_samples: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw independent samples of all variables.

        Args:
            n_samples: How many.
            generator: Source of the noise.

        Returns:
            Variable -> shape (n_samples,), float64.

        Raises:
            ValueError: When `n_samples` is not positive, or a noise function or an intervention
                gives another shape.

        Examples:
            >>> model = StructuralCausalModel({"x": lambda: 1.0}, {})
            >>> model.sample(2, torch.Generator())
            {'x': tensor([1., 1.], dtype=torch.float64)}
        """
        if n_samples < 1:
            raise ValueError(f"n_samples needs at least 1, got {n_samples}")
        # In the order of the equations, so that a renamed variable draws the same numbers.
        noise = {
            name: _draw(name, self.noise[name], n_samples, generator)
            for name in self.equations
            if name in self.noise
        }
        values = _propagate(self, noise, torch.zeros(n_samples, dtype=torch.float64))
        _check_shapes(values, n_samples)
        return values

    def counterfactual(
        self, evidence: Mapping[str, Values], do: Mapping[str, Values]
    ) -> dict[str, Tensor]:
        r"""What the variables would have been, had some been set, given what was observed.

        Abduction: the noise is what the equations leave unexplained, $u_v = v - f_v$. Action and
        prediction: the equations are run again with that noise and with `do`. Exact when every
        noisy variable was observed. When one was not, the answer is the expectation given the
        evidence, which is exact for affine equations with Gaussian noise and refused otherwise.

        Args:
            evidence: Variable -> observed value: a number, or one per case.
            do: Variable -> value that it is set to.

        Returns:
            Variable -> value in float64, in the shape that the given values broadcast to.

        Raises:
            KeyError: When there is no such variable.
            ValueError: When the evidence has probability zero, or leaves out a noisy variable of a
                model that is not affine with Gaussian noise.

        Examples:
            >>> model = StructuralCausalModel(
            ...     {"x": lambda: 0.0, "y": lambda x: x.square()}, {"x": 1.0, "y": 1.0}
            ... )
            >>> float(model.counterfactual({"x": 2.0, "y": 5.0}, do={"x": 3.0})["y"])
            10.0
        """
        self._known([*evidence, *do])
        # A variable may be observed and set: its two values broadcast with all others.
        given, zero = broadcast(_labelled(observed=evidence, set=do, held=self.held))
        observed = {name: given[f"observed {name}"] + zero for name in evidence}
        noise = _abduct(self, observed, zero)
        return _propagate(self.do(do), noise, zero)

    def _known(self, names: Mapping[str, Values] | list[str]) -> None:
        for name in names:
            if name not in self.equations:
                raise KeyError(f"no variable '{name}' in the model; it has {list(self.equations)}")


def _abduct(
    model: StructuralCausalModel, observed: Mapping[str, Tensor], zero: Tensor
) -> dict[str, Tensor]:
    if any(name not in observed for name in model.noise):
        stds = {name: std for name, std in model.noise.items() if isinstance(std, (int, float))}
        if len(stds) < len(model.noise):
            missing = [name for name in model.noise if name not in observed]
            raise ValueError(
                f"evidence needs every noisy variable of a model whose noise is not Gaussian, "
                f"{missing} missing"
            )
        return posterior_noise(functools.partial(_propagate, model), stds, observed, zero)
    values = dict(observed)
    for name in model.order:
        values.setdefault(name, zero + _predict(model, name, values))
    noise = {name: values[name] - _predict(model, name, values) for name in model.noise}
    check_possible(observed, _propagate(model, noise, zero))
    return noise


def _predict(
    model: StructuralCausalModel, name: str, values: Mapping[str, Tensor]
) -> Tensor | float:
    """What the equation says, without noise."""
    if name in model.held:
        return broadcast({name: model.held[name]})[0][name]
    return model.equations[name](*(values[parent] for parent in model.parents[name]))


def _propagate(
    model: StructuralCausalModel, noise: Mapping[str, Tensor], zero: Tensor
) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    for name in model.order:
        values[name] = zero + _predict(model, name, values)
        if name in noise and name in model.noise:
            values[name] = values[name] + noise[name]
    return {name: values[name] for name in model.equations}


def _constant() -> float:
    return 0.0


def _parameters(name: str, equation: Equation) -> tuple[str, ...]:
    """Names of the parents; a parameter with a default is the equation's own."""
    found = []
    for parameter in inspect.signature(equation).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise ValueError(f"the equation of '{name}' needs named parents, got {parameter}")
        if parameter.default is parameter.empty:
            found.append(parameter.name)
    return tuple(found)


def _check(parents: Mapping[str, tuple[str, ...]], noise: Mapping[str, float | Sampler]) -> None:
    for name, sources in parents.items():
        for source in sources:
            if source not in parents:
                raise ValueError(
                    f"the equation of '{name}' reads '{source}', which has no equation; give a "
                    "default to a parameter that is no variable"
                )
    for name, std in noise.items():
        if name not in parents:
            raise ValueError(f"noise is given for '{name}', which has no equation")
        if not callable(std) and not 0 <= std < math.inf:
            raise ValueError(f"noise of '{name}' needs a standard deviation >= 0, got {std}")


def _draw(name: str, source: float | Sampler, n_samples: int, generator: torch.Generator) -> Tensor:
    if not callable(source):
        return source * torch.randn(n_samples, generator=generator, dtype=torch.float64)
    drawn = source(n_samples, generator)
    if drawn.shape != (n_samples,):
        raise ValueError(
            f"noise of '{name}' needs shape ({n_samples},), its function gave {tuple(drawn.shape)}"
        )
    return drawn


def _check_shapes(values: Mapping[str, Tensor], n_samples: int) -> None:
    for name, value in values.items():
        if value.shape != (n_samples,):
            raise ValueError(
                f"'{name}' needs shape ({n_samples},), its equation or intervention gives "
                f"{tuple(value.shape)}"
            )


def _labelled(**groups: Mapping[str, Values]) -> dict[str, Values]:
    return {f"{kind} {name}": v for kind, given in groups.items() for name, v in given.items()}
