"""The motor imagery archive: its list of checksums, EDF+ files of its layout, trials by run."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest

from neuros_core import Intervals, Signal
from neuros_data import Store
from neuros_data.acquisition.physionet import Eegmmidb, EegmmidbSettings, standard_name
from neuros_data.acquisition.source import SessionInfo, Source
from neuros_data.errors import ChecksumError, NetworkError
from neuros_data.preprocessing import Bandpass
from neuros_data.transfer import TransferSettings

NAMES = ("Fc5.", "C3..", "Cz..", "C4..", "Fp1.", "Afz.", "Oz..", "T10.")
RATE = 160
SECONDS = 30


def _microvolts() -> np.ndarray:
    """An alpha wave with hum, drift and an offset, all different by channel, (time, channel)."""
    t = np.arange(SECONDS * RATE) / RATE
    gain = 1 + np.arange(len(NAMES))
    alpha = np.sin(2 * np.pi * 10 * t)[:, None] * gain
    hum = 5 * np.sin(2 * np.pi * 60 * t)[:, None] * gain
    noise = np.random.default_rng(0).normal(size=alpha.shape)
    return 20 * alpha + hum + noise + 3 * gain + 0.2 * t[:, None]


def _write(path: Path, codes: tuple[str, ...] = ("T0", "T1", "T0", "T2"), dead: int = -1) -> bytes:
    data = _microvolts()
    if dead >= 0:
        data[:, dead] = 0.0
    signals = [
        edfio.EdfSignal(
            column,
            RATE,
            label=name,
            physical_dimension="uV",
            physical_range=(-8092, 8092),
            digital_range=(-8092, 8092),
        )
        for name, column in zip(NAMES, data.T, strict=True)
    ]
    step = SECONDS / max(len(codes), 1)
    marks = [edfio.EdfAnnotation(i * step, step, code) for i, code in enumerate(codes)]
    edfio.Edf(signals, annotations=marks).write(path)
    return path.read_bytes()


@pytest.fixture
def server(archive: Any, tmp_path: Path) -> Callable[..., Any]:
    """A server with five runs of three subjects, one of them excluded by default."""

    def fill(**options: Any) -> Any:
        body = _write(tmp_path / "made.edf", **options)
        paths = [f"S{s:03d}/S{s:03d}R{r:02d}.edf" for s, r in ((2, 4), (1, 4), (1, 1), (1, 6))]
        paths.append("S088/S088R04.edf")
        digest = hashlib.sha256(body).hexdigest()
        lines = [f"{digest} {path}" for path in paths]
        lines += [f"{digest} {paths[0]}.event", f"{digest} 64_channel_sharbrough.png", ""]
        archive.answers = {f"/eeg/{path}": body for path in paths}
        archive.answers["/eeg/SHA256SUMS.txt"] = "\n".join(lines).encode()
        return archive

    return fill


def _source(server: Any, **settings: Any) -> Eegmmidb:
    return Eegmmidb(EegmmidbSettings(base_url=f"{server.url}/eeg/", mirrors=(), **settings))


@pytest.fixture
def prepare(
    server: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> Callable[..., Any]:
    """Download and prepare one run."""

    def run(name: str = "S001R04", file: dict[str, Any] | None = None, **settings: Any) -> Any:
        source = _source(server(**(file or {})), **settings)
        session = next(s for s in source.list(transfer) if s.id == name)
        return source.prepare(session, fetch(source, session), source.settings)

    return run


def test_runs_are_listed_by_id_and_the_damaged_subjects_are_not(
    server: Callable[..., Any], transfer: TransferSettings
) -> None:
    found = _source(server()).list(transfer)
    assert [s.id for s in found] == ["S001R01", "S001R04", "S001R06", "S002R04"]
    assert (found[1].subject, found[1].session, found[1].meta["run"]) == ("S001", "R04", 4)
    everyone = _source(server(), exclude=(), runs=(4,)).list(transfer)
    assert [s.id for s in everyone] == ["S001R04", "S002R04", "S088R04"]
    assert EegmmidbSettings().exclude == (88, 92, 100, 104)


def test_the_servers_checksum_goes_with_the_file(
    server: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    archive = server()
    source = _source(archive)
    session = source.list(transfer)[0]
    (file,) = source.files(session)
    assert file.sha256 == hashlib.sha256(archive.answers["/eeg/S001/S001R01.edf"]).hexdigest()
    archive.answers["/eeg/S001/S001R01.edf"] = b"damaged"
    with pytest.raises(ChecksumError, match="S001R01"):
        fetch(source, session)


def test_a_mirror_is_asked_when_the_server_has_no_file(
    server: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    archive = server()
    archive.answers = {
        path.replace("/eeg/S", "/copy/S") if "edf" in path else path: body
        for path, body in archive.answers.items()
    }
    settings = EegmmidbSettings(base_url=f"{archive.url}/eeg", mirrors=(f"{archive.url}/copy",))
    source = Eegmmidb(settings)
    archive.answers["/eeg/SHA256SUMS.txt"] = archive.answers.pop(
        "/copy/SHA256SUMS.txt", archive.answers.get("/eeg/SHA256SUMS.txt")
    )
    session = source.list(transfer)[0]
    assert (fetch(source, session) / "S001R01.edf").exists()


def test_the_signal_is_filtered_and_referenced_and_keeps_its_rate(
    prepare: Callable[..., Any],
) -> None:
    prepared = prepare()
    eeg = prepared.recording.modalities["eeg"]
    assert isinstance(eeg, Signal)
    assert (eeg.rate, eeg.unit) == (160.0, "V")
    assert eeg.channels == ("FC5", "C3", "Cz", "C4", "Fp1", "AFz", "Oz", "T10")
    np.testing.assert_allclose(eeg.data.mean(axis=1), 0.0, atol=1e-12)
    t = np.arange(SECONDS * RATE) / RATE
    gain = 1 + np.arange(len(NAMES))
    expected = 20e-6 * np.sin(2 * np.pi * 10 * t)[:, None] * (gain - gain.mean())
    middle = slice(8 * RATE, 22 * RATE)
    assert np.abs(eeg.data[middle] - expected[middle]).max() < 6e-6
    spectrum = np.abs(np.fft.rfft(eeg.data[middle, 0]))
    at = np.arange(len(spectrum)) * RATE / (14 * RATE)
    assert spectrum[np.abs(at - 60) < 0.1].max() < 0.02 * spectrum[np.abs(at - 10) < 0.1].max()


def test_unfiltered_samples_are_those_of_the_file(prepare: Callable[..., Any]) -> None:
    prepared = prepare(line=None, low=None, high=None, average_reference=False, montage="")
    eeg = prepared.recording.modalities["eeg"]
    np.testing.assert_allclose(eeg.data, np.round(_microvolts()) * 1e-6, atol=0.51e-6)
    assert prepared.support == 0.0
    assert prepared.recording.provenance["steps"] == []
    assert "channel_positions" not in prepared.recording.provenance


def test_the_support_is_that_of_all_filters(prepare: Callable[..., Any]) -> None:
    prepared = prepare()
    assert prepared.support > Bandpass(0.5, 79.0).support(160.0) == 3.3
    names = [step["step"] for step in prepared.recording.provenance["steps"]]
    assert names == ["Notch", "Bandpass", "AverageReference"]
    assert prepared.recording.provenance["excluded_subjects"] == [88, 92, 100, 104]


@pytest.mark.parametrize(
    ("run", "labels", "condition"),
    [
        ("S001R04", ["rest", "left_fist", "rest", "right_fist"], "imagined"),
        ("S001R06", ["rest", "both_fists", "rest", "both_feet"], "imagined"),
    ],
)
def test_a_code_means_another_movement_in_another_run(
    prepare: Callable[..., Any], run: str, labels: list[str], condition: str
) -> None:
    trials = prepare(run).recording.behaviour["trials"]
    assert isinstance(trials, Intervals)
    assert trials.columns["label"].tolist() == labels
    assert trials.columns["condition"].tolist() == [condition] * 4
    assert trials.columns["imagined"].all()
    np.testing.assert_allclose(trials.start, [0, 7.5, 15, 22.5])


def test_codes_and_labels_say_the_same(prepare: Callable[..., Any]) -> None:
    trials = prepare("S001R06").recording.behaviour["trials"]
    assert trials.columns["code"].tolist() == [0, 3, 0, 4]


def test_a_run_of_rest_says_whether_the_eyes_are_open(prepare: Callable[..., Any]) -> None:
    trials = prepare("S001R01", {"codes": ("T0",)}).recording.behaviour["trials"]
    assert trials.columns["condition"].tolist() == ["eyes_open"]
    assert not trials.columns["imagined"].any()


def test_an_annotation_that_is_no_trial_is_said(prepare: Callable[..., Any]) -> None:
    prepared = prepare(file={"codes": ("T0", "blink", "T2")})
    assert len(prepared.recording.behaviour["trials"]) == 2
    assert "annotation 'blink' of run 4 is left out" in prepared.notes


@pytest.mark.parametrize(
    ("codes", "message"), [((), "the file has none"), (("x",), "got \\['x'\\]")]
)
def test_a_file_without_trials_is_refused(
    prepare: Callable[..., Any], codes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(file={"codes": codes})


def test_a_dead_electrode_is_invalid_and_has_no_part_in_the_reference(
    prepare: Callable[..., Any],
) -> None:
    eeg = prepare(file={"dead": 2}).recording.modalities["eeg"]
    assert np.isnan(eeg.data[:, 2]).all()
    assert not eeg.valid[:, 2].any()
    np.testing.assert_allclose(np.nanmean(eeg.data, axis=1), 0.0, atol=1e-12)


def test_electrodes_have_positions_in_metres(
    prepare: Callable[..., Any], make_store: Callable[..., Store]
) -> None:
    prepared = prepare()
    where = prepared.recording.provenance["channel_positions"]
    names = list(prepared.recording.modalities["eeg"].channels)
    assert where.shape == (8, 3)
    assert 0.05 < np.linalg.norm(where[names.index("Cz")]) < 0.15
    assert where[names.index("C3"), 0] < 0 < where[names.index("C4"), 0]
    stored = make_store(prepared.recording).recordings["S001R04"]
    np.testing.assert_array_equal(stored.provenance["channel_positions"], where)
    np.testing.assert_allclose(
        stored.modalities["eeg"].data, prepared.recording.modalities["eeg"].data, rtol=1e-6
    )


def test_an_electrode_that_the_montage_lacks_is_said(prepare: Callable[..., Any]) -> None:
    prepared = prepare(montage="colin27_1020")
    assert any("is not in montage colin27_1020" in note for note in prepared.notes) == bool(
        np.isnan(prepared.recording.provenance["channel_positions"]).any()
    )


def test_names_are_those_of_the_10_05_system() -> None:
    mne = pytest.importorskip("mne")
    known = mne.channels.make_standard_montage("colin27_1005").ch_names
    written = [
        "Fc5.",
        "Fcz.",
        "C5..",
        "Cp3.",
        "Fp1.",
        "Fpz.",
        "Af7.",
        "Ft8.",
        "Tp7.",
        "Iz..",
        "Poz.",
    ]
    assert [standard_name(n) for n in written] == [
        n for w in written for n in known if n.lower() == w.strip(".").lower()
    ]


def test_a_filter_beyond_the_rate_says_what_to_do(prepare: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"below the Nyquist frequency 80.0 Hz, got 90.0 Hz"):
        prepare(high=90.0)


def test_a_server_that_answers_something_else_is_refused(
    archive: Any, transfer: TransferSettings
) -> None:
    archive.answers = {"/eeg/SHA256SUMS.txt": b"<html>not here</html>"}
    with pytest.raises(NetworkError, match="names no recording; check base_url"):
        _source(archive).list(transfer)


def test_a_file_without_eeg_is_refused(tmp_path: Path) -> None:
    mark = edfio.EdfAnnotation(0, 1, "T0")
    signal = edfio.EdfSignal(np.arange(100.0), 10, label="Temp rectal", physical_dimension="degC")
    edfio.Edf([signal], annotations=[mark]).write(tmp_path / "a.edf")
    session = SessionInfo("a", "a", "1", {"path": "a.edf", "run": 1})
    with pytest.raises(ValueError, match="needs EEG channels on a regular clock, found none"):
        Eegmmidb().prepare(session, tmp_path, EegmmidbSettings())


def test_other_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"runs needs some of 1 to 14, got \(15,\)"):
        EegmmidbSettings(runs=(15,))
    with pytest.raises(TypeError, match="settings needs EegmmidbSettings, got dict"):
        Eegmmidb().prepare(SessionInfo("a", "a", "1"), Path(), {})
    assert isinstance(Eegmmidb(), Source)


@pytest.mark.recordings
def test_the_real_run_with_eyes_closed_has_its_alpha_rhythm(recordings: Path) -> None:
    session = SessionInfo("S001R02", "S001", "R02", {"path": "S001/S001R02.edf", "run": 2})
    prepared = Eegmmidb().prepare(session, recordings / "eeg_edf", EegmmidbSettings())
    eeg = prepared.recording.modalities["eeg"]
    assert isinstance(eeg, Signal)
    assert (eeg.rate, len(eeg.channels), eeg.valid) == (160.0, 64, None)
    back = eeg.data[:, [eeg.channels.index(name) for name in ("O1", "Oz", "O2")]].mean(axis=1)
    spectrum = np.abs(np.fft.rfft(back * np.hanning(len(back)))) ** 2
    at = np.fft.rfftfreq(len(back), 1 / 160)
    band = (at > 6) & (at < 14)
    smooth = np.convolve(spectrum, np.ones(30), "same")
    assert abs(at[band][smooth[band].argmax()] - 10.0) < 0.5
    assert np.isfinite(prepared.recording.provenance["channel_positions"]).all()
    trials = prepared.recording.behaviour["trials"]
    assert trials.columns["condition"].tolist() == ["eyes_closed"]
    assert prepared.notes == ()
