"""The recipe that fine-tunes on traces: every arm trains on its rows, laid out as the template says."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from trl import TrlParser

from hf_latent import LladaConfig, LladaForMaskedDiffusion
from hf_latent.tasks import ArithmeticTask, arithmetic_tokenizer

RECIPES = Path(__file__).resolve().parents[4] / "recipes"
TASK = ArithmeticTask()


@pytest.fixture(scope="module")
def recipe() -> dict:
    return runpy.run_path(str(RECIPES / "posterior_traces/traces.py"))


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """A tiny model, human traces as GSM8K has them, and scored posterior traces."""
    torch.manual_seed(0)
    tokenizer = arithmetic_tokenizer()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos")}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LladaForMaskedDiffusion(LladaConfig(vocab_size=len(tokenizer), **special, **sizes)).save_pretrained(
        tmp_path / "base"
    )
    tokenizer.save_pretrained(tmp_path / "base")
    problems = TASK.generate(12, 0)
    human = [{"question": p["question"], "answer": f"{p['reasoning']}\n#### {p['answer']}"} for p in problems]
    own = [
        {"question": p["question"], "answer": p["answer"], "trace": "1 " * (70 if i == 0 else 5), "score": -float(i)}
        for i, p in enumerate(problems)
    ]
    for name, rows in (("human", human), ("own", own)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: tmp_path / name for name in ("base", "human.jsonl", "own.jsonl", "out")}


def arguments(recipe: dict, files: dict[str, Path], *more: str):
    parser = TrlParser((recipe["TraceArguments"], recipe["MaskedDiffusionConfig"], recipe["ModelConfig"]))
    chosen = {
        "config": RECIPES / "posterior_traces/traces.yaml",
        "model_name_or_path": files["base"],
        "human_file": files["human.jsonl"],
        "trace_column": "answer",
        "trace_pattern": "(?s)(.*)\n####",
        "answer_pattern": "#### (.*)",
        "traces": files["own.jsonl"],
        "output_dir": files["out"],
        "max_steps": 2,
        "per_device_train_batch_size": 4,
    }
    flags = [text for name, value in chosen.items() for text in (f"--{name}", str(value))]
    return parser.parse_args_and_config([*flags, "--use_cpu", "--disable_tqdm", "true", *more])


@pytest.mark.parametrize(
    ("arm", "more", "num"),
    [("human", [], 12), ("posterior", [], 11), ("both", [], 23), ("posterior", ["--top_share", "0.5"], 5)],
)
def test_every_arm_trains_on_its_rows(recipe, files, arm, more, num, capsys):
    """A trace that does not fit is left out and counted; the better half is cut before that."""
    recipe["main"](*arguments(recipe, files, "--arm", arm, *more))
    run = json.loads((files["out"] / "run.json").read_text())
    assert run["num_rows"] == num
    assert f"{num} of {num + (arm != 'human')} traces fit" in capsys.readouterr().out
    LladaForMaskedDiffusion.from_pretrained(files["out"])


def test_rows_are_filled_templates_with_part_of_the_reasoning_given(recipe, files):
    """Only labels change; the answer is always to be predicted. Half of 12 rows, none by chance 1 in 4,096."""
    tokenizer = arithmetic_tokenizer()
    rows = {}
    for share in ("0.0", "0.5"):
        script, *_ = arguments(recipe, files, "--arm", "human", "--given_share", share)
        rows[share] = recipe["format_rows"](script, tokenizer, tokenizer.mask_token_id, seed=0).to_list()
    for row, problem in zip(rows["0.0"], TASK.generate(12, 0), strict=True):
        text = TASK.format(problem)
        completion = [*tokenizer(text["completion"])["input_ids"], tokenizer.eos_token_id]
        assert [label for label in row["labels"] if label != -100] == completion
    given = 0
    for whole, part in zip(rows["0.0"], rows["0.5"], strict=True):
        assert whole["input_ids"] == part["input_ids"]
        supervised = [label for label in part["labels"] if label != -100]
        assert whole["labels"][-len(supervised) :] == supervised
        assert len(supervised) > TASK.answer_length + 5
        given += whole != part
    assert 0 < given < 12


def test_an_arm_without_its_file_is_refused(recipe):
    with pytest.raises(ValueError, match="`traces` is needed for `arm` 'both', got None"):
        recipe["TraceArguments"](arm="both", human_file="x")
    with pytest.raises(ValueError, match="`arm` must be one of"):
        recipe["TraceArguments"](arm="neither")


def test_the_judge_of_the_experiment():
    """A trace that only ends in the answer is verified; it is right if it also follows from the words."""
    judge = runpy.run_path(str(RECIPES / "studies/publish_posterior_traces.py"))
    problem = {"reasoning": "Ida 16*3=48. Finn 48+17=65. So Finn has 65 coins.", "answer": "65"}
    for trace, verified, right in (
        (problem["reasoning"], True, True),
        ("Ana 16*3=48. Ben 48+17=65. So Ben has 65 pens.", True, True),
        ("Ida 16*4=64. Finn 64+1=65. So Finn has 65 coins.", True, False),
        ("Ida 16*3=49. Finn 49+17=65. So Finn has 65 coins.", False, False),
        ("Ida 16*3=48. So Finn has 65 coins.", False, False),
        ("So Finn has 65 coins.", False, False),
    ):
        assert judge["is_verified"](trace, "65") is verified
        assert judge["is_right"](trace, problem) is right


def test_errors_of_an_arm_count_seeds_and_problems():
    """Closed form: variance of the mean over seeds, and the binomial one of the held-out problems."""
    summarise = runpy.run_path(str(RECIPES / "studies/publish_posterior_traces.py"))["summarise"]
    found = summarise([0.4, 0.5, 0.6], 100)
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["standard_error"] == pytest.approx((0.01 / 3 + 0.25 / 100) ** 0.5)
    assert summarise([0.5], 100)["standard_error"] == pytest.approx(0.05)
