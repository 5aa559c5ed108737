"""The parts of a card that are written from what is known; each says what is missing."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_latent.generation.commit.rules import RULES
from hf_latent.hub.cards.citations import PAPERS, bibtex, papers_of
from hf_latent.hub.cards.results import Evaluation, own_decoder, results_table
from hf_latent.hub.cards.subject import AHEAD, LATENT, Subject

LICENSE = "apache-2.0"
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
SHOWN = (
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "weight_decay",
    "max_grad_norm",
    "max_length",
    "loss_weighting",
    "loss_normalization",
    "mask_schedule",
    "time_sampling",
    "completion_only_loss",
    "seed",
)
HIDDEN = (
    *("transformers_version", "_from_model_config", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("mask_token_id", "use_cache", "output_attentions", "output_hidden_states"),
)


def how_to_load(subject: Subject, example_prompt: str) -> str:
    """With transformers alone, and with hf-latent."""
    if subject.adapter:
        return _how_to_load_adapter(subject, example_prompt)
    kind = subject.kind
    packages = "transformers, torch and diffusers are" if kind is LATENT else "transformers and torch are"
    auto, place = kind.auto_class, "this folder, or its name on the Hub"
    if not subject.has_weights:
        place = "what the recipe has written"
    config = subject.model.generation_config if subject.model is not None else None
    length = "" if getattr(config, "max_new_tokens", None) is not None else ", max_new_tokens=64"
    weights = "" if subject.has_weights else "The weights are not in this folder: the recipe makes them. "
    return (
        f"## Use\n\n{weights}The code travels with the weights; {packages} enough.\n\n"
        f"```python\nfrom transformers import {auto}, AutoTokenizer\n\n"
        f'path = "."  # {place}\n'
        f"model = {auto}.from_pretrained(path, trust_remote_code=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)\n"
        f'inputs = tokenizer({example_prompt!r}, return_tensors="pt", return_token_type_ids=False)\n'
        f"output = model.generate(**inputs{length})\n"
        "print(tokenizer.decode(output[0]))\n```\n\n"
        "With hf-latent installed, `import hf_latent` comes first, `trust_remote_code=True` goes, and no code of this "
        f"folder is run.\n\n{_defaults(subject)}"
    )


def _defaults(subject: Subject) -> str:
    model, kind = subject.model, subject.kind
    if model is None:
        return ""
    config = model.generation_config
    if kind is LATENT:
        steps = f"{config.num_inference_steps or model.config.num_train_timesteps} steps of `{config.sampler}`"
        return f"Without arguments it takes {steps}, from other noise in every call: pass `seed=0` for the same."
    if kind is AHEAD:
        return (
            f"Every token is written with {model.config.num_latent_tokens} latent tokens behind it, which look "
            "ahead; `num_latent_tokens=0` is the plain autoregressive model. `self_speculative=True` writes the same "
            "in fewer forwards, and `self_speculative='plain'` what the plain model writes. All other arguments of "
            "`generate` are those of transformers."
        )
    return (
        f"Without arguments it decodes with `{config.decoding}`. A transformers pipeline passes "
        "`do_sample=True` and `temperature=0.7` unasked: pass `do_sample=False` there for the most likely tokens."
    )


def _how_to_load_adapter(subject: Subject, example_prompt: str) -> str:
    base = subject.base_model or "the base model"
    is_backbone = bool((subject.run.get("script") or {}).get("backbone"))
    name = (subject.model.config.architectures or [None])[0] if subject.model is not None else None
    own = name or ("LatentTokenForCausalLM" if subject.kind is AHEAD else "LatentTokenForMaskedDiffusion")
    load = f'AutoModelForCausalLM.from_pretrained({base!r}, dtype="auto")'
    if is_backbone:
        load = f"{own}.from_backbone({base!r}, tokenizer)"
    imports = f"from hf_latent import {own}\n" if is_backbone else "import hf_latent\n"
    auto = "AutoTokenizer" if is_backbone else "AutoModelForCausalLM, AutoTokenizer"
    weights = "" if subject.has_weights else "The weights are not in this folder: the recipe makes them. "
    return (
        f"## Use\n\n{weights}A PEFT adapter; its base model is `{base}`. With hf-latent and peft:\n\n"
        f"```python\n{imports}from peft import PeftModel\nfrom transformers import {auto}\n\n"
        'path = "."  # the folder of the adapter, or its name on the Hub\n'
        "tokenizer = AutoTokenizer.from_pretrained(path)\n"
        f"model = PeftModel.from_pretrained({load}, path)\n"
        f'inputs = tokenizer({example_prompt!r}, return_tensors="pt", return_token_type_ids=False)\n'
        "output = model.generate(**inputs, max_new_tokens=64)\n"
        "print(tokenizer.decode(output[0]))\n```\n\n"
        "For machines without hf-latent, merge it first: `hf-latent bundle BASE FOLDER --adapter ADAPTER` writes a "
        "folder that loads with transformers alone (`trust_remote_code=True`)."
    )


def architecture(subject: Subject) -> str:
    """A table of what the model is made of."""
    model = subject.model
    if model is None:
        return "## Architecture\n\nNot described in this folder."
    config = model.config
    if subject.kind is LATENT:
        rows = _latent_architecture(model)
    else:
        text = config.get_text_config()
        shared = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        on = f" on a {text.model_type} decoder" if text is not config else ""
        rows = {
            "class": type(model).__name__ + on,
            "parameters": f"{model.num_parameters():,}",
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "attention heads": f"{config.num_attention_heads} ({shared} key/value), {_attention(subject)}",
            "vocabulary": config.vocab_size,
            "positions": config.max_position_embeddings,
            "weights": str(model.dtype).removeprefix("torch."),
        }
    if subject.adapter:
        rows["adapter"] = _adapter(subject.adapter)
    return "## Architecture\n\n" + _table(rows)


def _adapter(fields: Mapping[str, Any]) -> str:
    """What an adapter's configuration says of it; methods other than LoRA have no rank, and some no modules."""
    modules = fields.get("target_modules") or []
    names = modules if isinstance(modules, str) else ", ".join(sorted(modules))
    tokens = fields.get("num_virtual_tokens")
    parts = {
        str(fields.get("peft_type") or "adapter"): True,
        f"rank {fields.get('r')}": fields.get("r"),
        f"alpha {fields.get('lora_alpha')}": fields.get("lora_alpha"),
        f"{tokens} virtual tokens": tokens,
        f"on {names}": names,
    }
    return ", ".join(part for part, is_known in parts.items() if is_known)


def _attention(subject: Subject) -> str:
    config = subject.model.config if subject.model is not None else None
    if config is not None and getattr(subject.model, "is_block_causal", False):
        return f"block-causal, in blocks of {config.block_size}"
    if not getattr(config, "is_semi_causal", False):
        return "bidirectional"
    return "causal, with groups that look ahead" if subject.kind is AHEAD else "semi-causal, in any order"


def _latent_architecture(model: Any) -> dict[str, Any]:
    config, text = model.config, model.config.text_config
    return {
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


def decoding(subject: Subject, rows: Sequence[Evaluation], folder: Path) -> str:
    """The checkpoint's own settings, what was measured with them, and the plots of what they trade."""
    parts = ["## Decoding"]
    model = subject.model
    if model is not None and subject.kind is not LATENT:
        defaults = type(model.generation_config)().to_dict()
        rule = RULES.get(str(getattr(model.generation_config, "decoding", None)))
        always = {"decoding", getattr(rule, "knob", None)}
        changed = {
            name: value
            for name, value in sorted(model.generation_config.to_dict().items())
            if name not in HIDDEN and value is not None and (name in always or value != defaults.get(name))
        }
        settings = ", ".join(f"{name}={value}" for name, value in changed.items()) or "those of the library"
        parts.append(f"Settings of `generate` that come with the checkpoint: `{settings}`.")
    own = own_decoder(rows, subject.defaults)
    if own is not None and own.forwards is not None:
        parts.append(
            f"Measured with them: {own.metric} {own.value:.3f} in {own.forwards:.2f} forwards on {own.num_examples:,} "
            f"instances of {own.task} (`{own.decoding}`)."
        )
    else:
        parts.append("What they give was not measured.")
    plots = sorted(path.name for path in folder.glob("*accuracy_over_*.png"))
    parts += [f"![{plot.removesuffix('.png').replace('_', ' ')}]({plot})" for plot in plots]
    return "\n\n".join(parts if plots else [*parts, "There is no plot of accuracy over cost."])


def training_run(subject: Subject, folder: Path) -> str:
    """Command, hyper-parameters, hardware and time of the training, from `run.json` and `results.json`."""
    run, training = subject.run, subject.training
    if not run:
        return "### Run\n\nNot recorded."
    arguments = {**(run.get("training") or {}), **(run.get("script") or {})}
    rows: dict[str, Any] = {name: arguments[name] for name in SHOWN if arguments.get(name) is not None}
    model = run.get("model") or {}
    if model.get("use_peft"):
        chosen = {name: model[name] for name in LORA if model.get(name) is not None}
        rows |= {name: ", ".join(v) if isinstance(v, list) else v for name, v in chosen.items()}
    rows["precision"] = "bfloat16 autocast" if arguments.get("bf16") else str(model.get("dtype") or "float32")
    if "num_trainable_parameters" in run:
        rows["trained parameters"] = f"{run['num_trainable_parameters']:,} of {run['num_parameters']:,}"
    environment = run.get("environment") or {}
    rows["hardware"] = str(environment.get("device", "not recorded")).replace("1 threads", "1 thread")
    if "train_seconds" in training:
        rows["time"] = f"{training['train_seconds']:.0f} s, {training['steps']:,} updates"
    elif "seconds_per_step" in training:
        rows["time"] = f"{training['seconds_per_step']:.1f} s an update, {training['steps']:,} updates"
    else:
        rows["time"] = "not recorded"
    packages = environment.get("packages") or {}
    versions = ", ".join(f"{name} {packages[name]}" for name in sorted(packages) if packages[name])
    rows["versions"] = f"`{versions}`" if versions else "not recorded"
    commit = environment.get("commit")
    rows["commit"] = f"`{commit}`" if commit else "not recorded"
    command = run.get("command") or []
    shown = command if isinstance(command, str) else " ".join(str(part) for part in command)
    plot = folder / "training_curve.png"
    curve = "\n\n![training curve](training_curve.png)" if plot.is_file() else ""
    of = f"`{shown}`, with" if shown else "The command was not recorded; with"
    return f"### Run\n\n{of}\n\n{_table(rows)}{curve}\n\nEvery setting: `run.json`."


def results(rows: Sequence[Evaluation], *, heading: str = "## Results") -> str:
    """Everything that was measured."""
    return f"{heading}\n\n{results_table(rows)}"


def licence(name: str = LICENSE) -> str:
    """Of weights and code."""
    return f"## Licence\n\n{name.capitalize()} for weights and code."


def citation(subject: Subject, rows: Sequence[Evaluation], text: str = "", names: Sequence[str] = ()) -> str:
    """BibTeX of the papers that the checkpoint stands on: its method, its base and data, and those in `text`."""
    script = subject.run.get("script") or {}
    known = [str(n) for n in (subject.base_model, script.get("dataset_name"), script.get("backbone"), *names) if n]
    decodings = [subject.knobs.get("decoding")] + [(row.settings or {}).get("decoding") for row in rows]
    refined = any((row.settings or {}).get("latent_refinement") for row in rows)
    rules = [str(rule) for rule in decodings if rule] + (["latent_refinement"] if refined else [])
    uses_lora = bool(subject.adapter) or bool((subject.run.get("model") or {}).get("use_peft"))
    config = subject.model.config if subject.model is not None else None
    opened = subject.model_type == "latent_token" and not getattr(config, "is_semi_causal", False)
    is_block_causal = opened and getattr(config, "attention", None) == "block_causal"
    kind = "block_causal" if is_block_causal else "opened" if opened else subject.model_type
    keys = papers_of(kind, names=known, decodings=rules, is_adapter=uses_lora)
    shown = " ".join(text.split())
    keys += [key for key, paper in PAPERS.items() if (paper.arxiv or paper.title) in shown and key not in keys]
    entries = "\n\n".join(bibtex(key) for key in keys)
    return f"## Citation\n\n```bibtex\n{entries}\n```" if entries else "## Citation\n\nNothing to cite is known."


def prompt_of(text: str) -> str | None:
    """The example prompt in the code of a card that was written before."""
    match = re.search(r"inputs = tokenizer\((?P<prompt>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"), return", text)
    if match is None:
        return None
    import ast

    return str(ast.literal_eval(match.group("prompt")))


def _table(rows: Mapping[str, Any]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


__all__ = [
    "LICENSE",
    "architecture",
    "citation",
    "decoding",
    "how_to_load",
    "licence",
    "prompt_of",
    "results",
    "training_run",
]
