"""The frame of a report: both colour schemes, and nothing that waits for a script."""

import re

import pandas as pd
import pytest

from neuros_mechint.reporting import Report
from neuros_mechint.reporting._page import STYLE


def schemes() -> dict[str, dict[str, str]]:
    """Colours of each scheme by name."""
    light, dark = re.split(r"@media \(prefers-color-scheme: dark\)", STYLE)[:2]
    return {
        name: dict(re.findall(r"--([a-z]+): (#[0-9a-f]+);", part.split("}")[0]))
        for name, part in {"light": light, "dark": dark}.items()
    }


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Ratio of the Web Content Accessibility Guidelines 2, 1.4.3."""
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_black_on_white_has_the_contrast_of_the_guidelines() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21)


def test_both_schemes_name_the_same_colours() -> None:
    found = schemes()
    assert found["light"].keys() == found["dark"].keys() >= {"page", "ink", "soft", "link"}
    assert luminance(found["light"]["page"]) > 0.9
    assert luminance(found["dark"]["page"]) < 0.1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "band"])
@pytest.mark.parametrize("ink", ["ink", "soft", "link"])
def test_text_is_readable_in_both_schemes(scheme: str, ground: str, ink: str) -> None:
    colours = schemes()[scheme]
    assert contrast(colours[ink], colours[ground]) >= 4.5


def test_a_page_says_everything_without_a_script() -> None:
    made = Report("A title", provenance={"seed": 3})
    made.add_text("a paragraph")
    made.add_table(pd.DataFrame({"column": ["a cell"]}), caption="a caption")
    plain = re.sub(r"<script.*?</script>", "", made.to_html(), flags=re.DOTALL)
    # On paper the navigation is left out.
    screen = re.sub(r"@media print \{.*?\n\}", "", plain, flags=re.DOTALL)
    for text in ("A title", "a paragraph", "column", "a cell", "a caption", "Seed"):
        assert text in plain
    # Nothing is hidden until a script shows it, and nothing but a script needs one.
    assert not re.search(r"display:\s*none|visibility:\s*hidden|<[^>]* hidden", screen)
    assert not re.search(r"\son[a-z]+=", plain)
