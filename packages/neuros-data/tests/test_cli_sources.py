"""The commands around archives: what they print, and their exit codes."""

import contextlib
import errno
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import pytest

sys.path.append(str(Path(__file__).parent / "preparation"))

from made_source import Made, MadeSettings  # found on the path set above

from neuros_data import copy_sample, open_store
from neuros_data._commands import _prepare_options
from neuros_data._commands.download import join_runs
from neuros_data.cli import main
from neuros_data.preparation import _run
from neuros_data.preparation._task import run_task

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two sources, found by name: one open, one under terms."""
    archive = tmp_path / "archive"
    archive.mkdir()
    for name in ("a-1", "b-1", "c-1"):
        (archive / f"{name}.txt").write_text(" ".join(str(k % 9) for k in range(300)))
    made = Made(MadeSettings(archive=str(archive)))
    known = {"made": made, "strict": replace(made, name="strict", licence="Ask first")}
    monkeypatch.setattr(_prepare_options, "sources", lambda: known)
    monkeypatch.setattr("neuros_data.acquisition.source.sources", lambda: known)
    return str(tmp_path / "s")


def test_sources_are_listed(root: str, capsys: Capture) -> None:
    assert main(["sources"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "modality", "species", "size", "licence", "login"]
    assert lines[1].split() == ["made", "lfp", "rat", "tiny", "CC0-1.0", "none"]
    assert main(["sources", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][1]["licence"] == "Ask first"


@pytest.mark.slow  # starts four worker processes
def test_download_then_prepare_with_a_configuration(
    root: str, tmp_path: Path, capsys: Capture
) -> None:
    words = ["--root", root, "--jobs", "1"]
    assert main(["download", "made", "--n_sessions", "2", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], len(found["prepared"])) == (True, 2)
    assert open_store(root).splits == ()
    assert "no split was made" in found["notes"][0]
    assert main(["download", "made", *words]) == 0
    assert "1 prepared, 2 were finished, 0 failed" in capsys.readouterr().out
    config = tmp_path / "made.toml"
    config.write_text("gain = 3.0\nruns = [4, 8]\n")
    assert main(["prepare", "made", "--config", str(config), *words, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    made = open_store(root).files.meta("a-1")["provenance"]["preparation"]
    assert made["config"]["settings"]["runs"] == [4, 8]
    assert made["config"]["settings"]["gain"] == 3.0


def test_listing_and_a_dry_run_fetch_nothing(root: str, capsys: Capture) -> None:
    assert main(["download", "made", "--list", "--n-subjects", "2", "--root", root]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["download", "made", "--dry-run", "--json", "--root", root]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["ok"]
    assert len(plan["files"]) == 3
    assert plan["free_bytes"] > plan["bytes"] > 0
    assert not Path(root).exists()


def test_terms_that_nobody_accepts_end_with_two(root: str, capsys: Capture) -> None:
    assert main(["download", "strict", "--root", root, "--raw-only"]) == 2
    assert "Ask first" in capsys.readouterr().err
    words = ["download", "strict", "--root", root, "--raw-only", "--licence-accept"]
    assert main(words) == 0
    assert main(words[:-1]) == 0


def test_terms_are_asked_for_on_a_terminal(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return "y\n"

        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            return

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("neuros_data._commands._prepare_options.sys.stderr", terminal)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: "y")
    assert _prepare_options.agree({"strict": "Ask first"}, accepted=False)
    assert not _prepare_options.agree({}, accepted=False)


@pytest.mark.slow  # starts two worker processes
def test_failures_end_with_one_or_with_three(root: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "archive" / "b-1.txt").write_text("1 spam")
    words = ["download", "made", "--root", root, "--jobs", "2"]
    assert main([*words, "--json"]) == 1
    found = capsys.readouterr()
    assert json.loads(found.out)["failed"][0]["session"] == "b-1"
    assert "could not convert" in found.err
    assert main([*words, "--require", "lfp,z"]) == 1
    assert main(["download", "made", "--root", root, "--strict"]) == 1
    assert "session b-1 failed: ValueError: could not convert" in capsys.readouterr().err
    (tmp_path / "archive" / "b-1.txt").unlink()
    (tmp_path / "archive" / "remote-1.txt").write_text("")
    (tmp_path / "archive" / "a-1.txt").unlink()
    assert main([*words, "--retries", "0"]) == 3
    assert "put the file at" in capsys.readouterr().out


def _full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_a_download_with_four(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    # Workers are processes of their own: the task runs here, where `write` can be made to fail.
    monkeypatch.setattr(_run, "_executor", lambda tasks, work: (run_task(t) for t in tasks))
    monkeypatch.setattr("neuros_data._recording_io.write_array", _full)
    words = ["download", "made", "--root", root, "--jobs", "1", "--json"]
    assert main(words) == 4
    found = capsys.readouterr()
    assert json.loads(found.out.splitlines()[-1])["exit"] == 4  # the source prints too
    assert "no space left" in found.err
    assert len(open_store(root).recordings) == 0
    monkeypatch.undo()
    none_free = shutil.disk_usage(".")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: none_free)
    archive = Path(root).parent / "archive"
    known = {"made": Made(MadeSettings(archive=str(archive)))}
    monkeypatch.setattr(_prepare_options, "sources", lambda: known)
    fresh = str(Path(root).with_name("fresh"))
    assert main(["download", "made", "--root", fresh, "--jobs", "1"]) == 4
    assert "needs about" in capsys.readouterr().err
    assert main(["download", "made", "--root", fresh, "--dry-run"]) == 4


@pytest.mark.slow  # starts a process and interrupts it
def test_ctrl_c_ends_a_download_with_130_and_what_came_is_resumed(
    root: str, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    (archive / "remote-1.txt").write_text("")
    body = b" ".join(b"%d" % (k % 9) for k in range(100_000))
    asked, go_on = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            asked.set()
            go_on.wait()
            with contextlib.suppress(OSError):
                self.wfile.write(body[len(body) // 2 :])

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/a.txt"
    code = (
        f"import sys; sys.path.append({str(Path(__file__).parent / 'preparation')!r})\n"
        # Whoever started the tests in the background has told their children to ignore it.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from neuros_data import cli\n"
        "from neuros_data._commands import _prepare_options as o\n"
        "from made_source import Made, MadeSettings\n"
        f"made = Made(MadeSettings(archive={str(archive)!r}, url={url!r}))\n"
        "o.sources = lambda: {'made': made}\n"
        f"sys.exit(cli.main(['download', 'made', '--root', {root!r}, '--jobs', '2', '--json']))\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert asked.wait(30)
        start = time.monotonic()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
        took = time.monotonic() - start
    finally:
        running.kill()
        go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
    assert running.returncode == 130, err
    assert took < 2
    assert json.loads(out)["exit"] == 130
    assert b"interrupted; run again to go on" in err
    assert not list(Path(root).rglob("remote-1/a.txt"))
    assert list(Path(root).rglob("remote-1/a.txt.part"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["download", "nowhere"], "no source 'nowhere'; there are made, strict"),
        (["download", "made", "--n-rois", "400"], "--n-rois is no setting of made"),
        (["download", "made", "--dandiset", "000021"], "--dandiset is no setting of made"),
        (["download", "made", "--runs", "four"], "--runs needs whole numbers, got 'four'"),
        (["download", "made", "--n", "1", "--n-subjects", "1"], "cannot both be given"),
        (["download", "made", "--config", "x.ini"], "a configuration is .toml or .json"),
        (["prepare", "made", "--config", "BAD.toml"], "is not TOML"),
        (["prepare", "made", "--config", "ODD.toml"], "MadeSettings has no volume; it has"),
        (["prepare", "made", "strict", "--config", "ODD.toml"], "the configuration has"),
        (["sample", "--full"], "--full needs DIRECTORY"),
        (["sample", "OUT", "--full"], "come under these terms"),
    ],
)
def test_usage_faults_say_what_to_do(
    words: list[str], message: str, root: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "BAD.toml").write_text("= 1")
    (tmp_path / "ODD.toml").write_text("volume = 11")
    named = [str(tmp_path / w) if w.endswith(".toml") or w == "OUT" else w for w in words]
    extra = ["--root", root] if words[0] != "sample" else []
    assert main([*named, *extra]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "OUT").exists()


def test_runs_are_taken_with_spaces_and_with_commas() -> None:
    assert join_runs(["eeg", "--runs", "4", "8", "--n", "2"]) == [
        *("eeg", "--runs", "4,8", "--n", "2")
    ]
    assert join_runs(["--runs", "4,8"]) == ["--runs", "4,8"]
    assert join_runs(["--runs"]) == ["--runs"]


def test_json_configures_several_sources_and_what_is_inside(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"made": {"gain": 2.5}}))
    made = Made(MadeSettings(archive="x"))
    two = _prepare_options.configure([made, replace(made, name="b")], path, {"runs": (1,)})
    assert [(s.settings.gain, s.settings.runs) for s in two] == [(2.5, (1,)), (1.0, (1,))]
    assert _prepare_options.change(made, {"settings": {"gain": 4.0}}).settings.gain == 4.0


@pytest.mark.slow  # starts a worker process
def test_local_files_become_recordings(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "walk.csv"
    path.write_text("time_s,Cz,Oz\n" + "".join(f"{k / 10},{k % 7},{k % 5}\n" for k in range(50)))
    words = ["import", str(path), "--modality", "eeg", "--subject", "S1", "--session", "2"]
    assert main([*words, "--root", str(tmp_path / "s"), "--json"]) == 0
    (name,) = json.loads(capsys.readouterr().out)["prepared"]
    recording = open_store(tmp_path / "s").recordings[name]
    assert (recording.subject, recording.session) == ("S1", "2")
    assert recording.modalities["eeg"].channels == ("Cz", "Oz")
    assert main(["import", str(tmp_path / "no.csv"), "--root", str(tmp_path / "s")]) == 1


def test_card_export_and_bench_describe_a_store(tmp_path: Path, capsys: Capture) -> None:
    where = str(tmp_path / "emg")
    copy_sample(where, modality="emg")
    assert main(["card", where]) == 0
    assert capsys.readouterr().out.startswith("# ")
    assert main(["card", where, "--html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["html"].startswith("<!")
    assert main(["export", where, "--to", "npz", "--window", "2.0", "--stride", "1.0"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "emg-npz" / "emg_bursts_emg.npz")
    ]
    assert main(["export", where, "--to", "npz"]) == 2
    assert main(["bench", where, "--window", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["speeds"][0]["modality"] == "emg"
