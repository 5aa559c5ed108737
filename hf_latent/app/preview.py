"""What the panels show before anything has run: the canvas of the example, its open positions as they will be met."""

from functools import lru_cache
from typing import Any

from hf_latent.app.drawing import draw_panel
from hf_latent.app.examples import TEMPLATE_FIELDS, Example
from hf_latent.app.stepwise_generation import Snapshot


@lru_cache(maxsize=8)
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from hf_latent.checkpoints.names import resolve_checkpoint

    return AutoTokenizer.from_pretrained(resolve_checkpoint(name))


def empty_panel(side: str, note: str) -> str:
    """The panel of a decoder that has nothing to show yet."""
    return draw_panel(f"decoder {side.upper()}", {}, None, str, mask_token_id=None, note=note)


def preview(name: str, example: Example, side: str, note: str) -> str:
    """
    The panel of the decoder `"a"` or `"b"` with the canvas of an `example` of the checkpoint `name`, nothing written.

    A checkpoint with examples is a folder of this machine: nothing is downloaded.
    """
    tokenizer = _tokenizer(name)
    if example.mode == "reason":
        from hf_latent import ReasoningTemplate

        fields = {key: example.fields[key] for key in TEMPLATE_FIELDS[:3]}
        template = ReasoningTemplate(
            int(fields["reasoning_length"]), int(fields["answer_length"]), fields["delimiter"]
        )
        ids = template.apply(tokenizer, [example.prompt])["input_ids"][0].tolist()
    else:
        ids = tokenizer(example.prompt)["input_ids"]
        ids = [*ids, *[tokenizer.mask_token_id] * int(example.fields["max_new_tokens"])]
    unknown: list[float | None] = [None] * len(ids)
    return draw_panel(
        f"decoder {side.upper()}",
        {},
        Snapshot(ids, [-1] * len(ids), unknown, [-1] * len(ids)),
        tokenizer.decode,
        mask_token_id=tokenizer.mask_token_id,
        special_ids=frozenset(tokenizer.all_special_ids),
        given=[token != tokenizer.mask_token_id for token in ids],
        note=note,
    )


__all__ = ["empty_panel", "preview"]
