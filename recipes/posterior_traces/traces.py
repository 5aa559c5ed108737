"""
Fine-tune a masked diffusion model on reasoning traces: human ones, its own posterior ones, or both.

Objective
    1. Every row is a filled template: question, reasoning (filled up with end-of-sequence tokens), delimiter, answer.
       The question is given; a share of the rows comes with the first part of its reasoning given, too.
    2. Every epoch masks each other token with probability t ~ U(0, 1).
    3. The model predicts the masked tokens from all others.
    4. Minimise the cross entropy of the masked tokens, averaged over all supervised tokens.

    Posterior traces are what the model itself fills in when the answer is given: `hf-latent traces` writes them, with
    a score each; `keep` says which of them are trained on.

Where the defaults come from
    arms human, posterior, both      arXiv 2510.19990, the table of posterior-trace SFT
    t ~ U(0, 1), filling predicted   LLaDA's SFT, arXiv 2502.09992, section 2.3
    given_share                      ours: under random masks a result is seldom hidden while its operands are seen
    learning rate, updates           ours, for the model of 678,392 parameters in the YAML

    hf-latent traces runs/posterior_traces/base_second --data runs/posterior_traces/human.jsonl ... --output traces
    python recipes/posterior_traces/traces.py --config recipes/posterior_traces/traces.yaml --arm posterior --seed 1

LLaDA on GSM8K, by other names (an 8B model: not run here)

    hf-latent traces GSAI-ML/LLaDA-8B-Base --data openai/gsm8k --data-config main --answer-pattern '#### (.*)' \
        --reasoning-length 236 --answer-length 10 --delimiter $'\\nThe answer is ' --decoding med --block-length 32 \
        --format jsonl --output traces
    python recipes/posterior_traces/traces.py --model_name_or_path GSAI-ML/LLaDA-8B-Base --dtype bfloat16 --use_peft \
        --arm both --human_file gsm8k_train.jsonl --trace_column answer --trace_pattern '(?s)(.*)\\n####' \
        --answer_pattern '#### (.*)' --traces traces/traces.jsonl --reasoning_length 236 --answer_length 10 \
        --delimiter $'\\nThe answer is ' --loss_normalization sequence --learning_rate 2e-5 --max_steps 2000 \
        --output_dir llada-gsm8k

Hardware: one CPU thread, about 4 minutes. `publish_posterior_traces.py` runs all arms with three seeds.
"""

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from trl import ModelConfig, get_peft_config

from hf_latent import ReasoningTemplate
from hf_latent.data import format_traces, keep_top_share
from hf_latent.data.data_files import read_rows, to_dataset
from hf_latent.data.traces.questions import read_questions
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer
from hf_latent.training.runs.finishing import going_on
from hf_latent.training.runs.options import OptionParser
from hf_latent.training.runs.report import describe_environment, plot_training_curve, write_json, write_log

ARMS = ("human", "posterior", "both")


@dataclass
class TraceArguments:
    """What is trained on. Rows that do not fit in the template are left out, and counted."""

    arm: str = field(metadata={"help": "human, posterior or both.", "choices": ARMS})
    human_file: str | None = field(default=None, metadata={"help": "JSON lines with human traces."})
    traces: str | None = field(default=None, metadata={"help": "JSON lines of `hf-latent traces --format jsonl`."})
    question_column: str = field(default="question", metadata={"help": "Of the human file."})
    trace_column: str = field(default="trace", metadata={"help": "Of the human file."})
    answer_column: str = field(default="answer", metadata={"help": "Of the human file."})
    trace_pattern: str | None = field(default=None, metadata={"help": "Expression whose group is the human trace."})
    answer_pattern: str | None = field(default=None, metadata={"help": "Expression whose group is the answer."})
    top_share: float = field(default=1.0, metadata={"help": "Posterior traces to keep: this share, the best scored."})
    reasoning_length: int = field(default=236, metadata={"help": "Tokens of the reasoning."})
    answer_length: int = field(default=10, metadata={"help": "Tokens of the answer."})
    delimiter: str = field(default="\nThe answer is ", metadata={"help": "Text between reasoning and answer."})
    chat: bool = field(default=False, metadata={"help": "Put questions through the chat template."})
    given_share: float = field(default=0.0, metadata={"help": "Share of the rows with part of the reasoning given."})

    def __post_init__(self) -> None:
        if self.arm not in ARMS:
            raise ValueError(f"`arm` must be one of {ARMS}, got {self.arm!r}")
        for name, arm in (("human_file", "human"), ("traces", "posterior")):
            if self.arm in (arm, "both") and getattr(self, name) is None:
                raise ValueError(f"`{name}` is needed for `arm` {self.arm!r}, got None")


def read_all(arguments: TraceArguments) -> Dataset:
    """Question, trace and answer of everything that the arm trains on."""
    names = ["question", "trace", "answer"]
    parts = []
    if arguments.arm in ("human", "both"):
        known = {"answer_column": arguments.answer_column, "answer_pattern": arguments.answer_pattern}
        human = read_questions(str(arguments.human_file), question_column=arguments.question_column, **known)
        known = {"answer_column": arguments.trace_column, "answer_pattern": arguments.trace_pattern}
        traces = read_questions(str(arguments.human_file), question_column=arguments.question_column, **known).answers
        columns = (human.questions, traces, human.answers)
        parts.append(Dataset.from_dict(dict(zip(names, columns, strict=True))))
    if arguments.arm in ("posterior", "both"):
        own = to_dataset(read_rows(str(arguments.traces)), names)
        own = own if arguments.top_share == 1 else keep_top_share(own, arguments.top_share)
        parts.append(own.select_columns(names))
    return concatenate_datasets(parts)


def format_rows(arguments: TraceArguments, trainer_tokenizer: Any, mask_token_id: int, seed: int) -> Dataset:
    """`input_ids` and `labels`, with the labels of a part of the reasoning taken away in a share of the rows."""
    template = ReasoningTemplate(arguments.reasoning_length, arguments.answer_length, arguments.delimiter)
    rows = read_all(arguments)
    lengths = [len(ids) for ids in trainer_tokenizer(list(rows["trace"]), add_special_tokens=False)["input_ids"]]
    fits = [i for i, length in enumerate(lengths) if 0 < length <= template.reasoning_length]
    print(f"{len(fits)} of {len(rows)} traces fit in {template.reasoning_length} tokens")
    rows = rows.select(fits)
    columns = [list(rows[name]) for name in ("question", "trace", "answer")]
    options: dict[str, Any] = {"mask_token_id": mask_token_id, "chat": arguments.chat}
    formatted = format_traces(trainer_tokenizer, *columns, template, **options)
    rng = random.Random(f"given {seed}")
    kept = []
    for row, i in zip(formatted, fits, strict=True):
        if rng.random() < arguments.given_share:
            begin = sum(label == -100 for label in row["labels"])
            cut = begin + rng.randrange(lengths[i])
            row["labels"] = [-100] * cut + row["labels"][cut:]
        kept.append(row)
    return Dataset.from_list(kept)


def main(script_args: TraceArguments, training_args: MaskedDiffusionConfig, model_args: ModelConfig) -> None:
    """Train, and write beside the model what was done."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = model_args.model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(name, revision=model_args.model_revision)
    model = AutoModelForCausalLM.from_pretrained(name, revision=model_args.model_revision, dtype=model_args.dtype)
    data = format_rows(script_args, tokenizer, model.config.mask_token_id, training_args.seed)
    trainer = MaskedDiffusionTrainer(
        model, training_args, train_dataset=data, processing_class=tokenizer, peft_config=get_peft_config(model_args)
    )
    folder = Path(training_args.output_dir)
    run = {"script": asdict(script_args), "training": training_args.to_dict(), "model": asdict(model_args)}
    write_json(folder / "run.json", {**run, "num_rows": len(data), "environment": describe_environment()})
    output = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    write_log(folder, trainer.state.log_history)
    plot_training_curve(trainer.state.log_history, folder / "training_curve.png")
    print(json.dumps({"num_rows": len(data), **output.metrics}))


if __name__ == "__main__":
    parsed = OptionParser((TraceArguments, MaskedDiffusionConfig, ModelConfig)).parse_args_and_config()
    with going_on(parsed[1]):
        main(*parsed)
