"""One-file HTML reports."""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuros_core import RunManifest
from neuros_mechint.reporting._circuit_drawing import Edge, draw_circuit
from neuros_mechint.reporting._escape import escape_text
from neuros_mechint.reporting._page import PAGE, SCRIPT, STYLE
from neuros_mechint.reporting._provenance import byline, provenance_block
from neuros_mechint.reporting._sae_table import render_sae_scores
from neuros_mechint.reporting._svg import draw_matplotlib, embed_svg
from neuros_mechint.reporting._tables import check_frame, render_heat_map, render_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Report"]

# More edges than that are easier to read in a table.
_MOST_DRAWN = 60
_CIRCUIT_LEGEND = "Edges are as wide as their scores are large; blue and dashed ones are negative."
_PATCH_AXES = ("position", "head", "neuron")


class Report:
    """A report that grows from top to bottom and is saved as one HTML file.

    The file needs no network and no script: it carries its style, its figures as SVG and its
    numbers as tables. Scripts only add sorting. It follows the reader's light or dark setting.
    Every string is shown as it is, never read as markup.

    Args:
        title: heading of the page.
        provenance: what made the results: a `neuros_core.RunManifest`, or any mapping that JSON
            can hold. None records the versions and the code state of this process.

    Raises:
        TypeError: if `provenance` is of another type, or holds what JSON cannot.

    Examples:
        >>> import pandas as pd
        >>> report = Report("Decoding", provenance={"seed": 0})
        >>> report.add_heading("Accuracy")
        >>> report.add_table(pd.DataFrame({"layer": [1, 2], "r2": [0.4, 0.6]}))
        >>> "<td class=n data-v=0.4>0.4000</td>" in report.to_html()
        True
    """

    def __init__(
        self, title: str, *, provenance: RunManifest | Mapping[str, Any] | None = None
    ) -> None:
        if provenance is None:
            provenance = RunManifest.collect(kind="report")
        elif not isinstance(provenance, RunManifest | Mapping):
            raise TypeError(
                f"provenance must be a RunManifest or a mapping, got {type(provenance).__name__}"
            )
        record = provenance.to_dict() if isinstance(provenance, RunManifest) else provenance
        self._title = title
        # A copy through JSON: what the caller changes later does not reach the report.
        self._provenance: dict[str, Any] = json.loads(json.dumps(dict(record)))
        self._body: list[str] = []
        self._contents: list[str] = []
        self._n_tables = 0
        self._n_figures = 0

    def __repr__(self) -> str:
        return f"Report({self._title!r}, tables={self._n_tables}, figures={self._n_figures})"

    def add_heading(self, text: str, *, level: int = 2) -> None:
        """Start a section.

        Args:
            text: its heading, which also enters the table of contents.
            level: 2 for a section, 3 for a subsection.

        Raises:
            ValueError: if `level` is neither 2 nor 3.

        Examples:
            >>> Report("Run").add_heading("Methods")
        """
        if level not in (2, 3):
            raise ValueError(f"level must be 2 (section) or 3 (subsection), got {level}")
        anchor = f"section-{len(self._contents) + 1}"
        self._body.append(f'<h{level} id="{anchor}">{escape_text(text)}</h{level}>')
        kind = ' class="sub"' if level == 3 else ""
        self._contents.append(f'<li{kind}><a href="#{anchor}">{escape_text(text)}</a></li>')

    def add_text(self, text: str) -> None:
        r"""Add paragraphs.

        Args:
            text: plain text; a blank line starts a new paragraph.

        Examples:
            >>> Report("Run").add_text("First paragraph.\n\nSecond paragraph.")
        """
        for paragraph in re.split(r"\n\s*\n", text.strip()):
            if paragraph:
                self._body.append(f"<p>{escape_text(paragraph)}</p>")

    def add_table(self, frame: "pd.DataFrame", *, caption: str = "") -> None:
        """Add a sortable table.

        Args:
            frame: a data frame; its index is shown unless it is the default one.
            caption: what it shows.

        Raises:
            TypeError: if `frame` is not a data frame.

        Examples:
            >>> import pandas as pd
            >>> Report("Run").add_table(pd.DataFrame({"loss": [0.3]}), caption="Last epoch")
        """
        check_frame(frame)
        self._add_table(render_table(frame), caption)

    def add_patching(
        self, frame: "pd.DataFrame", *, value: str | None = None, caption: str = ""
    ) -> None:
        """Add the effects of patches as a heat map with its numbers.

        Args:
            frame: long form as of `ActivationPatcher.systematic_patching`, with a column `layer`,
                at most one of each of `position`, `head`, `neuron`, and the values; or wide form,
                whose index are the patches and whose columns the outputs.
            value: the column of a long frame to show; None is `recovery` if there, else `effect`.
            caption: what it shows.

        Raises:
            TypeError: if `frame` is not a data frame.
            ValueError: if the long frame lacks the value, or gives a patch twice, or a wide frame
                is given a `value`.

        Examples:
            >>> import pandas as pd
            >>> frame = pd.DataFrame({"layer": ["a", "b"], "recovery": [0.1, 0.9]})
            >>> Report("Run").add_patching(frame, caption="Recovery")
        """
        check_frame(frame)
        if "layer" in frame.columns:
            table, corner = _pivot_patches(frame, _patch_value(frame, value))
        elif value is not None:
            raise ValueError(
                f"value = {value!r} names a column of a long frame, but this one has no column "
                f"'layer'; leave value out for a wide frame"
            )
        else:
            table, corner = frame, " / ".join(str(name or "") for name in frame.index.names)
        self._add_table(render_heat_map(table, corner=corner), caption)

    def add_circuit(self, circuit: Any, *, caption: str = "") -> None:
        """Add a circuit as a drawing from left to right, edges as wide as the size of their scores.

        The scores are in a table below the drawing. A circuit of more than 60 edges is the table
        alone.

        Args:
            circuit: a `Circuit`, or anything with its `edges`, `nodes` and `scores`.
            caption: what it shows.

        Raises:
            TypeError: if `circuit` is something else.
            ValueError: if it has no edges, or the edges form a cycle.

        Examples:
            >>> from types import SimpleNamespace
            >>> edge = ("input", "output")
            >>> circuit = SimpleNamespace(edges={edge}, nodes=set(edge), scores={edge: 1.5})
            >>> Report("Run").add_circuit(circuit, caption="The only path")
        """
        if not all(hasattr(circuit, name) for name in ("edges", "nodes", "scores")):
            raise TypeError(
                f"circuit needs the edges, nodes and scores of a Circuit, got "
                f"{type(circuit).__name__}"
            )
        scores = {edge: float(circuit.scores.get(edge, math.nan)) for edge in sorted(circuit.edges)}
        if not scores:
            raise ValueError("the circuit has no edges to show; lower the threshold of its search")
        table = _edge_table(scores)
        if len(scores) > _MOST_DRAWN:
            self._add_table(table, caption)
            return
        number = self._n_figures + 1
        drawing = draw_circuit(scores, circuit.nodes)
        label = f"{caption or f'Figure {number}'}: {len(scores)} edges, listed below"
        svg = embed_svg(drawing, scope=f"drawing-{number}", label=label)
        self._n_figures = number
        self._body.append(
            f'<figure class="drawing" id="figure-{number}">\n'
            f'<div class="canvas" id="drawing-{number}" tabindex="0" role="region" '
            f'aria-label="Figure {number}">{svg}</div>\n'
            f"{_caption('Figure', number, caption, legend=_CIRCUIT_LEGEND)}\n</figure>\n"
            f'<details class="scores"><summary>Scores of {_count(scores)}</summary>\n'
            f'<div class="scroll" tabindex="0" role="region" aria-label="Scores of figure {number}'
            f'">\n{table}\n</div>\n</details>'
        )

    def add_sae(self, metrics: Any, *, caption: str = "") -> None:
        """Add the scores of a sparse coder, or compare those of several.

        Args:
            metrics: a `SAEMetrics`, or a mapping from names of coders to them.
            caption: what it shows.

        Raises:
            TypeError: if something is no `SAEMetrics`.
            ValueError: if the mapping is empty.

        Examples:
            >>> from collections import namedtuple
            >>> scores = namedtuple("SAEMetrics", ["l0", "fvu"])(32.0, 0.05)
            >>> Report("Run").add_sae({"topk": scores, "relu": scores}, caption="Two coders")
        """
        self._add_table(render_sae_scores(metrics), caption)

    def add_figure(
        self, figure: "Figure | str", *, caption: str = "", alt: str | None = None
    ) -> None:
        """Add a figure as inline SVG.

        Args:
            figure: a matplotlib figure, or SVG source without scripts and outside references.
            caption: what it shows.
            alt: description for those who cannot see it; None is the caption.

        Raises:
            TypeError: if `figure` is neither.
            ValueError: if the SVG is malformed or not self-contained.

        Examples:
            >>> Report("Run").add_figure('<svg viewBox="0 0 1 1"></svg>', caption="Nothing")
        """
        if isinstance(figure, str):
            source = figure
        elif hasattr(figure, "savefig"):
            source = draw_matplotlib(figure)
        else:
            raise TypeError(
                f"figure must be a matplotlib Figure or SVG source, got {type(figure).__name__}"
            )
        number = self._n_figures + 1
        label = alt or caption or f"Figure {number}"
        svg = embed_svg(source, scope=f"drawing-{number}", label=label)
        self._n_figures = number
        self._body.append(
            f'<figure class="drawing" id="figure-{number}">\n'
            f'<div class="paper" id="drawing-{number}">{svg}</div>\n'
            f"{_caption('Figure', number, caption)}\n</figure>"
        )

    def to_html(self) -> str:
        """Return the whole page.

        Returns:
            HTML source.

        Examples:
            >>> Report("Run").to_html().startswith("<!DOCTYPE html>")
            True
        """
        contents = [*self._contents, '<li><a href="#provenance">Provenance</a></li>']
        return PAGE.format(
            title=escape_text(self._title),
            byline=byline(self._provenance),
            style=STYLE,
            contents="\n".join(contents),
            body="\n".join([*self._body, provenance_block(self._provenance)]),
            script=SCRIPT,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; a reader never sees half of it.

        Args:
            path: where to; an existing file is replaced.

        Returns:
            The path.

        Raises:
            FileNotFoundError: if the folder does not exist.

        Examples:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Report("Run").save(Path(folder) / "run.html").name
            'run.html'
        """
        target = Path(path)
        # In the same folder, because a rename is atomic only within one file system.
        draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            draft.write_text(self.to_html(), encoding="utf-8", newline="\n")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return target

    def _add_table(self, table: str, caption: str) -> None:
        self._n_tables += 1
        number = self._n_tables
        self._body.append(
            f'<figure class="table" id="table-{number}">\n{_caption("Table", number, caption)}\n'
            f'<div class="scroll" tabindex="0" role="region" aria-label="Table {number}">\n'
            f"{table}\n</div>\n</figure>"
        )


def _caption(kind: str, number: int, text: str, *, legend: str = "") -> str:
    more = f'<span class="legend">{legend}</span>' if legend else ""
    return f"<figcaption><b>{kind} {number}.</b> {escape_text(text)}{more}</figcaption>"


def _edge_table(scores: Mapping[Edge, float]) -> str:
    import pandas as pd

    rows = [(source, target, score) for (source, target), score in scores.items()]
    # Largest first; NaN is smaller than nothing.
    rows.sort(key=lambda row: -1.0 if math.isnan(row[2]) else abs(row[2]), reverse=True)
    return render_table(pd.DataFrame(rows, columns=["from", "to", "score"]))


def _count(scores: Mapping[Edge, float]) -> str:
    return "the edge" if len(scores) == 1 else f"the {len(scores)} edges"


def _patch_value(frame: "pd.DataFrame", value: str | None) -> str:
    candidates = ("recovery", "effect") if value is None else (value,)
    for name in candidates:
        if name in frame.columns:
            return name
    raise ValueError(
        f"the frame has no column {' or '.join(map(repr, candidates))}, only "
        f"{', '.join(map(repr, frame.columns))}; name one with value="
    )


def _pivot_patches(frame: "pd.DataFrame", value: str) -> tuple["pd.DataFrame", str]:
    """Layers down, patched parts across; both in the order of the frame."""
    axes = [name for name in _PATCH_AXES if name in frame.columns]
    if frame.duplicated(["layer", *axes]).any():
        raise ValueError(
            f"the frame gives a patch more than once per {', '.join(['layer', *axes])}; "
            f"average it over its other columns first"
        )
    if not axes:
        return frame.set_index("layer")[[value]], "layer"
    table = frame.set_index(["layer", *axes])[value].unstack(axes)
    layers = frame["layer"].drop_duplicates()
    return table.loc[layers], "layer \N{MULTIPLICATION SIGN} " + " / ".join(axes)
