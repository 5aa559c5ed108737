"""What README and manual tell a reader to type, typed; what cannot be run here has its names checked."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from hf_latent import DiffusionGenerationConfig
from hf_latent.cli import app

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>not run: [^\n]+|walk) -->\n)?^```(?P<language>python|bash)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Runs the blocks of a page in order in one folder; the Python ones share their names.
RUNNER = """
import json, subprocess, sys
names = {"__name__": "__main__"}
for number, (language, code) in enumerate(json.load(sys.stdin)):
    print(f"== block {number}", flush=True)
    if language == "python":
        exec(compile(code, f"block {number}", "exec"), names)
    else:
        subprocess.run(["bash", "-e", "-u", "-o", "pipefail", "-c", code], check=True, stdin=subprocess.DEVNULL)
"""
# Of `generate` beside the knobs.
ARGUMENTS = {"attention_mask", "input_ids", "answer_mask", "custom_generate", "row_indices", "generation_config"}
OURS = {"num_latent_tokens", "self_speculative", "trust_remote_code", "logits_processor", "streamer"}


def blocks_of(page: Path) -> list[tuple[str, str, str | None]]:
    """Language, code and mark of the blocks of a page."""
    return [(m["language"], m["code"], m["mark"]) for m in FENCE.finditer(page.read_text(encoding="utf-8"))]


@pytest.mark.slow
def test_the_blocks_of_a_page_run_in_order(runnable_page: Path, repository: Path, tmp_path: Path) -> None:
    """Would catch an argument that was renamed, a file that was moved, and an example that never worked."""
    for name in ("model_cards", "recipes"):
        (tmp_path / name).symlink_to(repository / name)
    blocks = [(language, code) for language, code, mark in blocks_of(runnable_page) if mark is None]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(blocks),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]


def test_every_block_that_is_not_run_says_why_and_names_what_there_is(page: Path, repository: Path) -> None:
    for language, code, mark in blocks_of(page):
        if mark is not None and language == "python":
            check_python(code)
        elif mark is not None:
            for line in code.replace("\\\n", " ").splitlines():
                check_command(line, repository)


def check_python(code: str) -> None:
    """The block parses, and `generate` and `infill` are called with arguments that they have."""
    known = DiffusionGenerationConfig.known_names() | ARGUMENTS | OURS
    for node in ast.walk(ast.parse(code)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("generate", "infill")
        ):
            assert {keyword.arg for keyword in node.keywords if keyword.arg} <= known, ast.unparse(node)


def check_command(line: str, repository: Path) -> None:
    """The command has these options, and its script and files exist."""
    words = shlex.split(line, comments=True)
    if not words or "<<" in line:
        return
    if words[0] == "hf-latent":
        check_options(words[1:])
    for word in words:
        if word.startswith("recipes/"):
            assert (repository / word).is_file(), line


def check_options(words: list[str]) -> None:
    """`hf-latent` knows the command and its options; `train` takes the fields of its configurations."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
    if command.name != "train":
        assert given <= known, sorted(given - known)


def test_commands_of_the_manual_are_checked_by_name(repository: Path) -> None:
    """The check itself sees a wrong option, a wrong command and a file that is not there."""
    for line in (
        "hf-latent generate sudoku-4x4 --decodign med",
        "hf-latent gnerate sudoku-4x4",
        "python recipes/nothing.py --config recipes/masked_diffusion/sudoku_4x4.yaml",
    ):
        with pytest.raises(AssertionError):
            check_command(line, repository)
    with pytest.raises(AssertionError):
        check_python("model.generate(ids, max_new_token=3)")
    check_command("hf-latent train --config recipes/masked_diffusion/sudoku_4x4.yaml --max_steps 3", repository)


def test_every_recipe_that_is_named_exists(repository: Path) -> None:
    for page in (repository / "README.md", *(repository / "docs").rglob("*.md")):
        for path in re.findall(r"recipes/[\w/]+\.(?:py|yaml)", page.read_text(encoding="utf-8")):
            assert (repository / path).is_file(), f"{page.name}: {path}"


def test_what_other_scripts_arguments_become_exists(repository: Path) -> None:
    """The right column of "coming from": every `name=` is a knob, a field of the training or an argument."""
    from hf_latent.training import MaskedDiffusionConfig

    known = (
        DiffusionGenerationConfig.known_names()
        | ARGUMENTS
        | OURS
        | {field.name for field in fields(MaskedDiffusionConfig)}
    )
    known |= {"processing_class", "peft_config"}
    right = re.findall(r"^\|[^|]+\|([^|]+)\|$", (repository / "docs/coming_from.md").read_text("utf-8"), re.MULTILINE)
    named = {name for cell in right for code in re.findall(r"`([^`]+)`", cell) for name in re.findall(r"(\w+)=", code)}
    assert len(named) > 15 and named <= known, sorted(named - known)
