"""Methods that captum computes, on any site: captum sees a model of the site's activation alone."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations import Edit, EditContext, Replace, Site, SiteLike, intervene
from neuros_mechint.activations._container import map_leaves
from neuros_mechint.attribution._ends import placed
from neuros_mechint.attribution._line import Line
from neuros_mechint.attribution._target import read_target

__all__ = ["METHODS", "attribute", "require"]

# Method -> class of captum.
_CLASSES = {
    "deeplift": "DeepLift",
    "gradient_shap": "GradientShap",
    "feature_ablation": "FeatureAblation",
    "feature_permutation": "FeaturePermutation",
    "occlusion": "Occlusion",
    "lime": "Lime",
    "kernel_shap": "KernelShap",
    "shapley_value_sampling": "ShapleyValueSampling",
}
METHODS = tuple(_CLASSES)
_SAMPLED = ("gradient_shap", "lime", "kernel_shap", "shapley_value_sampling")
_RANDOM = (*_SAMPLED, "feature_permutation")
_WITH_GRADIENT = ("deeplift", "gradient_shap")


def require() -> Any:
    """Import captum.

    Raises:
        ImportError: When it is not installed.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError(
            "this attribution method needs captum: pip install 'neuros-mechint[attribution]'"
        ) from error
    return captum.attr


def attribute(
    line: Line,
    method: str,
    *,
    steps: int,
    batch_size: int,
    window: tuple[int, ...] | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, ...]:
    """Attributions to the tensors of a line, in their shapes.

    Raises:
        ValueError: When a sampling method has no generator, a permutation no second row, or an
            occlusion no window that fits.
    """
    captum = require()
    if method in _RANDOM and generator is None:
        raise ValueError(f"{method!r} draws samples; pass generator=torch.Generator()")
    if method == "feature_permutation" and line.n_rows < 2:
        raise ValueError("'feature_permutation' takes values from other rows; x needs at least 2")
    pairs = list(zip(line.ends, line.axes, strict=True))
    inputs = tuple(end.movedim(axis, 0).detach().clone() for (_, end), axis in pairs)
    baselines = tuple(start.movedim(axis, 0).detach().clone() for (start, _), axis in pairs)
    rows = torch.arange(line.n_rows, device=inputs[0].device)
    options: dict[str, Any] = {"baselines": baselines, "additional_forward_args": (rows,)}
    if method == "gradient_shap":
        options["stdevs"] = 0.0
    if method == "occlusion":
        options["sliding_window_shapes"] = _windows(inputs, window)
    if method == "feature_permutation":
        del options["baselines"]
    if method in _SAMPLED:
        options["n_samples"] = steps
    if method not in _WITH_GRADIENT:
        options["perturbations_per_eval"] = max(1, batch_size // line.n_rows)
    explainer = getattr(captum, _CLASSES[method])(_Tail(line))
    with warnings.catch_warnings(), _seeded(generator):
        # DeepLift announces its hooks, and the perturbations that a feature may be left out.
        warnings.simplefilter("ignore", UserWarning)
        parts: Sequence[Tensor] = explainer.attribute(inputs, **options)
    return tuple(
        part.detach().movedim(0, axis).to(start.dtype)
        for part, ((start, _), axis) in zip(parts, pairs, strict=True)
    )


def _windows(
    inputs: tuple[Tensor, ...], window: tuple[int, ...] | None
) -> tuple[tuple[int, ...], ...]:
    """The window for every tensor, checked."""
    for tensor in inputs:
        shape = tuple(tensor.shape[1:])
        fits = window is not None and len(window) == len(shape)
        if not fits or not all(1 <= w <= n for w, n in zip(window or (), shape, strict=True)):
            raise ValueError(
                f"'occlusion' needs window= with a size for each dimension of a row {shape}, at "
                f"most as large, got {window}"
            )
    return (tuple(window or ()),) * len(inputs)


class _Tail(nn.Module):
    """The model as a function of the tensors of a line, one value per row.

    Args:
        line: Gives the model and everything else that it reads.
    """

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.model = line.model
        self.line = line

    def forward(self, *tensors_and_rows: Tensor) -> Tensor:
        """Run the rows of the input that the last argument names."""
        *tensors, rows = tensors_and_rows
        counts = rows.bincount(minlength=self.line.n_rows)
        if bool((counts == counts[0]).all()):
            # captum repeats rows one by one in some methods, a target function needs whole copies.
            copies = int(counts[0])
            order = rows.argsort(stable=True).reshape(self.line.n_rows, copies).T.reshape(-1)
            found = self._targets([tensor[order] for tensor in tensors], rows[order], copies)
            return found.reshape(-1)[order.argsort()]
        # Lime and KernelSHAP explain one row at a time: it stands in a copy of the whole input.
        filled, every = [], torch.arange(self.line.n_rows, device=rows.device).repeat(len(rows))
        places = torch.arange(len(rows), device=rows.device) * self.line.n_rows + rows
        for tensor, (_, end), axis in zip(tensors, self.line.ends, self.line.axes, strict=True):
            whole = end.movedim(axis, 0)[every]
            filled.append(whole.index_copy(0, places, tensor))
        return self._targets(filled, every, len(rows)).reshape(-1)[places]

    def _targets(self, values: list[Tensor], rows: Tensor, copies: int) -> Tensor:
        """Target of every row of whole copies of the input, (copies, row)."""
        arguments = self.line.arguments
        args, kwargs = map_leaves(lambda _, leaf: self._rows(leaf, rows), arguments)
        place = self.line.place
        edits: dict[SiteLike, Edit] = {}
        if isinstance(place, Site):
            edits = {place: _InOrder(values, self.line.axes)}
        else:
            args, kwargs = placed((args, kwargs), dict(zip(place, values, strict=True)))
        with intervene(self.model, edits):
            output = self.model(*args, **kwargs)
        found = read_target(output, self.line.target, copies, self.line.n_rows)
        if found.shape[1] != self.line.n_rows:
            raise ValueError(
                "this method needs a target with one value per row, got one for all rows"
            )
        return found

    def _rows(self, leaf: Any, rows: Tensor) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == self.line.n_rows:
            return leaf[rows.to(leaf.device)]
        return leaf


class _InOrder:
    """Replace the calls of a site by given values, rows first."""

    def __init__(self, values: Sequence[Tensor], axes: Sequence[int]) -> None:
        self.waiting = [v.movedim(0, axis) for v, axis in zip(values, axes, strict=True)]

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        return Replace(self.waiting.pop(0))(value, context)


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Give captum, which draws from the global generators, the numbers of ours."""
    if generator is None:
        yield
        return
    from sklearn.utils import check_random_state

    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    shared = check_random_state(None)  # the generator behind np.random's functions
    state = shared.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shared.seed(seed)
        try:
            yield
        finally:
            shared.set_state(state)
