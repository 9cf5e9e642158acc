"""Every example runs to its last assert from the installed wheels, with warnings as errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EXAMPLES = sorted(HERE.glob("[0-9]*.py"))


@pytest.mark.slow  # an example is a whole analysis: it trains models
@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_example_runs_to_its_last_assert(example: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(example)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_example_ends_in_an_assert(example: Path) -> None:
    last = re.findall(r"^assert .*", example.read_text(), re.MULTILINE)
    assert last, f"{example.name} asserts nothing at its top level"


def test_the_readme_and_continuous_integration_run_the_same_command() -> None:
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert command.startswith("python3 -m venv .venv")
    assert f"\n{command}\n" in (ROOT / "README.md").read_text()


def test_the_readme_starts_with_the_main_job() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    job = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && "
    assert blocks[0] == job + ".venv/bin/python examples/01_quickstart.py\n"


def test_the_packages_meet_in_the_examples_only() -> None:
    names = {"neuros_data", "neuros_mechint", "neuros_neurofm", "neuros_sourceweigher"}
    for source in ROOT.glob("packages/neuros-*/src/*/**/*.py"):
        own = source.relative_to(ROOT).parts[3]
        lines = re.findall(r"^\s*(?:from|import) neuros_\w+", source.read_text(), re.MULTILINE)
        imported = {line.split()[-1] for line in lines}
        assert not imported & (names - {own}), f"{source} imports a sibling"
