from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation import (
    Blocks,
    Session,
    contiguous_blocks,
    decode,
    fit_decoder,
    r2_score,
)
from neuros_neurofm.evaluation._decode import run_blocks
from neuros_neurofm.losses import MaskedModelingLoss, NeuralMasker

RATE, IDS = 50.0, tuple("abcdef")


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {
        "d_model": 16,
        "n_mamba_blocks": 1,
        "n_latents": 10,
        "latent_dim": 16,
        "modalities": ("spike",),
        "behavior_dim": 1,
        "window": 0.2,
        "sampling_rates": {"spike": RATE},
        "perceiver_depth": 1,
        "popt_depth": 1,
        "dropout": 0.0,
    }
    model = MultiModalNeuroFMX(**(chosen | options))
    model.add_units("spike", IDS, generator=Generator().manual_seed(0))
    return model


def record(n: int = 400, *, gain: float = 1.0, offset: float = 0.0, **changes: Any) -> Session:
    """Units that count more, half of them less, with a slow wave."""
    wave = np.sin(np.arange(n) / 7.0)
    signs = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    counts = np.random.default_rng(0).poisson(np.exp(1.0 + wave[:, None] * signs))
    given: dict[str, Any] = {
        "inputs": {"spike": counts},
        "targets": gain * wave + offset,
        "rate": RATE,
        "blocks": contiguous_blocks(n, gap=10),
        "units": {"spike": IDS},
    }
    return Session(**(given | changes))


def weights(model: MultiModalNeuroFMX) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_decoded_block_is_one_pass_that_is_asked_at_the_end_of_every_sample() -> None:
    model, session = build().eval(), record()
    (part,) = session.part("test")
    n = len(part.inputs["spike"])
    with torch.no_grad():
        expected = model(
            {"spike": torch.as_tensor(part.inputs["spike"], dtype=torch.float32)[None]},
            units={"spike": IDS},
            query_times=torch.arange(1, n + 1, dtype=torch.float64) / RATE,
        ).decoder[0]
    np.testing.assert_allclose(decode(model, session), expected.double().numpy(), atol=1e-6)


def test_blocks_are_decoded_one_after_the_other_and_hear_nothing_of_each_other() -> None:
    model, n = build(), 60
    blocks = Blocks((slice(0, 10),), (), (slice(20, 35), slice(40, 60)))
    session = record(n, blocks=blocks)
    changed = np.array(session.inputs["spike"])
    changed[:40] += 3
    second = record(n, blocks=blocks, inputs={"spike": changed})
    assert decode(model, session).shape == (35, 1)
    np.testing.assert_array_equal(decode(model, session)[15:], decode(model, second)[15:])
    assert np.abs(decode(model, session)[:15] - decode(model, second)[:15]).max() > 1e-4


def test_the_future_within_a_block_is_not_read() -> None:
    model, session = build(), record()
    start = session.blocks.test[0].start
    changed = np.array(session.inputs["spike"])
    changed[start + 50 :] += 3
    future = record(inputs={"spike": changed})
    np.testing.assert_allclose(decode(model, session)[:50], decode(model, future)[:50], atol=1e-6)


def test_hidden_channels_reach_no_output() -> None:
    model, session = build(), record()
    changed = np.array(session.inputs["spike"])
    changed[:, 2] += 5
    visible = {"spike": np.arange(6) != 2}
    outputs = [
        run_blocks(model, s, visible=visible)[0]
        for s in (session, record(inputs={"spike": changed}))
    ]
    assert torch.equal(outputs[0].encoder["spike"], outputs[1].encoder["spike"])
    assert torch.equal(outputs[0].latents, outputs[1].latents)


@pytest.mark.slow  # Training steps.
def test_the_mode_of_every_module_and_the_global_generator_stay_as_they_were() -> None:
    model, session = build(dropout=0.1), record()
    model.train()
    model.heads.eval()
    state = torch.get_rng_state()
    decode(model, session)
    fit_decoder(model, session, steps=1, batch_size=2)
    assert model.fusion.training
    assert not model.heads.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow  # Training steps.
def test_a_wave_is_decoded_in_units_of_its_own() -> None:
    model, session = build(), record(gain=30.0, offset=500.0)
    fit = fit_decoder(model, session, steps=60, validate_every=20, learning_rate=1e-2)
    truth = session.part("test")[0].targets
    # The wave has variance 450; a mean predictor scores 0, the units' Poisson noise allows 0.9.
    assert r2_score(truth, decode(model, session)) > 0.6
    assert fit.validation_loss == min(loss for _, loss in fit.history)
    assert dict(fit.history)[fit.best_step] == fit.validation_loss
    # A second training begins where the first one ended, not at z-scores.
    again = fit_decoder(model, session, steps=1, validate_every=1, learning_rate=1e-9)
    assert again.history[0][1] == pytest.approx(fit.validation_loss, rel=1e-4)


def test_the_same_generator_gives_the_same_weights_bit_for_bit() -> None:
    models = [build(dropout=0.1), build(dropout=0.1)]
    for model in models:
        fit_decoder(model, record(), steps=3, batch_size=2, generator=Generator().manual_seed(5))
    first, second = map(weights, models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_test_blocks_and_gaps_are_never_read_by_the_training() -> None:
    session = record(120)
    train, validation = session.blocks.train[0], session.blocks.validation[0]
    outside = np.ones(120, dtype=bool)
    outside[train] = outside[validation] = False
    counts, targets = np.array(session.inputs["spike"]), np.array(session.targets)
    counts[outside] += 7
    targets[outside] = np.nan
    other = record(120, inputs={"spike": counts}, targets=targets)
    models = [build(), build()]
    for model, recording in zip(models, (session, other), strict=True):
        fit_decoder(model, recording, steps=3, batch_size=2, validate_every=1)
    first, second = map(weights, models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_patience_ends_a_training_that_does_not_improve_and_the_best_weights_stay() -> None:
    model = build()
    before = decode(model, record())
    fit = fit_decoder(
        model, record(), steps=50, batch_size=2, learning_rate=5.0, validate_every=1, patience=2
    )
    assert len(fit.history) < 12
    if fit.best_step == 0:
        # In float32, through the change of units and back.
        np.testing.assert_allclose(decode(model, record()), before, rtol=1e-3, atol=1e-4)
    assert fit.validation_loss == min(loss for _, loss in fit.history)


def test_frozen_parts_stay_and_a_session_without_validation_keeps_the_last_weights() -> None:
    model = build()
    model.freeze("all")
    model.unfreeze("heads")
    before = weights(model)
    session = record(60, blocks=Blocks((slice(0, 3), slice(5, 40)), (), (slice(45, 60),)))
    fit = fit_decoder(model, session, steps=3, batch_size=2)
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("heads.") for name in changed)
    assert (fit.best_step, fit.history) == (3, ())
    assert np.isnan(fit.validation_loss)


def test_labels_are_learned_by_cross_entropy() -> None:
    labels = (np.sin(np.arange(400) / 7.0) > 0).astype(int)
    labels[::5] = -1
    session = record(targets=labels)
    model = build(behavior_dim=2)
    fit = fit_decoder(model, session, steps=2, batch_size=4, validate_every=1)
    (logits,) = [decode(model, session, "validation")]
    truth = labels[session.blocks.validation[0]]
    nll = -torch.as_tensor(logits).log_softmax(-1).numpy()
    kept = truth >= 0
    expected = nll[np.flatnonzero(kept), truth[kept]].mean()
    assert fit.validation_loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow  # Training steps.
def test_a_recording_without_targets_is_learned_by_filling_it_in() -> None:
    model, sessions = build(behavior_dim=0), [record(targets=None), record(200, targets=None)]
    fit = fit_decoder(
        model,
        sessions,
        steps=24,
        batch_size=4,
        validate_every=8,
        objectives=[MaskedModelingLoss()],
        masker=NeuralMasker("random", 0.3),
    )
    assert fit.validation_loss < fit.history[0][1]


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"window": None}, {}, "build the model with window=seconds"),
        ({"sampling_rates": None}, {}, "no rate of \\['spike'\\]"),
        ({"behavior_dim": 0}, {}, "the model has no decoder"),
        ({"behavior_dim": 3}, {}, "targets have 1 variables, the model decodes 3"),
        ({}, {"rate": 25.0}, "sampled at 25.0 Hz"),
        ({}, {"targets": None}, "no session has targets"),
        ({}, {"targets": np.full(400, np.nan)}, "all are NaN"),
        ({}, {"inputs": {"lfp": np.ones((400, 2))}, "units": None}, "need a common modality"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: Any, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_decoder(build(**options), record(**changes), steps=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_decoder(build(), record(), **settings)


def test_what_has_no_common_meaning_is_refused() -> None:
    model = build()
    with pytest.raises(ValueError, match="at least one session"):
        fit_decoder(model, [])
    mixed = [record(), record(targets=np.zeros(400, dtype=int))]
    with pytest.raises(ValueError, match="one kind and width, got"):
        fit_decoder(model, mixed)
    with pytest.raises(ValueError, match="has no validation block"):
        decode(model, record(blocks=Blocks((slice(0, 400),))), "validation")
    with pytest.raises(ValueError, match="the model has no decoder"):
        decode(build(behavior_dim=0), record())
    model.freeze("all")
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        fit_decoder(model, record())


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    model = build()
    with torch.no_grad():
        model.get_parameter("heads.decoder.out.bias").fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the training loss is nan"):
        fit_decoder(model, record(blocks=Blocks((slice(0, 400),))), steps=1, batch_size=2)
