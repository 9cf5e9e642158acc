from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from neuros_neurofm.losses import NeuralMasker

MODES = [
    "random",
    "temporal",
    "neuron",
    "co-smooth",
    "forward-pred",
    "inter-region",
    "modality",
]


def make_batch(n_rows: int = 3, n_times: int = 40, n_channels: int = 6) -> dict[str, Any]:
    generator = Generator().manual_seed(0)
    shape = (n_rows, n_times, n_channels)
    return {
        "spike": torch.poisson(torch.full(shape, 2.0), generator=generator),
        "lfp": torch.randn(n_rows, 2 * n_times, 2, generator=generator),
        "behavior": torch.zeros(n_rows, 5, 2),
        "regions": {"spike": torch.arange(n_channels) // 2, "lfp": torch.tensor([0, 1])},
    }


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def flat(batch: dict[str, Any]) -> list[Tensor]:
    return [*batch["masked"].values(), *batch["masks"].values(), batch["spike"], batch["lfp"]]


@pytest.mark.parametrize("mode", MODES)
def test_hidden_entries_are_invalid_zero_and_kept_as_targets(mode: Any) -> None:
    batch = make_batch()
    masked = NeuralMasker(mode, 0.4)(batch, seeded())
    for modality in ("spike", "lfp"):
        hidden = masked["masked"][modality]
        assert torch.equal(masked["masks"][modality], ~hidden)
        assert (masked[modality][hidden] == 0).all()
        assert torch.equal(masked[modality][~hidden], batch[modality][~hidden])
        assert torch.equal(masked["targets"][modality], batch[modality])
    assert any(hidden.any() for hidden in masked["masked"].values())


@pytest.mark.parametrize("mode", MODES)
def test_the_batch_given_is_not_modified(mode: Any) -> None:
    batch = make_batch() | {"masks": {"spike": torch.ones(3, 40, 6, dtype=torch.bool)}}
    before = {k: v.clone() for k, v in batch.items() if isinstance(v, Tensor)}
    NeuralMasker(mode, 0.9)(batch, seeded())
    assert set(batch) == {*before, "masks", "regions"}
    assert all(torch.equal(batch[key], value) for key, value in before.items())
    assert batch["masks"]["spike"].all()


@pytest.mark.parametrize("mode", MODES)
def test_one_seed_gives_one_masking(mode: Any) -> None:
    first, second = (NeuralMasker(mode, 0.4)(make_batch(), seeded(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


@pytest.mark.parametrize("mode", ["random", "temporal", "neuron", "modality"])
def test_another_seed_gives_another_masking(mode: Any) -> None:
    first, second = (
        NeuralMasker(mode, 0.5)(make_batch(16), seeded(seed))["masked"]["spike"] for seed in (3, 4)
    )
    assert not torch.equal(first, second)


# Five standard deviations of the binomial share of independently hidden units: false alarms
# 6e-7 per case. `unit` counts the entries that are hidden together.
@pytest.mark.parametrize(("mode", "unit"), [("random", 1), ("temporal", 8), ("neuron", 500)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_hidden_share_is_the_ratio(mode: Any, unit: int, ratio: float) -> None:
    batch = {"eeg": torch.zeros(40, 500, 8)}
    hidden = NeuralMasker(mode, ratio)(batch, seeded())["masked"]["eeg"]
    deviation = (ratio * (1 - ratio) * unit / hidden.numel()) ** 0.5
    assert abs(float(hidden.float().mean()) - ratio) < 5 * deviation


def test_blocks_hide_the_ratio_too_and_are_contiguous() -> None:
    hidden = NeuralMasker("temporal", 0.3, span=10)({"eeg": torch.zeros(60, 500, 2)}, seeded())
    row = hidden["masked"]["eeg"][..., 0]
    # 60 * 50 blocks (five standard deviations, false alarms 6e-7).
    assert abs(float(row.float().mean()) - 0.3) < 5 * (0.3 * 0.7 / 3000) ** 0.5
    edges = (row[:, 1:] != row[:, :-1]).sum()
    assert edges <= 60 * 51
    assert torch.equal(hidden["masked"]["eeg"][..., 0], hidden["masked"]["eeg"][..., 1])


def test_neurons_are_hidden_for_the_whole_window() -> None:
    hidden = NeuralMasker("neuron", 0.5)(make_batch(), seeded())["masked"]["spike"]
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))


@pytest.mark.parametrize(("n_channels", "expected"), [(8, 2), (2, 0), (1, 0), (3, 1)])
def test_co_smoothing_holds_out_the_same_channels_in_every_row(
    n_channels: int, expected: int
) -> None:
    batch = {"spike": torch.ones(4, 10, n_channels)}
    hidden = NeuralMasker("co-smooth", 0.25)(batch, seeded())["masked"]["spike"]
    assert torch.equal(hidden, hidden[:1, :1].expand_as(hidden))
    assert int(hidden[0, 0].sum()) == expected


def test_co_smoothing_never_holds_out_all_channels() -> None:
    hidden = NeuralMasker("co-smooth", 1.0)({"spike": torch.ones(2, 3, 4)}, seeded())
    assert int(hidden["masked"]["spike"][0, 0].sum()) == 3


def test_forward_prediction_hides_the_end_of_what_every_row_recorded() -> None:
    mask = torch.ones(2, 10, 1, dtype=torch.bool)
    mask[1, 5:] = False
    batch = {"lfp": torch.ones(2, 10, 1), "masks": {"lfp": mask}}
    hidden = NeuralMasker("forward-pred", 0.4)(batch, seeded())["masked"]["lfp"][..., 0]
    assert hidden[0].nonzero().flatten().tolist() == [6, 7, 8, 9]
    assert hidden[1].nonzero().flatten().tolist() == [3, 4]


def test_every_row_keeps_a_modality() -> None:
    batch = make_batch(n_rows=200)
    masked = NeuralMasker("modality", 1.0)(batch, seeded())
    kept = torch.stack([m.any(dim=2).any(dim=1) for m in masked["masks"].values()])
    assert torch.equal(kept.sum(0), torch.ones(200, dtype=torch.long))
    # Each of the two is kept in half of the rows (five standard deviations).
    assert abs(int(kept[0].sum()) - 100) < 5 * 50**0.5


def test_a_lone_modality_is_kept() -> None:
    masked = NeuralMasker("modality", 1.0)({"eeg": torch.ones(5, 4, 3)}, seeded())
    assert not masked["masked"]["eeg"].any()


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 99),
    n_times=st.integers(1, 9),
    n_channels=st.integers(1, 5),
)
def test_only_valid_entries_are_ever_hidden(
    mode: Any, ratio: float, seed: int, n_times: int, n_channels: int
) -> None:
    shape = (3, n_times, n_channels)
    valid = torch.rand(shape, generator=seeded(seed)) < 0.6
    x = torch.full(shape, float("nan")).masked_fill(valid, 1.0)
    regions = {"emg": torch.arange(n_channels) % 3 - 1}
    batch = {"emg": x, "masks": {"emg": valid}, "regions": regions}
    masked = NeuralMasker(mode, ratio)(batch, seeded(seed))
    hidden, visible = masked["masked"]["emg"], masked["masks"]["emg"]
    assert not (hidden & ~valid).any()
    assert torch.equal(hidden | visible, valid)
    assert masked["emg"][valid].isfinite().all()


def test_a_mask_of_one_axis_counts_for_all() -> None:
    channels = torch.tensor([True, False]).expand(2, 1, 2)
    batch = {"eeg": torch.ones(2, 5, 2), "masks": {"eeg": channels}}
    masked = NeuralMasker("random", 1.0)(batch, seeded())
    assert masked["masked"]["eeg"].sum(dim=(0, 1)).tolist() == [10, 0]


def test_repr_names_the_configuration() -> None:
    assert repr(NeuralMasker("temporal", 0.3, span=4)) == (
        "NeuralMasker(mode='temporal', ratio=0.3, span=4)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sideways", 0.1), "mode must be one of random, .* got 'sideways'"),
        (("random", 1.5), r"ratio must lie in \[0, 1\], got 1.5"),
        (("random", float("nan")), "ratio must lie in"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralMasker(*arguments)


@pytest.mark.parametrize(("mode", "span"), [("random", 3), ("temporal", 0)])
def test_a_span_that_the_mode_cannot_use_is_refused(mode: Any, span: int) -> None:
    with pytest.raises(ValueError, match=rf"span must be 1, .* got {span} in {mode}"):
        NeuralMasker(mode, 0.5, span=span)


def test_a_batch_without_a_modality_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no modality, only \['behavior'\]"):
        NeuralMasker("random", 0.5)({"behavior": torch.ones(1, 2, 3)}, seeded())


def test_a_modality_of_two_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch\['eeg'\] must be \(batch, time, channel\)"):
        NeuralMasker("random", 0.5)({"eeg": torch.ones(4, 3)}, seeded())
