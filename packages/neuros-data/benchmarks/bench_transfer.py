"""Many small files against pooch one by one, and what a resumed file costs.

The server is a process of its own, this file run as a program: it answers every request after
50 ms, and cuts the first connection to `/cut` at 90 % of the file.
"""

import hashlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

LATENCY, N_FILES, MEGABYTE = 0.05, 200, 1_000_000
SIZE = 200 * MEGABYTE
PATTERN = hashlib.shake_256(b"pattern").digest(MEGABYTE)


class Server(ThreadingHTTPServer):
    """Remembers how many bytes it sent of each path."""

    request_queue_size = 64
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), None)
        self.RequestHandlerClass = type(
            "Handler",
            (BaseHTTPRequestHandler,),
            {"protocol_version": "HTTP/1.1", "do_GET": answer, "log_message": lambda *_: None},
        )
        self.sent: dict[str, int] = {}


def answer(request: BaseHTTPRequestHandler) -> None:
    server = request.server
    assert isinstance(server, Server)
    if request.path.startswith("/sent"):
        body = str(server.sent.get(request.path.removeprefix("/sent"), 0)).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
        return
    size = SIZE if request.path == "/cut" else MEGABYTE
    start = int(re.sub(r"\D", "", request.headers.get("Range", "0")))
    time.sleep(LATENCY)
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    request.send_header("Content-Length", str(size - start))
    request.send_header("ETag", '"1"')
    request.end_headers()
    cut = request.path == "/cut" and start == 0
    send(request, server, start, 9 * size // 10 if cut else size)
    request.close_connection = cut


def send(request: BaseHTTPRequestHandler, server: Server, start: int, stop: int) -> None:
    view = memoryview(PATTERN)
    while start < stop:
        at = start % MEGABYTE
        piece = view[at : min(MEGABYTE, at + stop - start)]
        server.sent[request.path] = server.sent.get(request.path, 0) + len(piece)
        request.wfile.write(piece)
        start += len(piece)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield f"http://127.0.0.1:{child.stdout.readline().strip()}"
        child.kill()


def test_many_small_files_come_faster_than_one_by_one(server: str, tmp_path: Path) -> None:
    import pooch

    from neuros_data.transfer import RemoteFile, fetch_files

    digest = hashlib.sha256(PATTERN).hexdigest()
    names = [f"{i}.bin" for i in range(N_FILES)]
    pooch.get_logger().setLevel("ERROR")

    def ours(folder: Path) -> None:
        files = [RemoteFile(f"{server}/{name}", name, digest) for name in names]
        assert fetch_files(files, folder, jobs=8).ok

    def peer(folder: Path) -> None:
        registry = dict.fromkeys(names, f"sha256:{digest}")
        found = pooch.create(path=folder, base_url=f"{server}/", registry=registry)
        for name in names:
            found.fetch(name)

    taken: dict[str, list[float]] = {"ours": [], "peer": []}
    for repeat in range(7):
        for side, work in (("ours", ours), ("peer", peer)):
            start = time.perf_counter()
            work(tmp_path / f"{side}{repeat}")
            taken[side].append(time.perf_counter() - start)
            assert len(list((tmp_path / f"{side}{repeat}").iterdir())) == N_FILES
    ratio = statistics.median(taken["peer"]) / statistics.median(taken["ours"])
    print(
        f"BENCH | 200 files of 1 MB, 50 ms latency, jobs=8 | pooch {pooch.__version__.lstrip('v')} "
        f"one by one | ratio {ratio:.2f} | bar 5"
    )
    assert ratio >= 5


def test_a_resumed_file_costs_what_was_missing(server: str, tmp_path: Path) -> None:
    import requests

    from neuros_data.transfer import RemoteFile, TransferSettings, fetch_files

    file = RemoteFile(f"{server}/cut", "cut.bin")
    report = fetch_files([file], tmp_path, settings=TransferSettings(retries=0))
    assert not report.ok

    def sent() -> int:
        return int(requests.get(f"{server}/sent/cut", timeout=10).text)

    before = sent()
    found = fetch_files([file], tmp_path).check().files[0]
    assert found.size == SIZE
    assert found.sha256 == hashlib.sha256(PATTERN * 200).hexdigest()
    ratio = (sent() - before) / SIZE
    print(
        "BENCH | bytes of a resume after 90 % of 200 MB | full download "
        f"requests {requests.__version__} | ratio {ratio:.2f} | bar 0.15"
    )
    assert ratio <= 0.15


if __name__ == "__main__":
    serving = Server()
    print(serving.server_port, flush=True)
    serving.serve_forever()
