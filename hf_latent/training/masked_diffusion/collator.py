"""Batches for masked diffusion: trl's right-padded rows, plus the identity of each example and LLaDA's EOS padding."""

from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hf_latent.training.common.token_ids import check_batch
from hf_latent.training.masked_diffusion.packing import split_documents


@dataclass
class MaskedDiffusionCollator(DataCollatorForLanguageModeling):
    """
    trl's collator that keeps `example_id`, which seeds an example's noise, and may pad with predicted EOS tokens.

    Args:
        eos_token_id (`int`, *optional*):
            If given, rows are filled with this token as ordinary text: attended to and supervised.
        eos_length (`int`, *optional*):
            Length rows are filled to; the longest row of the batch if None. Longer rows are left alone.
        mask_token_id (`int`, *optional*):
            If given, refused as a label.
        num_embeddings (`int`, *optional*):
            Of the model. If given, ids beyond it are refused.

    Example:

    ```python
    >>> collator = MaskedDiffusionCollator(pad_token_id=0, eos_token_id=9)
    >>> collator([{"input_ids": [1, 2], "labels": [-100, 2], "example_id": 7}, {"input_ids": [3], "example_id": 8}])
    {'input_ids': tensor([[1, 2],
                          [3, 9]]),
     'labels': tensor([[-100,    2],
                       [   3,    9]]),
     'attention_mask': tensor([[1, 1],
                               [1, 1]]),
     'example_id': tensor([7, 8])}
    ```
    """

    eos_token_id: int | None = None
    eos_length: int | None = None
    mask_token_id: int | None = None
    num_embeddings: int | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of a document a row, packed or not."""
        places: dict[str, torch.Tensor] = {}
        if "seq_lengths" in examples[0]:
            examples, places = split_documents(examples)
        if self.eos_token_id is not None:
            length = self.eos_length or max(len(example["input_ids"]) for example in examples)
            examples = [self._fill(example, length) for example in examples]
        batch = super().torch_call(examples)
        if "example_id" in examples[0]:
            batch["example_id"] = torch.tensor([example["example_id"] for example in examples])
        check_batch(batch, self.num_embeddings)
        if self.mask_token_id is not None and (batch["labels"] == self.mask_token_id).any():
            raise ValueError(
                f"the data has the mask token ({self.mask_token_id}) among the tokens to be predicted; take it out of "
                "the texts, where it would be masked already."
            )
        return {**batch, **places}

    def _fill(self, example: dict[str, Any], length: int) -> dict[str, Any]:
        filling = [self.eos_token_id] * (length - len(example["input_ids"]))
        labels = example.get("labels", example["input_ids"])
        return {**example, "input_ids": [*example["input_ids"], *filling], "labels": [*labels, *filling]}


__all__ = ["MaskedDiffusionCollator"]
