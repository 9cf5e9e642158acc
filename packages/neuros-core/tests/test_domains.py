"""Domain statistics merge exactly and travel without losing a bit; weights stay on the simplex."""

import copy
import itertools
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core._exact import check_count, check_texts
from neuros_core.domains import (
    ClassSourceWeights,
    DomainStatistics,
    MixtureDiagnosis,
    SourceWeights,
    load_statistics,
    save_statistics,
)

CI = settings(max_examples=50, derandomize=True, deadline=None)


def same(a: DomainStatistics, b: DomainStatistics) -> bool:
    return a.to_dict() == b.to_dict()


def labelled() -> DomainStatistics:
    x = np.array([[0.1, 1.0], [2.0, 1 / 3], [4.0, -1.0], [1e-300, 7.0], [3.0, 2.0]])
    return DomainStatistics.from_samples(x, name="a", space="rff", y=["go", "go", "no", "no", "go"])


@CI
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.lists(st.integers(1, 30), min_size=2, max_size=5),
    st.sampled_from([0.0, 1e8]),
)
def test_merging_any_split_equals_the_statistics_of_the_whole(
    seed: int, d: int, sizes: list[int], offset: float
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(sizes), d)) + offset
    y = rng.integers(0, 2, len(x))
    whole = DomainStatistics.from_samples(x, name="a", y=y)
    edges = np.cumsum([0, *sizes])
    parts = [
        DomainStatistics.from_samples(x[i:j], name="a", y=y[i:j])
        for i, j in itertools.pairwise(edges)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    # Means of 1e8 are known to 1e-8, so differences of means of order 1 to 1e-8 as well.
    rtol = 1e-10 if offset == 0 else 1e-6
    exact = (x - offset).mean(axis=0)
    centred = (x - offset) - exact
    assert merged.n == whole.n == len(x)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-10, atol=1e-12)
    scale = float(np.abs(whole.cov).max())
    np.testing.assert_allclose(merged.cov, whole.cov, rtol=rtol, atol=rtol * scale)
    reference = centred.T @ centred / (len(x) - 1)
    np.testing.assert_allclose(whole.cov, reference, rtol=rtol, atol=rtol * scale)
    assert merged.classes.keys() == whole.classes.keys()
    for label, part in whole.classes.items():
        assert merged.classes[label].n == part.n
        np.testing.assert_allclose(merged.classes[label].mean, part.mean, rtol=1e-10, atol=1e-12)


def test_covariance_at_an_offset_of_1e8_keeps_six_digits_over_many_blocks() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 3))
    got = DomainStatistics.from_samples(x + 1e8, name="a").cov
    np.testing.assert_allclose(got, np.cov((x + 1e8 - 1e8).T), rtol=1e-6, atol=1e-7)


def test_update_equals_the_statistics_of_all_samples() -> None:
    x = np.arange(12.0).reshape(6, 2) ** 2
    first = DomainStatistics.from_samples(x[:1], name="a")
    got = first.update(x[1:4]).update(x[4:])
    want = DomainStatistics.from_samples(x, name="a")
    np.testing.assert_allclose(got.cov, want.cov, rtol=1e-12)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-12)


def test_update_of_labelled_statistics_takes_labels() -> None:
    more = labelled().update([[1.0, 2.0]], y=["new"])
    assert list(more.classes) == ["go", "new", "no"]
    assert more.classes["new"].n == 1


def test_merge_without_covariance_on_one_side_has_none() -> None:
    a = DomainStatistics.from_samples([[0.0], [1.0]], name="a", with_cov=False)
    b = DomainStatistics.from_samples([[0.0], [1.0]], name="b")
    assert a.cov is None
    assert b.merge(a).cov is None
    assert b.merge(a).name == "b"


def test_one_sample_has_no_covariance() -> None:
    assert DomainStatistics.from_samples([[1.0, 2.0]], name="a").cov is None


def test_classes_are_sorted_text_labels_of_the_right_rows() -> None:
    x = np.array([[1.0], [2.0], [6.0]])
    stats = DomainStatistics.from_samples(x, name="a", y=[10, 2, 2])
    assert list(stats.classes) == ["10", "2"]
    assert stats.classes["2"].mean.tolist() == [4.0]


def test_arrays_are_read_only_copies_of_the_input() -> None:
    mean = np.zeros(2, dtype=np.float32)
    stats = DomainStatistics("a", 2, mean, np.asfortranarray(np.eye(2)))
    mean[0] = 5
    assert stats.mean.tolist() == [0, 0]
    assert stats.cov.flags.c_contiguous
    assert stats.mean.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        stats.mean[0] = 1
    with pytest.raises(TypeError):
        stats.classes["x"] = stats


def test_pickle_and_deepcopy_keep_arrays_read_only() -> None:
    # Both rebuild through __reduce__; every part of it must be one that pickle can write.
    assert pickle.dumps(labelled())
    other = copy.deepcopy(labelled())
    assert same(other, labelled())
    assert not other.mean.flags.writeable


def test_json_returns_every_float_bit_for_bit() -> None:
    stats = labelled()
    again = DomainStatistics.from_json(stats.to_json())
    assert same(again, stats)
    assert again.mean.tobytes() == stats.mean.tobytes()
    assert again.classes["go"].cov.tobytes() == stats.classes["go"].cov.tobytes()
    assert json.loads(stats.to_json())["schema"] == 1


def test_npz_returns_the_list_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    plain = DomainStatistics("b", 1, np.array([math.pi]), space="x")
    save_statistics(path, [plain])
    save_statistics(path, [labelled(), plain])
    got = load_statistics(path)
    assert [s.name for s in got] == ["a", "b"]
    assert all(same(x, y) for x, y in zip(got, [labelled(), plain], strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["stats.npz"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    save_statistics(path, [labelled()])
    with pytest.raises(AttributeError):
        save_statistics(path, [labelled(), object()])
    path2 = tmp_path / "folder"
    path2.mkdir()
    with pytest.raises(OSError, match="folder"):
        save_statistics(path2, [labelled()])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "stats.npz"]
    assert same(load_statistics(path)[0], labelled())


def test_a_foreign_or_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, mean=np.zeros(2))
    with pytest.raises(ValueError, match="needs an entry 'index'"):
        load_statistics(path)
    index = json.dumps({"schema": 2, "domains": []}).encode()
    np.savez(path, index=np.frombuffer(index, np.uint8))
    with pytest.raises(ValueError, match="needs schema 1, got 2"):
        load_statistics(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name needs at least one text"),
        ({"n": 0}, "a: n needs a whole number >= 1, got 0"),
        ({"mean": [[1.0, 2.0]]}, "a: mean needs 1 axes"),
        ({"mean": [1.0, math.nan]}, "a: mean needs finite values"),
        ({"mean": ["1", "2"]}, "a: mean needs real numbers"),
        ({"cov": np.eye(3)}, "a: cov needs shape"),
        ({"cov": [[1.0, 2.0], [0.0, 1.0]]}, "symmetric matrix"),
        ({"cov": [[1.0, 2.0], [2.0, 1.0]]}, "eigenvalues >= 0, got -1 beside a largest of 3"),
        ({"cov": [[1.0, math.inf], [math.inf, 1.0]]}, "a: cov needs finite"),
    ],
)
def test_invalid_statistics_are_refused(change: dict[str, object], message: str) -> None:
    valid = {"name": "a", "n": 2, "mean": [0.0, 0.0], "cov": np.eye(2)}
    with pytest.raises(ValueError, match=message):
        DomainStatistics(**(valid | change))


@pytest.mark.parametrize("count", [True, 2.0, "2", 0, -1])
def test_counts_are_whole_numbers_from_one(count: object) -> None:
    with pytest.raises(ValueError, match="n needs a whole number >= 1, got"):
        check_count("n", count)
    assert check_count("n", np.int64(3)) == 3


@pytest.mark.parametrize("texts", [[3], [""], "ab", []])
def test_names_are_texts(texts: list[object]) -> None:
    with pytest.raises(ValueError, match="name needs at least one text, none of them empty, got"):
        check_texts("name", texts)


@pytest.mark.parametrize("cov", [np.zeros((2, 2)), np.ones((2, 2)) * 1e300, [[1.0, 0], [0, -1e-9]]])
def test_singular_and_huge_covariances_are_accepted(cov: object) -> None:
    assert DomainStatistics("a", 2, [0.0, 0.0], cov).cov.shape == (2, 2)


def test_statistics_of_different_spaces_are_never_combined() -> None:
    a = DomainStatistics("a", 2, [0.0], space="x")
    with pytest.raises(ValueError, match="'a' in 'x' with d=1 and 'b' in 'y' with d=1"):
        a.merge(DomainStatistics("b", 2, [0.0], space="y"))
    with pytest.raises(ValueError, match="d=1 and 'b' in 'x' with d=2"):
        a.merge(DomainStatistics("b", 2, [0.0, 1.0], space="x"))
    with pytest.raises(ValueError, match="same feature space"):
        replace(a, classes={"k": DomainStatistics("k", 1, [0.0])})


def test_merge_of_labelled_with_unlabelled_is_refused() -> None:
    bare = replace(labelled(), name="bare", classes={})
    with pytest.raises(ValueError, match="got none in 'bare'"):
        labelled().merge(bare)
    with pytest.raises(ValueError, match="got none in 'bare'"):
        bare.merge(labelled())


def test_bad_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="x needs 2 axes"):
        DomainStatistics.from_samples([1.0], name="a")
    with pytest.raises(ValueError, match="x needs at least one row"):
        DomainStatistics.from_samples(np.zeros((0, 2)), name="a")
    with pytest.raises(ValueError, match="x needs finite"):
        DomainStatistics.from_samples([[math.inf]], name="a")
    with pytest.raises(ValueError, match="x needs real numbers"):
        DomainStatistics.from_samples([[1j]], name="a")
    with pytest.raises(ValueError, match="one label per row of x = 2, got 1"):
        DomainStatistics.from_samples([[1.0], [2.0]], name="a", y=["k"])
    with pytest.raises(ValueError, match="cov needs finite"):
        DomainStatistics.from_samples([[1e200], [-1e200]], name="a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "DomainStatistics needs schema 1, got 2"),
        ({"extra": 1}, r"unknown: \['extra'\]"),
    ],
)
def test_dictionaries_of_another_form_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DomainStatistics.from_dict(labelled().to_dict() | change)


def test_a_dictionary_without_a_field_or_a_schema_is_refused() -> None:
    with pytest.raises(ValueError, match=r"missing: \['mean', 'n'\]"):
        DomainStatistics.from_dict({"schema": 1, "name": "a"})
    with pytest.raises(ValueError, match="needs schema 1, got None"):
        SourceWeights.from_dict({"names": ["a"], "weights": [1.0], "method": "x"})


def example() -> SourceWeights:
    diagnosis = MixtureDiagnosis(0.5, 3.0, 2, 0.2, True, False, 10.0, (("a", "b"),))
    return SourceWeights(
        ("a", "b", "c"),
        [0.5, 0.5, 0.0],
        "gmm",
        1 / 3,
        1e-17,
        [0.1, 0.1, 0.0],
        np.array([[0.3, 0.7], [0.3, 0.7], [0.0, 0.1]]),
        diagnosis,
        {"seed": 1, "space": "rff"},
    )


def test_weights_read_as_shares_of_names() -> None:
    w = example()
    assert w["b"] == 0.5
    assert w.as_dict() == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert w.support == ("a", "b")
    assert w.effective_sources == 2.0
    assert w.entropy == pytest.approx(math.log(2), rel=1e-15)
    with pytest.raises(KeyError, match="'z' is none of the sources 'a', 'b', 'c'"):
        w["z"]


def test_weights_survive_json_and_pickle_bit_for_bit() -> None:
    w = example()
    for other in (SourceWeights.from_json(w.to_json()), copy.deepcopy(w)):
        assert pickle.dumps(other)
        assert other.to_dict() == w.to_dict()
        assert other.diagnosis == w.diagnosis
        assert other.weights.tobytes() == w.weights.tobytes()
        assert not other.interval.flags.writeable
    bare = SourceWeights.uniform(["a", "b", "c"])
    assert SourceWeights.from_json(bare.to_json()).to_dict() == bare.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.5, 0.4]}, "sum to 1"),
        ({"weights": [0.5, 0.5 + 2e-9]}, "sum to 1"),
        ({"weights": [1.1, -0.1]}, "weights needs entries >= 0"),
        ({"weights": [math.nan, 1.0]}, "weights needs finite"),
        ({"weights": [1.0]}, "weights needs shape"),
        ({"names": ("a", "a")}, "names needs every name once"),
        ({"names": ()}, "names needs at least one text"),
        ({"stderr": [1.0]}, "stderr needs shape"),
        ({"interval": [[0.0, 1.0]]}, "interval needs shape"),
        ({"gap": math.nan}, "gap needs finite"),
    ],
)
def test_invalid_weights_are_refused(change: dict[str, object], message: str) -> None:
    valid = {"names": ("a", "b"), "weights": [0.5, 0.5], "method": "x"}
    with pytest.raises(ValueError, match=message):
        SourceWeights(**(valid | change))


def test_an_infinite_diagnosis_is_refused() -> None:
    with pytest.raises(ValueError, match="condition needs finite"):
        MixtureDiagnosis(condition=math.inf)


@CI
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0, 1))
def test_mix_and_floor_stay_on_the_simplex(raw: list[float], t: float) -> None:
    w = np.array(raw) + 1e-3
    names = tuple(f"s{i}" for i in range(len(w)))
    a = SourceWeights(names, w / w.sum(), "x")
    b = SourceWeights(names[::-1], (w / w.sum()), "y")
    got = a.mix(b, t)
    np.testing.assert_allclose(got.weights, (1 - t) * a.weights + t * a.weights[::-1], atol=1e-15)
    assert a.floor(t).weights.min() >= t / len(w) - 1e-15
    np.testing.assert_allclose(a.floor(t).weights, (1 - t) * a.weights + t / len(w), atol=1e-15)


def test_mix_and_floor_refuse_other_names_and_shares() -> None:
    w = example()
    with pytest.raises(ValueError, match=r"only on one: \['c'\]"):
        w.mix(SourceWeights.uniform(["a", "b"]), 0.5)
    with pytest.raises(ValueError, match=r"t needs a share in \[0, 1\], got 1.5"):
        w.mix(w, 1.5)
    with pytest.raises(ValueError, match="eps needs a share"):
        w.floor(-0.1)


def test_joint_weights_have_marginals_and_conditionals() -> None:
    w = ClassSourceWeights(("a", "b"), ("x", "y", "z"), [[0.1, 0.3, 0.0], [0.4, 0.2, 0.0]])
    np.testing.assert_allclose(w.source, [0.4, 0.6], rtol=1e-15)
    np.testing.assert_allclose(w.class_prior, [0.5, 0.5, 0.0], rtol=1e-15)
    np.testing.assert_allclose(w.conditional, [[0.2, 0.6, 0.4], [0.8, 0.4, 0.6]], rtol=1e-14)
    np.testing.assert_allclose(w.conditional.sum(axis=0), 1.0, rtol=1e-15)
    again = copy.deepcopy(w)
    assert again.joint.tolist() == w.joint.tolist()


def test_invalid_joint_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"joint needs shape \(1, 2\)"):
        ClassSourceWeights(("a",), ("x", "y"), [[0.5], [0.5]])
    with pytest.raises(ValueError, match="joint needs entries that sum to 1"):
        ClassSourceWeights(("a",), ("x", "y"), [[0.5, 0.4]])
    with pytest.raises(ValueError, match="classes needs every name once"):
        ClassSourceWeights(("a",), ("x", "x"), [[0.5, 0.5]])
