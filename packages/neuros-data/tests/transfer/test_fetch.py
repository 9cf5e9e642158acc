"""Every row of the table of events, against a server that misbehaves."""

import gzip
import hashlib
import logging
import socket
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from neuros_data.errors import ChecksumError, NetworkError
from neuros_data.transfer import (
    FetchedFile,
    RemoteFile,
    TransferSettings,
    fetch_files,
)

CHUNK = 1 << 20


def make_bytes(n: int, seed: str = "a") -> bytes:
    """Bytes in which every place tells where it is."""
    block = hashlib.shake_256(seed.encode()).digest(65_521)
    return (block * (n // len(block) + 1))[:n]


BODY = make_bytes(3 * CHUNK + 12_345)
SMALL = make_bytes(200_000, "small")


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def fetch(file: RemoteFile, folder: Path, settings: TransferSettings) -> FetchedFile:
    return fetch_files([file], folder, settings=settings).check().files[0]


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.rglob("*") if p.is_file()}


def cut_short(server: Any, url: str, folder: Path, settings: TransferSettings, **more: Any) -> None:
    """Leave a `.part`: every connection but the ones allowed breaks before the end."""
    report = fetch_files(
        [RemoteFile(url, "a.bin", **more)], folder, settings=replace(settings, retries=0)
    )
    assert isinstance(report.failures[0].error, NetworkError)
    assert (folder / "a.bin.part").exists()


def test_a_file_arrives_whole_and_leaves_nothing_else(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY)
    found = fetch(RemoteFile(url, "deep/a.bin", sha(BODY), len(BODY)), tmp_path / "out", quick)
    assert found.path == tmp_path / "out/deep/a.bin"
    assert found.path.read_bytes() == BODY
    assert (found.url, found.sha256, found.size, found.reused) == (url, sha(BODY), len(BODY), False)
    assert found.retrieved.endswith("+00:00")
    assert leftovers(tmp_path / "out") == {"a.bin"}


def test_a_file_that_is_there_is_reused_without_a_request(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    file = RemoteFile(server.put("a.bin", SMALL), "a.bin")
    first = fetch(file, tmp_path, quick)
    again = fetch(replace(file, sha256=first.sha256), tmp_path, quick)
    assert len(server.asked) == 1
    assert again == replace(first, reused=True, retrieved=again.retrieved)


def test_a_file_that_was_damaged_on_the_disk_is_set_aside_and_fetched(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    file = RemoteFile(server.put("a.bin", SMALL), "a.bin", sha(SMALL))
    (tmp_path / "a.bin").write_bytes(b"damaged")
    assert not fetch(file, tmp_path, quick).reused
    assert (tmp_path / "a.bin").read_bytes() == SMALL
    assert (tmp_path / "a.bin.bad").read_bytes() == b"damaged"


def test_the_order_of_files_is_kept_and_one_failure_stops_no_other(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    urls = [
        server.put(f"{i}.bin", make_bytes(1000 * (9 - i)), delay=0.01 * (9 - i)) for i in range(9)
    ]
    files = [RemoteFile(url, f"{i}.bin") for i, url in enumerate(urls)]
    files.insert(4, RemoteFile(server.url("absent"), "absent"))
    report = fetch_files(files, tmp_path, jobs=5, settings=quick)
    assert [f.path.name for f in report.files] == [f"{i}.bin" for i in range(9)]
    assert [f.file.path for f in report.failures] == ["absent"]
    assert not report.ok
    with pytest.raises(NetworkError, match="absent answered 404"):
        report.check()


def test_a_dropped_connection_is_resumed_and_no_byte_comes_twice(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, drop_after=[CHUNK + 7, CHUNK, 100])
    assert fetch(RemoteFile(url, "a.bin", sha(BODY)), tmp_path, quick).sha256 == sha(BODY)
    assert [a.status for a in server.asked] == [200, 206, 206, 206]
    assert server.sent() <= len(BODY) + 3 * 65_536  # what was in the socket when it broke
    assert all(a.headers["If-Range"] == '"v1"' for a in server.asked[1:])


def test_a_later_call_goes_on_from_the_part(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, drop_after=[2 * CHUNK])
    cut_short(server, url, tmp_path, quick)
    there = (tmp_path / "a.bin.part").stat().st_size
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).sha256 == sha(BODY)
    assert server.asked[1].range == f"bytes={there}-"
    assert server.asked[1].sent == len(BODY) - there
    assert leftovers(tmp_path) == {"a.bin"}


def test_the_date_serves_where_there_is_only_a_weak_etag(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    date = "Wed, 01 Jul 2026 10:00:00 GMT"
    url = server.put("a.bin", SMALL, etag='W/"v"', modified=date, drop_after=[70_000])
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).sha256 == sha(SMALL)
    assert server.asked[1].headers["If-Range"] == date
    assert server.asked[1].status == 206


def test_a_server_that_ignores_range_is_read_from_the_start_and_it_is_said(
    server: Any, tmp_path: Path, quick: TransferSettings, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.put("a.bin", SMALL, ranges=False, drop_after=[70_000])
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).sha256 == sha(SMALL)
    assert [a.status for a in server.asked] == [200, 200]
    assert "does not resume this file; starting again" in caplog.text


def test_a_server_that_ignores_range_and_drops_is_given_up(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    # Each attempt brings two chunks, but never one that was not there before.
    url = server.put("a.bin", BODY, ranges=False, drop_after=[2 * CHUNK] * 50)
    report = fetch_files([RemoteFile(url, "a.bin")], tmp_path, settings=quick)
    with pytest.raises(NetworkError, match=r"\(4 attempts\)"):
        report.check()
    assert len(server.asked) <= 2 * (quick.retries + 1)


def test_a_file_that_changed_on_the_server_is_not_glued_to_the_old_part(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, drop_after=[CHUNK])
    cut_short(server, url, tmp_path, quick)
    server.put("a.bin", SMALL, etag='"v2"')
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).sha256 == sha(SMALL)


@pytest.mark.parametrize("header", ["etag", "size"])
def test_a_change_is_seen_though_the_server_ignores_the_condition(
    header: str, server: Any, tmp_path: Path, quick: TransferSettings, caplog: Any
) -> None:
    url = server.put("a.bin", BODY, drop_after=[CHUNK], etag='W/"v1"')
    cut_short(server, url, tmp_path, quick, sha256=sha(BODY))
    longer = BODY + b"more"
    server.put(
        "a.bin", BODY if header == "etag" else longer, etag='W/"v2"' if header == "etag" else ""
    )
    wanted = BODY if header == "etag" else longer
    assert fetch(RemoteFile(url, "a.bin", sha(wanted)), tmp_path, quick).sha256 == sha(wanted)
    assert [a.status for a in server.asked] == [200, 206, 200]
    assert "changed on the server" in caplog.text


@pytest.mark.parametrize(
    ("said", "statuses"),
    # The first gives no length and no byte: the length of the first answer counts.
    [("bytes 1048576-3158072/*", [200, 206, 206]), ("nonsense", [200, 206, 200])],
)
def test_a_rest_is_taken_where_it_fits_and_not_where_it_says_nothing(
    said: str, statuses: list[int], server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, drop_after=[CHUNK])
    cut_short(server, url, tmp_path, quick)
    server.pages["/a.bin"].answers.append((206, {"Content-Range": said}))
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).sha256 == sha(BODY)
    assert [a.status for a in server.asked] == statuses


def test_without_etag_date_and_checksum_nothing_is_joined(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, etag="", drop_after=[CHUNK])
    cut_short(server, url, tmp_path, quick)
    server.put("a.bin", make_bytes(len(BODY), "other"), etag="")
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).sha256 != sha(BODY)
    assert server.asked[1].range == ""


def test_a_part_whose_state_is_unreadable_is_begun_anew(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL)
    (tmp_path / "a.bin.part").write_bytes(b"what is this")
    (tmp_path / "a.bin.part.json").write_text("{}")
    (tmp_path / "a.bin.part.new").write_text("of a process that was killed")
    assert fetch(RemoteFile(url, "a.bin", sha(SMALL)), tmp_path, quick).sha256 == sha(SMALL)
    assert leftovers(tmp_path) == {"a.bin"}


def test_a_part_that_was_whole_already_costs_no_byte(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    # Killed between the last byte and the renaming.
    url = server.put("a.bin", BODY, drop_after=[CHUNK])
    cut_short(server, url, tmp_path, quick)
    (tmp_path / "a.bin.part").write_bytes(BODY)
    assert fetch(RemoteFile(url, "a.bin", sha(BODY)), tmp_path, quick).sha256 == sha(BODY)
    assert server.asked[1].status == 416
    assert server.asked[1].sent == 0


def test_a_part_longer_than_the_file_is_begun_anew(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, drop_after=[CHUNK])
    cut_short(server, url, tmp_path, quick)
    (tmp_path / "a.bin.part").write_bytes(BODY + b"x")
    assert fetch(RemoteFile(url, "a.bin", sha(BODY)), tmp_path, quick).sha256 == sha(BODY)


def test_a_server_that_promises_more_than_it_has_fails_without_a_checksum(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, claim=500, etag="")
    report = fetch_files([RemoteFile(url, "a.bin")], tmp_path, settings=quick)
    assert isinstance(report.failures[0].error, NetworkError)
    assert not (tmp_path / "a.bin").exists()


def test_a_server_that_promises_more_than_it_has_is_believed_by_the_checksum(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, claim=500)
    assert fetch(RemoteFile(url, "a.bin", sha(SMALL)), tmp_path, quick).size == len(SMALL)


def test_a_server_that_promises_more_than_it_has_is_believed_by_the_size(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, claim=500)
    assert fetch(RemoteFile(url, "a.bin", size=len(SMALL)), tmp_path, quick).sha256 == sha(SMALL)
    assert len(server.asked) == 1


def test_a_server_that_promises_less_than_it_has_is_found_out(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, claim=-500)
    report = fetch_files([RemoteFile(url, "a.bin", sha(SMALL))], tmp_path, settings=quick)
    with pytest.raises(ChecksumError, match="expected"):
        report.check()


def test_more_bytes_than_the_size_that_is_known_are_set_aside(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, without_length=True)
    report = fetch_files([RemoteFile(url, "a.bin", size=CHUNK)], tmp_path, settings=quick)
    with pytest.raises(NetworkError, match=f"{CHUNK} were expected; it was set aside as"):
        report.check()
    assert leftovers(tmp_path) == {"a.bin.bad"}


def test_a_file_of_unknown_length_ends_with_the_connection(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, without_length=True)
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).sha256 == sha(BODY)


def test_an_empty_file_is_a_file(server: Any, tmp_path: Path, quick: TransferSettings) -> None:
    url = server.put("a.bin", b"")
    assert fetch(RemoteFile(url, "a.bin", sha(b""), 0), tmp_path, quick).size == 0


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503])
def test_what_may_pass_is_tried_again(
    status: int, server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, answers=[(status, {})] * quick.retries)
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).sha256 == sha(SMALL)
    assert len(server.asked) == quick.retries + 1


def test_what_may_pass_is_not_tried_for_ever(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, answers=[(503, {})] * 99)
    report = fetch_files([RemoteFile(url, "a.bin")], tmp_path, settings=quick)
    target = tmp_path / "a.bin"
    with pytest.raises(
        NetworkError, match=rf"answered 503.*\(4 attempts\).*put the file at {target}"
    ):
        report.check()
    assert len(server.asked) == quick.retries + 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_not_tried_again(
    status: int, server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, answers=[(status, {})])
    report = fetch_files([RemoteFile(url, "a.bin")], tmp_path, settings=quick)
    with pytest.raises(NetworkError, match=f"answered {status}"):
        report.check()
    assert len(server.asked) == 1


# Retry-After counts in whole seconds.
@pytest.mark.slow
def test_a_server_that_asks_to_wait_is_obeyed(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    soon = formatdate(time.time() + 1.2, usegmt=True)  # a date counts whole seconds
    url = server.put("a.bin", SMALL, answers=[(503, {"Retry-After": soon})])
    other = server.put("b.bin", SMALL, answers=[(429, {"Retry-After": "1"})])
    files = [RemoteFile(url, "a.bin"), RemoteFile(other, "b.bin")]
    assert fetch_files(files, tmp_path, settings=quick).ok
    a, b = ([x.at for x in server.asked if x.path == f"/{n}.bin"] for n in "ab")
    assert b[1] - b[0] >= 1.0
    assert len(a) == 2


def test_a_server_that_asks_to_wait_too_long_is_given_up(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, answers=[(429, {"Retry-After": "3600"})])
    report = fetch_files([RemoteFile(url, "a.bin")], tmp_path, settings=quick)
    with pytest.raises(NetworkError, match="asks to wait 3600 s"):
        report.check()


def test_a_retry_after_that_says_nothing_is_not_obeyed(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, answers=[(503, {"Retry-After": "soon"})])
    assert fetch(RemoteFile(url, "a.bin"), tmp_path, quick).size == len(SMALL)


def test_waits_grow_and_are_scattered(
    server: Any, tmp_path: Path, quick: TransferSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "neuros_data.transfer")
    slow = replace(quick, backoff=0.04)
    urls = [server.put(f"{i}", b"x", answers=[(503, {})] * 3) for i in range(4)]
    assert fetch_files([RemoteFile(u, u[-1]) for u in urls], tmp_path, settings=slow).ok
    waits = []
    for i in range(4):
        at = [a.at for a in server.asked if a.path == f"/{i}"]
        waits.append([b - a for a, b in pairwise(at)])
    for steps in waits:
        assert all(step >= 0.02 * 2**k for k, step in enumerate(steps))
    assert "again in" in caplog.text


def test_a_silent_server_counts_as_dropped(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    hold = threading.Event()
    url = server.put("a.bin", SMALL, hold=hold)
    impatient = replace(quick, read_timeout=0.1, retries=1)
    report = fetch_files([RemoteFile(url, "a.bin")], tmp_path, settings=impatient)
    hold.set()
    with pytest.raises(NetworkError, match="timed out"):
        report.check()
    assert (tmp_path / "a.bin.part").stat().st_size > 0


def test_a_mirror_stands_in(server: Any, tmp_path: Path, quick: TransferSettings) -> None:
    mirror = server.put("mirror.bin", SMALL)
    found = fetch(RemoteFile(server.url("gone"), "a.bin", mirrors=[mirror]), tmp_path, quick)
    assert (found.url, found.sha256) == (mirror, sha(SMALL))


def test_a_mirror_goes_on_from_the_part_when_the_checksum_is_known(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, drop_after=[2 * CHUNK])
    mirror = server.put("m.bin", BODY, etag='"other"')
    once = replace(quick, retries=0)
    file = RemoteFile(url, "a.bin", sha(BODY), mirrors=[mirror])
    assert fetch(file, tmp_path, once).url == mirror
    assert server.asked[1].status == 206
    assert server.sent("m.bin") < 2 * CHUNK


def test_a_mirror_does_not_go_on_from_the_part_when_it_is_not(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, drop_after=[2 * CHUNK])
    mirror = server.put("m.bin", SMALL, etag='"other"')
    once = replace(quick, retries=0)
    assert fetch(RemoteFile(url, "a.bin", mirrors=[mirror]), tmp_path, once).sha256 == sha(SMALL)
    assert server.asked[1].range == ""


def test_wrong_bytes_are_set_aside_and_fetched_once_more(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, wrong=1)
    assert fetch(RemoteFile(url, "a.bin", sha(SMALL)), tmp_path, quick).sha256 == sha(SMALL)
    assert (tmp_path / "a.bin.bad").read_bytes() != SMALL
    assert len(server.asked) == 2


def test_bytes_that_are_wrong_twice_are_an_error_and_others_go_on(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, wrong=5)
    good = server.put("b.bin", SMALL)
    report = fetch_files(
        [RemoteFile(url, "a.bin", sha(SMALL)), RemoteFile(good, "b.bin", sha(SMALL))],
        tmp_path,
        settings=quick,
    )
    assert [f.path.name for f in report.files] == ["b.bin"]
    error = report.failures[0].error
    assert isinstance(error, ChecksumError)
    wrong = (tmp_path / "a.bin.bad").read_bytes()
    assert (error.url, error.expected, error.got) == (url, sha(SMALL), sha(wrong))
    assert error.path == tmp_path / "a.bin.bad"
    assert sum(a.path == "/a.bin" for a in server.asked) == 2
    assert leftovers(tmp_path) == {"a.bin.bad", "b.bin"}


def test_a_wrong_md5_is_set_aside_and_named(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    md5 = hashlib.md5(SMALL, usedforsecurity=False).hexdigest()
    once = RemoteFile(server.put("b.bin", SMALL, wrong=1), "b.bin", md5=md5)
    assert fetch(once, tmp_path, quick).sha256 == sha(SMALL)
    assert (tmp_path / "b.bin.bad").exists()
    (tmp_path / "b.bin").write_bytes(b"x" * len(SMALL))
    assert not fetch(once, tmp_path, quick).reused
    assert fetch(once, tmp_path, quick).reused
    url = server.put("a.bin", SMALL, wrong=5)
    with pytest.raises(ChecksumError, match=f"has md5 .*expected {md5}; .*a.bin.bad") as caught:
        fetch(RemoteFile(url, "a.bin", size=len(SMALL), md5=md5), tmp_path, quick)
    wrong = (tmp_path / "a.bin.bad").read_bytes()
    assert caught.value.kind == "md5"
    assert caught.value.got == hashlib.md5(wrong, usedforsecurity=False).hexdigest()
    assert not (tmp_path / "a.bin").exists()


def test_a_file_cut_short_is_continued_and_its_md5_covers_all_of_it(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", BODY, drop_after=[CHUNK + 7])
    cut_short(server, url, tmp_path, quick)
    md5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    assert fetch(RemoteFile(url, "a.bin", md5=md5), tmp_path, quick).size == len(BODY)


def test_the_mirror_is_asked_when_the_first_address_has_wrong_bytes(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a.bin", SMALL, wrong=5)
    mirror = server.put("m.bin", SMALL)
    found = fetch(RemoteFile(url, "a.bin", sha(SMALL), mirrors=[mirror]), tmp_path, quick)
    assert found.url == mirror


def test_without_a_server_the_place_for_the_file_is_named_and_it_is_given_up_once(
    tmp_path: Path, quick: TransferSettings
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and never listening: refused
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/a.bin"
        files = [RemoteFile(url, f"{i}.bin") for i in range(50)]
        start = time.monotonic()
        report = fetch_files(files, tmp_path, jobs=1, settings=replace(quick, backoff=0.05))
    with pytest.raises(NetworkError, match=rf"refused.*put the file at {tmp_path / '0.bin'}"):
        report.check()
    assert "is out of reach" in f"{report.failures[49].error}"
    assert time.monotonic() - start < 2.0  # fifty times the waits would be more than ten


def test_an_address_without_a_host_is_refused(tmp_path: Path, quick: TransferSettings) -> None:
    report = fetch_files([RemoteFile("http:///nothing", "a")], tmp_path, settings=quick)
    with pytest.raises(NetworkError, match="No host supplied"):
        report.check()


def test_too_many_redirects_are_not_followed(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.url("a.bin")
    server.put("a.bin", SMALL, answers=[(302, {"Location": url})] * 99)
    report = fetch_files([RemoteFile(url, "a.bin")], tmp_path, settings=quick)
    with pytest.raises(NetworkError, match="redirects"):
        report.check()


def test_the_proxy_of_the_environment_is_used(
    server: Any, tmp_path: Path, quick: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{server.host}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    server.put("a.bin", SMALL)
    far = "http://data.example.invalid/a.bin"
    server.pages[far] = server.pages["/a.bin"]
    assert fetch(RemoteFile(far, "a.bin"), tmp_path, quick).sha256 == sha(SMALL)
    assert server.asked[0].path == far


def test_a_compressed_answer_is_decoded_and_never_continued(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    packed = gzip.compress(SMALL)
    url = server.put("a.bin", packed, headers={"Content-Encoding": "gzip"}, drop_after=[50_000])
    found = fetch(RemoteFile(url, "a.bin", sha(SMALL)), tmp_path, quick)
    assert found.size == len(SMALL)
    assert server.asked[0].headers["Accept-Encoding"] == "identity"
