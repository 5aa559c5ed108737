"""How a command ends: with a table and the next command, or, interrupted, with the one that goes on."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_latent.training import MaskedDiffusionConfig
from hf_latent.training.runs.finishing import command_to_go_on, describe_end, going_on


@pytest.mark.parametrize(
    ("argv", "resume", "wanted"),
    [
        (["/bin/hf-latent", "train", "--config", "a b.yaml"], None, "hf-latent train --config 'a b.yaml'"),
        (["recipes/masked_diffusion/sft.py", "--lr=1"], "auto", "python recipes/masked_diffusion/sft.py --lr=1"),
        (["/x/hf_latent/cli/__main__.py", "train"], None, "python -m hf_latent.cli train"),
        (
            ["hf-latent", "train", "--resume_from_checkpoint", "false", "--seed", "1"],
            "false",
            "hf-latent train --seed 1 --resume_from_checkpoint auto",
        ),
        (
            ["hf-latent", "train", "--resume_from_checkpoint=x/checkpoint-2"],
            "x/checkpoint-2",
            "hf-latent train --resume",
        ),
        (
            ["hf-latent", "train", "--config", "x.yaml"],
            False,
            "hf-latent train --config x.yaml --resume_from_checkpoint",
        ),
    ],
)
def test_the_command_goes_on_and_does_not_begin_anew(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], resume: Any, wanted: str
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", argv)
    command = command_to_go_on(resume)
    assert command.startswith(wanted)
    assert "false" not in command
    assert "checkpoint-2" not in command


def test_an_interruption_is_one_line_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hf-latent", "train", "--seed", "1"])
    with pytest.raises(SystemExit) as left, going_on(MaskedDiffusionConfig(str(tmp_path), use_cpu=True)):
        raise KeyboardInterrupt
    assert left.value.code == 130
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == "Interrupted; no checkpoint yet. To go on: hf-latent train --seed 1"


def test_the_end_has_numbers_places_and_the_next_command(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "results.json").write_text("{}")
    results = {"steps": 1200, "train_seconds": 3.21, "loss": 0.5, "held_out": {"eval_loss": 0.25}, "generation": {}}
    text = describe_end(results, tmp_path)
    for part in ("1,200", "3.2", "0.5000", "0.2500", "results.json", f"hf-latent generate {tmp_path}"):
        assert part in text, part
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base"}))
    assert f"hf-latent generate base --adapter {tmp_path}" in describe_end(results, tmp_path)
