"""Files read inside a source: what the reader warns of goes into the notes, once."""

import warnings
from pathlib import Path

from neuros_core import Modality
from neuros_data.acquisition.source import SessionInfo
from neuros_data.reading import Identity, Options, Reading, read_exact


def read_quietly(
    path: Path,
    modality: Modality | None,
    session: SessionInfo,
    *,
    species: str = "human",
    rate: float | None = None,
    atlas: Path | None = None,
    data: str | None = None,
) -> Reading:
    """Read a file as one session; its notes are in the result and are not warned besides.

    Args:
        path: The file.
        modality: What it holds; None leaves that to the file.
        session: Whose it is.
        species: Species of the subject; empty leaves that to the file.
        rate: Rate in Hz that goes before the one in the file.
        atlas: Map of labels for a file of volumes.
        data: Series to read of a file that holds several.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return read_exact(
            path,
            Options(modality=modality, rate=rate, atlas=atlas, data=data),
            Identity(session.id, session.subject, session.session, species),
        )
