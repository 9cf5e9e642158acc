"""A server on this machine that answers as an archive does."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from neuros_data.acquisition.source import SessionInfo, Source
from neuros_data.transfer import TransferSettings, fetch_files

Query = Mapping[str, str]
Answer = bytes | Callable[[Query, Mapping[str, str]], bytes | int]


@dataclass
class Archive:
    """Answers by path; a function is given the query and the headers, and may refuse by number."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, target: str, form: str, headers: Mapping[str, str]) -> bytes | int:
        parts = urlsplit(target)
        self.asked.append(target)
        found = self.answers.get(parts.path, 404)
        query = {k: v[0] for k, v in parse_qs(parts.query + "&" + form).items()}
        return found(query, headers) if callable(found) else found


def _handler(archive: Archive) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply("")

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def _reply(self, form: str) -> None:
            found = archive.answer(self.path, form, self.headers)
            body = b"" if isinstance(found, int) else found
            self.send_response(found if isinstance(found, int) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    return Handler


@pytest.fixture
def archive() -> Iterator[Archive]:
    """An archive without anything in it."""
    found = Archive()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def transfer() -> TransferSettings:
    """Impatient settings."""
    return TransferSettings(retries=1, backoff=0.01)


@pytest.fixture
def fetch(tmp_path: Path, transfer: TransferSettings) -> Callable[[Source, SessionInfo], Path]:
    """Download the files of one session into its folder."""

    def download(source: Source, session: SessionInfo) -> Path:
        folder = tmp_path / "raw" / session.id
        fetch_files(source.files(session), folder, settings=transfer).check()
        return folder

    return download


def listing(objects: Mapping[str, bytes], page: int = 1000) -> Answer:
    """A bucket's ListObjectsV2, as S3 writes it, `page` keys at a time."""

    def answer(query: Query, _headers: Mapping[str, str]) -> bytes:
        assert query["list-type"] == "2"
        keys = sorted(k for k in objects if k.startswith(query["prefix"]))
        first = int(query.get("continuation-token", "0"))
        shown, more = keys[first : first + page], first + page < len(keys)
        contents = "".join(
            f"<Contents><Key>{k.replace('&', '&amp;')}</Key>"
            "<LastModified>2019-10-03T21:29:54.000Z</LastModified>"
            f"<ETag>&quot;0f343b0931126a20f133d67c2b018a3b-2&quot;</ETag>"
            f"<Size>{len(objects[k])}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for k in shown
        )
        token = f"<NextContinuationToken>{first + page}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>allen-brain-observatory</Name><Prefix>{query['prefix']}</Prefix>{token}"
            f"<KeyCount>{len(shown)}</KeyCount><MaxKeys>{page}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{contents}</ListBucketResult>"
        ).encode()

    return answer


@pytest.fixture
def fill_bucket(archive: Archive) -> Callable[..., Archive]:
    """Put objects into the archive, and its listing at its root."""

    def fill(objects: Mapping[str, bytes], page: int = 1000) -> Archive:
        archive.answers = {f"/{key}": body for key, body in objects.items()}
        archive.answers["/"] = listing(objects, page)
        return archive

    return fill
