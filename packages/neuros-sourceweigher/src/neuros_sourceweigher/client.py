"""Clients of the service, for plain and for asynchronous code.

A request is sent again only when no connection came about, or the answer was 429 or 503. All
requests are pure computations, so sending one twice does no harm.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.domains import ClassSourceWeights, DomainStatistics, SourceWeights

try:
    import httpx

    from neuros_sourceweigher._requests import (
        Call,
        Retries,
        SourceWeigherError,
        Value,
        batch_call,
        class_weights_call,
        project_call,
        read_answer,
        weights_call,
    )
except ImportError as error:
    raise ImportError(
        "neuros_sourceweigher.client needs its extra: pip install 'neuros-sourceweigher[client]'"
    ) from error

__all__ = ["AsyncSourceWeigherClient", "SourceWeigherClient", "SourceWeigherError"]

T = TypeVar("T")


class SourceWeigherClient:
    """Ask a service for weights; the results are those of the library, bit for bit.

    Use it as a context manager or call `close`. It may be shared between threads.

    Args:
        base_url: Where the service is, such as `"http://localhost:8000"`.
        token: Sent as `Authorization: Bearer`.
        timeout: Seconds to wait for a connection or an answer, and the longest pause between
            attempts.
        retries: Further attempts after a refused connection, 429 or 503.
        binary: Send and receive MessagePack; JSON otherwise.

    Raises:
        ValueError: When `retries` is negative.

    Examples:
        >>> client = SourceWeigherClient("http://localhost:8000", retries=0)
        >>> client.close()
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeout: float = 30,
        retries: int = 3,
        binary: bool = True,
    ) -> None:
        self._retries = Retries(retries, timeout)
        self._binary = binary
        self._http = httpx.Client(base_url=base_url, headers=_bearer(token), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def weights(
        self,
        sources: Sequence[DomainStatistics],
        target: DomainStatistics,
        *,
        quality: Mapping[str, float] | None = None,
        **options: Value,
    ) -> SourceWeights:
        """Return the weights of `sources` that explain `target`.

        Args:
            sources: Domains with unique names.
            target: The domain to explain.
            quality: Share in [0, 1] of each source that is fit for use; a source without one
                counts 1.
            options: `method` and its options, as `/v1/methods` lists them.

        Raises:
            SourceWeigherError: When the service refuses or cannot be reached.
        """
        return self._send(weights_call(sources, target, quality, options))

    def weights_batch(
        self,
        sources: Sequence[DomainStatistics],
        targets: Sequence[DomainStatistics],
        *,
        quality: Mapping[str, float] | None = None,
        **options: Value,
    ) -> list[SourceWeights]:
        """Return the weights of `sources` for each of `targets`; arguments as in `weights`."""
        return self._send(batch_call(sources, targets, quality, options))

    def class_weights(
        self,
        sources: Sequence[DomainStatistics],
        target: DomainStatistics,
        *,
        target_priors: Mapping[str, float] | None = None,
        **options: Value,
    ) -> ClassSourceWeights:
        """Return joint weights of sources and classes; arguments as in `weights`.

        Args:
            sources: Domains with `classes`.
            target: The domain to explain, with or without `classes`.
            target_priors: Share of each class in the target.
            options: Options of the method.
        """
        return self._send(class_weights_call(sources, target, target_priors, options))

    def project(self, v: ArrayLike, *, radius: float = 1.0) -> NDArray[np.float64]:
        """Return the projection of `v` (K,) or (N, K) onto the simplex of sum `radius`."""
        return self._send(project_call(v, radius))

    def ready(self) -> bool:
        """Whether the service takes work; one attempt."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _send(self, call: Call[T]) -> T:
        content, headers = call.body(binary=self._binary)
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._http.post(call.path, content=content, headers=headers)
            except httpx.TransportError as error:
                pause = self._retries.pause(attempt, *_unanswered(error))
                if pause is None:
                    raise _unreachable(error) from error
            else:
                pause = self._retries.pause(attempt, answer.status_code, answer.headers)
                if pause is None:
                    return read_answer(call, answer.status_code, answer.headers, answer.content)
            time.sleep(pause)


class AsyncSourceWeigherClient:
    """`SourceWeigherClient` for asynchronous code; use it as `async with` or await `close`.

    Args:
        base_url: As in `SourceWeigherClient`, like all arguments.
        token: Sent as `Authorization: Bearer`.
        timeout: Seconds.
        retries: Further attempts.
        binary: MessagePack; JSON otherwise.

    Raises:
        ValueError: When `retries` is negative.

    Examples:
        >>> async def weigh(sources, target):
        ...     async with AsyncSourceWeigherClient("http://localhost:8000") as client:
        ...         return await client.weights(sources, target)
        >>> asyncio.iscoroutinefunction(weigh)
        True
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeout: float = 30,
        retries: int = 3,
        binary: bool = True,
    ) -> None:
        self._retries = Retries(retries, timeout)
        self._binary = binary
        self._http = httpx.AsyncClient(base_url=base_url, headers=_bearer(token), timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def weights(
        self,
        sources: Sequence[DomainStatistics],
        target: DomainStatistics,
        *,
        quality: Mapping[str, float] | None = None,
        **options: Value,
    ) -> SourceWeights:
        """Return the weights of `sources` that explain `target`, as `SourceWeigherClient.weights`.

        Raises:
            SourceWeigherError: When the service refuses or cannot be reached.
        """
        return await self._send(weights_call(sources, target, quality, options))

    async def weights_batch(
        self,
        sources: Sequence[DomainStatistics],
        targets: Sequence[DomainStatistics],
        *,
        quality: Mapping[str, float] | None = None,
        **options: Value,
    ) -> list[SourceWeights]:
        """Return the weights of `sources` for each of `targets`."""
        return await self._send(batch_call(sources, targets, quality, options))

    async def class_weights(
        self,
        sources: Sequence[DomainStatistics],
        target: DomainStatistics,
        *,
        target_priors: Mapping[str, float] | None = None,
        **options: Value,
    ) -> ClassSourceWeights:
        """Return joint weights, as `SourceWeigherClient.class_weights`."""
        return await self._send(class_weights_call(sources, target, target_priors, options))

    async def project(self, v: ArrayLike, *, radius: float = 1.0) -> NDArray[np.float64]:
        """Return the projection of `v` (K,) or (N, K) onto the simplex of sum `radius`."""
        return await self._send(project_call(v, radius))

    async def ready(self) -> bool:
        """Whether the service takes work; one attempt."""
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def _send(self, call: Call[T]) -> T:
        content, headers = call.body(binary=self._binary)
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._http.post(call.path, content=content, headers=headers)
            except httpx.TransportError as error:
                pause = self._retries.pause(attempt, *_unanswered(error))
                if pause is None:
                    raise _unreachable(error) from error
            else:
                pause = self._retries.pause(attempt, answer.status_code, answer.headers)
                if pause is None:
                    return read_answer(call, answer.status_code, answer.headers, answer.content)
            await asyncio.sleep(pause)


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _unanswered(error: httpx.TransportError) -> tuple[int, dict[str, str]]:
    """Status and headers for the decision: 0 when no connection came about, -1 when one broke."""
    return (0 if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else -1), {}


def _unreachable(error: httpx.TransportError) -> SourceWeigherError:
    return SourceWeigherError(0, "unreachable", f"{type(error).__name__}: {error}", "")
