"""Causal mediation: how much of an effect passes through chosen activations."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint.activations import Edit, Site, SiteLike, Zero, intervene
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.site import as_site
from neuros_mechint.interventions.metrics import Metric
from neuros_mechint.interventions.patching import ActivationPatcher

__all__ = ["CausalMediation", "Effects"]


class Effects(NamedTuple):
    """Effects of changing the input of a model.

    Attributes:
        total: Of the whole change.
        natural_direct: Of the change with the mediators held as they were before it.
        natural_indirect: Of the mediators changing alone.
        controlled_direct: Of the change with the mediators held at a fixed level.
    """

    total: Tensor
    natural_direct: Tensor
    natural_indirect: Tensor
    controlled_direct: Tensor


class CausalMediation:
    r"""Total, direct and indirect effects of an input change, with activations as mediators.

    With $Y_{x,m}$ the metric of a run on input x with the mediators at m, and $M_x$ what the
    mediators are on x:

    $$TE = Y_{x'} - Y_x \quad NDE = Y_{x', M_x} - Y_x \quad NIE = Y_{x, M_{x'}} - Y_x \quad
    CDE(m) = Y_{x', m} - Y_{x, m}$$

    In a linear model TE = NDE + NIE; elsewhere the difference is the interaction of the two paths.

    Args:
        model: Any module.

    Examples:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
        >>> _ = nn.init.constant_(net[0].weight, 2.0)
        >>> x, x_cf = torch.zeros(1, 1), torch.ones(1, 1)
        >>> effects = CausalMediation(net).effects(x, x_cf, ["0"], lambda y: y[:, 0])
        >>> float(effects.total), float(effects.natural_direct), float(effects.natural_indirect)
        (2.0, 0.0, 2.0)

    References:
        Pearl, J. (2001). Direct and indirect effects. UAI 17, 411-420.
        doi:10.48550/arXiv.1301.2300
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._patcher = ActivationPatcher(model)

    def __repr__(self) -> str:
        return f"CausalMediation({type(self.model).__name__})"

    def effects(
        self,
        x: Any,
        x_cf: Any,
        mediators: SiteLike | Iterable[SiteLike],
        metric: Metric,
        *,
        level: Edit | Mapping[SiteLike, Edit] | None = None,
        per_row: bool = False,
    ) -> Effects:
        """Compare runs of the model, without gradient.

        Args:
            x: Input before the change, given as for `ActivationPatcher`.
            x_cf: Input after it, same shapes at the mediators.
            mediators: Sites; held together.
            metric: Function of an output, one value per row or a scalar.
            level: What holds the mediators for the controlled direct effect: one edit for all, or
                site -> edit; None sets them to zero.
            per_row: Keep one effect per row instead of the mean over rows.

        Returns:
            Scalars, or with `per_row` the shape of the metric.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a mediator was not reached.
            TypeError: When the metric returns no tensor.
            ValueError: When there is no mediator, `level` names other sites than the mediators, or
                the shapes of the two runs differ at one.

        Examples:
                >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
            >>> x, x_cf = torch.zeros(3, 2), torch.ones(3, 2)
            >>> effects = CausalMediation(net).effects(x, x_cf, "0", lambda y: y, per_row=True)
            >>> effects.total.shape, bool((effects.total == effects.natural_indirect).all())
            (torch.Size([3, 1]), True)
        """
        sites = self._sites(mediators)
        held = _held(self.model, sites, level)

        def value(output: Any) -> Tensor:
            measured = metric(output)
            if not isinstance(measured, Tensor):
                raise TypeError(f"metric needs to return a tensor, got {type(measured).__name__}")
            return measured if per_row else measured.mean()

        with torch.no_grad():
            before = value(self._run(x))
            return Effects(
                total=value(self._run(x_cf)) - before,
                natural_direct=value(self._patcher.patch(x, x_cf, sites).output) - before,
                natural_indirect=value(self._patcher.patch(x_cf, x, sites).output) - before,
                controlled_direct=value(self._run(x_cf, held)) - value(self._run(x, held)),
            )

    def _sites(self, given: SiteLike | Iterable[SiteLike]) -> list[Site]:
        # An nn.Sequential is one site, although it can be iterated.
        several = [given] if isinstance(given, (str, Site, nn.Module)) else given
        found = [as_site(self.model, like) for like in several]
        if not found:
            raise ValueError("mediators needs at least one site, got none")
        return found

    def _run(self, inputs: Any, edits: Mapping[SiteLike, Edit] | None = None) -> Any:
        args, kwargs = call_arguments(self.model, inputs)
        with preserved(self.model), intervene(self.model, edits):
            return self.model(*args, **kwargs)


def _held(
    model: nn.Module, sites: list[Site], level: Edit | Mapping[SiteLike, Edit] | None
) -> dict[SiteLike, Edit]:
    if not isinstance(level, Mapping):
        edit = Zero() if level is None else level
        return dict.fromkeys(sites, edit)
    given: dict[SiteLike, Edit] = {as_site(model, like): edit for like, edit in level.items()}
    if set(given) != set(sites):
        raise ValueError(
            f"level needs an edit for each of the mediators {[str(s) for s in sites]}, "
            f"got {[str(s) for s in given]}"
        )
    return given
