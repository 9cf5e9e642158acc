"""What a served model accepts at most."""

from dataclasses import dataclass

__all__ = ["ServingLimits"]


@dataclass(frozen=True, kw_only=True)
class ServingLimits:
    """What a served model accepts at most, per process.

    Args:
        max_body: Bytes of a request body or of a message of a stream.
        timeout: Seconds within which a body has to arrive, and again within which its answer has to
            be computed.
        queue: Requests that may wait for the one being computed; the next is refused with 503.
        streams: Open streams; the next is refused with 503.
        idle: Seconds after which a stream without messages is closed.
        max_steps: Steps of the model's grid in one request or one message.

    Raises:
        ValueError: A limit that is not > 0 (`queue` may be 0).

    Examples:
        >>> ServingLimits(queue=2).streams
        16
    """

    max_body: int = 16 * 2**20
    timeout: float = 30.0
    queue: int = 16
    streams: int = 16
    idle: float = 300.0
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        for name in ("max_body", "timeout", "streams", "idle", "max_steps"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        if self.queue < 0:
            raise ValueError(f"queue must be >= 0, got {self.queue}")
