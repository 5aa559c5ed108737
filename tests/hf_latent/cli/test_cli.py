"""Every command does what its help says, on a tiny model, and says in one line what a user did wrong."""

import json
import re
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent import LladaConfig, LladaForMaskedDiffusion
from hf_latent.checkpoints.loading import packaged_checkpoints
from hf_latent.cli.commands.demo import DECODERS
from hf_latent.cli.early_exit import show_early_exit
from hf_latent.cli.train_options import SOURCES, grouped, package_folder, read_class
from hf_latent.evaluation.knobs import parse_knobs
from hf_latent.generation.commit.rules import RULES
from hf_latent.hub import bundle
from hf_latent.tasks import ArithmeticTask, arithmetic_tokenizer


@pytest.fixture
def checkpoint(sudoku_model, tokenizer, tmp_path) -> Path:
    folder = bundle(sudoku_model, tokenizer, tmp_path / "tiny", verify=False)
    (folder / "task.json").write_text(json.dumps({"task": "sudoku", "size": 4, "num_givens": [6, 10]}))
    return folder


def run(*arguments: object, **kwargs: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], **kwargs)


def test_help_of_training_reads_every_class_of_ours_where_it_is():
    """A file that has moved gives no options, and no error: the help would leave out what only this library has."""
    ours = [(package_folder(package) / file, name) for package, file, name in SOURCES if package == "hf_latent"]
    assert len(ours) == 3
    for path, name in ours:
        assert list(read_class(path, name)), f"{path} has no {name}"
    page = run("train", "--help").output
    for option in ("--backbone", "--train-file", "--mask-schedule", "--num-latent-tokens"):
        assert option in page


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["generate"], ["denoise"], ["view"], ["train"], ["bundle"], ["bundle-decoder"]]
)
def test_help_is_there_for_every_command(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_demo_solves_prints_the_table_and_draws(checkpoint, tmp_path):
    picture = tmp_path / "order.png"
    result = run("demo", "--checkpoint", checkpoint, "--puzzles", 3, "--show", 1, "--output", picture)
    assert result.exit_code == 0, result.output
    assert "puzzle" in result.output
    assert re.search(r"solved|wrong", result.output)
    for name in RULES:
        assert name in result.output
    assert picture.stat().st_size > 10_000


def test_early_exit_is_shown_on_a_model_with_a_template(tmp_path):
    """A threshold that every belief meets: the reasoning is left at the first forward."""
    task, tokenizer = ArithmeticTask(), arithmetic_tokenizer()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos")}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LladaForMaskedDiffusion(LladaConfig(vocab_size=len(tokenizer), **special, **sizes))
    folder = bundle(model, tokenizer, tmp_path / "tiny", verify=False)
    layout = {name: getattr(task, name) for name in ("reasoning_length", "answer_length", "delimiter")}
    about = {"task": "arithmetic", **layout, "early_exit_threshold": 1e6}
    (folder / "task.json").write_text(json.dumps(about))
    console = Console(file=StringIO(), width=200)
    show_early_exit(console, str(folder), num_problems=3, seed=0, delay=0.0)
    text = console.file.getvalue()
    assert "nats: decided, stops here" in text
    assert text.count("wrong") + text.count("right") >= 2
    assert re.search(r"early_exit_threshold=1000000.0 .* 1\.0 .* 100 %", text)


def test_demo_compares_every_rule_there_is():
    assert {decoder["decoding"] for decoder in DECODERS} == set(RULES)


def test_generate_prints_the_text_that_the_model_writes(checkpoint, sudoku_model, tokenizer):
    prompt = "1..4\n"
    result = run("generate", checkpoint, prompt, "--max-new-tokens", 6, "--decoding", "entropy")
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    output = sudoku_model.generate(ids, max_new_tokens=6, decoding="entropy", return_dict_in_generate=True)
    assert result.exit_code == 0
    assert result.stdout == tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True) + "\n"
    assert result.stderr.startswith(f"{int(output.num_forward_passes[0])} forwards")
    assert run("generate", checkpoint, "--max-new-tokens", 6, "--decoding", "entropy", input=prompt).stdout == (
        result.stdout
    )


def test_generate_infills_and_takes_any_knob(checkpoint):
    result = run("generate", checkpoint, "1<mask><mask>4", "--infill", "--set", "suppress_tokens=[0,1,2,3,4,5]")
    assert re.fullmatch(r"1[1-9]{2}4\n", result.stdout)


def test_generate_merges_an_adapter(checkpoint, sudoku_model, tmp_path):
    """An adapter whose update is large changes the text; without `--adapter` it does not."""
    torch.manual_seed(0)
    adapted = get_peft_model(
        sudoku_model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.mul_(30)
    adapted.save_pretrained(tmp_path / "adapter")
    command = ("generate", checkpoint, "1..4\n", "--max-new-tokens", 12, "--set", "eos_token_id=null")
    plain, with_adapter = run(*command), run(*command, "--adapter", tmp_path / "adapter")
    assert with_adapter.exit_code == 0, with_adapter.output
    assert plain.stdout != with_adapter.stdout


def test_bundle_lists_what_it_wrote(checkpoint, tmp_path):
    result = run("bundle", checkpoint, tmp_path / "copy")
    assert result.exit_code == 0, result.output
    assert "modeling_llada.py" in result.output
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_knobs_are_json_or_text():
    assert parse_knobs(["top-k=5", "decoding=med", "suppress_tokens=[1, 2]", "x=null"]) == {
        "top_k": 5,
        "decoding": "med",
        "suppress_tokens": [1, 2],
        "x": None,
    }
    with pytest.raises(ValueError, match="'nonsense'"):
        parse_knobs(["nonsense"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "CHECKPOINT", "1", "--set", "entropy_treshold=1"], "entropy_treshold.*entropy_threshold"),
        (["generate", "CHECKPOINT", "1", "--decoding", "mde"], "'mde'"),
        (["generate", "CHECKPOINT", "1", "--set", "bad"], "'bad'"),
        (["demo", "--checkpoint", "CHECKPOINT/nothing"], "nothing"),
        (["train", "--config", "CHECKPOINT/nothing.yaml"], "nothing.yaml"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(arguments, message, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hf-latent", *(a.replace("CHECKPOINT", str(checkpoint)) for a in arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hf-latent: ")
    assert re.search(message, error)


def test_packaged_checkpoints_are_folders_with_weights_and_a_task():
    from importlib import resources

    assert set(packaged_checkpoints()) - set(packaged_checkpoints(autoregressive=False)) == {
        "latent-tokens-arithmetic",
        "latent-tokens-star-graph",
    }
    for name in packaged_checkpoints(autoregressive=False):
        about = json.loads((resources.files("hf_latent.model_cards") / name / "task.json").read_text())
        assert about["size"] in (4, 6, 9) if about["task"] == "sudoku" else about["reasoning_length"] > 0


def test_every_help_is_quick_whole_and_without_markup(run_python):
    """CPU seconds of a process of its own; nothing that loads torch (3 seconds and more) is among what `--help` needs.

    All commands in one process, the options of `train` included, which are read from the sources.
    """
    code = (
        "import resource, sys, typer\nfrom typer.testing import CliRunner\nimport hf_latent.cli as cli\n"
        "commands = [[name] for name in typer.main.get_command(cli.app).commands] + [['card', 'check'], []]\n"
        "for command in commands:\n"
        "    result = CliRunner().invoke(cli.app, [*command, '--help'], env={'COLUMNS': '80'})\n"
        "    assert result.exit_code == 0, command\n    print(result.output)\n"
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules), 'loaded for a help text'\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\nprint('CPU', usage.ru_utime + usage.ru_stime)\n"
    )
    printed = run_python(code)
    assert float(printed.rsplit("CPU", 1)[1]) < 6  # about 1 on a quiet machine; each command alone has all to itself
    assert "pip install 'hf-latent[app]'" in " ".join(printed.split())
    for option in ("--early-exit-threshold", "--num-latent-tokens", "--per-device-train-batch-size"):
        assert option in printed  # whole, at 80 columns


def test_the_help_of_train_has_every_option_once_in_groups():
    """The sources are read, not imported: both must know the same names."""
    from trl import ModelConfig

    from hf_latent.training.common.objectives import LOSS_WEIGHTINGS
    from hf_latent.training.common.sources import TrainArguments
    from hf_latent.training.latent_tokens.config import LatentTokenTrainingConfig
    from hf_latent.training.runs.options import OptionParser

    parser = OptionParser((TrainArguments, LatentTokenTrainingConfig, ModelConfig))
    names = [option.name for options in grouped().values() for option in options]
    assert len(names) == len(set(names))
    assert set(names) == {action.dest for action in parser._actions} - {"help"}
    assert len(grouped()) >= 10 and len(grouped().get("Others", [])) < 5
    by_name = {option.name: option for options in grouped().values() for option in options}
    assert by_name["loss_weighting"].choices == LOSS_WEIGHTINGS
    assert by_name["max_length"].default == "1024" and by_name["num_latent_tokens"].default == "[0, 1, 2, 4, 8]"


def test_options_of_train_are_whole_names_in_either_spelling(tmp_path):
    from trl import ModelConfig

    from hf_latent.training import MaskedDiffusionConfig
    from hf_latent.training.common.sources import TrainArguments
    from hf_latent.training.runs.options import OptionParser

    (tmp_path / "run.yaml").write_text("task: sudoku\nmax-steps: 3\noutput_dir: out\nuse_cpu: true\n")
    parser = OptionParser((TrainArguments, MaskedDiffusionConfig, ModelConfig))
    script, training, _ = parser.parse_args_and_config(
        [f"--config={tmp_path / 'run.yaml'}", "--learning-rate", "0.5", "--task_seed", "7"]
    )
    assert (training.max_steps, training.learning_rate, script.task_seed) == (3, 0.5, 7)
    with pytest.raises(ValueError, match=r"no option --learning-r: did you mean --learning_rate"):
        parser.parse_args_and_config(["--task", "sudoku", "--output-dir", "out", "--learning-r", "1"])


def test_version_is_printed():
    result = run("--version")
    assert result.exit_code == 0 and re.fullmatch(r"hf-latent \d+\.\d+\.\d+\n", result.output)
