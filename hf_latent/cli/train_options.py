"""The options of `hf-latent train` for its help, read from the sources of their dataclasses, in groups."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Package, file in it and class; what stands first wins over what it inherits from. Read, not imported: importing them
# takes transformers, trl and torch, several seconds for a page of text.
SOURCES = (
    ("hf_latent", "training/common/sources.py", "TrainArguments"),
    ("trl", "trainer/model_config.py", "ModelConfig"),
    ("hf_latent", "training/latent_tokens/config.py", "LatentTokenTrainingConfig"),
    ("hf_latent", "training/masked_diffusion/config.py", "MaskedDiffusionConfig"),
    ("trl", "trainer/sft_config.py", "SFTConfig"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("transformers", "training_args.py", "TrainingArguments"),
)
# Title and what the names in it match; the first that matches has the option.
GROUPS = (
    (
        "Model",
        r"model_name_or_path|backbone|attention|block_size|shift_logits|order|model_config|tokenizer_name|model_revision|dtype"
        r"|attn_implementation|trust_remote_code|model_init_kwargs|chat_template_path|eos_token|pad_token",
    ),
    (
        "Data",
        r"task.*|num_(train|eval|ambiguous)_examples|given_share|num_drills|(min|max)(_ambiguous)?_givens|dataset_.*"
        r"|(train|eval)_file|(prompt|completion)_column|chat|max_(train|eval)_examples|max_length|truncation_mode"
        r"|packing.*|padding_free|pad_to_multiple_of|shuffle_dataset|random_length_share|pad_completion_with_eos"
        r"|(completion|assistant)_only_loss|remove_unused_columns|label_names|length_column_name"
        r"|train_sampling_strategy",
    ),
    (
        "Objective",
        r"mask_schedule|loss_.*|time_.*|complementary_masks|block_sizes|block_size_per|noise_seed"
        r"|attention_annealing_steps|prompt_dropout|label_smoothing_factor|router_aux_loss_coef|neftune_noise_alpha",
    ),
    ("Latent tokens", r"num_latent_tokens|latent_loss_weight|text_loss_weight|num_states"),
    ("Adapters and quantized weights", r"use_peft|lora_.*|use_rslora|use_dora|load_in_.*|bnb_.*|use_bnb_.*"),
    (
        "Optimisation",
        r"num_train_epochs|max_steps|learning_rate|per_device_train_batch_size|gradient_accumulation_steps|seed"
        r"|data_seed|lr_scheduler.*|warmup_.*|optim.*|weight_decay|adam_.*|max_grad_norm|auto_find_batch_size"
        r"|average_tokens_across_devices|do_train|full_determinism",
    ),
    (
        "Evaluation",
        r"eval_.*|per_device_eval_batch_size|generation_kwargs|do_eval|do_predict|prediction_loss_only"
        r"|include_for_metrics|batch_eval_metrics|.*best_model.*|greater_is_better|(bf|fp)16_full_eval",
    ),
    (
        "Output: checkpoints and resuming",
        r"output_dir|save_.*|resume_from_checkpoint|restore_.*|ignore_data_skip|enable_jit_checkpoint",
    ),
    (
        "Output: logs",
        r"log_.*|logging_.*|report_to|run_name|project|trackio_.*|disable_tqdm|include_num_input_tokens_seen"
        r"|skip_memory_metrics",
    ),
    ("Output: the Hub", r"push_to_hub|hub_.*"),
    (
        "Speed and memory",
        r"bf16|fp16|tf32|use_cpu|(activation|gradient)_checkpointing.*|activation_offloading|torch_.*|use_liger_kernel"
        r"|liger_kernel_config|use_cache|dataloader_.*",
    ),
    ("Several devices", r"ddp_.*|fsdp.*|deepspeed|accelerator_config|parallelism_config|local_rank"),
    ("Others", r".*"),
)


@dataclass(frozen=True)
class TrainOption:
    """A field of one of the dataclasses, as its source writes it."""

    name: str
    help: str
    default: str | None
    choices: tuple[str, ...]

    @property
    def record(self) -> tuple[str, str]:
        """The option and what is said of it."""
        notes = [f"one of {', '.join(self.choices)}"] if self.choices else []
        notes += [] if self.default in (None, "None") else [f"default: {self.default}"]
        text = " ".join(self.help.replace("%%", "%").split())
        return f"--{self.name.replace('_', '-')}", f"{text} [{'; '.join(notes)}]".strip() if notes else text


def read_options() -> list[TrainOption]:
    """Every option of the installed versions, each once."""
    found: dict[str, TrainOption] = {}
    for package, file, name in SOURCES:
        root = package_folder(package)
        if root is not None:
            for option in read_class(root / file, name):
                found.setdefault(option.name, option)
    return list(found.values())


def package_folder(package: str) -> Path | None:
    """Where an installed package lies; it is not imported."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def read_class(path: Path, name: str) -> Iterator[TrainOption]:
    """The options of a dataclass; nothing where another version has it elsewhere."""
    if not path.is_file():
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            for field in statement.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield read_field(field.target.id, field.value, tree)


def read_field(name: str, value: ast.expr | None, tree: ast.Module) -> TrainOption:
    """
    A field from `name: type = field(default=..., metadata={...})`, `name: type = choice(default, values, help)` or
    `name: type = default`.
    """
    parts: dict[str, ast.expr] = {}
    metadata: dict[str, ast.expr] = {}
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "choice":
        given = dict(zip(("default", "choices", "help"), value.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in value.keywords if keyword.arg}
        parts, metadata = given, given
    elif isinstance(value, ast.Call):
        parts = {keyword.arg: keyword.value for keyword in value.keywords if keyword.arg}
        if isinstance(described := parts.get("metadata"), ast.Dict):
            pairs = zip(described.keys, described.values, strict=True)
            metadata = {key.value: item for key, item in pairs if isinstance(key, ast.Constant)}  # type: ignore[misc]
    elif value is not None:
        parts = {"default": value}
    default = parts.get("default")
    if isinstance(factory := parts.get("default_factory"), ast.Lambda):
        default = factory.body
    literal = None if default is None else literal_of(default, tree)
    choices = literal_of(metadata["choices"], tree) if "choices" in metadata else None
    text = literal_of(metadata["help"], tree) if "help" in metadata else ""
    return TrainOption(
        name,
        text if isinstance(text, str) else "",
        None if literal is None or literal == "" else str(literal),
        tuple(map(str, choices)) if choices else (),
    )


def literal_of(node: ast.expr, tree: ast.Module) -> Any:
    """The value of an expression that is written out, or that of a constant; None if it is computed."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        node = node.args[0]  # list(NAMES)
    if isinstance(node, ast.Name):
        return constant(node.id, tree)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def constant(name: str, tree: ast.Module) -> Any:
    """The value of a constant of this module or of the one that it comes from; of a dict, its keys."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("hf_latent."):
            if any(alias.name == name for alias in statement.names):
                root = package_folder("hf_latent")
                file = Path(*str(statement.module).split(".")[1:]).with_suffix(".py")
                if root is not None and (root / file).is_file():
                    return constant(name, ast.parse((root / file).read_text(encoding="utf-8")))
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets) and statement.value:
                if isinstance(statement.value, ast.Dict):
                    return [key.value for key in statement.value.keys if isinstance(key, ast.Constant)]
                return literal_of(statement.value, tree)
    return None


def grouped() -> dict[str, list[TrainOption]]:
    """All options under the titles of `GROUPS`."""
    groups: dict[str, list[TrainOption]] = {title: [] for title, _ in GROUPS}
    for option in read_options():
        title = next(title for title, pattern in GROUPS if re.fullmatch(pattern, option.name))
        groups[title].append(option)
    return {title: options for title, options in groups.items() if options}


__all__ = ["GROUPS", "TrainOption", "grouped", "read_options"]
