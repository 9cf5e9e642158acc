"""Which source datasets should a model train on for a target: certified weights on the simplex."""

from importlib.metadata import version

from neuros_sourceweigher.simplex import (
    SimplexBatch,
    SimplexSolution,
    project_simplex,
    solve_simplex_ls,
    solve_simplex_ls_batched,
    solve_simplex_qp,
)
from neuros_sourceweigher.weigher import SourceWeigher

__all__ = [
    "SimplexBatch",
    "SimplexSolution",
    "SourceWeigher",
    "__version__",
    "project_simplex",
    "solve_simplex_ls",
    "solve_simplex_ls_batched",
    "solve_simplex_qp",
]

__version__ = version("neuros-sourceweigher")
