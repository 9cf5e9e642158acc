"""Recording systems through Neo: NeuroScope, SpikeGLX and Phy, of which these tests write files."""

from pathlib import Path

import numpy as np
import pytest

from neuros_core import Events, Intervals, Modality, Signal
from neuros_data import Store
from neuros_data.reading import Options, read, read_exact
from neuros_data.reading._draft import Draft

pytest.importorskip("neo")

COUNTS = np.random.default_rng(0).integers(-2000, 2000, (2500, 3)).astype("<i2")
XML = """<?xml version='1.0'?>
<parameters>
 <acquisitionSystem><nBits>16</nBits><nChannels>3</nChannels><samplingRate>1250</samplingRate>
 <voltageRange>20</voltageRange><amplification>1000</amplification><offset>0</offset>
 </acquisitionSystem>
 <fieldPotentials><lfpSamplingRate>1250</lfpSamplingRate></fieldPotentials>
 <anatomicalDescription><channelGroups><group><channel skip="0">0</channel>
 <channel skip="0">1</channel><channel skip="0">2</channel></group></channelGroups>
 </anatomicalDescription>
</parameters>
"""
META = {
    "appVersion": "20190327",
    "fileTimeSecs": "1",
    "firstSample": "0",
    "imMaxInt": "512",
    "imAiRangeMax": "0.6",
    "imAiRangeMin": "-0.6",
    "typeThis": "imec",
    "imDatPrb_pn": "NP1010",
    "imDatPrb_type": "0",
    "nSavedChans": "4",
    "snsSaveChanSubset": "0:2,768",
    "~snsChanMap": "(384,384,1)(AP0;0:0)(AP1;1:1)(AP2;2:2)(SY0;768:768)",
    "~imroTbl": "(841,384)(0 0 1 500 250)(1 0 1 500 250)(2 0 1 500 250)",
}


def _spikeglx(folder: Path) -> Path:
    home = folder / "walk_g0"
    home.mkdir()
    whole = np.concatenate([COUNTS % 512, np.zeros((len(COUNTS), 1), "<i2")], axis=1)
    kinds = {"ap": ("30000", "3,0,1"), "lf": ("2500", "0,3,1")}
    for kind, (rate, chans) in kinds.items():
        base = home / f"walk_g0_t0.imec0.{kind}"
        whole.astype("<i2").tofile(f"{base}.bin")
        names = "".join(f"({kind.upper()}{c};{c}:{c})" for c in range(3))
        told = {
            **META,
            "imSampRate": rate,
            "snsApLfSy": chans,
            "fileSizeBytes": str(whole.nbytes),
            "fileName": f"walk_g0_t0.imec0.{kind}.bin",
            "~snsChanMap": f"(384,384,1){names}(SY0;768:768)",
        }
        Path(f"{base}.meta").write_text("".join(f"{k}={v}\n" for k, v in told.items()))
    return home


def _phy(folder: Path) -> Path:
    home = folder / "sorted"
    home.mkdir()
    (home / "params.py").write_text(
        "dat_path = 'x.dat'\nn_channels_dat = 2\ndtype = 'int16'\noffset = 0\n"
        "sample_rate = 20000.0\nhp_filtered = False\n"
    )
    samples = np.array([200, 400, 900, 2000, 4000])
    np.save(home / "spike_times.npy", samples)
    np.save(home / "spike_clusters.npy", np.array([3, 7, 3, 3, 7]))
    np.save(home / "spike_templates.npy", np.array([0, 1, 0, 0, 1]))
    np.save(home / "amplitudes.npy", np.ones(5))
    (home / "cluster_group.tsv").write_text("cluster_id\tgroup\n3\tgood\n7\tmua\n")
    return home


def test_integers_of_a_recording_system_stay_integers(tmp_path: Path) -> None:
    (tmp_path / "rat.xml").write_text(XML)
    COUNTS.tofile(tmp_path / "rat.dat")
    found = read_exact(tmp_path / "rat.xml", Options(modality="lfp"))
    lfp = found.recording.modalities["lfp"]
    assert isinstance(lfp, Signal)
    assert (lfp.rate, lfp.unit, lfp.data.shape) == (1250.0, "V", (2500, 3))
    # 20 V over 16 bits, amplified 1000 times.
    np.testing.assert_allclose(lfp.data, COUNTS * (20 / 2**16 / 1000), rtol=1e-12, atol=1e-20)
    store = Store.create(tmp_path / "store")
    store.add(found.recording, quantize=found.quantize)
    stored = np.load(store.path / "recordings" / "rat" / "lfp.data.npy")
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, COUNTS)


def test_a_folder_is_known_by_its_files_and_fast_streams_are_named_to_be_read(
    tmp_path: Path,
) -> None:
    home = _spikeglx(tmp_path)
    with pytest.warns(UserWarning, match=r"left out, data= reads one of them: 'imec0.ap' of 30"):
        slow = read(home, "lfp")
    assert set(slow.behaviour) == {"stim"}
    signal = slow.modalities["lfp"]
    assert isinstance(signal, Signal)
    assert (signal.rate, slow.provenance["format"]) == (2500.0, "SpikeGLX")
    # Ten bits over 1.2 V, gain 250.
    np.testing.assert_allclose(
        signal.data[:, :3], (COUNTS % 512) * 0.6 / 512 / 250, rtol=1e-6, atol=1e-15
    )
    fast = read(home, "lfp", data="imec0.ap").modalities["lfp"]
    assert isinstance(fast, Signal)
    assert fast.rate == 30000.0
    with pytest.raises(ValueError, match=r"has no stream 'x'; it has 'imec0.ap', "):
        read(home, "lfp", data="x")


def test_sorted_units_are_events(tmp_path: Path) -> None:
    found = read(_phy(tmp_path), species="mouse")
    spikes = found.modalities["spike"]
    assert isinstance(spikes, Events)
    assert spikes.n_units == 2
    np.testing.assert_allclose(spikes.times, [0.01, 0.02, 0.045, 0.1, 0.2])
    assert spikes.unit_ids.tolist() == [0, 1, 0, 0, 1]


def test_segments_keep_their_gap_and_events_become_intervals(tmp_path: Path) -> None:
    # A system of Neo's own, of which two segments of 10 s start at 0 and 15 s.
    from neo.rawio.examplerawio import ExampleRawIO

    from neuros_data.reading._neo import _fill

    class Sweeps(ExampleRawIO):
        """Segments that all start at 0."""

        def _get_signal_t_start(self, *_: int) -> float:
            return 0.0

    readers = [kind(filename=str(tmp_path / "any.fake")) for kind in (ExampleRawIO, Sweeps)]
    for reader in readers:
        reader.parse_header()
    name = str(readers[0].header["signal_streams"]["name"][0])
    draft = Draft()
    _fill(draft, readers[0], Options(data=name), tmp_path)
    (block,) = draft.blocks
    assert block.times is not None
    steps = np.diff(block.times)
    assert (len(steps), float(steps.max().round(3))) == (199_999, 5.0)
    assert draft.notes[0] == "the file holds 2 blocks; the first is read"
    assert "the largest gap is 5 s" in draft.notes[1]
    for part in draft.behaviour.values():
        assert isinstance(part, Intervals)
        assert (np.diff(part.start) >= 0).all()
        assert len(part.columns["label"]) == len(part.start)
    assert any((part.end > part.start).all() for part in draft.behaviour.values())
    spikes = Draft()
    _fill(spikes, readers[0], Options(modality=Modality.SPIKE), tmp_path)
    assert spikes.blocks == []
    assert spikes.events is not None
    assert spikes.events.duration == 25.0
    with pytest.raises(ValueError, match=r"segments of stream .* overlap in time"):
        _fill(Draft(), readers[1], Options(data=name), tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.rhd").write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"a\.rhd cannot be read as Intan"):
        read(tmp_path / "a.rhd", "lfp")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folders of ALF, SpikeGLX"):
        read(tmp_path / "empty")
