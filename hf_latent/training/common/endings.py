"""Whether a model is taught to stop: that what ends a text for `generate` is among the tokens it is trained on."""

import logging
from collections import Counter
from itertools import islice
from typing import Any

from torch import nn

from hf_latent.training.common.objectives import IGNORE_INDEX

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 256


def end_token_ids(model: Any, tokenizer: Any) -> set[int]:
    """What `generate` stops at after a training: the model's end-of-sequence tokens, and the tokenizer's."""
    ends: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        token_id = getattr(source, "eos_token_id", None)
        ends.update([token_id] if isinstance(token_id, int) else token_id or ())
    return ends


def check_endings(dataset: Any, tokenizer: Any, model: nn.Module) -> None:
    """
    Warn if no example has a supervised token that ends a text for `generate`, which would then write on to the end.

    Args:
        dataset: as trainers prepare it, with `input_ids` and, where not all of them are supervised, `labels`.
    """
    examples = [example for example in islice(iter(dataset), MAX_EXAMPLES) if "input_ids" in example]
    ends = end_token_ids(model, tokenizer)
    last: Counter[int] = Counter()
    behind = 0
    for example in examples:
        ids, labels = list(example["input_ids"]), list(example.get("labels") or example["input_ids"])
        at = [i for i, label in enumerate(labels) if label != IGNORE_INDEX]
        if not at:
            continue
        if ends & {ids[i] for i in at}:
            return
        last[next((ids[i] for i in reversed(at) if _is_special(ids[i], tokenizer)), ids[at[-1]])] += 1
        behind += at[-1] + 1 < len(ids) and ids[at[-1] + 1] in ends
    if not last:
        return
    names = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)!r} ({i})" for i in sorted(ends)) or "nothing: no eos token"
    token_id, _ = last.most_common(1)[0]
    token = tokenizer.convert_ids_to_tokens(token_id)
    if behind:
        fix = (
            "it stands right behind the supervised tokens: let the mask include the end of turn, in a chat template "
            "by closing `{% generation %}` after it"
        )
    elif _is_special(token_id, tokenizer):
        fix = (
            f"the supervised text ends with {token!r}: pass `eos_token={token!r}` in the arguments, or set "
            f"`model.generation_config.eos_token_id = {sorted({*ends, token_id})}`, or let the chat template end a "
            "turn with the eos token"
        )
    else:
        fix = (
            "append the eos token to what is trained on (or let the chat template do it), raise `max_length` if it is "
            "cut off, or set `pad_completion_with_eos` ('batch')"
        )
    logger.warning(
        "No supervised token of the first %d examples is an end-of-sequence (eos) token, which `generate` stops at "
        "(%s): the model is not taught to end, and will write to the end of the canvas. Here %s.",
        len(examples),
        names,
        fix,
    )


def _is_special(token_id: int, tokenizer: Any) -> bool:
    added = getattr(tokenizer, "added_tokens_decoder", {}).get(token_id)
    return token_id in tokenizer.all_special_ids or (added is not None and added.special)


__all__ = ["check_endings", "end_token_ids"]
