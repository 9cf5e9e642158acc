"""Scores of sparse coders as tables."""

from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat

from neuros_mechint.reporting._escape import escape_text
from neuros_mechint.reporting._tables import format_number, render_table

__all__ = ["render_sae_scores"]

# Field of SAEMetrics -> what a reader calls it, and what it says.
_FIELDS = {
    "n_rows": ("Activations", "rows that were scored"),
    "l0": ("L0", "active features per activation"),
    "l1": ("L1", "sum of feature values per activation"),
    "fvu": ("Variance unexplained", "0 is a perfect reconstruction"),
    "explained_variance": ("Variance explained", "1 is a perfect reconstruction"),
    "cosine": ("Cosine", "between activation and reconstruction"),
    "dead_fraction": ("Dead features", "share that never fires"),
    "dense_fraction": ("Dense features", "share that fires on more than 10 % of the activations"),
    "loss_recovered": ("Loss recovered", "1 is the intact model, 0 the site set to zero"),
    "loss_recovered_mean": ("Loss recovered (mean)", "1 is the intact model, 0 the site's mean"),
    "absorption": ("Absorption", "share of a concept's rows that another feature codes instead"),
    "absorption_ablation": ("Absorption (ablation)", "the same, by what the model depends on"),
    "probing": ("Probing", "balanced accuracy, chance 0.5, on this many features"),
    "probing_dense": ("Probing (dense)", "the same on the activations themselves"),
}


def render_sae_scores(metrics: Any) -> str:
    """Write the scores of one coder, or of several by name, as a table.

    Args:
        metrics: A `SAEMetrics` or another named tuple of numbers, or a mapping from names to such.

    Returns:
        One `<table>` element: a line per score, or for several coders a line per coder.

    Raises:
        TypeError: When something is not a named tuple.
        ValueError: When a mapping is empty.

    Examples:
        >>> from collections import namedtuple
        >>> scores = namedtuple("Scores", ["l0", "fvu"])(32.0, 0.05)
        >>> "<td class=n data-v=0.05>0.05000</td>" in render_sae_scores({"topk": scores})
        True
    """
    if not isinstance(metrics, Mapping):
        return _one(metrics)
    if not metrics:
        raise ValueError("at least one coder is needed, got an empty mapping")
    import pandas as pd

    rows = {
        str(name): {label: value for label, _, value in _scores(one)}
        for name, one in metrics.items()
    }
    return render_table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("coder"))


def _one(metrics: object) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape_text(label)}</th><td class=n data-v={value!r}>'
        f"{format_number(value)}</td><td class=note>{escape_text(note)}</td></tr>\n"
        for label, note, value in _scores(metrics)
    )
    heads = "".join(f'<th scope="col"{kind}>{name}</th>' for name, kind in _HEADS)
    return (
        f'<table class="prose">\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{lines}</tbody>\n</table>"
    )


_HEADS = (("score", ""), ("value", " class=n"), ("meaning", ""))


def _scores(metrics: object) -> Iterator[tuple[str, str, SupportsFloat]]:
    """Label, note and value of every score that was measured."""
    fields = getattr(metrics, "_fields", None)
    if fields is None:
        raise TypeError(
            f"scores need a SAEMetrics, or a mapping from names to them, got "
            f"{type(metrics).__name__}"
        )
    for field in fields:
        label, note = _FIELDS.get(field, (field, ""))
        value = getattr(metrics, field)
        if isinstance(value, Mapping):
            for key, part in value.items():
                yield f"{label} ({key})", note, part
        elif value is not None:
            yield label, note, value
