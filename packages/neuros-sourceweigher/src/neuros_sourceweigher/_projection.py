r"""Euclidean projection onto the probability simplex, row by row.

With $u = v - \max v$ the threshold lies in $[-r, 0)$, so entries below $-r$ cannot be in the
support and are raised to $-r$: every sum then has terms of the size of the radius, and nothing
is lost to cancellation or overflow whatever the size of $v$.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_sourceweigher._compiled import WORTH_COMPILING, compiled_projection

__all__: list[str] = []

# Rows worked on at a time: three buffers of this size stay in a 1 MiB L2 cache.
_BLOCK_BYTES = 2**18
# Longer rows are cut by Newton's method in pieces: a sort would need copies of the whole row.
_LONG_ROW = 2**16


def is_tensor(x: object) -> bool:
    """Whether `x` is a torch tensor; a tensor can only come from a torch that is loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def check_radius(radius: float) -> None:
    """Raise unless `radius` is a positive number whose multiples do not overflow."""
    if not 0 < radius <= 1e300:
        raise ValueError(f"radius needs a finite number > 0, at most 1e300, got {radius!r}")


def _refuse(what: str, shape: tuple[int, ...]) -> None:
    if what == "empty":
        raise ValueError(f"v needs at least one entry along its last axis, got shape {shape}")
    raise ValueError(f"v needs finite values, got NaN or infinity in an array of shape {shape}")


def project_array(
    v: ArrayLike, radius: float, out: NDArray[np.floating] | None
) -> NDArray[np.floating]:
    """Project the rows of a NumPy array."""
    given = np.asarray(v)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"v needs real numbers, got dtype {given.dtype}")
    if given.ndim == 0 or given.shape[-1] == 0:
        _refuse("empty", given.shape)
    dtype = given.dtype if given.dtype.kind == "f" else np.dtype(np.float64)
    if out is None:
        out = np.empty(given.shape, dtype)
    elif out.shape != given.shape or out.dtype != dtype:
        raise ValueError(
            f"out needs shape {given.shape} and dtype {dtype}, got {out.shape} and {out.dtype}"
        )
    rows, target = given.reshape(-1, given.shape[-1]), out.reshape(-1, given.shape[-1])
    large = rows.size >= WORTH_COMPILING and rows.dtype in (np.float32, np.float64)
    compiled = compiled_projection() if large else None
    if compiled is None:
        _project_blocks(rows, radius, target)
    elif not compiled(rows, float(radius), target):
        _refuse("values", given.shape)
    if not np.may_share_memory(target, out):
        out[...] = target.reshape(out.shape)
    return out


def _project_blocks(rows: NDArray[Any], radius: float, target: NDArray[Any]) -> None:
    """Project rows (n, K) into `target` in blocks that stay in the cache."""
    K = rows.shape[-1]
    work = np.dtype(np.float32) if target.itemsize < 4 else target.dtype
    step = max(1, _BLOCK_BYTES // (K * work.itemsize))
    # Differences of finite values may overflow to -inf, which is below every threshold.
    with np.errstate(over="ignore"):
        for start in range(0, len(rows), step):
            block = rows[start : start + step].astype(work, copy=False)
            top, theta = _sorted_cut(block, radius) if K <= _LONG_ROW else _long_cut(block, radius)
            u = block - top
            u -= theta
            np.maximum(u, 0, out=target[start : start + step], casting="same_kind")


def _sorted_cut(
    block: NDArray[np.floating], radius: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Maximum and threshold below it of each row (Wang & Carreira-Perpinan 2013, algorithm 1)."""
    K = block.shape[-1]
    high = np.sort(block, axis=-1)[:, ::-1]
    top = high[:, :1].copy()
    # NaN sorts last and infinities to the ends: two columns tell whether a row is finite.
    if not (np.isfinite(top).all() and np.isfinite(high[:, -1]).all()):
        _refuse("values", block.shape)
    # Entries a radius below the maximum are never in the support: drop half of the columns while
    # that holds for all rows, because the cumulative sum is the dearest step.
    while K > 4 and (high[:, K // 2] - top[:, 0] <= -radius).all():
        K //= 2
    high = high[:, :K] - top
    np.maximum(high, -radius, out=high)
    mean = np.cumsum(high, axis=-1)
    mean -= radius
    mean /= np.arange(1, K + 1, dtype=block.dtype)
    last = np.count_nonzero(high > mean, axis=-1) - 1
    return top, np.take_along_axis(mean, last[:, None], axis=-1)


def _long_cut(
    block: NDArray[np.floating], radius: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    r"""Maximum and threshold of each row as the root of $\sum_i \max(u_i - \theta, 0) = r$.

    The sum is convex and falls in theta, so Newton's method from the left is monotone and ends
    at the root once the support stands still (Michelot 1986).
    """
    top = block.max(axis=-1, keepdims=True)
    if not (np.isfinite(top).all() and np.isfinite(block.min(axis=-1)).all()):
        _refuse("values", block.shape)
    theta = np.empty_like(top)
    for i, row in enumerate(block):
        active = row[row >= top[i] - radius] - top[i]
        while True:
            at = (active.sum(dtype=np.float64) - radius) / len(active)
            kept = active[active > at]
            if len(kept) == len(active):
                break
            active = kept
        theta[i] = at
    return top, theta


def project_tensor(v: Any, radius: float, out: Any) -> Any:
    r"""Project the rows of a torch tensor, on its device.

    The support and its threshold are found outside the graph; the result is then written as
    $v_i - (\sum_S v - r) / |S|$ on the support, whose derivative is the exact Jacobian.
    """
    torch = sys.modules["torch"]
    if v.dim() == 0 or v.shape[-1] == 0:
        _refuse("empty", tuple(v.shape))
    if v.is_complex():
        raise TypeError(f"v needs real numbers, got dtype {v.dtype}")
    dtype = v.dtype if v.is_floating_point() else torch.float64
    work = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    x = v.to(work)
    with torch.no_grad():
        if not bool(torch.isfinite(x).all()):
            _refuse("values", tuple(v.shape))
        top = x.amax(-1, keepdim=True)
    if torch.is_grad_enabled() and v.requires_grad:
        u = x - top
        with torch.no_grad():
            support = u.clamp_min(-radius) > _tensor_threshold(u.clamp_min(-radius), radius)
        inside = torch.where(support, u, torch.zeros_like(u))
        theta = (inside.sum(-1, keepdim=True) - radius) / support.sum(-1, keepdim=True)
        w = torch.where(support, u - theta, torch.zeros_like(u)).to(dtype)
    else:
        u = (x - top).clamp_min_(-radius)
        w = u.sub_(_tensor_threshold(u, radius)).clamp_min_(0).to(dtype)
    if out is None:
        return w
    if out.shape != w.shape or out.dtype != w.dtype:
        raise ValueError(
            f"out needs shape {tuple(w.shape)} and dtype {w.dtype}, "
            f"got {tuple(out.shape)} and {out.dtype}"
        )
    return out.copy_(w)


def _tensor_threshold(u: Any, radius: float) -> Any:
    """Threshold of each row, with a last axis of length one."""
    torch = sys.modules["torch"]
    K = u.shape[-1]
    if u.device.type == "cpu":
        # NumPy's vectorised sort takes a third of the time of torch's; the memory is shared.
        rows = u.detach().reshape(-1, K).numpy()
        step = max(1, _BLOCK_BYTES // (K * rows.itemsize))
        cuts = [_sorted_cut(rows[i : i + step], radius) for i in range(0, len(rows), step)]
        found = np.concatenate([top + theta for top, theta in cuts]) if cuts else rows[:, :1]
        return torch.from_numpy(found).reshape(*u.shape[:-1], 1)
    return _torch_cut(u, radius)


def _torch_cut(u: Any, radius: float) -> Any:
    """Compute `_tensor_threshold` with torch alone, for devices whose memory NumPy cannot read."""
    torch = sys.modules["torch"]
    K = u.shape[-1]
    high = u.sort(dim=-1, descending=True).values
    count = torch.arange(1, K + 1, dtype=u.dtype, device=u.device)
    mean = (high.cumsum(-1) - radius) / count
    last = (high > mean).sum(-1, keepdim=True) - 1
    return mean.gather(-1, last)
