"""The Brain-Wide Map: a server with Alyx's answers, and a session in ALF files."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuros_core import Events, Intervals, Signal
from neuros_data import Store
from neuros_data.acquisition.ibl import Ibl, IblSettings
from neuros_data.acquisition.source import SessionInfo
from neuros_data.errors import NetworkError
from neuros_data.preparation import run_download
from neuros_data.transfer import TransferSettings

EID = "4ecb5d24-f5cc-402c-be28-9d0f7cb14b3a"
PROBE = "alf/probe00/pykilosort"
NAN = np.nan
KS014 = SessionInfo("KS014_2019-12-03_001", "KS014", "2019-12-03_001", {"eid": EID, "site": "x"})
STRUCTURES = {
    "success": True,
    "msg": [
        {
            "id": 997,
            "acronym": "root",
            "children": [
                {"id": 385, "acronym": "VISp", "children": []},
                {"id": 382, "acronym": "CA1"},
            ],
        }
    ],
}


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array))
    return out.getvalue()


def _parquet(columns: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), out)
    return out.getvalue()


def _trials() -> dict[str, Any]:
    """Four trials: sound, without a choice, moved too early, without a known movement."""
    return {
        "intervals_0": [0.0, 10.0, 20.0, 30.0],
        "intervals_1": [5.0, 15.0, 25.0, 40.0],
        "choice": [1.0, NAN, -1.0, -1.0],
        "contrastLeft": [NAN, 0.25, NAN, NAN],
        "contrastRight": [1.0, NAN, 0.0, NAN],
        "probabilityLeft": [0.5, 0.8, 0.2, 0.2],
        "feedbackType": [1.0, -1.0, 1.0, 1.0],
        "stimOn_times": [1.0, 11.0, 21.0, 31.0],
        "firstMovement_times": [1.5, 11.5, 21.01, NAN],
        "feedback_times": [2.0, 12.0, 22.0, 32.0],
        "response_times": [2.0, 12.0, 22.0, 32.0],
        "goCue_times": [1.0, 11.0, 21.0, 31.0],
        "rewardVolume": [3.0, 0.0, 3.0, 3.0],
    }


def _wheel(seconds: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    """A wheel that turns forth and back twice a second, some 400 uneven samples a second."""
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, int(400 * seconds))
    t = (np.arange(len(jitter)) + 0.5 + jitter) / 400
    return t, np.sin(2 * np.pi * 2 * t)


def _alf() -> dict[tuple[str, str, str | None], bytes]:
    """Collection, name and revision -> file."""
    wheel_t, wheel_x = _wheel()
    probe = {
        # Cluster 0 and 2 are good; 1 is not; 3 has no spikes.
        "spikes.times.npy": _npy([0.1, 0.2, 0.3, 0.4, 0.5]),
        "spikes.clusters.npy": _npy(np.array([2, 1, 0, 2, 0], dtype=np.int32)),
        "clusters.metrics.pqt": _parquet(
            {
                "cluster_id": [0, 1, 2, 3],
                "label": [1.0, 2 / 3, 1.0, 0.0],
                "amp_median": [1e-4, 2e-4, 3e-4, 4e-4],
                "firing_rate": [1.0, 2.0, 3.0, 0.0],
            }
        ),
        "clusters.channels.npy": _npy([5, 4, 3, 2]),
        "clusters.depths.npy": _npy([100.0, 80.0, 60.0, 40.0]),
        "channels.brainLocationIds_ccf_2017.npy": _npy([0, 0, 0, -385, 0, 382]),
    }
    session = {
        "_ibl_trials.table.pqt": _parquet(_trials()),
        "_ibl_wheel.timestamps.npy": _npy(wheel_t),
        "_ibl_wheel.position.npy": _npy(wheel_x),
        "_ibl_leftCamera.times.npy": _npy(np.arange(240) / 60 + 0.25),
        "leftCamera.ROIMotionEnergy.npy": _npy(np.arange(240.0)),
        "_ibl_leftCamera.dlc.pqt": b"not wanted",
    }
    files: dict[tuple[str, str, str | None], bytes] = {
        ("alf", name, None): body for name, body in session.items()
    }
    files |= {(PROBE, name, "2024-05-06"): body for name, body in probe.items()}
    files |= {
        (PROBE, "spikes.times.npy", None): _npy([9.0]),
        ("alf/probe00", "spikes.times.npy", None): b"another sorter",
        ("raw_ephys_data/probe00", "_spikeglx_sync.times.npy", None): b"raw",
    }
    return files


def _record(url: str, key: tuple[str, str, str | None], number: int, body: bytes) -> dict[str, Any]:
    """One entry of Alyx's `datasets`, with a copy that is public and one that is not."""
    collection, name, revision = key
    uuid = f"00000000-0000-0000-0000-{number:012d}"
    stem, _, extension = name.rpartition(".")
    folder = f"KS014/2019-12-03/001/{collection}/" + (f"#{revision}#/" if revision else "")
    copy = {"data_repository_path": "/cortexlab/Subjects/", "relative_path": folder + name}
    public = (
        f"{url}/public/cortexlab/Subjects/{folder.replace('#', '%23')}{stem}.{uuid}.{extension}"
    )
    mirror = f"{url}/z-mirror/{uuid}"
    return {
        "url": f"{url}/datasets/{uuid}",
        "name": name,
        "collection": collection,
        "revision": revision,
        "session": f"{url}/sessions/{EID}",
        "file_size": len(body),
        "hash": hashlib.md5(body, usedforsecurity=False).hexdigest(),
        "default_dataset": revision is not None or collection != PROBE,
        "file_records": [
            {"data_repository": "cortex_lab_SR", "data_url": None, "exists": True, **copy},
            {"data_repository": "gone", "data_url": f"{url}/gone", "exists": False, **copy},
            {"data_repository": "aws_cortexlab", "data_url": mirror, "exists": True, **copy},
            {"data_repository": "flatiron_cortexlab", "data_url": public, "exists": True, **copy},
        ],
        "tags": ["Brainwidemap"],
    }


def _session(subject: str, start: str, number: int, eid: str = EID) -> dict[str, Any]:
    return {
        "id": eid,
        "subject": subject,
        "start_time": start,
        "number": number,
        "lab": "cortexlab",
        "projects": ["ibl_neuropixel_brainwide_01"],
        "url": f"https://alyx/sessions/{eid}",
        "task_protocol": "_iblrig_tasks_ephysChoiceWorld6.2.5",
    }


@pytest.fixture
def alyx(archive: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A server with the files given, which pages by two records."""
    monkeypatch.delenv("NEUROS_ALYX_TOKEN", raising=False)

    def start(
        files: Mapping[tuple[str, str, str | None], bytes] | None = None, key: str = "t0ken"
    ) -> Any:
        content = _alf() if files is None else files
        records = []
        for i, (name, body) in enumerate(content.items()):
            record = _record(archive.url, name, i, body)
            records.append(record)
            public = record["file_records"][3]["data_url"]
            archive.answers[public.removeprefix(archive.url)] = body
            archive.answers[f"/z-mirror/{record['url'][-36:]}"] = body
        sessions = [
            _session("NYU-40", "2021-04-15T10:00:00.1", 1, "b" * 36),
            _session("KS014", "2019-12-03T11:12:13.5", 1),
            _session("KS014", "2019-12-03T09:12:13.5", 2, "c" * 36),
        ]

        def log_in(query: Mapping[str, str], _: Mapping[str, str]) -> bytes | int:
            sound = query == {"username": "intbrainlab", "password": "international"}
            return json.dumps({"token": key}).encode() if sound else 400

        def pages(rows: list[Any]) -> Callable[..., bytes | int]:
            def answer(query: Mapping[str, str], headers: Mapping[str, str]) -> bytes | int:
                if headers["Authorization"] != f"Token {key}":
                    return 403
                assert query.get("tag") == "Brainwidemap" or query.get("session") == EID
                first = int(query["offset"])
                page = rows[first : first + 2]
                return json.dumps({"count": len(rows), "results": page}).encode()

            return answer

        archive.answers["/auth-token"] = log_in
        archive.answers["/sessions"] = pages(sessions)
        archive.answers["/datasets"] = pages(records)
        archive.answers["/structures"] = json.dumps(STRUCTURES).encode()
        return archive

    return start


def _source(server: Any, **settings: Any) -> Ibl:
    where = {"base_url": server.url, "structures_url": f"{server.url}/structures"}
    return Ibl(IblSettings(**{**where, **settings}))


def _ks014(source: Ibl, transfer: TransferSettings) -> SessionInfo:
    return source.list(transfer)[0]


def test_sessions_of_the_release_are_listed_by_id(
    alyx: Callable[..., Any], transfer: TransferSettings
) -> None:
    found = _source(alyx()).list(transfer)
    assert [s.id for s in found] == [
        "KS014_2019-12-03_001",
        "KS014_2019-12-03_002",
        "NYU-40_2021-04-15_001",
    ]
    assert (found[0].subject, found[0].session) == ("KS014", "2019-12-03_001")
    assert found[0].meta == {"eid": EID, "site": "cortexlab"}


def test_two_laboratories_with_a_subject_of_one_name_stay_apart(
    alyx: Callable[..., Any], transfer: TransferSettings
) -> None:
    server = alyx()
    rows = [
        _session("M1", "2020-01-01T10:00:00", 1, "a" * 36) | {"lab": "one"},
        _session("M1", "2020-01-01T12:00:00", 1, "b" * 36) | {"lab": "two"},
        _session("M1", "2020-01-01T12:00:00", 1, "b" * 36) | {"lab": "two"},
    ]
    page = {"count": 3, "results": rows}
    server.answers["/sessions"] = lambda _q, _h: json.dumps(page).encode()
    found = [s.id for s in _source(server).list(transfer)]
    assert found == ["M1_2020-01-01_001_one", "M1_2020-01-01_001_two"]


def test_one_edition_of_every_wanted_file_is_named(
    alyx: Callable[..., Any], transfer: TransferSettings
) -> None:
    server = alyx()
    source = _source(server)
    files = {f.path: f for f in source.files(_ks014(source, transfer))}
    assert sorted(files) == sorted(
        [
            "alf/_ibl_leftCamera.times.npy",
            "alf/_ibl_trials.table.pqt",
            "alf/_ibl_wheel.position.npy",
            "alf/_ibl_wheel.timestamps.npy",
            "alf/leftCamera.ROIMotionEnergy.npy",
            "structures.json",
            *(
                f"{PROBE}/#2024-05-06#/{name}"
                for name in (
                    "channels.brainLocationIds_ccf_2017.npy",
                    "clusters.channels.npy",
                    "clusters.depths.npy",
                    "clusters.metrics.pqt",
                    "spikes.clusters.npy",
                    "spikes.times.npy",
                )
            ),
        ]
    )
    wheel = files["alf/_ibl_wheel.position.npy"]
    assert "/public/cortexlab/Subjects/KS014/" in wheel.url
    assert wheel.size == len(_alf()["alf", "_ibl_wheel.position.npy", None])
    assert [m.rpartition("/")[0] for m in wheel.mirrors] == [f"{server.url}/z-mirror"]


def test_an_older_release_takes_the_editions_of_its_time(
    alyx: Callable[..., Any], transfer: TransferSettings
) -> None:
    source = _source(alyx(), revision="2023-01-01", structures_url="")
    paths = [f.path for f in source.files(_ks014(source, transfer))]
    assert f"{PROBE}/spikes.times.npy" in paths
    assert not any("#" in path or path == "structures.json" for path in paths)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Put a session's files where the download puts them, with some left out or replaced."""

    def run(without: tuple[str, ...] = (), **replaced: bytes) -> Path:
        for (collection, name, revision), body in _alf().items():
            if name not in without:
                folder = tmp_path / collection / (f"#{revision}#" if revision else "")
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(replaced.get(name, body))
        if "structures.json" not in without:
            structures = replaced.get("structures.json", json.dumps(STRUCTURES).encode())
            (tmp_path / "structures.json").write_bytes(structures)
        return tmp_path

    return run


@pytest.fixture
def prepare(write: Callable[..., Path]) -> Callable[..., Any]:
    """Prepare a session, with files left out or replaced, under other settings."""

    def run(
        without: tuple[str, ...] = (), replaced: Mapping[str, bytes] | None = None, **settings: Any
    ) -> Any:
        folder = write(without, **(replaced or {}))
        return Ibl().prepare(KS014, folder, IblSettings(**settings))

    return run


def test_good_units_keep_their_spikes_regions_and_depths(prepare: Callable[..., Any]) -> None:
    spikes = prepare().recording.modalities["spike"]
    assert isinstance(spikes, Events)
    assert spikes.units == ("probe00/0", "probe00/2")
    assert spikes.times.tolist() == [0.1, 0.3, 0.4, 0.5]
    assert spikes.unit_ids.tolist() == [1, 0, 1, 0]
    assert spikes.table["region"].tolist() == ["CA1", "VISp"]
    np.testing.assert_allclose(spikes.table["depth"], [100e-6, 60e-6])
    np.testing.assert_allclose(spikes.table["amplitude"], [1e-4, 3e-4])
    assert spikes.duration == 40.0


def test_quality_control_is_a_setting(prepare: Callable[..., Any]) -> None:
    assert prepare(qc=0.5).recording.modalities["spike"].n_units == 3
    everything = prepare(qc=None).recording.modalities["spike"]
    assert everything.units[3] == "probe00/3"
    assert len(everything.times) == 5


def test_trials_are_flagged_and_none_is_removed(prepare: Callable[..., Any]) -> None:
    prepared = prepare()
    trials = prepared.recording.behaviour["trials"]
    assert isinstance(trials, Intervals)
    assert trials.columns["flagged"].tolist() == [False, True, True, True]
    np.testing.assert_allclose(trials.columns["reaction_time"], [0.5, 0.5, 0.01, NAN])
    np.testing.assert_array_equal(trials.columns["contrast"], [1.0, -0.25, 0.0, NAN])
    np.testing.assert_array_equal(trials.columns["choice"], [1, NAN, -1, -1])
    assert trials.columns["probability_left"].tolist() == [0.5, 0.8, 0.2, 0.2]
    assert trials.columns["feedback"].tolist() == [1, -1, 1, 1]
    assert "trials: 3 of 4 flagged" in prepared.notes


def test_wheel_velocity_of_a_known_sinusoid_is_right_within_one_percent(
    prepare: Callable[..., Any],
) -> None:
    prepared = prepare()
    velocity = prepared.recording.behaviour["wheel_velocity"]
    assert isinstance(velocity, Signal)
    assert (velocity.unit, velocity.rate) == ("rad/s", 50.0)
    t = velocity.start + np.arange(len(velocity.data)) / 50.0
    inner = (t > 1) & (t < 39)
    peak = 2 * np.pi * 2
    truth = peak * np.cos(2 * np.pi * 2 * t)
    assert np.abs(velocity.data[inner, 0] - truth[inner]).max() < 0.01 * peak
    speed = prepared.recording.behaviour["wheel_speed"]
    np.testing.assert_array_equal(speed.data, np.abs(velocity.data))
    assert prepared.support > 0


def test_motion_energy_is_on_the_cameras_clock(prepare: Callable[..., Any]) -> None:
    prepared = prepare()
    whisker = prepared.recording.behaviour["whisker_left"]
    assert isinstance(whisker, Signal)
    assert (whisker.rate, whisker.start) == (pytest.approx(60), 0.25)
    assert "whisker_right" not in prepared.recording.behaviour
    assert "whisker_right absent" in prepared.notes


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("spikes.clusters.npy", "no spikes of sorter 'pykilosort'"),
        ("_ibl_trials.table.pqt", "_ibl_trials.table.pqt absent; no trials"),
        ("_ibl_wheel.position.npy", "wheel absent"),
        ("clusters.channels.npy", "probe00: regions absent"),
        ("clusters.depths.npy", "probe00: depths absent"),
    ],
)
def test_a_missing_file_leaves_its_part_out_and_is_noted(
    missing: str, note: str, prepare: Callable[..., Any]
) -> None:
    prepared = prepare(without=(missing,))
    assert any(note in n for n in prepared.notes)
    parts = {
        "spikes.clusters.npy": "spike" in prepared.recording.modalities,
        "_ibl_trials.table.pqt": "trials" in prepared.recording.behaviour,
        "_ibl_wheel.position.npy": "wheel_velocity" in prepared.recording.behaviour,
    }
    assert {name for name, present in parts.items() if not present} == {missing} & set(parts)


def test_a_session_with_nothing_in_it_is_refused(prepare: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="has neither spikes nor behaviour"):
        prepare(without=tuple({name for _, name, _ in _alf()}))


def test_regions_without_the_atlas_are_named_by_number(prepare: Callable[..., Any]) -> None:
    prepared = prepare(without=("structures.json",))
    assert prepared.recording.modalities["spike"].table["region"].tolist() == ["382", "385"]
    assert any("regions are named by their number" in n for n in prepared.notes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("_ibl_wheel.position.npy", b"x", r"wheel\.position\.npy is not a readable \.npy"),
        ("_ibl_trials.table.pqt", b"x", r"trials\.table\.pqt is not a readable parquet"),
        (
            "_ibl_trials.table.pqt",
            _parquet({"choice": [1.0]}),
            "needs the columns intervals_0 and intervals_1",
        ),
        ("structures.json", b"{}", r"structures\.json is not a structure graph"),
        ("clusters.metrics.pqt", _parquet({"a": [1.0]}), r"metrics\.pqt needs the column label"),
        ("clusters.depths.npy", _npy([1.0]), r"clusters\.depths has 1 rows, another file names"),
        ("spikes.times.npy", _npy([1.0]), "holds 1 spike times but 5 spike clusters"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, content: bytes, message: str, prepare: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(replaced={name: content})


def test_columns_that_a_trials_table_lacks_are_absent_and_noted(
    prepare: Callable[..., Any],
) -> None:
    table = {k: v for k, v in _trials().items() if k not in {"choice", "rewardVolume"}}
    table["intervals_1"] = [5.0, NAN, 25.0, 40.0]
    prepared = prepare(replaced={"_ibl_trials.table.pqt": _parquet(table)})
    trials = prepared.recording.behaviour["trials"]
    assert isinstance(trials, Intervals)
    assert trials.start.tolist() == [0.0, 20.0, 30.0]
    # Without a choice no trial can be used.
    assert trials.columns["flagged"].all()
    assert "choice" not in trials.columns
    assert "trials: columns choice, rewardVolume absent" in prepared.notes
    assert "trials: 1 without start and end left out" in prepared.notes


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("_ibl_wheel.position.npy", [1.0, 2.0], "wheel: 2 samples but 16000 times"),
        (
            "_ibl_wheel.timestamps.npy",
            np.arange(16000)[::-1],
            "wheel: times need two samples or more in order",
        ),
        ("_ibl_wheel.timestamps.npy", np.arange(16000) / 1e5, "wheel: less than a second"),
        ("_ibl_leftCamera.times.npy", [1.0], "whisker_left: 240 samples but 1 times"),
    ],
)
def test_samples_that_do_not_fit_their_times_are_left_out_and_noted(
    name: str, content: Any, note: str, prepare: Callable[..., Any]
) -> None:
    prepared = prepare(replaced={name: _npy(content)})
    part = "whisker_left" if "Camera" in name else "wheel_velocity"
    assert part not in prepared.recording.behaviour
    assert any(note in n for n in prepared.notes)


def test_the_newest_edition_that_the_settings_allow_is_read(prepare: Callable[..., Any]) -> None:
    # The first edition has only spikes.times, to which nothing else belongs.
    prepared = prepare(revision="2023-01-01")
    assert "spike" not in prepared.recording.modalities
    assert any("probe00: spikes.clusters, metrics absent" in n for n in prepared.notes)


def test_a_downloaded_session_goes_into_a_store(
    alyx: Callable[..., Any],
    transfer: TransferSettings,
    fetch: Callable[..., Path],
    make_store: Callable[..., Store],
) -> None:
    source = _source(alyx())
    session = _ks014(source, transfer)
    prepared = source.prepare(session, fetch(source, session), source.settings)
    read = make_store(prepared.recording).recordings["KS014_2019-12-03_001"]
    assert (read.subject, read.provenance["site"]) == ("KS014", "cortexlab")
    assert set(read.behaviour) == {"trials", "wheel_velocity", "wheel_speed", "whisker_left"}
    assert read.modalities["spike"].table["region"].tolist() == ["CA1", "VISp"]


def test_a_file_that_is_not_the_servers_is_set_aside_and_named(
    alyx: Callable[..., Any], transfer: TransferSettings, tmp_path: Path
) -> None:
    server = alyx()
    one = {"count": 1, "results": [_session("KS014", "2019-12-03T11:12:13.5", 1)]}
    server.answers["/sessions"] = lambda _q, _h: json.dumps(one).encode()
    (wanted,) = [
        f for f in _source(server).files(KS014) if f.path.endswith("_ibl_wheel.position.npy")
    ]
    body = server.answers[f"/z-mirror/{wanted.mirrors[0][-36:]}"]
    assert wanted.md5 == hashlib.md5(body, usedforsecurity=False).hexdigest()
    damaged = body[:-1] + bytes([body[-1] ^ 1])  # of the right size: only the MD5 can tell
    for address in wanted.urls:
        server.answers[address.removeprefix(server.url)] = damaged
    report = run_download(
        _source(server), 1, root=tmp_path / "s", jobs=1, raw_only=True, transfer=transfer
    )
    (failed,) = report.failed
    assert failed.kind == "data"
    assert f"expected {wanted.md5}" in failed.error
    assert "_ibl_wheel.position.npy.bad" in failed.error
    (bad,) = (tmp_path / "s").rglob("*.bad")
    assert bad.read_bytes() == damaged
    assert not (bad.parent / "_ibl_wheel.position.npy").exists()


def test_a_file_that_was_fetched_before_its_md5_was_known_is_held_against_it(
    alyx: Callable[..., Any], transfer: TransferSettings, tmp_path: Path
) -> None:
    server = alyx()
    one = {"count": 1, "results": [_session("KS014", "2019-12-03T11:12:13.5", 1)]}
    server.answers["/sessions"] = lambda _q, _h: json.dumps(one).encode()
    root = tmp_path / "s"

    def fetched() -> Any:
        server.asked.clear()
        return run_download(_source(server), 1, root=root, jobs=1, raw_only=True, transfer=transfer)

    assert fetched().ok
    (ledger,) = (root / "raw").rglob("sessions.json")
    content = json.loads(ledger.read_text())
    for entry in content.values():
        for file in entry["files"]:
            del file["md5"]  # as it was written before there was one
    ledger.write_text(json.dumps(content))
    (wheel,) = root.rglob("_ibl_wheel.position.npy")
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert fetched().ok
    assert wheel.read_bytes() == whole
    assert wheel.with_name(f"{wheel.name}.bad").exists()
    # Only the damaged file came again.
    assert len([a for a in server.asked if "z-mirror" in a or "public" in a]) == 1


def test_an_archive_that_sums_nothing_leaves_the_size_to_be_checked(
    alyx: Callable[..., Any],
) -> None:
    server = alyx()
    answer = server.answers["/datasets"]

    def unsummed(query: Any, headers: Any) -> bytes:
        page = json.loads(answer(query, headers))
        return json.dumps(
            {**page, "results": [{**r, "hash": None} for r in page["results"]]}
        ).encode()

    server.answers["/datasets"] = unsummed
    files = _source(server).files(KS014)
    assert {f.md5 for f in files} == {None}
    assert all(f.size for f in files[:-1])


def test_a_token_of_ones_own_goes_before_the_public_account(
    alyx: Callable[..., Any], transfer: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = alyx(key="mine")
    monkeypatch.setenv("NEUROS_ALYX_TOKEN", "mine")
    assert len(_source(server, login="").list(transfer)) == 3
    assert "/auth-token" not in server.asked


def test_a_refused_login_says_what_to_do(
    alyx: Callable[..., Any], transfer: TransferSettings
) -> None:
    with pytest.raises(NetworkError, match=r"refused the login \(400\); make a free account"):
        _source(alyx(), login="intbrainlab:old").list(transfer)


def test_a_server_that_fails_is_asked_again_and_then_named(
    alyx: Callable[..., Any], transfer: TransferSettings
) -> None:
    server = alyx()
    pages = server.answers["/sessions"]
    answers = iter([503, None])
    server.answers["/sessions"] = lambda q, h: next(answers, None) or pages(q, h)
    assert len(_source(server).list(transfer)) == 3
    server.answers["/sessions"] = lambda _q, _h: 503
    with pytest.raises(NetworkError, match="answered 503"):
        _source(server).list(transfer)
    server.answers["/sessions"] = b"<html>"
    with pytest.raises(NetworkError, match="did not answer in JSON"):
        _source(server).list(transfer)
    with pytest.raises(NetworkError, match="cannot be reached"):
        _source(server, base_url="http://127.0.0.1:9").list(transfer)


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"qc needs a share of passed tests in \[0, 1\]"):
        IblSettings(qc=2.0)
    with pytest.raises(ValueError, match="reaction needs 0 <= shortest < longest"):
        IblSettings(reaction=(2.0, 0.08))
    with pytest.raises(TypeError, match="settings needs IblSettings, got dict"):
        Ibl().prepare(SessionInfo("a", "b", "c"), tmp_path, {})
