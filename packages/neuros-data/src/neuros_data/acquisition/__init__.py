"""Archives of recordings: how each is listed, downloaded and prepared.

One module an archive; importing one imports no client of it. `neuros_data.acquisition.source` has
what they share and finds those that installed packages offer.
"""

from neuros_data.acquisition.source import Prepared, SessionInfo, Source, sources

__all__ = ["Prepared", "SessionInfo", "Source", "sources"]
