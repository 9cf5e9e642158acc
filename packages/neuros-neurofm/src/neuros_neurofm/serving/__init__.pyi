from .app import create_app as create_app
from .limits import ServingLimits as ServingLimits

__all__ = ["ServingLimits", "create_app"]
