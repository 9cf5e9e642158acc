"""The command on the folder of a decoder with linear parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation import LinearSkipDecoder, Session, contiguous_blocks
from neuros_neurofm.streaming.stream import main
from neuros_neurofm.training._run_folder import load_model


@pytest.fixture(scope="module")
def sessions() -> list[Session]:
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (2, 200, 4)).astype(np.float64)
    blocks = contiguous_blocks(200, gap=10)
    return [
        Session({"spike": counts}, sign * counts[:, :2], 50.0, blocks, name=name)
        for counts, sign, name in zip(x, (1.0, -1.0), ("monday", "friday"), strict=True)
    ]


def saved(folder: Path, sessions: list[Session]) -> LinearSkipDecoder:
    torch.manual_seed(0)
    decoder = LinearSkipDecoder(
        MultiModalNeuroFMX(
            16, 1, 8, 8, modalities=("spike",), sampling_rates={"spike": 50.0}, window=0.16,
            popt_depth=1, perceiver_depth=1,
        )
    )  # fmt: skip
    decoder.fit(sessions, steps=2)
    decoder.save_pretrained(folder)
    return decoder


def write(path: Path, session: Session) -> None:
    (block,) = session.blocks.test
    np.savez(path, spike=session.inputs["spike"][block].astype(np.float32), rate_spike=50.0)


@pytest.mark.slow  # Two runs of the command, and a training.
def test_a_replayed_session_is_decoded_with_its_linear_part(
    sessions: list[Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder = saved(tmp_path / "both", sessions)
    given = ["--checkpoint", str(tmp_path / "both"), "--input", str(tmp_path / "x.npz")]
    for session in sessions:
        write(tmp_path / "x.npz", session)
        assert main([*given, "--session", session.name]) == 0
        lines = [json.loads(line)["decoder"] for line in capsys.readouterr().out.splitlines()]
        expected = decoder.decode(session)[: len(lines)]
        np.testing.assert_allclose(lines, expected, atol=2e-6)
    assert main(given) == 2
    assert "session must be among ['monday', 'friday'], got None" in capsys.readouterr().err


def test_a_command_that_adds_no_linear_part_does_not_take_the_model_alone(
    sessions: list[Session], tmp_path: Path
) -> None:
    saved(tmp_path, sessions)
    assert list(load_model(tmp_path, adds_linear=True).linear) == ["monday", "friday"]
    with pytest.raises(ValueError, match=r"LinearSkipDecoder of the sessions \['monday', 'friday'"):
        load_model(tmp_path)


def test_the_only_linear_part_needs_no_name(
    sessions: list[Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder = saved(tmp_path / "one", sessions[:1])
    write(tmp_path / "x.npz", sessions[0])
    assert main(["--checkpoint", str(tmp_path / "one"), "--input", str(tmp_path / "x.npz")]) == 0
    lines = [json.loads(line)["decoder"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(lines, decoder.decode(sessions[0])[: len(lines)], atol=2e-6)
    given = ["--checkpoint", str(tmp_path / "one"), "--session", "sunday"]
    assert main(given) == 2
    assert "session must be among ['monday'], got 'sunday'" in capsys.readouterr().err
