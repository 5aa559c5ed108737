"""`bundle_decoder`: a decoder as a `custom_generate` folder, for models and machines without hf-latent."""

import ast
import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_latent.data.output_folders import check_output_folder
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig
from hf_latent.hub.bundles.bundling import keep_other_files, run_without_us
from hf_latent.hub.cards.card import LICENSE
from hf_latent.modeling.atomic import replacing
from hf_latent.modeling.travel import flat_name, package_sources, with_digest

ENTRY_POINT = "hf_latent.generation.custom_generate"
FOLDER = "custom_generate"
HEADER = "# Part of hf-latent (Apache-2.0), written by bundle_decoder so that this decoder runs without it.\n"
# Of a card that was written here and may be written anew; any other README of a folder stays.
CARD_TAG = "hf-latent-decoder"

LLADA = "Nie et al., *Large Language Diffusion Models*, [arXiv 2502.09992](https://arxiv.org/abs/2502.09992)"
DREAM = "Ye et al., *Dream 7B*, [arXiv 2508.15487](https://arxiv.org/abs/2508.15487)"
MARGIN = "Kim et al., *Train for the Worst, Plan for the Best*, [arXiv 2502.06768](https://arxiv.org/abs/2502.06768)"
FAST_DLLM = "Wu et al., *Fast-dLLM*, [arXiv 2505.22618](https://arxiv.org/abs/2505.22618)"
WINO = "*WINO*, [arXiv 2507.18578](https://arxiv.org/abs/2507.18578)"
KLASS = "*KLASS*, [arXiv 2511.05664](https://arxiv.org/abs/2511.05664)"
EB_SAMPLER = "Ben-Hamu et al., *EB-Sampler*, [arXiv 2505.24857](https://arxiv.org/abs/2505.24857)"
SDAR = "*SDAR*, [arXiv 2510.06303](https://arxiv.org/abs/2510.06303)"
MED = "Horvitz et al., *No Compute Left Behind*, [arXiv 2510.19990](https://arxiv.org/abs/2510.19990)"
LRD = "*Latent Refinement Decoding*, [arXiv 2510.11052](https://arxiv.org/abs/2510.11052)"


@dataclass(frozen=True)
class Decoder:
    """
    What is published under a name.

    Args:
        summary: what it does, as one sentence.
        papers: where it was described; empty if it has no paper of its own.
        decoding: its commit rule.
        refines: whether the rule runs within latent refinement.
    """

    summary: str
    papers: tuple[str, ...]
    decoding: str
    refines: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What makes a call run this decoder."""
        return {"decoding": self.decoding, "latent_refinement": self.refines}

    @property
    def knobs(self) -> dict[str, Any]:
        """The decoder's own knobs with their defaults."""
        knob = RULES[self.decoding].knob
        names = [] if knob is None else [knob]
        if RULES[self.decoding].reads_stability:
            names += ["stability_kl", "stability_steps"]
        if self.refines:
            names += ["refinement_top_p", "refinement_ratio", "refinement_steps", "refinement_kl", "stop_kl"]
        return {name: DiffusionGenerationConfig.own_defaults[name] for name in names}


DECODERS: dict[str, Decoder] = {
    "low_confidence": Decoder(
        "Writes the positions with the most probable token first; the schedule says how many at once.",
        (LLADA,),
        "low_confidence",
    ),
    "random": Decoder("Writes positions in random order; the schedule says how many at once.", (LLADA,), "random"),
    "entropy": Decoder(
        "Writes the positions with the lowest entropy first; the schedule says how many at once.", (DREAM,), "entropy"
    ),
    "margin": Decoder(
        "Writes the positions first whose two most probable tokens differ most in probability; the schedule says how "
        "many at once.",
        (MARGIN,),
        "margin",
    ),
    "left_to_right": Decoder(
        "Writes from left to right, as autoregressive models do; the schedule says how many at once.",
        (),
        "left_to_right",
    ),
    "confidence_threshold": Decoder(
        "Writes, at every forward, all positions whose token has at least a probability of `confidence_threshold`.",
        (FAST_DLLM,),
        "confidence_threshold",
    ),
    "wide_in": Decoder(
        "Writes, at every forward, up to twenty positions whose token has a probability above `confidence_threshold`; "
        "with `verification_threshold`, takes back what the model would not write again.",
        (WINO,),
        "wide_in",
    ),
    "klass": Decoder(
        "Writes, at every forward, all positions whose token has a probability above `confidence_threshold` and whose "
        "prediction has moved by less than `stability_kl` nats in each of the last `stability_steps` forwards.",
        (KLASS,),
        "klass",
    ),
    "entropy_bound": Decoder(
        "Writes, at every forward, the positions of lowest entropy for as long as a bound on their mutual information "
        "stays below `entropy_bound` nats.",
        (EB_SAMPLER,),
        "entropy_bound",
    ),
    "entropy_sum": Decoder(
        "Writes, at every forward, the positions of lowest entropy for as long as their entropies sum to less than "
        "`entropy_bound` nats.",
        (SDAR,),
        "entropy_sum",
    ),
    "med": Decoder(
        "Writes, at every forward, all positions with an entropy below `entropy_threshold` nats.", (MED,), "med"
    ),
    "med_left_to_right": Decoder(
        "Writes, at every forward, from the left-most open position on until an entropy reaches `entropy_threshold` "
        "nats.",
        (MED,),
        "med_left_to_right",
    ),
    "lrd": Decoder(
        "Shows the model, at open positions, a mixture of the mask and its own prediction, and writes the positions "
        "with the lowest entropy first once the prediction rests.",
        (LRD,),
        "entropy",
        refines=True,
    ),
    "lrd_med": Decoder(
        "Shows the model, at open positions, a mixture of the mask and its own prediction; once the prediction rests, "
        "writes all positions with an entropy below `entropy_threshold` nats.",
        (LRD, MED),
        "med",
        refines=True,
    ),
}
# Knobs of every decoder that a card lists behind the decoder's own.
COMMON_KNOBS = ("block_length", "max_denoising_steps", "temperature", "cfg_scale", "seed")

MEANINGS = {
    "decoding": "commit rule; what makes this the decoder it is",
    "latent_refinement": "whether open positions show a mixture; what makes this the decoder it is",
    "confidence_threshold": "probability from which a token is written",
    "stability_kl": "nats; change of a prediction below which it rests",
    "stability_steps": "forwards for which a prediction must have rested",
    "entropy_threshold": "nats, below which a token is written",
    "entropy_bound": "nats; 0 writes one token per forward",
    "refinement_top_p": "nucleus of the prediction that is mixed in",
    "refinement_ratio": "largest share of the prediction in the mixture",
    "refinement_steps": "most forwards of a block that write nothing",
    "refinement_kl": "nats; change of the prediction below which a block starts to be written",
    "stop_kl": "nats; change below which the rest of a block is written at once; 0 never",
    "max_new_tokens": "tokens to write",
    "block_length": "tokens of a block; blocks are written from left to right; `None`: all at once",
    "max_denoising_steps": "forwards of a row; `None`: one per token by schedule, as many as it takes otherwise",
    "temperature": "0, or `None` without `do_sample=True`, takes the most probable token",
    "cfg_scale": "classifier-free guidance; 0 for none",
    "seed": "of all noise; `None`: from torch's global generator",
}

_RUN_WITHOUT_US = """
import sys
sys.modules["hf_latent"] = None  # any import of it raises
from transformers import GenerationMixin
generate = GenerationMixin().load_custom_generate(sys.argv[1], trust_remote_code=True)
if not callable(generate):
    raise RuntimeError(f"generate.py gives {generate!r}, which cannot be called")
"""


def bundle_decoder(name: str, folder: str | os.PathLike, *, verify: bool = True, **settings: Any) -> Path:
    """
    Write a decoder to a folder that `generate` of any LLaDA or Dream model runs, where hf-latent is not installed:
    `model.generate(**inputs, custom_generate=folder, trust_remote_code=True)`.

    The folder holds `custom_generate/generate.py`, the code it needs, and a card. It is written beside and then put in
    place, so that an interruption leaves an earlier folder whole. Of an earlier folder everything is kept but the code
    in `custom_generate` and a card that was written here.

    Args:
        name: a commit rule (`"med"`, `"entropy_bound"`, ...), or one within latent refinement: `"lrd"`, `"lrd_med"`.
        folder: where to write.
        verify: load the decoder in a process that cannot import hf-latent, before anything is put in place.
        settings: fields of `DiffusionGenerationConfig`; defaults of the decoder, which keywords of a call override.

    Returns:
        The folder's path.

    Raises:
        ValueError: for an unknown name of a decoder or setting, with the nearest known one; for a value that is out of
            range or cannot be written as Python; for a setting that makes it another decoder; for a path that is a
            file.
        RuntimeError: if the decoder does not load without hf-latent; nothing is put in place then.
    """
    if name not in DECODERS:
        near = difflib.get_close_matches(str(name), DECODERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`name` must be one of {', '.join(map(repr, DECODERS))}, got {name!r}.{hint}")
    defaults = _resolve_defaults(name, settings)
    folder = Path(folder)
    check_output_folder(folder, "folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as written:
        (written / FOLDER).mkdir(parents=True)
        for file, text in decoder_folder(name, defaults).items():
            (written / FOLDER / file).write_text(text, encoding="utf-8")
        if verify:
            check_decoder_without_us(written)
        rewrites_card = _is_own_card(folder / "README.md")
        keep_other_files(folder, written, lambda path: _is_code(path) or (rewrites_card and path == Path("README.md")))
        if not (written / "README.md").exists():
            write_decoder_card(written, name, defaults)
    return folder


def check_decoder_without_us(folder: Path) -> None:
    """Raise `RuntimeError` unless the decoder in `folder` loads in a process where `import hf_latent` fails."""
    run_without_us(_RUN_WITHOUT_US, folder)


def write_decoder_card(folder: Path, name: str, defaults: dict[str, Any]) -> Path:
    """Write `README.md` of the folder of decoder `name`, which sets `defaults` where a call says nothing."""
    decoder = DECODERS[name]
    data = ModelCardData(
        license=LICENSE,
        library_name="transformers",
        tags=["custom_generate", "masked-diffusion", "diffusion-language-model", "hf-latent", CARD_TAG],
    )
    parts = [
        f"# {name}: a decoder for masked diffusion language models",
        decoder.summary,
        "## Paper\n\n" + ("\n".join(f"- {paper}" for paper in decoder.papers) or "It has no paper of its own."),
        _USE,
        _knobs(defaults),
        _MODELS + (_REFINED if decoder.refines else "") + (_SCHEDULED if not RULES[decoder.decoding].adaptive else ""),
        _UNMEASURED,
        f"## Licence\n\n{LICENSE.capitalize()}.",
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")
    path = folder / "README.md"
    card.save(path)
    return path


def _resolve_defaults(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    decoder = DECODERS[name]
    for setting, value in decoder.settings.items():
        if setting in settings and settings[setting] != value:
            raise ValueError(
                f"`{setting}`={settings[setting]!r} makes it another decoder than {name!r}, which sets {value!r}."
            )
    for setting, value in settings.items():
        if not _is_literal(value):
            raise ValueError(f"`{setting}` must be a number, string, bool, None or a list of those, got {value!r}.")
    defaults = decoder.settings | decoder.knobs | settings
    DiffusionGenerationConfig(**defaults).refuse_unsupported()
    return defaults


def _is_literal(value: Any) -> bool:
    """Whether `value` can be written to a Python file and read from it."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def decoder_folder(name: str, defaults: dict[str, Any]) -> dict[str, str]:
    """File name to text of the code of decoder `name`, whose `generate.py`, which is loaded first, sets `defaults`."""
    sources = package_sources([ENTRY_POINT], HEADER)
    return with_digest({**sources, "generate.py": _entry_point(name, defaults)}, ["generate"])


def _entry_point(name: str, defaults: dict[str, Any]) -> str:
    entries = "".join(f'    "{setting}": {value!r},\n' for setting, value in defaults.items())
    return (
        f'{HEADER}"""Decoder {name}: see README.md beside this folder."""\n\n'
        f"from .{flat_name(ENTRY_POINT)} import generate as run_decoder\n\n"
        f"DEFAULTS = {{\n{entries}}}\n\n\n"
        "def generate(inputs=None, generation_config=None, *, model, **kwargs):\n"
        '    """Write tokens behind `inputs` with `model`. Keywords go before DEFAULTS, these before the rest."""\n'
        "    return run_decoder(inputs, generation_config, model=model, defaults=DEFAULTS, **kwargs)\n"
    )


def _is_code(path: Path) -> bool:
    return path.parts[0] == FOLDER and len(path.parts) == 2 and path.suffix == ".py"


def _is_own_card(path: Path) -> bool:
    return path.exists() and CARD_TAG in (ModelCard.load(path, ignore_metadata_errors=True).data.tags or [])


def _knobs(defaults: dict[str, Any]) -> str:
    rest = {name: DiffusionGenerationConfig.own_defaults.get(name) for name in COMMON_KNOBS if name not in defaults}
    lines = ["## Knobs\n", "Arguments of `generate`. The decoder sets, where the call does not:\n"]
    for group in (defaults, rest):
        if group is rest:
            lines.append("\nWhere neither does, the model's generation configuration, or else:\n")
        lines += ["| knob | default | |", "|---|---|---|"]
        lines += [f"| `{name}` | `{value!r}` | {MEANINGS.get(name, '')} |" for name, value in group.items()]
    lines.append(
        "\nAlso: `top_k`, `top_p`, `min_p`, `suppress_tokens`, `deferred_tokens`, `logits_processor`, `streamer` (one "
        "sequence), `row_indices`, `answer_mask`, and `return_dict_in_generate=True`, which counts forwards. Where "
        "nobody says `max_new_tokens`, 128 tokens are written. A mistyped name raises, with the nearest known one."
    )
    return "\n".join(lines)


_USE = """## Use

transformers and torch are enough.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

decoder = "."  # this folder, or its name on the Hub
checkpoint = "path/to/checkpoint"  # a LLaDA or Dream model
model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
inputs = tokenizer("your prompt", return_tensors="pt", return_token_type_ids=False).to(model.device)
output = model.generate(**inputs, custom_generate=decoder, trust_remote_code=True, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

`trust_remote_code=True` runs the Python files of this folder: read them first."""

_MODELS = """## Models

Checkpoints made by hf-latent, and those with code of their own whose class has transformers' `generate` and whose
`forward(input_ids, attention_mask)` attends in both directions and returns `logits` of shape `(batch, length,
vocabulary)`; `attention_mask`, of shape `(batch, length)`, is passed for padded batches only. Logits of
`model_type` "Dream" are taken to predict the next token, all others that at their own position. The mask token is the
configuration's `mask_token_id`, or an argument of that name. `block_cache` takes checkpoints of hf-latent only."""

_REFINED = " The\nforward must take `inputs_embeds` as well."
_SCHEDULED = """

Dream models follow their own schedule unless the call says `denoising_schedule="uniform"`."""

_UNMEASURED = """## Not measured

Speed and quality of this decoder on the published 8B checkpoints, and anything on a GPU. It was tested on tiny models
of the same layout, with hf-latent's code and with code of their own, where both write the same tokens."""

__all__ = ["DECODERS", "Decoder", "bundle_decoder", "check_decoder_without_us", "decoder_folder", "write_decoder_card"]
