"""What a source is, and how sources are found."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from neuros_core import Recording, Signal, Species
from neuros_data.acquisition import source as module
from neuros_data.acquisition._clock import last_second, put_on_clock
from neuros_data.acquisition.allen_2p import Allen2P
from neuros_data.acquisition.allen_neuropixels import AllenNeuropixels
from neuros_data.acquisition.ibl import Ibl
from neuros_data.acquisition.source import Prepared, SessionInfo, Source, sources

HOME = "neuros_data.acquisition"


def _offer(monkeypatch: pytest.MonkeyPatch, **offered: str) -> None:
    """Pretend that a package offers these."""
    found = EntryPoints(
        EntryPoint(n.replace("_", "-"), v, module.GROUP) for n, v in offered.items()
    )
    monkeypatch.setattr(module, "entry_points", lambda group: found.select(group=group))


def test_sources_are_found_by_entry_point_and_sorted_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _offer(
        monkeypatch,
        ibl=f"{HOME}.ibl:Ibl",
        allen_neuropixels=f"{HOME}.allen_neuropixels:AllenNeuropixels",
        allen_2p=f"{HOME}.allen_2p:Allen2P",
    )
    found = sources()
    assert list(found) == ["allen-2p", "allen-neuropixels", "ibl"]
    assert [found[name].name for name in found] == list(found)


def test_what_is_no_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, made="pathlib:Path")
    with pytest.raises(TypeError, match=r"made = pathlib:Path needs a neuros_data Source"):
        sources()


def test_two_packages_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = EntryPoints(
        EntryPoint("ibl", value, module.GROUP) for value in (f"{HOME}.ibl:Ibl", "other:Ibl")
    )
    monkeypatch.setattr(module, "entry_points", lambda group: twice.select(group=group))
    with pytest.raises(ValueError, match="two packages offer the source 'ibl', the second as oth"):
        sources()


@pytest.mark.parametrize("kind", [Ibl, Allen2P, AllenNeuropixels])
def test_every_archive_says_what_it_is(kind: type) -> None:
    source = kind()
    assert isinstance(source, Source)
    assert source.species in list(Species)
    for text in (source.name, source.modality, source.licence, source.citation, source.size):
        assert text
    assert "doi:10." in source.citation


def test_a_session_needs_an_id() -> None:
    with pytest.raises(ValueError, match="subject 'a' needs a non-empty id"):
        SessionInfo("", "a", "1")


def test_support_is_not_negative() -> None:
    lfp = Signal(np.zeros((2, 1)), rate=1.0)
    recording = Recording("r", "s", "1", Species.MOUSE, {"lfp": lfp})
    with pytest.raises(ValueError, match="support needs seconds >= 0, got -1"):
        Prepared(recording, support=-1.0)


@dataclass(frozen=True)
class _Case:
    times: list[float]
    note: str | None
    rate: float | None = None


@pytest.mark.parametrize(
    "case",
    [
        _Case([0.0, 0.1, 0.2, 0.3], None, 10.0),
        _Case([5.0, 5.1, np.nan, 5.3], "1 samples without a time", None),
        _Case([0.0, 0.1, 0.2], "4 samples but 3 times"),
        _Case([0.0, 0.2, 0.1, 0.3], "samples or more in order"),
        _Case([0.0, 0.1, 0.2, 5.0], "largest gap is 4.8 s at 0.2 s", None),
        _Case([1.0, 1.0, 1.0, 1.0], "irregular", None),
    ],
)
def test_time_stamps_become_a_rate_only_when_they_are_regular(case: _Case) -> None:
    signal, notes = put_on_clock(
        np.array(case.times), np.arange(4.0), name="x", unit="V", channels=["x"]
    )
    assert (case.note is None) == (notes == ())
    assert case.note is None or any(case.note in note for note in notes)
    if signal is not None:
        assert signal.rate == case.rate


def test_slow_drift_is_not_a_regular_clock() -> None:
    # Steps differ by less than 1 %, but after 2000 samples the rate is wrong by many samples.
    steps = np.where(np.arange(2000) < 1000, 0.01, 0.01009)
    signal, _ = put_on_clock(np.cumsum(steps), np.zeros(2000), name="x", unit="V", channels=["x"])
    assert signal is not None
    assert signal.rate is None


def test_the_last_second_is_that_of_the_latest_part() -> None:
    regular = Signal(np.zeros((10, 1)), rate=10.0, start=2.0)
    assert last_second([regular, Signal(np.zeros((2, 1)), times=np.array([0.0, 1.0]))]) == 3.0
    assert last_second([]) == 0.0


def test_a_source_loads_no_heavy_library_until_it_reads() -> None:
    script = (
        "import sys\n"
        "import neuros_data.acquisition.ibl, neuros_data.acquisition.allen_2p\n"
        "import neuros_data.acquisition.allen_neuropixels\n"
        "heavy = {'torch', 'mne', 'pandas', 'pyarrow', 'h5py', 'pynwb', 'scipy', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
