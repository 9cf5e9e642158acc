"""How much of a change of the output each input, or each part of an activation, accounts for."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint.activations import SiteLike
from neuros_mechint.activations._container import map_leaves
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.attribution import _captum
from neuros_mechint.attribution._integrate import gradients_at
from neuros_mechint.attribution._line import Line, draw_line
from neuros_mechint.attribution._refine import gap_of, integrate
from neuros_mechint.attribution._target import Target

__all__ = ["Attribution", "AttributionResult"]

Method = Literal[
    "integrated_gradients",
    "gradient_x_input",
    "deeplift",
    "gradient_shap",
    "feature_ablation",
    "feature_permutation",
    "occlusion",
    "lime",
    "kernel_shap",
    "shapley_value_sampling",
]
_METHODS = ("integrated_gradients", "gradient_x_input", *_captum.METHODS)


class AttributionResult(NamedTuple):
    """Attributions and how far they are from complete.

    Attributes:
        values: Attribution of every number, in the shape of the input or of the site's activation;
            for inputs in a container a container of the same type, with None where nothing was
            attributed; for a site that was reached several times a tuple with one tensor per call.
        delta: Sum of the values minus the change of the target, shape (batch,); a function that
            gives one number for all rows leaves shape (1,).
        steps: Points per row at which the gradient or the target was computed.
    """

    values: Any
    delta: Tensor
    steps: int


class Attribution:
    r"""Attribute the change of a target between a baseline and the input.

    Integrated gradients is the line integral

    $$a_i = (x_i - x'_i) \int_0^1 \frac{\partial F}{\partial x_i}(x' + t (x - x')) \, dt ,$$

    with Gauss-Legendre nodes. It is complete: $\sum_i a_i = F(x) - F(x')$; `delta` says by how much
    the quadrature misses that. On a smooth model the error falls exponentially with `steps`; a
    model with ReLUs has kinks on the line, for which `tol` refines around each of them.

    With a site, the line joins the site's activations in the runs of the baseline and of the input,
    everything else staying as it is in the input's run, and `F` is what the model makes of the
    activation. That is the change of the output itself when the site is all that the output
    depends on.

    What captum computes needs a target with one value per row:

    | method | value of a number |
    | --- | --- |
    | `"deeplift"` | its share of the change by the rescale rule; complete |
    | `"gradient_shap"` | gradients at `steps` random points of the line |
    | `"feature_ablation"` | change of the target when it alone takes its baseline |
    | `"occlusion"` | the same for a window over it, averaged over the windows that cover it |
    | `"feature_permutation"` | change when it takes another row's; the baseline is for `delta` |
    | `"shapley_value_sampling"` | change on its turn, over `steps` orders; complete |
    | `"kernel_shap"` | Shapley value by a weighted regression on `steps` samples |
    | `"lime"` | weight in a lasso (penalty 0.01) on `steps` samples near the input |

    Args:
        model: Any module, used in the mode it is in: call `model.eval()` first, since the rows of a
            batch must not influence each other.
        method: `"integrated_gradients"`; `"gradient_x_input"`, the gradient at the input times the
            input, or times its difference from a baseline that is given; or one that captum
            computes (extra `attribution`), see below.
        site: What to attribute to; None means every floating-point tensor of the input.
        target: What to explain: an index or a tuple of indices into each row of the output (its
            first tensor), a tensor with one index per row, or a function of the output that gives
            one value per row or a scalar. None needs an output of one number per row.
        window: Size of what `"occlusion"` covers, one number for each dimension of a row; it moves
            by one. None for the other methods.

    Raises:
        ValueError: When the method is not known, or a window comes with another than `"occlusion"`.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.constant_(net[0].weight, 3.0)
        >>> result = Attribution(net).attribute(torch.tensor([[1.0, 2.0]]))
        >>> result.values
        tensor([[3., 6.]])

    References:
        Sundararajan, M., Taly, A. & Yan, Q. (2017). Axiomatic attribution for deep networks. ICML.
        doi:10.48550/arXiv.1703.01365
        Ribeiro, M. T., Singh, S. & Guestrin, C. (2016). "Why should I trust you?": explaining the
        predictions of any classifier. KDD. doi:10.1145/2939672.2939778
        Lundberg, S. M. & Lee, S.-I. (2017). A unified approach to interpreting model predictions.
        NeurIPS. doi:10.48550/arXiv.1705.07874
        Zeiler, M. D. & Fergus, R. (2014). Visualizing and understanding convolutional networks.
        ECCV. doi:10.1007/978-3-319-10590-1_53
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method = "integrated_gradients",
        *,
        site: SiteLike | None = None,
        target: Target = None,
        window: tuple[int, ...] | None = None,
    ) -> None:
        if method not in _METHODS:
            raise ValueError(f"method needs one of {_METHODS}, got {method!r}")
        if window is not None and method != "occlusion":
            raise ValueError(f"window belongs to 'occlusion', got {window} with {method!r}")
        self.model = model
        self.method: Method = method
        self.site = site
        self.target = target
        self.window = window

    def __repr__(self) -> str:
        name = type(self.model).__name__
        site = None if self.site is None else str(self.site)
        return f"Attribution({name}, {self.method!r}, site={site!r})"

    def attribute(
        self,
        x: Any,
        baseline: Any = None,
        *,
        steps: int = 64,
        tol: float | None = None,
        max_steps: int = 20_000,
        batch_size: int = 512,
        generator: torch.Generator | None = None,
    ) -> AttributionResult:
        """Attribute the target to the numbers of the input or of the site.

        Args:
            x: A tuple of positional arguments, a mapping whose every key names a parameter of the
                forward, or else the one argument; tensors are (batch, ...).
            baseline: The input to compare with, in the form of `x`, tensors broadcast; a number
                sets every floating-point tensor to it, and None is 0.
            steps: Quadrature nodes of integrated gradients, with `tol` the most for the undivided
                line; samples per row for `"gradient_shap"`, `"lime"` and `"kernel_shap"`, orders
                for `"shapley_value_sampling"`.
            tol: Largest gap per row for integrated gradients. From 8 on the nodes are doubled until
                the gap is below it; where `steps` nodes leave more, the line is divided into
                intervals until their gaps add up to no more.
            max_steps: Points per row after which the refinement for `tol` ends, with a warning.
            batch_size: Most rows in one forward; one copy of the input runs in any case, and two
                at the ends of the line.
            generator: Source of the samples, needed for the methods that draw: those with samples
                or orders, and `"feature_permutation"`.

        Returns:
            The attributions with their gap.

        Raises:
            ImportError: When the method needs captum, which the extra `attribution` installs.
            KeyError: When the site's path names no module.
            RuntimeError: When the site was not reached.
            TypeError: When a target function returns no tensor.
            ValueError: When baseline, target, site or the settings do not fit.

        Warns:
            RuntimeWarning: When `max_steps` ended the refinement above `tol`.

        Examples:
            >>> net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)).double()
            >>> x = torch.ones(1, 1, dtype=torch.float64)
            >>> result = Attribution(net).attribute(x, tol=1e-9)
            >>> bool(result.delta.abs() < 1e-9)
            True
        """
        if self.method in _captum.METHODS:
            return self._with_captum(x, baseline, steps, batch_size, generator)
        if tol is not None and self.method == "gradient_x_input":
            raise ValueError(f"tol belongs to integrated gradients, got tol={tol}")
        with preserved(self.model):
            line = self._line(x, baseline, batch_size)
            ends = line.endpoints()
            if self.method == "gradient_x_input":
                one = torch.ones(1, 1, dtype=torch.float64, device=ends.device)
                parts = line.values([g[0] for g in gradients_at(line, one, one)[1]])
                steps = 1
            else:
                found = integrate(line, ends, steps=steps, tol=tol, max_steps=max_steps)
                parts, steps = found.parts, found.steps
        delta = gap_of(line, parts, ends).to(parts[0].dtype)
        return AttributionResult(shaped(line, parts, x), delta, steps)

    def _line(self, x: Any, baseline: Any, batch_size: int) -> Line:
        return draw_line(
            self.model,
            x,
            baseline,
            site=self.site,
            target=self.target,
            batch_size=batch_size,
            from_zero=self.method == "gradient_x_input",
        )

    def _with_captum(
        self,
        x: Any,
        baseline: Any,
        steps: int,
        batch_size: int,
        generator: torch.Generator | None,
    ) -> AttributionResult:
        if steps < 1:
            raise ValueError(f"steps needs at least 1, got {steps}")
        _captum.require()
        with preserved(self.model):
            line = self._line(x, baseline, batch_size)
            ends = line.endpoints()
            parts = _captum.attribute(
                line,
                self.method,
                steps=steps,
                batch_size=batch_size,
                window=self.window,
                generator=generator,
            )
        delta = gap_of(line, parts, ends).to(parts[0].dtype)
        return AttributionResult(shaped(line, parts, x), delta, steps)


def shaped(line: Line, parts: tuple[Tensor, ...], x: Any) -> Any:
    """Attributions in the form in which the caller gave the input."""
    if isinstance(line.place, (list, tuple)):
        arguments = call_arguments(line.model, x)
        found = dict(zip(line.place, parts, strict=True))
        args, kwargs = map_leaves(lambda path, _: found.get(path), arguments)
        if kwargs:
            return kwargs
        return args if isinstance(x, tuple) and not hasattr(x, "_fields") else args[0]
    return parts[0] if len(parts) == 1 else parts
