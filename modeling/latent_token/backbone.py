"""From an autoregressive checkpoint to a latent-token model: take its modules over, give it a mask token, probe it."""

import weakref
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.modeling.latent_token.lookahead import causal_stream
from hf_latent.modeling.mode import evaluation_mode

# What `from_pretrained` of a tokenizer takes of a model's arguments.
TOKENIZER_KWARGS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token", "gguf_file")
# What `from_pretrained` leaves on a quantized model, for trainers and peft.
QUANTIZATION = ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit")
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Decoders that were taken over, and the model that each serves now.
OWNERS: weakref.WeakKeyDictionary[nn.Module, weakref.ref[PreTrainedModel]] = weakref.WeakKeyDictionary()


class MaskToken(NamedTuple):
    """Id of the mask token, and whether it has no trained embedding yet."""

    token_id: int
    is_new: bool


def load_backbone(source: str, kwargs: dict[str, Any]) -> PreTrainedModel:
    """The causal model at `source`."""
    return AutoModelForCausalLM.from_pretrained(source, **kwargs)


def forget_gguf_quantization(backbone: PreTrainedModel) -> PreTrainedModel:
    """
    `backbone`, known as the plain model it is where it was read from GGUF.

    Its weights were unpacked while they were read, but transformers keeps calling it quantized: it would neither
    train nor save it, nor change its dtype.
    """
    method = getattr(backbone, "quantization_method", None)
    if getattr(method, "value", method) != "gguf":
        return backbone
    for name in QUANTIZATION:
        if name in vars(backbone):
            delattr(backbone, name)
    for config in (backbone.config, backbone.base_model.config):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    return backbone


def refuse_taken_backbone(backbone: PreTrainedModel, model_class: type[PreTrainedModel]) -> None:
    """
    Raise `ValueError` where the modules of `backbone` serve a model of another class already.

    No copy is made of them, and their configuration says whether they are causal: the first model would change.
    """
    owner = OWNERS.get(backbone.base_model, lambda: None)()
    if owner is not None and type(owner) is not model_class:
        raise ValueError(
            f"`backbone` has been turned into a {type(owner).__name__}, which still uses its modules with another "
            f"attention than a {model_class.__name__}: load it once more, or give `copy.deepcopy(backbone)` before "
            "the first conversion."
        )


def load_tokenizer(source: str, kwargs: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside the model at `source`; `ValueError` if there is none to be read."""
    chosen = {name: kwargs[name] for name in (*TOKENIZER_KWARGS, "trust_remote_code") if name in kwargs}
    try:
        return AutoTokenizer.from_pretrained(source, **chosen)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"no tokenizer can be read from {source}, and somebody has to say which token is the mask: pass "
            f"`tokenizer` or `mask_token_id`. ({type(error).__name__}: {error})"
        ) from error


def find_mask_token(
    tokenizer: PreTrainedTokenizerBase | None, mask_token: str, mask_token_id: int | None, vocab_size: int
) -> MaskToken:
    """The tokenizer's mask token, which is added if it has none; or `mask_token_id`, at most the next free id."""
    if mask_token_id is not None:
        if not 0 <= mask_token_id <= vocab_size:
            raise ValueError(
                f"`mask_token_id` must be in [0, {vocab_size}], the last of which adds a token, got {mask_token_id}."
            )
        if tokenizer is not None and tokenizer.mask_token_id not in (None, mask_token_id):
            raise ValueError(
                f"`mask_token_id` ({mask_token_id}) must be the tokenizer's ({tokenizer.mask_token_id}): leave it out."
            )
        return MaskToken(mask_token_id, is_new=mask_token_id == vocab_size)
    if tokenizer is None:
        raise ValueError("give `tokenizer` or `mask_token_id` with a model object, got neither.")
    added = 0
    if tokenizer.mask_token_id is None:
        added = tokenizer.add_special_tokens({"mask_token": mask_token})
    # A tokenizer that was given its mask token before may still be ahead of the embeddings.
    return MaskToken(tokenizer.mask_token_id, is_new=bool(added) or tokenizer.mask_token_id >= vocab_size)


def take_over_backbone(
    model: PreTrainedModel, backbone: PreTrainedModel, mask: MaskToken, pad_to_multiple_of: int | None = None
) -> None:
    """
    Give `model`, built on the meta device for `backbone`'s configuration, the modules of `backbone`; no copy is made.

    Raises `ValueError` if the two are not the same architecture or compute different logits.
    """
    base, head = backbone.base_model, backbone.get_output_embeddings()
    family = type(backbone).__name__
    if type(base) is not type(model.model) or not isinstance(head, nn.Linear):
        raise ValueError(f"`backbone` must be a decoder-only model with a linear head, got {family}.")
    base.get_input_embeddings().padding_idx = None  # its row would not be trained, and often is end-of-text, too
    model.model, model.lm_head = base, head
    model.train(backbone.training)
    for name in QUANTIZATION:
        if hasattr(backbone, name):
            setattr(model, name, getattr(backbone, name))
    model.config.tie_word_embeddings = head.weight is base.get_input_embeddings().weight
    model.config.head_bias = head.bias is not None
    model.config._name_or_path = backbone.config._name_or_path
    model.config.dtype = backbone.dtype
    for token in SPECIAL_TOKENS:
        own = getattr(backbone.generation_config, token, None)
        value = getattr(backbone.config, token, None) if own is None else own
        setattr(model.config, token, value)
        setattr(model.generation_config, token, value)
    if hasattr(model.generation_config, "mask_token_id"):
        model.generation_config.mask_token_id = None  # the configuration's
    if model.config.attention != "bidirectional":
        check_masked_backbone(model, backbone)
    if not model.config.is_semi_causal:
        check_backbone(model, backbone)
    add_mask_embedding(model, mask, pad_to_multiple_of)
    OWNERS[base] = weakref.ref(model)


@torch.no_grad()
def check_backbone(model: PreTrainedModel, backbone: PreTrainedModel) -> None:
    """Raise `ValueError` unless `model` gives the logits of `backbone`'s head, and its first token sees others."""
    ids, changed = _sample_ids(backbone)
    with evaluation_mode(backbone):
        states = [model.model(each, use_cache=False).last_hidden_state for each in (ids, changed)]
        expected = backbone(ids, use_cache=False).logits
    name = type(backbone).__name__
    if torch.equal(states[0][:, 0], states[1][:, 0]):
        raise ValueError(f"`backbone` must have attention that can be opened; that of {name} stays causal.")
    _check_head(model, states[0], expected, name)


@torch.no_grad()
def check_masked_backbone(model: PreTrainedModel, backbone: PreTrainedModel) -> None:
    """
    Raise `ValueError` unless `model` gives the logits of the causal `backbone`, also with its columns in any order:
    only then masks and positions are all that it goes by.
    """
    name = type(backbone).__name__
    refusal = f"`backbone` must take any attention mask and `position_ids`; {name} does not"
    with evaluation_mode(backbone):
        ids, changed = _sample_ids(backbone)
        columns = torch.arange(ids.shape[1], device=ids.device)[None]
        exists = torch.ones_like(columns, dtype=torch.bool)
        seen = causal_stream(exists, columns)
        masks, states = model.semi_causal_masks(), []
        for tokens, order in ((ids, columns), (ids, columns.flip(-1)), (changed, columns)):
            indices = (torch.zeros_like(order), order)
            look = seen.select(indices)
            mask = masks(look, look, columns, backbone.dtype)
            try:
                found = model.model(tokens[indices], attention_mask=mask, position_ids=order, use_cache=False)
            except (ValueError, TypeError, RuntimeError) as error:
                raise ValueError(f"{refusal}: {error}") from error
            states.append(found.last_hidden_state[:, order.argsort(-1)[0]])
        is_causal, model.config.text_config.is_causal = model.config.text_config.is_causal, True
        expected = backbone(ids, use_cache=False).logits
        model.config.text_config.is_causal = is_causal
    if not _close(states[0], states[1]) or not _close(states[0][:, 0], states[2][:, 0]):
        raise ValueError(f"{refusal}.")
    _check_head(model, states[0], expected, name)


def _sample_ids(backbone: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows `(1, 8)` of tokens that are alike in their first alone."""
    table = backbone.get_input_embeddings().weight
    ids = torch.arange(1, 9, device=table.device)[None] * 7919 % len(table)
    changed = ids.clone()
    changed[:, 1:] = (changed[:, 1:] + 1 + len(table) // 3) % len(table)
    return ids, changed


def _check_head(model: PreTrainedModel, states: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    if not _close(model.project(states), expected):
        raise ValueError(f"`backbone` must have a linear head, scaled or capped at most; that of {name} does more.")


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors are equal but for the order of additions, in whatever kernel and precision."""
    tolerance = 5e-2 if expected.dtype in (torch.float16, torch.bfloat16) else 1e-3
    found, expected = found.float(), expected.float()
    return bool((found - expected).norm() <= tolerance * expected.norm())


@torch.no_grad()
def add_mask_embedding(model: PreTrainedModel, mask: MaskToken, pad_to_multiple_of: int | None) -> None:
    """Grow the embeddings until the mask token has a row, and let a new one start as the mean of the others."""
    model.mask_token_is_new = mask.is_new
    rows = model.get_input_embeddings().weight.shape[0]
    if mask.token_id >= rows:
        model.resize_token_embeddings(mask.token_id + 1, pad_to_multiple_of=pad_to_multiple_of, mean_resizing=False)
    if not mask.is_new:
        return
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    if (bias := model.get_output_embeddings().bias) is not None:
        tables.append(bias)
    for table in tables[1:] if tables[0] is tables[1] else tables:
        table[rows:] = table[:rows].float().mean(0).to(table.dtype)
        table[mask.token_id] = table[:rows].float().mean(0).to(table.dtype)


__all__ = [
    "MaskToken",
    "add_mask_embedding",
    "check_backbone",
    "find_mask_token",
    "forget_gguf_quantization",
    "load_backbone",
    "load_tokenizer",
    "take_over_backbone",
]
