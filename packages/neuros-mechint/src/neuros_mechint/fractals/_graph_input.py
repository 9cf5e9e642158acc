"""Graphs as callers hold them: dense stacks, sparse matrices, networkx."""

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._conventions import read_signals

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["Graphs", "largest_component", "read_graphs"]


class Graphs(NamedTuple):
    """Undirected graphs without loops, and how to hand results back.

    Attributes:
        items: symmetric `(node, node)` matrices of positive weights.
        batch: the shape of the batch.
        dtype: of the results.
        device: of the results; None where the caller passed no tensor and gets arrays.
        n_asymmetric: how many were directed.
    """

    items: "list[sparse.csr_array]"
    batch: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device | None
    n_asymmetric: int

    def deliver(self, values: NDArray[Any], dtype: torch.dtype | None = None) -> Any:
        """Hand results back in the caller's kind of array.

        Args:
            values: one row or number per graph.
            dtype: of the result; that of the graphs when None.

        Returns:
            A tensor on the device of the input, or an array; its first axis is the batch.

        Examples:
            >>> graphs = read_graphs(np.eye(3))
            >>> graphs.deliver(np.array([2]), torch.int64)
            array(2)
        """
        shaped = values.reshape(self.batch + values.shape[1:])
        result = torch.from_numpy(np.ascontiguousarray(shaped)).to(dtype or self.dtype)
        # ascontiguousarray gives an axis to what has none.
        result = result.reshape(shaped.shape)
        return result.numpy() if self.device is None else result.to(self.device)


def read_graphs(adjacency: object) -> Graphs:
    """Take the caller's graphs; directed ones get the larger weight of the two directions.

    Args:
        adjacency: `(..., node, node)` tensor or array, sparse matrix of SciPy or torch, or graph
            of networkx (edges count by their attribute `weight`, 1 where they have none).

    Returns:
        The graphs.

    Raises:
        TypeError: if `adjacency` is none of them, or not real.
        ValueError: if it is not square, not finite, or negative somewhere.

    Examples:
        >>> read_graphs(torch.ones(2, 3, 3)).items[0].nnz
        6
    """
    matrix = _from_networkx(adjacency)
    if isinstance(matrix, Tensor) and matrix.layout != torch.strided:
        return _from_sparse(_to_scipy(matrix), _result_dtype(matrix.dtype), matrix.device)
    # Without scipy.sparse in the process nobody holds a sparse matrix.
    known = sys.modules.get("scipy.sparse")
    if known is not None and known.issparse(matrix):
        return _from_sparse(matrix, torch.float64, None)
    return _from_dense(matrix)


def largest_component(graph: "sparse.csr_array") -> tuple["sparse.csr_array", NDArray[np.intp]]:
    """Keep the nodes of the largest connected component.

    Args:
        graph: symmetric.

    Returns:
        The component and the numbers of its nodes in the whole graph, rising.

    Examples:
        >>> graph = read_graphs(torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))).items[0]
        >>> largest_component(graph)[1].tolist()
        [2, 3, 4]
    """
    from scipy.sparse.csgraph import connected_components

    count, label = connected_components(graph, directed=False)
    if count == 1:
        return graph, np.arange(graph.shape[0])
    nodes = np.flatnonzero(label == np.bincount(label).argmax())
    return graph[nodes][:, nodes], nodes


def _from_networkx(adjacency: object) -> Any:
    known = sys.modules.get("networkx")
    if known is None or not isinstance(adjacency, known.Graph):
        return adjacency
    if len(adjacency) == 0:
        raise ValueError("adjacency needs at least 1 node, got an empty graph")
    return known.to_scipy_sparse_array(adjacency, dtype=float, format="csr")


def _to_scipy(matrix: Tensor) -> Any:
    from scipy import sparse

    if matrix.ndim != 2:
        raise ValueError(
            f"a sparse adjacency needs shape (node, node), got {tuple(matrix.shape)}; pass the "
            "graphs of a batch one by one, or dense"
        )
    coo = matrix.detach().to_sparse(layout=torch.sparse_coo).coalesce().cpu()
    row, column = coo.indices().numpy()
    # NumPy has no bfloat16.
    return sparse.coo_array((coo.values().double().numpy(), (row, column)), shape=matrix.shape)


def _result_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype == torch.float64:
        return torch.float64
    return torch.float32 if dtype.is_floating_point else torch.get_default_dtype()


def _from_sparse(matrix: Any, dtype: torch.dtype, device: torch.device | None) -> Graphs:
    _require_square(matrix.shape)
    item, asymmetric = _simple(matrix)
    values = item.data
    _require_weights(np.array([not np.isfinite(values).all()]), negative=bool((values < 0).any()))
    return Graphs([item], (), dtype, device, int(asymmetric))


def _from_dense(matrix: object) -> Graphs:
    from scipy import sparse

    signals = read_signals(matrix, -1, name="adjacency")
    _require_square(tuple(signals.view.shape))
    tensor = signals.view.detach()
    bad = ~torch.isfinite(tensor).flatten(-2).all(-1)
    _require_weights(bad.reshape(-1).cpu().numpy(), negative=bool((tensor < 0).any()))
    flat = tensor.reshape(-1, *tensor.shape[-2:]).cpu()
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    pairs = [_simple(sparse.coo_array(item)) for item in flat.numpy()]
    device = None if signals.is_array else tensor.device
    return Graphs(
        [item for item, _ in pairs],
        tuple(tensor.shape[:-2]),
        signals.dtype,
        device,
        sum(asymmetric for _, asymmetric in pairs),
    )


def _simple(matrix: Any) -> tuple["sparse.csr_array", bool]:
    """Drop loops and zeros, join both directions; and whether those differed."""
    from scipy import sparse

    coo = sparse.coo_array(matrix)
    kept = (coo.row != coo.col) & (coo.data != 0)
    values = coo.data[kept].astype(np.float64)
    graph = sparse.csr_array((values, (coo.row[kept], coo.col[kept])), shape=coo.shape)
    # Conversion from columns to rows sorts, so that equal matrices have equal arrays.
    graph.sort_indices()
    mirror = graph.T.tocsr()
    if np.array_equal(graph.indices, mirror.indices) and np.array_equal(graph.data, mirror.data):
        return graph, not np.array_equal(graph.indptr, mirror.indptr)
    return graph.maximum(mirror), True


def _require_square(shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 1:
        raise ValueError(f"adjacency needs shape (..., node, node), got {tuple(shape)}")


def _require_weights(bad: NDArray[np.bool_], *, negative: bool) -> None:
    if bad.any():
        raise ValueError(
            f"adjacency must be finite, got NaN or infinity in {bad.sum()} of {bad.size} items"
        )
    if negative:
        raise ValueError("adjacency must not be negative; take its absolute value first")
