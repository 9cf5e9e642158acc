"""The command line: what it prints, what it saves, and its exit codes."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from neuros_data import Store, open_store
from neuros_data.cli import main


def test_sample_lists_and_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--modality", "emg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["emg_bursts", "emg", "1", "1000.0", "28.519"]
    assert main(["sample", str(tmp_path / "s"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is True
    assert len(content["recordings"]) == 13
    assert len(open_store(tmp_path / "s").recordings) == 12
    assert main(["sample", str(tmp_path / "s")]) == 2
    assert "needs an empty or absent folder" in capsys.readouterr().err


def test_split_saves_what_it_proves(ramp_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(ramp_store.path)
    words = ["--by", "time", "--ratios", "60", "20", "20", "--window", "0.5", "--n_blocks", "2"]
    assert main(["split", where, *words, "--name", "x"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("saved split 'x' in ")
    assert "train 60.0%  val 20.0%  test 20.0%  guard 0.5 s" in out
    assert open_store(where).split("x").verify().ok
    assert main(["split", where, "--guard", "0.25", "--json", "--recording", "ramp"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["name"], content["guard"], content["report"]["ok"]) == ("time", 0.25, True)


def test_check_reports_faults_with_exit_code_one(
    ramp_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(ramp_store.path)
    assert main(["check", where]) == 0
    assert capsys.readouterr().out == "1 recordings: 0 faults, 0 warnings\n"
    (ramp_store.path / "recordings" / ".b.partial").mkdir()
    assert main(["check", where, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["faults"][0]["kind"] == "partial"
    assert main(["check", where, "--quiet"]) == 1
    assert capsys.readouterr().out == ""
    assert main(["check", where, "--fix"]) == 0


def test_a_folder_that_is_no_store_is_a_data_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path), "--json"]) == 1
    found = capsys.readouterr()
    assert "manifest.json is missing" in found.err
    assert json.loads(found.out)["exit"] == 1


@pytest.mark.parametrize(
    "words",
    [
        ["unknown"],
        ["split"],
        ["sample", "--modality", "sound"],
        ["split", "STORE"],
        ["split", "STORE", "--guard", "wide"],
        ["split", "STORE", "--recording", "x", "--guard", "0"],
    ],
)
def test_usage_faults_end_with_two(
    words: list[str], ramp_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [w.replace("STORE", str(ramp_store.path)) for w in words]
    assert main(given) == 2
    assert capsys.readouterr().err
    assert main([*given, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["exit"], bool(found["error"])) == (False, 2, True)


def _full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_ends_with_four_and_leaves_nothing(
    existing: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "s"
    if existing:
        target.mkdir()
    monkeypatch.setattr("neuros_data.samples.flush_folder", _full)
    assert main(["sample", str(target)]) == 4
    assert "needs about 3.0 MB more" in capsys.readouterr().err
    assert target.exists() == existing
    assert not existing or list(target.iterdir()) == []


def test_other_system_errors_end_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("neuros_data.samples.flush_folder", broken)
    assert main(["sample", str(tmp_path / "s")]) == 1


def test_an_interrupt_ends_with_130(ramp_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuros_data._commands.check.check_store", interrupted)
    assert main(["check", str(ramp_store.path)]) == 130


@pytest.mark.slow  # starts two processes
def test_the_installed_command_runs() -> None:
    code = "import sys; from neuros_data.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("neuros-data, version")
    failed = subprocess.run([sys.executable, "-c", code, "x"], capture_output=True, check=False)
    assert failed.returncode == 2
