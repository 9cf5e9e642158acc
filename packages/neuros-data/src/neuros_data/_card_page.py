"""A page of sections as Markdown and as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:64em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top}figure{margin:1em 0}"
    "figcaption{color:#555}svg{max-width:100%;height:auto}pre{overflow:auto;background:#f6f6f6;"
    "padding:1em}text{font:12px sans-serif;fill:#222}"
)


@dataclass(frozen=True)
class Section:
    """One heading with its text, table, code and figures.

    Attributes:
        title: Heading.
        text: Paragraphs.
        table: Header and rows; empty for none.
        code: Preformatted text, such as a citation; empty for none.
        figures: Pairs of caption and SVG.

    Examples:
        >>> Section("Who", table=(("subject",), ("s1",))).table[1]
        ('s1',)
    """

    title: str
    text: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    code: str = ""
    figures: tuple[tuple[str, str], ...] = ()


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Write headings, paragraphs, tables and code; figures belong to the HTML page."""
    blocks = [f"# {title}"]
    for section in sections:
        if section.figures and not (section.text or section.table or section.code):
            continue
        blocks += [f"## {section.title}", *section.text]
        if section.table:
            header, *rows = [" | ".join(_cell(c) for c in row) for row in section.table]
            rule = "|".join(["---"] * len(section.table[0]))
            blocks.append("\n".join([f"| {header} |", f"|{rule}|", *(f"| {r} |" for r in rows)]))
        if section.code:
            blocks.append(f"```\n{section.code}\n```")
    return "\n\n".join(blocks) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Write one page that needs no file and no network."""
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [f"<p>{escape(text)}</p>" for text in section.text]
        if section.table:
            header, *rows = section.table
            head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
            body = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        if section.code:
            parts.append(f"<pre>{escape(section.code)}</pre>")
        parts += [
            f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, svg in section.figures
        ]
    return "\n".join([*parts, "</body></html>"]) + "\n"
