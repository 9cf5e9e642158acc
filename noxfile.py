"""Every check, one session each: `nox -l` lists them, `nox -R` re-runs them offline."""

from pathlib import Path

import nox

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv, nox.options.error_on_external_run = "yes", True
nox.options.sessions = ["wheels", "tests", "lint", "isolation", "types", "examples", "docs"]
PACKAGES = sorted(p.parent.name for p in Path("packages").glob("*/pyproject.toml"))
PROJECTS = {p: nox.project.load_toml(f"packages/{p}/pyproject.toml")["project"] for p in PACKAGES}
CONSTRAINTS = ("--no-compile", "-c", "constraints.txt")
GROUPS = nox.project.load_toml("pyproject.toml")
PEERS = [name[6:] for name in GROUPS["dependency-groups"] if name.startswith("peers-")]
package, peer = (nox.parametrize(n, v, ids=v) for n, v in [("package", PACKAGES), ("peer", PEERS)])


def group(*names: str) -> list[str]:
    return list(nox.project.dependency_groups(GROUPS, *names))


def wheel(name: str, *, extras: bool = False) -> str:
    path = Path("dist") / f"{name.replace('-', '_')}-{PROJECTS[name]['version']}-py3-none-any.whl"
    names = ",".join(PROJECTS[name].get("optional-dependencies", {})) if extras else ""
    return f"{path}[{names}]" if names else str(path)


def install_wheels(session: nox.Session, names: list[str], *options: str, extras: bool) -> None:
    """Install dependencies once, and today's code always: pip keeps a wheel of equal version."""
    session.install(*options, *(wheel(name, extras=extras) for name in names))
    today = ["pip", "install", "--no-index", "--no-deps", "--force-reinstall", "--no-compile"]
    session.run(*today, *map(wheel, names))


def install_peers(session: nox.Session, peer: str) -> None:
    install_wheels(session, PACKAGES, *CONSTRAINTS, *group("test", f"peers-{peer}"), extras=True)
    session.env.update(MAMBA_FORCE_BUILD="TRUE", MAMBA_SKIP_CUDA_BUILD="TRUE")
    alone = GROUPS["dependency-groups"].get(f"no-deps-{peer}", ["pip"])
    session.install("--no-build-isolation", "--no-deps", *alone)


def isolated(session: nox.Session, name: str, *options: str) -> None:
    names, module = sorted({"neuros-core", name}), name.replace("-", "_")
    install_wheels(session, names, *options, extras=False)
    session.run("python", "-I", "tools/check_imports.py", module, env={"EAGER_IMPORT": "1"})
    session.install(*options, *group("test"), *(wheel(n, extras=True) for n in names))
    pytest = ["pytest", "-c", "pyproject.toml", "-m", "not oracle", f"--cov={module}", "-n", "auto"]
    if any(d.startswith("jaxtyping") for d in PROJECTS[name]["dependencies"]):
        pytest.append(f"--jaxtyping-packages={module},beartype.beartype")
    pytest += ["--doctest-modules", "--pyargs", module, f"packages/{name}/tests"]
    session.run(*pytest, *session.posargs, env={"PYTHONPATH": "", "OMP_NUM_THREADS": "1"})


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the five wheels into dist/ (`-- --sdist`: the source distributions as well)."""
    session.install("-c", "constraints.txt", *group("build"))
    kinds = ["--wheel", *(["--sdist"] if "--sdist" in session.posargs else [])]
    for name in PACKAGES:
        options = [*kinds, "--no-isolation", "-o", "dist"]
        session.run("pyproject-build", *options, f"packages/{name}")


@nox.session(requires=["wheels"])
@package
def tests(session: nox.Session, package: str) -> None:
    """Run one package's tests from its wheel, with nothing installed but what it declares."""
    isolated(session, package, *CONSTRAINTS)


@nox.session(requires=["wheels"])
@package
def lowest(session: nox.Session, package: str) -> None:
    """Run the isolated tests with every declared floor installed exactly."""
    floors = str(session.run("python", "tools/floors.py", package, silent=True)).strip()
    isolated(session, package, "--no-compile", "-c", floors)


@nox.session(requires=["wheels"])
@package
def latest(session: nox.Session, package: str) -> None:
    """Run the isolated tests with the newest of every dependency."""
    isolated(session, package, "--upgrade")


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, rules, declared dependencies, metadata, spelling and the tests themselves."""
    session.install("-c", "constraints.txt", *group("lint"))
    for name in PACKAGES:
        session.run("deptry", f"packages/{name}/src", "--config", f"packages/{name}/pyproject.toml")
        session.run("validate-pyproject", f"packages/{name}/pyproject.toml")
    checks = ["ruff format --check", "ruff check", "codespell", "repo-review ."]
    checks += ["zizmor --offline --quiet .github/workflows", "python tools/check_tests.py"]
    for check in checks:
        session.run(*check.split())


@nox.session(requires=["lint"])
def isolation(session: nox.Session) -> None:
    """Plant a sibling import, an undeclared import and an unused dependency: lint must fail."""
    session.install("nox")
    session.run("python", "tools/plant_faults.py", str(Path(".nox").resolve()))


@nox.session(requires=["wheels"])
def types(session: nox.Session) -> None:
    """Check the types of the five packages strictly."""
    install_wheels(session, PACKAGES, *CONSTRAINTS, *group("types"), extras=True)
    session.run("mypy", *(f"packages/{p}/src" for p in PACKAGES))


@nox.session(requires=["wheels"])
def examples(session: nox.Session) -> None:
    """Run every example and every fenced block of README and docs, from the five wheels."""
    install_wheels(session, PACKAGES, *CONSTRAINTS, *group("test"), extras=True)
    tests = Path().glob("packages/neuros-sourceweigher/tests/test_[fp][er]*.py")  # need torch
    targets = ["examples", "README.md", "docs", *Path().glob("packages/*/README.md"), *tests]
    pytest = ["pytest", "-c", "pyproject.toml", "-p", "doc_blocks", "-p", "no:doctest", "-s"]
    session.run(*pytest, *targets, *session.posargs, env={"PYTHONPATH": "tools"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site; a dead link or an unknown object fails."""
    session.install("-c", "constraints.txt", *group("docs"))
    session.run("python", "tools/render_docs.py")
    session.run("zensical", "build", "--strict", "--clean", env={"PYTHONPATH": "tools"})


@nox.session(requires=["wheels"])
@peer
def oracle(session: nox.Session, peer: str) -> None:
    """Compare with peer libraries, side by side; those that clash have an environment each."""
    install_peers(session, peer)
    session.run("pytest", "-s", "-m", "oracle", "packages", "-k", peer.removeprefix("shared"))


@nox.session(requires=["wheels"])
@peer
def bench(session: nox.Session, peer: str) -> None:
    """Measure ratios to peers, one thread, and write them into the docs (Accuracy)."""
    install_peers(session, peer)
    session.run("python", "tools/run_benchmarks.py", peer, *session.posargs)


@nox.session(requires=["wheels"])
def recordings(session: nox.Session) -> None:
    """Score models on the recordings that NEUROS_RECORDINGS names; write the tables of the docs."""
    install_peers(session, "cebra")
    for script in ("run.py", "run.py --cebra", "backbones.py"):
        session.run("python", *f"packages/neuros-neurofm/benchmarks/recordings/{script}".split())


@nox.session
def lock(session: nox.Session) -> None:
    """Pin one version of every third-party package for Python 3.11 into constraints.txt."""
    session.install(*group("lock"))
    session.run("python", "tools/lock.py")
