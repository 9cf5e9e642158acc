"""One HTTP request: bytes from an offset on where the server allows it, all of them where not."""

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from importlib.metadata import version as installed

import requests
from urllib3.exceptions import HTTPError, MaxRetryError

from neuros_data.transfer._settings import TransferSettings
from neuros_data.transfer._streams import (
    CHUNK,
    Offer,
    RefusedError,
    Stream,
    TransientError,
    Version,
)

_LOG = logging.getLogger("neuros_data.transfer")
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
# What no other attempt will change: the address itself, or a certificate.
_LASTING = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.TooManyRedirects,
    requests.exceptions.SSLError,
)


def new_session() -> requests.Session:
    """Return connections for one thread; proxies and certificates come from the environment."""
    session = requests.Session()
    session.headers["User-Agent"] = f"neuros-data/{installed('neuros-data')}"
    # Compressed on the way, a file has another length and its middle cannot be asked for.
    session.headers["Accept-Encoding"] = "identity"
    return session


def open_http(
    session: requests.Session, url: str, offer: Offer | None, settings: TransferSettings
) -> Stream:
    """Ask for a file, or for the rest of it.

    Raises:
        TransientError: When another attempt may help.
        RefusedError: When none will.
    """
    response = _get(session, url, _headers(offer), settings)
    try:
        found = _answer(response, url, offer)
    except BaseException:
        response.close()
        raise
    if found is None:
        response.close()
        return open_http(session, url, None, settings)
    return found


def _headers(offer: Offer | None) -> dict[str, str]:
    if offer is None:
        return {}
    headers = {"Range": f"bytes={offer.offset}-"}
    # A weak ETag allows other bytes with the same meaning, and must not stand here (RFC 9110).
    strong = "" if offer.version.etag.startswith("W/") else offer.version.etag
    if strong or offer.version.modified:
        headers["If-Range"] = strong or offer.version.modified
    return headers


def _get(
    session: requests.Session, url: str, headers: dict[str, str], settings: TransferSettings
) -> requests.Response:
    try:
        return session.get(
            url,
            headers=headers,
            stream=True,
            timeout=(settings.connect_timeout, settings.read_timeout),
        )
    except _LASTING as error:
        raise RefusedError(f"{url}: {_reason(error)}") from error
    except requests.RequestException as error:
        # A connection that came about and broke is no MaxRetryError.
        unreachable = any(isinstance(cause, MaxRetryError) for cause in error.args)
        raise TransientError(f"{url}: {_reason(error)}", unreachable=unreachable) from error


def _answer(response: requests.Response, url: str, offer: Offer | None) -> Stream | None:
    """The stream of an answer; None when what is on the disk does not fit and goes."""
    version = Version(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
    if response.status_code == HTTPStatus.OK:
        if offer is not None:
            _LOG.warning(
                "%s: the server does not resume this file; starting again, %d bytes are dropped",
                url,
                offer.offset,
            )
        plain = response.headers.get("Content-Encoding", "identity") == "identity"
        total = _length(response) if plain else None
        found = Stream(0, total, version, _blocks(response, url), response.close, resumable=plain)
        return replace(found, abort=response.raw.shutdown)
    if offer is not None and response.status_code in {
        HTTPStatus.PARTIAL_CONTENT,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    }:
        return _rest(response, url, offer, version)
    _refuse(response, url)
    return None


def _rest(response: requests.Response, url: str, offer: Offer, version: Version) -> Stream | None:
    start, total = _content_range(response)
    fits = version.agrees(offer.version) and (total is None or offer.total in {None, total})
    if fits and response.status_code == HTTPStatus.PARTIAL_CONTENT and start == offer.offset:
        known = offer.total if total is None else total
        same = version.filled(offer.version)
        found = Stream(offer.offset, known, same, _blocks(response, url), response.close)
        return replace(found, abort=response.raw.shutdown)
    if fits and start is None and total == offer.offset:
        return Stream(offer.offset, total, version, iter(()), response.close)
    _LOG.warning(
        "%s changed on the server; starting again, %d bytes are dropped", url, offer.offset
    )
    return None


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and length of the whole file, each None where the server does not say."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None:
        return None, None
    start, total = found.groups()
    return (None if start is None else int(start)), (None if total == "*" else int(total))


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _refuse(response: requests.Response, url: str) -> None:
    reason = f"{url} answered {response.status_code} {response.reason}"
    if response.status_code in _LATER or response.status_code >= 500:
        raise TransientError(reason, wait=_retry_after(response.headers.get("Retry-After", "")))
    raise RefusedError(reason)


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header, a number or a date."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _blocks(response: requests.Response, url: str) -> Iterator[bytes]:
    """What arrives, as it arrives, so that a slow line can be left at any moment."""
    try:
        while block := response.raw.read1(CHUNK, decode_content=True):
            yield block
    except (HTTPError, HTTPException, OSError) as error:
        raise TransientError(f"{url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The innermost cause in words: wrappers of wrappers say little."""
    inner = error
    while inner.__cause__ is not None or inner.__context__ is not None:
        deeper = inner.__cause__ or inner.__context__
        if not isinstance(deeper, Exception):
            break
        inner = deeper
    return f"{inner}" or type(inner).__name__
