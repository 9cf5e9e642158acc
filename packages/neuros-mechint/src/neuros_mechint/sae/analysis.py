"""Which features fire together, how their directions lie, and what they do to a model's output."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.activations import ActivationStore, SiteLike, Splice, run, run_batched
from neuros_mechint.activations._forwards import batch_arguments
from neuros_mechint.activations._inputs import count_rows
from neuros_mechint.activations._state import evaluating
from neuros_mechint.sae._rows import Coding, check_coder, coding, feature_numbers, row_batches

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd

__all__ = ["Coactivation", "FeatureAnalyzer"]


class Coactivation(NamedTuple):
    r"""How often features are active together.

    Attributes:
        features: Their numbers, in the order of the rows and columns below.
        n_rows: Number of activations.
        counts: $n_{ij}$, on how many of them both are active; the diagonal counts each alone.
        jaccard: $n_{ij} / (n_i + n_j - n_{ij})$, 0 for two that are never active.
        phi: Correlation of the two binary variables, 0 where one of them is constant.
    """

    features: Tensor
    n_rows: int
    counts: Tensor
    jaccard: Tensor
    phi: Tensor


class FeatureAnalyzer:
    """Relations among the features of a coder, and their effects on the model's output.

    Args:
        coder: A `SparseAutoencoder` or anything with `encode`, `decode` and `dictionary`.
        model: The model whose activations are coded; needed for effects.
        site: Where the activations are.

    Raises:
        TypeError: When the coder is of the wrong kind.
        ValueError: When a model comes without a site or a site without a model.

    Examples:
        >>> from neuros_mechint.sae import SparseAutoencoder
        >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
        >>> eye = torch.eye(2)
        >>> _ = coder.load_state_dict({"W_enc": eye, "W_dec": eye}, strict=False)
        >>> analyzer = FeatureAnalyzer(coder, nn.Identity(), "")
        >>> analyzer.coactivation(torch.tensor([[1.0, 1.0], [2.0, 0.0]])).counts
        tensor([[2, 1],
                [1, 1]])
        >>> frame = analyzer.attribute(torch.tensor([[1.0, 4.0]]), lambda y: y @ torch.ones(2))
        >>> frame[["feature", "attribution"]].values.tolist()
        [[1.0, 4.0], [0.0, 1.0]]
    """

    def __init__(
        self, coder: Coding, model: nn.Module | None = None, site: SiteLike | None = None
    ) -> None:
        check_coder(coder)
        if (model is None) != (site is None):
            raise ValueError("model= and site= are needed together")
        self.coder, self.model, self.site = coder, model, site

    def coactivation(
        self,
        data: Tensor | ActivationStore | Iterable[Tensor],
        *,
        features: Sequence[int] | None = None,
        site: SiteLike | None = None,
        batch_size: int = 1024,
    ) -> Coactivation:
        """Count how often features are active together.

        Args:
            data: Activations: a tensor (..., width), an `ActivationStore`, or an iterable of
                tensors.
            features: Which; None takes all, which makes matrices of their number squared.
            site: Site of a store that holds several.
            batch_size: Rows that are coded at once.

        Returns:
            Counts and two normalised forms.

        Raises:
            IndexError: When there is no such feature.
            ValueError: When data give no rows.

        Examples:
            See the class.
        """
        ids = feature_numbers(self.coder, features)
        counts = torch.zeros(len(ids), len(ids), dtype=torch.int64)
        n_rows = 0
        with coding(self.coder):
            for rows in row_batches(data, site, batch_size):
                active = (self.coder.encode(rows)[:, ids] > 0).float().cpu()
                # Up to 2^24 rows in a batch float32 counts exactly.
                counts += (active.T @ active).long()
                n_rows += len(rows)
        if not n_rows:
            raise ValueError("data gave no rows, so there is nothing to count")
        return Coactivation(ids, n_rows, counts, *_normalised(counts.double(), n_rows))

    def decoder_graph(
        self, *, threshold: float = 0.3, features: Sequence[int] | None = None
    ) -> "nx.Graph[int]":
        """Connect features whose directions are similar.

        Args:
            threshold: Smallest cosine of an edge.
            features: Which; None takes all.

        Returns:
            An undirected graph with every feature as a node and the attribute `cosine` on edges.

        Raises:
            IndexError: When there is no such feature.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=3)
            >>> directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
            >>> _ = coder.load_state_dict({"W_dec": directions}, strict=False)
            >>> sorted(FeatureAnalyzer(coder).decoder_graph(threshold=0.7).edges)
            [(1, 2)]
        """
        import networkx as nx

        ids = feature_numbers(self.coder, features)
        unit = nn.functional.normalize(self.coder.dictionary.detach()[ids].double().cpu(), dim=1)
        cosines = (unit @ unit.T).triu(diagonal=1)
        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(ids.tolist())
        for i, j in (cosines > max(threshold, 0.0)).nonzero().tolist():
            graph.add_edge(int(ids[i]), int(ids[j]), cosine=float(cosines[i, j]))
        return graph

    def attribute(self, inputs: Any, metric: Callable[[Any], Tensor]) -> "pd.DataFrame":
        r"""Attribute a metric of the output to features, $\sum_{positions} f_i \, dM/df_i$.

        The coder is spliced in with its error kept, so that the model computes what it computes
        without it. The product is exact for what the model does linearly.

        Args:
            inputs: One batch, as the model takes it: a tuple of positional arguments, a mapping of
                keyword arguments, or the one argument.
            metric: Of the output: one value per row, or a scalar.

        Returns:
            Columns feature, attribution (mean over the rows of the batch) and activation (mean over
            rows of the sum over positions); features that are active somewhere, from the largest
            absolute attribution on.

        Raises:
            RuntimeError: When the site is not reached.
            ValueError: When the analyzer has no model, or the metric does not depend on the site.

        Examples:
            See the class.
        """
        import pandas as pd

        model, site = self._bound()
        args, kwargs = arguments = batch_arguments(model, inputs)
        tap = _Tap(self.coder)
        with torch.enable_grad(), evaluating(model):
            output = run(
                model, *args, edits={site: Splice(tap, keep_error=True)}, **kwargs
            ).output  # fmt: skip
            total = _per_row(metric(output), count_rows(arguments)).sum()
            gradient = _gradient(total, tap.features)
        f = tap.features.detach()
        n_rows = count_rows(arguments)
        F = f.shape[-1]
        attribution = (f * gradient).reshape(-1, F).sum(0).double() / n_rows
        activation = f.reshape(-1, F).sum(0).double() / n_rows
        frame = pd.DataFrame(
            {
                "feature": torch.arange(F).numpy(),
                "attribution": attribution.cpu().numpy(),
                "activation": activation.cpu().numpy(),
            }
        )
        frame = frame[activation.cpu().numpy() > 0]
        order = frame["attribution"].abs().sort_values(ascending=False, kind="stable").index
        return frame.loc[order].reset_index(drop=True)

    def ablate(
        self,
        inputs: Any,
        metric: Callable[[Any], Tensor],
        *,
        features: Sequence[int] | None = None,
        batch_size: int = 64,
    ) -> "pd.DataFrame":
        """Set features to zero one by one and measure what changes.

        The coder's error stays, so that only the feature itself goes: the activation loses its
        value times its direction.

        Args:
            inputs: One batch, as the model takes it.
            metric: Of the output: one value per row, or a scalar.
            features: Which; None takes those that are active somewhere in the batch.
            batch_size: Most rows in one forward.

        Returns:
            Columns feature, baseline, ablated and effect (ablated - baseline), means over the rows
            of the batch, from the largest absolute effect on.

        Raises:
            IndexError: When there is no such feature.
            RuntimeError: When the site is not reached.
            ValueError: When the analyzer has no model.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
            >>> eye = torch.eye(2)
            >>> _ = coder.load_state_dict({"W_enc": eye, "W_dec": eye}, strict=False)
            >>> analyzer = FeatureAnalyzer(coder, nn.Identity(), "")
            >>> frame = analyzer.ablate(torch.tensor([[1.0, 4.0]]), lambda y: y.sum(-1))
            >>> frame[["feature", "effect"]].values.tolist()
            [[1.0, -4.0], [0.0, -1.0]]
        """
        import pandas as pd

        model, site = self._bound()
        args, kwargs = batch_arguments(model, inputs)
        n_rows = count_rows((args, kwargs))
        with coding(model, self.coder):
            output, cache = run(model, *args, capture=[site], **kwargs)
            baseline = float(_per_row(metric(output), n_rows).double().mean())
            f = self.coder.encode(cache[site])
            active = (f > 0).reshape(-1, f.shape[-1]).any(0).nonzero().flatten().tolist()
            ids = feature_numbers(self.coder, active if features is None else features)
            edits = [{site: _Without(f[..., i], self.coder.dictionary[i])} for i in ids.tolist()]
            outputs = run_batched(model, kwargs or args, edits, batch_size=batch_size)
            values = [float(_per_row(metric(out), n_rows).double().mean()) for out in outputs]
        frame = pd.DataFrame({"feature": ids.numpy(), "baseline": baseline, "ablated": values})
        frame["effect"] = frame["ablated"] - frame["baseline"]
        order = frame["effect"].abs().sort_values(ascending=False, kind="stable").index
        return frame.loc[order].reset_index(drop=True)

    def _bound(self) -> tuple[nn.Module, SiteLike]:
        if self.model is None or self.site is None:
            raise ValueError("effects need FeatureAnalyzer(coder, model, site)")
        return self.model, self.site


class _Tap:
    """A coder whose features are a leaf of the graph, for their gradient."""

    def __init__(self, coder: Coding) -> None:
        self._coder = coder
        self.features = torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            f = self._coder.encode(x)
        self.features = f.detach().requires_grad_()
        return self._coder.decode(self.features)


class _Without:
    """Edit that takes a feature's share out of an activation."""

    def __init__(self, f: Float[Tensor, "*batch"], direction: Float[Tensor, "latent"]) -> None:
        self._share = f[..., None] * direction

    def __call__(self, x: Tensor) -> Tensor:
        return x - self._share.to(x)


def _normalised(
    counts: Float[Tensor, "feature feature"], n_rows: int
) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
    n = counts.diagonal()
    either = n[:, None] + n - counts
    jaccard = torch.where(either > 0, counts / either.clamp(min=1), 0.0)
    spread = (n * (n_rows - n)).sqrt()
    product = spread[:, None] * spread
    covariance = n_rows * counts - n[:, None] * n
    return jaccard, torch.where(product > 0, covariance / product.clamp(min=1), 0.0)


def _per_row(value: Any, n_rows: int) -> Tensor:
    """One value per row of a metric; a scalar stands for the mean of them."""
    if not isinstance(value, Tensor):
        raise TypeError(f"metric needs to return a tensor, got {type(value).__name__}")
    return value.expand(n_rows) if value.ndim == 0 else value


def _gradient(total: Tensor, features: Tensor) -> Tensor:
    if not total.requires_grad:
        raise ValueError("metric does not depend on the features: no gradient reaches the site")
    gradient: Tensor
    (gradient,) = torch.autograd.grad(total, features, materialize_grads=True, allow_unused=True)
    return gradient
