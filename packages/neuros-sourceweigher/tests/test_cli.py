"""The command from samples to weights, its exit codes and its one-line errors."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from neuros_core.domains import DomainStatistics, SourceWeights, load_statistics, save_statistics
from neuros_sourceweigher import (
    ClassConditionalWeigher,
    RandomFourierMap,
    SourceWeigher,
    regularization_path,
)
from neuros_sourceweigher.cli import main


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """Two sources and a target that is three quarters the first."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, rows in {
        "monday": rng.normal(size=(400, 3)),
        "tuesday": rng.normal(size=(400, 3)) + np.array([3, 0, 0]),
        "today": np.concatenate(
            [rng.normal(size=(300, 3)), rng.normal(size=(100, 3)) + np.array([3, 0, 0])]
        ),
    }.items():
        np.save(tmp_path / f"{name}.npy", rows)
    return tmp_path


@pytest.fixture
def statistics(samples, capsys):
    for name in ("monday", "tuesday", "today"):
        assert main(["stats", f"{name}.npy", "--name", name, "-o", "all.npz", "--append"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all.npz: today, n=400, d=3"
    return samples / "all.npz"


def failure(capsys, arguments):
    """Run a command that must fail with bad input, and return its only line."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("neuros-sourceweigher")
    return err


def test_samples_become_the_weights_of_the_library(statistics, capsys):
    assert main(["fit", "all.npz", "--target", "today", "--json"]) == 0
    got = SourceWeights.from_json(capsys.readouterr().out)
    *sources, target = load_statistics(statistics)
    assert got.to_json() == SourceWeigher().fit(sources, target).to_json()
    assert abs(got["monday"] - 0.75) < 0.1


def test_weights_are_printed_as_a_table(statistics, capsys):
    assert main(["fit", "all.npz", "--target", "today", "--ridge", "0.25"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"monday   0\.\d{6}", lines[0])
    assert re.fullmatch(r"tuesday  0\.\d{6}", lines[1])
    assert lines[2].startswith("gap ")


def test_a_source_of_low_quality_counts_less(statistics, capsys):
    arguments = ["fit", "all.npz", "--target", "today", "--ridge", "0.5", "--json"]
    assert main([*arguments, "--quality", "monday=0.25"]) == 0
    got = SourceWeights.from_json(capsys.readouterr().out)
    *sources, target = load_statistics(statistics)
    local = SourceWeigher(ridge=0.5).fit(sources, target, quality={"monday": 0.25})
    assert got.to_json() == local.to_json()
    assert "needs NAME=SHARE, got 'monday'" in failure(capsys, [*arguments, "--quality", "monday"])


def test_joint_weights_of_classes_are_those_of_the_library(samples, capsys):
    np.save("labels.npy", np.tile(["rest", "move"], 200))
    for name in ("monday", "tuesday", "today"):
        labels = [] if name == "today" else ["--labels", "labels.npy"]
        made = ["stats", f"{name}.npy", "--name", name, "-o", "all.npz", "--append"]
        assert main([*made, *labels]) == 0
    capsys.readouterr()
    arguments = ["fit", "all.npz", "--target", "today", "--method", "class-conditional"]
    assert main([*arguments, "--ridge", "0.1", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    *sources, target = load_statistics(samples / "all.npz")
    local = ClassConditionalWeigher(ridge=0.1).fit(sources, target)
    assert got["classes"] == ["move", "rest"]
    assert got["joint"] == local.joint.tolist()
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["move", "rest"]
    assert [line.split()[0] for line in lines[1:]] == ["monday", "tuesday"]
    refused = failure(capsys, [*arguments, "--moments", "mean", "--require-hull"])
    assert "class-conditional takes no --moments, --require-hull" in refused
    refused = failure(capsys, ["fit", "all.npz", "--target", "today", "--min-count", "2"])
    assert "--min-count needs --method class-conditional" in refused


def test_sources_may_come_from_several_files(samples, capsys):
    for name in ("monday", "tuesday", "today"):
        assert main(["stats", f"{name}.npy", "--name", name, "-o", f"{name}.npz"]) == 0
    files = ["monday.npz", "tuesday.npz", "today.npz"]
    capsys.readouterr()
    assert main(["fit", *files, "--target", "today", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == ["monday", "tuesday"]


def test_statistics_keep_classes_space_and_cov_as_asked(samples):
    np.save("labels.npy", np.repeat(["rest", "move"], 200))
    arguments = ["stats", "today.npy", "--name", "t", "--space", "raw", "-o", "t.npz"]
    assert main([*arguments, "--labels", "labels.npy"]) == 0
    (kept,) = load_statistics("t.npz")
    assert (kept.name, kept.space, [*kept.classes]) == ("t", "raw", ["move", "rest"])
    local = DomainStatistics.from_samples(
        np.load("today.npy"), name="t", space="raw", y=np.load("labels.npy")
    )
    assert kept.to_json() == local.to_json()
    assert main([*arguments, "--no-cov"]) == 0
    assert load_statistics("t.npz")[0].cov is None


def test_equal_sources_are_named_as_ambiguous(tmp_path, capsys):
    path = tmp_path / "x.npz"
    domains = [DomainStatistics(name, 9, [1.0, 2.0], np.eye(2)) for name in ("a", "b", "t")]
    save_statistics(path, domains)
    assert main(["fit", str(path), "--target", "t"]) == 0
    assert "cannot be told apart: a, b" in capsys.readouterr().out


def test_bad_input_is_named_in_one_line(statistics, capsys):
    fit = ["fit", "all.npz", "--target", "today"]
    np.save("objects.npy", np.array([{}], dtype=object))
    np.savez("several.npz", a=1)
    (statistics.parent / "text.npy").write_text("no numbers")
    stats = ["--name", "x", "-o", "x.npz"]
    cases = {
        "needs one of the domains monday, today, tuesday, got 'noon'": [*fit[:-1], "noon"],
        "--target": ["fit", "all.npz"],
        "nowhere.npz needs a file written by `stats`": ["fit", "nowhere.npz", "--target", "x"],
        "several.npz needs a file written by `stats`": ["fit", "several.npz", "--target", "x"],
        "objects.npy needs a .npy file of numbers": ["stats", "objects.npy", *stats],
        "text.npy needs a .npy file of numbers": ["stats", "text.npy", *stats],
        "several.npz needs a .npy file of one array": ["stats", "several.npz", *stats],
        "nowhere.npy needs a .npy file of numbers: No such": ["stats", "nowhere.npy", *stats],
        "ridge needs a finite": [*fit, "--ridge", "-1"],
        "ridge needs": [*fit, "--ridge", "much"],
        "metric needs one of": [*fit, "--metric", "astrology"],
        "invalid choice": [*fit, "--method", "guess"],
        "needs a name that all.npz lacks": [
            *("stats", "today.npy", "--name", "today", "-o", "all.npz", "--append"),
        ],
        "invalid float value: 'x'": ["project", "x"],
        "radius": ["project", "1", "--radius", "0"],
        "needs a whole number >= 1, got '0'": ["serve", "--workers", "0"],
        "argument COMMAND: invalid choice": ["dance"],
        "arguments are required: COMMAND": [],
    }
    for message, arguments in cases.items():
        assert message in failure(capsys, arguments), arguments


def test_the_path_of_ridges_is_that_of_the_library(statistics, capsys):
    *sources, target = load_statistics(statistics)
    path = ["path", "all.npz", "--target", "today", "--folds", "3", "--ridges", "0", "1", "1e9"]
    local = regularization_path(sources, target, [0.0, 1.0, 1e9], 3)
    assert main([*path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == ["monday", "tuesday"]
    assert found["weights"] == local.weights.tolist()
    assert found["discrepancy"] == local.discrepancy.tolist()
    assert main(path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert [line.endswith("best") for line in lines].count(True) == 1


def test_random_features_are_those_of_the_library(samples, capsys):
    stats = ["stats", "today.npy", "--name", "t", "-o", "t.npz", "--rff", "32"]
    assert main([*stats, "--bandwidth", "1.5", "3", "--seed", "2"]) == 0
    phi = RandomFourierMap(dim=3, n_features=32, bandwidth=(1.5, 3.0), seed=2)
    (kept,) = load_statistics("t.npz")
    local = DomainStatistics.from_samples(
        phi.transform(np.load("today.npy")), name="t", space=phi.space
    )
    assert kept.to_json() == local.to_json()
    capsys.readouterr()
    assert "--rff needs --bandwidth" in failure(capsys, stats)
    np.save("flat.npy", np.zeros(3))
    flat = [*stats, "--bandwidth", "1"]
    flat[1] = "flat.npy"
    assert "flat.npy needs 2 axes (n, d)" in failure(capsys, flat)
    assert "--bandwidth needs --rff" in failure(capsys, [*stats[:-2], "--bandwidth", "1"])


def test_the_hull_decides_the_exit_code(statistics, samples, capsys):
    assert main(["fit", "all.npz", "--target", "today", "--require-hull"]) == 0
    np.save("far.npy", np.load("today.npy") + np.array([0, 9, 0]))
    assert main(["stats", "far.npy", "--name", "far", "-o", "far.npz"]) == 0
    for name in ("monday", "tuesday"):
        assert main(["stats", f"{name}.npy", "--name", name, "-o", "far.npz", "--append"]) == 0
    capsys.readouterr()
    fit = ["fit", "far.npz", "--target", "far", "--n-bootstrap", "20", "--require-hull"]
    assert main(fit) == 1
    out = capsys.readouterr().out
    assert "in hull False" in out
    assert re.search(r"monday   0\.\d{6}  \[0\.\d{6}, [01]\.\d{6}\]", out)


def test_an_identity_metric_cannot_require_the_hull(statistics, capsys):
    arguments = ["fit", "all.npz", "--target", "today", "--metric", "identity", "--require-hull"]
    assert main(arguments) == 2
    assert "--require-hull needs a metric that tests it" in capsys.readouterr().err


def test_points_are_projected_from_arguments_and_from_input(capsys, monkeypatch):
    assert main(["project", "0.5", "1", "-2", "--radius", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [0.75, 1.25, 0.0]
    monkeypatch.setattr("sys.stdin", io.StringIO("1,1\n\n0.25 0.5 3\n"))
    assert main(["project"]) == 0
    assert capsys.readouterr().out == "0.5 0.5\n0.0 0.0 1.0\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("1 1\n"))
    assert main(["project", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [[0.5, 0.5]]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert "needs numbers as arguments or one row a line" in failure(capsys, ["project"])
    monkeypatch.setattr("sys.stdin", io.StringIO("1 one\n"))
    assert "could not convert" in failure(capsys, ["project"])


def test_help_and_version_end_well(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("neuros-sourceweigher 0.")
    assert main(["fit", "--help"]) == 0
    assert "--require-hull" in capsys.readouterr().out


def test_an_interrupt_ends_with_130(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuros_sourceweigher.cli.project_simplex", interrupt)
    assert main(["project", "1"]) == 130


def test_the_description_is_written_as_json(capsys):
    pytest.importorskip("fastapi", reason="the extra [service] is not installed")
    assert main(["openapi"]) == 0
    assert "/v1/weights" in json.loads(capsys.readouterr().out)["paths"]


def test_a_bad_setting_ends_with_two(capsys, monkeypatch):
    pytest.importorskip("fastapi", reason="the extra [service] is not installed")
    monkeypatch.setenv("SOURCEWEIGHER_MAX_SOURCES", "many")
    assert "SOURCEWEIGHER_MAX_SOURCES: Input should be" in failure(capsys, ["serve"])
    monkeypatch.delenv("SOURCEWEIGHER_MAX_SOURCES")
    assert "SOURCEWEIGHER_PORT" in failure(capsys, ["serve", "--port", "-5"])
    assert "SOURCEWEIGHER_TOKEN_FILE" in failure(capsys, ["serve", "--token-file", "nowhere"])


# A fresh interpreter has to import NumPy and SciPy.
@pytest.mark.slow
def test_the_module_runs_as_a_command_and_serve_names_its_extra():
    command = [sys.executable, "-m", "neuros_sourceweigher", "project", "1", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0.5 0.5\n"
    code = (
        "import sys; sys.modules['uvicorn'] = None; "
        "from neuros_sourceweigher.cli import main; "
        "assert not {'torch', 'sklearn', 'fastapi', 'httpx'} & sys.modules.keys(); "
        "sys.exit(main(['serve']))"
    )
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'neuros-sourceweigher[service]'" in done.stderr
