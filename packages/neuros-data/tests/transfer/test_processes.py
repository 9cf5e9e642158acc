"""Processes that die, wait for one another, are told to stop, or run out of disk."""

import hashlib
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from neuros_data.errors import DiskFullError
from neuros_data.transfer import RemoteFile, TransferSettings, fetch_files
from neuros_data.transfer._locks import _is_current

CHUNK = 1 << 20
BODY = hashlib.shake_256(b"body").digest(65_521) * 64  # 4 MiB, no two blocks of 64 KiB alike
SHA = hashlib.sha256(BODY).hexdigest()
CHILD = """
import signal, sys
# Whoever started the tests in the background has told their children to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from neuros_data.transfer import RemoteFile, fetch_files
folder, *urls = sys.argv[1:]
files = [RemoteFile(url, f"{i}.bin") for i, url in enumerate(urls)]
print("start", flush=True)
report = fetch_files(files, folder).check()
print(sum(f.reused for f in report.files), *(f.sha256 for f in report.files))
"""


def start_child(folder: Path, *urls: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), *urls],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for another process; the bound only ends a test that has failed."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# Starts a Python process, which imports NumPy.
@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_killed_leaves_what_the_next_goes_on_from(
    sign: signal.Signals, server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    hold = threading.Event()
    stops = [0, 3 * CHUNK, 2 * CHUNK, 70_000]
    urls = [server.put(f"{i}", BODY, hold=hold, hold_after=s) for i, s in enumerate(stops)]
    child = start_child(tmp_path, *urls)
    wait_until(lambda: all(size_of(tmp_path / f"{i}.bin.part") >= stops[i] for i in range(4)))
    told = time.monotonic()
    child.send_signal(sign)
    _, said = child.communicate(timeout=20)
    assert time.monotonic() - told < 2.0
    assert child.returncode == -sign
    assert ("KeyboardInterrupt" in said) == (sign == signal.SIGINT)
    assert not list(tmp_path.glob("*.bin"))
    hold.set()
    report = fetch_files(
        [RemoteFile(url, f"{i}.bin") for i, url in enumerate(urls)], tmp_path, settings=quick
    )
    assert [f.sha256 for f in report.check().files] == [SHA] * 4
    again = server.sent() - 4 * len(BODY)
    # What the first process was sent and had not written; each file at most one chunk.
    assert 0 <= again <= 4 * CHUNK
    assert {p.name for p in tmp_path.iterdir()} == {f"{i}.bin" for i in range(4)}


# Starts two Python processes, which import NumPy.
@pytest.mark.slow
def test_two_processes_on_the_same_file_fetch_it_once(server: Any, tmp_path: Path) -> None:
    hold = threading.Event()
    url = server.put("a", BODY, hold=hold, hold_after=CHUNK)
    children = [start_child(tmp_path, url) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "start\n"
    wait_until(lambda: server.sent() >= CHUNK)
    hold.set()
    said = sorted(child.communicate(timeout=20)[0].split() for child in children)
    assert said == [["0", SHA], ["1", SHA]]
    assert len(server.asked) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["0.bin"]


def test_two_threads_on_the_same_file_fetch_it_once(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    url = server.put("a", BODY, pause=0.002)
    reports: list[Any] = []

    def work() -> None:
        reports.append(fetch_files([RemoteFile(url, "a.bin", SHA)], tmp_path, settings=quick))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.files[0].reused for r in reports) == [False, True, True]
    assert len(server.asked) == 1


def test_the_lock_of_a_dead_process_does_not_block(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    code = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        "fcntl.flock(f, fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    )
    lock = tmp_path / "a.bin.lock"
    assert subprocess.run([sys.executable, "-c", code, lock], check=False).returncode == -9
    assert lock.exists()
    url = server.put("a", BODY)
    assert fetch_files([RemoteFile(url, "a.bin", SHA)], tmp_path, settings=quick).ok
    assert not lock.exists()


# A request without an answer is left alone after a second.
@pytest.mark.slow
def test_a_call_that_is_cancelled_stops_within_two_seconds_and_can_be_resumed(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    hold, cancel = threading.Event(), threading.Event()
    urls = [server.put(f"{i}", BODY, hold=hold, hold_after=CHUNK) for i in range(3)]
    # A server that never answers, one that asks to wait, and one more that waits for its turn.
    urls.append(server.put("3", BODY, delay=1.4))
    urls.append(server.put("4", BODY, answers=[(503, {"Retry-After": "2"})]))
    urls.append(server.put("5", BODY))
    files = [RemoteFile(url, f"{i}.bin", SHA) for i, url in enumerate(urls)]

    def stop() -> None:
        wait_until(lambda: all(size_of(tmp_path / f"{i}.bin.part") >= CHUNK for i in range(3)))
        wait_until(lambda: len(server.asked) >= 5)
        started.append(time.monotonic())
        cancel.set()

    started: list[float] = []
    threading.Thread(target=stop).start()
    report = fetch_files(files, tmp_path, jobs=5, settings=quick, cancel=cancel)
    assert time.monotonic() - started[0] < 2.0
    assert len(report.failures) == 6
    assert all(isinstance(f.error, InterruptedError) for f in report.failures)
    hold.set()
    server.pages["/3"].delay = 0.0
    assert fetch_files(files, tmp_path, settings=quick).ok
    assert all(a.range for a in server.asked if a.path in {"/0", "/1", "/2"} and a.status == 206)


def test_a_lock_that_its_last_holder_removed_is_taken_anew(tmp_path: Path) -> None:
    # Whoever waited has it open still, but a third one would open another file of that name.
    path = tmp_path / "a.lock"
    with path.open("w") as waited_for:
        assert _is_current(waited_for.fileno(), path)
        path.unlink()
        assert not _is_current(waited_for.fileno(), path)
        path.touch()
        assert not _is_current(waited_for.fileno(), path)


def test_a_call_that_is_cancelled_while_it_waits_for_a_lock_ends(
    tmp_path: Path, server: Any, quick: TransferSettings
) -> None:
    hold, cancel = threading.Event(), threading.Event()
    url = server.put("a", BODY, hold=hold, hold_after=CHUNK)
    file = RemoteFile(url, "a.bin", SHA)
    first = threading.Thread(target=lambda: fetch_files([file], tmp_path, settings=quick))
    first.start()
    wait_until(lambda: size_of(tmp_path / "a.bin.part") >= CHUNK)
    threading.Timer(0.1, cancel.set).start()
    report = fetch_files([file], tmp_path, settings=quick, cancel=cancel)
    hold.set()
    first.join()
    assert isinstance(report.failures[0].error, InterruptedError)


def test_no_more_requests_at_a_time_than_one_host_allows(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    files = [RemoteFile(server.put(f"{i}", b"x", delay=0.02), f"{i}") for i in range(12)]
    settings = TransferSettings(per_host=2)
    assert fetch_files(files, tmp_path, jobs=6, settings=settings).ok
    assert server.most_at_once == 2


def test_a_call_that_is_cancelled_while_its_host_is_full_ends(server: Any, tmp_path: Path) -> None:
    hold, cancel = threading.Event(), threading.Event()
    files = [RemoteFile(server.put(f"{i}", BODY, hold=hold), f"{i}") for i in range(2)]
    threading.Timer(0.1, cancel.set).start()
    report = fetch_files(
        files, tmp_path, jobs=2, settings=TransferSettings(per_host=1), cancel=cancel
    )
    hold.set()
    assert [type(f.error) for f in report.failures] == [InterruptedError] * 2
    assert len(server.asked) == 1


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """A real limit of the system: a write beyond it fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    big = RemoteFile(server.put("big", BODY), "big.bin", SHA)
    small = RemoteFile(server.put("small", b"small"), "small.bin")
    with largest_file(2 * CHUNK):
        report = fetch_files([big, small], tmp_path, settings=quick)
    assert isinstance(report.failures[0].error, DiskFullError)
    with pytest.raises(DiskFullError, match=r"big.bin needs about 2\.1 MB more"):
        report.check()
    assert [p.name for p in tmp_path.iterdir()] == ["small.bin"]


def test_a_disk_without_room_for_the_first_byte_is_a_full_disk(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    with largest_file(0):
        report = fetch_files([RemoteFile(server.put("a", BODY), "a.bin")], tmp_path, settings=quick)
    with pytest.raises(DiskFullError, match=r"a\.bin needs about"):
        report.check()
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_not_begun(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    free = shutil.disk_usage(tmp_path).free
    url = server.put("a", BODY)
    with pytest.raises(DiskFullError, match="no space left"):
        fetch_files([RemoteFile(url, "a.bin", size=2 * free)], tmp_path, settings=quick)
    assert server.asked == []


def test_what_the_server_says_is_too_long_is_not_begun(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    free = shutil.disk_usage(tmp_path).free
    url = server.put("a", BODY, claim=2 * free)
    report = fetch_files([RemoteFile(url, "a.bin")], tmp_path, settings=quick)
    assert isinstance(report.failures[0].error, DiskFullError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_an_error_of_that_file(
    server: Any, tmp_path: Path, quick: TransferSettings
) -> None:
    (tmp_path / "sub").write_text("a file")
    report = fetch_files(
        [RemoteFile(server.put("a", BODY), "sub/a.bin"), RemoteFile(server.url("a"), "b.bin")],
        tmp_path,
        settings=quick,
    )
    assert isinstance(report.failures[0].error, OSError)
    assert [f.path.name for f in report.files] == ["b.bin"]
