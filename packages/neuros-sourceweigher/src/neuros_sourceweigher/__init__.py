"""Which source datasets should a model train on for a target: certified weights on the simplex."""

from importlib.metadata import version

from neuros_sourceweigher.features import (
    CovarianceMap,
    IdentityMap,
    QuadraticMap,
    RandomFourierMap,
    median_bandwidth,
)
from neuros_sourceweigher.simplex import (
    SimplexBatch,
    SimplexSolution,
    project_simplex,
    solve_simplex_ls,
    solve_simplex_ls_batched,
    solve_simplex_qp,
)
from neuros_sourceweigher.weigher import (
    ClassConditionalWeigher,
    ClassifierWeigher,
    DoReMiWeights,
    KernelMeanWeigher,
    MMDTest,
    OnlineWeigher,
    RegularizationPath,
    SourceWeigher,
    StabilityReport,
    bootstrap_weights,
    distribution_weighted_combination,
    leave_one_source_out,
    regularization_path,
)

__all__ = [
    "ClassConditionalWeigher",
    "ClassifierWeigher",
    "CovarianceMap",
    "DoReMiWeights",
    "IdentityMap",
    "KernelMeanWeigher",
    "MMDTest",
    "OnlineWeigher",
    "QuadraticMap",
    "RandomFourierMap",
    "RegularizationPath",
    "SimplexBatch",
    "SimplexSolution",
    "SourceWeigher",
    "StabilityReport",
    "__version__",
    "bootstrap_weights",
    "distribution_weighted_combination",
    "leave_one_source_out",
    "median_bandwidth",
    "project_simplex",
    "regularization_path",
    "solve_simplex_ls",
    "solve_simplex_ls_batched",
    "solve_simplex_qp",
]

__version__ = version("neuros-sourceweigher")
