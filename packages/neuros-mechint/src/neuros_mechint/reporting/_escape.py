"""Text as HTML."""

import html
import re

__all__ = ["escape_text"]

# HTML forbids these characters even as references; a lone surrogate cannot be encoded at all.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def escape_text(value: object) -> str:
    """Write any value as HTML text, safe in an element and in a quoted attribute.

    Args:
        value: a string, or what `str` makes one of.

    Returns:
        The text with markup characters as references, and characters that HTML forbids replaced.

    Examples:
        >>> escape_text('<b title="x">')
        '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(value)))
