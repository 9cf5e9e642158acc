"""The `.part` of a download: what was received so far, and of which state of the remote file."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from neuros_data._files import flush_folder
from neuros_data.errors import CorruptStoreError
from neuros_data.format import read_json
from neuros_data.transfer._streams import CHUNK, Offer, Stream, Version


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, read a chunk at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_file(path: Path) -> str:
    """Return the MD5 of a file, read a chunk at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _md5() -> "hashlib._Hash":
    # Against damage, not against forgery: archives that give an MD5 give nothing better.
    return hashlib.md5(usedforsecurity=False)


class Partial:
    """A file that grows under its provisional name; its holder has the target's lock."""

    def __init__(self, final: Path, *, checked: bool, with_md5: bool) -> None:
        self.final = final
        self.path = final.with_name(f"{final.name}.part")
        self.bad = final.with_name(f"{final.name}.bad")
        self._state = final.with_name(f"{final.name}.part.json")
        self._new_state = final.with_name(f"{final.name}.part.new")
        self._checked = checked
        self._with_md5 = with_md5
        self._digests = self._fresh()
        self._file: BinaryIO | None = None
        self._unsynced = 0
        self.size = self.path.stat().st_size if self.path.exists() else 0

    def _fresh(self) -> "dict[str, hashlib._Hash]":
        return {"sha256": hashlib.sha256(), **({"md5": _md5()} if self._with_md5 else {})}

    @property
    def received(self) -> bool:
        """Whether the checksum covers what is on the disk: something was received for it."""
        return self._file is not None

    @property
    def sha256(self) -> str:
        """Checksum of all that was received."""
        return self.checksum("sha256")

    def checksum(self, kind: str) -> str:
        """The sha256, or the MD5 where it is kept, of all that was received."""
        return self._digests[kind].hexdigest()

    def _count(self, block: bytes | memoryview) -> None:
        for digest in self._digests.values():
            digest.update(block)

    def offer(self, url: str) -> Offer | None:
        """What can be continued from an address; None to begin anew.

        Without a checksum to be held against at the end, two states of a file must not be joined:
        then only the same address with an ETag or a date will do.
        """
        if self.size == 0:
            return None
        try:
            state = read_json(self._state)
            version = Version(state["etag"], state["modified"])
            total, known, resumable = state["total"], state["url"] == url, state["resumable"]
        except (CorruptStoreError, KeyError):
            return None
        if not known:
            version = Version()
        if not resumable or (not self._checked and version == Version()):
            return None
        return Offer(self.size, total, version)

    def begin(self, url: str, stream: Stream) -> None:
        """Open for the bytes of a stream, which begin at its offset."""
        self.close()
        self._digests = self._fresh()
        if stream.offset == 0:
            self._file = self.path.open("wb", buffering=0)
        else:
            self._file = self.path.open("r+b", buffering=0)
            while block := self._file.read(CHUNK):
                self._count(block)
        self.size = stream.offset
        state = {"url": url, "total": stream.total, "resumable": stream.resumable}
        self._save({**state, **asdict(stream.version)})

    def _save(self, state: dict[str, Any]) -> None:
        """Replace the state at once, so that none is ever torn.

        One fixed name in between: whoever is killed here leaves nothing that stays.
        """
        with self._new_state.open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        self._new_state.replace(self._state)

    def _forget(self) -> None:
        self._state.unlink(missing_ok=True)
        self._new_state.unlink(missing_ok=True)
        self.size = 0

    def write(self, block: bytes) -> None:
        """Append; after each chunk the disk has it, should the power fail."""
        if self._file is None:
            raise ValueError(f"{self.path} is not open; begin comes first")
        rest = memoryview(block)
        while rest:
            written = self._file.write(rest)
            self.size += written
            self._count(rest[:written])
            rest = rest[written:]
        self._unsynced += len(block)
        if self._unsynced >= CHUNK:
            os.fsync(self._file.fileno())
            self._unsynced = 0

    def close(self) -> None:
        """Let go of the file; what it holds stays, to be continued."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> None:
        """Flush, then give the file its name, so that it exists whole or not at all."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        self.close()
        self.path.replace(self.final)
        self._forget()
        flush_folder(self.final.parent)

    def quarantine(self) -> None:
        """Set aside what was received as `.bad`; the next attempt begins anew."""
        self.close()
        self.path.replace(self.bad)
        self._forget()

    def discard(self) -> None:
        """Remove what was received."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._forget()
