"""How similar texts are to their references, by the libraries that define the measures."""

from collections.abc import Sequence

TEXT_METRICS = ("chrf",)


def text_similarity(texts: Sequence[str], references: Sequence[str], metric: str = "chrf") -> float:
    """
    Similarity of texts to one reference each, over the whole set, 0..100.

    Args:
        metric (`str`, *optional*, defaults to `"chrf"`):
            `"chrf"`: F-score of character n-grams (Popović, 2015), by sacrebleu's defaults. It needs no model, unlike
            BERTScore, and says something about texts that are never equal.

    Raises:
        ImportError: without sacrebleu (`pip install hf-latent[eval]`).
        ValueError: for an unknown metric, or if the numbers of texts and references differ.
    """
    if metric not in TEXT_METRICS:
        raise ValueError(f"`metric` must be one of {TEXT_METRICS}, got {metric!r}")
    if len(texts) != len(references) or not texts:
        raise ValueError(
            f"`texts` and `references` must be as many, and not none, got {len(texts)} and {len(references)}"
        )
    try:
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise ImportError("chrF is computed by sacrebleu: pip install hf-latent[eval]") from error
    return CHRF().corpus_score(list(texts), [list(references)]).score


__all__ = ["TEXT_METRICS", "text_similarity"]
