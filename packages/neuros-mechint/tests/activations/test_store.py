import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from neuros_mechint import ActivationStore
from neuros_mechint.activations import run


def make_model(width: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Tanh(), nn.Linear(width, 2))


def make_data(n: int = 7, rows: int = 4, time: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, time, 3, generator=generator) for _ in range(n)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the manifest, which holds the time of the run."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


def expected(model: nn.Module, data: list[Tensor], site: str) -> Tensor:
    model.eval()
    with torch.no_grad():
        rows = [run(model, x, capture=[site]).cache[site].flatten(0, -2) for x in data]
    return torch.cat(rows)


@pytest.mark.parametrize(
    ("shard_size", "batch_size"), [(3, 5), (10, 12), (12, 84), (84, 1), (1000, 200)]
)
def test_what_is_read_is_what_the_model_made(
    tmp_path: Path, shard_size: int, batch_size: int
) -> None:
    model, data = make_model(), make_data()
    store = ActivationStore.collect(
        model, data, ["2", "3:in", "3"], tmp_path, shard_size=shard_size
    )
    assert len(store) == 7 * 4 * 3
    assert store.sites == ("2", "3:in", "3")
    assert store.shape("3") == (84, 2)
    batches = list(store.batches(batch_size))
    assert all(set(batch) == set(store.sites) for batch in batches)
    assert {len(batch["2"]) for batch in batches[:-1]} <= {batch_size}
    for site in store.sites:
        found = torch.cat([batch[site] for batch in batches])
        assert torch.equal(found, expected(model, data, site))


def test_all_sites_come_from_one_forward_per_batch(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = make_model()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layers(x)

    model = Counting()
    ActivationStore.collect(model, make_data(), ["layers.0", "layers.2"], tmp_path)
    assert model.calls == 7


def test_shards_are_safetensors_files(tmp_path: Path) -> None:
    model, data = make_model(), make_data()
    ActivationStore.collect(model, data, "2", tmp_path, shard_size=50)
    parts = [load_file(tmp_path / f"shard-0000{k}.0.safetensors") for k in range(2)]
    rows = torch.cat([part["rows"] for part in parts])
    assert torch.equal(rows, expected(model, data, "2"))
    torch.testing.assert_close(parts[0]["mean"], rows[:50].double().mean(0), rtol=0, atol=1e-12)


@settings(max_examples=12, derandomize=True, deadline=None)
@given(
    offset=st.sampled_from([0.0, 1.0, -1e4, 1e8]),
    rows=st.integers(2, 40),
    shard_size=st.integers(1, 50),
)
def test_mean_and_deviation_are_those_of_all_rows(
    tmp_path_factory: pytest.TempPathFactory, offset: float, rows: int, shard_size: int
) -> None:
    generator = torch.Generator().manual_seed(rows)
    data = [torch.randn(rows, 4, generator=generator, dtype=torch.float64) + offset] * 2
    data[1] = data[1] * 3
    path = tmp_path_factory.mktemp("store")
    store = ActivationStore.collect(nn.Identity(), data, "", path, shard_size=shard_size)
    together = torch.cat(data)
    torch.testing.assert_close(store.mean(), together.mean(0), rtol=1e-12, atol=1e-12)
    # 6 of 16 digits may go to the mean: 1e-9 of the deviation stays.
    torch.testing.assert_close(store.std(), together.std(0), rtol=1e-9, atol=0)
    population = together.std(0, correction=0)
    torch.testing.assert_close(store.std("", correction=0), population, rtol=1e-9, atol=0)


def test_a_constant_column_has_no_deviation(tmp_path: Path) -> None:
    store = ActivationStore.collect(nn.Identity(), [torch.full((9, 2), 0.1)], "", tmp_path)
    assert store.std().tolist() == [0.0, 0.0]


def test_the_deviation_of_one_row_is_refused(tmp_path: Path) -> None:
    store = ActivationStore.collect(nn.Identity(), [torch.ones(1, 2)], "", tmp_path)
    assert store.std(correction=0).tolist() == [0.0, 0.0]
    with pytest.raises(
        ValueError, match="std needs more than correction = 1 rows, the store has 1"
    ):
        store.std()


class DiesError(Exception):
    """What ends a run halfway."""


def until(data: list[Tensor], n: int) -> Iterator[Tensor]:
    yield from data[:n]
    raise DiesError


@pytest.mark.parametrize(
    ("shard_size", "ends"), [(5, [1]), (12, [6]), (24, [2, 3, 5]), (30, [0, 4])]
)
def test_an_interrupted_run_ends_with_the_same_bytes(
    tmp_path: Path, shard_size: int, ends: list[int]
) -> None:
    model, data = make_model(), make_data()
    sites = ["2", "3"]
    whole = ActivationStore.collect(model, data, sites, tmp_path / "a", shard_size=shard_size)
    for end in ends:
        with pytest.raises(DiesError):
            ActivationStore.collect(
                model, until(data, end), sites, tmp_path / "b", shard_size=shard_size
            )
        if end:
            with pytest.raises(ValueError, match="is not complete: call"):
                ActivationStore.open(tmp_path / "b")
    resumed = ActivationStore.collect(model, data, sites, tmp_path / "b", shard_size=shard_size)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert whole.manifest.data_hash == resumed.manifest.data_hash is not None


def test_a_resumed_run_computes_only_what_is_missing(tmp_path: Path) -> None:
    model, data = make_model(), make_data()
    calls: list[int] = []
    model[0].register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(DiesError):
        ActivationStore.collect(model, until(data, 5), "2", tmp_path, shard_size=12)
    assert len(calls) == 5
    ActivationStore.collect(model, data, "2", tmp_path, shard_size=12)
    assert len(calls) == 7
    ActivationStore.collect(model, until(data, 0), "2", tmp_path, shard_size=12)
    assert len(calls) == 7


@pytest.mark.slow  # starts two interpreters that import torch
def test_a_killed_process_leaves_a_store_that_can_be_finished(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, signal, sys
        import torch
        from neuros_mechint import ActivationStore

        def data(n):
            for k in range(20):
                if k == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield torch.full((5, 3), float(k))

        ActivationStore.collect(
            torch.nn.Tanh(), data(int(sys.argv[2])), "", sys.argv[1], shard_size=7
        )
    """)

    def call(folder: str, n: int) -> int:
        command = [sys.executable, "-c", program, str(tmp_path / folder), str(n)]
        return subprocess.run(command, check=False).returncode

    assert call("killed", 13) == -9
    assert (tmp_path / "killed" / ".shard-00009.0.safetensors.tmp").exists()
    whole = [torch.full((5, 3), float(k)) for k in range(20)]
    for folder in ("killed", "whole"):
        ActivationStore.collect(nn.Tanh(), whole, "", tmp_path / folder, shard_size=7)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def damage(path: Path, kind: str) -> None:
    raw = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
        return
    if kind == "truncated":
        raw = raw[:-4]
    elif kind == "longer":
        raw += b"\0\0\0\0"
    elif kind == "flipped":
        raw[-7] ^= 1
    elif kind == "moments":
        raw[515] ^= 1
    elif kind == "header":
        raw[20] ^= 1
    else:  # two rows of 20 bytes exchanged
        raw[-40:-20], raw[-20:] = raw[-20:], raw[-40:-20]
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "shard shard-00001.0.safetensors is missing, it was written with"),
        ("truncated", "shard shard-00001.0.safetensors has 988 bytes, it was written with 992"),
        ("longer", "shard shard-00001.0.safetensors has 996 bytes, it was written with 992"),
    ],
)
def test_opening_tells_a_shard_of_another_length(tmp_path: Path, kind: str, message: str) -> None:
    ActivationStore.collect(make_model(), make_data(), "2", tmp_path, shard_size=20)
    damage(tmp_path / "shard-00001.0.safetensors", kind)
    with pytest.raises(ValueError, match=message):
        ActivationStore.open(tmp_path)


@pytest.mark.parametrize("kind", ["flipped", "moments", "header", "exchanged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_corrupt_shard_is_told_by_name(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    model, data = make_model(10 if dtype == torch.float16 else 5), make_data()
    ActivationStore.collect(model, data, "2", tmp_path, shard_size=20, dtype=dtype)
    before = contents(tmp_path)
    damage(tmp_path / "shard-00001.0.safetensors", kind)
    store = ActivationStore.open(tmp_path)
    message = "shard shard-00001.0.safetensors is corrupt: its checksum is"
    with pytest.raises(ValueError, match=message):
        store.verify()
    if kind in {"flipped", "exchanged"}:
        generator = torch.Generator().manual_seed(0)
        with pytest.raises(ValueError, match=message):
            list(store.batches(8))
        with pytest.raises(ValueError, match=message):
            list(store.batches(8, shuffle=True, generator=generator))
    else:
        with pytest.raises(ValueError, match=message):
            store.mean()
    # Collecting again writes it anew, with the shards after it.
    ActivationStore.collect(model, data, "2", tmp_path, shard_size=20, dtype=dtype).verify()
    assert contents(tmp_path) == before


def test_a_file_cut_while_the_store_is_open_is_told(tmp_path: Path) -> None:
    store = ActivationStore.collect(make_model(), make_data(), "2", tmp_path, shard_size=20)
    damage(tmp_path / "shard-00003.0.safetensors", "truncated")
    with pytest.raises(ValueError, match=r"shard-00003.0.safetensors has .* bytes"):
        list(store.batches(8))


@pytest.mark.parametrize("shard_size", [7, 40, 100])
@pytest.mark.parametrize("batch_size", [9, 40, 100])
def test_shuffled_reading_gives_every_row_once(
    tmp_path: Path, shard_size: int, batch_size: int
) -> None:
    data = [torch.arange(84.0).reshape(4, 7, 3, 1).expand(4, 7, 3, 2)]
    store = ActivationStore.collect(
        nn.Sequential(nn.Identity(), nn.Tanh()), data, ["0", "1"], tmp_path, shard_size=shard_size
    )
    generator = torch.Generator().manual_seed(0)
    batches = list(store.batches(batch_size, shuffle=True, generator=generator))
    assert [len(b["0"]) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    rows = torch.cat([b["0"] for b in batches])
    assert torch.equal(rows[:, 0].sort().values, torch.arange(84.0))
    assert not torch.equal(rows[:, 0], torch.arange(84.0))
    assert torch.equal(torch.cat([b["1"] for b in batches]), rows.tanh())


def test_the_generator_decides_the_order(tmp_path: Path) -> None:
    store = ActivationStore.collect(nn.Identity(), [torch.arange(99.0)[:, None]], "", tmp_path)

    def order(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([b[""] for b in store.batches(10, shuffle=True, generator=generator)])

    assert torch.equal(order(3), order(3))
    assert not torch.equal(order(3), order(4))


def test_a_store_of_one_shard_is_shuffled_uniformly(tmp_path: Path) -> None:
    data = [torch.arange(4.0)[:, None]]
    store = ActivationStore.collect(nn.Identity(), data, "", tmp_path)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4, 4)
    n = 400
    for _ in range(n):
        (batch,) = store.batches(4, shuffle=True, generator=generator)
        counts[torch.arange(4), batch[""][:, 0].long()] += 1
    # Chi-square over the 16 cells has at most 9 degrees of freedom: P(> 48) < 1e-6.
    assert ((counts - n / 4).square() / (n / 4)).sum() < 48


def test_a_batch_mixes_rows_of_many_shards(tmp_path: Path) -> None:
    # 4096 float32 in a row: a run of 64 KiB is four rows.
    data = [torch.arange(64.0)[:, None].expand(64, 4096)]
    store = ActivationStore.collect(nn.Identity(), data, "", tmp_path, shard_size=32)
    generator = torch.Generator().manual_seed(0)
    first = next(store.batches(32, shuffle=True, generator=generator))[""][:, 0]
    assert (first < 32).any()
    assert (first >= 32).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_data_type_on_disk_can_be_chosen(tmp_path: Path, dtype: torch.dtype) -> None:
    model, data = make_model(3), make_data()
    store = ActivationStore.collect(model, data, "2", tmp_path, shard_size=30, dtype=dtype)
    found = torch.cat([batch["2"] for batch in store.batches(9)])
    assert torch.equal(found, expected(model, data, "2").to(dtype))
    assert store.mean().dtype == torch.float64
    store.verify()


def test_integers_keep_their_type(tmp_path: Path) -> None:
    data = [torch.arange(6).reshape(2, 3)]
    store = ActivationStore.collect(nn.Identity(), data, "", tmp_path, dtype=torch.float16)
    assert next(store.batches(2))[""].dtype == torch.int64
    assert store.mean().tolist() == [1.5, 2.5, 3.5]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ActivationStore.collect(model, [torch.ones(4, 3)], "2", tmp_path)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_may_be_tuples_lists_or_keyword_arguments(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return x * scale

    x, scale = torch.ones(2, 3), torch.full((2, 1), 4.0)
    batches = {"tuple": (x, scale), "list": [x, scale], "dict": {"scale": scale, "x": x}}
    for name, batch in batches.items():
        store = ActivationStore.collect(Scaled(), [batch], "", tmp_path / name)
        assert store.mean().tolist() == [4.0, 4.0, 4.0]


def test_sites_are_named_as_text_or_as_modules_of_the_model(tmp_path: Path) -> None:
    model = make_model()
    store = ActivationStore.collect(model, make_data(), [model[2], "2:out"], tmp_path)
    assert store.sites == ("2",)
    assert store.shape() == (84, 5)
    with pytest.raises(TypeError, match="a store knows sites by name, not by module"):
        store.mean(model[2])


def test_one_site_may_be_asked_for(tmp_path: Path) -> None:
    store = ActivationStore.collect(make_model(), make_data(), ["2", "3"], tmp_path)
    assert set(next(store.batches(3, sites="3"))) == {"3"}
    assert set(next(store.batches(3, sites=["3"]))) == {"3"}
    with pytest.raises(KeyError, match=r"site '1' is not stored; stored: \['2', '3'\]"):
        store.batches(3, sites="1")
    with pytest.raises(ValueError, match="the store holds several sites, name one of"):
        store.shape()


def test_what_is_read_can_be_changed_without_touching_the_file(tmp_path: Path) -> None:
    store = ActivationStore.collect(nn.Identity(), [torch.ones(4, 2)], "", tmp_path)
    next(store.batches(4))[""].zero_()
    assert next(store.batches(4))[""].sum() == 8


def test_reading_needs_a_batch_size_and_a_generator(tmp_path: Path) -> None:
    store = ActivationStore.collect(nn.Identity(), [torch.ones(4, 2)], "", tmp_path)
    with pytest.raises(ValueError, match="batch_size needs at least 1, got 0"):
        store.batches(0)
    with pytest.raises(ValueError, match="shuffle=True needs generator="):
        store.batches(2, shuffle=True)


def test_a_store_has_a_manifest_and_a_repr(tmp_path: Path) -> None:
    store = ActivationStore.collect(nn.Linear(2, 3), [torch.ones(4, 2)], "", tmp_path)
    assert store.manifest.kind == "activation-store"
    assert store.manifest.config["sites"] == [""]
    assert store.manifest.model_hash is not None
    assert repr(store) == f"ActivationStore({str(tmp_path)!r}, 4 rows, sites=[''])"
    assert ActivationStore.open(tmp_path).shape() == (4, 3)


def test_resuming_with_another_model_setting_or_data_is_refused(tmp_path: Path) -> None:
    model, data = make_model(), make_data()
    with pytest.raises(DiesError):
        ActivationStore.collect(model, until(data, 6), "2", tmp_path, shard_size=12)

    def refuse(message: str, *args: object, **kwargs: object) -> None:
        with pytest.raises(ValueError, match=message):
            ActivationStore.collect(*args, tmp_path, **{"shard_size": 12, **kwargs})

    refuse("holds a store; take resume=True", model, data, "2", resume=False)
    refuse(r"made with sites \('2',\) instead of \('3',\)", model, data, "3")
    refuse("made with shard_size 12 instead of 13", model, data, "2", shard_size=13)
    refuse("made with dtype None instead of 'float16'", model, data, "2", dtype=torch.float16)
    refuse("begun with other data: the first 6 batches", model, data[::-1], "2")
    refuse("begun with other data: the first 6 batches", model, data[:3], "2")
    with torch.no_grad():
        model[0].bias.add_(1)
    refuse("made with model_hash", model, data, "2")


def test_unusable_activations_are_refused(tmp_path: Path) -> None:
    x = torch.ones(4, 2)

    def refuse(message: str, model: nn.Module, data: list[Tensor], sites: object = "") -> None:
        with pytest.raises(ValueError, match=message):
            ActivationStore.collect(model, data, sites, tmp_path / str(len(message)))
        assert not list(tmp_path.glob("*/*.tmp"))

    refuse("collect needs at least one site, got none", nn.Identity(), [x], [])
    refuse("the dataloader gave no rows", nn.Identity(), [])
    refuse(r"site '' gave torch.float32 of shape \(4,\); a store needs", nn.Identity(), [x[:, 0]])
    refuse("gave torch.complex64 of shape", nn.Identity(), [x * 1j])
    refuse(
        "site '', batch 1: the activations hold NaN or infinity",
        nn.Identity(),
        [x, x / 0],
    )
    refuse(r"batch 1 gave widths \(3,\) and dtypes", nn.Identity(), [x, torch.ones(4, 3)])
    pooled = nn.Sequential(nn.Identity(), nn.Flatten())
    refuse(
        r"all sites of a store need the same number of rows, batch 0 gave {'0': 6, '1': 2}",
        pooled,
        [torch.ones(2, 3, 4)],
        ["0", "1"],
    )
    shared = nn.Identity()
    refuse("reached 2 times", nn.Sequential(shared, shared), [x], "0")


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    data = [torch.full((2, 2), 1e6)]
    with pytest.raises(ValueError, match="shard_size needs at least 1 row, got 0"):
        ActivationStore.collect(nn.Identity(), data, "", tmp_path, shard_size=0)
    with pytest.raises(ValueError, match=r"dtype needs None or one of .* got torch.int32"):
        ActivationStore.collect(nn.Identity(), data, "", tmp_path, dtype=torch.int32)
    with pytest.raises(KeyError, match="no module 'x'"):
        ActivationStore.collect(nn.Identity(), data, "x", tmp_path)
    message = "batch 0 after conversion to torch.float16: the activations hold NaN or infinity"
    with pytest.raises(ValueError, match=message):
        ActivationStore.collect(nn.Identity(), data, "", tmp_path, dtype=torch.float16)


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no activation store at"):
        ActivationStore.open(tmp_path)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(ValueError, match="is not the index of an activation store"):
        ActivationStore.open(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"schema": 2}))
    with pytest.raises(ValueError, match="has schema 2, the newest known here is 1; upgrade"):
        ActivationStore.open(tmp_path)


@pytest.mark.slow  # starts an interpreter that imports torch
def test_collecting_and_reading_need_the_memory_of_two_shards(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import resource, sys
        import torch
        from neuros_mechint import ActivationStore

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        def collect(n, name):
            data = (torch.full((1024, 256), float(k)) for k in range(n))
            path = f"{sys.argv[1]}/{name}"
            store = ActivationStore.collect(
                torch.nn.Identity(), data, "", path, shard_size=16 * 1024
            )
            generator = torch.Generator().manual_seed(0)
            list(map(len, store.batches(1024, shuffle=True, generator=generator)))

        collect(2, "warm")
        before = peak()
        collect(64, "large")
        print((peak() - before) / (16 * 1024 * 1024))
    """)
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # Four shards of 16 MiB.
    assert float(done.stdout) < 2.2
