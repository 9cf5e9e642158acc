"""NIfTI and CIFTI, written by nibabel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_data.reading import read

nib = pytest.importorskip("nibabel")

SHAPE = (4, 5, 3)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def bold(path: Path, *, step: float = 0.72, unit: str = "sec", shape: Any = SHAPE) -> Path:
    data = np.random.default_rng(0).normal(size=(*shape, 40)).astype(np.float32)
    data[0] = 0.0
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_zooms((2, 2, 2, step))
    image.header.set_xyzt_units("mm", unit)
    nib.save(image, path)
    return path


def atlas(path: Path, affine: np.ndarray = AFFINE) -> Path:
    labels = np.zeros(SHAPE, np.int16)
    labels[1], labels[2, :2] = 7, 3
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


def test_an_atlas_gives_the_mean_of_each_region(tmp_path: Path) -> None:
    path = bold(tmp_path / "a.nii.gz")
    fmri = read(path, atlas=atlas(tmp_path / "atlas.nii")).modalities["fmri"]
    data = nib.load(path).get_fdata()
    expected = np.stack([data[2, :2].mean((0, 1)), data[1].mean((0, 1))], axis=1)
    np.testing.assert_allclose(fmri.data, expected, rtol=1e-12, atol=1e-12)
    assert fmri.channels == ("3", "7")
    assert fmri.rate == 1 / 0.72


@pytest.mark.slow  # imports nilearn, and with it scikit-learn
def test_an_atlas_on_another_grid_is_resampled(tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    small = nib.Nifti1Image(np.ones((2, 3, 2), np.int16), np.diag([4.0, 4.0, 4.0, 1.0]))
    fmri = read(bold(tmp_path / "a.nii"), atlas=small).modalities["fmri"]
    assert fmri.channels == ("1",)


def test_a_mask_gives_its_voxels(tmp_path: Path) -> None:
    path = bold(tmp_path / "a.nii", step=720.0, unit="msec")
    mask = np.zeros((*SHAPE, 1), np.uint8)
    mask[1, 2, 0] = mask[3, 0, 1] = 1
    fmri = read(path, mask=nib.Nifti1Image(mask, AFFINE)).modalities["fmri"]
    assert fmri.channels == ("1,2,0", "3,0,1")
    np.testing.assert_array_equal(fmri.data[:, 0], nib.load(path).get_fdata()[1, 2, 0])
    np.testing.assert_allclose(fmri.rate, 1 / 0.72)


def test_without_atlas_and_mask_voxels_that_change_are_read(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="45 voxels that change are read"):
        fmri = read(bold(tmp_path / "a.nii")).modalities["fmri"]
    assert fmri.data.shape == (40, 45)


def test_a_region_that_is_nan_is_kept_and_not_valid(
    tmp_path: Path, read: Callable[..., Any]
) -> None:
    data = np.random.default_rng(0).normal(size=(*SHAPE, 10))
    data[1] = np.nan
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_zooms((2, 2, 2, 2))
    nib.save(image, tmp_path / "a.nii")
    recording, told = read(tmp_path / "a.nii", atlas=atlas(tmp_path / "atlas.nii"))
    assert recording.modalities["fmri"].valid.all(axis=0).tolist() == [True, False]
    assert "1 of 2 regions hold no voxel" in told


def test_a_truncated_image_names_bytes_expected_and_found(tmp_path: Path) -> None:
    path = bold(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="of float32 need 9952 bytes, found 9852; fetch it again"):
        read(path)


def test_what_is_no_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"x" * 400)
    with pytest.raises(ValueError, match="is truncated or not NIfTI"):
        read(tmp_path / "a.nii")


def test_choices_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    path, chart = bold(tmp_path / "a.nii"), atlas(tmp_path / "atlas.nii")
    with pytest.raises(ValueError, match="whose modality is fmri, got eeg"):
        read(path, "eeg")
    with pytest.raises(ValueError, match="pass atlas= or mask=, not both"):
        read(path, atlas=chart, mask=chart)
    with pytest.raises(ValueError, match=r"has shape \(4, 5, 3\); a recording needs \(x, y, z"):
        read(chart)
    with pytest.raises(ValueError, match="mask= leaves no voxel"):
        read(path, mask=nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE))
    with pytest.raises(ValueError, match=r"an atlas or mask needs shape \(x, y, z\)"):
        read(path, mask=nib.Nifti1Image(np.zeros((*SHAPE, 2), np.uint8), AFFINE))
    silent = bold(tmp_path / "b.nii", step=0.0)
    with pytest.raises(ValueError, match="does not say its repetition time; pass rate= in Hz"):
        read(silent, atlas=chart)
    assert read(silent, atlas=chart, rate=0.5).modalities["fmri"].rate == 0.5


def cifti(path: Path, second: Any, n: int, *, unit: str = "SECOND", scalar: bool = False) -> Path:
    series = nib.cifti2.SeriesAxis(0, 0.72, 20, unit)
    first = nib.cifti2.ScalarAxis([str(i) for i in range(20)]) if scalar else series
    data = np.random.default_rng(0).normal(size=(20, n)).astype(np.float32)
    nib.save(nib.Cifti2Image(data, nib.cifti2.Cifti2Header.from_axes((first, second))), path)
    return path


def brain() -> Any:
    return nib.cifti2.BrainModelAxis.from_mask(np.ones((2, 3, 1)), affine=AFFINE, name="other")


def test_grayordinates_and_their_regions(tmp_path: Path) -> None:
    path = cifti(tmp_path / "a.dtseries.nii", brain(), 6)
    dense = read(path).modalities["fmri"]
    assert dense.data.shape == (20, 6)
    np.testing.assert_allclose(dense.rate, 1 / 0.72)
    labels = nib.cifti2.LabelAxis(["atlas"], [{0: ("x", (0, 0, 0, 0)), 2: ("y", (1, 1, 1, 1))}])
    chart = nib.Cifti2Image(np.array([[0, 2, 2, 0, 5, 0]], np.float32), (labels, brain()))
    regions = read(path, atlas=chart).modalities["fmri"]
    assert regions.channels == ("2", "5")
    np.testing.assert_allclose(regions.data[:, 0], dense.data[:, 1:3].mean(1), rtol=1e-6)
    nib.save(chart, tmp_path / "c.dlabel.nii")
    again = read(path, atlas=tmp_path / "c.dlabel.nii").modalities["fmri"]
    np.testing.assert_array_equal(again.data, regions.data)


def test_parcels_keep_their_names(tmp_path: Path) -> None:
    parcels = nib.cifti2.ParcelsAxis.from_brain_models([("V1", brain()[:3]), ("M1", brain()[3:])])
    fmri = read(cifti(tmp_path / "a.ptseries.nii", parcels, 2), rate=2.0).modalities["fmri"]
    assert (fmri.channels, fmri.rate) == (("V1", "M1"), 2.0)


def test_cifti_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    path = cifti(tmp_path / "a.dtseries.nii", brain(), 6)
    with pytest.raises(ValueError, match="CIFTI, which holds no voxels to mask; pass atlas="):
        read(path, mask="m.nii")
    chart = nib.Nifti1Image(np.ones((3, 1, 1), np.int16), AFFINE)
    with pytest.raises(ValueError, match=r"atlas= has 3 grayordinates, .* has 6"):
        read(path, atlas=chart)
    with pytest.raises(ValueError, match="holds no time series"):
        read(cifti(tmp_path / "b.dscalar.nii", brain(), 6, scalar=True))
    with pytest.raises(ValueError, match=r"steps of 0\.72 HERTZ; pass rate= in Hz"):
        read(cifti(tmp_path / "c.dtseries.nii", brain(), 6, unit="HERTZ"))
