"""trl's `SFTTrainer` with the objectives of latent-token models, in any order and from left to right."""

from typing import Any

import torch
from torch import nn

from hf_latent.modeling.latent_token.configuration_latent_token import LatentTokenConfig
from hf_latent.modeling.latent_token.lookahead import causal_stream, lookahead_groups, lookahead_inputs
from hf_latent.training.common.objectives import IGNORE_INDEX, count_items, normalize_rows
from hf_latent.training.latent_tokens.config import LatentTokenTrainingConfig
from hf_latent.training.latent_tokens.objectives import (
    States,
    look_ahead_targets,
    sample_groups,
    sample_num_latent_tokens,
    sample_reveal_order,
    sample_states,
)
from hf_latent.training.masked_diffusion.config import MaskedDiffusionConfig
from hf_latent.training.masked_diffusion.noising import CorruptedRows
from hf_latent.training.masked_diffusion.trainer import PARTS, MaskedDiffusionTrainer, unwrap
from hf_latent.training.runs.loss_log import ratio

# Of a model that writes from left to right: weighted nats and what they are divided by; nats, hits and number of next
# tokens, as the text alone and as the looking-ahead position predicts them; supervised and attended tokens.
CAUSAL_PARTS = (
    "loss",
    "items",
    "text_nll",
    "text_correct",
    "next_nll",
    "next_correct",
    "next",
    "supervised",
    "tokens",
)


class LatentTokenTrainer(MaskedDiffusionTrainer):
    """
    Fine-tune a semi-causal latent-token model on anything `SFTTrainer` accepts.

    - [`LatentTokenForMaskedDiffusion`] with `attention="semi_causal"`: joint prediction in groups. Supervised tokens
      are masked as in [`MaskedDiffusionTrainer`]; the others enter the text in a random order, the masked ones are
      predicted in random groups of `num_latent_tokens + 1`.
    - [`LatentTokenForCausalLM`]: next token + lambda x latent tokens. Behind `num_states` tokens of a row a group
      predicts the next token and the `num_latent_tokens` after it. Logged: `text_nll` (nats per next token without
      latent tokens), `next_nll` (with them), `latent_nll_i` (of the token `i` places after the next one).

    Arguments are those of [`MaskedDiffusionTrainer`] with `args` a [`LatentTokenTrainingConfig`].
    """

    _tag_names = ["hf-latent", "latent-tokens"]
    _name = "Latent tokens"

    def __init__(self, model: str | nn.Module, args: LatentTokenTrainingConfig | None = None, **kwargs: Any) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = LatentTokenTrainingConfig(f"{name.rstrip('/').split('/')[-1] or 'model'}-latent-tokens")
        if not isinstance(args, LatentTokenTrainingConfig):
            raise ValueError(f"`args` must be a LatentTokenTrainingConfig, got {type(args).__name__}")
        super().__init__(model, args, **kwargs)
        if self._is_causal:
            most = range(1, max(args.num_latent_tokens) + 1)
            latent = [f"latent_{what}_{i}" for what in ("nll", "count") for i in most]
            self.parts = (*CAUSAL_PARTS, *latent)
        else:
            self.parts = PARTS

    def _check_model(self, model: nn.Module, args: MaskedDiffusionConfig) -> None:
        config = unwrap(model).config
        if not isinstance(config, LatentTokenConfig) and type(config).__name__ != LatentTokenConfig.__name__:
            raise ValueError(
                f"`model` must be a latent-token model, got {type(unwrap(model)).__name__}: turn it into one with "
                "LatentTokenForCausalLM.from_backbone or LatentTokenForMaskedDiffusion.from_backbone"
            )
        if not config.is_semi_causal:
            raise ValueError(
                f"`model` must have `attention`='semi_causal', got {config.attention!r}: use MaskedDiffusionTrainer"
            )
        if config.mask_token_id is None:
            raise ValueError("`mask_token_id` of the model's configuration must be a token id, got None")
        unwrap(model).semi_causal_masks()  # refuses an attention implementation that takes no mask

    @property
    def _is_causal(self) -> bool:
        return unwrap(self.model).config.is_left_to_right

    @property
    def _num_latent_tokens(self) -> int:
        """Drawn anew for every optimizer step, on all processes alike."""
        choices = self.args.num_latent_tokens
        if not self.model.training:
            return max(choices)
        return sample_num_latent_tokens(choices, seed=self.args.noise_seed, step=self.state.global_step)

    @property
    def _first_supervised(self) -> int:  # type: ignore[override]
        return int(self._is_causal)

    def _supervised(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        supervised = super()._supervised(inputs)
        if self._is_causal:
            supervised[:, 0] = False  # no token comes before it
        return supervised

    def _model_inputs(
        self, inputs: dict[str, torch.Tensor], corrupted: CorruptedRows
    ) -> tuple[dict[str, Any], torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
        """In any order: who enters the text when, and who is predicted together."""
        given, at = super()._model_inputs(inputs, corrupted)
        noisy, _, attended, masked = corrupted
        ids, draw = inputs["example_id"], self._draw(inputs)
        given["reveal_order"] = sample_reveal_order(ids, self._supervised(inputs), **draw)
        hidden = (noisy == self.model.config.mask_token_id) & attended & ~masked
        group = sample_groups(ids, masked, self._num_latent_tokens, **draw)
        # A dropped prompt is a group of its own, which nobody predicts.
        given["query_group"] = torch.where(hidden, group.amax() + 1, group)
        return given, at

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """
        Loss of a batch; with `return_outputs` also its `parts`, `[B, len(self.parts)]`. From left to right:

        1. Draw the tokens behind which the model looks ahead. 2. Put a group behind each, and predict. 3. Score.
        """
        if not self._is_causal:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if "example_id" not in inputs:
            raise ValueError("the batch has no `example_id`, which seeds its states: use MaskedDiffusionCollator")
        args, num_latent = self.args, self._num_latent_tokens
        attended, supervised = self._attended(inputs), self._supervised(inputs)  # [B, L]
        labels = inputs["labels"].masked_fill(~supervised, IGNORE_INDEX)
        items = count_items(supervised, args.loss_normalization)  # [B]
        num_items = items.sum() if num_items_in_batch is None else num_items_in_batch
        row_weight = normalize_rows(torch.ones_like(items, dtype=torch.float32), supervised, args.loss_normalization)

        # 1. States, 2. prediction
        states = sample_states(inputs["example_id"], supervised, args.num_states, **self._draw(inputs))
        given = self._lay_out(inputs, attended, states, num_latent)
        text_row, text_column = supervised.nonzero(as_tuple=True)
        targets, exist = look_ahead_targets(labels, states, num_latent)  # [B, S, K + 1]
        if num_latent == 0:
            exist = torch.zeros_like(exist)
        row, state, ahead = exist.nonzero(as_tuple=True)
        column = inputs["input_ids"].shape[1] + state * (num_latent + 1) + ahead
        at = torch.cat([text_row, row]), torch.cat([text_column - 1, column])
        score = model(**given, logits_to_keep=at, targets=torch.cat([labels[supervised], targets[exist]]))

        # 3. Score
        num_text = len(text_row)
        text_nll, nll = score.nll[:num_text], score.nll[num_text:]
        text_weight = args.text_loss_weight if num_latent else 1.0
        share = torch.where(ahead == 0, 1.0, args.latent_loss_weight / max(num_latent, 1))
        weighted = row_weight[text_row] * text_weight * text_nll
        looked = row_weight[row] * states.weight[row] * share * nll
        loss = (weighted.sum() + looked.sum()) / torch.as_tensor(num_items).clamp(min=1)
        loss = self._undo_averaging(loss, num_items_in_batch)

        # 4. Sums for the log
        correct = score.correct.float()
        sums = {"loss": [(text_row, weighted), (row, looked)]}
        sums["text_nll"], sums["text_correct"] = [(text_row, text_nll)], [(text_row, correct[:num_text])]
        for i in range(num_latent + 1):
            nll_name, count_name = ("next_nll", "next") if i == 0 else (f"latent_nll_{i}", f"latent_count_{i}")
            sums[nll_name] = [(row[ahead == i], nll[ahead == i])]
            sums[count_name] = [(row[ahead == i], torch.ones_like(nll[ahead == i]))]
        sums["next_correct"] = [(row[ahead == 0], correct[num_text:][ahead == 0])]
        counts = {"items": items, "supervised": supervised.sum(-1), "tokens": attended.sum(-1)}
        parts = self._sum_by_row(sums, counts)
        self._note_parts(parts, loss)
        return (loss, parts) if return_outputs else loss

    def _sum_by_row(
        self, sums: dict[str, list[tuple[torch.Tensor, torch.Tensor]]], counts: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """`parts` `[B, len(self.parts)]` of pairs of rows and values `(N,)`, and of counts `[B]`."""
        total = torch.zeros(len(counts["items"]), len(self.parts), device=counts["items"].device)
        for name, pairs in sums.items():
            for rows, values in pairs:
                total[:, self.parts.index(name)].index_add_(0, rows, values.detach().float())
        for name, values in counts.items():
            total[:, self.parts.index(name)] += values
        return total

    def _lay_out(
        self, inputs: dict[str, torch.Tensor], attended: torch.Tensor, states: States, num_latent: int
    ) -> dict[str, Any]:
        """What the model is given: the text and, with latent tokens, a group behind each state."""
        ids = inputs["input_ids"]
        if num_latent == 0:
            return {"input_ids": ids, "attention_mask": attended.long(), "use_cache": False}
        base = unwrap(self.model)
        position = (attended.long().cumsum(-1) - 1).clamp(min=0)
        text = causal_stream(attended, position)
        seen = text.join(lookahead_groups(text, states.columns, num_latent, base.position_limit))
        mask = torch.tensor(base.config.mask_token_id, device=ids.device)
        columns = torch.arange(seen.order.shape[1], device=ids.device)
        return {
            "input_ids": torch.cat([ids, lookahead_inputs(ids, states.columns, mask, num_latent)], dim=1),
            "attention_mask": base.semi_causal_masks()(seen, seen, columns[None], base.dtype),
            "position_ids": seen.position,
            "use_cache": False,
        }

    def summarize(self, sums: dict[str, float]) -> dict[str, float]:
        """Means from the sums of `parts`."""
        if not self._is_causal:
            return super().summarize(sums)
        supervised = sums["supervised"]
        means = {
            "text_nll": ratio(sums["text_nll"], supervised),
            "text_accuracy": ratio(sums["text_correct"], supervised),
        }
        if sums["next"] > 0:
            means["next_nll"] = sums["next_nll"] / sums["next"]
            means["next_accuracy"] = sums["next_correct"] / sums["next"]
        for name, value in sums.items():
            if name.startswith("latent_nll_") and (count := sums[name.replace("nll", "count")]) > 0:
                means[name] = value / count
        return means


__all__ = ["LatentTokenTrainer"]
