"""Virtual lesions: damage to activations or weights that can be undone to the last bit."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from neuros_mechint.activations import SiteLike, intervene
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.site import as_site, find_module
from neuros_mechint.interventions._ablation_engine import AblationResult
from neuros_mechint.interventions._lesioning import (
    LESION_KINDS,
    ActivationEdit,
    Damage,
    WeightLesion,
    lesioned_parameters,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["VirtualLesion"]

_LEVELS = ("activation", "weight")


@final
class VirtualLesion:
    r"""Damage a part of a model for the length of a `with` block, or from `apply` to `restore`.

    With severity $s$, a value $x$ of an affected unit or weight becomes

    | kind | value | severity |
    | --- | --- | --- |
    | `zero` | $(1 - s) x$, exactly 0 at $s = 1$ | 0 to 1 |
    | `scale` | $(1 - s) x$ | any; below 0 it is a gain |
    | `noise` | $x + s \, r \, \epsilon$, $\epsilon$ standard normal | from 0 |
    | `mean` | $x + s (\bar x - x)$ | 0 to 1 |

    At the level of activations a share `fraction` of the units (cells) is damaged in every forward;
    the root mean square $r$ belongs to the row, the mean $\bar x$ to the unit, over all rows and
    positions of the forward. At the level of weights a share of the single weights (synapses) of
    the module is damaged in place; $r$ and $\bar x$ belong to the parameter tensor. The parameters
    stay the same objects, so an optimizer keeps them; what happens to those weights during the
    lesion, training included, is undone with it.

    One object is one lesion: it hits the same units or weights every time, a larger fraction of the
    same seed includes a smaller one, and its noise is the same in every application. Lesions nest.

    Args:
        model: Any module.
        target: Site of the activation; at the level of weights the path of a module, whose
            parameters are all meant, or of one parameter (`"layer.weight"`).
        kind: What the damage is, see above.
        severity: How strong it is.
        fraction: Share of the units or weights that are hit, in (0, 1].
        level: `"activation"` or `"weight"`.
        unit_axis: Axis of the units of an activation: -1 for (batch, time, unit), 1 for
            convolutions.
        generator: Draws the affected ones and the noise, on the CPU; needed for `kind="noise"` and
            for `fraction` below 1.

    Raises:
        KeyError: When the path names nothing.
        TypeError: When the target is no site.
        ValueError: When an argument is out of range, the generator is missing, or the target has no
            weights.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> x = torch.ones(1, 2)
        >>> before = net(x)
        >>> with VirtualLesion(net, "0"):
        ...     lesioned = net(x)
        >>> lesioned.abs().sum().item(), torch.equal(net(x), before)
        (0.0, True)

    References:
        Tuladhar, A., Moore, J. A., Ismail, Z. & Forkert, N. D. (2021). Modeling neurodegeneration
        in silico with deep learning. Frontiers in Neuroinformatics 15.
        doi:10.3389/fninf.2021.748370
    """

    def __init__(
        self,
        model: nn.Module,
        target: SiteLike,
        *,
        kind: str = "zero",
        severity: float = 1.0,
        fraction: float = 1.0,
        level: str = "activation",
        unit_axis: int = -1,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_choice("kind", kind, LESION_KINDS)
        _check_choice("level", level, _LEVELS)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction needs a share above 0 and up to 1, got {fraction}")
        if level == "weight" and unit_axis != -1:
            raise ValueError("unit_axis belongs to level='activation'; weights are hit singly")
        random = kind == "noise" or fraction < 1
        if random and generator is None:
            raise ValueError(
                f"kind={kind!r} with fraction={fraction} is drawn and needs a generator; pass "
                "generator=torch.Generator().manual_seed(0)"
            )
        self.model = model
        self.kind = kind
        self.severity = severity
        self.fraction = fraction
        self.level = level
        self._damage = Damage(kind, severity)
        self._site = as_site(model, target)
        self._unit_axis = unit_axis
        self._seeds = _draw_seeds(generator) if random else (0, 0)
        self._active: AbstractContextManager[object] | None = None
        if level == "weight":
            lesioned_parameters(model, self._site)
        else:
            find_module(model, self._site)

    def __repr__(self) -> str:
        return (
            f"VirtualLesion({type(self.model).__name__}, '{self._site}', kind={self.kind!r}, "
            f"severity={self.severity}, fraction={self.fraction}, level={self.level!r})"
        )

    def __enter__(self) -> "VirtualLesion":
        self.apply()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(kind, error, traceback)

    @property
    def applied(self) -> bool:
        """Whether the lesion is in place."""
        return self._active is not None

    def apply(self) -> None:
        """Put the lesion in place until `restore`.

        Raises:
            RuntimeError: When it is in place already.

        Examples:
            >>> net = nn.Sequential(nn.Linear(2, 2))
            >>> lesion = VirtualLesion(net, "0.bias", level="weight")
            >>> lesion.apply()
            >>> net[0].bias.tolist(), lesion.applied
            ([0.0, 0.0], True)
            >>> lesion.restore()
        """
        if self._active is not None:
            raise RuntimeError(f"{self!r} is in place already; restore it first")
        lesion = self._lesion(self._damage)
        lesion.__enter__()
        self._active = lesion

    def restore(self) -> None:
        """Take the lesion away; weights get their bits back.

        Raises:
            RuntimeError: When it is not in place, when a later lesion of the same weights still is,
                or when the model did not reach the damaged activation in between.

        Examples:
            >>> net = nn.Sequential(nn.Linear(2, 2))
            >>> bias = net[0].bias.tolist()
            >>> lesion = VirtualLesion(net, "0", kind="scale", severity=0.5, level="weight")
            >>> lesion.apply()
            >>> lesion.restore()
            >>> net[0].bias.tolist() == bias
            True
        """
        self._end(None, None, None)

    def dose_response(
        self,
        severities: Iterable[float],
        metric: Callable[[Any], Tensor | float],
        *,
        inputs: Any = None,
    ) -> "pd.DataFrame":
        """Measure a metric over severities, with the same units, weights and noise at each.

        Args:
            severities: The doses.
            metric: Function of the model, such as its accuracy on held-out data; with `inputs`
                function of the model's output. A tensor is averaged.
            inputs: A tuple of positional arguments, a mapping whose every key names a parameter of
                the forward, or else the one argument; run without gradient.

        Returns:
            One row per severity with the columns severity, value (the metric), effect (value minus
            that of the healthy model) and relative_change (effect over the absolute healthy value,
            NaN where that is 0).

        Raises:
            RuntimeError: When the lesion is in place, or the metric does not reach the activation.
            TypeError: When the metric returns no number.
            ValueError: When a severity is out of range.

        Examples:
            >>> net = nn.Sequential(nn.Identity())
            >>> doses = VirtualLesion(net, "0").dose_response(
            ...     [0.0, 0.25, 1.0], lambda y: y.sum(-1), inputs=torch.ones(1, 4)
            ... )
            >>> doses["value"].tolist()
            [4.0, 3.0, 0.0]
        """
        import pandas as pd

        if self._active is not None:
            raise RuntimeError(f"{self!r} is in place; restore it before a dose-response curve")
        doses = [Damage(self.kind, severity) for severity in severities]
        healthy = self._score(metric, inputs)
        rows = []
        for dose in doses:
            with self._lesion(dose):
                value = self._score(metric, inputs)
            result = AblationResult.compare("", baseline=healthy, ablated=value)
            rows.append((dose.severity, value, result.delta, result.relative_change))
        return pd.DataFrame(rows, columns=["severity", "value", "effect", "relative_change"])

    def _lesion(self, damage: Damage) -> AbstractContextManager[object]:
        if self.level == "weight":
            parameters = lesioned_parameters(self.model, self._site)
            return WeightLesion(parameters, damage, fraction=self.fraction, seeds=self._seeds)
        edit = ActivationEdit(
            damage, fraction=self.fraction, unit_axis=self._unit_axis, seeds=self._seeds
        )
        return intervene(self.model, {self._site: edit})

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lesion = self._active
        if lesion is None:
            raise RuntimeError(f"{self!r} is not in place; apply it first")
        if isinstance(lesion, WeightLesion):
            lesion.require_last()
        self._active = None
        lesion.__exit__(kind, error, traceback)

    def _score(self, metric: Callable[[Any], Tensor | float], inputs: Any) -> float:
        if inputs is None:
            with preserved(self.model):
                return _number(metric(self.model))
        args, kwargs = call_arguments(self.model, inputs)
        with preserved(self.model), torch.no_grad():
            return _number(metric(self.model(*args, **kwargs)))


def _check_choice(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"{name} needs one of {', '.join(known)}, got {given!r}")


def _draw_seeds(generator: torch.Generator | None) -> tuple[int, int]:
    """Seeds of the choice and of the noise, so that each can be drawn again."""
    first, second = torch.randint(2**62, (2,), generator=generator).tolist()
    return first, second


def _number(value: object) -> float:
    if isinstance(value, Tensor):
        return float(value.detach().double().mean())
    if isinstance(value, int | float):
        return float(value)
    raise TypeError(f"metric needs to return a tensor or a number, got {type(value).__name__}")
