"""`hf-latent eval`"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_latent.cli.shared_options import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hf_latent import ReasoningTemplate
    from hf_latent.evaluation.evaluator import Evaluator
    from hf_latent.evaluation.metrics import Metric

Knob = str | None
TASKS_PANEL, DECODER_PANEL, FILES_PANEL, RUN_PANEL = "What is measured", "Decoders", "Files and prompts", "Run"

HARNESS = "harness:"
DECODER_KNOBS = (
    "entropy_threshold",
    "entropy_bound",
    "confidence_threshold",
    "max_tokens_per_step",
    "max_denoising_steps",
    "block_length",
    "block_cache",
    "early_exit_threshold",
    "latent_refinement",
    "num_latent_tokens",
    "cfg_scale",
    "temperature",
    "top_p",
    "top_k",
)
METRIC_FIELDS = (
    "limit",
    "task_seed",
    "question_field",
    "answer_field",
    "choices_field",
    "answer_filter",
    "chat",
    "max_new_tokens",
    "separator",
    "add_eos",
)
TEMPLATE_PARTS = ("reasoning_length", "answer_length", "delimiter", "suffix")


def decoder_option(text: str) -> Any:
    """A knob that takes values, lists and ranges."""
    return typer.Option(help=text, rich_help_panel=DECODER_PANEL, metavar="VALUES")


def option(text: str, panel: str) -> Any:
    """An option in a panel of the help."""
    return typer.Option(help=text, rich_help_panel=panel)


def evaluate(
    model: Model,
    tasks: Annotated[
        str | None,
        option(
            "Comma-separated: sudoku, zebra, star_graph, countdown, arithmetic, answer_first, with sizes as in "
            "sudoku-6x6, zebra-4x3, star_graph-2x5, countdown-4; FILE.jsonl or FILE.json (question and answer); "
            "each as it is (exact match of what is generated) or with :likelihood behind it; "
            "FILE.jsonl:choice; harness:NAME of lm-evaluation-harness. Default: the checkpoint's own task.",
            TASKS_PANEL,
        ),
    ] = None,
    limit: Annotated[
        int | None, option("Examples of each task; all of a file, 200 of the other tasks if not given.", TASKS_PANEL)
    ] = None,
    task_seed: Annotated[int, option("Of generated, held-out examples.", TASKS_PANEL)] = 1234,
    estimator: Annotated[
        str, option("For :likelihood and :choice: masked_count, continuous_time (bounds) or chain.", TASKS_PANEL)
    ] = "masked_count",
    num_samples: Annotated[int, option("Draws of an example for the bounds, a forward each.", TASKS_PANEL)] = 32,
    decoding: Annotated[
        Knob, decoder_option("Commit rules, e.g. med,entropy_bound. Default: the checkpoint's.")
    ] = None,
    entropy_threshold: Annotated[Knob, decoder_option("Nats, for med and med_left_to_right.")] = None,
    entropy_bound: Annotated[Knob, decoder_option("Nats, for entropy_bound.")] = None,
    confidence_threshold: Annotated[
        Knob, decoder_option("Probability, for confidence_threshold, wide_in and klass.")
    ] = None,
    max_tokens_per_step: Annotated[Knob, decoder_option("Most tokens a forward writes, for these rules.")] = None,
    max_denoising_steps: Annotated[Knob, decoder_option("Forwards.")] = None,
    block_length: Annotated[Knob, decoder_option("Tokens of a block.")] = None,
    block_cache: Annotated[Knob, decoder_option("none, prefix, dual.")] = None,
    early_exit_threshold: Annotated[Knob, decoder_option("Nats of the answer; needs a template.")] = None,
    latent_refinement: Annotated[Knob, decoder_option("true, false.")] = None,
    num_latent_tokens: Annotated[
        Knob, decoder_option("Positions that look ahead, of latent-token models; 0 is none.")
    ] = None,
    cfg_scale: Annotated[Knob, decoder_option("Classifier-free guidance.")] = None,
    temperature: Annotated[Knob, decoder_option("0 takes the most likely token.")] = None,
    top_p: Annotated[Knob, decoder_option("Nucleus.")] = None,
    top_k: Annotated[Knob, decoder_option("Most likely tokens that are kept.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other knob of generate as name=VALUES; may be repeated.", rich_help_panel=DECODER_PANEL
        ),
    ] = None,
    question_field: Annotated[str | None, option("Default: question, prompt or input.", FILES_PANEL)] = None,
    answer_field: Annotated[str | None, option("Default: answer, completion, output or label.", FILES_PANEL)] = None,
    choices_field: Annotated[
        str, option("For :choice: a list of texts; the answer is index, letter or text.", FILES_PANEL)
    ] = "choices",
    prompt: Annotated[
        str | None,
        option("Prompt with {field}s of a row instead of the question alone; \\n is a new line.", FILES_PANEL),
    ] = None,
    templates: Annotated[
        Path | None,
        option(
            "File of several wordings: a template with {question} in it a line (\\n is a new line), or rows with "
            "template and name (.jsonl, .csv). Every task is asked in each; mean, spread, changes of rank.",
            FILES_PANEL,
        ),
    ] = None,
    answer_filter: Annotated[
        str,
        option(
            "What is compared of text and reference: exact, first_line, last_number, gsm8k (as '#### 18'), boxed, "
            "letter.",
            FILES_PANEL,
        ),
    ] = "exact",
    stop: Annotated[list[str] | None, option("Text where an answer ends; may be repeated.", FILES_PANEL)] = None,
    max_new_tokens: Annotated[
        int | None, option("Tokens to write; the checkpoint's own, or 128.", FILES_PANEL)
    ] = None,
    chat: Annotated[bool, option("Put prompts through the chat template.", FILES_PANEL)] = False,
    add_eos: Annotated[bool, option("Score the end-of-sequence token behind a completion too.", FILES_PANEL)] = True,
    separator: Annotated[str, option("Between a context and each choice.", FILES_PANEL)] = " ",
    template: Annotated[
        bool, option("Reason and answer in place as the checkpoint's task.json says.", FILES_PANEL)
    ] = True,
    reasoning_length: Annotated[int | None, option("Tokens to reason in, before the answer.", FILES_PANEL)] = None,
    answer_length: Annotated[int | None, option("Tokens of the answer.", FILES_PANEL)] = None,
    delimiter: Annotated[str | None, option("Text between reasoning and answer.", FILES_PANEL)] = None,
    suffix: Annotated[str | None, option("Text behind the answer.", FILES_PANEL)] = None,
    include_path: Annotated[Path | None, option("Folder with tasks of lm-evaluation-harness.", FILES_PANEL)] = None,
    num_fewshot: Annotated[int | None, option("Examples in the prompts of harness: tasks.", FILES_PANEL)] = None,
    output: Annotated[Path | None, option("Folder of the results. Default: eval/MODEL.", RUN_PANEL)] = None,
    card: Annotated[
        Path | None,
        option("Folder whose card gets the results too: eval_results.json, plots, README.md.", RUN_PANEL),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a forward.", rich_help_panel=RUN_PANEL)] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of all noise.", rich_help_panel=RUN_PANEL)] = 0,
    adapter: Annotated[str | None, option("PEFT adapter to merge in first.", RUN_PANEL)] = None,
    revision: Annotated[str | None, option("Revision of the checkpoint on the Hub.", RUN_PANEL)] = None,
    trust_remote_code: Annotated[bool, option("Run code that comes with the checkpoint.", RUN_PANEL)] = False,
) -> None:
    """
    Measure a model: exact match, likelihood, multiple choice, harness tasks, over a grid of decoders.

    hf-latent eval sudoku-4x4 --decoding med,entropy_bound --entropy-threshold 0.1:0.5:0.1

    A knob takes VALUES: one, a list (0.1,0.3) or a range first:last:step; every combination is a decoder. In the
    output folder: results.json (settings, standard errors, seeds, versions, command), results.md, plots, and a record
    of every example. Interrupted, the same command goes on; other commands add to the same results. Shared among
    processes: torchrun --nproc_per_node 2 -m hf_latent.cli eval ... (or accelerate launch, on GPUs).
    """
    given = dict(locals())
    if card is not None and not card.is_dir():
        raise ValueError(f"`--card` must be the folder of a model or adapter, got {card}.")
    from hf_latent.data.output_folders import check_output_folder
    from hf_latent.evaluation.metric_specs import MetricOptions, build_metric
    from hf_latent.evaluation.reports.report import model_label
    from hf_latent.evaluation.solving.wordings import read_wordings

    given["output"] = output or Path("eval") / model_label({"name": model, "adapter": adapter})
    written = {"files": ("results.json", "results.md"), "folders": ("models", "records")}
    check_output_folder(given["output"], "--output", **written)
    about = read_task_description(model)
    specs = read_specs(tasks, about, model)
    options = MetricOptions(
        **{name: given[name] for name in METRIC_FIELDS},
        prompt=unescape(prompt),
        stop=tuple(unescape(text) or "" for text in stop or ()),
        template=read_template(model, given),
        use_template=template,
    )
    wordings = read_wordings(templates) if templates is not None else [None]
    worded = [replace(options, wording=wording) for wording in wordings]
    metrics = [build_metric(spec, o, about) for spec in specs if not spec.startswith(HARNESS) for o in worded]
    harness = [spec.removeprefix(HARNESS) for spec in specs if spec.startswith(HARNESS)]
    if templates is not None and harness:
        raise ValueError(f"`--templates` word tasks and files; {HARNESS}{harness[0]} has prompts of its own.")
    knobs = read_knobs({name: given[name] for name in DECODER_KNOBS}, set_ or [])
    evaluator = open_evaluator(given)
    entries = run_all(evaluator, metrics, harness, knobs, given)
    report(evaluator, entries, card)


def read_task_description(model: str) -> dict[str, Any]:
    """The `task.json` of a model folder or packaged checkpoint; empty if there is none."""
    from hf_latent.checkpoints.names import read_description

    return read_description(model)


def read_specs(tasks: str | None, about: dict[str, Any], model: str) -> list[str]:
    """What `--tasks` lists, each once; the checkpoint's own task without it."""
    from hf_latent.evaluation.metric_specs import own_task

    if tasks is None:
        if "task" not in about:
            raise ValueError(f"`--tasks` is needed: {model} has no task.json that names its own task.")
        return [own_task(about)]
    specs = [spec.strip() for spec in tasks.split(",") if spec.strip()]
    if not specs:
        raise ValueError(f"`--tasks` must name at least one task, got {tasks!r}.")
    return list(dict.fromkeys(specs))


def unescape(text: str | None) -> str | None:
    r"""`\n` and `\t` as they are typed in a shell."""
    return None if text is None else text.replace("\\n", "\n").replace("\\t", "\t")


def read_template(model: str, given: dict[str, Any]) -> "ReasoningTemplate | None":
    """The template of the options and of the checkpoint's `task.json`, if either has one."""
    from hf_latent import ReasoningTemplate
    from hf_latent.cli.commands.view import template_parts

    parts = template_parts(model, {name: given[name] for name in TEMPLATE_PARTS}, use_task=given["template"])
    return ReasoningTemplate(**parts) if parts else None


def read_knobs(options: dict[str, str | None], assignments: list[str]) -> dict[str, list[Any]]:
    """Every knob of the command line with its values."""
    from hf_latent.evaluation.grid import parse_values

    texts = {name: text for name, text in options.items() if text is not None}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        name = name.replace("-", "_")
        if not separator or not name:
            raise ValueError(f"`--set` takes name=VALUES, got {assignment!r}.")
        if name in texts or name in ("decoding", "seed"):
            raise ValueError(f"`--set` {name} is given twice: use `--{name.replace('_', '-')}` alone.")
        texts[name] = text
    return {name: parse_values(text, name) for name, text in texts.items()}


def open_evaluator(given: dict[str, Any]) -> "Evaluator":
    """Load the model and say what all results have in common."""
    from hf_latent.checkpoints.loading import load
    from hf_latent.evaluation.evaluator import Evaluator, shown_command
    from hf_latent.evaluation.sharded_runs import process_state
    from hf_latent.training.runs.report import describe_environment

    state = process_state()
    name, adapter, revision = given["model"], given["adapter"], given["revision"]
    loaded, tokenizer = load(
        name,
        adapter=adapter,
        revision=revision,
        trust_remote_code=given["trust_remote_code"],
        device_map="auto" if state.num_processes == 1 else {"": state.device},
        autoregressive=True,
    )
    commit = getattr(loaded.config, "_commit_hash", None)
    header = {
        "command": shown_command(sys.argv),
        "model": {
            "name": name,
            "adapter": adapter,
            "revision": revision,
            "commit": commit,
            "dtype": str(loaded.dtype),
        },
        "batch_size": given["batch_size"],
        "environment": describe_environment(),
    }
    return Evaluator(loaded, tokenizer, given["output"], header, batch_size=given["batch_size"])


def run_all(
    evaluator: "Evaluator",
    metrics: "Sequence[Metric]",
    harness: list[str],
    knobs: dict[str, list[Any]],
    given: dict[str, Any],
) -> list[dict[str, Any]]:
    """Every metric with every decoder, or with the draws where no decoder is read; what was measured."""
    from hf_latent.evaluation.grid import build_causal_grid, build_grid
    from hf_latent.evaluation.reports.report import table
    from hf_latent.evaluation.scoring.estimators import check_estimator
    from hf_latent.evaluation.sharded_runs import settings_of
    from hf_latent.evaluation.solving.wordings import check_spelling

    samples = {name: given[name] for name in ("estimator", "num_samples")}
    check_estimator(**samples)
    for metric in metrics:
        if metric.wording is not None:
            check_spelling(metric.wording, metric.questions[0], evaluator.tokenizer)
    decodings = None if given["decoding"] is None else [name.strip() for name in given["decoding"].split(",")]
    if (decodings or knobs) and not harness and not any(metric.decodes for metric in metrics):
        raise ValueError("decoders were given, but nothing of `--tasks` generates.")
    if hasattr(evaluator.model, "infill"):
        grid = build_grid(evaluator.model.generation_config, decodings, knobs)
    else:
        grid = build_causal_grid(evaluator.model, decodings, knobs)
    entries = []
    for metric in metrics:
        for settings in settings_of(metric, grid, samples, given["seed"]):
            entry = evaluator.evaluate(metric, settings)
            if entry is not None:
                typer.echo(table([entry]).splitlines()[-1])
                entries.append(entry)
    if harness:
        try:
            from hf_latent.evaluation.harness.runs import measure_with_harness
        except ImportError as error:
            raise ValueError(f"{HARNESS} tasks need lm-eval ({error}): pip install 'hf-latent[eval]'") from error

        options = {name: given[name] for name in ("limit", "include_path", "num_fewshot", "chat")}
        for entry in measure_with_harness(evaluator, harness, grid, samples, given["seed"], **options):
            typer.echo(table([entry]).splitlines()[-1])
            entries.append(entry)
    return entries


def report(evaluator: "Evaluator", entries: list[dict[str, Any]], card: Path | None) -> None:
    """Write the report, and `entries` into a card; say where they are."""
    paths = evaluator.report()
    for path in paths:
        typer.echo(path)
    if card is not None and evaluator.is_main and entries:
        from hf_latent.evaluation.reports.report import model_label, plot_stem
        from hf_latent.hub.cards.card import refresh_card
        from hf_latent.hub.cards.results import put_results

        stems = {plot_stem(entry["task"], label) for entry in entries for label in (None, model_label(entry["model"]))}
        stems |= {f"{stem}_wordings" for stem in stems}
        plots = [path for path in paths if path.suffix == ".png" and path.name.partition("_accuracy_over")[0] in stems]
        typer.echo(put_results(card, entries, plots))
        typer.echo(refresh_card(card))
    if evaluator.is_main and entries:
        say_end(evaluator, entries, card)


def say_end(evaluator: "Evaluator", entries: list[dict[str, Any]], card: Path | None) -> None:
    """Everything that was measured as a table, where it lies, and what can be done next."""
    import shlex

    from hf_latent.evaluation.comparison.compare import compare
    from hf_latent.evaluation.reports.report import show_comparisons, table

    typer.echo(f"\n{table(entries)}\n")
    if compared := show_comparisons(compare(entries)):
        typer.echo(f"{compared}\n")
    typer.echo(f"Results, settings and a record of every example are in {evaluator.folder}.")
    name = shlex.quote(str(evaluator.header["model"]["name"]))
    typer.echo(
        f"Next: hf-latent view {name}"
        if card is not None
        else "Next: the same command with --card FOLDER "
        f"puts them into a model's card; hf-latent view {name} shows how a text is written."
    )


__all__ = ["evaluate"]
