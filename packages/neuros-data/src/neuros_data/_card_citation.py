"""Citations as BibTeX, from the texts that sources and dandisets state."""

import re
import unicodedata
from collections.abc import Iterable

_DOI = re.compile(r"10\.\d{4,9}/[^\s;,]+")
# Authors are separated by semicolons too: a work ends where one follows its DOI.
_END = re.compile(rf"({_DOI.pattern});\s*")
_HEAD = re.compile(r"^(?P<author>.+?)\s*\((?P<year>\d{4})\)[,.:]?\s*(?P<rest>.*)$", re.DOTALL)


def to_bibtex(texts: Iterable[str]) -> str:
    """One entry for each work; what is not told apart stays in its note.

    Args:
        texts: Citations; in one text a semicolon after a DOI begins the next work.

    Returns:
        The entries, sorted by key, keys that would be equal told apart by a letter.
    """
    parts = (part for text in texts for part in _END.sub(r"\1\n", text).split("\n"))
    works = sorted({part.strip() for part in parts} - {""})
    taken: dict[str, int] = {}
    entries = []
    for work in works:
        key, fields = _fields(work)
        taken[key] = taken.get(key, 0) + 1
        key += "" if taken[key] == 1 else chr(ord("a") + taken[key] - 1)
        lines = [f"  {name} = {{{_escaped(value)}}}," for name, value in fields.items() if value]
        entries.append("\n".join([f"@misc{{{key},", *lines, "}"]))
    return "\n\n".join(sorted(entries))


def _fields(work: str) -> tuple[str, dict[str, str]]:
    doi = _DOI.search(work)
    head = _HEAD.match(work)
    author, year, rest = head.group("author", "year", "rest") if head else ("", "", "")
    # A title ends at a comma or a full stop; what stands behind it is journal, volume and page.
    title = re.split(r"[,.] ", rest, maxsplit=1)[0].rstrip(".")
    fields = {
        "author": author.replace(" et al.", " and others").replace("; ", " and "),
        "title": "" if title.startswith("doi:") else title,
        "year": year,
        "doi": doi[0].rstrip(".)") if doi else "",
        "note": work,
    }
    first = re.sub(r"[^a-z]", "", _plain(re.split(r"[,\s]", author or work)[0]).lower())
    return f"{first or 'cited'}{year}", fields


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKD", text)


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
