"""Model cards: written from what is known; what was not measured is said to be unmeasured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from hf_latent.evaluation import DecodingResult, describe

LICENSE = "apache-2.0"


@dataclass(frozen=True)
class Evaluation:
    """
    One measured number of a card.

    Args:
        task: what was solved, e.g. `"sudoku-4x4"`.
        decoding: the knobs, e.g. `"med, entropy_threshold=0.1"`.
        metric: e.g. `"accuracy"`.
        value: in [0, 1] for accuracies.
        standard_error: of `value`.
        num_examples: instances it was measured on.
        forwards: mean forwards per instance.
        tokens_per_forward: written tokens divided by forwards.
    """

    task: str
    decoding: str
    metric: str
    value: float
    standard_error: float
    num_examples: int
    forwards: float
    tokens_per_forward: float


class _Kind(NamedTuple):
    name: str
    pipeline_tag: str
    tags: list[str]
    auto_class: str


MASKED = _Kind(
    "masked diffusion",
    "text-generation",
    ["masked-diffusion", "diffusion-language-model"],
    "AutoModelForCausalLM",
)
AHEAD = _Kind(
    "latent-token",
    "text-generation",
    ["latent-tokens", "multi-token-prediction"],
    "AutoModelForCausalLM",
)
# There is no pipeline for text to text any more: the tag is the Hub's.
LATENT = _Kind(
    "latent diffusion",
    "text2text-generation",
    ["latent-diffusion", "diffusion-language-model"],
    "AutoModelForSeq2SeqLM",
)


def _kind(model: PreTrainedModel) -> _Kind:
    if model.config.is_encoder_decoder:
        return LATENT
    return AHEAD if getattr(model.config, "is_left_to_right", False) else MASKED


def evaluation_of(task: str, result: DecodingResult) -> Evaluation:
    """A row of a card from what `solve_puzzles` has measured."""
    return Evaluation(
        task=task,
        decoding=describe(result.settings),
        metric="accuracy",
        value=result.accuracy,
        standard_error=result.standard_error,
        num_examples=result.num_examples,
        forwards=result.forwards_per_example,
        tokens_per_forward=result.tokens_per_forward,
    )


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
    base_model: str | None = None,
    example_prompt: str = "your prompt",
) -> Path:
    """
    Write `README.md` of a checkpoint folder, with its evaluations as `model-index` metadata.

    `command` is what made the evaluations; it is required with them. `results` says them in other words than the table
    that is written otherwise. Empty parts are said to be missing.
    """
    if evaluations and not command:
        raise ValueError("`command` must say how the `evaluations` were made, got an empty string.")
    name, kind = title or folder.name, _kind(model)
    data = ModelCardData(
        language=None,
        license=LICENSE,
        library_name="transformers",
        pipeline_tag=kind.pipeline_tag,
        tags=[*kind.tags, "hf-latent", "custom_code", model.config.model_type],
        base_model=base_model,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=kind.pipeline_tag,
                dataset_type=evaluation.task,
                dataset_name=f"{evaluation.task}, {evaluation.num_examples} held-out instances",
                metric_type=evaluation.metric,
                metric_name=f"{evaluation.metric} ({evaluation.decoding})",
                metric_value=round(evaluation.value, 4),
            )
            for evaluation in evaluations
        ]
        or None,
    )
    parts = [
        f"# {name}",
        description or f"A {kind.name} language model. Nothing more was said about it when it was bundled.",
        _how_to_load(model, example_prompt),
        _architecture(model),
        "## Training\n\n" + (training or "Not described when this checkpoint was bundled."),
        _results(evaluations, results, command),
        notes,
        f"## Licence\n\n{LICENSE.capitalize()} for weights and code.",
    ]
    body = "\n\n".join(part.strip() for part in parts if part)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")
    path = folder / "README.md"
    card.save(path)
    return path


def _how_to_load(model: PreTrainedModel, example_prompt: str) -> str:
    config, kind = model.generation_config, _kind(model)
    if kind is LATENT:
        packages = "transformers, torch and diffusers are"
        steps = f"{config.num_inference_steps or model.config.num_train_timesteps} steps of `{config.sampler}`"
        defaults = f"Without arguments it takes {steps}, from other noise in every call: pass `seed=0` for the same."
    elif kind is AHEAD:
        packages = "transformers and torch are"
        defaults = (
            f"Every token is written with {model.config.num_latent_tokens} latent tokens behind it, which look "
            "ahead; `num_latent_tokens=0` is the plain autoregressive model, `self_speculative=True` writes what that "
            "writes, in fewer forwards. All other arguments of `generate` are those of transformers."
        )
    else:
        packages = "transformers and torch are"
        defaults = (
            f"Without arguments it decodes with `{config.decoding}`. A transformers pipeline passes "
            "`do_sample=True` and `temperature=0.7` unasked: pass `do_sample=False` there for the most likely tokens."
        )
    length = "" if config.max_new_tokens is not None else ", max_new_tokens=64"
    return (
        f"## Use\n\nThe code travels with the weights; {packages} enough.\n\n"
        f"```python\nfrom transformers import {kind.auto_class}, AutoTokenizer\n\n"
        'path = "."  # this folder, or its name on the Hub\n'
        f"model = {kind.auto_class}.from_pretrained(path, trust_remote_code=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)\n"
        f'inputs = tokenizer({example_prompt!r}, return_tensors="pt", return_token_type_ids=False)\n'
        f"output = model.generate(**inputs{length})\n"
        "print(tokenizer.decode(output[0]))\n```\n\n"
        f"{defaults}"
    )


def _architecture(model: PreTrainedModel) -> str:
    config = model.config
    if _kind(model) is LATENT:
        return _latent_architecture(model)
    text = config.get_text_config()
    shared_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    rows = {
        "class": type(model).__name__ + (f" on a {text.model_type} decoder" if text is not config else ""),
        "parameters": f"{model.num_parameters():,}",
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "attention heads": f"{config.num_attention_heads} ({shared_heads} key/value), {_attention(model)}",
        "vocabulary": config.vocab_size,
        "positions": config.max_position_embeddings,
        "weights": str(model.dtype).removeprefix("torch."),
    }
    return _table(rows)


def _attention(model: PreTrainedModel) -> str:
    if not getattr(model.config, "is_semi_causal", False):
        return "bidirectional"
    return "causal, with groups that look ahead" if _kind(model) is AHEAD else "semi-causal, in any order"


def _latent_architecture(model: PreTrainedModel) -> str:
    config, text = model.config, model.config.text_config
    rows = {
        "class": type(model).__name__,
        "parameters": f"{model.num_parameters():,}, of the denoiser {model.denoiser.num_parameters():,}",
        "encoder-decoder": f"{text.model_type}, width {text.hidden_size}, vocabulary {text.vocab_size}",
        "latent": f"{config.latent_length} vectors of width {config.latent_dim}, of `{config.representation}` states",
        "denoiser": f"{config.denoiser_num_layers} layers of width {config.denoiser_hidden_size}, "
        f"{config.denoiser_num_heads} heads, {config.diffusion_length} positions, `{config.conditioning}`",
        "noise": f"T = {config.num_train_timesteps}, `{config.beta_schedule}`, "
        f"{'learned' if config.learned_variance else 'fixed'} variance",
        "weights": str(model.dtype).removeprefix("torch."),
    }
    return _table(rows)


def _table(rows: dict[str, Any]) -> str:
    return "## Architecture\n\n| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows.items())


def _results(evaluations: Sequence[Evaluation], text: str, command: str) -> str:
    if not evaluations:
        return "## Results\n\nNot measured."
    if text:
        return f"## Results\n\n{text}\n\n± is one standard error. Made by\n\n```\n{command}\n```"
    lines = [
        "| task | decoding | metric | value | n | forwards per instance | tokens per forward |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {e.task} | {e.decoding} | {e.metric} | {e.value:.3f} ± {e.standard_error:.3f} | {e.num_examples} | "
        f"{e.forwards:.2f} | {e.tokens_per_forward:.2f} |"
        for e in evaluations
    ]
    return "## Results\n\n" + "\n".join(lines) + f"\n\n± is one standard error. Made by\n\n```\n{command}\n```"


__all__ = ["Evaluation", "evaluation_of", "write_card"]
