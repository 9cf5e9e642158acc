"""Connectomes by matrix, file and chance."""

import bz2
import importlib.util
import zipfile
from pathlib import Path

import pytest
import torch

from neuros_mechint.multiscale import load_connectome

WEIGHTS = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])


def written(path: Path, *, packed: bool, centres: bool = True, lengths: bool = True) -> Path:
    members = {"weights": "0 2 0\n1 0 3\n0 0 0\n"}
    if lengths:
        members["tract_lengths"] = "0 10 0\n20 0 30\n0 0 0\n"
    if centres:
        members["centres"] = "A 1 2 3 None\n B -1 0 2.5\nC 0 0 0\n\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            data = text.encode()
            if packed:
                archive.writestr(f"folder/{name}.txt.bz2", bz2.compress(data))
            else:
                archive.writestr(f"{name}.txt", data)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_zip_is_read_plain_and_packed(tmp_path: Path, packed: bool) -> None:
    found = load_connectome(written(tmp_path / "brain.zip", packed=packed))
    torch.testing.assert_close(found.weights, WEIGHTS.double())
    assert found.tract_lengths[1, 2] == 30
    assert found.labels == ("A", "B", "C")
    assert found.centres is not None
    assert found.centres[1].tolist() == [-1.0, 0.0, 2.5]


def test_a_zip_without_centres_has_numbered_regions(tmp_path: Path) -> None:
    found = load_connectome(str(written(tmp_path / "brain.zip", packed=False, centres=False)))
    assert found.centres is None
    assert found.labels == ("region_0", "region_1", "region_2")


def test_a_zip_without_lengths_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "brain.zip", packed=False, lengths=False)
    with pytest.raises(ValueError, match=r"brain\.zip holds no tract_lengths"):
        load_connectome(path)


def test_weights_are_normalised_by_their_maximum_or_by_rows() -> None:
    by_max = load_connectome((WEIGHTS, WEIGHTS), normalize="max").weights
    by_rows = load_connectome((WEIGHTS.numpy(), WEIGHTS.numpy()), normalize="rows").weights
    assert by_max.max() == 1
    # The last region receives nothing.
    assert by_rows.sum(1).tolist() == [1.0, 1.0, 0.0]


def test_a_random_connectome_is_symmetric_connected_and_repeatable() -> None:
    def drawn(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        found = load_connectome("random", n_regions=20, generator=generator)
        assert found.centres is not None
        straight = (found.centres[3] - found.centres[7]).norm()
        torch.testing.assert_close(found.tract_lengths[3, 7], straight)
        return found.weights

    weights = drawn(1)
    torch.testing.assert_close(weights, weights.mT)
    assert weights.diagonal().abs().max() == 0
    assert bool((torch.linalg.matrix_power((weights > 0).double(), 19).sum(1) > 0).all())
    assert torch.equal(weights, drawn(1))
    assert not torch.equal(weights, drawn(2))
    assert load_connectome("random", n_regions=2).weights.max() == 1


def test_what_is_no_connectome_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    square = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"weights must be square, \(2, 2\), got shape \(2, 3\)"):
        load_connectome((torch.ones(2, 3), square))
    with pytest.raises(ValueError, match="tract_lengths must be square"):
        load_connectome((square, torch.ones(3, 3)))
    with pytest.raises(ValueError, match="weights must be at least 0, got -1"):
        load_connectome((-square, square))
    with pytest.raises(ValueError, match="region_labels must name 2 regions, got 1"):
        load_connectome((square, square), region_labels=["A"])
    with pytest.raises(ValueError, match="region_labels repeat 'A'"):
        load_connectome((square, square), region_labels=["A", "A"])
    with pytest.raises(ValueError, match="normalize must be one of"):
        load_connectome((square, square), normalize="sum")
    with pytest.raises(ValueError, match=r"a zip file, .* got 'destrieux'"):
        load_connectome("destrieux")
    with pytest.raises(ValueError, match="n_regions >= 2, got None"):
        load_connectome("random")
    with pytest.raises(ValueError, match="belong to connectome='random'"):
        load_connectome((square, square), n_regions=2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"neuros-mechint\[tvb\]"):
        load_connectome("desikan")
