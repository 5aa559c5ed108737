"""Whether a tokenizer fits a model: every token that it may write needs a row in the embeddings."""

from typing import Any

from hf_latent.generation.arguments.adapters import refuse_prompt_learning


def vocabulary_size(tokenizer: Any) -> int:
    """Rows that a tokenizer needs: one more than its largest id."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def embedding_rows(model: Any) -> int | None:
    """Tokens that a model has embeddings for; None where it does not say."""
    embeddings = model.get_input_embeddings()
    rows = getattr(embeddings, "num_embeddings", None)
    if rows is not None:
        return rows
    table = getattr(embeddings, "weight", None)
    return len(table) if table is not None and table.dim() == 2 else None


def check_vocabulary(tokenizer: Any, model: Any) -> None:
    """Raise `ValueError` if `tokenizer` has tokens that `model` has no embedding for."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    if not hasattr(tokenizer, "get_vocab") or not hasattr(model, "get_input_embeddings"):
        return
    rows = embedding_rows(model)
    size = vocabulary_size(tokenizer)
    if rows is None or size <= rows:
        return
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows)
    shown = ", ".join(repr(token) for _, token in beyond[:3]) + (", ..." if len(beyond) > 3 else "")
    raise ValueError(
        f"the tokenizer has {size} tokens and the model embeddings for {rows}: there is none for {shown}. Call "
        f"`model.resize_token_embeddings({size})` before training, or take the tokenizer that belongs to the model"
    )


def check_pair(model: Any, tokenizer: Any) -> None:
    """Raise `ValueError` unless `model`, with its adapter if it has one, can be evaluated with `tokenizer`, if any."""
    refuse_prompt_learning(model)
    if tokenizer is not None:
        check_vocabulary(tokenizer, model)


__all__ = ["check_pair", "check_vocabulary", "embedding_rows", "vocabulary_size"]
