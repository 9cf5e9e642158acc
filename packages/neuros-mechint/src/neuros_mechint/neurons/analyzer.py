"""Selectivity, information and geometry of the neurons at one site of a model."""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuros_mechint._bootstrap import as_rng
from neuros_mechint.activations import Site, SiteLike
from neuros_mechint.activations.site import as_site
from neuros_mechint.neurons import _information, _selectivity
from neuros_mechint.neurons._gathering import Gathered, Pool
from neuros_mechint.neurons._geometry import geometry_of
from neuros_mechint.neurons._kept import Kept
from neuros_mechint.neurons._results import (
    BehaviorInformation,
    MonosemanticNeuron,
    PopulationGeometry,
    PredictiveNeurons,
    Selectivity,
)
from neuros_mechint.neurons._variables import (
    Variable,
    categories_of,
    checked_index,
    values_of,
)

__all__ = [
    "BehaviorInformation",
    "MonosemanticNeuron",
    "NeuronActivationAnalyzer",
    "PopulationGeometry",
    "PredictiveNeurons",
    "Selectivity",
]

Estimator = Callable[[NDArray[Any], NDArray[Any], int], NDArray[np.float64]]


class NeuronActivationAnalyzer:
    """What the units of one site respond to.

    A data set is an iterable of batches. A batch is a mapping with the model's input under
    `input_key` and variables under their own names, a pair (input, mapping of variables), or an
    input alone; a data set of one batch may be given without the list. An item whose variables are
    single values is one example, and its input gets the batch dimension. Activations are gathered
    once and used again as long as the same data set object comes back and no parameter changed.

    Variables that are whole numbers, truth values or text are categories. A floating-point one with
    more than `n_bins` distinct values is continuous.

    Args:
        model: Any module, used in the mode it is in and without gradient.
        site: Where the neurons are, units along the last dimension; None is the model's output.
        device: Where inputs go; None leaves them.
        input_key: Name of the input in a mapping.
        pool: How the dimensions between batch and unit become one row per example: their `"mean"`,
            the `"last"` step, or `"none"` for one row per step.
        n_bins: Bins of equal count for a continuous variable.

    Raises:
        KeyError: When the site's path names no module.
        ValueError: When `pool` is unknown or `n_bins` below 2.

    Examples:
        >>> x = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 1.0], [1.0, 2.0]])
        >>> data = {"x": x, "side": ["left", "left", "right", "right"]}
        >>> analyzer = NeuronActivationAnalyzer(nn.Identity())
        >>> analyzer.compute_neuron_selectivity(data, None, "side").selectivity
        array([1., 0.])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        site: SiteLike | None = None,
        device: torch.device | str | None = None,
        input_key: str = "x",
        pool: str = "mean",
        n_bins: int = 10,
    ) -> None:
        if pool not in {"mean", "last", "none"}:
            raise ValueError(f"pool needs 'mean', 'last' or 'none', got {pool!r}")
        if n_bins < 2:
            raise ValueError(f"n_bins needs at least 2 bins, got {n_bins}")
        self.model = model
        self.site = Site("") if site is None else as_site(model, site)
        self.device = device
        self.input_key = input_key
        self.pool = cast("Pool", pool)
        self.n_bins = n_bins
        self._kept = Kept()

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return f"NeuronActivationAnalyzer({name}, site='{self.site}', pool='{self.pool}')"

    def compute_neuron_selectivity(
        self,
        dataset: Any,
        neuron_id: int | None,
        variable: Variable,
        index: str = "eta2",
        *,
        period: float = 2 * math.pi,
    ) -> Selectivity:
        r"""How much one neuron, or each, depends on a variable.

        | index | definition |
        | --- | --- |
        | `eta2` | $SS_{between} / SS_{total}$, the share of variance between categories |
        | `dprime` | preferred category against the others, over their root-mean-square deviation |
        | `lifetime_sparseness` | $(1 - \langle r \rangle^2 / \langle r^2 \rangle) / (1 - 1/n)$ |
        | `osi` | $\lvert\sum_k r_k e^{2 i \theta_k}\rvert / \sum_k \lvert r_k \rvert$ |
        | `dsi` | $\lvert\sum_k r_k e^{i \theta_k}\rvert / \sum_k \lvert r_k \rvert$ |

        r is the mean activation in each category. Lifetime sparseness, `osi` and `dsi` are meant
        for activations that are not negative, such as rates.

        Args:
            dataset: The data set.
            neuron_id: Index of a neuron; None for all.
            variable: Name of a variable of the data set, or one value per row.
            index: See the table.
            period: A full turn in the units of the variable, for `osi` and `dsi`; an orientation
                has half of it.

        Returns:
            The index, the tuning curve and the p-value. A constant neuron has 0 and 1.

        Raises:
            IndexError: When there is no such neuron.
            KeyError: When the data set has no such variable.
            ValueError: When the index is unknown, there are fewer than two categories, no category
                comes twice, `dprime` meets one that comes once, `osi` or `dsi` a variable that is
                no number, or values are not finite.

        Examples:
            >>> data = {"x": torch.tensor([[0.0], [2.0], [4.0], [6.0]]), "c": [0, 0, 1, 1]}
            >>> analyzer = NeuronActivationAnalyzer(nn.Identity())
            >>> found = analyzer.compute_neuron_selectivity(data, 0, "c")
            >>> found.selectivity, found.tuning
            (0.8, array([1., 5.]))

        References:
            Vinje, W. E. & Gallant, J. L. (2000). Sparse coding and decorrelation in primary visual
            cortex during natural vision. Science 287, 1273-1276. doi:10.1126/science.287.5456.1273

            Mazurek, M., Kager, M. & Van Hooser, S. D. (2014). Robust quantification of orientation
            selectivity and direction selectivity. Frontiers in Neural Circuits 8, 92.
            doi:10.3389/fncir.2014.00092
        """
        gathered = self._gather(dataset)
        x = gathered.activations
        if neuron_id is not None:
            x = x[:, [self._checked(neuron_id, x.shape[1])]]
        codes, categories = categories_of(gathered, variable, self.n_bins)
        chosen = checked_index(index, codes, categories)
        values = _selectivity.index_values(chosen, x, codes, categories, period)
        p_values = _selectivity.f_test(x, codes)[1]
        tuning = _selectivity.tuning_curves(x, codes)
        if neuron_id is None:
            return Selectivity(values, tuning, categories, p_values)
        return Selectivity(float(values[0]), tuning[0], categories, float(p_values[0]))

    def behavior_information(
        self,
        dataset: Any,
        behavior: Variable,
        *,
        n_neighbors: int = 3,
        n_permutations: int = 0,
        generator: np.random.Generator | torch.Generator | None = None,
    ) -> BehaviorInformation:
        """Mutual information between every neuron and a behaviour, in nats.

        Nearest-neighbour estimates: Kraskov (2004) for a continuous behaviour, Ross (2014) for
        categories. They are unbiased for independent variables but for the cut at 0, and too low
        for nearly deterministic relations when rows are few.

        Args:
            dataset: The data set.
            behavior: Name of a variable of the data set, or one value per row.
            n_neighbors: The k of the estimators.
            n_permutations: Shuffles of the behaviour for p-values; 0 leaves them out.
            generator: Source of the tie-breaking noise and the shuffles; None starts one from
                seed 0.

        Returns:
            One value per neuron, with permutations also p-values and false discovery rates.

        Raises:
            KeyError: When the data set has no such variable.
            ValueError: When there are not more rows than `n_neighbors`, values are not finite, or a
                number is out of range.

        Examples:
            >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
            >>> data = {"x": x, "sign": (x[:, 0] > 0).long()}
            >>> analyzer = NeuronActivationAnalyzer(nn.Identity())
            >>> analyzer.behavior_information(data, "sign").mi_scores.round(1)
            array([0.7, 0. ])

        References:
            Kraskov, A., Stoegbauer, H. & Grassberger, P. (2004). Estimating mutual information.
            Physical Review E 69, 066138. doi:10.1103/PhysRevE.69.066138

            Ross, B. C. (2014). Mutual information between discrete and continuous data sets. PLoS
            ONE 9, e87357. doi:10.1371/journal.pone.0087357
        """
        gathered = self._gather(dataset)
        x, given = gathered.activations, values_of(gathered, behavior)
        if n_permutations < 0 or not 1 <= n_neighbors < len(x):
            raise ValueError(
                f"1 <= n_neighbors < {len(x)} rows and n_permutations >= 0 are needed, got "
                f"{n_neighbors} and {n_permutations}"
            )
        rng = as_rng(generator)
        continuous = given.dtype.kind == "f" and len(np.unique(given)) > self.n_bins
        x = _information.prepared(x, rng)
        if continuous:
            estimate: Estimator = _information.continuous_information
            y: NDArray[Any] = _information.prepared(given.astype(np.float64), rng)
        else:
            estimate = _information.discrete_information
            y = np.unique(given, return_inverse=True)[1]
        scores = estimate(x, y, n_neighbors)
        if n_permutations == 0:
            return BehaviorInformation(scores)
        p = _information.permutation_p_values(
            lambda shuffled: estimate(x, shuffled, n_neighbors), y, scores, n_permutations, rng
        )
        return BehaviorInformation(scores, p, _information.adjusted_p_values(p))

    def find_behavior_predictive_neurons(
        self,
        dataset: Any,
        behavior: Variable,
        top_k: int = 20,
        *,
        n_neighbors: int = 3,
        n_permutations: int = 0,
        max_fdr: float = 0.05,
        generator: np.random.Generator | torch.Generator | None = None,
    ) -> PredictiveNeurons:
        """Neurons that tell most about a behaviour.

        Args:
            dataset: The data set.
            behavior: Name of a variable of the data set, or one value per row.
            top_k: How many neurons at most.
            n_neighbors: The k of the estimators, see `behavior_information`.
            n_permutations: Shuffles of the behaviour; with any, only neurons with a false discovery
                rate of at most `max_fdr` are named.
            max_fdr: Used with permutations only.
            generator: Source of the tie-breaking noise and the shuffles; None starts one from
                seed 0.

        Returns:
            Their indices and mutual information in nats, most informative first.

        Raises:
            KeyError: When the data set has no such variable.
            ValueError: When a number is out of range, as for `behavior_information`.

        Examples:
            >>> x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
            >>> data = {"x": x, "speed": x[:, 2].exp()}
            >>> analyzer = NeuronActivationAnalyzer(nn.Identity())
            >>> neurons, mi_scores = analyzer.find_behavior_predictive_neurons(data, "speed", 1)
            >>> neurons, bool(mi_scores[0] > 2)
            (array([2]), True)
        """
        if top_k < 1 or not 0 <= max_fdr <= 1:
            raise ValueError(f"top_k >= 1 and 0 <= max_fdr <= 1 are needed, got {top_k}, {max_fdr}")
        found = self.behavior_information(
            dataset,
            behavior,
            n_neighbors=n_neighbors,
            n_permutations=n_permutations,
            generator=generator,
        )
        order = np.argsort(-found.mi_scores, kind="stable")
        if found.false_discovery_rates is not None:
            order = order[found.false_discovery_rates[order] <= max_fdr]
        return PredictiveNeurons(order[:top_k], found.mi_scores[order[:top_k]])

    def analyze_population_geometry(
        self, dataset: Any, labels: Variable | None = None, *, bias_corrected: bool = False
    ) -> PopulationGeometry:
        """Dimension of the cloud of activations, and how well labels separate in it.

        Args:
            dataset: The data set.
            labels: Name of a variable of the data set, or one label per row.
            bias_corrected: Correct the participation ratio for the number of rows, by traces that
                are unbiased for Gaussian rows; without it a sample of N rows has at most N - 1.

        Returns:
            The geometry; the silhouette is NaN without labels.

        Raises:
            KeyError: When the data set has no such variable.
            ValueError: When there are fewer than three rows, activations are constant or not
                finite, or labels do not divide the rows into 2 to N - 1 groups.

        Examples:
            >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
            >>> geometry = NeuronActivationAnalyzer(nn.Identity()).analyze_population_geometry(x)
            >>> geometry.participation_ratio, geometry.dimensionality
            (2.0, 2)

        References:
            Gao, P. et al. (2017). A theory of multineuronal dimensionality, dynamics and
            measurement. bioRxiv. doi:10.1101/214262

            Srivastava, M. S. (2005). Some tests concerning the covariance matrix in high
            dimensional data. Journal of the Japan Statistical Society 35, 251-272.
            doi:10.14490/jjss.35.251

            Roy, O. & Vetterli, M. (2007). The effective rank: a measure of effective
            dimensionality. EUSIPCO 15, 606-610. doi:10.5281/zenodo.40328
        """
        gathered = self._gather(dataset)
        codes = None
        if labels is not None:
            codes = np.unique(values_of(gathered, labels), return_inverse=True)[1]
        return geometry_of(gathered.activations, codes, bias_corrected=bias_corrected)

    def find_monosemantic_neurons(
        self,
        dataset: Any,
        variables: Iterable[str],
        threshold: float = 0.7,
        *,
        margin: float = 0.5,
    ) -> list[MonosemanticNeuron]:
        r"""Neurons of which one variable explains much and every other little.

        Args:
            dataset: The data set.
            variables: Names of variables.
            threshold: Least $\eta^2$ of the best variable.
            margin: Least lead over the second, (best - second) / best.

        Returns:
            The neurons, largest score first.

        Raises:
            KeyError: When the data set has no such variable.
            ValueError: When there is no variable, or `threshold` or `margin` is not in [0, 1].

        Examples:
            >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 2.0]])
            >>> data = {"x": x, "a": [0, 0, 1, 1], "b": [0, 1, 0, 1]}
            >>> analyzer = NeuronActivationAnalyzer(nn.Identity())
            >>> analyzer.find_monosemantic_neurons(data, ["a", "b"])
            [MonosemanticNeuron(neuron=0, variable='a', score=1.0)]
        """
        names = list(variables)
        if not names or not 0 <= threshold <= 1 or not 0 <= margin <= 1:
            raise ValueError(
                f"at least one variable, 0 <= threshold <= 1 and 0 <= margin <= 1 are needed, got "
                f"{names}, {threshold} and {margin}"
            )
        gathered = self._gather(dataset)
        x, per_name = (
            gathered.activations,
            [categories_of(gathered, name, self.n_bins)[0] for name in names],
        )
        scores = np.stack([_selectivity.f_test(x, codes)[0] for codes in per_name])
        chosen = _selectivity.single_minded(scores, threshold, margin)
        return [
            MonosemanticNeuron(unit, names[best], float(scores[best, unit]))
            for unit, best in chosen
        ]

    def _gather(self, dataset: Any) -> Gathered:
        return self._kept.rows(
            self.model,
            dataset,
            self.site,
            input_key=self.input_key,
            pool=self.pool,
            device=self.device,
        )

    def _checked(self, neuron: int, n_neurons: int) -> int:
        if not 0 <= neuron < n_neurons:
            raise IndexError(f"no neuron {neuron} at '{self.site}'; it has {n_neurons}")
        return neuron
