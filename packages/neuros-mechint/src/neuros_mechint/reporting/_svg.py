"""Drawings for embedding: parsed, checked, and with ids that no other drawing has."""

import io
import re
from typing import Any
from xml.parsers import expat

from neuros_mechint.reporting._escape import escape_text

__all__ = ["draw_matplotlib", "embed_svg"]

_SHAPES = {
    "svg",
    "g",
    "defs",
    "title",
    "desc",
    "path",
    "rect",
    "circle",
    "ellipse",
    "line",
    "polyline",
    "polygon",
    "text",
    "tspan",
    "textPath",
    "clipPath",
    "mask",
    "linearGradient",
    "radialGradient",
    "stop",
    "pattern",
    "image",
    "use",
    "symbol",
    "marker",
    "style",
    "filter",
    "switch",
}
_FILTER_PARTS = {
    "feBlend",
    "feColorMatrix",
    "feComponentTransfer",
    "feComposite",
    "feConvolveMatrix",
    "feDiffuseLighting",
    "feDisplacementMap",
    "feDistantLight",
    "feDropShadow",
    "feFlood",
    "feFuncA",
    "feFuncB",
    "feFuncG",
    "feFuncR",
    "feGaussianBlur",
    "feMerge",
    "feMergeNode",
    "feMorphology",
    "feOffset",
    "fePointLight",
    "feSpecularLighting",
    "feSpotLight",
    "feTile",
    "feTurbulence",
}
_ELEMENTS = _SHAPES | _FILTER_PARTS
_DROPPED = frozenset({"metadata"})
_DATA_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")
_URL = re.compile(r"url\(\s*(['\"]?)(.*?)\1\s*\)", re.IGNORECASE | re.DOTALL)
_SAFE_ID = re.compile(r"[^\w.-]")


def draw_matplotlib(figure: Any) -> str:
    """Render a matplotlib figure with text as text and without a background of its own.

    Args:
        figure: the figure.

    Returns:
        SVG source.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> "<svg" in draw_matplotlib(Figure())
        True
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    # A fixed salt makes equal figures equal text; a date would make every report differ.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "neuros"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
    return buffer.getvalue()


def embed_svg(source: str, *, scope: str, label: str) -> str:
    """Turn an SVG document into an element that stands inside a page.

    Args:
        source: the document.
        scope: id of the element that will hold the drawing; every id in it starts with that.
        label: what a screen reader says.

    Returns:
        One `<svg>` element.

    Raises:
        ValueError: if the source is not well-formed, holds scripts, handlers or foreign content,
            or refers to anything outside itself.

    Examples:
        >>> embed_svg('<svg viewBox="0 0 1 1"><g id="a"/></svg>', scope="f1", label="A dot")
        '<svg viewBox="0 0 1 1" role="img" aria-label="A dot"><g id="f1-a"></g></svg>'
    """
    return _Embedder(scope, label).run(source)


class _Embedder:
    """Rewrites one document, element by element."""

    def __init__(self, scope: str, label: str) -> None:
        self._scope = scope
        self._prefix = f"{scope}-"
        self._label = label
        self._parts: list[str] = []
        self._depth = 0
        self._skipped_from: int | None = None
        self._style: list[str] | None = None

    def run(self, source: str) -> str:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = _refuse_entity
        try:
            parser.ParseFile(io.BytesIO(source.strip().encode("utf-8", "replace")))
        except expat.ExpatError as error:
            raise ValueError(f"the SVG is not well-formed XML: {error}") from error
        return "".join(self._parts)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._skipped_from is not None:
            return
        if (self._depth == 1) != (name == "svg"):
            raise ValueError(
                f"the SVG needs exactly one <svg>, its root, got <{name}> at depth {self._depth}"
            )
        # A prefix marks the private data of an editor, which draws nothing.
        if name in _DROPPED or ":" in name:
            self._skipped_from = self._depth
            return
        if name not in _ELEMENTS:
            raise ValueError(
                f"the SVG holds <{name}>, which a report does not embed; "
                f"draw it with shapes, text and embedded images only"
            )
        if name == "style":
            self._style = []
            return
        written = self._root(attributes) if self._depth == 1 else attributes
        pairs = "".join(self._attribute(key, value) for key, value in written.items())
        self._parts.append(f"<{name}{pairs}>")

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._skipped_from is not None:
            if self._depth < self._skipped_from:
                self._skipped_from = None
            return
        if name == "style":
            self._parts.append(self._scoped_style())
            return
        self._parts.append(f"</{name}>")

    def _text(self, text: str) -> None:
        if self._skipped_from is not None:
            return
        if self._style is not None:
            self._style.append(text)
        else:
            self._parts.append(escape_text(text))

    def _root(self, attributes: dict[str, str]) -> dict[str, str]:
        kept = {
            key: value
            for key, value in attributes.items()
            if not key.startswith("xmlns") and key not in ("version", "role", "aria-label", "id")
        }
        if "viewBox" not in kept:
            size = [re.match(r"[\d.]+", kept.get(key, "")) for key in ("width", "height")]
            if all(size):
                kept["viewBox"] = "0 0 " + " ".join(match.group() for match in size if match)
        kept["role"] = "img"
        kept["aria-label"] = self._label
        return kept

    def _attribute(self, name: str, value: str) -> str:
        if name.startswith("on"):
            raise ValueError(f"the SVG holds the handler {name}, a report runs no foreign script")
        if name in ("href", "xlink:href"):
            value = self._reference(value)
        elif name == "id":
            value = self._prefix + _SAFE_ID.sub("_", value)
        elif ":" in name:
            return "" if name != "xml:space" else f' xml:space="{escape_text(value)}"'
        else:
            value = self._urls(value)
        return f' {name}="{escape_text(value)}"'

    def _reference(self, value: str) -> str:
        value = value.strip()
        if value.startswith("#"):
            return "#" + self._prefix + _SAFE_ID.sub("_", value[1:])
        if _DATA_IMAGE.fullmatch(value):
            return value
        raise ValueError(
            f"the SVG refers to {value[:80]!r}, a report loads nothing; embed it as a PNG data URI"
        )

    def _urls(self, value: str) -> str:
        return _URL.sub(lambda match: f"url({self._reference(match.group(2))})", value)

    def _scoped_style(self) -> str:
        """The style sheet nested under this drawing: unscoped it would restyle the page."""
        sheet = "".join(self._style or [])
        self._style = None
        sheet = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL).strip()
        if re.search(r"[@<\\]", sheet) or not _balanced(sheet):
            raise ValueError(
                "the SVG's style sheet holds @-rules, escapes or unmatched braces, which cannot "
                "be confined to one figure; use attributes"
            )
        sheet = re.sub(r"#(?=[A-Za-z_][\w-]*\s*[^{};]*\{)", f"#{self._prefix}", self._urls(sheet))
        return f"<style>#{self._scope}{{{sheet}}}</style>" if sheet else ""


def _refuse_entity(name: str, *_: object) -> None:
    raise ValueError(f"the SVG declares the entity {name}; write its text out")


def _balanced(sheet: str) -> bool:
    depth = 0
    for brace in re.findall(r"[{}]", sheet):
        depth += 1 if brace == "{" else -1
        if depth not in (0, 1):
            return False
    return depth == 0
