"""Sizes of the models with random weights that decoding is timed with."""

from typing import Any

# 8 and 31 million parameters, where every millisecond counts, and the smallest checkpoint that people start from.
SHAPES: dict[str, dict[str, Any]] = {
    "8M": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8},
    "31M": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
    "SmolLM2-135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
    },
}
