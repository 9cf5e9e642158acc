"""What the parts of one application share."""

from collections.abc import Collection

from neuros_sourceweigher._service.limits import RateLimit
from neuros_sourceweigher._service.metrics import Metrics
from neuros_sourceweigher._service.pool import Pool
from neuros_sourceweigher._service.settings import ServiceSettings

__all__: list[str] = []


class ServiceState:
    """Settings, metrics, pool and the two facts that `/readyz` reports.

    Args:
        settings: The settings of the process.
        routes: Paths that are counted by name.
    """

    def __init__(self, settings: ServiceSettings, routes: Collection[str]) -> None:
        self.settings = settings
        self.secret = settings.secret()
        rate = settings.rate_limit_per_s
        self.rate = RateLimit(rate) if rate > 0 else None
        self.metrics = Metrics(routes)
        self.warm = False
        self.draining = False
        self.open()

    def open(self) -> None:
        """Take work, also after a shutdown: an application may be started again."""
        settings, depth = self.settings, self.metrics.queue_depth
        self.pool = Pool(settings.max_concurrency, settings.queue_size, depth.set)
        self.draining = False
