"""A word problem in the terminal: reasoning as it is written, and the answer that is decided before it is done."""

import functools
import time
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel

    from hf_latent.generation.output import DiffusionGenerateOutput


def show_early_exit(console: "Console", checkpoint: str, num_problems: int, seed: int, delay: float) -> None:
    """
    Answer one held-out problem live, to the end and with early exit, then `num_problems` of them for a table.

    Args:
        checkpoint: packaged checkpoint or folder whose task.json describes the template.
        delay: seconds between the frames.
    """
    from rich.live import Live

    from hf_latent import ReasoningTemplate
    from hf_latent.checkpoints.loading import load
    from hf_latent.checkpoints.names import read_description
    from hf_latent.cli.progress import spinner
    from hf_latent.tasks import ArithmeticTask

    about = read_description(checkpoint)
    with spinner(console, f"Loading {checkpoint}"):
        model, tokenizer = load(checkpoint)
    task = ArithmeticTask()
    template = ReasoningTemplate(about["reasoning_length"], about["answer_length"], about["delimiter"])
    problems = [p | task.format(p) for p in task.generate(num_problems, seed, split="test")]
    threshold = about["early_exit_threshold"]
    console.print(
        f"\n[bold]{checkpoint}[/]: {model.num_parameters():,} parameters, word problems of 2-5 steps, reasoning and "
        "answer filled in together; with early exit it stops as soon as the entropy of the answer is below "
        f"{threshold} nats\n"
    )
    first = min(problems[:16], key=lambda problem: problem["num_steps"])
    inputs = template.apply(tokenizer, [first["prompt"]])
    for title, knobs in (("to the end", {}), ("early exit", {"early_exit_threshold": threshold})):
        output = model.generate(**inputs, output_history=True, return_dict_in_generate=True, **knobs)
        start = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
        with Live(console=console, auto_refresh=False) as live:
            for step in range(len(output.history)):
                live.update(_frame(tokenizer, output, step, start, inputs["answer_mask"][0], title), refresh=True)
                time.sleep(delay if console.is_terminal else 0.0)
        if not console.is_terminal:
            console.print()
        solved = task.is_solved(first, tokenizer.decode(output.sequences[0, start:]))
        console.print("[green]right[/]\n" if solved else f"[red]wrong[/]: it is {first['answer']}\n")
    console.print(f"The same {len(problems)} problems with each decoder:")
    _table(console, model, tokenizer, task, template, problems, threshold)


def _frame(
    tokenizer: Any, output: "DiffusionGenerateOutput", step: int, start: int, answer_mask: Any, title: str
) -> "Panel":
    from rich.panel import Panel
    from rich.text import Text

    from hf_latent.viz.spelling import Speller

    history, proposed = cast(tuple, output.history), cast(tuple, output.candidate_history)
    commit_step, answer_entropy = cast(Any, output.commit_step), cast(Any, output.answer_entropy)
    prompt = cast(Any, output.sequences)[0, :start]
    text = Text(tokenizer.decode(prompt, skip_special_tokens=True), style="bold")
    special = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id}
    tokens, candidates = history[step][0].tolist(), proposed[step][0].tolist()
    # What is read: what is written and, of the answer, what is proposed. A character stands at its first token.
    is_open = [token == tokenizer.mask_token_id for token in tokens]
    is_proposed = [
        bool(answer_mask[column]) and candidates[column] not in (-1, *special) for column in range(len(tokens))
    ]
    read = [
        (candidates[column] if is_proposed[column] else -1) if is_open[column] else token
        for column, token in enumerate(tokens)
    ]
    texts = Speller(tokenizer, special).texts(read)
    for column in range(start, len(tokens)):
        token = tokens[column]
        written = int(commit_step[0, column])
        if token in special:
            continue
        if token != tokenizer.mask_token_id:
            text.append(texts[column], style="bright_green" if written == step else "")
        elif is_proposed[column]:
            text.append(texts[column], style="dim italic")
        else:
            text.append("·", style="dim")
    entropy = float(answer_entropy[0, step])
    left = ": decided, stops here" if int(cast(Any, output.exit_step)[0]) == step else ""
    return Panel(text, title=title, subtitle=f"forward {step + 1}, entropy of the answer {entropy:.2f} nats{left}")


def _table(
    console: "Console", model: Any, tokenizer: Any, task: Any, template: Any, problems: list[dict], threshold: float
) -> None:
    from rich.table import Table

    from hf_latent.cli.progress import progress_bar
    from hf_latent.evaluation import describe, solve_puzzles

    own = {"decoding": "med", "entropy_threshold": model.generation_config.entropy_threshold}
    early = {**own, "early_exit_threshold": threshold}
    decoders = ({"decoding": "entropy"}, own, early, {**early, "block_cache": "prefix"})
    table = Table(title=f"{len(problems)} held-out problems")
    for heading in ("decoder", "right", "forwards", "left early", "seconds"):
        table.add_column(heading, justify="left" if heading == "decoder" else "right")
    with progress_bar(console, len(problems) * len(decoders)) as advance:
        for settings in decoders:
            on_batch = functools.partial(advance, describe(settings))
            on_batch(0)
            result = solve_puzzles(
                model, tokenizer, task, problems, template=template, batch_size=32, on_batch=on_batch, **settings
            )
            table.add_row(
                describe(settings),
                f"{100 * result.accuracy:.0f} %",
                f"{result.forwards_per_example:.1f}",
                f"{100 * result.exit_share:.0f} %",
                f"{result.seconds:.1f}",
            )
    console.print(table)


__all__ = ["show_early_exit"]
