from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation import (
    Blocks,
    LinearSkipDecoder,
    RidgeDecoder,
    Session,
    contiguous_blocks,
    decode,
    r2_score,
)

RATE = 50.0


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {
        "d_model": 16,
        "n_mamba_blocks": 1,
        "n_latents": 8,
        "latent_dim": 16,
        "modalities": ("lfp",),
        "behavior_dim": 1,
        "window": 0.16,
        "sampling_rates": {"lfp": RATE},
        "perceiver_depth": 1,
        "popt_depth": 1,
        "dropout": 0.0,
    }
    return MultiModalNeuroFMX(**(chosen | options))


def record(
    *, n_times: int = 400, n_channels: int = 3, lag: int = 0, noise: float = 0.0, name: str = "a"
) -> Session:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_times, n_channels))
    y = np.roll(x @ np.arange(1.0, n_channels + 1), lag) + noise * rng.normal(size=n_times)
    return Session({"lfp": x}, y, RATE, contiguous_blocks(n_times, gap=10), name=name)


def truth(session: Session, part: str = "test") -> Any:
    return np.concatenate([p.targets for p in session.part(part)])


def linear_alone(session: Session, **options: Any) -> LinearSkipDecoder:
    """At a learning rate near 0 the silent model stays silent."""
    decoder = LinearSkipDecoder(build(), **options)
    decoder.fit(session, steps=1, learning_rate=1e-12)
    return decoder


def test_a_linear_target_is_decoded_by_the_linear_part_alone() -> None:
    session = record()
    np.testing.assert_allclose(linear_alone(session).decode(session), truth(session), atol=0.01)


def test_without_a_model_the_linear_part_is_ridge_regression() -> None:
    session = record(noise=2.0)
    (train,), (test,) = session.part("train"), session.part("test")
    ridge = RidgeDecoder(gap=1).fit(train.inputs["lfp"], np.asarray(train.targets))
    decoded = linear_alone(session, n_lags=(1,)).decode(session)
    np.testing.assert_allclose(decoded, ridge.predict(test.inputs["lfp"]), atol=1e-5)


def test_the_number_of_lags_is_found_on_the_training_blocks() -> None:
    session = record(lag=2)
    found = linear_alone(session, n_lags=(1, 3, 6)).decode(session)
    short = linear_alone(session, n_lags=(1, 2)).decode(session)
    assert r2_score(truth(session), found) > 0.98 > 0.1 > r2_score(truth(session), short)


def test_more_channels_than_samples_leave_a_residual_that_was_held_out() -> None:
    """The fit itself would leave almost nothing over for a model to learn."""
    session = record(n_times=120, n_channels=200, noise=100.0)
    decoder = LinearSkipDecoder(build(), n_lags=(1,))
    rest = decoder._residual(session).part("train")[0].targets
    x = torch.from_numpy(session.part("train")[0].inputs["lfp"])[None]
    own = decoder.parts["a"]({"lfp": x})[0].numpy()
    assert np.std(rest) > 1.2 * np.std(truth(session, "train") - own)


def test_what_the_model_decodes_is_added_to_the_linear_part() -> None:
    session = record()
    decoder = linear_alone(session)
    before = decoder.decode(session)
    decoder.model.heads.get_submodule("decoder").get_parameter("out.bias").data += 3.0
    np.testing.assert_allclose(decoder.decode(session), before + 3.0, atol=1e-5)


def test_the_model_is_trained_on_what_the_linear_part_leaves_over() -> None:
    """Silent, it has the mean square of the residual as loss, in units of their deviation."""
    session = record(noise=2.0)
    decoder = LinearSkipDecoder(build(), n_lags=(1,))
    fit = decoder.fit(session, steps=1, learning_rate=1e-12)
    rest = decoder._residual(session)
    scale = np.nanstd(np.asarray(rest.part("train")[0].targets))
    expected = np.mean((np.asarray(rest.part("validation")[0].targets) / scale) ** 2)
    assert fit.validation_loss == pytest.approx(expected, rel=0.1)


def test_samples_without_a_target_are_left_out() -> None:
    session = record()
    holes = np.array(session.targets)
    holes[::3] = np.nan
    decoder = linear_alone(replace(session, targets=holes))
    np.testing.assert_allclose(decoder.decode(session), truth(session), atol=0.01)


def test_a_later_sample_changes_no_earlier_answer() -> None:
    session = record()
    decoder = LinearSkipDecoder(build())
    decoder.fit(session, steps=2)
    changed = np.array(session.inputs["lfp"])
    start = session.blocks.test[0].start
    changed[start + 50 :] += 10.0
    later = replace(session, inputs={"lfp": changed})
    before, after = decoder.decode(session), decoder.decode(later)
    np.testing.assert_array_equal(before[:50], after[:50])
    assert not np.allclose(before[50:], after[50:])


def test_every_session_has_a_linear_part_of_its_own() -> None:
    one, two = record(), record(name="b")
    two = replace(two, targets=-np.asarray(two.targets))
    decoder = LinearSkipDecoder(build())
    decoder.fit([one, two], steps=1, learning_rate=1e-12)
    np.testing.assert_allclose(decoder.decode(one), -decoder.decode(two), atol=1e-5)


def test_a_saved_decoder_decodes_as_before(tmp_path: Path) -> None:
    session = record(noise=1.0)
    decoder = LinearSkipDecoder(build(), n_lags=(1, 2), n_folds=4)
    decoder.fit(session, steps=3)
    decoder.save_pretrained(tmp_path)
    loaded = LinearSkipDecoder.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.decode(session), decoder.decode(session))
    assert (loaded.n_lags, loaded.n_folds) == ((1, 2), 4)


def test_the_model_alone_decodes_the_residual() -> None:
    session = record()
    decoder = linear_alone(session)
    assert np.abs(decode(decoder.model, session)).max() < 0.1


def test_a_stream_of_a_decoder_says_what_it_decodes_offline() -> None:
    session = record(n_times=500, noise=1.0)
    decoder = LinearSkipDecoder(build(), n_lags=(4,))
    decoder.fit(session, steps=10)
    (block,) = session.blocks.test
    x = torch.as_tensor(session.inputs["lfp"][block], dtype=torch.float32)[None]
    stream, steps, at = decoder.stream("a"), [], 0
    for size in (1, 2, 5, 3, 60):
        steps += stream.push({"lfp": x[:, at : at + size]})
        at += size
    streamed = torch.cat([step.decoder for step in steps], 1)[0].double().numpy()
    offline = decoder.decode(session)[: len(streamed)]
    np.testing.assert_allclose(streamed, offline, atol=2e-6)
    assert np.abs(offline).max() > 5
    with pytest.raises(ValueError, match="'b' has no linear part"):
        decoder.stream("b")


def test_a_folder_without_linear_parts_is_refused(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a saved decoder holds linear\.safetensors"):
        LinearSkipDecoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_lags": ()}, r"n_lags must be numbers >= 1, got \[\]"),
        ({"n_lags": (0, 1)}, r"n_lags must be numbers >= 1, got \[0, 1\]"),
        ({"n_folds": 1}, "n_folds must be at least 2, got 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSkipDecoder(build(), **options)


def test_a_model_without_a_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="the model has no decoder"):
        LinearSkipDecoder(build(behavior_dim=0))


def test_targets_that_are_not_continuous_are_refused() -> None:
    session = record()
    with pytest.raises(ValueError, match="continuous targets, 'a' has no targets"):
        LinearSkipDecoder(build()).fit(replace(session, targets=None))
    labels = np.zeros(session.n_times, dtype=int)
    with pytest.raises(ValueError, match="continuous targets, 'a' has labels"):
        LinearSkipDecoder(build()).fit(replace(session, targets=labels))


def test_two_sessions_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different names, got \['a', 'a'\]"):
        LinearSkipDecoder(build()).fit([record(), record()])


def test_too_few_samples_are_refused() -> None:
    session = replace(record(), blocks=Blocks((slice(0, 9),)))
    with pytest.raises(ValueError, match="needs at least 2 \\* n_folds = 10 training samples"):
        LinearSkipDecoder(build()).fit(session)


def test_a_session_that_was_not_fitted_is_refused() -> None:
    session = record()
    decoder = linear_alone(session)
    with pytest.raises(ValueError, match=r"'b' has no linear part, only \['a'\] have"):
        decoder.decode(replace(session, name="b"))
    with pytest.raises(
        ValueError, match=r"channels \{'lfp': 3\} of its fit, got \{'lfp': \(1, 114, 4\)"
    ):
        decoder.decode(record(n_channels=4))
    with pytest.raises(ValueError, match="part must be one of"):
        decoder.decode(session, "tests")
