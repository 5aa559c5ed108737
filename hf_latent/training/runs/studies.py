"""What scripts share that measure trained models and publish them: the walk from a run's folder to a card's."""

import argparse
import hashlib
import itertools
import json
import math
import re
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_latent.data.data_files import read_rows, to_dataset
from hf_latent.data.identity import identify, record_or_check
from hf_latent.data.json_files import read_json
from hf_latent.hub.bundles.bundling import bundle
from hf_latent.hub.cards.results import RUN_FILES, without_folders
from hf_latent.modeling.atomic import replacing
from hf_latent.training.common.sources import as_prompt_completion
from hf_latent.training.runs.report import write_json, write_text

# Command


def script_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring, as it is laid out there."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def this_command(instead: Mapping[str, Sequence[str]] | None = None) -> str:
    """
    The command of this process as a card shows it.

    Args:
        instead: option to what is shown in the place of it and its values: nothing of what no reader needs, a pattern
            for names of local files.
    """
    replaced, words = instead or {}, list[str]()
    for option, group in itertools.groupby(sys.argv[1:], key=_option_of()):
        words += replaced.get(option, list(group))
    return shlex.join(["python", Path(sys.argv[0]).as_posix(), *words])


def _option_of() -> Callable[[str], str]:
    """The option that each word belongs to, of words that come one after the other."""
    current = ""

    def option(word: str) -> str:
        nonlocal current
        current = word.partition("=")[0] if word.startswith("--") else current
        return current

    return option


def recipe_command(script: str, run: Mapping[str, Any]) -> str:
    """The command that repeats a training, of what its `run.json` holds."""
    return shlex.join(["python", script, *run["command"][1:]])


# What a run has left


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`run.json` and `results.json` of a training."""
    return read_json(folder / "run.json"), read_json(folder / "results.json")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A file of JSON lines."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def load_checkpoint(folder: Path) -> tuple[Any, Any]:
    """The model of a folder, in evaluation mode, and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def evaluate_again(
    trainer_class: Any, config_class: Any, model: Any, tokenizer: Any, data: Any, **arguments: Any
) -> dict[str, float]:
    """The trainer's own evaluation of a model that was loaded anew, with the noise of its run."""
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(folder, report_to="none", **arguments)
        trainer = trainer_class(model, args, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
        return trainer.evaluate()


def publishing_parser(doc: str | None) -> argparse.ArgumentParser:
    """[`script_parser`] with what a script is told that publishes a fine-tuned backbone."""
    parser = script_parser(doc)
    parser.add_argument("--run", type=Path, required=True, help="output_dir of the training")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write")
    parser.add_argument("--backbone", required=True, help="what the training started from")
    parser.add_argument("--eval_file", required=True, help="JSON lines with `question` and `answer`")
    parser.add_argument("--num_examples", type=int, default=96)
    parser.add_argument("--num_answers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def read_questions(run: Path, eval_file: str, number: int) -> tuple[Any, list[str], Any]:
    """The tokenizer of a run, the first questions of a file, and these with their answers as chats to evaluate on."""
    data = to_dataset(read_rows(eval_file, number), ("question", "answer"))
    chats = as_prompt_completion(data, "question", "answer", chat=True)
    return AutoTokenizer.from_pretrained(run), data["question"][:number], chats


def answer_questions(tokenizer: Any, questions: Iterable[str], write: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """
    Each question with the `text` that follows it, and what else `write` says of it: `write(inputs)` gives the ids of
    what `generate` wrote of one question, and a dict.
    """
    samples = []
    for question in questions:
        inputs = ask(tokenizer, question)
        ids, facts = write(inputs)
        text = tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        samples.append({"question": question, "text": text, **facts})
    return samples


def ask(tokenizer: Any, question: str) -> Any:
    """What `generate` is given for one question under the chat template."""
    chat = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)


# Results that are made once


def identify_checkpoint(folder: Path) -> dict[str, Any]:
    """[`~hf_latent.data.identify`] of what lies in a folder."""
    return identify(*load_checkpoint(folder))


def digest_file(path: Path) -> str:
    """16 hexadecimal digits of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def make_once(path: Path, make: Callable[[], Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """
    The content of a results file, which is made if it is not there.

    Args:
        facts: what the results are a function of, the identity of the model among it. They are kept beside the file.

    Raises:
        ValueError: if the file was made of other facts, naming what has changed, or of unknown ones.
    """
    kept = identity_file(path)
    if not path.is_file():
        kept.unlink(missing_ok=True)  # of a result that was never made
        result = make()
        record_or_check(kept, facts)
        write_json(path, dict(result))
    check_made_of(path, facts)
    return read_json(path)


def check_made_of(path: Path, facts: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless a result, a file or a folder, was made of these `facts`; see [`make_once`]."""
    if not identity_file(path).is_file():
        raise ValueError(
            f"{path} does not say which weights it was made with: whether it is the same cannot be told. Remove it, "
            "or name another folder."
        )
    record_or_check(identity_file(path), facts, argument=path.name, what="checkpoint or other settings")


def identity_file(path: Path) -> Path:
    """Where the facts lie that a result, a file or a folder, was made of."""
    return path.with_name(f"{path.stem if path.suffix == '.json' else path.name}.identity.json")


# Tables and pictures


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error over seeds; None of a single one."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def save_figure(figure: Any, path: Path) -> None:
    """Write a picture, whole or not at all."""
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)


# The card's folder


def publish_weights(
    model: Any, tokenizer: Any, run: Path, folder: Path, task: Mapping[str, Any], **generation: Any
) -> None:
    """
    Bundle a model without code and copy what its run has left about itself.

    Args:
        task: the content of `task.json`.
        generation: what the checkpoint's `generation_config.json` is to say.
    """
    model.generation_config.update(**generation)
    bundle(model, tokenizer, folder, with_code=False)
    write_text(folder / "task.json", json.dumps(task) + "\n")
    for file in RUN_FILES:
        shutil.copy2(run / file, folder / file)


def publish_results(
    folder: Path, results: Mapping[str, Any], run: Mapping[str, Any], copied: Mapping[str, Path], card: str
) -> None:
    """
    A card's folder without weights: results, how they were trained, files of the run, `README.md`.

    Args:
        copied: name in the folder to the file that is copied.
    """
    from hf_latent.hub import refresh_card

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", without_folders(dict(run)))
    write_json(folder / "results.json", without_folders(dict(results)))
    for name, source in copied.items():
        shutil.copy2(source, folder / name)
    write_text(folder / "README.md", card)
    refresh_card(folder)


def marked(name: str) -> str:
    """The place of a part of a card that `refresh_card` writes."""
    return f"<!-- hf-latent:{name} -->\n\n<!-- /hf-latent:{name} -->"


def put_between(card: Path, begin: str, end: str, text: str) -> None:
    """Write `text` between two marks of a card; into a new one if there is none."""
    whole = card.read_text(encoding="utf-8") if card.is_file() else f"{begin}{end}\n"
    if begin not in whole or end not in whole:
        raise ValueError(
            f"`folder` has a README.md without the marks {begin.strip()} and {end.strip()}, got {card.parent}"
        )
    write_text(card, f"{whole.partition(begin)[0]}{begin}{text}{end}{whole.partition(end)[2]}")


def numbers_in(name: str) -> list[int]:
    """The numbers in a file's name, to sort by."""
    return [int(number) for number in re.findall(r"\d+", name)]


__all__ = [
    "answer_questions",
    "ask",
    "check_made_of",
    "digest_file",
    "evaluate_again",
    "identify_checkpoint",
    "identity_file",
    "load_checkpoint",
    "make_once",
    "marked",
    "mean_and_error",
    "numbers_in",
    "publish_results",
    "publish_weights",
    "publishing_parser",
    "put_between",
    "read_lines",
    "read_questions",
    "read_run",
    "recipe_command",
    "save_figure",
    "script_parser",
    "this_command",
    "write_lines",
]
