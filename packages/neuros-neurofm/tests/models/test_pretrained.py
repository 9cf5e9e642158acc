import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from neuros_core.manifest import RunManifest
from neuros_neurofm.models import MultiModalNeuroFMX


@pytest.fixture
def model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        16, 1, 8, 12, modalities=("spike", "emg"), sampling_rates={"emg": 100.0},
        patches={"emg": 0.1}, forecast_horizon=2, causal=False, window=0.5, ssm="fractional",
        use_domain_adversarial=True, n_domains=4, diffusion=True,
    ).eval()  # fmt: skip
    model.add_units("spike", ["a", "b"])
    model.calibrate("emg", torch.randn(1, 50, 1), units=["m"])
    model.set_progress(0.25)
    model.diffusion.calibrate(torch.randn(8, 12))
    return model


def test_round_trip_is_bit_identical_and_offline(model: MultiModalNeuroFMX, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    other = MultiModalNeuroFMX.from_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md", "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip
    assert not other.training
    assert other.config == model.config
    assert other.tokenizers["spike"].units.ids == ("a", "b")
    x = {"spike": torch.ones(2, 40, 2), "emg": torch.randn(2, 50, 1)}
    ids = {"spike": ["b", "a"], "emg": ["m"]}
    labels = torch.tensor([3, -100])
    first, second = model(x, labels, units=ids), other(x, labels, units=ids)
    assert list(first) == list(second)
    for name, value in first.items():
        for key, tensor in (value if isinstance(value, dict) else {"": value}).items():
            again = second[name][key] if key else second[name]
            assert torch.equal(tensor, again), name
    assert torch.equal(model.domain.reversal.lambd, other.domain.reversal.lambd)
    draws = [
        m.diffusion.sample((1, 12), n_steps=2, generator=torch.Generator().manual_seed(0))
        for m in (model, other)
    ]
    assert torch.equal(*draws)
    assert model.state_dict().keys() == other.state_dict().keys()
    assert not any(b"pickle" in p.read_bytes()[:64] for p in tmp_path.iterdir())


def test_the_manifest_names_the_weights_and_the_configuration(
    model: MultiModalNeuroFMX, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    manifest = RunManifest.from_dict(json.loads((tmp_path / "manifest.json").read_text()))
    assert manifest.kind == "model"
    assert manifest.config == model.config
    assert len(manifest.model_hash) == 64


def test_the_card_states_what_is_known_and_what_is_not(
    model: MultiModalNeuroFMX, tmp_path: Path
) -> None:
    facts = {
        "data": "dandiset 000128", "species": "macaque", "metrics": {"R2": "0.71, 5 blocks"},
        "limits": "one arm",
    }  # fmt: skip
    model.save_pretrained(tmp_path, model_card_kwargs=facts)
    card = (tmp_path / "README.md").read_text()
    assert "## Species\n\nmacaque" in card
    assert "- R2: 0.71, 5 blocks" in card
    assert "## Data\n\ndandiset 000128" in card
    assert "## Licence\n\nNot stated." in card
    assert "## Limits\n\none arm" in card
    titles = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert titles == [
        "Modalities", "Data", "Species", "Metrics", "Licence", "Limits", "Configuration",
    ]  # fmt: skip
    assert "- spike: 2 named units" in card
    assert f"{model.num_parameters():,} parameters" in card
    model.save_pretrained(tmp_path, model_card_kwargs={"species": "other"})
    assert (tmp_path / "README.md").read_text() == card


def test_a_folder_without_weights_is_refused(model: MultiModalNeuroFMX, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"a saved model holds model\.safetensors"):
        MultiModalNeuroFMX.from_pretrained(tmp_path)


def test_weights_of_another_shape_are_refused(model: MultiModalNeuroFMX, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_dim": 8}))
    with pytest.raises(RuntimeError, match="size mismatch"):
        MultiModalNeuroFMX.from_pretrained(tmp_path)


def test_arguments_given_at_loading_override_the_configuration(
    model: MultiModalNeuroFMX, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    assert MultiModalNeuroFMX.from_pretrained(tmp_path, dropout=0.5).config["dropout"] == 0.5


def test_a_configuration_of_an_older_version_still_loads(
    model: MultiModalNeuroFMX, tmp_path: Path
) -> None:
    plain = MultiModalNeuroFMX(16, 1, 8, 12, modalities=("emg",))
    plain.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    older = {k: v for k, v in config.items() if "domain" not in k and k != "diffusion"}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert MultiModalNeuroFMX.from_pretrained(tmp_path).config == config


# A process of its own imports torch, because the client reads the Hub's address when it is loaded.
@pytest.mark.slow
def test_a_model_is_pushed_to_a_hub_and_loaded_from_it(tmp_path: Path) -> None:
    with hub_of_this_machine() as (address, stored):
        local = {name: v for name, v in os.environ.items() if "proxy" not in name.lower()}
        done = subprocess.run(
            [sys.executable, "-c", PUSH_AND_LOAD],
            env=local | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_TOKEN": "t"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert sorted(stored) == ["README.md", "config.json", "manifest.json", "model.safetensors"]
    assert "## Species\n\nmouse" in stored["README.md"].decode()


PUSH_AND_LOAD = """
import torch
from neuros_neurofm import MultiModalNeuroFMX

model = MultiModalNeuroFMX(16, 1, 8, 12, modalities=("emg",)).eval()
model.push_to_hub("lab/arm", model_card_kwargs={"species": "mouse"})
loaded = MultiModalNeuroFMX.from_pretrained("lab/arm")
x = {"emg": torch.randn(1, 20, 2)}
assert torch.equal(model(x).decoder, loaded(x).decoder)
again = MultiModalNeuroFMX.from_pretrained("lab/arm", local_files_only=True)
assert torch.equal(model(x).decoder, again(x).decoder)
"""


class _Hub(BaseHTTPRequestHandler):
    """What the client asks of a Hub to create a repository, commit small files and read them."""

    commit = "a" * 40
    stored: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._answer(json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            self._json({"url": f"http://{self.headers['Host']}/lab/arm"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            kinds = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in files]  # fmt: skip
            self._json({"files": kinds, "commitOid": self.commit})
        else:
            assert "/commit/" in self.path, self.path
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.stored[value["path"]] = base64.b64decode(value["content"])
            self._json({"commitUrl": f"http://{self.headers['Host']}/lab/arm/commit/{self.commit}",
                        "commitOid": self.commit, "success": True})  # fmt: skip

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            self._json({"id": "lab/arm", "sha": self.commit, "siblings": []})
            return
        content = self.stored.get(self.path.rsplit("/", 1)[-1])
        if content is None:
            self._answer(status=404, X_Error_Code="EntryNotFound")
            return
        etag = hashlib.sha256(content).hexdigest()
        self._answer(content, ETag=f'"{etag}"', X_Repo_Commit=self.commit)

    def do_HEAD(self) -> None:
        self.do_GET()


@contextmanager
def hub_of_this_machine() -> Iterator[tuple[str, dict[str, bytes]]]:
    stored: dict[str, bytes] = {}
    handler = type("Hub", (_Hub,), {"stored": stored})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", stored
        finally:
            server.shutdown()
            thread.join()
