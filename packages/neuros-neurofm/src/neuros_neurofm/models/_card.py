"""The model card: what the weights are, were trained on and are good for."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["card_text"]

_SECTIONS = ("data", "species", "metrics", "licence", "limits")


def card_text(
    config: Mapping[str, Any], facts: Mapping[str, object], units: Mapping[str, int], n: int
) -> str:
    """The card, Markdown with a YAML head; facts that nobody gave are said to be missing."""
    named = [f"- {name}: {units[name]} named units" for name in config["modalities"]]
    lines = ["---", "library_name: neuros-neurofm", "tags:", "- neuroscience", "---", ""]
    lines += ["# MultiModalNeuroFMX", "", f"{n:,} parameters.", "", "## Modalities", "", *named]
    for section in _SECTIONS:
        lines += ["", f"## {section.capitalize()}", "", _markdown(facts.get(section))]
    lines += ["", "## Configuration", "", "```json"]
    lines += [json.dumps(config, indent=2, sort_keys=True), "```", ""]
    return "\n".join(lines)


def _markdown(value: object) -> str:
    if value is None:
        return "Not stated."
    if isinstance(value, Mapping):
        return "\n".join(f"- {key}: {item}" for key, item in value.items())
    return str(value)
