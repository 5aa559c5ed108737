"""Experts of a stock class, in whatever implementation transformers has for them."""


class StockExpertsMixin:
    """
    Comes before the stock classes among the bases of a model with experts.

    transformers looks into the file that a class is defined in for whether its experts can be computed all at once. A
    class in another file than its experts would fall back to a loop over them, without a word.
    """

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        stock = [base for base in cls.__mro__ if base.__module__.startswith("transformers.models.")]
        return any(base._can_set_experts_implementation() for base in stock)  # type: ignore[attr-defined]


__all__ = ["StockExpertsMixin"]
