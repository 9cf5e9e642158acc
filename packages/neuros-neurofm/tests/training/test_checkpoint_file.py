import resource
import signal
import sys
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from neuros_neurofm.training._checkpoint_file import SCHEMA, read_checkpoint, write_checkpoint

CONTENT: dict[str, Any] = {
    "weights": OrderedDict(a=torch.arange(1000.0), b=torch.ones(2, dtype=torch.bfloat16)),
    "plain": [1, 2.5, "three", None, True, b"x", (4, 5)],
    "milestones": Counter([3, 3, 7]),
}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "run.ckpt"
    write_checkpoint(path, CONTENT)
    read = read_checkpoint(path)
    assert read["plain"] == CONTENT["plain"]
    assert read["milestones"] == CONTENT["milestones"]
    assert all(torch.equal(read["weights"][key], x) for key, x in CONTENT["weights"].items())
    assert [file.name for file in path.parent.iterdir()] == ["run.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "run.ckpt"
    write_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"run\.ckpt is truncated, damaged or not safe to load"):
        read_checkpoint(path)


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    write_checkpoint(path, CONTENT)
    raw = bytearray(path.read_bytes())
    where = raw.index(torch.arange(1000.0)[500:504].numpy().tobytes())
    raw[where] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"run\.ckpt is truncated, damaged .* checksum of"):
        read_checkpoint(path)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code ran",))


def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.ckpt"
    torch.save({"kind": Evil()}, path)
    with pytest.raises(ValueError, match="not safe to load"):
        read_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    write_checkpoint(path, {"schema": SCHEMA + 1})
    with pytest.raises(ValueError, match=rf"has schema {SCHEMA + 1}, the newest .* {SCHEMA}; upgr"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{"kind": "something else"}, [1, 2]])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "run.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match="is not a neuros-neurofm checkpoint"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_what_could_not_be_loaded_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    write_checkpoint(path, CONTENT)
    with pytest.raises(TypeError, match=r"got complex at \['a'\]\[0\]"):
        write_checkpoint(path, {"a": [1j]})
    assert read_checkpoint(path)["plain"] == CONTENT["plain"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [100, 100_000])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "run.ckpt"
    write_checkpoint(path, CONTENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"could not write .*run\.ckpt.* before is unchanged"):
            write_checkpoint(path, {"large": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert read_checkpoint(path)["plain"] == CONTENT["plain"]
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    path.mkdir()
    with pytest.raises(OSError, match="could not write the checkpoint"):
        write_checkpoint(path, CONTENT)
    assert path.is_dir()
