"""Where every layer of a network stands between its input and its labels."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.dynamics._information_estimators import (
    copula_normal,
    discrete_codes,
    gaussian_entropy,
)
from neuros_mechint.dynamics.information import MutualInformation

__all__ = ["InformationPlane", "InformationPlaneResult"]

Estimator = Literal["gcmi", "ksg", "binned"]


@dataclass(frozen=True)
class InformationPlaneResult:
    """One point of the plane per layer.

    Attributes:
        names: Layers, in the order given.
        input_information: Information between the layer and the input, (layers,), in nats.
        label_information: Information between the layer and the labels, (layers,), in nats.
        noise_std: Standard deviation of the noise that was added, or None.
        n_bins: Bins per feature, or None.
    """

    names: tuple[str, ...]
    input_information: Tensor
    label_information: Tensor
    noise_std: float | None
    n_bins: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {
            "names": list(self.names),
            "input_information": self.input_information.tolist(),
            "label_information": self.label_information.tolist(),
            "noise_std": self.noise_std,
            "n_bins": self.n_bins,
        }


class InformationPlane:
    r"""Information of every layer T about the input, $I(X; T)$, and the labels, $I(T; Y)$.

    In a deterministic network with continuous units $I(X; T)$ is infinite, or the entropy of the
    data set, whatever the network has learnt. A finite number belongs to the noise or the bins that
    were put in, so one of them must be given, and every call says so in a warning.

    Args:
        estimator: `"gcmi"` and `"ksg"` with `noise_std`; `"binned"` with `n_bins`.
        noise_std: Standard deviation of Gaussian noise added to every unit, in its own units.
        n_bins: Bins of equal width between the smallest and largest value of a layer.
        k: Neighbours of `"ksg"`.

    Examples:
        >>> import warnings
        >>> x = torch.arange(8.0).unsqueeze(1)
        >>> plane = InformationPlane(estimator="binned", n_bins=2)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     found = plane.compute({"layer": x}, x, (x[:, 0] > 3.5).long())
        >>> round(float(found.input_information[0]), 3), round(float(found.label_information[0]), 3)
        (0.693, 0.693)

    References:
        Shwartz-Ziv & Tishby (2017). Opening the black box of deep neural networks via information.
        arXiv:1703.00810

        Goldfeld et al. (2019). Estimating information flow in deep neural networks. ICML 36.
        arXiv:1810.05728
    """

    def __init__(
        self,
        *,
        estimator: Estimator = "gcmi",
        noise_std: Number | None = None,
        n_bins: int | None = None,
        k: int = 3,
    ) -> None:
        one_of("estimator", estimator, get_args(Estimator))
        needed, other = ("n_bins", noise_std) if estimator == "binned" else ("noise_std", n_bins)
        given = n_bins if estimator == "binned" else noise_std
        if given is None or other is not None:
            raise ValueError(
                f"estimator {estimator!r} needs {needed} and nothing else: without it the "
                "information between a deterministic layer and its input is infinite; got "
                f"noise_std={noise_std}, n_bins={n_bins}"
            )
        if (n_bins is not None and n_bins < 2) or (noise_std is not None and noise_std <= 0):
            raise ValueError(
                f"n_bins >= 2 or noise_std > 0 is needed, got {n_bins} and {noise_std}"
            )
        self.estimator: Estimator = estimator
        self.noise_std = noise_std
        self.n_bins = n_bins
        self.k = k

    def __repr__(self) -> str:
        return (
            f"InformationPlane(estimator={self.estimator!r}, noise_std={self.noise_std}, "
            f"n_bins={self.n_bins}, k={self.k})"
        )

    def compute(
        self,
        layers: Mapping[str, Array],
        x: Array,
        y: Array,
        *,
        generator: torch.Generator | None = None,
    ) -> InformationPlaneResult:
        """Place every layer in the plane.

        Args:
            layers: Activations by name, each (samples, features).
            x: Input, (samples, features).
            y: Labels, (samples,): integers are classes, floats are values.
            generator: Source of the noise; None starts one from seed 0.

        Returns:
            One point per layer.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When samples differ or an array has another number of axes.
        """
        data = _matrix("x", x)
        classes = torch.as_tensor(y).dtype.is_floating_point is False
        labels = as_real("y", y, axes=("samples",), at_least=(2,)).double().unsqueeze(-1)
        source = torch.Generator(data.device).manual_seed(0) if generator is None else generator
        warnings.warn(
            "the information between a deterministic layer and its input is infinite or that of "
            f"the data set; these numbers are those of noise_std={self.noise_std}, "
            f"n_bins={self.n_bins}",
            UserWarning,
            stacklevel=2,
        )
        points = []
        for name, value in layers.items():
            layer = _matrix(f"layers[{name!r}]", value)
            if not len(layer) == len(data) == len(labels):
                raise ValueError(
                    f"x, y and layers[{name!r}] must have the same samples, got {len(data)}, "
                    f"{len(labels)} and {len(layer)}"
                )
            blurred = self._blurred(layer, source)
            points.append(
                torch.stack(
                    [self._between(blurred, data), self._about(blurred, labels, classes=classes)]
                )
            )
        plane = torch.stack(points)
        noise = None if self.noise_std is None else float(self.noise_std)
        return InformationPlaneResult(tuple(layers), plane[:, 0], plane[:, 1], noise, self.n_bins)

    def _blurred(self, layer: Tensor, source: torch.Generator) -> Tensor:
        if self.n_bins is None:
            noise = torch.randn(layer.shape, generator=source, dtype=layer.dtype)
            return layer + float(self.noise_std or 0) * noise.to(layer.device)
        low, high = layer.min(), layer.max()
        width = (high - low) / self.n_bins
        return ((layer - low) / width.where(width > 0, 1.0)).floor().clamp(max=self.n_bins - 1)

    def _between(self, layer: Tensor, other: Tensor) -> Tensor:
        methods: dict[str, Literal["gcmi", "ksg1", "discrete"]] = {
            "gcmi": "gcmi", "ksg": "ksg1", "binned": "discrete"
        }  # fmt: skip
        return MutualInformation(method=methods[self.estimator], k=self.k).compute(layer, other)

    def _about(self, layer: Tensor, labels: Tensor, *, classes: bool) -> Tensor:
        if not classes or self.estimator == "binned":
            return self._between(layer, labels)
        if self.estimator == "ksg":
            return MutualInformation(method="gross", k=self.k).compute(layer, labels)
        return _class_information(copula_normal(layer), discrete_codes(labels))


def _matrix(name: str, value: Array) -> Tensor:
    data = as_real(name, value).double().detach()
    if data.ndim != 2:
        raise ValueError(f"{name} must be (samples, features), got shape {tuple(data.shape)}")
    return data


def _class_information(
    layer: Float[Tensor, "sample feature"], codes: Int[Tensor, "sample"]
) -> Float[Tensor, ""]:
    """Entropy of a Gaussian less that of one Gaussian per class."""
    found = gaussian_entropy(layer, unbiased=True)
    for code in range(int(codes.max()) + 1):
        rows = layer[codes == code]
        if len(rows) <= layer.shape[1]:
            raise ValueError(
                f"a class of {len(rows)} samples is too small for {layer.shape[1]} features; use "
                "estimator='ksg' or fewer features"
            )
        found = found - len(rows) / len(layer) * gaussian_entropy(rows, unbiased=True)
    return found
