"""Optional packages are named when they are missing."""

import sys
from pathlib import Path

import pytest

from neuros_data._extras import need


def test_a_package_that_is_there_is_imported() -> None:
    assert need("json.decoder", "eeg", "reading JSON").__name__ == "json.decoder"


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    message = r"reading GDF needs absent_reader; pip install 'neuros-data\[eeg\]'"
    with pytest.raises(ImportError, match=message) as caught:
        need("absent_reader.io", "eeg", "reading GDF")
    assert caught.value.name == "absent_reader"


def test_a_package_that_is_there_and_broken_says_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_reader.py").write_text("import what_it_needs")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="No module named 'what_it_needs'"):
        need("broken_reader", "eeg", "reading GDF")
