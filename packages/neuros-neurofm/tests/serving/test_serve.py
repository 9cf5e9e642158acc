import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi")
from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.serving.serve import main
from neuros_neurofm.streaming import StreamingSession


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("serve") / "model"
    MultiModalNeuroFMX(
        16, 1, 10, 16, modalities=("spike",), sampling_rates={"spike": 50.0}, window=1.0,
        popt_depth=1, perceiver_depth=1,
    ).save_pretrained(path)  # fmt: skip
    return path


class Server:
    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "neuros_neurofm.serving.serve", str(folder), "--port=0"]
        self.process = subprocess.Popen(
            [*command, *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"listening on (127.0.0.1:\d+)", line)
        assert found, line + self.process.stderr.read()
        self.address = found.group(1)

    def ask(self, method: str, route: str, body: str | None = None) -> str:
        # Connections wait at the socket until the model is loaded.
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request(method, route, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, text
        return text

    def post(self, route: str, **content: Any) -> Any:
        return json.loads(self.ask("POST", route, json.dumps(content)))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.stop()


# A server process imports torch.
@pytest.mark.slow
def test_a_served_folder_answers_as_the_model_in_it(server: Server, folder: Path) -> None:
    model = MultiModalNeuroFMX.from_pretrained(folder).eval()
    x = torch.poisson(torch.ones(2, 50, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.encode({"spike": x})
    served = torch.tensor(server.post("/v1/embed", inputs={"spike": x.tolist()})["latents"])
    torch.testing.assert_close(served, expected, atol=1e-6, rtol=0.0)


# As above.
@pytest.mark.slow
def test_a_stream_over_a_socket_is_that_of_a_session(server: Server, folder: Path) -> None:
    client = pytest.importorskip("websockets.sync.client")
    session = StreamingSession(MultiModalNeuroFMX.from_pretrained(folder))
    x = torch.ones(1, 12, 4)
    with client.connect(f"ws://{server.address}/v1/stream") as socket:
        socket.send("{}")
        assert "opened" in json.loads(socket.recv())
        socket.send(json.dumps({"inputs": {"spike": x[0].tolist()}}))
        steps = json.loads(socket.recv())["steps"]
    expected = [step.decoder for step in session.push({"spike": x})]
    assert torch.equal(torch.tensor([step["decoder"] for step in steps]), torch.stack(expected))


# As above.
@pytest.mark.slow
def test_a_request_in_flight_is_answered_after_sigterm(server: Server) -> None:
    answers: list[Any] = []
    # Long enough to be computing when the signal comes; whenever it comes, nothing may be lost.
    rows = torch.ones(3000, 4).tolist()
    threads = [
        threading.Thread(
            target=lambda: answers.append(server.post("/v1/decode", inputs={"spike": rows}))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while "pending 0" in (text := server.ask("GET", "/metrics")) and not answers:
        assert "neurofm_serve_pending" in text
    assert server.stop() == 0
    for thread in threads:
        thread.join(30)
    assert [len(answer["decoder"]) for answer in answers] == [600, 600, 600]


# Three processes import torch.
@pytest.mark.slow
def test_two_workers_answer_and_stop_together(folder: Path) -> None:
    server = Server(folder, "--workers=2")
    try:
        assert len(server.post("/v1/decode", inputs={"spike": [[1.0, 2.0]]})["decoder"]) == 10
    finally:
        code = server.stop()
    assert code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere"),
        ([], "model"),
        (["MODEL", "--port=70000"], "port within 0..65535"),
        (["MODEL", "--workers=0"], "workers must be >= 1"),
        (["MODEL", "--queue=-1"], "queue must be >= 0"),
        (["MODEL", "--device=abacus"], "abacus"),
        (["MODEL", "--max_body=big"], "max_body"),
        (["MODEL", "--host=203.0.113.7"], "address"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder) if word == "MODEL" else word for word in words]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("neurofm-serve: error: ")
    assert error.count("\n") == 1
    assert message in error
