"""The table of a folder of models, each with its headline results, from their JSON files."""

from pathlib import Path

from hf_latent.hub.cards.card import mark, marked_parts
from hf_latent.hub.cards.results import (
    Evaluation,
    one_token_per_forward,
    own_decoder,
    read_evaluations,
)
from hf_latent.hub.cards.subject import Subject, subject_of_folder
from hf_latent.modeling.travel import write_atomically

PART = "shelf"  # as it is marked in pages that were written before
INTRODUCTION = """# Published checkpoints

Each folder holds its card, results, training log and plots; those with weights load with
`AutoModelForCausalLM.from_pretrained(folder)` after `import hf_latent`. `hf-latent bundle FOLDER NEW` and
`hf-latent push FOLDER user/name` write the code that the cards speak of, with which they load where only transformers
and torch are installed. The commands that made the numbers are in the cards, and in the JSON files beside them.
"""


def write_model_table(folder: Path) -> Path:
    """
    Write the table into `README.md` of `folder`: one row for each subfolder with a card; the rest of the page stays.

    Raises:
        ValueError: if no subfolder has a card.
    """
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else INTRODUCTION
    part = mark(PART, model_table(folder))
    known = marked_parts(text).get(PART)
    text = f"{text.rstrip()}\n\n{part}\n" if known is None else text.replace(mark(PART, known), part)
    write_atomically(path, text)
    return path


def model_table(folder: Path) -> str:
    """Every subfolder with a card, as Markdown."""
    if not folder.is_dir():
        raise ValueError(f"`folder` must be a folder, got {folder}.")
    found = sorted(path.parent for path in folder.glob("*/README.md"))
    if not found:
        raise ValueError(f"`folder`: no subfolder of {folder} has a README.md.")
    lines = [
        "| checkpoint | what it is | parameters | weights | one token per forward | with its own settings | n |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(path) for path in found]
    note = (
        "Values are shares of held-out instances that are right, with the forwards that they took, or what the row "
        "says. An empty cell was not measured."
    )
    return "\n".join(lines) + f"\n\n{note}"


def _row(folder: Path) -> str:
    subject, rows = subject_of_folder(folder), read_evaluations(folder)
    single, own = one_token_per_forward(rows), own_decoder(rows, subject.defaults)
    cells = ["" if row is None else _cost(row) for row in (single, own)]
    examples = next((f"{row.num_examples:,}" for row in (single, own) if row is not None), "")
    if not any(cells):
        text, number = _headline(subject, rows)
        cells, examples = ["", text], number
    name = f"[{folder.name}]({folder.name}/README.md)"
    weights = "here" if subject.has_weights else "by its recipe"
    return "| " + " | ".join([name, _what(subject), _parameters(subject), weights, *cells, examples]) + " |"


def _what(subject: Subject) -> str:
    if subject.model is None and not subject.adapter:
        return "experiment"
    script = subject.run.get("script") or {}
    of = script.get("task") or script.get("dataset_name") or ""
    trained = f", trained on {of}" if of else ""
    uses_lora = bool(subject.adapter) or bool((subject.run.get("model") or {}).get("use_peft"))
    return f"{subject.kind.name}{' LoRA' if uses_lora else ''}{trained}"


def _parameters(subject: Subject) -> str:
    if subject.model is not None:
        return f"{subject.model.num_parameters():,}"
    return f"{subject.run['num_parameters']:,}" if "num_parameters" in subject.run else ""


def _cost(row: Evaluation) -> str:
    forwards = "" if row.forwards is None else f" in {row.forwards:.2f} forwards"
    return f"{100 * row.value:.1f} %{forwards}"


def _headline(subject: Subject, rows: list[Evaluation]) -> tuple[str, str]:
    """What a model that was measured in another way shows, and on how many instances."""
    said = subject.training.get("headline")
    if said:
        number = subject.training.get("num_examples")
        return str(said), "" if number is None else f"{number:,}"
    likelihoods = [row for row in rows if row.metric == "nats_per_token"]
    if likelihoods:
        values = " to ".join(f"{row.value:.2f}" for row in likelihoods)
        return f"bound from {values} nats per token", str(likelihoods[-1].num_examples)
    return "", ""


__all__ = ["INTRODUCTION", "PART", "model_table", "write_model_table"]
