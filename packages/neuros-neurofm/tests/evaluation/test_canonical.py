"""Canonical correlations, and the transfer that they give."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from neuros_neurofm.evaluation import r2_score
from neuros_neurofm.evaluation._canonical import align, canonical_transfer
from neuros_neurofm.evaluation.session import Session


def test_the_correlations_are_those_of_the_shared_signal() -> None:
    # x = s + e with var(s) = 4, var(e) = 1, and y = s + 2 e': the correlation is 4 / sqrt(5 * 8).
    draw = np.random.default_rng(0)
    n = 200_000
    shared = 2.0 * draw.normal(size=n)
    x = np.stack([draw.normal(size=n), shared + draw.normal(size=n)], axis=1)
    y = np.stack([shared + 2.0 * draw.normal(size=n), draw.normal(size=n)], axis=1)
    found = align(x - x.mean(axis=0), y - y.mean(axis=0), 1e-9)
    # Three standard errors, (1 - r²) / sqrt(n), and the bias of the second root.
    np.testing.assert_allclose(found.correlations, [4 / np.sqrt(40), 0.0], atol=0.01)
    variates = (x @ found.a).T @ (x @ found.a) / n
    np.testing.assert_allclose(variates, np.eye(2), atol=0.01)
    assert np.corrcoef(x @ found.a[:, 0], y @ found.b[:, 0])[0, 1] > 0.6


def test_correlations_do_not_depend_on_the_units_of_measurement() -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(500, 3)), draw.normal(size=(500, 2))
    x[:, 0] += y[:, 1]
    mixing = draw.normal(size=(3, 3)) + 3 * np.eye(3)
    first, second = (align(z - z.mean(axis=0), y - y.mean(axis=0), 1e-12) for z in (x, x @ mixing))
    np.testing.assert_allclose(first.correlations, second.correlations, atol=1e-8)


def only(name: str, session: Session) -> Session:
    return dataclasses.replace(
        session, inputs={name: session.inputs[name]}, units={name: session.units[name]}
    )


def test_a_head_of_spikes_reads_field_potentials_of_the_same_state(recording: Session) -> None:
    src, tgt = only("spike", recording), only("lfp", recording)
    truth = recording.part("test")[0].targets
    assert r2_score(truth, canonical_transfer(src, tgt)) > 0.5


def test_nothing_of_the_test_targets_is_read(recording: Session) -> None:
    src, tgt = only("spike", recording), only("lfp", recording)
    targets = recording.targets.copy()
    for block in recording.blocks.test:
        targets[block] = 1e6
    changed = dataclasses.replace(tgt, targets=targets)
    np.testing.assert_array_equal(canonical_transfer(src, tgt), canonical_transfer(src, changed))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_unscored_samples_are_left_out_of_the_head(recording: Session, share: float) -> None:
    targets = recording.targets.copy()
    missing = np.random.default_rng(2).random(len(targets)) < share
    targets[missing] = np.nan
    holes: dict[str, Any] = {"targets": targets}
    src = dataclasses.replace(only("spike", recording), **holes)
    tgt = dataclasses.replace(only("lfp", recording), **holes)
    truth = recording.part("test")[0].targets
    decoded = canonical_transfer(src, tgt)
    assert np.isfinite(decoded).all()
    assert r2_score(truth, decoded) > 0.4
