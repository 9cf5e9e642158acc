"""The listing of a public S3 bucket (ListObjectsV2), fetched page by page."""

import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode
from xml.parsers.expat import ExpatError, ParserCreate

from neuros_data.errors import NetworkError

if TYPE_CHECKING:
    from neuros_data.transfer import TransferSettings

ALLEN_BUCKET = "https://allen-brain-observatory.s3.us-west-2.amazonaws.com"
ALLEN_TERMS = "Allen Institute Terms of Use"


@dataclass(frozen=True)
class S3Object:
    """One object of a bucket: its key, and its bytes."""

    key: str
    size: int


def list_bucket(bucket: str, prefix: str, transfer: "TransferSettings") -> list[S3Object]:
    """Every object below a prefix, sorted by key.

    Args:
        bucket: Address of the bucket.
        prefix: What the keys begin with.
        transfer: How the pages are fetched.

    Raises:
        NetworkError: When the bucket cannot be reached, or answers something else.
    """
    found: list[S3Object] = []
    marker: str | None = ""
    while marker is not None:
        query = {"list-type": "2", "prefix": prefix}
        if marker:
            query["continuation-token"] = marker
        url = f"{bucket.rstrip('/')}/?{urlencode(query)}"
        objects, marker = _read_page(fetch_bytes(url, transfer), url)
        found += objects
    return sorted(found, key=lambda o: o.key)


def fetch_bytes(url: str, transfer: "TransferSettings") -> bytes:
    """A small file, through the transfer engine."""
    from neuros_data.transfer import RemoteFile, fetch_files

    with tempfile.TemporaryDirectory() as folder:
        try:
            fetch_files([RemoteFile(url, "page")], folder, jobs=1, settings=transfer).check()
        except NetworkError as error:
            # A page is no file that a user could fetch by hand.
            reason = str(error).partition("; try again later")[0]
            raise NetworkError(
                f"{reason}; the list of sessions is there: try again when it can be reached"
            ) from error
        return (Path(folder) / "page").read_bytes()


def _read_page(page: bytes, url: str) -> tuple[list[S3Object], str | None]:
    reader = _PageReader()
    parser = ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.ParseFile(BytesIO(page))
    except ExpatError as error:
        raise NetworkError(f"{url} did not answer with a listing of a bucket: {error}") from error
    if reader.root != "ListBucketResult":
        raise NetworkError(f"{url} answered with {reader.root!r}, not with a listing of a bucket")
    return reader.objects, reader.marker


class _PageReader:
    """Follows the elements of one page; each `Contents` is one object."""

    def __init__(self) -> None:
        self.root = ""
        self.objects: list[S3Object] = []
        self.marker: str | None = None
        self._fields: dict[str, str] = {}
        self._text: list[str] = []

    def start(self, name: str, _attributes: object) -> None:
        self.root = self.root or name
        self._text = []
        if name == "Contents":
            self._fields = {}

    def text(self, text: str) -> None:
        self._text.append(text)

    def end(self, name: str) -> None:
        value = "".join(self._text).strip()
        if name == "NextContinuationToken":
            self.marker = value
        elif name in ("Key", "Size"):
            self._fields[name] = value
        elif name == "Contents":
            self.objects.append(S3Object(self._fields["Key"], int(self._fields["Size"])))
