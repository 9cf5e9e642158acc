"""Graphs as text: JSON, Graphviz and Mermaid."""

import html
import json
from collections.abc import Mapping, Sequence

__all__ = ["dot_text", "json_text", "mermaid_text"]

Edges = Mapping[tuple[str, str], float]


def dot_text(nodes: Sequence[str], edges: Edges) -> str:
    """Digraph with quoted names; weights to three digits are the labels of the edges."""
    lines = [f"  {_quoted(node)};" for node in nodes]
    lines += [f'  {_quoted(u)} -> {_quoted(v)} [label="{w:.3g}"];' for (u, v), w in edges.items()]
    return "\n".join(["digraph {", *lines, "}"])


def json_text(nodes: Sequence[str], edges: Edges) -> str:
    """Object with nodes and edges, floats to their last digit."""
    listed = [{"source": u, "target": v, "weight": w} for (u, v), w in edges.items()]
    return json.dumps({"nodes": list(nodes), "edges": listed})


def mermaid_text(nodes: Sequence[str], edges: Edges) -> str:
    """Flowchart; the names are labels, because an identifier there may hold letters only."""
    number = {node: f"n{k}" for k, node in enumerate(nodes)}
    lines = [f'  {number[node]}["{_entities(node)}"]' for node in nodes]
    lines += [f'  {number[u]} -->|"{w:.3g}"| {number[v]}' for (u, v), w in edges.items()]
    return "\n".join(["flowchart LR", *lines])


def _quoted(name: str) -> str:
    # Graphviz reads backslashes in labels as escapes of its own; line breaks end a string nowhere.
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _entities(name: str) -> str:
    # Mermaid writes entities with # in place of &, so the # itself has to go first.
    escaped = html.escape(name.replace("#", "&num;"), quote=True).replace("&amp;num;", "&num;")
    return (
        escaped.replace("&#x27;", "&#39;").replace("&#", "#").replace("&", "#").replace("\n", " ")
    )
