"""What the published families share: a stock decoder whose padding row is trained, and a linear head on it."""

from typing import Any

from torch import nn
from transformers import PreTrainedConfig


class PublishedDecoderMixin:
    """A decoder of transformers by the family's configuration. Comes first among the bases, before the decoder's."""

    config: PreTrainedConfig

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        # Without `padding_idx`: where padding is end-of-text, too, its row would start at zero and stay there.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()  # type: ignore[attr-defined]


class PublishedHeadMixin:
    """
    A head class of a family: `decoder_class` and a linear head. Comes first among the bases, before
    [`MaskedDiffusionHead`] or one that takes its place.
    """

    decoder_class: type[nn.Module]
    config: PreTrainedConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.model = self.decoder_class(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=self.has_head_bias(config))
        self.prepare_head()  # type: ignore[attr-defined]
        self.post_init()  # type: ignore[attr-defined]

    @staticmethod
    def has_head_bias(config: Any) -> bool:
        """Whether the head has a bias."""
        return False


__all__ = ["PublishedDecoderMixin", "PublishedHeadMixin"]
