"""What single features respond to: the inputs that drive them most, in one pass over the data."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from neuros_mechint.activations import SiteLike
from neuros_mechint.activations._container import first_tensor
from neuros_mechint.sae._rows import Coding, check_coder, coding, feature_numbers, model_batches
from neuros_mechint.sae._strongest import StrongestInputs

__all__ = ["FeatureReport", "interpret_feature", "interpret_features"]


class FeatureReport(NamedTuple):
    """What one feature responds to.

    Attributes:
        feature: Its number.
        top_inputs: The inputs that drive it most, strongest first; each counts with its peak.
        rows: Numbers of those inputs in the data set, shape (n,).
        positions: Where in each input the feature peaks, shape (n, axes): the axes of the
            activation between the first and the last.
        activations: The feature at those peaks, shape (n,); only inputs at which it is active.
        traces: The feature at every position of those inputs, shape (n, ...); inputs of different
            lengths are filled up with NaN.
        density: Share of all positions at which the feature is active.
        max: Its largest activation.
        mean_when_active: Its mean where it is active, NaN when it never is.
        readout: Effect of one unit of the feature on every output of the readout, None without.
    """

    feature: int
    top_inputs: tuple[Tensor, ...]
    rows: Tensor
    positions: Tensor
    activations: Tensor
    traces: Tensor
    density: float
    max: float
    mean_when_active: float
    readout: Tensor | None = None


def interpret_feature(
    coder: Coding,
    feature_id: int,
    model: nn.Module,
    dataloader: Iterable[Any],
    top_k: int = 10,
    *,
    site: SiteLike,
    readout: str | Tensor | None = None,
) -> FeatureReport:
    """Find what a feature responds to; `interpret_features` for one feature.

    Args:
        coder: A `SparseAutoencoder` or anything with `encode`, `decode` and `dictionary`.
        feature_id: Its number.
        model: The model whose activations are coded.
        dataloader: Batches of inputs.
        top_k: How many inputs to show.
        site: Where the activations are.
        readout: As in `interpret_features`.

    Returns:
        The report.

    Raises:
        IndexError: When there is no such feature.
        TypeError: When the coder or the readout is of the wrong kind.
        ValueError: As `interpret_features`.

    Examples:
        >>> import torch
        >>> from neuros_mechint.sae import SparseAutoencoder
        >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
        >>> _ = coder.load_state_dict({"W_enc": torch.eye(2)}, strict=False)
        >>> data = [torch.tensor([[[1.0, 0.0], [5.0, 0.0]], [[0.0, 2.0], [3.0, 0.0]]])]
        >>> report = interpret_feature(coder, 0, nn.Identity(), data, site="")
        >>> report.activations, report.positions.flatten(), report.density
        (tensor([5., 3.]), tensor([1, 1]), 0.75)
    """
    reports = interpret_features(
        coder, [feature_id], model, dataloader, top_k, site=site, readout=readout
    )
    return reports[0]


def interpret_features(
    coder: Coding,
    feature_ids: Sequence[int],
    model: nn.Module,
    dataloader: Iterable[Any],
    top_k: int = 10,
    *,
    site: SiteLike,
    readout: str | Tensor | None = None,
) -> list[FeatureReport]:
    """Find what features respond to, all of them in one pass over the data.

    Args:
        coder: A `SparseAutoencoder` or anything with `encode`, `decode` and `dictionary`.
        feature_ids: Their numbers.
        model: The model whose activations are coded; it runs up to the site.
        dataloader: Batches of inputs; their first tensor is what the reports show.
        top_k: How many inputs to show for each feature.
        site: Where the activations are; their first dimension is that of the inputs.
        readout: What reads the site linearly: the path of a module with a `weight` of shape
            (out, width), such as the unembedding, or such a matrix.

    Returns:
        One report per feature, in the order of `feature_ids`.

    Raises:
        IndexError: When there is no such feature.
        TypeError: When the coder or the readout is of the wrong kind.
        ValueError: When data give no inputs, `top_k` is less than 1, the site does not keep the
            rows of the inputs, or the readout does not fit.

    Examples:
        >>> import torch
        >>> from neuros_mechint.sae import SparseAutoencoder
        >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
        >>> eye = torch.eye(2)
        >>> _ = coder.load_state_dict({"W_enc": eye, "W_dec": eye}, strict=False)
        >>> reports = interpret_features(
        ...     coder, [1, 0], nn.Identity(), [torch.tensor([[1.0, 7.0]])], site="", readout=2 * eye
        ... )
        >>> [(report.feature, report.max, report.readout) for report in reports]
        [(1, 7.0, tensor([0., 2.])), (0, 1.0, tensor([2., 0.]))]
    """
    check_coder(coder)
    ids = feature_numbers(coder, feature_ids)
    if top_k < 1:
        raise ValueError(f"top_k needs at least 1, got {top_k}")
    weights = None if readout is None else _readout_weights(coder, model, readout)
    seen = StrongestInputs(len(ids), top_k)
    with coding(model, coder):
        for batch in model_batches(model, dataloader, [site], 1, whole=False):
            inputs, (value,) = first_tensor(batch.arguments), batch.values
            if value.ndim < 2 or len(value) != len(inputs):
                raise ValueError(
                    f"site '{site}' gave shape {tuple(value.shape)} for {len(inputs)} "
                    "inputs; its first dimension has to be that of the inputs"
                )
            seen.update(inputs, coder.encode(value)[..., ids])
    if not seen.n_inputs:
        raise ValueError("dataloader gave no inputs, so there is nothing to interpret")
    reports = []
    for k, feature in enumerate(ids.tolist()):
        record = seen.record(k)
        readout_k = None if weights is None else weights[feature]
        reports.append(FeatureReport(feature, *record, readout_k))
    return reports


def _readout_weights(coder: Coding, model: nn.Module, readout: str | Tensor) -> Tensor:
    """Effect of one unit of every feature on the outputs, (feature, out)."""
    weight = readout if isinstance(readout, Tensor) else getattr(
        model.get_submodule(readout), "weight", None
    )  # fmt: skip
    width = coder.dictionary.shape[1]
    if not isinstance(weight, Tensor):
        raise TypeError(f"readout {readout!r} has no weight; pass the matrix (out, {width}) itself")
    if weight.ndim != 2 or weight.shape[1] != width:
        raise ValueError(
            f"readout needs a matrix of shape (out, {width}), got {tuple(weight.shape)}"
        )
    return coder.dictionary.detach() @ weight.detach().to(coder.dictionary).T
