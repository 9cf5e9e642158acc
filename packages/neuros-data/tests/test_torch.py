"""Loaders over views: tensors, buckets, coverage, resuming in the middle of an epoch."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from neuros_core import Recording
from neuros_data import Store

torch = pytest.importorskip("torch")
windows_torch = pytest.importorskip("neuros_data.torch")
RandomWindowSampler = windows_torch.RandomWindowSampler
SequentialWindowSampler = windows_torch.SequentialWindowSampler
TrialSampler = windows_torch.TrialSampler
WindowDataset = windows_torch.WindowDataset
collate = windows_torch.collate


@pytest.fixture
def dataset(make_store: Callable[..., Store], ramp: Callable[..., Recording]) -> WindowDataset:
    store = make_store(ramp("a"), ramp("b", offset=1000.0), ramp("c", channels=3))
    lfp = store.windows(window=0.5, modalities=["lfp"], recordings=["a", "b"], behaviour=["speed"])
    return WindowDataset(lfp, store.windows(window=1.0, bin=0.1, recordings=["c"]))


def test_a_loader_gives_batches_of_tensors(dataset: WindowDataset) -> None:
    sampler = SequentialWindowSampler(dataset, 8)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
    batches = list(loader)
    assert [len(b["start_time"]) for b in batches] == [8, 8, 4, 8, 8, 4, 8, 2]
    first, last = batches[0], batches[-1]
    assert first["lfp"].dtype == torch.float32
    assert first["behavior_times"].dtype == torch.float32
    assert first["start_time"].dtype == torch.float64
    assert first["masks"]["lfp"].dtype == torch.bool
    assert first["masks"]["lfp"].shape == first["lfp"].shape
    assert first["rates"] == {"lfp": 100.0}
    assert last["lfp"].shape == (2, 100, 3)
    assert last["spike"].shape == (2, 10, 3)


@pytest.mark.slow  # starts worker processes
def test_workers_read_the_same_batches(dataset: WindowDataset) -> None:
    def read(workers: int) -> list[np.ndarray]:
        sampler = RandomWindowSampler(dataset, 8, seed=3)
        # Arrays travel through a pipe; tensors would need a socket, which tests may not open.
        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=sampler, collate_fn=dict, num_workers=workers
        )
        return [batch["lfp"] for batch in loader]

    for alone, shared in zip(read(0), read(2), strict=True):
        np.testing.assert_array_equal(alone, shared)


def test_an_epoch_holds_every_window_once_in_batches_of_one_recording(
    dataset: WindowDataset,
) -> None:
    sampler = RandomWindowSampler(dataset, 8, seed=1)
    epoch = list(sampler)
    assert len(epoch) == len(sampler) == 8
    assert sorted(i for batch in epoch for i in batch) == list(range(len(dataset)))
    for batch in epoch:
        assert len(set(dataset.__getitems__(batch)["recording_index"].tolist())) == 1
    assert list(sampler) != epoch
    sampler.set_epoch(0)
    assert list(sampler) == epoch
    assert list(RandomWindowSampler(dataset, 8, seed=2)) != epoch


@pytest.mark.parametrize("weights", [None, {"a": 1.0, "c": 2.0}])
def test_a_sampler_resumes_in_the_middle_of_an_epoch(
    weights: dict | None, dataset: WindowDataset
) -> None:
    whole = RandomWindowSampler(dataset, 8, seed=5, weights=weights)
    epochs = [list(whole), list(whole)]
    first = RandomWindowSampler(dataset, 8, seed=5, weights=weights)
    list(first)
    running = iter(first)
    done = [next(running) for _ in range(3)]
    state = first.state_dict()
    assert state == {"epoch": 1, "position": 3}
    second = RandomWindowSampler(dataset, 8, seed=5, weights=weights)
    second.load_state_dict(state)
    assert done + list(second) == epochs[1]
    second.load_state_dict(first.state_dict(consumed=1))
    assert list(second) == epochs[1][1:]
    assert second.state_dict() == {"epoch": 2, "position": 0}


def test_an_interrupted_epoch_starts_over(dataset: WindowDataset) -> None:
    sampler = SequentialWindowSampler(dataset, 8)
    assert next(iter(sampler)) == next(iter(sampler)) == list(range(8))


def test_weights_choose_recordings(dataset: WindowDataset) -> None:
    sampler = RandomWindowSampler(dataset, 4, weights={"b": 1.0})
    epoch = list(sampler)
    assert len(epoch) == 13
    assert all(20 <= i < 40 for batch in epoch for i in batch)
    # Twenty windows in five batches: each block of five batches sees all of them.
    assert sorted(i for batch in epoch[:5] for i in batch) == list(range(20, 40))


def test_processes_share_an_epoch_evenly(dataset: WindowDataset) -> None:
    shares = [list(RandomWindowSampler(dataset, 8, num_replicas=3, rank=r)) for r in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    seen = [i for share in shares for batch in share for i in batch]
    assert len(seen) == len(set(seen))


def test_every_trial_gives_one_window_an_epoch(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    store = make_store(ramp("a"), ramp("b", offset=0.5))
    view = store.windows(window=0.2, stride=0.1, modalities=["lfp"])
    dataset = WindowDataset(view, store.windows(window=0.3, modalities=["lfp"], recordings=["a"]))
    sampler = TrialSampler(dataset, 4, "trial", seed=1)
    epochs = [list(sampler), list(sampler)]
    assert [sorted(map(len, batches)) for batches in epochs] == [[2, 2, 2, 4, 4, 4, 4, 4, 4]] * 2
    assert epochs[0] != epochs[1]
    sampler.set_epoch(0)
    assert list(sampler) == epochs[0]
    for batch in (dataset.__getitems__(indices) for indices in epochs[0]):
        assert len(set(batch["recording_index"].tolist())) == 1
        # Trials of 0.5 s begin at every second.
        length = batch["lfp"].shape[1] / 100
        place = batch["start_time"] % 1
        assert ((place + length <= 0.5 + 1e-9) | (place > 1 - 1e-9)).all()


def test_classes_of_trials_are_balanced(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    dataset = WindowDataset(make_store(ramp("a")).windows(window=0.5, modalities=["lfp"]))
    sampler = TrialSampler(dataset, 32, "trial", balance="code")
    (indices,) = list(sampler)
    trials = (dataset.__getitems__(indices)["start_time"] // 1).astype(int)
    # Ten trials of classes 0, 1, 2: four of class 0, three of each other.
    assert np.bincount(trials % 3).tolist() == [4, 4, 4]
    assert set(trials.tolist()) == set(range(10))
    with pytest.raises(ValueError, match="have no column 'x'; they have code"):
        TrialSampler(dataset, 4, "trial", balance="x")
    with pytest.raises(ValueError, match="has no intervals 'x'; it has trial"):
        TrialSampler(dataset, 4, "x")
    long = WindowDataset(make_store(ramp("a")).windows(window=0.6, modalities=["lfp"]))
    with pytest.raises(ValueError, match="no window lies inside one of the intervals 'trial'"):
        TrialSampler(long, 4, "trial")


def test_one_window_is_a_batch_of_one(dataset: WindowDataset) -> None:
    assert dataset[-1]["lfp"].shape == (1, 100, 3)
    assert collate([dataset[0]])["lfp"].shape == (1, 50, 2)
    with pytest.raises(ValueError, match="collate needs one batch, got a list of 2"):
        collate([dataset[0], dataset[1]])


def test_misuse_is_explained(dataset: WindowDataset) -> None:
    with pytest.raises(ValueError, match="needs at least one view"):
        WindowDataset()
    with pytest.raises(ValueError, match=r"needs windows of one view, got views \[0, 1\]"):
        dataset.__getitems__([0, 49])
    with pytest.raises(IndexError, match="below 50 windows"):
        dataset[50]
    with pytest.raises(ValueError, match="batch_size needs at least 1"):
        SequentialWindowSampler(dataset, 0)
    with pytest.raises(ValueError, match=r"rank needs to be in \[0, 2\), got 2"):
        SequentialWindowSampler(dataset, 4, num_replicas=2, rank=2)
    with pytest.raises(ValueError, match="3 batches cannot feed 9 processes"):
        SequentialWindowSampler(dataset, 100, num_replicas=9)
    with pytest.raises(ValueError, match=r"weights name recordings without windows: \['x'\]"):
        RandomWindowSampler(dataset, 4, weights={"x": 1.0})
    with pytest.raises(ValueError, match="weights need numbers >= 0 of which one is positive"):
        RandomWindowSampler(dataset, 4, weights={"a": 0.0})
    with pytest.raises(ValueError, match=r"position needs to be in \[0, 8\], got 9"):
        RandomWindowSampler(dataset, 8).load_state_dict({"epoch": 0, "position": 9})


def test_tensors_of_a_batch_do_not_share_the_all_true_mask(dataset: WindowDataset) -> None:
    one, two = collate(dataset.__getitems__([0])), collate(dataset.__getitems__([1]))
    one["masks"]["lfp"][:] = False
    assert two["masks"]["lfp"].all()
    assert np.asarray(dataset.__getitems__([0])["masks"]["lfp"]).all()


def test_without_torch_the_import_names_the_extra() -> None:
    code = "import sys; sys.modules['torch'] = None; import neuros_data.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: neuros_data.torch needs PyTorch" in done.stderr
    assert "neuros-data[torch]" in done.stderr
