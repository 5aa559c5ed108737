"""
Model cards: written from what is known; what was not measured is said to be unmeasured.

A card is `README.md`. The parts that are written here stand between two comments, `<!-- hf-latent:NAME -->` and
`<!-- /hf-latent:NAME -->`, and are written anew by `refresh_card`; everything else is its author's and stays.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from hf_latent.hub.cards import sections
from hf_latent.hub.cards.results import EVAL_RESULTS, Evaluation, evaluation_of, read_evaluations, results_table
from hf_latent.hub.cards.sections import LICENSE
from hf_latent.hub.cards.subject import Subject, is_hub_name, subject_of_folder, subject_of_model
from hf_latent.modeling.travel import write_atomically

PROMPT = "your prompt"
_PART = re.compile(r"<!-- hf-latent:(?P<name>[\w-]+) -->\n(?P<text>.*?)\n<!-- /hf-latent:(?P=name) -->", re.DOTALL)
# Headings, by any of which a part that is not marked is known to be its author's.
HEADINGS = {
    "use": ("## Use", "## Load", "## How to load", "## Quick start"),
    "architecture": ("## Architecture",),
    "decoding": ("## Decoding",),
    "run": ("### Run", "### Hyper-parameters"),
    "results": ("## Results", "## Evaluation"),
    "licence": ("## Licence", "## License"),
    "citation": ("## Citation", "## Citations"),
}
MORE_RESULTS = "more-results"
OF_ANYTHING = ("licence", "citation")  # the parts of a folder without a model


def mark(name: str, text: str) -> str:
    """A part between its two comments."""
    return f"<!-- hf-latent:{name} -->\n{text.strip()}\n<!-- /hf-latent:{name} -->"


def marked_parts(text: str) -> dict[str, str]:
    """Name to text of the parts of a card that were written here."""
    return {match.group("name"): match.group("text") for match in _PART.finditer(text)}


def without_marked_parts(text: str) -> str:
    """What its author wrote of a card."""
    return _PART.sub("", text)


def without_part(text: str, name: str) -> str:
    """A card without one of the parts that were written here."""
    return _PART.sub(lambda match: "" if match.group("name") == name else match.group(), text)


def write_card(
    folder: Path,
    model: PreTrainedModel,
    *,
    title: str | None = None,
    description: str = "",
    training: str = "",
    evaluations: Sequence[Evaluation] = (),
    results: str = "",
    command: str = "",
    notes: str = "",
    limits: str = "",
    base_model: str | None = None,
    example_prompt: str = PROMPT,
) -> Path:
    """
    Write `README.md` of a checkpoint folder, with its evaluations as `model-index` metadata.

    What the folder's results files hold is shown as it is there. Empty parts are said to be missing.

    Args:
        evaluations: rows that are in no results file of the folder.
        results: says the results in other words than the table that is written otherwise.
        command: what made `evaluations` or `results`; required with them.
        notes: further sections, with their headings.
        limits: what it cannot do.
        base_model: name on the Hub.
    """
    if (evaluations or results) and not command:
        raise ValueError("`command` must say how the `evaluations` were made, got an empty string.")
    name = title or folder.name
    subject = subject_of_model(folder, model)
    made_by = f"± is one standard error. Made by\n\n```\n{command}\n```"
    own_results = f"## Results\n\n{results}\n\n{made_by}" if results else ""
    if evaluations and not results:
        own_results = f"## Results\n\n{results_table([*evaluations])}\n\n```\n{command}\n```"
    body = [
        f"# {name}",
        description or f"A {subject.kind.name} language model. Nothing more was said about it when it was bundled.",
        mark("use", ""),
        mark("architecture", ""),
        mark("decoding", ""),
        "## Training\n\n" + (training or "Not described when this checkpoint was bundled."),
        mark("run", ""),
        own_results or mark("results", ""),
        notes,
        "## Limits\n\n" + (limits or "Not described."),
        mark("licence", ""),
        mark("citation", ""),
    ]
    text = "\n\n".join(part.strip() for part in body if part) + "\n"
    metadata = {"base_model": base_model} if base_model else {}
    rows = [*evaluations, *read_evaluations(folder)]
    path = folder / "README.md"
    write_atomically(path, _compose(folder, subject, text, metadata, rows, example_prompt))
    return path


def refresh_card(folder: Path, *, title: str | None = None) -> Path:
    """
    Write the parts of a folder's card anew from its JSON files, and those that it lacks; its author's text stays.

    Raises:
        ValueError: for a folder with nothing to write about, or with a card whose metadata is not valid.
    """
    text = render_card(folder, title=title)
    path = folder / "README.md"
    write_atomically(path, text)
    return path


def render_card(folder: Path, *, title: str | None = None) -> str:
    """What `refresh_card` writes."""
    if not folder.is_dir():
        raise ValueError(f"`folder` must be a folder with a model, an adapter or results, got {folder}.")
    subject = subject_of_folder(folder)
    path = folder / "README.md"
    if path.is_file():
        card = ModelCard.load(path)
        text, metadata = card.text.lstrip("\n"), card.data.to_dict()
    elif subject.model is None and not subject.adapter:
        raise ValueError(
            f"{folder} has no config.json, adapter_config.json or run.json to write a card from, and no README.md."
        )
    else:
        text, metadata = _new_text(title or subject.name, subject), {}
    if title is not None:
        text = re.sub(r"^# .*$", lambda _: f"# {title}", text, count=1, flags=re.MULTILINE)
    prompt = sections.prompt_of(text)
    if prompt in (None, PROMPT):  # nobody has chosen one
        prompt = _task_prompt(folder) or PROMPT
    return _compose(folder, subject, text, metadata, read_evaluations(folder), prompt)


def _new_text(title: str, subject: Subject) -> str:
    what = "A PEFT adapter for a" if subject.adapter else "A"
    return (
        f"# {title}\n\n{what} {subject.kind.name} language model. Nothing more was said about it.\n\n"
        f"{mark('use', '')}\n\n{mark('architecture', '')}\n\n{mark('decoding', '')}\n\n"
        f"## Training\n\n{mark('run', '')}\n\n{mark('results', '')}\n\n## Limits\n\nNot described.\n"
    )


def _task_prompt(folder: Path) -> str | None:
    """A held-out prompt of the checkpoint's own task."""
    from hf_latent.evaluation.metric_specs import MetricOptions, build_metric, own_task
    from hf_latent.hub.cards.results import read_json_object

    about = read_json_object(folder / "task.json")
    if "task" not in about:
        return None
    metric = build_metric(own_task(about), MetricOptions(limit=1), about)
    return str(metric.examples[0][0])


def _compose(
    folder: Path,
    subject: Subject,
    text: str,
    metadata: dict[str, Any],
    rows: Sequence[Evaluation],
    prompt: str,
) -> str:
    """The card with its parts written from `rows` and `subject`."""
    base = metadata.get("base_model")
    subject = replace(subject, stated_base=base if isinstance(base, str) and is_hub_name(base) else None)
    written = _parts(folder, subject, text, metadata, rows, prompt)
    own = without_marked_parts(text)
    headings = {line.strip() for line in own.splitlines() if line.startswith("#")}
    known = marked_parts(text)
    authored = {name for name, names in HEADINGS.items() if name not in known and headings & set(names)}
    wanted = [name for name in written if name not in authored]
    if "results" in authored and (more := [row for row in rows if row.file == EVAL_RESULTS]):
        written[MORE_RESULTS] = lambda: sections.results(more, heading="### Measured with `hf-latent eval`")
        wanted.insert(0, MORE_RESULTS)
    if subject.model is None and not subject.adapter:
        wanted = [name for name in wanted if name in OF_ANYTHING or name in known or name == MORE_RESULTS]
    text = _PART.sub(
        lambda match: (
            mark(match.group("name"), written[match.group("name")]())
            if match.group("name") in written
            else match.group()
        ),
        text,
    )
    missing = [mark(name, written[name]()) for name in wanted if name not in known]
    body = "\n\n".join([text.strip(), *missing])
    return f"---\n{_metadata(subject, body, metadata, rows).to_yaml()}\n---\n\n{body}\n"


def _parts(
    folder: Path, subject: Subject, text: str, metadata: dict[str, Any], rows: Sequence[Evaluation], prompt: str
) -> dict[str, Callable[[], str]]:
    """Name to writer of each part, in their order."""
    data = metadata.get("datasets") or []
    own = without_marked_parts(text)
    base = metadata.get("base_model")
    names = [*([data] if isinstance(data, str) else data), *([base] if isinstance(base, str) else base or [])]
    return {
        "use": lambda: sections.how_to_load(subject, prompt),
        "architecture": lambda: sections.architecture(subject),
        "decoding": lambda: sections.decoding(subject, rows, folder),
        "run": lambda: sections.training_run(subject, folder),
        "results": lambda: sections.results(rows),
        "licence": lambda: sections.licence(str(metadata.get("license") or LICENSE)),
        "citation": lambda: sections.citation(subject, rows, own, names),
    }


def _metadata(subject: Subject, body: str, known: dict[str, Any], rows: Sequence[Evaluation]) -> ModelCardData:
    """What the Hub reads: its author's values, and what they do not say."""
    fields = {name: value for name, value in known.items() if name not in ("model-index", "model_name")}
    kind, has_model = subject.kind, subject.model is not None
    ours = [*kind.tags, "hf-latent"] if has_model else ["hf-latent"]
    if has_model and subject.has_weights and not subject.adapter:
        ours += ["custom_code", str(subject.model_type)]
    if subject.adapter:
        ours.append("lora")
    fields.setdefault("license", LICENSE)
    if has_model or subject.adapter:
        fields.setdefault("library_name", "peft" if subject.adapter else "transformers")
        fields.setdefault("pipeline_tag", kind.pipeline_tag)
        if subject.base_model:
            fields.setdefault("base_model", subject.base_model)
    fields["tags"] = list(dict.fromkeys([*(fields.get("tags") or []), *ours]))
    title = re.search(r"^# (.+)$", body, re.MULTILINE)
    name = title.group(1).strip() if title else subject.name
    if rows:
        fields["model_name"] = name
        fields["eval_results"] = [_eval_result(kind.pipeline_tag, row) for row in rows]
    elif "eval_results" in fields:
        fields["model_name"] = known.get("model_name") or name
    return ModelCardData(**fields)


def _eval_result(pipeline_tag: str, row: Evaluation) -> EvalResult:
    return EvalResult(
        task_type=pipeline_tag,
        dataset_type=row.task,
        dataset_name=f"{row.task}, {row.num_examples} held-out instances",
        metric_type=row.metric,
        metric_name=f"{row.metric} ({row.decoding})",
        metric_value=round(row.value, 4),
    )


__all__ = ["LICENSE", "Evaluation", "evaluation_of", "refresh_card", "render_card", "write_card"]
