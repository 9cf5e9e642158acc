"""What made an artefact: versions, code state, configuration, seed and hashes of its inputs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["RunManifest", "git_state"]

_SCHEMA = 1
_PACKAGES = (
    "neuros-core",
    "neuros-data",
    "neuros-neurofm",
    "neuros-mechint",
    "neuros-sourceweigher",
    "numpy",
    "scipy",
    "torch",
)


@dataclass(frozen=True, slots=True)
class RunManifest:
    """Provenance of one artefact (checkpoint, store, report, table), written beside or into it.

    Args:
        kind: What the artefact is, such as `"checkpoint"`.
        config: The full configuration, as JSON can hold it.
        seed: The seed of the run; None when nothing was drawn.
        versions: Package -> version, with the Python version under `"python"`.
        git: Commit of the checkout the run was started in (`git_state`), None outside one.
        data_hash: sha256 of the data that went in.
        model_hash: sha256 of the model's parameters.
        created: UTC time in ISO 8601, to the second.

    Examples:
        >>> m = RunManifest.collect(kind="table", config={"k": 3}, seed=0, packages=["numpy"])
        >>> m.kind, m.config["k"], sorted(m.versions)
        ('table', 3, ['numpy', 'python'])
        >>> RunManifest.from_dict(m.to_dict()) == m
        True
    """

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    git: str | None = None
    data_hash: str | None = None
    model_hash: str | None = None
    created: str = ""

    @classmethod
    def collect(
        cls,
        *,
        kind: str,
        config: Mapping[str, Any] | None = None,
        seed: int | None = None,
        packages: Sequence[str] = _PACKAGES,
        data_hash: str | None = None,
        model_hash: str | None = None,
    ) -> "RunManifest":
        """Fill in versions, code state and time from the running process.

        Args:
            kind: What the artefact is.
            config: The full configuration; it must survive a JSON round trip.
            seed: The seed of the run.
            packages: Distributions whose versions are recorded where they are installed.
            data_hash: sha256 of the data that went in.
            model_hash: sha256 of the model's parameters.

        Raises:
            TypeError: When `config` holds something that JSON cannot.
        """
        # These three would cost every import of the package more than NumPy's own modules do.
        import platform
        from datetime import UTC, datetime
        from importlib import metadata

        versions = {"python": platform.python_version()}
        for name in packages:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return cls(
            kind=kind,
            config=json.loads(json.dumps(config or {}, allow_nan=False)),
            seed=seed,
            versions=versions,
            git=git_state(),
            data_hash=data_hash,
            model_hash=model_hash,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold, with its schema number."""
        return {"schema": _SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunManifest":
        """Rebuild a manifest.

        Raises:
            ValueError: When a newer schema wrote it.
        """
        fields = dict(values)
        schema = fields.pop("schema", _SCHEMA)
        if schema > _SCHEMA:
            raise ValueError(
                f"this run manifest has schema {schema}, the newest known here is {_SCHEMA}; "
                "upgrade neuros-core"
            )
        return cls(**fields)

    def to_json(self) -> str:
        """Return the manifest as JSON text, keys sorted."""
        return json.dumps(self.to_dict(), sort_keys=True, indent=2)


def git_state() -> str | None:
    """Commit of the checkout that the process runs in, `+dirty` where files differ from it.

    Returns:
        Twelve hex digits, or None outside a checkout, before its first commit or without git.

    Examples:
        >>> state = git_state()
        >>> state is None or len(state.removesuffix("+dirty")) >= 7
        True
    """
    import subprocess

    command = ["git", "describe", "--always", "--dirty=+dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
