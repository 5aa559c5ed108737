"""A card says what is known, validates as metadata, and its five lines of code run as pasted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_latent.hub import Evaluation, bundle, refresh_card, write_card
from hf_latent.hub.cards import sections
from hf_latent.hub.cards.subject import Subject, subject_of_folder

EVALUATION = Evaluation("sudoku-4x4", "med, entropy_threshold=0.1", "accuracy", 0.9876, 0.0031, 1000, 1.8, 11.1)


def test_measured_values_are_in_the_table_and_in_the_metadata(sudoku_model, tmp_path):
    path = write_card(tmp_path, sudoku_model, title="name", evaluations=[EVALUATION], command="python measure.py")
    card = ModelCard.load(path)
    (result,) = card.data.eval_results
    assert (result.metric_value, result.metric_type, result.dataset_type) == (0.9876, "accuracy", "sudoku-4x4")
    assert card.data.license == "apache-2.0"
    assert "| sudoku-4x4 | med, entropy_threshold=0.1 | accuracy | 0.988 ± 0.003 | 1000 | 1.80 | 11.10 |" in card.text
    assert "python measure.py" in card.text
    assert f"{sudoku_model.num_parameters():,}" in card.text


def test_what_is_not_known_is_said_to_be_unknown(sudoku_model, tmp_path):
    text = ModelCard.load(write_card(tmp_path, sudoku_model)).text
    assert "Not measured." in text
    assert "Not described" in text
    with pytest.raises(ValueError, match="`command`"):
        write_card(tmp_path, sudoku_model, evaluations=[EVALUATION])


def test_the_code_of_a_card_runs_as_pasted_without_hf_latent(sudoku_model, tokenizer, tmp_path):
    folder = bundle(sudoku_model, tokenizer, tmp_path / "mine", verify=False)
    write_card(folder, sudoku_model, example_prompt="1..4\n....\n")
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    run = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['hf_latent'] = None\n" + code],
        cwd=folder,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith("1..4\n....\n")


def test_the_example_is_one_of_the_task_until_somebody_chooses_another(sudoku_model, tokenizer, tmp_path):
    """A bundle is written before its task is known; what a person wrote into the code stays."""
    folder = bundle(sudoku_model, tokenizer, tmp_path / "mine", verify=False)
    assert "tokenizer('your prompt'" in (folder / "README.md").read_text()
    (folder / "task.json").write_text('{"task": "sudoku", "size": 4, "num_givens": [6, 6], "version": 1}')
    text = refresh_card(folder).read_text()
    assert "your prompt" not in text
    prompt = sections.prompt_of(text)
    assert len(prompt.split("\n")[0]) == 4 and sum(cell.isdigit() for cell in prompt) == 6
    (folder / "README.md").write_text(text.replace(repr(prompt), "'1...'"))
    assert sections.prompt_of(refresh_card(folder).read_text()) == "1..."


def test_a_paper_without_a_number_is_cited_by_its_title(tmp_path):
    """Of a folder of results, wherever the line breaks; a part of the title is another paper's."""
    subject = subject_of_folder(tmp_path)
    told = sections.citation(subject, [], "as in *Latent Diffusion with\nLLMs for Reasoning*")
    assert "latent_diffusion2025" in told
    assert "Nothing to cite" in sections.citation(subject, [], "Latent Diffusion with LLMs")


@pytest.mark.parametrize(
    ("adapter", "shown"),
    [
        (
            {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v", "q"]},
            "LORA, rank 8, alpha 16, on q, v",
        ),
        ({"peft_type": "IA3", "target_modules": "all-linear"}, "IA3, on all-linear"),
        (
            {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5, "target_modules": None},
            "PROMPT_TUNING, 5 virtual tokens",
        ),
        ({"peft_type": "LORA", "r": None}, "LORA"),
    ],
)
def test_what_an_adapter_does_not_say_is_left_out(sudoku_model, adapter, shown):
    """Cards of adapters other than LoRA said "rank None, alpha None"."""
    text = sections.architecture(Subject("tiny", sudoku_model, adapter))
    text += sections.training_run(Subject("tiny", None, adapter, {"training": {}}), Path())
    assert f"| adapter | {shown} |" in text
    assert "None" not in text and "``" not in text


def test_a_damaged_file_of_results_is_not_taken_for_none(sudoku_model, tokenizer, tmp_path):
    """A card without its measurements was written over the one that had them."""
    folder = bundle(sudoku_model, tokenizer, tmp_path / "mine", verify=False)
    before = (folder / "README.md").read_text()
    (folder / "run.json").write_text('{"cut')
    with pytest.raises(ValueError, match=r"run\.json is damaged: it is no JSON"):
        refresh_card(folder)
    assert (folder / "README.md").read_text() == before
