"""Tables of a sweep: one row per patch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from neuros_mechint.activations._container import first_tensor

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["difference_table", "metric_table", "share"]


def share(clean: float, corrupted: float, patched: float) -> float:
    # `not >` also refuses NaN.
    if not abs(clean - corrupted) > 1e-8 * max(abs(clean), abs(corrupted)):
        raise ValueError(
            f"clean and corrupted do not differ in the metric: {clean} and {corrupted}; choose "
            "inputs or a metric that tell them apart"
        )
    return (patched - corrupted) / (clean - corrupted)


def metric_table(
    labels: Sequence[Mapping[str, Any]], values: Mapping[int, float], clean: float
) -> "pd.DataFrame":
    import pandas as pd

    target = values[0]
    found = [values[k] for k in range(1, len(labels) + 1)]
    # By column: a table of dicts takes longer than the forwards of a small sweep.
    names = dict.fromkeys(name for label in labels for name in label)
    columns: dict[str, list[Any]] = {name: [label.get(name) for label in labels] for name in names}
    columns["value"] = found
    columns["effect"] = [value - target for value in found]
    columns["recovery"] = [share(clean, target, value) for value in found]
    return pd.DataFrame(columns)


def difference_table(
    labels: Sequence[Mapping[str, Any]], outputs: Iterator[tuple[int, Any]]
) -> "pd.DataFrame":
    import pandas as pd

    target = first_tensor(next(outputs)[1])
    rows = {k: (first_tensor(output) - target).double().mean(0) for k, output in outputs}
    shape = target.shape[1:]
    names = list(labels[0])
    index = (
        pd.Index([label["layer"] for label in labels], name="layer")
        if len(names) == 1
        else pd.MultiIndex.from_tuples([tuple(label.values()) for label in labels], names=names)
    )
    columns = (
        pd.RangeIndex(shape.numel(), name="output")
        if len(shape) < 2
        else pd.MultiIndex.from_product([range(n) for n in shape])
    )
    data = torch.stack([rows[k + 1].reshape(-1) for k in range(len(labels))])
    return pd.DataFrame(data.cpu().numpy(), index=index, columns=columns)
