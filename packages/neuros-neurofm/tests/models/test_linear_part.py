import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from neuros_neurofm.models import LinearPart
from neuros_neurofm.models._linear_file import read_linear_parts, write_linear_parts
from neuros_neurofm.models._linear_fit import fit_linear_part


def part(n_lags: int = 3, **changed: Any) -> LinearPart:
    g = torch.Generator().manual_seed(0)
    fields: dict[str, Any] = {
        "channels": {"lfp": 2, "ecog": 1},
        "rate": 10.0,
        "center": torch.randn(3, generator=g),
        "scale": 0.5 + torch.rand(3, generator=g),
        "weights": torch.randn(n_lags, 3, 2, generator=g),
        "intercept": torch.randn(2, generator=g),
    }
    return LinearPart(**(fields | changed))


def signals(n: int = 9, batch: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {m: torch.randn(batch, n, c, generator=g) for m, c in (("lfp", 2), ("ecog", 1))}


@given(st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_an_answer_is_the_sum_over_lags(n_lags: int, n_times: int) -> None:
    linear, x = part(n_lags), signals(n_times)
    z = (torch.cat([x["lfp"], x["ecog"]], -1).double() - linear.center) / linear.scale
    expected = linear.intercept.expand(2, n_times, -1).clone()
    for t in range(n_times):
        for j in range(min(n_lags, t + 1)):
            expected[:, t] += z[:, t - j] @ linear.weights[j]
    torch.testing.assert_close(linear(x), expected, atol=1e-12, rtol=0.0)


def test_what_is_missing_counts_as_the_mean_of_its_channel() -> None:
    linear, x = part(), signals()
    mean = {"ecog": linear.center[2].expand(2, 9, 1)}
    torch.testing.assert_close(linear({"lfp": x["lfp"]}), linear(x | mean))
    mask = torch.zeros(2, 9, 1, dtype=torch.bool)
    broken = x | {"ecog": torch.full((2, 9, 1), torch.nan)}
    torch.testing.assert_close(linear(broken, {"ecog": mask}), linear(x | mean))


def test_a_query_is_answered_from_the_samples_that_are_complete_by_then() -> None:
    linear, x = part(), signals()
    times = torch.tensor([-1.0, 0.05, 0.1, 0.1 + 0.2, 0.35, 0.9, 7.0])
    every = linear(x)
    answers = linear.at(x, times)
    torch.testing.assert_close(answers[:, 0], linear.intercept.expand(2, -1))
    torch.testing.assert_close(answers[:, 1], linear.intercept.expand(2, -1))
    torch.testing.assert_close(answers[:, 2:], every[:, [0, 2, 2, 8, 8]])
    per_row = linear.at(x, torch.tensor([[0.1], [0.4]]))
    torch.testing.assert_close(per_row[:, 0], torch.stack([every[0, 0], every[1, 3]]))


def test_parts_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_linear_parts(tmp_path, {"a": part(), "b": part(1)}, {"n_lags": [1, 3]})
    parts, about = read_linear_parts(tmp_path)
    assert (list(parts), about) == (["a", "b"], {"n_lags": [1, 3]})
    assert torch.equal(parts["a"](signals()), part()(signals()))
    assert (parts["b"].n_lags, parts["b"].rate) == (1, 10.0)


def test_a_folder_without_parts_has_none(tmp_path: Path) -> None:
    assert read_linear_parts(tmp_path) == ({}, {})


@pytest.mark.parametrize("content", [None, "{", json.dumps({"parts": [{"name": "a"}]})])
def test_damaged_parts_are_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "linear.safetensors"
    if content is None:
        path.write_bytes(b"no tensors")
    else:
        save_file({"x": torch.ones(1)}, path, metadata={"linear": content})
    with pytest.raises(ValueError, match=r"linear\.safetensors cannot be read"):
        read_linear_parts(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"center": torch.zeros(2)},
        {"scale": torch.ones(3, 1)},
        {"weights": torch.zeros(0, 3, 2)},
        {"weights": torch.zeros(3, 2)},
        {"intercept": torch.zeros(1)},
        {"channels": {"lfp": 2}},
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"weights \(lag, channel, dim\)"):
        part(**changed)


def test_a_rate_is_positive() -> None:
    with pytest.raises(ValueError, match="rate must be > 0 Hz, got 0"):
        part(rate=0.0)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"eeg": torch.zeros(1, 4, 2)},
        {"lfp": torch.zeros(1, 4, 3)},
        {"lfp": torch.zeros(4, 2)},
        {"lfp": torch.zeros(1, 4, 2), "ecog": torch.zeros(1, 5, 1)},
    ],
)
def test_other_inputs_are_refused(inputs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"with the channels \{'lfp': 2, 'ecog': 1\} of its fit"):
        part()(inputs)


def test_a_fit_leaves_missing_samples_and_targets_out() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = x @ rng.normal(size=(3, 2)) + 5.0
    holes = x.copy()
    holes[rng.random(x.shape) < 0.02] = np.nan
    wanted = y.copy()
    wanted[100:110, 0] = np.nan
    options: dict[str, Any] = {"rate": 10.0, "n_lags": (1, 2), "n_folds": 4}
    fit = fit_linear_part(
        [{"lfp": holes[:150]}, {"lfp": holes[150:]}], [wanted[:150], wanted[150:]], **options
    )
    assert np.isnan(fit.held_out[0]).all(axis=1).nonzero()[0].tolist() == list(range(100, 110))
    assert [len(part) for part in fit.held_out] == [150, 250]
    predicted = fit.part({"lfp": torch.from_numpy(x)[None]})[0].numpy()
    assert np.sqrt(np.mean((predicted - y) ** 2)) < 0.05 * y.std()
