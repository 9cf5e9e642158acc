"""Neurons whose selectivity, information and geometry are known."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from neuros_mechint.neurons import NeuronActivationAnalyzer

CI = settings(max_examples=25, derandomize=True, deadline=None)
N = 240


def analyzer(**options) -> NeuronActivationAnalyzer:
    return NeuronActivationAnalyzer(nn.Identity(), **options)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@CI
@given(seed=st.integers(0, 1000), n_categories=st.integers(2, 6), shift=st.floats(-1e3, 1e3))
def test_eta2_is_that_of_the_f_test(seed: int, n_categories: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(n_categories), rng.integers(n_categories, size=60)])
    x = rng.normal(size=(len(codes), 3)) + np.outer(codes, [0.0, 0.3, 2.0]) + shift
    found = analyzer().compute_neuron_selectivity({"x": torch.from_numpy(x), "c": codes}, None, "c")
    groups = [x[codes == c] for c in range(n_categories)]
    F, p = f_oneway(*groups)
    df = n_categories - 1, len(codes) - n_categories
    eta2 = np.asarray(found.selectivity)
    np.testing.assert_allclose(eta2 / (1 - eta2) * df[1] / df[0], F, rtol=1e-8)
    np.testing.assert_allclose(found.p_value, p, rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(found.tuning, np.stack([g.mean(0) for g in groups], 1), rtol=1e-9)


def test_one_neuron_is_a_row_of_all() -> None:
    data = {"x": normal(N, 4), "c": torch.arange(N) % 3}
    subject = analyzer()
    everything = subject.compute_neuron_selectivity(data, None, "c", "dprime")
    one = subject.compute_neuron_selectivity(data, 2, "c", "dprime")
    assert isinstance(one.selectivity, float)
    assert one.selectivity == everything.selectivity[2]
    assert one.p_value == everything.p_value[2]
    np.testing.assert_array_equal(one.tuning, everything.tuning[2])
    np.testing.assert_array_equal(one.categories, [0, 1, 2])


@pytest.mark.parametrize("index", ["eta2", "dprime", "lifetime_sparseness", "dsi"])
def test_a_constant_neuron_has_no_selectivity(index: str) -> None:
    x = torch.full((N, 1), 0.1, dtype=torch.float64)
    found = analyzer().compute_neuron_selectivity({"x": x, "c": torch.arange(N) % 3}, 0, "c", index)
    assert found.selectivity == 0.0
    assert found.p_value == 1.0


def test_dprime_is_the_distance_in_standard_deviations() -> None:
    codes = np.repeat([0, 1], 5000)
    x = normal(10_000, 1) + 3.0 * torch.from_numpy(codes)[:, None]
    found = analyzer().compute_neuron_selectivity({"x": x, "c": codes}, 0, "c", "dprime")
    # Six standard errors of a difference of two means of 5000.
    assert found.selectivity == pytest.approx(3.0, abs=6 * math.sqrt(2 / 5000) + 0.1)
    exact = {"x": torch.tensor([[1.0], [1.0], [2.0], [2.0]]), "c": ["a", "a", "b", "b"]}
    assert analyzer().compute_neuron_selectivity(exact, 0, "c", "dprime").selectivity == math.inf
    assert analyzer().compute_neuron_selectivity(exact, 0, "c").selectivity == 1.0
    assert analyzer().compute_neuron_selectivity(exact, 0, "c").p_value == 0.0


def test_lifetime_sparseness_runs_from_all_alike_to_one_alone() -> None:
    codes = torch.arange(N) % 8
    x = torch.stack([(codes == 3), torch.ones(N), (codes < 4), torch.zeros(N)], 1).double()
    found = analyzer().compute_neuron_selectivity(
        {"x": x, "c": codes}, None, "c", "lifetime_sparseness"
    )
    np.testing.assert_allclose(found.selectivity, [1.0, 0.0, 0.5 / (1 - 1 / 8), 0.0], atol=1e-12)


def test_orientation_and_direction_indices_are_the_harmonics_of_the_tuning() -> None:
    angle = torch.arange(N, dtype=torch.float64) % 8 * 45.0
    theta = angle.deg2rad()
    x = torch.stack(
        [1 + theta.cos(), 1 + (2 * theta).cos(), 1 + 0.5 * theta.cos(), (angle == 90.0).double()], 1
    )
    data, subject = {"x": x, "angle": angle}, analyzer()
    osi, dsi = (
        subject.compute_neuron_selectivity(data, None, "angle", index, period=360.0).selectivity
        for index in ("osi", "dsi")
    )
    np.testing.assert_allclose(osi, [0.0, 0.5, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(dsi, [0.5, 0.0, 0.25, 1.0], atol=1e-12)


def test_a_continuous_variable_falls_into_bins_of_equal_count() -> None:
    speed = normal(N, seed=1).exp()
    found = analyzer(n_bins=8).compute_neuron_selectivity(
        {"x": torch.stack([speed, normal(N)], 1), "speed": speed}, None, "speed"
    )
    ranked = np.sort(speed.numpy()).reshape(8, N // 8)
    np.testing.assert_allclose(found.categories, ranked.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.tuning[0], ranked.mean(1), rtol=1e-12)
    assert found.selectivity[0] > 0.7
    assert found.selectivity[1] < 0.2
    # A float of few values is no continuous variable.
    few = analyzer().compute_neuron_selectivity({"x": normal(6, 1), "v": [0.5, 1.0] * 3}, 0, "v")
    np.testing.assert_array_equal(few.categories, [0.5, 1.0])


def test_the_informative_neurons_come_first() -> None:
    speed = normal(400, seed=2)
    x = normal(400, 12, seed=3)
    x[:, 7] += 4 * speed
    x[:, 9] += 1.5 * speed
    data, subject = {"x": x, "speed": speed, "fast": (speed > 0.5)}, analyzer()
    for behavior in ("speed", "fast"):
        found = subject.find_behavior_predictive_neurons(data, behavior, top_k=3)
        assert found.neurons[:2].tolist() == [7, 9]
        assert (np.diff(found.mi_scores) <= 0).all()
        assert len(found.neurons) == 3
    kept = subject.find_behavior_predictive_neurons(
        data, "fast", n_permutations=99, max_fdr=0.1, generator=np.random.default_rng(0)
    )
    assert {7, 9} <= set(kept.neurons.tolist())
    assert len(kept.neurons) <= 5
    tested = subject.behavior_information(data, "fast", n_permutations=19)
    assert tested.p_values[7] == tested.p_values[9] == 0.05
    assert (tested.false_discovery_rates >= tested.p_values).all()
    assert subject.behavior_information(data, "fast").p_values is None


@pytest.mark.parametrize("k", [1, 3, 10])
def test_the_participation_ratio_of_an_isotropic_subspace_is_its_dimension(k: int) -> None:
    basis = torch.linalg.qr(normal(20, k, seed=4)).Q
    # Orthonormal rows of +-1 have a covariance of exactly the identity.
    signs = torch.cat([torch.eye(k), -torch.eye(k)]).double().repeat(2, 1)
    geometry = analyzer().analyze_population_geometry(signs @ basis.mT)
    assert geometry.participation_ratio == pytest.approx(k, rel=1e-10)
    assert geometry.effective_rank == pytest.approx(k, rel=1e-10)
    assert geometry.dimensionality == math.ceil(0.9 * k)
    assert math.isnan(geometry.silhouette_score)


@CI
@given(seed=st.integers(0, 1000), n_rows=st.integers(3, 30), n_units=st.integers(1, 30))
def test_the_trace_form_is_that_of_the_eigenvalues(seed: int, n_rows: int, n_units: int) -> None:
    x = normal(n_rows, n_units, seed=seed) + 5.0
    geometry = analyzer().analyze_population_geometry(x)
    eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(x.numpy().T)))[::-1]
    ratio = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert geometry.participation_ratio == pytest.approx(ratio, rel=1e-9)
    n = min(n_rows, n_units)
    np.testing.assert_allclose(geometry.eigenvalues[:n], eigenvalues[:n], atol=1e-10)
    share = np.cumsum(geometry.eigenvalues) / geometry.eigenvalues.sum()
    assert share[geometry.dimensionality - 1] >= 0.9 - 1e-9
    assert geometry.dimensionality == 1 or share[geometry.dimensionality - 2] < 0.9


def test_the_correction_sees_more_dimensions_than_rows() -> None:
    estimates = [
        analyzer()
        .analyze_population_geometry(normal(20, 100, seed=s), bias_corrected=True)
        .participation_ratio
        for s in range(20)
    ]
    plain = analyzer().analyze_population_geometry(normal(20, 100)).participation_ratio
    assert plain < 19
    assert np.median(estimates) == pytest.approx(100, rel=0.1)


def test_labels_that_separate_have_a_silhouette_near_one() -> None:
    labels = np.repeat(["left", "right"], N // 2)
    x = normal(N, 5) * 0.01
    x[N // 2 :, 0] += 1.0
    subject = analyzer()
    data = {"x": x, "side": labels}
    apart = subject.analyze_population_geometry(data, "side").silhouette_score
    mixed = subject.analyze_population_geometry(data, np.arange(N) % 2).silhouette_score
    assert apart > 0.95
    assert abs(mixed) < 0.05


def test_planted_neurons_are_found_and_mixed_ones_rejected() -> None:
    shape, color = np.arange(N) % 3, (np.arange(N) // 3) % 4
    noise = 0.1 * normal(N, 4)
    a, b = torch.from_numpy(shape).double(), torch.from_numpy(color).double()
    x = torch.stack([a, b, a / a.std() + b / b.std(), normal(N, seed=9)], 1) + noise
    found = analyzer().find_monosemantic_neurons(
        {"x": x, "shape": shape, "color": color}, ["shape", "color"]
    )
    assert {(n.neuron, n.variable) for n in found} == {(0, "shape"), (1, "color")}
    assert found[0].score >= found[1].score > 0.95
    loose = analyzer().find_monosemantic_neurons(
        {"x": x, "shape": shape, "color": color}, ["shape", "color"], 0.4, margin=0.0
    )
    assert {n.neuron for n in loose} == {0, 1, 2}


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(self.hidden(x)).sum(-1)


def test_activations_are_gathered_once_and_again_after_training() -> None:
    model = Counting()
    buffers = model.norm.running_mean.clone()
    data = [{"x": torch.randn(10, 3), "c": torch.arange(10) % 2} for _ in range(3)]
    subject = NeuronActivationAnalyzer(model, site="hidden")
    first = subject.compute_neuron_selectivity(data, None, "c")
    subject.analyze_population_geometry(data)
    assert model.calls == 3
    assert torch.equal(model.norm.running_mean, buffers)
    with torch.no_grad():
        model.hidden.weight.add_(1.0)
    second = subject.compute_neuron_selectivity(data, None, "c")
    assert model.calls == 6
    assert not np.array_equal(first.selectivity, second.selectivity)
    model.hidden.weight.data = model.hidden.weight.data * 2
    subject.compute_neuron_selectivity(data, None, "c")
    assert model.calls == 9
    subject.compute_neuron_selectivity(list(data), None, "c")
    assert model.calls == 12
    assert repr(subject) == "NeuronActivationAnalyzer(Counting, site='hidden', pool='mean')"


def test_all_forms_of_a_data_set_give_the_same_activations() -> None:
    x, c = normal(12, 3), np.arange(12) % 2
    pieces = [slice(0, 5), slice(5, 12)]

    def lazily() -> Iterator[dict]:
        yield from ({"x": x[p], "c": c[p]} for p in pieces)

    forms = [
        {"x": x, "c": c},
        (x, {"c": c}),
        [x, {"c": c}],
        [{"x": x[p], "c": torch.from_numpy(c[p])[:, None]} for p in pieces],
        [(x[p], {"c": c[p].tolist()}) for p in pieces],
        lazily(),
        [{"x": x.numpy(), "c": c}],
        [{"x": row, "c": int(k)} for row, k in zip(x, c, strict=True)],
        [(row, {"c": torch.tensor(k)}) for row, k in zip(x.numpy(), c, strict=True)],
        DataLoader([{"x": row, "c": k} for row, k in zip(x, c, strict=True)], batch_size=5),
    ]
    results = [analyzer().compute_neuron_selectivity(form, None, "c") for form in forms]
    for result in results[1:]:
        np.testing.assert_allclose(result.selectivity, results[0].selectivity, rtol=1e-12)
    loader = DataLoader(TensorDataset(x), batch_size=5)
    for plain in (x, x.numpy(), [x[p] for p in pieces], loader):
        given = analyzer().compute_neuron_selectivity(plain, None, c)
        np.testing.assert_allclose(given.selectivity, results[0].selectivity, rtol=1e-12)
    single = NeuronActivationAnalyzer(nn.Flatten(0)).compute_neuron_selectivity(x[:, 0], None, c)
    assert single.selectivity.shape == (1,)
    renamed = analyzer(input_key="signal").compute_neuron_selectivity({"signal": x}, None, c)
    np.testing.assert_allclose(renamed.selectivity, results[0].selectivity, rtol=1e-12)


def test_sequences_are_pooled_as_asked() -> None:
    x = normal(6, 4, 2)
    c, per_step = np.array([0, 1] * 3), np.arange(24).reshape(6, 4) % 3

    def tuning(pool: str, variable: np.ndarray) -> np.ndarray:
        data = {"x": x, "v": variable}
        return analyzer(pool=pool, device="cpu").compute_neuron_selectivity(data, None, "v").tuning

    values = x.numpy()
    for pool, pooled in (("mean", values.mean(1)), ("last", values[:, -1])):
        expected = np.stack([pooled[c == k].mean(0) for k in (0, 1)], 1)
        np.testing.assert_allclose(tuning(pool, c), expected, rtol=1e-12)
    expected = np.stack([values[c == k].reshape(-1, 2).mean(0) for k in (0, 1)], 1)
    np.testing.assert_allclose(tuning("none", c), expected, rtol=1e-12)
    expected = np.stack([values[per_step == k].mean(0) for k in range(3)], 1)
    np.testing.assert_allclose(tuning("none", per_step), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"'v' needs one value for each of 6 .*pool=\"none\""):
        tuning("mean", per_step)


def test_what_can_not_be_analysed_is_refused() -> None:
    with pytest.raises(ValueError, match="pool needs 'mean', 'last' or 'none', got 'max'"):
        analyzer(pool="max")
    with pytest.raises(ValueError, match="n_bins needs at least 2 bins, got 1"):
        analyzer(n_bins=1)
    with pytest.raises(KeyError, match="no module 'absent'"):
        NeuronActivationAnalyzer(nn.Identity(), site="absent").analyze_population_geometry(
            torch.ones(3, 1)
        )
    subject = analyzer()
    data = {"x": normal(10, 2), "c": np.arange(10) % 2, "same": np.zeros(10), "id": np.arange(10)}
    select = subject.compute_neuron_selectivity
    with pytest.raises(IndexError, match="no neuron 2 at ''; it has 2"):
        select(data, 2, "c")
    with pytest.raises(KeyError, match="no variable 'd' in the data set; it has"):
        select(data, 0, "d")
    with pytest.raises(ValueError, match=r"index needs one of .*, got 'best'"):
        select(data, 0, "c", "best")
    for name, n in (("same", 1), ("id", 10)):
        with pytest.raises(ValueError, match=f"at least 2 categories, .* got {n} in 10 rows"):
            select(data, 0, name)
    with pytest.raises(ValueError, match="dprime needs at least 2 rows in every category"):
        select(data, 0, [0] * 9 + [1], "dprime")
    with pytest.raises(ValueError, match="osi needs a variable of angles"):
        select(data, 0, ["a", "b"] * 5, "osi")
    with pytest.raises(ValueError, match=r"one value for each of 10 rows, got shape \(3,\)"):
        select(data, 0, [1, 2, 3])
    with pytest.raises(ValueError, match="a variable needs finite numbers, got NaN"):
        select(data, 0, [math.nan] * 10)
    with pytest.raises(ValueError, match=r"1 <= n_neighbors < 10 rows .* got 10 and 0"):
        subject.behavior_information(data, "c", n_neighbors=10)
    with pytest.raises(
        ValueError, match=r"top_k >= 1 and 0 <= max_fdr <= 1 are needed, got 0, 0.0"
    ):
        subject.find_behavior_predictive_neurons(data, "c", 0)
    with pytest.raises(ValueError, match=r"at least one variable, .* got \[\], 0.7 and 0.5"):
        subject.find_monosemantic_neurons(data, [])
    with pytest.raises(ValueError, match="a geometry needs at least 3 rows, got 2"):
        subject.analyze_population_geometry(torch.ones(2, 2))
    with pytest.raises(ValueError, match="activations are constant"):
        subject.analyze_population_geometry(torch.ones(5, 2))
    with pytest.raises(ValueError, match="10 rows into 2 to 9 groups, got 1"):
        subject.analyze_population_geometry(data, "same")
    with pytest.raises(ValueError, match="activations at '' are not all finite"):
        subject.analyze_population_geometry(torch.full((5, 1), math.nan))


def test_data_sets_that_hold_no_batches_are_refused() -> None:
    subject = analyzer()
    with pytest.raises(ValueError, match="dataset needs at least one batch, got none"):
        subject.analyze_population_geometry([])
    with pytest.raises(TypeError, match=r"a batch needs to be a mapping, .* got int"):
        subject.analyze_population_geometry([1])
    with pytest.raises(ValueError, match=r"lacks the input 'x', it has \['y'\]"):
        subject.analyze_population_geometry({"y": torch.ones(3, 1)})
    with pytest.raises(ValueError, match=r"the same variables, got \[\['a'\], \['b'\]\]"):
        subject.analyze_population_geometry([(torch.ones(1, 1), {k: [1]}) for k in ("a", "b")])
