"""NIfTI and CIFTI: a table of regions with an atlas, of voxels or grayordinates without."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_data._extras import need
from neuros_data.reading._draft import Block, Draft, Options, unique_names

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}
_CHUNK = 32  # volumes read at once


def read_nifti(path: Path, options: Options) -> Draft:
    """Read a time series of volumes, or of grayordinates."""
    nibabel = need("nibabel", "fmri", "reading NIfTI")
    image = _load(nibabel, path)
    if options.modality not in (None, "fmri"):
        raise ValueError(f"{path} is NIfTI, whose modality is fmri, got {options.modality}")
    draft = Draft(provenance={"format": "NIfTI"})
    if isinstance(image, nibabel.Cifti2Image):
        draft.provenance["format"] = "CIFTI"
        data, names, rate = _cifti(nibabel, image, path, options)
    else:
        data, names, rate = _volumes(nibabel, image, path, options, draft)
    empty = np.isnan(data).all(axis=0)
    if empty.any():
        draft.notes.append(f"fmri: {int(empty.sum())} of {len(names)} regions hold no voxel")
    kinds, units = ["fmri"] * len(names), ["a.u."] * len(names)
    draft.blocks = [Block(data, unique_names(names), kinds, units, rate=rate)]
    return draft


def _load(nibabel: Any, path: Path | str | os.PathLike[str]) -> Any:
    try:
        image = nibabel.load(path)
        _check_size(nibabel, image, Path(path))
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError) as error:
        raise ValueError(f"{path} is truncated or not NIfTI: {error}") from error
    return image


def _check_size(nibabel: Any, image: Any, path: Path) -> None:
    if path.suffix == ".gz" or isinstance(image, nibabel.Cifti2Image):
        return
    proxy = image.dataobj
    needed = int(proxy.offset) + int(np.prod(image.shape)) * proxy.dtype.itemsize
    found = path.stat().st_size
    if found < needed:
        raise ValueError(
            f"{path} is truncated: {list(image.shape)} of {proxy.dtype} need {needed} bytes, "
            f"found {found}; fetch it again"
        )


def _volumes(
    nibabel: Any, image: Any, path: Path, options: Options, draft: Draft
) -> tuple[NDArray[Any], list[str], float]:
    if len(image.shape) != 4:
        raise ValueError(
            f"{path} has shape {image.shape}; a recording needs (x, y, z, time). A map of labels "
            "goes in atlas="
        )
    rate = _rate(image, path, options)
    if options.atlas is not None:
        if options.mask is not None:
            raise ValueError("pass atlas= or mask=, not both: an atlas chooses its voxels itself")
        labels = np.rint(_like(nibabel, options.atlas, image)).astype(np.int64)
        data, names = _regions(image, labels)
        return data, names, rate
    if options.mask is not None:
        inside = _like(nibabel, options.mask, image) > 0
        _check_any(inside, "mask=", path)
    else:
        inside = _changing(image)
        draft.notes.append(
            f"fmri: no atlas= and no mask=; {int(inside.sum())} voxels that change are read"
        )
        _check_any(inside, "voxels that change", path)
    names = [",".join(map(str, ijk)) for ijk in np.argwhere(inside)]
    return _voxels(image, inside), names, rate


def _check_any(inside: NDArray[np.bool_], what: str, path: Path) -> None:
    if not inside.any():
        raise ValueError(f"{path}: {what} leaves no voxel")


def _rate(image: Any, path: Path, options: Options) -> float:
    if options.rate is not None:
        return options.rate
    step = float(image.header.get_zooms()[3]) * _SECONDS.get(image.header.get_xyzt_units()[1], 1.0)
    if not step > 0:
        raise ValueError(
            f"{path} does not say its repetition time; pass rate= in Hz, 1 / the repetition time"
        )
    # The header holds float32: 0.72 s comes back as 0.7200000286.
    return 1.0 / float(np.format_float_positional(np.float32(step), unique=True))


def _like(nibabel: Any, source: Any, image: Any) -> NDArray[np.float64]:
    """A map (x, y, z) on the grid of `image`; each voxel takes its nearest neighbour's value."""
    chart = source if hasattr(source, "affine") else _load(nibabel, source)
    if chart.shape[:3] != image.shape[:3] or not np.allclose(chart.affine, image.affine):
        resample = need("nilearn.image", "fmri", "an atlas on another grid")
        chart = resample.resample_to_img(
            chart, image, interpolation="nearest", copy_header=True, force_resample=True
        )
    values: NDArray[np.float64] = np.asarray(chart.dataobj, dtype=np.float64)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(f"an atlas or mask needs shape (x, y, z), got {values.shape}")
    return values


def _chunks(image: Any) -> list[slice]:
    n = image.shape[3]
    return [slice(at, min(at + _CHUNK, n)) for at in range(0, n, _CHUNK)]


def _regions(image: Any, labels: NDArray[np.int64]) -> tuple[NDArray[np.float64], list[str]]:
    """Mean of each label's voxels, (time, region), in the order of the labels; 0 is outside."""
    inside = labels != 0
    ids, owners = np.unique(labels[inside], return_inverse=True)
    sizes = np.bincount(owners, minlength=len(ids))
    out = np.empty((image.shape[3], len(ids)))
    for part in _chunks(image):
        volumes = np.asarray(image.dataobj[..., part], dtype=np.float64)[inside]
        for t, volume in zip(range(part.start, part.stop), volumes.T, strict=True):
            out[t] = np.bincount(owners, weights=volume, minlength=len(ids)) / sizes
    return out, [str(i) for i in ids]


def _voxels(image: Any, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    out = np.empty((image.shape[3], int(inside.sum())), np.float32)
    for part in _chunks(image):
        out[part] = np.asarray(image.dataobj[..., part], dtype=np.float32)[inside].T
    return out


def _changing(image: Any) -> NDArray[np.bool_]:
    """Voxels that are finite and not constant: what is outside a masked image is one value."""
    first = np.asarray(image.dataobj[..., 0], dtype=np.float64)
    moves, finite = np.zeros(first.shape, bool), np.isfinite(first)
    for part in _chunks(image):
        volumes = np.asarray(image.dataobj[..., part], dtype=np.float64)
        moves |= (volumes != first[..., None]).any(axis=3)
        finite &= np.isfinite(volumes).all(axis=3)
    inside: NDArray[np.bool_] = moves & finite
    return inside


def _cifti(
    nibabel: Any, image: Any, path: Path, options: Options
) -> tuple[NDArray[Any], list[str], float]:
    if options.mask is not None:
        raise ValueError(f"{path} is CIFTI, which holds no voxels to mask; pass atlas= (dlabel)")
    axes = [image.header.get_axis(i) for i in range(2)]
    if not hasattr(axes[0], "step"):
        raise ValueError(f"{path} holds no time series; .dtseries.nii and .ptseries.nii do")
    data = np.asarray(image.dataobj, dtype=np.float32)
    step = float(axes[0].step)
    if options.rate is None and (axes[0].unit != "SECOND" or not step > 0):
        raise ValueError(f"{path} has steps of {step} {axes[0].unit}; pass rate= in Hz")
    rate = 1.0 / step if options.rate is None else options.rate
    if options.atlas is None:
        return data, _grayordinates(nibabel, axes[1]), rate
    chart = options.atlas if hasattr(options.atlas, "header") else _load(nibabel, options.atlas)
    labels = np.asarray(chart.dataobj).astype(np.int64).ravel()
    if labels.size != data.shape[1]:
        raise ValueError(f"atlas= has {labels.size} grayordinates, {path.name} has {data.shape[1]}")
    ids = np.unique(labels[labels != 0])
    table = np.stack([data[:, labels == i].mean(axis=1, dtype=np.float64) for i in ids], axis=1)
    return table, [str(i) for i in ids], rate


def _grayordinates(nibabel: Any, axis: Any) -> list[str]:
    if isinstance(axis, nibabel.cifti2.ParcelsAxis):
        return [str(name) for name in axis.name]
    return [str(i) for i in range(len(axis))]
