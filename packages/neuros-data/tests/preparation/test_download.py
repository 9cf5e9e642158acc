"""From an archive to a store: selection, resuming, failures, equal bytes on every executor."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from made_source import Made, MadeSettings

from neuros_core import Species
from neuros_data import open_store
from neuros_data.check import check_store
from neuros_data.errors import DiskFullError, LicenceError, NetworkError
from neuros_data.preparation import (
    DownloadPlan,
    _run,
    download,
    licence_terms,
    list_sessions,
    plan_download,
    prepare,
    run_download,
    run_prepare,
)
from neuros_data.preparation._dask import run_on_dask
from neuros_data.preparation._identity import RawFile, config_of
from neuros_data.preparation._plan import check_room
from neuros_data.preparation._task import Task, run_pickled, run_task
from neuros_data.preparation._worker import load, receive, send
from neuros_data.transfer import TransferSettings

Source = Callable[..., Made]
Contents = Callable[[Path], dict[str, Any]]
ONCE = TransferSettings(retries=0)


@pytest.mark.slow  # starts eight worker processes, one after a killed one
def test_every_number_of_jobs_and_a_killed_worker_give_the_same_bytes(
    tmp_path: Path, made: Source, archive: Path, contents: Contents
) -> None:
    source = made(kills="b-1")
    (archive / "died").touch()  # nobody dies in the serial run
    serial = run_download(source, root=tmp_path / "one", jobs=1)
    assert serial.ok
    assert len(serial.prepared) == 6
    wanted = contents(tmp_path / "one")
    assert serial.store.splits == ("auto",)
    assert check_store(serial.store).ok
    provenance = serial.store.files.meta("a-1")["provenance"]
    assert (provenance["torch"], provenance["threads"], provenance["support_s"]) == (
        False,
        "1",
        0.5,
    )
    for jobs in (2, 4):
        if jobs == 2:
            (archive / "died").unlink()
        report = run_download(source, root=tmp_path / str(jobs), jobs=jobs)
        assert report.ok
        assert (archive / "died").exists()
        assert contents(tmp_path / str(jobs)) == wanted
    assert not (tmp_path / "4" / ".work").exists()


@pytest.mark.slow  # starts a cluster, and a worker of it again after it was killed
def test_dask_gives_the_bytes_of_the_local_executor_even_when_a_worker_dies(
    tmp_path: Path, made: Source, archive: Path, contents: Contents
) -> None:
    pytest.importorskip("distributed")
    source = made(kills="b-1")
    (archive / "died").touch()
    download(source, root=tmp_path / "local", jobs=1)
    (archive / "died").unlink()
    report = run_download(source, root=tmp_path / "dask", jobs=2, executor="dask")
    assert report.ok
    assert (archive / "died").exists()
    assert contents(tmp_path / "dask") == contents(tmp_path / "local")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as started, distributed.Client(started) as client:
        yield client


@pytest.mark.slow  # starts a cluster
def test_a_scheduler_that_runs_is_joined_by_address_and_by_file_and_left_running(
    tmp_path: Path, made: Source, contents: Contents, cluster: Any
) -> None:
    visits = tmp_path / "visits"
    source = made(visits=str(visits))
    download(source, root=tmp_path / "local", jobs=1)
    visits.unlink()
    known = tmp_path / "scheduler.json"
    cluster.write_scheduler_file(known)
    workers = set(cluster.run(os.getpid).values())
    for where in (cluster.scheduler.address, str(known)):
        root = tmp_path / f"joined{len(where)}"
        report = run_download(source, root=root, jobs=4, executor=f"dask:{where}")
        assert len(report.prepared) == 6
        assert contents(root) == contents(tmp_path / "local")
        assert set(cluster.run(os.getpid).values()) == workers  # neither ended nor added to
    pids = {int(line.split()[0]) for line in visits.read_text().splitlines()}
    assert pids == workers


@pytest.mark.slow  # kills the worker of a cluster and waits for the next
def test_a_worker_that_dies_with_an_answer_not_yet_fetched_has_its_session_done_again(
    tmp_path: Path, made: Source, cluster: Any
) -> None:
    source = made(visits=str(tmp_path / "visits"))
    sessions = list_sessions(source, 2)
    fetched = run_download(source, 2, root=tmp_path / "s", raw_only=True)
    ledger = json.loads((fetched.store.path / "raw" / "made" / "sessions.json").read_text())
    tasks = [
        Task(
            source,
            info,
            fetched.store.path,
            tuple(RawFile(**f) for f in ledger[info.id]["files"]),
            "0",
        )
        for info in sessions
    ]
    outcomes = run_on_dask(tasks, 1, cluster.scheduler.address)
    first = next(outcomes)
    while len((tmp_path / "visits").read_text().splitlines()) < 2 or any(
        cluster.processing().values()
    ):
        time.sleep(0.01)
    (worker,) = cluster.run(os.getpid).items()
    os.kill(worker[1], signal.SIGKILL)
    while worker[0] in cluster.run_on_scheduler(_workers):
        time.sleep(0.01)
    found = [first, *outcomes]
    assert [outcome.error for outcome in found] == ["", ""]
    assert {outcome.id for outcome in found} == {info.id for info in sessions}


def _workers(dask_scheduler: Any) -> list[str]:
    return list(dask_scheduler.workers)


@pytest.mark.slow  # starts four worker processes
def test_two_sources_share_one_pool(tmp_path: Path, made: Source) -> None:
    for jobs in (1, 2):
        visits = tmp_path / f"visits{jobs}"
        first = made(visits=str(visits))
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        for name in ("x-1", "y-1", "z-1"):
            (other / f"{name}.txt").write_text("1 2 3 4 5")
        settings = MadeSettings(archive=str(other), visits=str(visits))
        second = replace(made(), name="twin", settings=settings)
        report = run_download([first, second], root=tmp_path / str(jobs), jobs=jobs, split="none")
        assert len(report.prepared) == 9
        assert set(report.store.manifest["selections"]) == {"made", "twin"}
        lines = [line.split() for line in visits.read_text().splitlines()]
        assert sorted(name for _, name in lines) == ["made"] * 6 + ["twin"] * 3
        assert len({pid for pid, _ in lines}) <= jobs


def test_a_listing_that_fails_leaves_no_folder_and_an_old_store_as_it_was(
    tmp_path: Path, made: Source
) -> None:
    root = tmp_path / "s"
    with pytest.raises(NetworkError, match="cannot be listed"):
        download(made(listed=False), root=root)
    with pytest.raises(LicenceError, match="Ask first"):
        download(replace(made(), licence="Ask first"), root=root)
    assert not root.exists()
    download(made(), 1, root=root, raw_only=True)
    before = (root / "manifest.json").read_bytes()
    with pytest.raises(NetworkError, match="cannot be listed"):
        download(made(listed=False), root=root)
    assert (root / "manifest.json").read_bytes() == before


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tasks in this process: that of workers is tested above, and each costs half a second."""
    monkeypatch.setattr(_run, "_executor", lambda tasks, work: (run_task(t) for t in tasks))


@pytest.mark.usefixtures("inline")
def test_only_what_changed_is_prepared_again(tmp_path: Path, made: Source, archive: Path) -> None:
    root = tmp_path / "s"
    assert run_download(made(), 3, root=root, jobs=1).store.manifest["selections"]["made"]["n"] == 3
    again = run_download(made(), 3, root=root, jobs=1)
    assert (again.prepared, len(again.skipped)) == ((), 3)
    name = again.skipped[0]
    (archive / f"{name}.txt").write_text("1 2 3 4")
    changed = run_download(made(), 3, root=root, jobs=1)
    assert changed.prepared == (name,)
    assert len(changed.store.recordings[name].modalities["lfp"].data) == 4
    # A raw file that was touched is read again and found equal.
    os.utime(root / "raw" / "made" / name / "a.txt")
    assert run_download(made(), 3, root=root, jobs=1).prepared == ()
    assert len(run_download(made(gain=2.0), 3, root=root, jobs=1).prepared) == 3
    assert len(run_prepare(made(gain=2.0), root=root, jobs=1, force=True).prepared) == 3
    assert len((root / "provenance.jsonl").read_text().splitlines()) == 10


@pytest.mark.usefixtures("inline")
def test_a_failing_session_stops_no_other_and_is_explained(
    tmp_path: Path, made: Source, archive: Path
) -> None:
    (archive / "a-2.txt").write_text("1 2 spam")
    (archive / "remote-1.txt").write_text("")
    root = tmp_path / "s"
    with pytest.warns(UserWarning, match="failed  a-2: ValueError: could not convert"):
        store = download(made(), root=root, jobs=1, transfer=ONCE)
    assert list(store.recordings) == ["a-1", "b-1", "b-2", "c-1", "c-2"]
    lines = [json.loads(line) for line in (root / "failures.jsonl").read_text().splitlines()]
    assert [(line["session"], line["kind"]) for line in lines] == [
        ("a-2", "data"),
        ("remote-1", "network"),
    ]
    assert "made_source.py" in lines[0]["traceback"]
    assert "put the file at" in lines[1]["error"]
    assert check_store(store).ok
    with pytest.raises(NetworkError, match="session remote-1 failed"):
        download(made(), root=root, jobs=1, strict=True, transfer=ONCE)
    (archive / "remote-1.txt").unlink()
    (archive / "a-2.txt").write_text("1 2 3")
    assert run_download(made(), root=root, jobs=1).prepared == ("a-2",)
    assert "remote-1" in (root / "failures.jsonl").read_text()
    assert "a-2" not in (root / "failures.jsonl").read_text()


@pytest.mark.usefixtures("inline")
def test_what_is_required_and_absent_fails_and_names_what_there_is(
    tmp_path: Path, made: Source
) -> None:
    with pytest.raises(ValueError, match=r"MissingChannelError: .* lacks z; it has lfp, p, q, r"):
        download(made(), 1, root=tmp_path / "s", jobs=1, require=["lfp", "q", "z"])


def test_n_takes_the_same_ones_every_time_and_says_when_there_are_fewer(made: Source) -> None:
    ids = [s.id for s in list_sessions(made(), 3)]
    assert ids == [s.id for s in list_sessions(made(), 3)] == sorted(ids)
    drawn = {tuple(s.id for s in list_sessions(made(), 3, seed=seed)) for seed in range(8)}
    assert len(drawn) > 1
    assert len(list_sessions(made(), 2, n_of="subject")) == 4


def test_a_plan_says_what_would_be_fetched(tmp_path: Path, made: Source, archive: Path) -> None:
    found = plan_download(made(), 9, root=tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert len(found.files) == 6
    assert found.bytes == sum(p.stat().st_size for p in archive.glob("*.txt"))
    assert found.notes == ("made has 6 sessions, 9 were asked for: all are taken",)
    assert "6 sessions, 6 files" in str(found)
    assert found.to_dict()["prepared_bytes"] == found.bytes
    full = DownloadPlan(("a",), (), 10, 0, 10, 15)
    with pytest.raises(DiskFullError, match="s needs about"):
        check_room(full, tmp_path / "s")


def test_terms_are_asked_for_once(tmp_path: Path, made: Source) -> None:
    terms = replace(made(), licence="Terms of Use of nobody")
    root = tmp_path / "s"
    with pytest.raises(LicenceError, match=r"Terms of Use of nobody.*--licence-accept"):
        download(terms, 1, root=root, raw_only=True)
    assert licence_terms(terms, root) == {"made": "Terms of Use of nobody"}
    store = download(terms, 1, root=root, raw_only=True, licence_accept=True)
    assert len(store.recordings) == 0
    assert store.manifest["accepted"]["made"]["terms"] == "Terms of Use of nobody"
    assert licence_terms(terms, root) == {}
    download(terms, 1, root=root, raw_only=True)


@pytest.mark.usefixtures("inline")
def test_raw_files_are_prepared_later_and_without_the_archive(
    tmp_path: Path, made: Source, archive: Path
) -> None:
    root = tmp_path / "s"
    source = made()
    report = run_download(source, 2, root=root, raw_only=True)
    assert (len(report.fetched), report.prepared) == (2, ())
    for path in archive.glob("*.txt"):
        path.unlink()
    (root / "raw" / "made" / report.fetched[0] / "a.txt").unlink()
    later = run_prepare(source, root=root, jobs=1)
    assert later.prepared == report.fetched[1:]
    assert "No such file" in later.failed[0].error
    with pytest.raises(ValueError, match="has no raw files of 'other'"):
        prepare(replace(source, name="other"), root=root)


def _full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_a_valid_store(
    tmp_path: Path, made: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    first = list_sessions(made(), 1)[0]
    download(made(), 1, root=root, jobs=1)
    # Workers are processes of their own: the task runs here, where `write` can be made to fail.
    monkeypatch.setattr(_run, "_executor", lambda tasks, work: (run_task(t) for t in tasks))
    monkeypatch.setattr("neuros_data._recording_io.write_array", _full)
    with pytest.raises(DiskFullError, match=r"no space left: .* needs about"):
        download(made(), root=root, jobs=1)
    store = open_store(root)
    assert list(store.recordings) == [first.id]
    assert check_store(store).ok
    assert not (root / ".work").exists()
    monkeypatch.undo()
    monkeypatch.setattr("neuros_data.preparation._run.write_manifest", _full)
    assert download(made(), 1, root=root, jobs=1).manifest["sessions"].keys() == {first.id}


def test_a_task_that_cannot_be_unpickled_is_a_failure() -> None:
    found = run_pickled(b"cno_such_module\nThing\n.")
    assert (found.kind, "no_such_module" in found.error) == ("data", True)


def test_sources_with_equal_ids_need_two_stores(tmp_path: Path, made: Source) -> None:
    twins = [made(), replace(made(), name="twin")]
    with pytest.raises(ValueError, match=r"'made' and 'twin' both have a session 'a-1'"):
        download(twins, root=tmp_path / "s")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, made: Source) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is no store and holds .*thesis.txt"):
        download(made(), root=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n needs 1 or more, got 0"),
        ({"jobs": 0}, "jobs needs 1 or more, got 0"),
        ({"n_of": "mouse"}, "n_of"),
        ({"split": "mouse"}, "split"),
        ({"executor": "ray"}, "executor"),
        ({"executor": "local:8786"}, "executor local has no address"),
        ({"source": []}, "sources need to be one or more"),
        ({"source": [Made(), Made()]}, "sources need to be one or more that differ"),
        ({"source": [Made(), Made()], "settings": MadeSettings()}, "settings are those of one"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        download(**{"source": Made(), "root": tmp_path / "s", **options})


def test_wrong_types_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match=r"a Source, got (Posix|Windows)Path"):
        download([tmp_path], root=tmp_path / "s")
    with pytest.raises(TypeError, match="require needs a list of names"):
        download(Made(), root=tmp_path / "s", require="eeg")
    with pytest.raises(KeyError, match="no source 'nowhere'"):
        download("nowhere", root=tmp_path / "s")
    monkeypatch.setattr(Made, "__module__", "__main__")
    with pytest.raises(TypeError, match="define it in a module"):
        download(Made(), root=tmp_path / "s")


@pytest.mark.slow  # starts processes and kills them
def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, made: Source, archive: Path
) -> None:
    source = made()
    root = tmp_path / "s"
    # A pipe as the second session: whoever reads it waits until it is killed.
    download(source, 1, root=root, jobs=1)
    done = set(open_store(root).recordings)
    run_download(source, root=root, raw_only=True)
    stuck = next(
        p
        for p in sorted((root / "raw" / "made").iterdir())
        if p.name not in done | {"sessions.json"}
    )
    kept = (stuck / "a.txt").read_bytes()
    (stuck / "a.txt").unlink()
    os.mkfifo(stuck / "a.txt")
    code = (
        f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n"
        # Whoever started the tests in the background has told their children to ignore it.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from neuros_data import cli\n"
        "from neuros_data._commands import _prepare_options as o\n"
        "from made_source import Made, MadeSettings\n"
        f"o.sources = lambda: {{'made': Made(MadeSettings(archive={str(archive)!r}))}}\n"
        "from neuros_data.preparation import _run\n"
        "_run.hash_file = lambda path: 'x'\n"
        f"sys.exit(cli.main(['prepare', 'made', '--root', {str(root)!r}, '--jobs', '1']))\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with (tmp_path / "said").open("wb") as said:
            running = subprocess.Popen([sys.executable, "-c", code], stderr=said)
        # Opening for writing without a reader fails until the worker has come to the pipe.
        while True:
            try:
                pipe = os.open(stuck / "a.txt", os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:
                time.sleep(0.02)
        start = time.monotonic()
        running.send_signal(number)
        running.wait()
        assert time.monotonic() - start < 2
        # A worker whose parent was killed reads this, fails, and ends for want of a parent.
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, b"spam")
        os.close(pipe)
        assert running.returncode == (-9 if number == signal.SIGKILL else 130)
    (stuck / "a.txt").unlink()
    (stuck / "a.txt").write_bytes(kept)
    report = run_download(source, root=root, jobs=1)
    assert report.ok
    assert len(report.prepared) + len(report.skipped) == 6
    assert done <= set(report.skipped)
    assert check_store(report.store).ok


@pytest.mark.slow  # starts three worker processes, which die
def test_a_session_that_kills_every_worker_fails_alone(tmp_path: Path, made: Source) -> None:
    source = made(kills="always a-1")
    report = run_download(source, root=tmp_path / "s", jobs=1)
    assert [f.id for f in report.failed] == ["a-1"]
    assert "ended 3 times, last with exit code -9" in report.failed[0].error
    assert len(report.prepared) == 5


def test_messages_between_processes_are_whole_or_refused() -> None:
    stream = io.BytesIO()
    send(stream, {"a": 1})
    content = stream.getvalue()
    assert load(receive(io.BytesIO(content))) == {"a": 1}
    with pytest.raises(EOFError, match=r"closed the pipe$"):
        receive(io.BytesIO(b""))
    with pytest.raises(EOFError, match="in the middle of a message"):
        receive(io.BytesIO(content[:-1]))


def test_settings_are_written_as_json_can_hold_them(made: Source) -> None:
    values = {"p": Path("a"), "s": {2, 1}, "m": Species.RAT, "n": np.float64(0.5), "x": None}
    config = config_of(replace(made(), settings=MadeSettings(runs=(values,))))
    assert config["settings"]["runs"] == [{"p": "a", "s": [1, 2], "m": "rat", "n": 0.5, "x": None}]
    with pytest.raises(TypeError, match="settings need what JSON can hold, got object"):
        config_of(replace(made(), settings=MadeSettings(runs=(object(),))))


def test_a_source_that_names_its_recording_otherwise_is_at_fault(
    tmp_path: Path, made: Source
) -> None:
    source = made()
    task = Task(source, list_sessions(source)[0], tmp_path, (), "0")
    task.folder.mkdir(parents=True)
    (task.folder / "a.txt").write_text("1 2 3")
    other = replace(task, info=replace(task.info, id="renamed"), source=_Renaming(source.settings))
    (tmp_path / "raw" / "made" / "renamed").mkdir()
    (tmp_path / "raw" / "made" / "renamed" / "a.txt").write_text("1 2 3")
    assert "needs to give session 'renamed' that id" in run_task(other).error


class _Renaming(Made):
    def prepare(self, session: Any, folder: Path, settings: Any) -> Any:
        return super().prepare(replace(session, id="a-9"), folder, settings)
