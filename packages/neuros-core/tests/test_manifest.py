"""A run manifest says what ran, survives JSON, and refuses a newer schema."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from neuros_core import RunManifest
from neuros_core.manifest import git_state


def test_a_manifest_survives_json() -> None:
    made = RunManifest.collect(kind="report", config={"a": [1, 2]}, seed=7, model_hash="ff")
    assert RunManifest.from_dict(json.loads(made.to_json())) == made


def test_a_manifest_records_the_versions_that_ran() -> None:
    versions = RunManifest.collect(kind="report").versions
    assert versions["numpy"] == np.__version__
    assert "neuros-core" in versions


def test_packages_that_are_not_installed_are_left_out() -> None:
    made = RunManifest.collect(kind="report", packages=["no-such-distribution"])
    assert list(made.versions) == ["python"]


def test_a_configuration_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        RunManifest.collect(kind="report", config={"f": object()})


def test_a_manifest_of_a_newer_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 99, the newest known here is 1"):
        RunManifest.from_dict({"schema": 99, "kind": "report"})


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_reports_its_commit_and_whether_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "a")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    monkeypatch.chdir(tmp_path)
    assert git_state() == commit
    (tmp_path / "a.txt").write_text("two")
    assert git_state() == f"{commit}+dirty"
    assert RunManifest.collect(kind="table").git == f"{commit}+dirty"


def test_outside_a_checkout_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() is None


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state() is None
