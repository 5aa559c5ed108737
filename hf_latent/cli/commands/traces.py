"""`hf-latent traces`"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_latent.cli.shared_options import Adapter, Delimiter, Knobs, Model, Revision, Suffix, TrustRemoteCode

if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset

    from hf_latent.data.template import ReasoningTemplate
    from hf_latent.data.traces.questions import Questions
    from hf_latent.data.traces.shards import TraceFolder

Sampler = Callable[[range, Callable[[int], None]], list[dict[str, Any]]]
# Waiting for the slowest process is no failure.
PATIENCE = timedelta(days=30)


def traces(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder to write; begun by the same command, it is gone on with.")],
    task: Annotated[str | None, typer.Option(help="Questions of a task: arithmetic.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Questions of a JSON, JSON lines, Parquet or CSV file, or dataset by name.")
    ] = None,
    data_config: Annotated[str | None, typer.Option(help="Configuration of the dataset, e.g. main.")] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset or task.")] = "train",
    question_column: Annotated[str, typer.Option(help="Texts or conversations.")] = "question",
    answer_column: Annotated[str, typer.Option(help="Their answers.")] = "answer",
    answer_pattern: Annotated[
        str | None, typer.Option(help="Regular expression whose group is the answer: '#### (.*)' for GSM8K.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="First so many questions; of a task, 1000 if not given.")
    ] = None,
    task_seed: Annotated[int, typer.Option(help="Seed of the task's questions.")] = 0,
    reasoning_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens to reason in, before the answer.")
    ] = None,
    answer_length: Annotated[int | None, typer.Option(min=1, help="Tokens of the answer.")] = None,
    delimiter: Delimiter = None,
    suffix: Suffix = None,
    chat: Annotated[bool, typer.Option(help="Put questions through the tokenizer's chat template.")] = False,
    num_traces: Annotated[int, typer.Option(min=1, help="Samples of each question.")] = 1,
    temperature: Annotated[float, typer.Option(help="1 samples the posterior, 0 takes the likeliest tokens.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of all noise.")] = 0,
    decoding: Annotated[str | None, typer.Option(help="Commit rule; the checkpoint's if not given.")] = None,
    block_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a block; the checkpoint's if not given.")
    ] = None,
    set_: Knobs = None,
    estimator: Annotated[
        str, typer.Option(help="Score: left_to_right (exact), marginals (one forward), or none.")
    ] = "left_to_right",
    num_cuts: Annotated[int, typer.Option(min=1, help="Parts of the trace: scores at their ends.")] = 4,
    every: Annotated[int | None, typer.Option(min=1, help="Instead: a score every so many tokens.")] = None,
    hide_answer: Annotated[bool, typer.Option(help="Score with the answer masked in the trace, too.")] = True,
    min_score: Annotated[float | None, typer.Option(help="Keep traces of at least this score (nats).")] = None,
    top_share: Annotated[float | None, typer.Option(min=0, max=1, help="Keep this share of all, the best.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="Keep so many of each question, the best.")] = None,
    format_: Annotated[
        list[str] | None, typer.Option("--format", help="arrow, parquet, jsonl; may be repeated. [default: arrow]")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Traces of a forward.")] = 32,
    shard_size: Annotated[int, typer.Option(min=1, help="Questions that an interruption can cost.")] = 128,
    adapter: Adapter = None,
    revision: Revision = None,
    data_revision: Annotated[str | None, typer.Option(help="Revision of the dataset on the Hub.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """
    Sample reasoning for questions whose answers are known, score it, and write a dataset to fine-tune on.

    hf-latent traces arithmetic --task arithmetic --limit 64 --output traces

    hf-latent traces GSAI-ML/LLaDA-8B-Base --data openai/gsm8k --data-config main --answer-pattern '#### (.*)'
    --reasoning-length 236 --answer-length 10 --delimiter $'\\nThe answer is ' --decoding med --output traces

    Interrupted, the same command goes on. Several processes share the work: accelerate launch --multi_gpu --no_python
    hf-latent traces ..., or torchrun --nproc-per-node 2 --no-python hf-latent traces ... The result is read with
    datasets.load_from_disk('traces/traces'); filters are applied to it last, so that others can be tried at no cost.
    A template that the checkpoint's task.json describes need not be given.
    """
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise ValueError(f"traces need further packages ({error}): pip install 'hf-latent[train]'") from error
    import torch
    from accelerate import PartialState

    from hf_latent import ReasoningTemplate
    from hf_latent.checkpoints.loading import load
    from hf_latent.cli.commands.view import template_parts
    from hf_latent.data.identity import identify
    from hf_latent.data.output_folders import check_output_folder
    from hf_latent.data.traces.filtering import check_minimum, check_share
    from hf_latent.data.traces.questions import questions_of_task, read_questions
    from hf_latent.data.traces.sampling import check_names, check_questions
    from hf_latent.data.traces.shards import TraceFolder, check_format, fingerprint
    from hf_latent.evaluation.knobs import parse_knobs

    check_output_folder(output, "--output", files=("run.json",), folders=("shards",))
    formats = format_ or ["arrow"]
    for name in formats:
        check_format(name)
    if estimator not in ("left_to_right", "marginals", "none"):
        raise ValueError(f"`--estimator` must be left_to_right, marginals or none, got {estimator!r}.")
    if (task is None) == (data is None):
        raise ValueError(f"give either `--task` or `--data`, got {task!r} and {data!r}.")
    given = {"reasoning_length": reasoning_length, "answer_length": answer_length, "delimiter": delimiter}
    parts = template_parts(model, {**given, "suffix": suffix}, use_task=True)
    if not parts:
        raise ValueError("give `--reasoning-length`, `--answer-length` and `--delimiter`: the checkpoint names none.")
    scored = estimator != "none"
    if not scored and any(value is not None for value in (min_score, top_share, best)):
        raise ValueError("`--min-score`, `--top-share` and `--best` need scores, got `--estimator none`.")
    if min_score is not None:
        check_minimum(min_score, "--min-score")
    if top_share is not None:
        check_share(top_share, "--top-share")
    knobs = parse_knobs(set_ or [])
    check_names(knobs)

    # Filters are no part of the settings: they can be changed afterwards.
    rules = {"decoding": decoding, "block_length": block_length}
    sampling: dict[str, Any] = {name: value for name, value in rules.items() if value is not None}
    sampling |= {"num_traces": num_traces, "temperature": temperature, "seed": seed, "chat": chat or None}
    sampling |= {"estimator": estimator if scored else None, "num_cuts": num_cuts, "every": every}
    sampling |= {"hide_answer": hide_answer, **knobs}

    # Without `cpu`, processes that were launched where there is no accelerator would not know of each other.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    with state.main_process_first():  # the others find what is downloaded in the cache
        columns: dict[str, Any] = {"question_column": question_column, "answer_column": answer_column}
        source: dict[str, Any] = {"config": data_config, "split": split, "revision": data_revision, "limit": limit}
        if task is not None:
            found = questions_of_task(task, 1000 if limit is None else limit, task_seed, split=split)
        else:
            found = read_questions(data or "", answer_pattern=answer_pattern, **columns, **source)
        device_map = "auto" if state.num_processes == 1 else {"": state.device}
        hub: dict[str, Any] = {"adapter": adapter, "revision": revision, "trust_remote_code": trust_remote_code}
        loaded, tokenizer = load(model, device_map=device_map, **hub)
    # Read once, and by one process: a path is no identity, and its weights may have changed since the last run.
    identity = identify(loaded, tokenizer) if state.is_main_process else {}
    settings = {
        "model": identity,
        "template": parts,
        "sampling": sampling,
        "questions": fingerprint(found.questions, found.answers),
    }
    commit = getattr(loaded.config, "_commit_hash", None)
    about = {"model": model, "commit": commit, "revision": revision, "adapter": adapter, "data": data or task}
    template = ReasoningTemplate(**parts)
    chosen = {"chat": sampling["chat"], "block_length": sampling.get("block_length")}
    check_questions(loaded, tokenizer, found.questions, found.answers, template, **chosen)
    folder = TraceFolder(output, settings, len(found.questions), shard_size, about)
    share_work(folder, state, make_sampler(loaded, tokenizer, found, template, batch_size, sampling), num_traces)
    if state.is_main_process:
        merged = folder.merge()
        kept = keep(merged, min_score=min_score, top_share=top_share, best=best)
        for path in folder.export(kept, formats):
            typer.echo(path)
        typer.echo(f"{len(kept)} of {len(merged)} traces kept", err=True)
    state.wait_for_everyone()


def make_sampler(
    model: Any,
    tokenizer: Any,
    found: "Questions",
    template: "ReasoningTemplate",
    batch_size: int,
    sampling: dict[str, Any],
) -> Sampler:
    """What gives the rows of some of the questions, by their numbers; its second argument is told of progress."""
    from hf_latent import sample_posterior_traces

    def sample(chosen: range, on_batch: Callable[[int], None]) -> list[dict[str, Any]]:
        return sample_posterior_traces(
            model,
            tokenizer,
            [found.questions[i] for i in chosen],
            [found.answers[i] for i in chosen],
            template,
            question_ids=list(chosen),
            batch_size=batch_size,
            on_batch=on_batch,
            **sampling,
        ).to_list()

    return sample


def share_work(folder: "TraceFolder", state: "PartialState", sample: Sampler, num_traces: int) -> None:
    """Write the shards that are missing, each process every so many-th; returns when all are there."""
    if state.is_main_process:
        folder.begin()
    state.wait_for_everyone()
    mine = folder.missing()[state.process_index :: state.num_processes]
    state.wait_for_everyone()  # before anybody writes, so that all have seen the same shards missing
    write_shards(folder, mine, sample, num_traces, is_shown=state.is_main_process)
    state.wait_for_everyone()


def write_shards(
    folder: "TraceFolder", numbers: list[int], sample: Sampler, num_traces: int, *, is_shown: bool
) -> None:
    """Sample and write the shards `numbers`, one after the other, with a progress bar if `is_shown`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("traces"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total = num_traces * sum(len(folder.questions_of(number)) for number in numbers)
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as progress:
        bar = progress.add_task("traces", total=total)
        for number in numbers:
            folder.write(number, sample(folder.questions_of(number), lambda done: progress.advance(bar, done)))


def keep(
    every_trace: "Dataset", *, min_score: float | None = None, top_share: float | None = None, best: int | None = None
) -> "Dataset":
    """What the filters leave: the best of each question, of those the best share, of those the good enough."""
    from hf_latent.data.traces.filtering import keep_best, keep_scored, keep_top_share

    kept = every_trace
    if best is not None:
        kept = keep_best(kept, best)
    if top_share is not None:
        kept = keep_top_share(kept, top_share)
    if min_score is not None:
        kept = keep_scored(kept, min_score)
    return kept


__all__ = ["keep", "traces", "write_shards"]
