"""What holds for every format: unknown ones, arguments, identities."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuros_data.reading import Identity, Options, read, read_exact


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "my file (1).npz"
    np.savez(found, lfp=np.arange(6.0)[:, None] * 1e-5, rate=2.0)
    return found


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("")
    with pytest.raises(ValueError, match=r"no known format. Known formats: EDF \(\.edf\), BDF"):
        read(path)
    with pytest.raises(ValueError, match=r"is a folder without object\.attribute\.npy files"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"b\.edf does not exist"):
        read(tmp_path / "b.edf")


@pytest.mark.parametrize(("name", "header"), [("a.eeg", "a.vhdr"), ("a.fdt", "a.set")])
def test_a_file_of_samples_names_its_header(tmp_path: Path, name: str, header: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"whose header is {header}; pass that file"):
        read(tmp_path / name)


def test_identities_come_from_the_name_unless_given(path: Path) -> None:
    plain = read(path)
    assert (plain.id, plain.subject, plain.session) == ("my-file--1-", "my file (1)", "1")
    assert plain.species == "other"
    named = read(path, subject="s", session="2", species="rat", recording_id="r")
    assert (named.id, named.subject, named.session, named.species) == ("r", "s", "2", "rat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "odour"}, "modality needs one of 'spike', .* got 'odour'"),
        ({"species": "cat"}, "species needs one of .* got 'cat'"),
        ({"rate": 0.0}, "rate needs a positive number of Hz, got 0.0"),
        ({"scale": 0.0}, "scale needs a finite number that is not 0"),
        ({"rate": 1.0, "times": "t"}, "pass rate= or times=, not both"),
        ({"atlas": "a.nii"}, "atlas= has no meaning for NPZ"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error(
    path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(path, **options)


def test_notes_are_warned_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, lfp=np.random.default_rng(0).normal(size=(50, 2)), rate=2.0)
    with pytest.warns(UserWarning, match=r"a\.npz: lfp: the median standard deviation .* doubtful"):
        found = read_exact(path, Options(unit="V"), Identity(subject="s"))
    assert found.recording.provenance["notes"] == list(found.notes)


def test_times_before_the_start_are_moved(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, lfp=np.arange(6.0)[:, None], time=np.array([-2.0, -1, 0, 1, 2, 4]))
    with pytest.warns(UserWarning, match="irregular"):
        lfp = read(path).modalities["lfp"]
    assert lfp.times.tolist() == [0, 1, 2, 3, 4, 6]


def test_importing_the_readers_loads_no_optional_package() -> None:
    code = "import sys, neuros_data.reading; print(*(n for n in sys.modules if '.' not in n))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    optional = {"torch", "mne", "pandas", "h5py", "scipy", "nibabel", "nilearn", "pynwb"}
    assert not optional & set(done.stdout.split())
