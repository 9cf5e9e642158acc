"""The service behind Ray Serve, for clusters that run Ray: `serve run ray_serve_app:deployment`.

The application is the one that `neuros-sourceweigher serve` runs; Ray Serve brings replicas, their
scaling and the HTTP entry. On Kubernetes without Ray, the chart of the service does the same.
Needs `pip install "ray[serve]" "neuros-sourceweigher[service]"`.
"""

# %% Without Ray the module can be imported and says what it lacks when it is used.
from importlib.util import find_spec
from typing import Any

REPLICAS = (1, 8)


# %% The same application in every replica. Its lifespan solves the first problem.
def build_deployment() -> Any:
    """Return the Ray Serve application; settings come from `SOURCEWEIGHER_*`."""
    if find_spec("ray") is None:
        raise ImportError("this example needs Ray: pip install 'ray[serve]'")
    from ray import serve

    from neuros_sourceweigher.service import create_app

    least, most = REPLICAS

    @serve.deployment(
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}},
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": 4,
        },
        max_ongoing_requests=16,
        graceful_shutdown_timeout_s=40,
    )
    @serve.ingress(create_app)
    class SourceWeigher:
        """One replica; everything of the service is in the application that it wraps."""

    return SourceWeigher.bind()


def __getattr__(name: str) -> Any:
    """Build `deployment` when Ray asks for it."""
    if name == "deployment":
        return build_deployment()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
