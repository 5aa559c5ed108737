"""What every masked diffusion model shares above its backbone: the head's forward and the resume of its training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.loss.loss_utils import ForMaskedLMLoss
from transformers.modeling_outputs import BaseModelOutputWithPast, MaskedLMOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import TransformersKwargs

from hf_latent.generation.arguments.cache_argument import cache_name
from hf_latent.generation.arguments.inputs import find_cache
from hf_latent.modeling.adapter_names import AdapterLoadingMixin, rename_original_keys

# Logits that are held at a time while tokens are scored: 512 MiB in float32. Where there are more, all are computed
# twice, which costs a fifth of a step.
MAX_LOGITS = 2**27


@dataclass
class ScoredOutput(ModelOutput):
    """
    Scores of `N` tokens.

    Args:
        nll (`torch.FloatTensor` of shape `(N,)`): -log p of each, in nats, in float32.
        correct (`torch.BoolTensor` of shape `(N,)`): whether it is the most probable token.
    """

    nll: torch.FloatTensor | None = None
    correct: torch.BoolTensor | None = None


class MaskedDiffusionHead(AdapterLoadingMixin):
    """
    Forward of a masked diffusion model. Comes first among the bases of a head class, before
    `DiffusionGenerationMixin` and the family's `PreTrainedModel`; the class sets `self.model` (a bidirectional base
    model) and `self.lm_head`, then calls `prepare_head` and `post_init`, as [`PublishedHeadMixin`] does.
    """

    model: nn.Module
    lm_head: nn.Linear
    # Whether `shift_hidden_states` moves them: a position is then predicted by the state of the one before.
    reads_previous_state: bool = False
    # From the family's `PreTrainedModel`:
    config: PreTrainedConfig
    config_class: type[PreTrainedConfig]
    register_load_state_dict_pre_hook: Callable

    def prepare_head(self) -> None:
        """Choose the loss (targets are not shifted) and make training resumable under the original key names."""
        use_own_config_class(self)
        self.loss_function = ForMaskedLMLoss
        self.cache_name = cache_name(type(self.model))
        self.register_load_state_dict_pre_hook(rename_original_keys)

    def shift_hidden_states(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """States `[B, L, D]` such that state `i` predicts token `i`: one to the right with `reads_previous_state`."""
        return (
            shift_states(hidden_states, attention_mask, position_ids) if self.reads_previous_state else hidden_states
        )

    def align(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`shift_hidden_states` by the name that decoders published by 0.1 know our models by."""
        return self.shift_hidden_states(*args, **kwargs)

    def default_position_ids(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Positions `[B, L]` where none are given; None leaves them to the base model."""
        return None

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits `[..., V]` of hidden states `[..., D]`."""
        return self.lm_head(hidden_states)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor | tuple[torch.Tensor, torch.Tensor] = 0,
        targets: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        r"""
        Predict every token from all others. `B` rows, `L` positions, `V` vocabulary, `N` selected positions.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`):
                Tokens; positions to be predicted hold `config.mask_token_id`.
            attention_mask (`torch.Tensor` of shape `(B, L)` or `(B, 1, L, L)`, *optional*):
                1 for tokens, 0 for padding (either side); a 4-D float mask is used as it is.
            position_ids (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Positions; 0, 1, ... of the columns if not given.
            inputs_embeds (`torch.FloatTensor` of shape `(B, L, D)`, *optional*):
                Instead of `input_ids`.
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Targets, not shifted; -100 is ignored. Gives `loss`, mean nats per target.
            logits_to_keep (`int`, `torch.Tensor` or a pair of them, *optional*, defaults to 0):
                Positions whose logits are computed: 0 all, `n` the last n, a 1-D index of columns, an integer
                `(B, K)` index per row, or a bool `(B, L)` mask, which gives logits of shape `(N, V)`. A pair of
                `(N,)` indices (rows, columns) gives `(N, V)` too, without the device sync that a mask costs.
            targets (`torch.LongTensor` of shape `(N,)`, *optional*):
                Tokens at the `N` selected positions, to be scored without keeping their logits: what training needs.

        Returns:
            `MaskedLMOutput` with `logits` `(B, L, V)`, `(B, K, V)` or `(N, V)`; with `targets` a `ScoredOutput`.
        """
        # Trainers and pipelines pass `use_cache`; a model that reads every position at once has no use for a growing
        # cache. Block-wise caches come as `cache`, from `generate`.
        kwargs["use_cache"] = False
        cache = find_cache(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in ("cache", "past_key_values")}
        past = {} if cache is None else {self.cache_name: cache}
        if position_ids is None:
            position_ids = self.default_position_ids(attention_mask)
        outputs = self.run_decoder(input_ids, attention_mask, position_ids, inputs_embeds, **past, **kwargs)
        # With a cache the states are those of a window, the mask is that of all columns: positions alone tell which
        # state is a row's first, even where the window is as wide as the mask.
        mask = attention_mask if cache is None else None
        hidden_states = self.shift_hidden_states(outputs.last_hidden_state, mask, position_ids)
        hidden_states = select_positions(hidden_states, logits_to_keep)
        if targets is not None:
            nll, correct = score_tokens(self.project, hidden_states, targets, self.config.vocab_size)
            return ScoredOutput(nll=nll, correct=correct)
        logits = self.project(hidden_states)

        loss = None
        if labels is not None:
            labels = select_positions(labels[..., None], logits_to_keep).squeeze(-1).contiguous()
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def run_decoder(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: Any,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Outputs of the base model for the positions of the input."""
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


def use_own_config_class(model: PreTrainedModel) -> None:
    """
    Make the configuration of `model` one of the class that the model's code names.

    Of a checkpoint that carries its code, transformers loads the configuration's file twice, from a folder without and
    one with the model's. Saves look for all of the code beside the configuration's class.
    """
    own = model.config_class
    if type(model.config) is not own and type(model.config).__name__ == own.__name__:
        model.config.__class__ = own


def score_tokens(
    project: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, targets: torch.Tensor, vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    -log p `(N,)` of `targets` under the logits of `states` `[N, D]`, in nats, and whether they are the most probable.

    Where the logits would be more than `MAX_LOGITS`, they are computed a part at a time, and again when gradients are.
    """
    size = max(1, MAX_LOGITS // vocab_size)
    if len(targets) <= size:
        return _score(project, states, targets)
    parts = [
        checkpoint(_score, project, part, wanted, use_reentrant=False)
        for part, wanted in zip(states.split(size), targets.split(size), strict=True)
    ]
    nll, correct = zip(*parts, strict=True)
    return torch.cat(nll), torch.cat(correct)


def _score(
    project: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = project(states)
    targets = targets.to(logits.device)
    return F.cross_entropy(logits.float(), targets, reduction="none"), logits.detach().argmax(-1) == targets


def shift_states(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> torch.Tensor:
    """
    Move the states `[B, L, D]` one to the right; the first token of a row is predicted by its own state.

    With padding on the left the state before the first token is padding, so the first token is found by its position
    (0) and by the mask, and predicts itself there too; so does the first of every packed document.
    """
    shifted = torch.cat([hidden_states[:, :1], hidden_states[:, :-1]], dim=1)
    if position_ids is not None:
        shifted = torch.where((position_ids == 0)[..., None], hidden_states, shifted)
    if isinstance(attention_mask, torch.Tensor) and attention_mask.shape == hidden_states.shape[:2]:
        shifted = torch.where((attention_mask.cumsum(-1) <= 1)[..., None], hidden_states, shifted)
    return shifted


def position_ids_from_mask(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Positions `[B, L]` that padding on the left does not move; None without a mask of `[B, L]`."""
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.dim() != 2:
        return None
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def is_prepared_mask(attention_mask: Any) -> bool:
    """Whether an attention mask says who sees whom, rather than what is padding."""
    return attention_mask is not None and not (isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2)


def select_positions(
    states: torch.Tensor, positions: int | torch.Tensor | tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """The states `[B, L, D]` at `positions`, as `logits_to_keep` of the head's forward says."""
    if isinstance(positions, tuple):
        # A model spread over devices has its last states elsewhere than its inputs.
        return states[tuple(index.to(states.device) for index in positions)]
    return slice_logits_to_keep(states, positions)


__all__ = [
    "MaskedDiffusionHead",
    "ScoredOutput",
    "is_prepared_mask",
    "position_ids_from_mask",
    "score_tokens",
    "select_positions",
    "shift_states",
    "use_own_config_class",
]
