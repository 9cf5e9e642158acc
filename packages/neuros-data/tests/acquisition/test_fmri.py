"""fMRI: a server with participants, volumes, confounds and an atlas, and a folder of HCP runs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_core import Intervals, Signal
from neuros_data import Store, make_split
from neuros_data.acquisition.fmri import Fmri, FmriSettings
from neuros_data.acquisition.source import SessionInfo, Source
from neuros_data.errors import HCPCredentialsError, NetworkError
from neuros_data.preprocessing import CleanBold
from neuros_data.preprocessing.fmri import MOTION
from neuros_data.transfer import TransferSettings

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")

N, SIDE = 150, 10
EMPTY, OUTSIDE = 3, 7  # parcels without a voxel, and where the scanner saw nothing
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
PLAIN = CleanBold(motion=6)


def _labels() -> np.ndarray:
    """Parcels 1 to 100 but one, ten voxels each: a row along the last axis."""
    labels = np.arange(1, 101).reshape(SIDE, SIDE, 1).repeat(SIDE, axis=2)
    return np.where(labels == EMPTY, 0, labels)


def _volumes(seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(SIDE, SIDE, SIDE, N)) * 10 + 1000
    x[_labels() == OUTSIDE] = 0.0
    return x


def _image(data: np.ndarray, path: Path, step: float = 0.0) -> bytes:
    image = nibabel.Nifti1Image(data, AFFINE)
    if step:
        image.header.set_zooms((4, 4, 4, step))
        image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path.read_bytes()


def _confounds(*, without: str = "") -> bytes:
    rng = np.random.default_rng(5)
    table = {name: rng.normal(scale=0.1, size=N).cumsum() for name in MOTION}
    table |= {name: rng.normal(size=N) for name in ("white_matter", "csf")}
    moved = np.zeros(N)
    moved[[20, 90]] = 0.8
    names = [*table, "framewise_displacement"]
    columns = [[f"{v:.8f}" for v in table[name]] for name in table]
    columns.append(["n/a", *[f"{v:.3f}" for v in moved[1:]]])
    chosen = [i for i, name in enumerate(names) if name != without]
    lines = ["\t".join(["note", *(names[i] for i in chosen)])]
    lines += ["\t".join(["text", *(columns[i][k] for i in chosen)]) for k in range(N)]
    return "\n".join(lines).encode()


PEOPLE = (
    "participant_id\tAge\tAgeGroup\tChild_Adult\tGender\tHandedness\n"
    "sub-pixar002\t4.77\t4yo\tchild\tF\tR\n"
    "sub-pixar001\t25.0\tAdult\tadult\tM\t\n"
    "sub-pixar999\t30.0\tAdult\tadult\tM\tR\n"
)
ORDER = "Schaefer2018_100Parcels_7Networks_order"


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("bodies")
    names = "\n".join(f"{i + 1}\t7Networks_P{i + 1}\t0\t0\t0\t0" for i in range(100))
    found = {
        "/people": PEOPLE.encode(),
        "/file/r1/": _confounds(),
        "/file/r2/": _confounds(),
        f"/atlas/{ORDER}_FSLMNI152_2mm.nii.gz": _image(
            _labels().astype(np.int16), folder / "atlas.nii.gz"
        ),
        f"/atlas/{ORDER}.txt": names.encode(),
    }
    for i in (1, 2):
        found[f"/file/b{i}/"] = _image(_volumes(i).astype(np.float32), folder / f"{i}.nii.gz")
    return found


@pytest.fixture
def settings(archive: Any, bodies: dict[str, bytes], tmp_path: Path) -> Callable[..., FmriSettings]:
    archive.answers = dict(bodies)
    keys = tmp_path / "keys.csv"
    keys.write_text("participant_id,key_r,key_b\nsub-pixar001,r1,b1\nsub-pixar002,r2,b2\n")

    def make(**changed: Any) -> FmriSettings:
        given = {
            "participants_url": f"{archive.url}/people",
            "file_url": f"{archive.url}/file/{{key}}/",
            "key_table": str(keys),
            "atlas_url": f"{archive.url}/atlas/",
            "n_rois": 100,
            "clean": PLAIN,
        }
        return FmriSettings(**(given | changed))

    return make


@pytest.fixture
def prepare(
    settings: Callable[..., FmriSettings],
    transfer: TransferSettings,
    fetch: Callable[..., Path],
) -> Callable[..., Any]:
    """Download and prepare one subject."""

    def run(number: int = 0, **changed: Any) -> Any:
        source = Fmri(settings(**changed))
        session = source.list(transfer)[number]
        return source.prepare(session, fetch(source, session), source.settings)

    return run


def test_people_with_files_are_listed_by_id(
    settings: Callable[..., FmriSettings], transfer: TransferSettings
) -> None:
    found = Fmri(settings()).list(transfer)
    assert [s.id for s in found] == ["sub-pixar001", "sub-pixar002"]
    assert found[1].meta["age"] == 4.77
    assert found[1].meta["age_group"] == "4yo"
    assert "handedness" not in found[0].meta


def test_the_keys_are_those_of_nilearn_by_default(
    settings: Callable[..., FmriSettings], transfer: TransferSettings
) -> None:
    found = Fmri(settings(key_table="")).list(transfer)
    assert [s.id for s in found] == ["sub-pixar001", "sub-pixar002"]
    assert found[0].meta["key_volumes"] == "5c8ff37c2286e80019c3c102"


def test_every_parcel_has_a_channel_and_the_empty_ones_are_invalid(
    prepare: Callable[..., Any],
) -> None:
    prepared = prepare()
    bold = prepared.recording.modalities["fmri"]
    assert isinstance(bold, Signal)
    assert bold.data.shape == (N, 100)
    assert bold.rate == 0.5
    assert bold.channels[EMPTY - 1] == f"7Networks_P{EMPTY}"
    gone = np.flatnonzero(~bold.valid.any(axis=0)).tolist()
    assert gone == [EMPTY - 1, OUTSIDE - 1]
    assert np.isnan(bold.data[:, gone]).all()
    assert np.flatnonzero(np.isnan(bold.data[:, 0])).tolist() == [20, 90]
    said = " ".join(prepared.notes)
    assert "2 of 100 parcels without signal" in said
    assert "2 of 150 volumes left out for motion" in said
    assert "not standardised; Normalizer.fit" in said


def test_a_parcel_is_the_mean_of_its_voxels_before_cleaning(prepare: Callable[..., Any]) -> None:
    nothing = CleanBold(None, None, detrend=False, motion=0, white_matter=False, csf=False, fd=None)
    bold = prepare(clean=nothing).recording.modalities["fmri"]
    expected = _volumes(1).astype(np.float32).mean(axis=2)
    np.testing.assert_allclose(bold.data[:, 0], expected[0, 0], rtol=1e-6)
    np.testing.assert_allclose(bold.data[:, 99], expected[9, 9], rtol=1e-6)


def test_a_person_is_a_label_over_the_whole_recording(
    prepare: Callable[..., Any], make_store: Callable[..., Store]
) -> None:
    one, two = prepare(0), prepare(1)
    person = two.recording.behaviour["subject"]
    assert isinstance(person, Intervals)
    assert person.columns["child_adult"].tolist() == ["child"]
    assert person.end.tolist() == [300.0]
    assert two.support == 300.0
    store = make_store(one.recording, two.recording)
    split = make_split(store, by="subject", ratios=(0.5, 0.5), window=20.0)
    assert split.verify().ok
    with pytest.raises(ValueError, match="guard"):
        make_split(store, by="time", window=20.0, support=two.support)


def test_a_confound_that_is_absent_is_named(prepare: Callable[..., Any], archive: Any) -> None:
    archive.answers["/file/r1/"] = _confounds(without="csf")
    with pytest.raises(ValueError, match="needs the confound 'csf', got framewise_displacement"):
        prepare()


def test_files_that_are_something_else_are_refused(
    prepare: Callable[..., Any], archive: Any
) -> None:
    archive.answers["/file/r1/"] = b""
    with pytest.raises(ValueError, match="needs a header and rows"):
        prepare()
    archive.answers[f"/atlas/{ORDER}.txt"] = b"1\tonly one\t0\t0\t0\t0\n"
    with pytest.raises(ValueError, match="needs the parcels 1 to 100, got 1 lines"):
        prepare(1)
    archive.answers["/people"] = b"<html>"
    with pytest.raises(NetworkError, match="is not a table of participants"):
        prepare()


def test_a_table_of_keys_has_its_columns(
    settings: Callable[..., FmriSettings], transfer: TransferSettings, tmp_path: Path
) -> None:
    (tmp_path / "other.csv").write_text("id,key\n1,2\n")
    with pytest.raises(ValueError, match="needs the columns participant_id, key_r and key_b"):
        Fmri(settings(key_table=str(tmp_path / "other.csv"))).list(transfer)


def test_without_nilearn_the_extra_is_named(
    settings: Callable[..., FmriSettings],
    transfer: TransferSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ImportError, match=r"nilearn; pip install 'neuros-data\[fmri\]'"):
        Fmri(settings(key_table="")).list(transfer)


@pytest.mark.parametrize("folder", ["", "gone"])
def test_hcp_data_are_not_downloaded(
    transfer: TransferSettings, folder: str, tmp_path: Path
) -> None:
    where = str(tmp_path / folder) if folder else ""
    with pytest.raises(HCPCredentialsError, match="accepts the Open Access Data Use Terms in pers"):
        Fmri(FmriSettings(dataset="hcp", folder=where)).list(transfer)
    with pytest.raises(HCPCredentialsError, match="holds no SUBJECT/MNINonLinear/Results"):
        Fmri(FmriSettings(dataset="hcp", folder=str(tmp_path))).list(transfer)


@pytest.fixture
def hcp(tmp_path: Path) -> Path:
    root = tmp_path / "HCP"
    for subject in ("100307", "100206"):
        run = root / subject / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
        run.mkdir(parents=True)
        _image(_volumes(3).astype(np.float32), run / "rfMRI_REST1_LR.nii.gz", step=0.72)
        rng = np.random.default_rng(6)
        motion = rng.normal(scale=0.01, size=(N, 12))
        motion[60:, 3] += 1.0  # a degree on a sphere of 50 mm is 0.87 mm
        np.savetxt(run / "Movement_Regressors.txt", motion)
    return root


def test_hcp_runs_are_read_from_a_folder(
    settings: Callable[..., FmriSettings],
    transfer: TransferSettings,
    fetch: Callable[..., Path],
    hcp: Path,
) -> None:
    source = Fmri(settings(dataset="hcp", folder=str(hcp), clean=CleanBold()))
    found = source.list(transfer)
    assert [s.id for s in found] == ["100206_rfMRI_REST1_LR", "100307_rfMRI_REST1_LR"]
    assert found[0].subject == "100206"
    prepared = source.prepare(found[0], fetch(source, found[0]), source.settings)
    bold = prepared.recording.modalities["fmri"]
    assert bold.rate == pytest.approx(1 / 0.72)
    assert np.flatnonzero(np.isnan(bold.data[:, 0])).tolist() == [60]
    assert prepared.recording.behaviour == {}
    assert any("white matter and CSF" in note for note in prepared.notes)


def test_an_hcp_file_of_motion_has_six_columns(
    settings: Callable[..., FmriSettings],
    transfer: TransferSettings,
    fetch: Callable[..., Path],
    hcp: Path,
) -> None:
    np.savetxt(next(hcp.glob("100206/*/*/*/Mov*")), np.zeros((N, 3)))
    source = Fmri(settings(dataset="hcp", folder=str(hcp)))
    session = source.list(transfer)[0]
    with pytest.raises(ValueError, match="needs six columns or more, got 3"):
        source.prepare(session, fetch(source, session), source.settings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_rois": 150}, "n_rois needs 100 to 1000 in steps of 100, got 150"),
        ({"networks": 8}, "networks needs 7 or 17, got 8"),
        ({"resolution_mm": 3}, "resolution_mm needs 1 or 2, got 3"),
        ({"dataset": "abide"}, "dataset needs 'development' or 'hcp', got 'abide'"),
        ({"repetition_time": 0.0}, "repetition_time needs positive seconds, got 0"),
    ],
)
def test_other_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FmriSettings(**wrong)


def test_the_source_follows_the_protocol() -> None:
    assert isinstance(Fmri(), Source)
    with pytest.raises(TypeError, match="settings needs FmriSettings, got dict"):
        Fmri().prepare(SessionInfo("a", "a", "1"), Path(), {})
