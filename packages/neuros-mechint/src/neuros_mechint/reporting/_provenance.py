"""What made a report, as HTML."""

import json
from collections.abc import Mapping
from typing import Any

from neuros_mechint.reporting._escape import escape_text

__all__ = ["byline", "provenance_block"]

_NAMES = {
    "kind": "Kind",
    "created": "Created",
    "seed": "Seed",
    "git": "Code",
    "model_hash": "Model",
    "data_hash": "Data",
    "versions": "Versions",
    "config": "Configuration",
}


def byline(provenance: Mapping[str, Any]) -> str:
    """Write date and code state in one line."""
    parts = [provenance.get("created"), provenance.get("git")]
    return escape_text(" \N{MIDDLE DOT} ".join(str(part) for part in parts if part))


def provenance_block(provenance: Mapping[str, Any]) -> str:
    """Write the whole record, to be read and as JSON."""
    ordered = [key for key in _NAMES if key in provenance]
    ordered += [key for key in provenance if key not in _NAMES and key != "schema"]
    items = "\n".join(
        f"<dt>{escape_text(_NAMES.get(key, key))}</dt><dd>{_provenance_value(provenance[key])}</dd>"
        for key in ordered
    )
    # In a script element only "</" could end the block early.
    record = json.dumps(provenance, sort_keys=True).replace("<", "\\u003c")
    return (
        f'<h2 id="provenance">Provenance</h2>\n<dl>\n{items}\n</dl>\n'
        f'<script type="application/json" id="run-manifest">{record}</script>'
    )


def _provenance_value(value: object) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, dict) and all(isinstance(part, str) for part in value.values()):
        return "<br>".join(escape_text(f"{name} {part}") for name, part in value.items())
    if isinstance(value, dict | list):
        return f"<pre>{escape_text(json.dumps(value, indent=2))}</pre>"
    return escape_text(value)
