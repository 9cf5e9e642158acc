"""Where current enters and leaves the tissue, from the field potential along a probe."""

import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.multiscale import _csd_matrices as matrices
from neuros_mechint.multiscale._csd_kernel import Kernels, chosen, estimators, kernels
from neuros_mechint.multiscale._lfp_arguments import as_floating

__all__ = ["CurrentSourceDensity", "KernelChoice"]

CSDMethod: TypeAlias = Literal["standard", "delta", "step", "spline", "kcsd"]
Edges: TypeAlias = Literal["vaknin", "valid"]

# In spacings of the electrodes, and relative to the mean eigenvalue of the kernel.
_WIDTHS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
_RIDGES = tuple(float(x) for x in np.logspace(-12, 0, 25))


class KernelChoice(NamedTuple):
    """What `"kcsd"` takes for a recording.

    Attributes:
        width: Standard deviation of the sources in m, (...).
        ridge: Ridge relative to the mean eigenvalue of the kernel, (...).
    """

    width: Tensor
    ridge: Tensor


class CurrentSourceDensity:
    r"""Current source density along a probe: positive where current leaves cells.

    `"standard"` is $-\sigma (\phi_{i+1} - 2\phi_i + \phi_{i-1}) / h^2$ and takes every source for
    an infinite plane. The others invert $\phi = F C$ for sources of a diameter d: `"delta"` thin
    discs, $F_{ij} = \frac{h}{2\sigma} (\sqrt{(z_i - z_j)^2 + (d/2)^2} - |z_i - z_j|)$; `"step"`
    cylinders of height h; `"spline"` a natural cubic spline, 0 a spacing beyond the ends. `"kcsd"`
    is a ridge regression on Gaussian sources, whose width and ridge are those with the smallest
    error on electrodes left out, for each recording of a batch; take it where there is noise, which
    the inverses amplify.

    Args:
        method: Which of the five.
        sigma: Conductivity of the tissue, S/m.
        diameter: Diameter of the sources, m; `"standard"` does not need it.
        edges: For `"standard"`: `"vaknin"` repeats the electrodes at the ends, `"valid"` drops
            them.
        filter_sigma: Standard deviation of a Gaussian average of the result along the probe, m.
        positions: Depths of the electrodes in m, for `"kcsd"`, in the order of the channels.
        widths: For `"kcsd"`: standard deviations of the sources to choose from, m; None takes 0.5
            to 4 spacings.
        ridges: For `"kcsd"`: ridges to choose from, relative to the mean eigenvalue of the kernel;
            None takes 1e-12 to 1.

    Raises:
        TypeError: When positions, widths or ridges are not real.
        ValueError: When a number is not positive or an argument belongs to another method.

    Examples:
        >>> field = torch.tensor([[0.0], [1.0], [0.0]])
        >>> CurrentSourceDensity(sigma=0.5).compute_csd(field, electrode_spacing=0.1).round().mT
        tensor([[-50., 100., -50.]])

    References:
        Nicholson & Freeman (1975), J. Neurophysiol. 38, 356. doi:10.1152/jn.1975.38.2.356
        Vaknin, DiScenna & Teyler (1988), J. Neurosci. Methods 24, 131.
        doi:10.1016/0165-0270(88)90056-8
        Pettersen, Devor, Ulbert, Dale & Einevoll (2006), J. Neurosci. Methods 154, 116.
        doi:10.1016/j.jneumeth.2005.12.005
        Potworowski, Jakuczun, Leski & Wojcik (2012), Neural Comput. 24, 541.
        doi:10.1162/NECO_a_00236
    """

    def __init__(
        self,
        method: CSDMethod = "standard",
        *,
        sigma: Number = 0.3,
        diameter: Number = 5e-4,
        edges: Edges = "vaknin",
        filter_sigma: Number | None = None,
        positions: Array | None = None,
        widths: Array | None = None,
        ridges: Array | None = None,
    ) -> None:
        one_of("method", method, get_args(CSDMethod))
        one_of("edges", edges, get_args(Edges))
        _positive("sigma", sigma, "S/m")
        _positive("diameter", diameter, "m")
        if filter_sigma is not None:
            _positive("filter_sigma", filter_sigma, "m")
        if method != "standard" and edges != "vaknin":
            raise ValueError(f"edges belong to method 'standard', got method {method!r}")
        self.method: CSDMethod = method
        self.sigma = float(sigma)
        self.diameter = float(diameter)
        self.edges: Edges = edges
        self.filter_sigma = filter_sigma
        self.positions = _row("positions", positions, method, low=-math.inf)
        self.widths = _row("widths", widths, method)
        self.ridges = _row("ridges", ridges, method)
        if self.positions is not None and len(set(self.positions.tolist())) < self.positions.size:
            raise ValueError("positions must differ from one another; two electrodes share a depth")

    def __repr__(self) -> str:
        parts = [repr(self.method), f"sigma={self.sigma:g}"]
        if self.method == "standard":
            parts.append(f"edges={self.edges!r}")
        else:
            parts.append(f"diameter={self.diameter:g}")
        if self.filter_sigma is not None:
            parts.append(f"filter_sigma={self.filter_sigma:g}")
        if self.positions is not None:
            parts.append(f"positions=({self.positions.size},)")
        return f"CurrentSourceDensity({', '.join(parts)})"

    def compute_csd(self, lfp: Array, electrode_spacing: Number | None = None) -> Tensor:
        """Current source density of field potentials.

        Args:
            lfp: Potentials in V, (..., channels, time), channels in the order of their depth.
            electrode_spacing: Distance of neighbours in m; None only with positions.

        Returns:
            Density in A/m^3 at the electrodes, (..., channels, time), two channels fewer with
            `edges="valid"`, in the dtype of lfp.

        Raises:
            TypeError: When lfp is no floating tensor or array.
            ValueError: When lfp is not finite or has fewer than three channels, or the spacing is
                missing, not positive, or given beside positions.

        Examples:
            >>> field = torch.eye(4, dtype=torch.float64)
            >>> CurrentSourceDensity("step").compute_csd(field, 1e-4).shape
            torch.Size([4, 4])
        """
        x, dtype = _potentials(lfp)
        spacing, places = self._geometry(x.shape[-2], electrode_spacing)
        if self.method == "kcsd":
            found = self._kernels(spacing, places)
            width, ridge = self._chosen(x, found)
            scale = 2 * self.sigma / spacing**2
            weights = scale * estimators(width, ridge, found)
        else:
            weights = torch.tensor(self._matrix(x.shape[-2], spacing))
        if self.filter_sigma is not None:
            places = places[1:-1] if weights.shape[-2] < x.shape[-2] else places
            average = matrices.smoothing(places, float(self.filter_sigma) / spacing)
            weights = torch.from_numpy(average) @ weights
        return (weights.to(x) @ x).to(dtype)

    def choose(self, lfp: Array, electrode_spacing: Number | None = None) -> KernelChoice:
        """The width and ridge that `"kcsd"` takes for recordings.

        Args:
            lfp: Potentials in V, (..., channels, time).
            electrode_spacing: Distance of neighbours in m; None only with positions.

        Returns:
            Width and ridge, each (...).

        Raises:
            TypeError: When lfp is no floating tensor or array.
            ValueError: When the method is another, or as in `compute_csd`.

        Examples:
            >>> choice = CurrentSourceDensity("kcsd").choose(torch.eye(8)[:, 3:4], 1e-4)
            >>> choice.width.shape
            torch.Size([])
        """
        if self.method != "kcsd":
            raise ValueError(f"only method 'kcsd' chooses a kernel, got {self.method!r}")
        x, _ = _potentials(lfp)
        spacing, places = self._geometry(x.shape[-2], electrode_spacing)
        width, ridge = self._chosen(x, self._kernels(spacing, places))
        widths = torch.tensor(self._widths(spacing), dtype=torch.float64) * spacing
        return KernelChoice(widths[width], ridge)

    def _matrix(self, n: int, spacing: float) -> NDArray[np.float64]:
        if self.method == "standard":
            second = matrices.second_difference(n, repeated=self.edges == "vaknin")
            return second * (self.sigma / spacing**2)
        inverse = matrices.inverse(self.method, n, self.diameter / (2 * spacing))
        return inverse * (2 * self.sigma / spacing**2)

    def _geometry(
        self, n: int, electrode_spacing: Number | None
    ) -> tuple[float, NDArray[np.float64]]:
        """The spacing in m, and the depths in spacings."""
        if self.positions is None:
            if electrode_spacing is None:
                raise ValueError("electrode_spacing is needed, in m; only positions replace it")
            _positive("electrode_spacing", electrode_spacing, "m")
            return float(electrode_spacing), np.arange(n, dtype=np.float64)
        if electrode_spacing is not None:
            raise ValueError("give electrode_spacing or positions, not both")
        if self.positions.size != n:
            raise ValueError(f"lfp has {n} channels, but there are {self.positions.size} positions")
        spacing = float(np.median(np.diff(np.sort(self.positions))))
        return spacing, self.positions / spacing

    def _widths(self, spacing: float) -> tuple[float, ...]:
        return _WIDTHS if self.widths is None else tuple((self.widths / spacing).tolist())

    def _kernels(self, spacing: float, places: NDArray[np.float64]) -> Kernels:
        radius = self.diameter / (2 * spacing)
        return kernels(tuple(places.tolist()), radius, self._widths(spacing))

    def _chosen(self, x: Tensor, found: Kernels) -> tuple[Tensor, Tensor]:
        """Index of the width, and the ridge."""
        ridges = torch.tensor(
            _RIDGES if self.ridges is None else self.ridges.tolist(), dtype=torch.float64
        )
        # The choice is a step function of the data, which has no gradient.
        data = x.detach().double()
        width, ridge = chosen((data @ data.mT).cpu(), found, ridges)
        return width, ridges[ridge]


def _positive(name: str, value: Number, unit: str) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, in {unit}, got {value:g}")


def _row(
    name: str, value: Array | None, method: str, low: float = 0.0
) -> NDArray[np.float64] | None:
    """A checked row of numbers for `"kcsd"`."""
    if value is None:
        return None
    if method != "kcsd":
        raise ValueError(f"{name} belong to method 'kcsd', got method {method!r}")
    row = as_real(name, value, axes=("values",), at_least=(1,)).detach().cpu().double().numpy()
    if row.ndim != 1:
        raise ValueError(f"{name} must be one row of numbers, got shape {row.shape}")
    if row.min() <= low:
        raise ValueError(f"{name} must be positive, got {row.min():g}")
    return row


def _potentials(lfp: Array) -> tuple[Tensor, torch.dtype]:
    """Checked potentials in the dtype to compute in, and the dtype that they came in."""
    given = as_floating("lfp", lfp)
    return as_real("lfp", given, axes=("channels", "time"), at_least=(3, 1)), given.dtype
