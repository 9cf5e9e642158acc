"""Settings of the service, read from the environment."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__: list[str] = []

PREFIX = "SOURCEWEIGHER_"


def _cores() -> int:
    """Cores this process may use, which a container can hold below those of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class ServiceSettings(BaseSettings):
    """What the service listens on and what it refuses, from `SOURCEWEIGHER_*` variables.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        token: What callers send as `Authorization: Bearer`; None lets everybody in.
        token_file: File that holds the token instead, such as a mounted secret.
        max_body_bytes: Largest request body.
        max_sources: Most sources, targets or rows in one request.
        max_features: Largest number of features.
        max_concurrency: Problems solved at the same time.
        queue_size: Problems that may wait for their turn; the next one is refused with 503.
        request_timeout_s: Seconds from the first byte of a request to its answer.
        body_timeout_s: Seconds within which a body has to arrive.
        rate_limit_per_s: Requests a second per token, or per address without one; 0: no limit.
        drain_s: Seconds in which a terminated server still accepts connections.
        log_json: One JSON object a line; plain text otherwise.

    Raises:
        ValueError: For a value out of range or an unknown field.

    Examples:
        >>> ServiceSettings(max_sources=50).max_sources
        50
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    token: SecretStr | None = Field(default=None, min_length=1)
    token_file: Path | None = None
    max_body_bytes: PositiveInt = 16 * 2**20
    max_sources: PositiveInt = 10_000
    max_features: PositiveInt = 4096
    max_concurrency: PositiveInt = Field(default_factory=_cores)
    queue_size: PositiveInt = 64
    request_timeout_s: PositiveFloat = Field(default=30.0, le=3600)
    body_timeout_s: PositiveFloat = Field(default=10.0, le=3600)
    rate_limit_per_s: NonNegativeFloat = Field(default=0.0, le=1e9)
    drain_s: NonNegativeFloat = Field(default=0.0, le=3600)
    log_json: bool = True

    # The inherited constructor takes the instance under a name without an annotation.
    def __init__(self, **values: Any) -> None:
        super().__init__(**values)

    def secret(self) -> bytes | None:
        """Return the token that callers have to send, or None when everybody may call.

        Raises:
            ValueError: When both forms are given, or the file is unreadable or empty.
        """
        if self.token_file is None:
            return None if self.token is None else _check_token(self.token.get_secret_value())
        if self.token is not None:
            raise ValueError(f"{PREFIX}TOKEN and {PREFIX}TOKEN_FILE exclude each other, got both")
        try:
            text = self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{PREFIX}TOKEN_FILE needs a readable text file: {type(error).__name__}"
            ) from error
        return _check_token(text)


def _check_token(text: str) -> bytes:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{PREFIX}TOKEN needs printable ASCII characters without spaces")
    return text.encode()


def load_settings(**given: Any) -> ServiceSettings:
    """Read the environment; `given` values win over it.

    Raises:
        ValueError: With one line that names each bad variable and says what it needs.
    """
    try:
        settings = ServiceSettings(**given)
    except ValidationError as error:
        faults = (
            f"{PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise ValueError("; ".join(faults)) from None
    settings.secret()
    return settings
