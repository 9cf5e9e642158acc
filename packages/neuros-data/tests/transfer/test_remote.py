"""What is asked for is checked before anything is fetched."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from neuros_data.transfer import FetchedFile, RemoteFile, TransferSettings, fetch_files

GOOD = "https://example.org/a"


@pytest.mark.parametrize("path", ["", "../a", "/a", "b/../../a", "b\\a"])
def test_a_path_stays_below_the_folder(path: str) -> None:
    with pytest.raises(ValueError, match="needs a relative path below the folder"):
        RemoteFile(GOOD, path)


@pytest.mark.parametrize("path", ["a.part", "a.part.json", "a.part.new", "a.bad", "a.lock"])
def test_a_path_is_none_of_the_engine(path: str) -> None:
    with pytest.raises(ValueError, match="needs a name that does not end in"):
        RemoteFile(GOOD, path)


def test_what_is_known_of_a_file_is_checked() -> None:
    with pytest.raises(ValueError, match="sha256 needs 64 lower-case hexadecimal digits, got 'ab'"):
        RemoteFile(GOOD, "a", sha256="ab")
    with pytest.raises(ValueError, match="md5 needs 32 lower-case hexadecimal digits, got 'AB'"):
        RemoteFile(GOOD, "a", md5="AB")
    with pytest.raises(ValueError, match="size needs a number of bytes, got -1"):
        RemoteFile(GOOD, "a", size=-1)
    with pytest.raises(TypeError, match="mirrors needs a list of addresses, got the text"):
        RemoteFile(GOOD, "a", mirrors=GOOD)
    for urls in (["ftp://example.org/a"], [GOOD, "a"]):
        with pytest.raises(ValueError, match="url needs one of http, https, file, pypi"):
            RemoteFile(urls[0], "a", mirrors=urls[1:])


@pytest.mark.parametrize("name", ["backoff", "longest_wait", "connect_timeout", "read_timeout"])
def test_patience_is_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs a positive number of seconds, got 0"):
        TransferSettings(**{name: 0})
    with pytest.raises(ValueError, match=f"{name} needs a positive number of seconds, got nan"):
        TransferSettings(**{name: float("nan")})


def test_counts_of_the_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="retries needs 0 or more, got -1"):
        TransferSettings(retries=-1)
    with pytest.raises(ValueError, match="per_host needs 1 or more, got 0"):
        TransferSettings(per_host=0)


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "neuros-data/wheels"),
        ("win32", "LOCALAPPDATA", "neuros-data/wheels"),
        ("darwin", "HOME", "Library/Caches/neuros-data/wheels"),
    ],
)
def test_wheels_are_kept_in_the_cache_of_the_system(
    platform: str, variable: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert TransferSettings().wheels == tmp_path / expected
    assert TransferSettings(cache=tmp_path / "own").wheels == tmp_path / "own/wheels"


def test_a_call_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs needs 1 or more, got 0"):
        fetch_files([], tmp_path, jobs=0)
    with pytest.raises(ValueError, match="files need paths that differ, got a twice"):
        fetch_files([RemoteFile(GOOD, "a"), RemoteFile(GOOD, "a")], tmp_path)


def test_nothing_asked_for_is_nothing_done(tmp_path: Path) -> None:
    report = fetch_files([], tmp_path / "out")
    assert report.ok
    assert report.check() is report


def local(tmp_path: Path, body: bytes = b"x" * 3_000_000) -> RemoteFile:
    source = tmp_path / "a source.bin"
    source.write_bytes(body)
    return RemoteFile(source.as_uri(), "a.bin")


def test_a_local_file_is_copied_and_an_absent_one_is_an_error(tmp_path: Path) -> None:
    file = local(tmp_path)
    (found,) = fetch_files([file], tmp_path / "out").check().files
    assert found.path.read_bytes() == b"x" * 3_000_000
    absent = RemoteFile((tmp_path / "no").as_uri(), "no.bin")
    with pytest.raises(OSError, match=r"No such file.*put the file at"):
        fetch_files([absent], tmp_path / "out").check()


def test_the_copy_of_a_local_file_goes_on_unless_it_changed(tmp_path: Path) -> None:
    file, out = local(tmp_path), tmp_path / "out"
    cancel = threading.Event()
    cancel.set()
    assert isinstance(fetch_files([file], out, cancel=cancel).failures[0].error, InterruptedError)
    source = tmp_path / "a source.bin"
    for touched in (False, True):
        stat = source.stat()
        (out / "a.bin").unlink(missing_ok=True)
        (out / "a.bin.part").write_bytes(b"y" * 10)
        (out / "a.bin.part.json").write_text(
            f'{{"url": "{file.url}", "total": {stat.st_size}, "resumable": true, "modified": "",'
            f'"etag": "\\"{stat.st_mtime_ns}-{stat.st_size}\\""}}'
        )
        if touched:
            os.utime(source, ns=(0, 0))
        (found,) = fetch_files([file], out).check().files
        assert found.path.read_bytes()[:10] == (b"x" if touched else b"y") * 10


def test_bars_show_every_file_and_the_total(
    tmp_path: Path, server: Any, quick: TransferSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    body = b"z" * 300_000
    files = [
        RemoteFile(
            server.put("one.bin", body, ranges=False, drop_after=[100]), "one.bin", size=len(body)
        ),
        RemoteFile(server.put("two.bin", body), "two.bin", size=len(body)),
        RemoteFile(server.url("absent"), "absent.bin"),
    ]
    fetch_files(files[:2], tmp_path / "known", settings=quick, progress=True).check()
    said = capsys.readouterr().err
    assert "one.bin" in said
    assert "two.bin" in said
    assert "2/2 files: 100%" in said
    assert "600k/600k" in said
    report = fetch_files(files, tmp_path / "unknown", jobs=1, settings=quick, progress=True)
    assert len(report.failures) == 1
    assert "3/3 files" in capsys.readouterr().err
    fetch_files(files[1:2], tmp_path / "unknown", settings=quick)
    assert capsys.readouterr().err == ""


def test_naming_files_loads_no_http_client() -> None:
    code = (
        "import sys, neuros_data.transfer; print('requests' in sys.modules, 'tqdm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_fetched_file_says_all_about_itself(tmp_path: Path) -> None:
    (found,) = fetch_files([local(tmp_path, b"")], tmp_path / "out").check().files
    assert isinstance(found, FetchedFile)
    assert found.size == 0
