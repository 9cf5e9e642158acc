"""The DANDI archive: its records page by page, NWB files of its layout."""

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_core import Species
from neuros_data import Store
from neuros_data.acquisition.dandi import Dandi, DandiSettings
from neuros_data.acquisition.source import Source
from neuros_data.errors import ChecksumError, NetworkError
from neuros_data.transfer import TransferSettings

pynwb = pytest.importorskip("pynwb")
pytestmark = pytest.mark.filterwarnings("ignore:.*positional arguments.*:FutureWarning")

RAW = np.random.default_rng(0).integers(-900, 900, (250, 2)).astype(np.int16)
HOME = "/api/dandisets/000728"


def _file(path: Path, *series: str) -> bytes:
    file = pynwb.NWBFile("walk", "id-1", dt.datetime(2024, 1, 2, tzinfo=dt.UTC))
    file.subject = pynwb.file.Subject(subject_id="m1", species="Mus musculus")
    group = file.create_electrode_group("g", "d", "CA1", file.create_device("probe"))
    for _ in range(2):
        file.add_electrode(group=group, location="CA1")
    region = file.create_electrode_table_region([0, 1], "all")
    for name in series:
        file.add_acquisition(
            pynwb.ecephys.ElectricalSeries(name, RAW, region, rate=1250.0, conversion=2e-7)
        )
    file.add_unit(spike_times=[0.01, 0.15])
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path.read_bytes()


@pytest.fixture
def server(archive: Any, tmp_path: Path) -> Callable[..., Any]:
    """A dandiset of three files, listed two a page, and a file that is no NWB."""

    def fill(*series: str, released: bool = True, digest: bool = True) -> Any:
        body = _file(tmp_path / "made.nwb", *(series or ("LFP",)))
        sums = {"dandi:sha2-256": hashlib.sha256(body).hexdigest()} if digest else {}
        paths = ["sub-m1/sub-m1_ses-a_ecephys.nwb", "sub-m1/sub-m1_ses-b_ecephys.nwb"]
        paths += ["sub-m2/sub-m2_ses-a_behavior+ecephys.nwb", "readme.txt"]
        assets: list[dict[str, Any]] = [
            {
                "asset_id": f"asset{i}",
                "blob": f"blob{i}",
                "zarr": None,
                "path": path,
                "size": len(body),
                "metadata": {"digest": {"dandi:dandi-etag": "0-1", **sums}},
            }
            for i, path in enumerate(paths)
        ]
        assets.append({**assets[0], "path": "sub-m3/sub-m3.nwb", "zarr": "z", "blob": None})
        version = "0.220126.1855" if released else "draft"
        release = f"{HOME}/versions/{version}"

        def page(query: Any, _headers: Any) -> bytes:
            assert query["metadata"] == "true"
            first = int(query.get("page", "1")) * 2 - 2
            more = f"{archive.url}{release}/assets/?page={first // 2 + 2}&metadata=true"
            rest = first + 2 < len(assets)
            return json.dumps(
                {"next": more if rest else None, "results": assets[first : first + 2]}
            ).encode()

        archive.answers = {f"/api/assets/asset{i}/download/": body for i in range(3)}
        archive.answers[f"{HOME}/"] = json.dumps(
            {
                "most_recent_published_version": {"version": version} if released else None,
                "draft_version": {"version": "draft"},
            }
        ).encode()
        archive.answers[f"{release}/info/"] = json.dumps(
            {
                "metadata": {
                    "name": "Walking mice",
                    "license": ["spdx:CC0-1.0"],
                    "citation": "Doe (2024) Walking mice",
                    "doi": "10.48324/dandi.000728/0.220126.1855",
                }
            }
        ).encode()
        archive.answers[f"{release}/assets/"] = page
        return archive

    return fill


def _source(server: Any, **settings: Any) -> Dandi:
    return Dandi(DandiSettings("000728", base_url=f"{server.url}/api", **settings))


def test_the_files_of_a_release_are_listed_over_all_pages(
    server: Callable[..., Any], transfer: TransferSettings
) -> None:
    source = _source(server())
    assert isinstance(source, Source)
    found = source.list(transfer)
    assert [(s.id, s.subject, s.session) for s in found] == [
        ("sub-m1_ses-a_ecephys", "m1", "a"),
        ("sub-m1_ses-b_ecephys", "m1", "b"),
        ("sub-m2_ses-a_behavior+ecephys", "m2", "a"),
    ]
    assert (found[0].meta["version"], found[0].meta["licence"]) == ("0.220126.1855", "CC0-1.0")
    one = replace(source, settings=replace(source.settings, paths=("sub-m2/*",)))
    assert [s.subject for s in one.list(transfer)] == ["m2"]


def test_a_dandiset_that_was_never_released_gives_its_draft(
    server: Callable[..., Any], transfer: TransferSettings
) -> None:
    found = _source(server(released=False)).list(transfer)
    assert {s.meta["version"] for s in found} == {"draft"}


def test_files_of_one_name_in_two_folders_go_by_their_path(
    archive: Any, transfer: TransferSettings
) -> None:
    assets = [
        {"asset_id": f"a{i}", "path": f"{folder}/run.nwb", "size": 1}
        for i, folder in enumerate(("day 1", "day 2"))
    ]
    archive.answers[f"{HOME}/versions/draft/info/"] = b"{}"
    archive.answers[f"{HOME}/versions/draft/assets/"] = json.dumps({"results": assets}).encode()
    found = _source(archive, version="draft").list(transfer)
    assert [(s.id, s.subject) for s in found] == [("day_1_run", ""), ("day_2_run", "")]
    assert _source(archive).files(found[0])[0].sha256 is None


def test_a_file_becomes_a_recording_with_the_terms_of_its_dandiset(
    server: Callable[..., Any],
    transfer: TransferSettings,
    fetch: Callable[..., Path],
    tmp_path: Path,
) -> None:
    source = _source(server())
    session = source.list(transfer)[0]
    made = source.prepare(session, fetch(source, session), source.settings)
    recording = made.recording
    assert (recording.id, recording.subject, recording.species) == (session.id, "m1", Species.MOUSE)
    assert set(recording.modalities) == {"lfp", "spike"}
    assert recording.provenance["licence"] == "CC0-1.0"
    assert recording.provenance["citation"] == "Doe (2024) Walking mice"
    store = Store.create(tmp_path / "store")
    store.add(recording, quantize=made.quantize)
    stored = np.load(store.path / "recordings" / session.id / "lfp.data.npy")
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, RAW)


def test_one_of_several_series_is_named(
    server: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(server("LFP_a", "LFP_b"), modality="lfp", data="LFP_b")
    session = source.list(transfer)[0]
    folder = fetch(source, session)
    assert source.prepare(session, folder, source.settings).recording.modalities.keys() == {"lfp"}
    several = replace(source.settings, data="")
    with pytest.raises(ValueError, match=r"several series that could be lfp.*'LFP_a', 'LFP_b'"):
        source.prepare(session, folder, several)


def test_bytes_are_held_against_the_checksum_of_the_archive(
    server: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    found = server()
    source = _source(found)
    session = source.list(transfer)[1]
    found.answers["/api/assets/asset1/download/"] = b"x" * int(session.meta["bytes"])
    with pytest.raises(ChecksumError, match="asset1/download/"):
        fetch(source, session)


def test_what_the_archive_does_not_have_is_said(
    server: Callable[..., Any], transfer: TransferSettings
) -> None:
    with pytest.raises(ValueError, match=r"has no NWB file that matches sub-9/\*"):
        _source(server(), paths=("sub-9/*",)).list(transfer)
    found = server()
    found.answers[f"{HOME}/"] = b"[]"
    with pytest.raises(NetworkError, match="answer with a record, got list"):
        _source(found).list(transfer)
    found.answers[f"{HOME}/"] = b"{}"
    with pytest.raises(NetworkError, match="names no version"):
        _source(found).list(transfer)
    found.answers[f"{HOME}/"] = b"<html>"
    with pytest.raises(NetworkError, match="did not answer in JSON"):
        _source(found).list(transfer)
    with pytest.raises(NetworkError, match="404"):
        _source(found, version="0.1").list(transfer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dandiset": "21"}, "six digits such as '000021', got '21'"),
        ({"modality": "smell"}, "smell"),
        ({"species": "unicorn"}, "unicorn"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DandiSettings(**settings)


def test_settings_of_another_source_are_refused(tmp_path: Path) -> None:
    other: Any = {}
    with pytest.raises(TypeError, match="settings needs DandiSettings, got dict"):
        Dandi().prepare(other, tmp_path, other)
