"""Read-outs and models on other modalities and sessions."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation._canonical import canonical_transfer
from neuros_neurofm.evaluation._decode import decode, run_blocks
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder
from neuros_neurofm.evaluation.metrics import r2_score
from neuros_neurofm.evaluation.session import Blocks, Session
from neuros_neurofm.evaluation.transfer import (
    CrossModalTransfer,
    _latents,
    cross_modal_transfer,
    transfer_matrix,
)


def only(name: str, session: Session) -> Session:
    return dataclasses.replace(
        session, inputs={name: session.inputs[name]}, units={name: session.units[name]}
    )


def transfer(model: MultiModalNeuroFMX, src: Session, tgt: Session) -> CrossModalTransfer:
    generator = np.random.default_rng(0)
    return cross_modal_transfer(model, src, tgt, generator=generator, n_bootstrap=50)


def test_a_session_retains_itself(readable_model: MultiModalNeuroFMX, recording: Session) -> None:
    result = transfer(readable_model, only("lfp", recording), only("lfp", recording))
    assert result.retention == 1.0
    assert result.reason is None
    estimate, low, high = result.own
    assert low < estimate < high
    assert estimate > 0.4


def test_another_recording_of_the_same_state_retains_most(
    lab: Any, readable_model: MultiModalNeuroFMX, recording: Session
) -> None:
    result = transfer(readable_model, only("lfp", lab.record(1)), only("lfp", recording))
    assert 0.8 < result.retention < 1.1
    assert result.retention == result.transferred[0] / result.own[0]


def test_each_head_is_fitted_on_its_own_training_blocks_and_scored_on_the_target(
    readable_model: MultiModalNeuroFMX, recording: Session
) -> None:
    src, tgt = only("spike", recording), only("lfp", recording)
    result = transfer(readable_model, src, tgt)
    latents = {}
    for name, session in (("src", src), ("tgt", tgt)):
        ids = {next(iter(session.inputs)): next(iter(session.units.values()))}
        for part in ("train", "test"):
            (piece,) = session.part(part)
            ((modality, x),) = piece.inputs.items()
            z = readable_model.encode({modality: as_tensor(x)}, units=ids)[0]
            latents[name, part] = z.detach().double().numpy(), piece.targets
    truth = latents["tgt", "test"][1]
    for name, score in (("src", result.transferred), ("tgt", result.own)):
        head = RidgeDecoder().fit(*latents[name, "train"])
        expected = r2_score(truth, head.predict(latents["tgt", "test"][0]))
        # The passes differ in nothing, the sums of the fit in rounding at most.
        assert score[0] == pytest.approx(expected, abs=1e-6)


def as_tensor(x: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float32)[None]


def test_a_transfer_without_a_model_stands_beside_that_of_one_recording(
    lab: Any, readable_model: MultiModalNeuroFMX, recording: Session
) -> None:
    src, tgt = only("spike", recording), only("lfp", recording)
    result = transfer(readable_model, src, tgt)
    assert result.cca is not None
    truth = recording.part("test")[0].targets
    assert result.cca[0] == r2_score(truth, canonical_transfer(src, tgt))
    # Of the same length, but another recording.
    assert transfer(readable_model, only("spike", lab.record(1)), tgt).cca is None


def test_a_target_that_its_own_head_cannot_read_is_refused(
    readable_model: MultiModalNeuroFMX, recording: Session
) -> None:
    noise = np.random.default_rng(5).normal(size=(1200, 1))
    unreadable = dataclasses.replace(only("lfp", recording), targets=noise)
    result = transfer(readable_model, only("spike", recording), unreadable)
    assert np.isnan(result.retention)
    assert "less than 0.1: a ratio of it would be noise" in str(result.reason)


def test_a_head_of_unrelated_targets_transfers_nothing(
    readable_model: MultiModalNeuroFMX, recording: Session
) -> None:
    noise = np.random.default_rng(5).normal(size=(1200, 1))
    unrelated = dataclasses.replace(only("lfp", recording), targets=noise)
    result = transfer(readable_model, unrelated, only("lfp", recording))
    assert result.retention < 0.1


@pytest.mark.parametrize("causal", [True, False])
def test_a_coarse_latent_speaks_once_it_is_complete(
    lab: Any, recording: Session, causal: bool
) -> None:
    # A step of 0.08 s is four samples.
    model = lab.make_model(n_latents=8, causal=causal).eval()
    ((latents, targets),) = _latents(model, recording, "test")
    (output,) = run_blocks(model, recording, "test")
    every = output.latents[0].double().numpy()
    truth = recording.part("test")[0].targets
    n_times = len(truth)
    if causal:
        index = np.arange(1, n_times + 1) // 4 - 1
        np.testing.assert_array_equal(latents, every[index[3:]])
        np.testing.assert_array_equal(targets, truth[3:])
    else:
        np.testing.assert_array_equal(latents, every[np.arange(n_times) // 4])
        np.testing.assert_array_equal(targets, truth)


def test_targets_that_do_not_belong_together_are_refused(lab: Any, recording: Session) -> None:
    model = lab.make_model()
    wide = dataclasses.replace(recording, targets=np.zeros((1200, 2)))
    with pytest.raises(ValueError, match="targets of one width, got 1 and 2"):
        transfer(model, recording, wide)
    bare = dataclasses.replace(recording, targets=None)
    with pytest.raises(ValueError, match=r"needs continuous targets \(time, dim\), got none"):
        transfer(model, bare, recording)
    with pytest.raises(ValueError, match="got integer labels"):
        transfer(model, recording, lab.labelled())
    missing = dataclasses.replace(recording, targets=np.full((1200, 1), np.nan))
    with pytest.raises(ValueError, match="no sample of test of the session 's0' is scored"):
        transfer(model, recording, missing)


def test_the_matrix_holds_the_score_of_every_model_on_every_session(
    lab: Any, readable_model: MultiModalNeuroFMX, recording: Session
) -> None:
    other = lab.make_model(seed=3)
    lab.fit_readout(other, lab.record(1))
    sessions = [recording, lab.record(1), lab.record(2)]
    table = transfer_matrix(
        [readable_model, other], sessions, generator=np.random.default_rng(0), n_bootstrap=50
    )
    assert table.sessions == ("s0", "s1", "s2")
    assert (table.metric, table.chance.tolist()) == ("R2", [0.0] * 3)
    for i, model in enumerate((readable_model, other)):
        for j, session in enumerate(sessions):
            truth = session.part("test")[0].targets
            assert table.scores[i, j] == r2_score(truth, decode(model, session))
    assert (table.low < table.scores).all()
    assert (table.scores < table.high).all()


def test_the_matrix_of_labels_holds_balanced_accuracies_and_chance(lab: Any) -> None:
    session, model = lab.labelled(), lab.make_model(behavior_dim=2)
    lab.fit_readout(model, session)
    generator = np.random.default_rng(0)
    table = transfer_matrix(
        [model, lab.make_model(behavior_dim=2)],
        [session, lab.labelled(1)],
        generator=generator,
        n_bootstrap=20,
    )
    assert table.metric == "balanced accuracy"
    assert table.chance.tolist() == [0.5, 0.5]
    assert (table.scores[0] > 0.7).all()
    assert (table.scores[1] < 0.6).all()
    with pytest.raises(ValueError, match="one table cannot hold R2 and balanced accuracy"):
        transfer_matrix([model], [session, lab.record()], generator=generator)


def test_samples_without_a_target_are_not_scored(
    readable_model: MultiModalNeuroFMX, recording: Session
) -> None:
    holes = recording.targets.copy()
    holes[-100:] = np.nan
    table = transfer_matrix(
        [readable_model],
        [dataclasses.replace(recording, targets=holes)],
        generator=np.random.default_rng(0),
        n_bootstrap=10,
    )
    predicted = decode(readable_model, recording)[:-100]
    truth = recording.part("test")[0].targets[:-100]
    assert table.scores[0, 0] == r2_score(truth, predicted)


def test_an_empty_matrix_is_refused(lab: Any, recording: Session) -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"at least one model and one session .* got 0 and 1"):
        transfer_matrix([], [recording], generator=generator)
    untested = dataclasses.replace(recording, blocks=Blocks((slice(0, 100),)))
    with pytest.raises(ValueError, match="the session 's0' has no test block"):
        transfer_matrix([lab.make_model()], [untested], generator=generator)
