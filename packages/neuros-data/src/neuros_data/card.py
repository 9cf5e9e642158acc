"""A data card: what a store holds, who, what is missing, and why its splits do not leak."""

import os
from dataclasses import dataclass
from pathlib import Path

from neuros_data._card_facts import (
    about,
    duplicates_and_faults,
    exclusions,
    holdings,
    labels,
    missing,
    splits,
    terms,
)
from neuros_data._card_forecasts import forecasts
from neuros_data._card_page import Section, to_html, to_markdown
from neuros_data._card_thumbnails import thumbnails
from neuros_data.check import check_store
from neuros_data.store import Store

__all__ = ["DataCard", "Section", "data_card"]


@dataclass(frozen=True)
class DataCard:
    """A store's card; `str()` is its Markdown.

    Attributes:
        title: Name of the data.
        sections: What it says, in order.

    Examples:
        >>> print(DataCard("Mice", (Section("What", ("Two mice.",)),)))
        # Mice
        <BLANKLINE>
        ## What
        <BLANKLINE>
        Two mice.
        <BLANKLINE>
    """

    title: str
    sections: tuple[Section, ...]

    def __str__(self) -> str:
        return self.to_markdown()

    def to_markdown(self) -> str:
        """Write the card as Markdown, without its figures."""
        return to_markdown(self.title, self.sections)

    def to_html(self) -> str:
        """Write the card as one HTML page that loads nothing from elsewhere."""
        return to_html(self.title, self.sections)

    def save(self, path: str | os.PathLike[str]) -> Path:
        r"""Write the card; the ending decides the format.

        Args:
            path: Ends in `.md` or `.html`.

        Returns:
            The path.

        Raises:
            ValueError: Another ending.

        Examples:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     DataCard("Mice", ()).save(folder + "/card.md").read_text()
            '# Mice\n'
        """
        target = Path(path)
        writers = {".md": self.to_markdown, ".html": self.to_html}
        if target.suffix not in writers:
            raise ValueError(f"a card is written as .md or .html, got {target.name!r}")
        target.write_text(writers[target.suffix](), encoding="utf-8")
        return target


def data_card(store: Store) -> DataCard:
    """Read a store and describe it.

    The card holds: what and who; every kind of signal with its unit, rate and amount; labels with
    their balance and the score of always guessing the most frequent; what is missing or excluded,
    with reasons; every saved split with its proof; recordings that are equal; what `check_store`
    found; how well the next sample is predicted by the mean, by persistence and by autoregression;
    licence and citation; and the first seconds of every kind of signal, its spectrum, a raster.

    Args:
        store: The store; it is read once in full by `check_store`.

    Returns:
        The card.

    Examples:
        >>> import neuros_data
        >>> card = data_card(neuros_data.load_sample("emg"))
        >>> [section.title for section in card.sections][:3]
        ['What', 'Recordings', 'Signals']
    """
    report = check_store(store)
    sections = (
        *about(store),
        *holdings(store),
        *labels(store),
        *missing(store),
        *exclusions(store),
        *splits(store),
        *duplicates_and_faults(report),
        *forecasts(store),
        *thumbnails(store),
        *terms(store),
    )
    return DataCard(str(store.manifest.get("source") or store.path.name), sections)
