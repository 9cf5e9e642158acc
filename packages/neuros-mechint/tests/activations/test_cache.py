import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from neuros_mechint.activations import ActivationCache, Site, run


def make() -> ActivationCache:
    return ActivationCache(
        {
            "h.0": [torch.ones(2, 3)],
            "h.1": [torch.zeros(2, 3)],
            "cell": [torch.full((2,), float(k)) for k in range(3)],
            Site("h.0", index=(slice(None), 1)): [torch.tensor([4, 5])],
        }
    )


def test_a_cache_is_a_mapping_with_one_key_per_tensor() -> None:
    cache = make()
    assert [str(s) for s in cache] == ["h.0", "h.1", "cell@0", "cell@1", "cell@2", "h.0[:, 1]"]
    assert len(cache) == 6
    assert [t.shape for t in cache.values()][2:5] == [(2,)] * 3
    assert torch.equal(dict(cache)[Site("cell", call=2)], torch.full((2,), 2.0))


def test_membership_knows_sites_calls_and_texts() -> None:
    cache = make()
    assert "h.0" in cache
    assert "cell" in cache
    assert "cell@2" in cache
    assert "cell@3" not in cache
    assert "h.2" not in cache
    assert nn.ReLU() not in cache
    assert 3 not in cache


def test_a_site_that_was_not_captured_is_a_key_error_with_the_captured_ones() -> None:
    with pytest.raises(KeyError, match=r"site 'h.9' was not captured; captured: \['h.0', 'h.1'"):
        make()["h.9"]
    assert make().get("h.9") is None


def test_stacking_takes_matching_sites_in_order() -> None:
    stacked = make().stack("h.?")
    assert torch.equal(stacked, torch.stack([torch.ones(2, 3), torch.zeros(2, 3)]))
    assert make().stack("cell*").shape == (3, 2)


def test_stacking_refuses_different_shapes_and_no_match() -> None:
    with pytest.raises(ValueError, match="stack needs equal shapes"):
        make().stack()
    with pytest.raises(KeyError, match="no site matches 'x'"):
        make().stack("x")


def test_to_converts_floating_point_tensors_only() -> None:
    moved = make().to("cpu", torch.float16)
    assert moved["h.0"].dtype == torch.float16
    assert moved["h.0[:, 1]"].dtype == torch.int64
    assert list(moved) == list(make())


def test_to_keeps_modules_as_keys() -> None:
    net = nn.Sequential(nn.Identity())
    cache = run(net, torch.ones(2), capture=[net[0]]).cache
    assert torch.equal(cache.to(dtype=torch.float64)[net[0]], torch.ones(2).double())


def test_nbytes_counts_all_tensors() -> None:
    assert make().nbytes == (6 + 6 + 6) * 4 + 2 * 8


def test_the_repr_shows_sites_and_shapes() -> None:
    assert repr(ActivationCache({"a": [torch.ones(2, 3)]})) == "ActivationCache({'a': (2, 3)})"


def test_saving_and_loading_gives_the_same_cache(tmp_path) -> None:
    path = tmp_path / "cache.safetensors"
    cache = make()
    cache.save(path)
    loaded = ActivationCache.load(path)
    assert list(loaded) == list(cache)
    for site in cache:
        assert torch.equal(loaded[site], cache[site])
        assert loaded[site].dtype == cache[site].dtype
    assert len(loaded.calls("cell")) == 3


def test_views_of_one_tensor_and_gradients_are_saved(tmp_path) -> None:
    x = torch.arange(6.0).requires_grad_()
    ActivationCache({"a": [x[:3]], "b": [x.reshape(2, 3).mT]}).save(tmp_path / "c")
    loaded = ActivationCache.load(tmp_path / "c")
    assert torch.equal(loaded["a"], torch.arange(3.0))
    assert torch.equal(loaded["b"], torch.arange(6.0).reshape(2, 3).mT)


def test_a_saved_cache_carries_a_run_manifest(tmp_path) -> None:
    make().save(tmp_path / "c")
    with safe_open(tmp_path / "c", framework="pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    assert manifest["kind"] == "activations"
    assert manifest["versions"]["torch"] == torch.__version__


def test_a_damaged_file_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "cache.safetensors"
    make().save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"cache\.safetensors is not a whole activation cache"):
        ActivationCache.load(path)


def test_a_file_of_another_kind_is_refused(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="other is not a whole activation cache"):
        ActivationCache.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no activation cache at"):
        ActivationCache.load(tmp_path / "missing")
