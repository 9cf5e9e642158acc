r"""Feature maps: what the moments that are matched are moments of.

All moments are linear in the mixture, $E_w[\phi] = \sum_k w_k E_k[\phi]$. A site maps its samples,
reduces them by `DomainStatistics.from_samples(phi.transform(x), name=..., space=phi.space)` and
shares only those.
"""

from neuros_sourceweigher._bandwidth import median_bandwidth
from neuros_sourceweigher._covariance_map import CovarianceMap
from neuros_sourceweigher._fourier_map import RandomFourierMap
from neuros_sourceweigher._moment_maps import IdentityMap, QuadraticMap

__all__ = [
    "CovarianceMap",
    "IdentityMap",
    "QuadraticMap",
    "RandomFourierMap",
    "median_bandwidth",
]
