"""
Tables of measured numbers, made from the JSON files beside the cards and the benchmarks while the manual is built.

```{measured} decoders sudoku-4x4
low_confidence, max_denoising_steps=20 | one token per forward
```

A line of the content picks a row of the file, and names it; a row that is not there fails the build.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markdown_directive import ROOT, MarkdownDirective, table

CARDS, BENCHMARKS = ROOT / "model_cards", ROOT / "benchmarks"


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def percent(value: float, error: float | None = None) -> str:
    """A share with its standard error."""
    shown = f"{100 * value:.1f}" + (f" ± {100 * error:.1f}" if error else "") + " %"
    return shown.replace(" ", "\N{NO-BREAK SPACE}")


def describe(settings: dict[str, Any]) -> str:
    """A decoder as the cards name it, without its seed and block length."""
    left_out = ("decoding", "seed", "block_length")
    return ", ".join([settings["decoding"], *(f"{k}={v}" for k, v in settings.items() if k not in left_out)])


def pick(rows: dict[str, Any], lines: list[str]) -> list[tuple[str, Any]]:
    """The rows that the lines of a directive ask for, with their names; all of them without lines."""
    if not lines:
        return list(rows.items())
    chosen = []
    for line in lines:
        key, _, label = (part.strip() for part in line.partition("|"))
        if key not in rows:
            raise ValueError(f"no row {key!r}: there are {sorted(rows)}")
        chosen.append((label or key, rows[key]))
    return chosen


def decoders(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """Accuracy and cost of decoders; how many times fewer forwards is against the first row."""
    path = CARDS / name / "decoding_results.json"
    found = read(path)
    chosen = pick({describe(row["settings"]): row for row in found["results"]}, lines)
    first = chosen[0][1]["forwards_per_example"]
    rows = [
        [
            label,
            percent(row["accuracy"], row["standard_error"]),
            f"{row['forwards_per_example']:.2f}",
            f"{first / row['forwards_per_example']:.1f}",
            f"{row['tokens_per_forward']:.2f}",
        ]
        for label, row in chosen
    ]
    head = ["decoder", "right", "forwards", "times fewer", "tokens per forward"]
    note = f"{chosen[0][1]['num_examples']:,} held-out instances; ± is one standard error. Made by\n"
    return f"{table(head, rows)}\n\n{note}\n```\n{found['command']}\n```", [path]


def arms(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """Arms of the study of latent tokens."""
    path = CARDS / "latent-tokens-study" / f"{name}.json"
    found = read(path)
    chosen = pick(
        {f"{row['arm']}{row.get('order', '')}, {row['num_latent_tokens']}": row for row in found["rows"]}, lines
    )
    rows = [
        [label, percent(row["accuracy"], row["standard_error"]), f"{row['ms_per_token']:.2f}", str(row["num_seeds"])]
        for label, row in chosen
    ]
    text = table(["how it writes", "solved", "ms per token, batch 100", "seeds"], rows)
    return f"{text}\n\n```\n{found['command']}\n```", [path]


def solved(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """What `hf-latent eval` wrote beside a card."""
    path = CARDS / name / "eval_results.json"
    rows = [
        [
            ", ".join(f"{k}={v}" for k, v in row["settings"].items() if k != "seed") or "its own settings",
            percent(row["value"]),
            f"{row['forwards_per_example']:.2f}",
            f"{row['tokens_per_forward']:.2f}",
            f"{row['num_examples']:,}",
        ]
        for row in read(path)["results"]
        if row["metric"] == "accuracy"
    ]
    return table(["settings", "right", "forwards", "tokens per forward", "n"], rows), [path]


def bounds(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """Bound on the likelihood of answers before and after the two trainings of SmolLM2."""
    paths = [CARDS / folder / "results.json" for folder in ("smollm2-gsm8k", "smollm2-gsm8k-lora")]
    whole, lora = map(read, paths)
    parts = [
        ("attention opened, mask token added, untrained", whole["before"], "", ""),
        ("all weights trained", whole["after"], str(whole["steps"]), f"{whole['seconds_per_step']:.1f}"),
        ("LoRA", lora["after"], str(lora["steps"]), f"{lora['seconds_per_step']:.1f}"),
    ]
    rows = [
        [
            label,
            f"{row['nats_per_token']:.2f} ± {row['sampling_error']:.2f}",
            f"{row['perplexity']:.1f}",
            steps,
            seconds,
        ]
        for label, row, steps, seconds in parts
    ]
    head = ["", "nats per token of the answer (bound)", "perplexity (bound)", "updates", "seconds an update"]
    commands = "\n".join([whole["command"], lora["command"]])
    return f"{table(head, rows)}\n\n```\n{commands}\n```", paths


def traces(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """Accuracy after fine-tuning on traces of several kinds."""
    path = CARDS / "posterior-traces" / "results.json"
    found = read(path)
    rows = [
        [
            label,
            percent(row["accuracy"], row["standard_error"]),
            ", ".join(f"{100 * value:.1f}" for value in row["accuracies"]),
        ]
        for label, row in pick(found["arms"], lines)
    ]
    wrong = f"{percent(found['share_wrong'])} of the unfiltered traces are wrong."
    text = table(["traces trained on", "right", "each seed"], rows)
    return f"{text}\n\n{found['num_examples']:,} held-out problems. {wrong}\n\n```\n{found['command']}\n```", [path]


def samplers(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """Accuracy of latent diffusion over samplers and steps."""
    path = CARDS / "latent-diffusion" / "samplers.json"
    found = read(path)
    cells: dict[str, dict[int, str]] = {}
    for row in found["results"]:
        cells.setdefault(row["settings"]["decoding"], {})[row["settings"]["num_inference_steps"]] = (
            f"{100 * row['accuracy']:.1f}"
        )
    steps = sorted({step for row in cells.values() for step in row})
    rows = [[sampler, *(row.get(step, "") for step in steps)] for sampler, row in cells.items()]
    text = table(["sampler, % right after steps", *map(str, steps)], rows)
    return f"{text}\n\n{found['num_problems']} problems.\n\n```\n{found['command']}\n```", [path]


def overhead(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """`generate` against bare forwards, and in brackets against its own calls."""
    path = BENCHMARKS / "generation_overhead.json"
    found = read(path)
    columns = sorted({(row["model"], row["batch"]) for row in found["overhead"]}, key=str)
    cells: dict[str, dict[Any, str]] = {}
    for row in found["overhead"]:
        label = row["decoding"] + (f", {row['feature']}" if row["feature"] else "")
        cells.setdefault(label, {})[row["model"], row["batch"]] = f"{row['ratio']:.2f} ({row['own']:.3f})"
    rows = [[label, *(row.get(column, "") for column in columns)] for label, row in cells.items()]
    head = ["decoder", *(f"{model}, batch {batch}" for model, batch in columns)]
    much = (
        f"With a vocabulary of {found['all_logits']['vocab_size']:,} it is {found['all_logits']['speedup']:.1f} times"
    )
    much += " faster than a loop that computes all logits at every step."
    return f"{table(head, rows)}\n\n{much} {made(found)}", [path]


def caches(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """What block caches save, and what the ratio of positions that are read predicts."""
    path = BENCHMARKS / "block_cache.json"
    found = read(path)
    cells: dict[tuple[str, int, int], dict[str, Any]] = {}
    for row in found["rows"]:
        cells.setdefault((row["model"], row["prompt_length"], row["batch"]), {})[row["block_cache"]] = row
    rows = [
        [
            model,
            f"{batch} x {length:,}",
            *(
                f"{row[kind]['measured']:.2f} of {row[kind]['predicted']:.2f} "
                f"({100 * row[kind]['measured'] / row[kind]['predicted']:.0f} %)"
                for kind in ("prefix", "dual")
            ),
        ]
        for (model, length, batch), row in cells.items()
    ]
    text = table(["model", "prompts", "prefix cache, times as fast", "dual cache, times as fast"], rows)
    return f"{text}\n\n{made(found)}", [path]


def latent_tokens(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """Time of a step with latent tokens."""
    columns = {
        "writes": lambda row: row["kind"],
        "batch": lambda row: str(row["batch"]),
        "latent tokens": lambda row: "all" if row["num_latent_tokens"] is None else str(row["num_latent_tokens"]),
        "ms per token": lambda row: f"{1e3 * row['seconds_per_step']:.1f}",
        "times the decoder's own forward": lambda row: "" if row["ratio"] is None else f"{row['ratio']:.2f}",
    }
    return benchmark("latent_tokens.json", columns)


def drafts(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """Self-speculative decoding."""
    columns = {
        "latent tokens": lambda row: str(row["num_latent_tokens"]),
        "tokens per forward": lambda row: f"{row['tokens_per_forward']:.2f}",
        "times as fast": lambda row: f"{row['speedup']:.2f}",
        "ms per token": lambda row: f"{row['ms_per_token']:.2f}",
        "ms per token, plain": lambda row: f"{row['plain_ms_per_token']:.2f}",
    }
    return benchmark("self_speculative.json", columns)


def training(name: str, lines: list[str]) -> tuple[str, list[Path]]:
    """A training step against the bare forward, backward and optimizer, and against one with all logits."""
    path = BENCHMARKS / "training_step.json"
    columns = {"vocabulary": lambda row: f"{row['vocab_size']:,}"}
    columns["trainer / bare step"] = lambda row: f"{row['trainer_over_bare']:.2f}"
    columns["all logits / trainer"] = lambda row: f"{row['all_logits_over_trainer']:.1f}"
    for kind in ("trainer", "all logits"):
        columns[f"peak MiB, {kind}"] = lambda row, kind=kind: f"{row['peak_mib'][kind]:,}"
    return benchmark(path.name, columns, f"{read(path)['shape'].capitalize()}. ")


def benchmark(
    file: str, columns: dict[str, Callable[[dict[str, Any]], str]], remark: str = ""
) -> tuple[str, list[Path]]:
    """The rows of a benchmark's file in the columns of this name and content, and how it ran."""
    path = BENCHMARKS / file
    found = read(path)
    rows = [[shown(row) for shown in columns.values()] for row in found["rows"]]
    return f"{table(list(columns), rows)}\n\n{remark}{made(found)}", [path]


def made(found: dict[str, Any]) -> str:
    """Where and how a benchmark ran."""
    threads = "one CPU thread" if found["threads"] == 1 else f"{found['threads']} CPU threads"
    versions = f"torch {found['torch']}, transformers {found['transformers']}"
    return f"{found['date']}, {threads}, {versions}:\n\n```\n{found['command']}\n```"


TABLES: dict[str, Callable[[str, list[str]], tuple[str, list[Path]]]] = {
    function.__name__: function
    for function in (
        decoders,
        arms,
        solved,
        bounds,
        traces,
        samplers,
        overhead,
        caches,
        latent_tokens,
        drafts,
        training,
    )
}


class Measured(MarkdownDirective):
    """`{measured} TABLE NAME`"""

    def markdown(self) -> tuple[str, list[Path]]:
        """The table."""
        kind, name = self.arguments[0], self.arguments[1] if len(self.arguments) > 1 else ""
        if kind not in TABLES:
            raise ValueError(f"no table {kind!r}: there are {sorted(TABLES)}")
        return TABLES[kind](name, [line for line in self.content if line.strip()])


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True}
