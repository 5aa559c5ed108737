"""What the manual tells a newcomer to type on the way to a checkpoint of his own, typed."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from hf_latent.evaluation.reports.report import read_entries

PAGE = "docs/guides/walk.md"
MARK = "<!-- walk -->\n```bash\n"
MINUTES = 15
pytestmark = pytest.mark.xdist_group("walk")  # typed once
INSTALLATION = 5  # of these minutes, at most: 100 to 180 s were measured on one busy core
# What another program does with the folder: it cannot import hf-latent.
STRANGER = """
import sys
sys.modules["hf_latent"] = None  # any import of it raises
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("my-model", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("my-model")
rows = [json.loads(line) for line in open("test.jsonl")][:20]
right = 0
for row in rows:
    ids = tokenizer(row["question"], return_tensors="pt")["input_ids"]
    text = tokenizer.decode(model.generate(ids, max_new_tokens=20)[0, ids.shape[1]:], skip_special_tokens=True)
    right += text.strip() == row["answer"]
print(right)
"""


@pytest.fixture(scope="module")
def walk(repository: Path) -> tuple[str, str]:
    """The line that installs, and the commands behind it."""
    text = (repository / PAGE).read_text(encoding="utf-8")
    assert text.count(MARK) == 1
    first, _, rest = text.partition(MARK)[2].partition("\n```\n")[0].partition("\n")
    return first, rest


def test_the_installation_of_the_walk_is_what_the_project_offers(repository: Path, walk: tuple[str, str]) -> None:
    """Would catch an extra that was renamed, and two sections that install differently."""
    line = walk[0].partition("#")[0].strip()
    assert (repository / "README.md").read_text(encoding="utf-8").count(f"{line} && ") == 2
    words = shlex.split(line)
    assert words[:3] == ["pip", "install", "-e"] and len(words) == 4
    match = re.fullmatch(r"\.\[([\w,-]+)\]", words[3])
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert match and set(match[1].split(",")) <= set(project["optional-dependencies"])
    assert "hf-latent" in project["scripts"]


def test_the_walk_installs_first_and_names_every_step(walk: tuple[str, str]) -> None:
    steps = re.findall(r"^hf-latent (\w+(?: check)?)", walk[1], re.MULTILINE)
    assert [step for n, step in enumerate(steps) if step not in steps[:n]] == ["train", "eval", "bundle", "card check"]


@pytest.fixture(scope="module")
def walked(repository: Path, walk: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder where a newcomer has typed everything, and the minutes it took."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "model_cards").symlink_to(repository / "model_cards")
    programs = Path(sys.executable).parent
    start = time.monotonic()
    if os.environ.get("HF_LATENT_TEST_INSTALLATION"):
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        programs = folder / "venv" / "bin"
        subprocess.run([programs / "python", "-m", *shlex.split(walk[0], comments=True)], cwd=repository, check=True)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-x", "-c", walk[1]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder, (time.monotonic() - start) / 60


@pytest.mark.slow
def test_a_newcomer_has_a_checkpoint_of_his_own_in_minutes(walked: tuple[Path, float]) -> None:
    """Installation is measured only where HF_LATENT_TEST_INSTALLATION is set, and otherwise allowed for."""
    folder, minutes = walked
    assert minutes < MINUTES - (0 if os.environ.get("HF_LATENT_TEST_INSTALLATION") else INSTALLATION)
    adapter, bundle = folder / "my-adapter", folder / "my-model"
    assert {"adapter_model.safetensors", "adapter_config.json", "run.json"} <= {p.name for p in adapter.iterdir()}
    assert {"model.safetensors", "modeling_llada.py", "tokenizer.json", "README.md", "eval_results.json"} <= {
        path.name for path in bundle.iterdir()
    }
    assert json.loads((adapter / "run.json").read_text())["num_trainable_parameters"] < 200_000


@pytest.mark.slow
def test_what_was_learned_is_measured(walked: tuple[Path, float]) -> None:
    """The published model cannot know the newcomer's way of writing answers; would catch an adapter that is lost."""
    found = read_entries(walked[0] / "my-eval" / "results.json")
    accuracy = [entry["value"] for entry in found if entry["metric"] == "accuracy"]
    assert len(accuracy) == 2 and accuracy[0] == 0.0 and accuracy[1] > 0.5
    assert accuracy[1] in [entry["value"] for entry in read_entries(walked[0] / "my-model" / "eval_results.json")]
    held_out = json.loads((walked[0] / "my-adapter" / "results.json").read_text())["held_out"]
    losses = [json.loads(line) for line in (walked[0] / "my-adapter" / "training_log.jsonl").read_text().splitlines()]
    assert held_out["eval_loss"] < 0.5 * next(entry["loss"] for entry in losses if "loss" in entry)


@pytest.mark.slow
def test_the_newcomers_checkpoint_works_without_the_library(walked: tuple[Path, float]) -> None:
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER], cwd=walked[0], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) > 10
