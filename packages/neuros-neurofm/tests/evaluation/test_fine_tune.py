"""A pretrained model on a session with other channels."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation import decode, fine_tune, fit_decoder, r2_score
from neuros_neurofm.evaluation.session import Session

NEW = {"spike": [f"new{k}" for k in range(12)], "lfp": [f"other{k}" for k in range(4)]}


def weights(model: MultiModalNeuroFMX) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def changed(model: MultiModalNeuroFMX, before: dict[str, torch.Tensor]) -> set[str]:
    after = weights(model)
    return {
        name
        for name, value in after.items()
        if name not in before
        or value.shape != before[name].shape
        or not torch.equal(value, before[name])
    }


def test_without_a_second_stage_only_vectors_of_channels_change(
    lab: Any, recording: Session
) -> None:
    model = lab.make_model()
    frozen = model.fusion.latent
    frozen.requires_grad_(False)
    before = weights(model)
    stages = fine_tune(
        model, dataclasses.replace(recording, units=NEW), unit_steps=3, steps=0, validate_every=1
    )
    assert stages.whole is None
    assert changed(model, before) <= {n for n in before if ".units." in n or "decoder" in n}
    vectors = [name for name in changed(model, before) if ".units." in name]
    assert len(vectors) >= 2
    assert not frozen.requires_grad
    others = [p for n, p in model.named_parameters() if p is not frozen]
    assert all(p.requires_grad for p in others)


def test_new_channels_come_beside_the_known_ones(lab: Any, recording: Session) -> None:
    model = lab.make_model()
    fine_tune(
        model, dataclasses.replace(recording, units=NEW), unit_steps=1, steps=1, validate_every=1
    )
    for name in ("spike", "lfp"):
        assert model.tokenizers[name].units.ids == (*recording.units[name], *NEW[name])


@pytest.mark.slow  # two trainings of a small model
def test_the_vectors_alone_read_a_permuted_session(lab: Any) -> None:
    # The same electrodes in another order and under other names: all that is to be learned is
    # which is which.
    known = lab.record(0, n_times=2400)
    known = dataclasses.replace(known, inputs={"lfp": known.inputs["lfp"]}, units=None)
    known = dataclasses.replace(known, units={"lfp": [f"e{k}" for k in range(4)]})
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        32, 1, 32, 32, modalities=("lfp",), behavior_dim=1, window=0.64, patches={"lfp": 0.02},
        sampling_rates={"lfp": 50.0}, perceiver_depth=1, popt_depth=1, dropout=0.0,
    )  # fmt: skip
    model.add_units("lfp", known.units["lfp"])
    fit_decoder(model, known, steps=80, learning_rate=5e-3)
    order = [2, 0, 3, 1]
    new = lab.record(1, n_times=2400)
    new = dataclasses.replace(
        new, inputs={"lfp": new.inputs["lfp"][:, order]}, units={"lfp": NEW["lfp"]}
    )
    fine_tune(model, new, unit_steps=60, steps=0)
    truth = new.part("test")[0].targets
    assert r2_score(truth, decode(model, new)) > 0.6


def test_the_same_generator_gives_the_same_weights(lab: Any, recording: Session) -> None:
    found = []
    for _ in range(2):
        model = lab.make_model(d_model=16, latent_dim=16)
        fine_tune(
            model, recording, unit_steps=2, steps=2, generator=torch.Generator().manual_seed(3)
        )
        found.append(weights(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_channels_without_a_name_are_refused(lab: Any, recording: Session) -> None:
    bare = dataclasses.replace(recording, units={"lfp": recording.units["lfp"]})
    with pytest.raises(ValueError, match=r"'s0' has no channel ids of \['spike'\]"):
        fine_tune(lab.make_model(), bare)
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        fine_tune(lab.make_model(), recording, steps=-1)
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        fine_tune(lab.make_model(), recording, unit_steps=0)
    assert np.isfinite(recording.inputs["lfp"]).all()
