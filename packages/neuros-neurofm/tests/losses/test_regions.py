from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from neuros_neurofm.losses import NeuralMasker

REGIONS = torch.tensor([4, 4, 7, 7, 7, 9])


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def make_batch(n_rows: int = 3, regions: Any = REGIONS) -> dict[str, Any]:
    return {"spike": torch.ones(n_rows, 5, 6), "regions": {"spike": regions}}


def by_channel(entries: Tensor) -> Tensor:
    assert torch.equal(entries, entries[:, :1].expand_as(entries))
    return entries[:, 0]


def test_whole_regions_are_hidden_in_the_given_share() -> None:
    masked = NeuralMasker("inter-region", 0.3)(make_batch(2000), seeded())
    hidden = by_channel(masked["masked"]["spike"])
    for region in (4, 7, 9):
        inside = hidden[:, region == REGIONS]
        assert torch.equal(inside, inside[:, :1].expand_as(inside))
        # A region is spared where all three would be hidden and the lot falls on it.
        expected = 0.3 - 0.3**3 / 3
        assert abs(float(inside.float().mean()) - expected) < 5 * (0.3 * 0.7 / 2000) ** 0.5


def test_one_region_is_always_kept() -> None:
    masked = NeuralMasker("inter-region", 1.0)(make_batch(300), seeded())
    visible = by_channel(masked["masks"]["spike"])
    kept = torch.stack([visible[:, region == REGIONS].any(1) for region in (4, 7, 9)], dim=1)
    assert torch.equal(kept.sum(1), torch.ones(300, dtype=torch.long))
    assert kept.any(0).all()


def test_within_a_region_the_others_are_invisible_and_not_asked_for() -> None:
    masked = NeuralMasker("intra-region", 0.5)(make_batch(2000), seeded())
    hidden = by_channel(masked["masked"]["spike"])
    visible = by_channel(masked["masks"]["spike"])
    touched = hidden | visible
    inside = torch.stack([touched[:, region == REGIONS].all(1) for region in (4, 7, 9)], dim=1)
    assert torch.equal(inside.sum(1), torch.ones(2000, dtype=torch.long))
    sizes = inside.long() @ torch.tensor([2, 3, 1])
    assert torch.equal(touched.sum(1), sizes)
    assert visible.any(1).all()
    assert torch.equal(masked["spike"], masked["masks"]["spike"].float())
    assert (masked["targets"]["spike"] == 1).all()
    # Every region is drawn in a third of the rows (five standard deviations).
    assert (abs(inside.float().mean(0) - 1 / 3) < 5 * (2 / 9 / 2000) ** 0.5).all()
    # Of the three channels of region 7 one is spared where all three would be hidden.
    share = hidden[inside[:, 1]][:, 2:5].float().mean()
    assert abs(float(share) - (0.5 - 0.5**3 / 3)) < 5 * (0.25 / (3 * 600)) ** 0.5


def test_rows_may_have_regions_of_their_own() -> None:
    regions = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]])
    masked = NeuralMasker("inter-region", 1.0)(make_batch(2, regions), seeded())
    hidden = by_channel(masked["masked"]["spike"])
    for row, ids in zip(hidden, regions, strict=True):
        assert int(row.sum()) == 3
        assert len(ids[row].unique()) == 1


def test_a_channel_of_unknown_region_is_in_none() -> None:
    regions = [-1, 0, 0, 1, 1, -1]
    across = NeuralMasker("inter-region", 1.0)(make_batch(50, regions), seeded())
    assert by_channel(across["masks"]["spike"])[:, [0, 5]].all()
    within = NeuralMasker("intra-region", 0.0)(make_batch(50, regions), seeded())
    assert not by_channel(within["masks"]["spike"])[:, [0, 5]].any()
    assert not within["masked"]["spike"].any()


@pytest.mark.parametrize(("mode", "n_visible"), [("inter-region", 6), ("intra-region", 0)])
def test_without_a_known_region_nothing_is_asked_for(mode: str, n_visible: int) -> None:
    masked = NeuralMasker(mode, 1.0)(make_batch(2, [-1] * 6), seeded())
    assert not masked["masked"]["spike"].any()
    assert by_channel(masked["masks"]["spike"]).sum(1).tolist() == [n_visible] * 2


@pytest.mark.parametrize("mode", ["inter-region", "intra-region"])
def test_a_modality_without_regions_is_left_as_it_is(mode: str) -> None:
    batch = make_batch() | {"eeg": torch.ones(3, 4, 2)}
    masked = NeuralMasker(mode, 1.0)(batch, seeded())
    assert torch.equal(masked["eeg"], batch["eeg"])
    assert masked["masks"]["eeg"].all()
    assert not masked["masked"]["eeg"].any()


@settings(max_examples=30, derandomize=True, deadline=None)
@given(ratio=st.floats(0, 1), seed=st.integers(0, 99), mode=st.sampled_from(["inter", "intra"]))
def test_only_valid_entries_are_taken_and_the_seed_decides(
    ratio: float, seed: int, mode: str
) -> None:
    valid = torch.rand((3, 5, 6), generator=seeded(seed)) < 0.5
    x = torch.full(valid.shape, float("nan")).masked_fill(valid, 1.0)
    batch = make_batch() | {"spike": x, "masks": {"spike": valid}}
    masker = NeuralMasker(f"{mode}-region", ratio)
    first, second = masker(batch, seeded(seed)), masker(batch, seeded(seed))
    hidden, visible = first["masked"]["spike"], first["masks"]["spike"]
    assert not ((hidden | visible) & ~valid).any()
    assert not (hidden & visible).any()
    assert first["spike"][valid].isfinite().all()
    # Recorded channels: a row that has any keeps some.
    assert torch.equal(visible.any(2).any(1), valid.any(2).any(1))
    assert torch.equal(hidden, second["masked"]["spike"])
    assert torch.equal(batch["masks"]["spike"], valid)


@pytest.mark.parametrize(
    ("regions", "error", "message"),
    [
        ({}, ValueError, r"needs batch\['regions'\] of spike: .* got regions of \[\]"),
        ({"eeg": [1]}, ValueError, r"got regions of \['eeg'\]"),
        ({"spike": [0, 1]}, ValueError, r"must be \(channel,\) = \(6,\) or .* got shape \(2,\)"),
        ({"spike": [0.5] * 6}, TypeError, r"regions\['spike'\] must be integers, got torch.float"),
        ({"spike": [True] * 6}, TypeError, "must be integers, got torch.bool"),
    ],
)
def test_regions_that_do_not_fit_are_refused(
    regions: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        NeuralMasker("inter-region", 0.5)(make_batch() | {"regions": regions}, seeded())
