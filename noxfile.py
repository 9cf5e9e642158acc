"""Every check, one session each: `nox -l` lists them, `nox -R` re-runs them offline."""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.sessions = ["wheels", "tests", "lint", "isolation", "types", "examples", "docs"]

ROOT = Path(__file__).parent
PACKAGES = sorted(p.parent.name for p in ROOT.glob("packages/*/pyproject.toml"))
SOURCES = [f"packages/{p}/src" for p in PACKAGES]
CONSTRAINTS = ("--no-compile", "-c", "constraints.txt")
package = nox.parametrize("package", PACKAGES, ids=PACKAGES)


def project(name: str) -> dict:
    return nox.project.load_toml(f"packages/{name}/pyproject.toml")["project"]


def group(*names: str) -> list[str]:
    return list(nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *names))


def wheel(name: str, *, extras: bool = False) -> str:
    path = ROOT / "dist" / f"{name.replace('-', '_')}-{project(name)['version']}-py3-none-any.whl"
    names = ",".join(project(name).get("optional-dependencies", {})) if extras else ""
    return f"{path}[{names}]" if names else str(path)


def install_wheels(session: nox.Session, names: list[str], *options: str, extras: bool) -> None:
    """Install dependencies once, and today's code always: pip keeps a wheel of equal version."""
    session.install(*options, *(wheel(name, extras=extras) for name in names))
    today = ["--no-index", "--no-deps", "--force-reinstall", "--no-compile", "-q"]
    session.run("python", "-m", "pip", "install", *today, *(wheel(name) for name in names))


def isolated(session: nox.Session, name: str, *options: str) -> None:
    """Import every module with the declared dependencies alone, then test with the extras."""
    names = list(dict.fromkeys(["neuros-core", name]))
    install_wheels(session, names, *options, extras=False)
    module = name.replace("-", "_")
    session.run("python", "-I", "tools/check_imports.py", module, env={"EAGER_IMPORT": "1"})
    session.install(*options, *group("test"), *(wheel(n, extras=True) for n in names))
    shapes = [f"--jaxtyping-packages={module},beartype.beartype"]
    torch = any(d.startswith("jaxtyping") for d in project(name)["dependencies"])
    session.run(
        *("pytest", "-c", "pyproject.toml", "--import-mode=importlib", "-m", "not oracle"),
        *(f"--cov={module}", "--cov-report=term", *(shapes if torch else [])),
        *("--doctest-modules", "--pyargs", module, f"packages/{name}/tests"),
        *session.posargs,
        env={"PYTHONPATH": "", "COVERAGE_FILE": f".coverage.{module}"},
    )


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the five wheels into dist/ (`-- --sdist` for a release)."""
    session.install("-c", "constraints.txt", *group("build"))
    shutil.rmtree("dist", ignore_errors=True)
    kinds = session.posargs or ["--wheel"]
    for name in PACKAGES:
        session.run("pyproject-build", *kinds, "--no-isolation", "-o", "dist", f"packages/{name}")


@nox.session(requires=["wheels"])
@package
def tests(session: nox.Session, package: str) -> None:
    """Run one package's tests from its wheel, with nothing installed but what it declares."""
    isolated(session, package, *CONSTRAINTS)


@nox.session(requires=["wheels"])
@package
def lowest(session: nox.Session, package: str) -> None:
    """Run the isolated tests with every declared floor installed exactly."""
    floors = session.run("python", "tools/floors.py", package, silent=True, external=True)
    isolated(session, package, "--no-compile", "-c", str(floors).strip())


@nox.session(requires=["wheels"])
@package
def latest(session: nox.Session, package: str) -> None:
    """Run the isolated tests with the newest of every dependency."""
    isolated(session, package, "--no-compile", "--upgrade")


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, rules, declared dependencies, metadata, spelling and the tests themselves."""
    session.install("-c", "constraints.txt", *group("lint"))
    for name in PACKAGES:
        session.run("deptry", f"packages/{name}/src", "--config", f"packages/{name}/pyproject.toml")
        session.run("validate-pyproject", f"packages/{name}/pyproject.toml")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("codespell")
    session.run("repo-review", ".")
    session.run("zizmor", "--offline", "--quiet", ".github/workflows")
    session.run("python", "tools/check_tests.py")


@nox.session(requires=["lint"])
def isolation(session: nox.Session) -> None:
    """Plant a sibling import, an undeclared import and an unused dependency: lint must fail."""
    session.install("nox")
    session.run("python", "tools/plant_faults.py", str(ROOT / ".nox"))


@nox.session(requires=["wheels"])
def types(session: nox.Session) -> None:
    """Check the types of the five packages strictly."""
    install_wheels(session, PACKAGES, *CONSTRAINTS, extras=True)
    session.install(*CONSTRAINTS, *group("types"))
    session.run("mypy", *SOURCES)


@nox.session(requires=["wheels"])
def examples(session: nox.Session) -> None:
    """Run every example and every fenced block of README and docs, from the five wheels."""
    install_wheels(session, PACKAGES, *CONSTRAINTS, extras=True)
    session.install(*CONSTRAINTS, *group("test"))
    targets = ["examples", "README.md", "docs", *(f"packages/{p}/README.md" for p in PACKAGES)]
    blocks = ["-c", "pyproject.toml", "-p", "doc_blocks", "-p", "no:doctest", "-s"]
    session.run("pytest", *blocks, *targets, *session.posargs, env={"PYTHONPATH": "tools"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site; a dead link or an unknown object fails."""
    session.install("-c", "constraints.txt", *group("docs"))
    session.run("python", "tools/render_docs.py")
    session.run("zensical", "build", "--strict", "--clean")


@nox.session(requires=["wheels"])
def oracle(session: nox.Session) -> None:
    """Compare with peer libraries; a peer that is missing fails."""
    install_wheels(session, PACKAGES, *CONSTRAINTS, extras=True)
    session.install("-c", "constraints.txt", *group("test", "oracle"))
    folders = [str(p) for p in sorted(ROOT.glob("packages/*/tests/oracle"))]
    session.run("pytest", "-c", "pyproject.toml", "-m", "oracle", "-s", *folders, *session.posargs)


@nox.session(requires=["wheels"])
def bench(session: nox.Session) -> None:
    """Measure ratios to peers, one thread, and write them into the docs (Accuracy)."""
    install_wheels(session, PACKAGES, *CONSTRAINTS, extras=True)
    session.install("-c", "constraints.txt", *group("test", "bench"))
    env = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    session.run("python", "tools/run_benchmarks.py", *session.posargs, env=env)


@nox.session
def lock(session: nox.Session) -> None:
    """Pin one version of every third-party package for Python 3.11 into constraints.txt."""
    session.install(*group("lock"))
    session.run("python", "tools/lock.py")
