"""The file format: exact round trips, and errors that name the file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_data import CorruptStoreError, FormatVersionError, Quantization
from neuros_data.format import (
    check_schema,
    dequantize,
    narrow,
    open_array,
    quantize,
    read_json,
    write_array,
    write_json,
)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 4), np.float32),
        np.array(["left", "né"]),
        np.array([True, False]),
    ],
)
def test_an_array_comes_back_as_it_was(array: np.ndarray, tmp_path: Path) -> None:
    entry = write_array(tmp_path / "x.npy", array)
    back = open_array(tmp_path, entry)
    np.testing.assert_array_equal(back, array)
    assert not entry["dtype"].startswith(">")
    assert hashlib.sha256((tmp_path / "x.npy").read_bytes()).hexdigest() == entry["sha256"]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array)


def test_python_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"x.npy needs numbers, booleans or text"):
        write_array(tmp_path / "x.npy", np.array([object()]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    entry = write_array(tmp_path / "x.npy", np.arange(3))
    (tmp_path / "x.npy").unlink()
    with pytest.raises(CorruptStoreError, match=r"x\.npy is missing"):
        open_array(tmp_path, entry)


@pytest.mark.parametrize("keep", [0, 40, 1000])
def test_a_truncated_file_is_named(keep: int, tmp_path: Path) -> None:
    entry = write_array(tmp_path / "x.npy", np.arange(1000.0))
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:keep])
    with pytest.raises(CorruptStoreError, match=r"x\.npy is truncated or not an .npy file"):
        open_array(tmp_path, entry)


def test_another_shape_than_promised_is_named(tmp_path: Path) -> None:
    entry = write_array(tmp_path / "x.npy", np.arange(3.0))
    with pytest.raises(CorruptStoreError, match=r"holds <f8 \[3\], its meta.json says <f8 \[4\]"):
        open_array(tmp_path, {**entry, "shape": [4]})


def test_json_faults_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CorruptStoreError, match=r"meta\.json is not valid JSON"):
        read_json(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(CorruptStoreError, match="needs a JSON object, got list"):
        read_json(path)


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    (tmp_path / "b.json").mkdir()
    with pytest.raises(OSError, match=r"b\.json"):
        write_json(tmp_path / "b.json", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_newer_major_version_is_refused_and_a_newer_minor_one_read() -> None:
    check_schema("1.99", Path("manifest.json"))
    with pytest.raises(FormatVersionError, match=r"has format 2\.0, this version reads up to 1\.x"):
        check_schema("2.0", Path("manifest.json"))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(-(2**23), 2**23), min_size=1, max_size=20),
    st.floats(1e-9, 1e3),
    st.integers(-1000, 1000),
)
def test_quantizing_loses_nothing_on_the_lattice(steps: list[int], scale: float, zero: int) -> None:
    samples = np.asarray(steps, np.float64)[:, None] * scale + zero * scale
    stored, scales, offsets = quantize(samples, Quantization(scale, zero * scale))
    assert stored.ravel().tolist() == steps
    assert stored.dtype == (np.int16 if max(map(abs, steps)) < 2**15 else stored.dtype)
    # float32 keeps 24 bits of the largest term.
    bound = 1e-7 * scale * (max(map(abs, steps)) + abs(zero) + 1)
    np.testing.assert_allclose(dequantize(stored, scales, offsets), samples, rtol=0, atol=bound)


def test_samples_between_steps_need_permission() -> None:
    with pytest.raises(ValueError, match=r"lie on the lattice .* got one 0\.500 steps away"):
        quantize(np.array([[0.5]]), Quantization(1.0))
    stored, _, _ = quantize(np.array([[0.4], [1.7]]), Quantization(1.0, lossy=True))
    assert stored.ravel().tolist() == [0, 2]


def test_samples_that_are_not_finite_stay_floats() -> None:
    with pytest.raises(ValueError, match="integer storage needs finite samples"):
        quantize(np.array([[np.nan]]), Quantization(1.0))


def test_integers_beyond_32_bits_are_refused() -> None:
    assert narrow(np.array([-(2**15)])).dtype == np.int16
    assert narrow(np.zeros(0)).dtype == np.int16
    with pytest.raises(ValueError, match="needs values within 32 bits"):
        narrow(np.array([2**31]))


def test_counts_that_a_reader_has_are_used_when_they_are_those_of_the_samples() -> None:
    counts = np.random.default_rng(0).integers(-3000, 3000, (2000, 3)).astype(np.int16)
    scale, offset = np.array([0.5e-6, 1e-6, -2e-6]), np.array([0.0, 1e-3, -1e-3])
    data = counts * scale + offset
    known = Quantization(scale, offset, counts=counts.astype(np.int32))
    stored, *_ = quantize(data, known)
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, counts)
    # One sample was changed since: what is stored is the samples.
    data[1999, 2] = 7 * scale[2] + offset[2]
    np.testing.assert_array_equal(quantize(data, known)[0][1999], [*counts[1999, :2], 7])
    data[1999, 2] += 0.4 * scale[2]
    with pytest.raises(ValueError, match=r"one 0\.400 steps away"):
        quantize(data, known)
    data[1999, 2] = np.nan
    with pytest.raises(ValueError, match="needs finite samples"):
        quantize(data, known)
    cut = known._replace(counts=counts[:10])
    np.testing.assert_array_equal(quantize(counts * scale + offset, cut)[0], counts)
