import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator
from torch.utils.data import DataLoader

from neuros_core.domains import MixtureDiagnosis, SourceWeights
from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.training import DomainWeightedSampler, MultiModalTrainer
from neuros_neurofm.training.curriculum import (
    FinetunePhase,
    Plateau,
    PretrainPhase,
    ThreePhaseCurriculum,
    WeightedPhase,
    guard_weights,
)

NAMES = ("a", "b", "c", "new")
ESTIMATED = SourceWeights(("c", "a", "b"), [0.1, 0.7, 0.2], "example")
# The same in the order of the names, the target last.
GOAL = np.array([0.7, 0.2, 0.1, 0.0])
UNIFORM = np.array([1 / 3, 1 / 3, 1 / 3, 0.0])


def weighted(**settings: Any) -> WeightedPhase:
    return WeightedPhase(**{"weights": ESTIMATED, "ramp_steps": 20, "duration": 50, **settings})


def finetune(**settings: Any) -> FinetunePhase:
    return FinetunePhase(**{"target": "new", "ramp_steps": 10, **settings})


def three(
    pretrain: Any = None, weights: Any = None, target: Any = None, names: Any = NAMES
) -> ThreePhaseCurriculum:
    phases = [pretrain or PretrainPhase(duration=100), weights or weighted(), target or finetune()]
    return ThreePhaseCurriculum(phases, names=names)


def test_the_three_phases_follow_one_another() -> None:
    curriculum = three(target=finetune(freeze=("backbone", "fusion")))
    steps = [0, 99, 99.5, 100, 149, 150, 10**9]
    assert [curriculum.phase_at(step).name for step in steps] == (
        ["pretrain"] * 3 + ["weighted"] * 2 + ["finetune"] * 2
    )
    assert curriculum.phase_at(0).freeze == ()
    assert curriculum.phase_at(150).freeze == ("backbone", "fusion")


def test_every_phase_reaches_what_it_aims_for() -> None:
    curriculum = three()
    for step, expected in [
        (0, UNIFORM),
        (100, UNIFORM),
        (110, (UNIFORM + GOAL) / 2),
        (120, GOAL),
        (150, GOAL),
        (160, [0, 0, 0, 1]),
        (10_000, [0, 0, 0, 1]),
    ]:
        np.testing.assert_allclose(curriculum.weights_at(step).weights, expected, atol=1e-15)
    assert curriculum.weights_at(3).names == NAMES
    assert curriculum.weights_at(130).method == "curriculum(weighted)"


def test_a_cosine_ramp_starts_and_ends_flat_and_crosses_the_middle() -> None:
    curriculum = three(weights=weighted(ramp="cosine"))
    share = [
        (curriculum.weights_at(100 + t).weights[0] - 1 / 3) / (0.7 - 1 / 3)
        for t in (0, 0.02, 5, 10, 19.98, 20)
    ]
    # (1 - cos(pi / 4)) / 2 at a quarter of the ramp, about (pi / 1000)^2 / 4 at a thousandth.
    expected = [0, 2.4674e-6, 0.1464466, 0.5, 1 - 2.4674e-6, 1]
    np.testing.assert_allclose(share, expected, atol=1e-7)


def test_the_ramp_of_the_target_may_be_a_cosine_too() -> None:
    share = three(target=finetune(ramp="cosine")).weights_at(152.5)["new"]
    assert share == pytest.approx((1 - np.cos(np.pi / 4)) / 2)


def test_replay_keeps_a_share_of_the_sources_in_their_proportions() -> None:
    shares = three(target=finetune(replay=0.25)).weights_at(1000)
    np.testing.assert_allclose(shares.weights, 0.25 * GOAL + [0, 0, 0, 0.75])


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0, [1 / 3] * 3), (0.5, [0.1, 0.2, 0.7]), (1, [1 / 54, 4 / 54, 49 / 54])],
)
def test_pretraining_draws_with_a_power_of_the_counts(alpha: float, expected: list[float]) -> None:
    pretrain = PretrainPhase(duration=100, alpha=alpha, counts={"c": 49, "a": 1, "b": 4})
    shares = three(pretrain=pretrain).weights_at(0).weights
    np.testing.assert_allclose(shares, [*expected, 0.0])


NUMBER = st.integers(1, 40)
RAMP = st.sampled_from(["linear", "cosine"])


# A ramp moves at most 2 in L1, at a slope of at most pi / 2 times the straight line's.
@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    odds=st.tuples(*[st.integers(0, 9)] * 3),
    counts=st.tuples(*[NUMBER] * 3),
    steps=st.tuples(*[NUMBER] * 4),
    shapes=st.tuples(RAMP, RAMP),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.9)),
    kept=st.sampled_from([(0, 1, 2), (0, 2), (1, 2), (2,)]),
)
def test_the_shares_lie_on_the_simplex_and_are_continuous(
    odds: Any, counts: Any, steps: Any, shapes: Any, shares: Any, kept: Any
) -> None:
    p = (np.array(odds) + 1e-3) / (sum(odds) + 3e-3)
    by_name = dict(zip("abc", counts, strict=True))
    alpha, trust, replay = shares
    phases = [
        PretrainPhase(duration=steps[0], alpha=alpha, counts=by_name),
        weighted(
            weights=SourceWeights(("a", "b", "c"), p, "example"),
            ramp_steps=steps[1],
            duration=steps[1] + steps[2],
            ramp=shapes[0],
            trust=trust,
        ),
        finetune(ramp_steps=steps[3], ramp=shapes[1], replay=replay),
    ]
    curriculum = ThreePhaseCurriculum([phases[i] for i in kept], names=NAMES)
    steepest = np.pi / min(phases[i].ramp_steps for i in kept if i > 0)
    grid = np.linspace(0, 170, 171)
    drawn = np.array([curriculum.weights_at(float(step)).weights for step in grid])
    assert (drawn >= 0).all()
    assert np.abs(drawn.sum(axis=1) - 1).max() < 1e-12
    moves = np.abs(np.diff(drawn, axis=0)).sum(axis=1)
    assert moves.max() <= steepest * (grid[1] - grid[0]) * (1 + 1e-9)


def test_a_first_ramp_starts_from_equal_shares() -> None:
    alone = ThreePhaseCurriculum([weighted(duration=None)], names=["b", "c", "a"])
    np.testing.assert_allclose(alone.weights_at(0).weights, [1 / 3] * 3)
    np.testing.assert_allclose(alone.weights_at(20).weights, [0.2, 0.1, 0.7])
    direct = ThreePhaseCurriculum([finetune()], names=NAMES)
    np.testing.assert_allclose(direct.weights_at(0).weights, UNIFORM)


def plateau() -> ThreePhaseCurriculum:
    return three(
        pretrain=PretrainPhase(duration=Plateau(patience=2, min_delta=0.1)),
        weights=weighted(duration=Plateau(patience=2)),
    )


def test_a_plateau_ends_the_phase_once_the_loss_stops_to_fall() -> None:
    curriculum = plateau()
    # 0.95 is no fall by more than 0.1 below 1.0, and 0.85 is one.
    losses = [1.0, 0.95, 0.85, 0.9, 0.84]
    assert [curriculum.observe(10 * k, x) for k, x in enumerate(losses)] == [False] * 4 + [True]
    assert curriculum.phase_at(39.9).name == "pretrain"
    assert curriculum.phase_at(40).name == "weighted"
    np.testing.assert_allclose(curriculum.weights_at(50).weights, (UNIFORM + GOAL) / 2)


def test_a_plateau_does_not_cut_a_ramp() -> None:
    curriculum = plateau()
    for step in (0, 1, 2):
        curriculum.observe(step, 1.0)
    assert curriculum.phase_at(2).name == "weighted"
    # The ramp ends at step 22; only then observations count, from a best of 0.5 during it.
    ended = [curriculum.observe(step, loss) for step, loss in [(5, 0.5), (9, 2.0), (15, 2.0)]]
    ended += [curriculum.observe(step, 0.6) for step in (22, 23)]
    assert ended == [False] * 4 + [True]
    np.testing.assert_allclose(curriculum.weights_at(23).weights, GOAL, atol=1e-15)
    np.testing.assert_allclose(curriculum.weights_at(33).weights, [0, 0, 0, 1])


def test_every_phase_has_a_plateau_of_its_own() -> None:
    curriculum = plateau()
    for step in (0, 1, 2):
        curriculum.observe(step, 0.01)
    # Far above the best of the first phase, and still falling.
    assert not any(curriculum.observe(30 + k, 5.0 - k / 10) for k in range(20))


def test_a_phase_of_fixed_length_ignores_losses() -> None:
    curriculum = three()
    assert not any(curriculum.observe(step, 1.0) for step in range(200))
    assert curriculum.state_dict()["starts"] == [0, 100, 150]


def test_a_fixed_phase_after_a_plateau_has_its_length() -> None:
    curriculum = three(pretrain=PretrainPhase(duration=Plateau(patience=1)))
    assert curriculum.phase_at(10_000).name == "pretrain"
    curriculum.observe(0, 1.0)
    assert curriculum.observe(7, 1.0)
    assert [curriculum.phase_at(step).name for step in (56, 57)] == ["weighted", "finetune"]


def test_the_state_goes_on_where_it_was_and_is_plain() -> None:
    losses = [1.0, 0.95, 0.85, 0.9, 0.84, 0.7, 0.6, 0.6, 0.6, 0.6]
    whole, first, second = plateau(), plateau(), plateau()
    for k, loss in enumerate(losses):
        whole.observe(7 * k, loss)
        if k < 4:
            first.observe(7 * k, loss)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for k, loss in enumerate(losses[4:], start=4):
        second.observe(7 * k, loss)
    assert second.state_dict() == whole.state_dict()
    assert len(whole.state_dict()["starts"]) == 3
    for step in range(0, 100, 3):
        assert (second.weights_at(step).weights == whole.weights_at(step).weights).all()


def test_a_state_of_another_curriculum_is_refused() -> None:
    state = three().state_dict()
    with pytest.raises(ValueError, match=r"the state has names \['a', 'b', 'c', 'new'\]"):
        three(names=("new", "a", "b", "c")).load_state_dict(state)
    alone = ThreePhaseCurriculum([finetune()], names=NAMES)
    with pytest.raises(ValueError, match=r"the state has phases \['pretrain', 'weighted', 'fine"):
        alone.load_state_dict(state)


def test_the_sampler_draws_what_the_curriculum_says() -> None:
    curriculum = three()
    ids = np.repeat(list(NAMES), 25)
    generator = Generator().manual_seed(0)
    sampler = DomainWeightedSampler(
        ids, curriculum.weights_at(0), num_samples=20_000, generator=generator
    )
    for step, expected in [(0, UNIFORM), (120, GOAL), (500, np.array([0, 0, 0, 1.0]))]:
        sampler.set_weights(curriculum.weights_at(step))
        drawn = np.bincount(np.array(list(sampler)) // 25, minlength=4) / 20_000
        # Four standard deviations, 6e-5 per share; the generator is fixed.
        bound = 4 * np.sqrt(expected * (1 - expected) / 20_000)
        assert (np.abs(drawn - expected) <= bound).all()


class Level(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        return {"decoder": self.level.expand(batch["behavior"].shape)}


class Run:
    """A trainer whose sampler follows a curriculum, epoch by epoch."""

    def __init__(self, path: Path, save_at: int | None = None) -> None:
        self.curriculum = ThreePhaseCurriculum(
            [
                PretrainPhase(duration=1),
                weighted(ramp_steps=2, duration=2),
                finetune(ramp_steps=2),
            ],
            names=NAMES,
        )
        self.path, self.save_at = path, save_at
        self.sampler = DomainWeightedSampler(
            np.repeat(list(NAMES), 5),
            self.curriculum.weights_at(0),
            num_samples=24,
            generator=Generator().manual_seed(0),
        )
        rows = [{"behavior": torch.full((1, 1), (k // 5) ** 2.0)} for k in range(20)]
        model = Level()
        self.trainer = MultiModalTrainer(
            model,
            DataLoader(rows, batch_size=4, sampler=self.sampler),
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            loss=BehaviorLoss(),
            callbacks=[self],
            device="cpu",
            seed=0,
        )

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        assert np.isfinite(loss)
        if step == self.save_at:
            trainer.save_checkpoint(self.path)

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Any) -> None:
        assert metrics["loss"] >= 0
        self.sampler.set_weights(self.curriculum.weights_at(trainer.epoch))
        if epoch * 6 == self.save_at:
            trainer.save_checkpoint(self.path)

    def level(self) -> float:
        self.trainer.fit(6)
        return float(self.trainer.model.level.detach())


# Six steps an epoch: within an epoch, and at the end of one.
@pytest.mark.slow  # three runs of a trainer each
@pytest.mark.parametrize("save_at", [8, 15, 12, 18])
def test_a_killed_run_goes_on_with_the_shares_of_its_epoch(save_at: int, tmp_path: Path) -> None:
    expected = Run(tmp_path / "a.ckpt", save_at).level()
    resumed = Run(tmp_path / "b.ckpt")
    resumed.trainer.load_checkpoint(tmp_path / "a.ckpt")
    resumed.sampler.set_weights(resumed.curriculum.weights_at(resumed.trainer.epoch))
    assert resumed.trainer.global_step == save_at
    assert resumed.level() == expected
    # The shares matter: equal ones all along end elsewhere.
    equal = Run(tmp_path / "c.ckpt")
    equal.curriculum = ThreePhaseCurriculum([PretrainPhase()], names=NAMES)
    assert abs(equal.level() - expected) > 0.1


@pytest.mark.slow  # builds a whole model
def test_the_parts_of_a_phase_are_those_of_the_model() -> None:
    model = MultiModalNeuroFMX(d_model=16, n_mamba_blocks=1, n_latents=4, modalities=("lfp",))
    curriculum = three(target=finetune(freeze=("tokenizers", "backbone")))
    for step, frozen in [(0, False), (150, True), (0, False)]:
        model.unfreeze("all")
        model.freeze(*curriculum.phase_at(step).freeze)
        assert all(p.requires_grad != frozen for p in model.backbone.parameters())
        assert all(p.requires_grad for p in model.heads.parameters())


def estimate(**known: Any) -> SourceWeights:
    return SourceWeights(("a", "b", "c"), [0.7, 0.2, 0.1], "example", **known)


def test_weights_with_a_good_diagnosis_are_left_alone() -> None:
    good = MixtureDiagnosis(in_hull=True, p_value=0.4)
    for weights in (
        estimate(),
        estimate(diagnosis=good, stderr=[0.02] * 3),
        estimate(diagnosis=MixtureDiagnosis()),
    ):
        assert guard_weights(weights) is weights


OUTSIDE = MixtureDiagnosis(in_hull=False, p_value=1e-9)


def test_weights_out_of_the_hull_go_half_of_the_way_to_uniform() -> None:
    with pytest.warns(UserWarning, match=r"trust 0.50: in_hull is False, .*\(p = 1e-09\)") as said:
        guarded = guard_weights(estimate(diagnosis=OUTSIDE))
    assert len(said) == 1
    np.testing.assert_allclose(guarded.weights, [0.35 + 1 / 6, 0.1 + 1 / 6, 0.05 + 1 / 6])
    assert guarded.meta["trust"] == 0.5
    with pytest.warns(UserWarning, match=r"explains the target\. Pass trust=1"):
        guard_weights(estimate(diagnosis=MixtureDiagnosis(in_hull=False)))


def test_wide_intervals_shrink_by_the_share_of_noise() -> None:
    # |w - 1/3|^2 = 0.62 / 3 = 31 / 150, and three variances of 0.0310 / 3 are 15 % of it.
    stderr = np.full(3, np.sqrt(0.15 * 31 / 150 / 3))
    with pytest.warns(UserWarning, match="trust 0.85: the intervals are wide, noise .* 15%"):
        by_error = guard_weights(estimate(stderr=stderr))
    np.testing.assert_allclose(by_error.weights, 0.85 * np.array([0.7, 0.2, 0.1]) + 0.05)
    interval = np.array([0.7, 0.2, 0.1])[:, None] + np.outer(stderr, [-1.96, 1.96])
    with pytest.warns(UserWarning, match=r"trust 0\.85"):
        by_interval = guard_weights(estimate(interval=interval))
    np.testing.assert_allclose(by_interval.weights, by_error.weights)
    # A twentieth of noise is narrow.
    assert guard_weights(estimate(stderr=stderr / np.sqrt(3))).meta.get("trust") is None


def test_nothing_but_noise_gives_equal_shares() -> None:
    with pytest.warns(UserWarning, match="trust 0.00: .* noise accounts for 100%"):
        guarded = guard_weights(estimate(stderr=[0.5] * 3))
    np.testing.assert_allclose(guarded.weights, [1 / 3] * 3)
    equal = SourceWeights(("a", "b"), [0.5, 0.5], "example", stderr=[0.3, 0.3])
    assert guard_weights(equal) is equal


def test_two_reasons_make_one_warning_and_the_smaller_trust() -> None:
    with pytest.warns(UserWarning, match="trust 0.00: in_hull is False.*; the intervals") as said:
        guard_weights(estimate(diagnosis=OUTSIDE, stderr=[0.5] * 3))
    assert len(said) == 1


@pytest.mark.parametrize("trust", [0, 0.25, 1])
def test_a_given_trust_decides_without_a_warning(trust: float) -> None:
    guarded = guard_weights(estimate(diagnosis=OUTSIDE, stderr=[0.5] * 3), trust=trust)
    expected = trust * np.array([0.7, 0.2, 0.1]) + (1 - trust) / 3
    np.testing.assert_allclose(guarded.weights, expected)


def test_a_curriculum_guards_its_weights_once() -> None:
    with pytest.warns(UserWarning, match="in_hull is False") as said:
        curriculum = ThreePhaseCurriculum(
            [weighted(weights=estimate(diagnosis=OUTSIDE), duration=None)], names=["a", "b", "c"]
        )
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reached = curriculum.weights_at(20)
        trusting = ThreePhaseCurriculum(
            [weighted(weights=estimate(diagnosis=OUTSIDE), duration=None, trust=1)],
            names=["a", "b", "c"],
        )
    np.testing.assert_allclose(reached.weights, [0.35 + 1 / 6, 0.1 + 1 / 6, 0.05 + 1 / 6])
    np.testing.assert_allclose(trusting.weights_at(20).weights, [0.7, 0.2, 0.1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Plateau(patience=0), "patience must be at least 1, got 0"),
        (lambda: Plateau(patience=1, min_delta=-1.0), "min_delta must be finite and >= 0, got -1"),
        (lambda: PretrainPhase(duration=0), "duration must be at least 1 .* got 0"),
        (lambda: PretrainPhase(alpha=1.5), r"alpha must lie in \[0, 1\], got 1.5"),
        (lambda: PretrainPhase(alpha=0.5), "alpha = 0.5 needs the counts of the sources, got none"),
        (lambda: PretrainPhase(counts={"a": 0}), "counts must be at least 1, got {'a': 0}"),
        (lambda: weighted(ramp="steps"), "ramp must be one of .* got 'steps'"),
        (lambda: weighted(ramp_steps=0), "ramp_steps must be at least 1, got 0"),
        (lambda: weighted(duration=19), "duration must be at least 20 .* got 19"),
        (lambda: finetune(replay=1.0), r"replay must lie in \[0, 1\), got 1.0"),
        (lambda: finetune(ramp_steps=0), "ramp_steps must be at least 1, got 0"),
        (lambda: three(weights=weighted(trust=2.0)), r"trust must lie in \[0, 1\], got 2.0"),
        (lambda: three(pretrain=PretrainPhase()), r"\['pretrain'\] need a duration"),
        (
            lambda: ThreePhaseCurriculum([weighted()], names=["a", "b", "c"]),
            "the last phase has no end, got weighted with duration = 50; leave it out",
        ),
        (
            lambda: ThreePhaseCurriculum([finetune(), weighted()], names=NAMES),
            r"in this order, .* got \['finetune', 'weighted'\]",
        ),
        (lambda: ThreePhaseCurriculum([], names=NAMES), r"at least one, got \[\]"),
        (lambda: three(names=("a", "a", "new")), "names must be unique texts"),
        (lambda: three(names=("a", "b", "c")), "the target 'new' must be one of the names"),
        (lambda: three(names=("new",)), r"at least one source beside the target, got \['new'\]"),
        (
            lambda: three(names=("a", "b", "new")),
            r"weights must name the sources \['a', 'b'\], only on one side: \['c'\]",
        ),
        (
            lambda: three(pretrain=PretrainPhase(duration=1, counts={"a": 1, "x": 2})),
            r"counts must name the sources .* only on one side: \['b', 'c', 'x'\]",
        ),
        (lambda: three().weights_at(-1), "step must be finite and >= 0, got -1"),
        (lambda: three().phase_at(float("nan")), "step must be finite and >= 0, got nan"),
        (lambda: three().observe(0, float("inf")), "loss must be finite to judge .* got inf"),
    ],
)
def test_bad_curricula_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_losses_come_in_the_order_of_the_steps() -> None:
    curriculum = plateau()
    curriculum.observe(5, 1.0)
    with pytest.raises(ValueError, match="step must not go back below 5, got 4"):
        curriculum.observe(4, 1.0)


# With the annotations checked at run time, these refuse before our own message can.
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ThreePhaseCurriculum([None], names=NAMES), "phases must be of PretrainPhase"),
        (lambda: PretrainPhase(duration=1.5), "duration must be an int, a Plateau or None"),
        (lambda: finetune(freeze="backbone"), "freeze must be a sequence of parts, got the text"),
        (lambda: guard_weights([0.5, 0.5]), "weights must be neuros_core.domains.SourceWeights"),
    ],
)
def test_bad_types_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"{message}|Type-check error"):
        build()
