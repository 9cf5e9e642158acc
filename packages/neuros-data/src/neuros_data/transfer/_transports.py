"""Which transport opens an address, how many may run at one host, which hosts are out of reach."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from neuros_data.transfer._settings import TransferSettings
from neuros_data.transfer._streams import Offer, RefusedError, Stream, open_local
from neuros_data.transfer._wheels import Wheels

_POLL = 0.2


class Transports:
    """Opens addresses for the threads of one `fetch_files`."""

    def __init__(self, settings: TransferSettings, cancel: threading.Event) -> None:
        self.settings = settings
        self.cancel = cancel
        self._wheels = Wheels(settings.wheels, cancel)
        self._lock = threading.Lock()
        self._slots: dict[str, threading.Semaphore] = {}
        self._lost: dict[str, str] = {}
        self._streams: set[Stream] = set()
        self._local = threading.local()

    @contextmanager
    def open(self, url: str, offer: Offer | None) -> Iterator[Stream]:
        """Open an address while its host has room for one more request."""
        with self._slot(url):
            stream = self._open(url, offer)
            with self._lock:
                self._streams.add(stream)
            try:
                yield stream
            finally:
                with self._lock:
                    self._streams.discard(stream)
                stream.close()

    def abort(self) -> None:
        """End the reads that wait for bytes."""
        with self._lock:
            for stream in self._streams:
                # A connection that is closed already has nothing to wait for.
                with suppress(OSError, ValueError, RuntimeError):
                    stream.abort()

    def _open(self, url: str, offer: Offer | None) -> Stream:
        scheme, host = urlsplit(url)[:2]
        if scheme == "file":
            return open_local(url, offer)
        if scheme == "pypi":
            return self._wheels.open(url)
        if reason := self._lost.get(host):
            raise RefusedError(f"{url}: {host} is out of reach ({reason})")
        # Imported here: who only names files does not pay for an HTTP client.
        from neuros_data.transfer._http import new_session, open_http

        if not hasattr(self._local, "session"):
            self._local.session = new_session()
        return open_http(self._local.session, url, offer, self.settings)

    def give_up(self, url: str, reason: str) -> None:
        """Remember a host that never answered, so that its other files fail at once."""
        self._lost[urlsplit(url).netloc] = reason

    @contextmanager
    def _slot(self, url: str) -> Iterator[None]:
        host = urlsplit(url).netloc
        if not host:
            yield
            return
        with self._lock:
            slot = self._slots.setdefault(host, threading.Semaphore(self.settings.per_host))
        while not slot.acquire(timeout=_POLL):
            self._go_on(url)
        try:
            self._go_on(url)
            yield
        finally:
            slot.release()

    def _go_on(self, url: str) -> None:
        if self.cancel.is_set():
            raise InterruptedError(f"cancelled before {url} was asked; run again to resume")
