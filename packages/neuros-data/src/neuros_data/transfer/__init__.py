"""Files from the network: whole or not at all, resumed where they were cut, checked by sha256.

A download goes to `NAME.part`, which a later run continues, and gets its name when its checksum
is right; what has a wrong one is set aside as `NAME.bad`.
"""

from neuros_data.transfer._pool import fetch_files
from neuros_data.transfer._remote import FetchedFile, RemoteFile, TransferFailure, TransferReport
from neuros_data.transfer._settings import TransferSettings

__all__ = [
    "FetchedFile",
    "RemoteFile",
    "TransferFailure",
    "TransferReport",
    "TransferSettings",
    "fetch_files",
]
