"""What is asked of an Alyx data base: a token, and pages of records."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuros_data.errors import NetworkError

if TYPE_CHECKING:
    import requests

    from neuros_data.transfer import TransferSettings

ACCOUNT_VARIABLE = "NEUROS_ALYX_TOKEN"
_PAGE = 250
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)


class Alyx:
    """A session with one server, logged in.

    Args:
        base_url: Address of the server.
        login: `"user:password"`; the token in the environment variable `NEUROS_ALYX_TOKEN`, if
            there is one, goes before it.
        transfer: Retries and timeouts.

    Raises:
        NetworkError: When the server cannot be reached or refuses the login.
    """

    def __init__(self, base_url: str, login: str, transfer: "TransferSettings") -> None:
        self._root = base_url.rstrip("/")
        self._timeout = (transfer.connect_timeout, transfer.read_timeout)
        self._session = _session(transfer)
        token = os.environ.get(ACCOUNT_VARIABLE) or self._log_in(login)
        self._session.headers["Authorization"] = f"Token {token}"

    def _log_in(self, login: str) -> str:
        user, _, password = login.partition(":")
        answer = self._ask("POST", "auth-token", data={"username": user, "password": password})
        return str(answer["token"])

    def records(self, path: str, **filters: str) -> list[dict[str, Any]]:
        """Every record that matches, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._ask(
                "GET", path, params={**filters, "limit": str(_PAGE), "offset": str(len(found))}
            )
            found += page["results"]
            if not page["results"] or len(found) >= page["count"]:
                return found

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
    ) -> Any:
        from requests import RequestException

        url = f"{self._root}/{path}"
        try:
            answer = self._session.request(
                method, url, params=params, data=data, timeout=self._timeout
            )
        except RequestException as error:
            raise NetworkError(f"{url} cannot be reached ({error}); try again later") from error
        # Alyx answers a wrong password with 400, and so it does a wrong filter.
        if answer.status_code in (401, 403) or (method == "POST" and not answer.ok):
            raise NetworkError(
                f"{url} refused the login ({answer.status_code}); make a free account at "
                f"{self._root}/signup and put the token of {self._root}/me into the environment "
                f"variable {ACCOUNT_VARIABLE}"
            )
        if not answer.ok:
            raise NetworkError(f"{url} answered {answer.status_code} {answer.reason}")
        try:
            return answer.json()
        except ValueError as error:
            raise NetworkError(f"{url} did not answer in JSON: {answer.text[:80]!r}") from error


def _session(transfer: "TransferSettings") -> "requests.Session":
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(
        total=transfer.retries,
        backoff_factor=transfer.backoff,
        backoff_max=transfer.longest_wait,
        backoff_jitter=transfer.backoff / 2,
        status_forcelist=_TRY_AGAIN,
        allowed_methods=("GET", "POST"),
        raise_on_status=False,
    )
    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session
