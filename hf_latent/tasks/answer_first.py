"""Sums and rotations whose target starts with the answer, and the reasoning comes after: generate, format, verify."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hf_latent.tasks.drawing import progress

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

__all__ = ["KINDS", "ORDERS", "AnswerFirstTask", "answer_first_tokenizer"]

ORDERS = ("answer_first", "answer_last")
CYCLE = ("up", "down", "left", "right")
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
SMALLEST, LARGEST = -81, 729  # results of three operations: 0 - 9 * 9 and 9 * (9 * 9)
MAX_MISSES = 20_000
SEPARATOR = ";"
TOKENS_OF_A_CALCULATION = 6  # with the separator


def _add(numbers: list[int]) -> tuple[list[str], str]:
    """Partial sums: the first two are added each time."""
    steps, total = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    return steps, str(total)


def single_digit_additions(rng: random.Random) -> str:
    """Three to five numbers from 0 to 9; every problem is as likely as any other of its length."""
    return " + ".join(str(rng.randint(0, 9)) for _ in range(rng.randint(3, 5)))


def double_digit_additions(rng: random.Random) -> str:
    """Two numbers from 0 to 99, as in GPT-3's two digit addition (arXiv 2005.14165, section 3.9.1)."""
    return f"{rng.randint(0, 99)} + {rng.randint(0, 99)}"


def single_digit_three_operations(rng: random.Random) -> str:
    """Three numbers from 0 to 9, the last two in brackets, as in GPT-3's one digit composite task."""
    signs = [rng.choice(list(OPERATORS)) for _ in range(2)]
    a, b, c = (rng.randint(0, 9) for _ in range(3))
    return f"{a} {signs[0]} ( {b} {signs[1]} {c} )"


def rotation(rng: random.Random) -> str:
    """Four numbers from 0 to 9."""
    return " ".join(str(rng.randint(0, 9)) for _ in range(4))


def reason_by_partial_sums(question: str) -> tuple[list[str], str]:
    """`3 + 5 + 7` -> `3 + 5 = 8`, `8 + 7 = 15`; `15`."""
    return _add([int(number) for number in question.split(" + ")])


def reason_by_digits(question: str) -> tuple[list[str], str]:
    """`48 + 76` -> `8 + 6 = 14`, `40 + 70 = 110`, `14 + 110 = 124`; `124`: ones, tens, both."""
    a, b = (int(number) for number in question.split(" + "))
    ones, tens = a % 10 + b % 10, a - a % 10 + b - b % 10
    steps = [f"{a % 10} + {b % 10} = {ones}", f"{a - a % 10} + {b - b % 10} = {tens}", f"{ones} + {tens} = {a + b}"]
    return steps, str(a + b)


def reason_from_the_brackets(question: str) -> tuple[list[str], str]:
    """`6 + ( 4 * 8 )` -> `4 * 8 = 32`, `6 + 32 = 38`; `38`."""
    a, outer, _, b, inner, c, _ = question.split()
    value = OPERATORS[inner](int(b), int(c))
    result = OPERATORS[outer](int(a), value)
    return [f"{b} {inner} {c} = {value}", f"{a} {outer} {value} = {result}"], str(result)


def reason_by_turning(question: str) -> tuple[list[str], str]:
    """
    `1 3` -> `up`, `down`, `up`, `right`; `left`.

    Start at up. The first number says how many places to go along the cycle up, down, left, right, up; each number
    after it reverses the direction. Written down is the start and every place passed, but for the last, which is the
    answer: the paper's worked example, `left up down up right`.
    """
    place, direction, places = 0, 1, [0]
    for number in map(int, question.split()):
        for _ in range(number):
            place = (place + direction) % len(CYCLE)
            places.append(place)
        direction = -direction
    return [CYCLE[place] for place in places[:-1]], CYCLE[places[-1]]


# Name to: draw a question, reason about it, most tokens of a target without special ones, what joins steps.
KINDS: dict[str, tuple[Callable[[random.Random], str], Callable[[str], tuple[list[str], str]], int, str]] = {
    "single_digit_additions": (
        single_digit_additions,
        reason_by_partial_sums,
        1 + 4 * TOKENS_OF_A_CALCULATION,
        f" {SEPARATOR} ",
    ),
    "double_digit_additions": (
        double_digit_additions,
        reason_by_digits,
        1 + 3 * TOKENS_OF_A_CALCULATION,
        f" {SEPARATOR} ",
    ),
    "single_digit_three_operations": (
        single_digit_three_operations,
        reason_from_the_brackets,
        1 + 2 * TOKENS_OF_A_CALCULATION,
        f" {SEPARATOR} ",
    ),
    "rotation": (rotation, reason_by_turning, 1 + 36, " "),
}


class AnswerFirstTask:
    """Write the answer, then how it comes about ("Latent diffusion with LLMs for reasoning", sections 4.1 and 4.2).

    One instance of each kind (a number, a sign or a word is one token):

    ```
    single_digit_additions         "3 + 5 + 7"        "15 ; 3 + 5 = 8 ; 8 + 7 = 15"
    double_digit_additions         "48 + 76"          "124 ; 8 + 6 = 14 ; 40 + 70 = 110 ; 14 + 110 = 124"
    single_digit_three_operations  "6 + ( 4 * 8 )"    "38 ; 4 * 8 = 32 ; 6 + 32 = 38"
    rotation                       "1 0 2 1"          "left up down left right"
    ```

    With `order="answer_last"` the answer stands behind the reasoning. The paper does not print its calculations; these
    are ours, except for the rotation's, which is its worked example.

    Args:
        kind (`str`): one of `KINDS`.
        order (`str`): one of `ORDERS`.

    Changelog: version 1, first release.
    """

    version = 1

    def __init__(self, kind: str = "single_digit_additions", order: str = "answer_first") -> None:
        if kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(map(repr, KINDS))}, got {kind!r}.")
        if order not in ORDERS:
            raise ValueError(f"`order` must be one of {', '.join(map(repr, ORDERS))}, got {order!r}.")
        self.name, self.order = kind, order
        self._draw, self._reason, self._longest, self._joint = KINDS[kind]

    @property
    def completion_length(self) -> int:
        """Most tokens of a completion, with a begin- and an end-of-sequence token."""
        return self._longest + 2

    # Generator

    def generate(
        self, num_problems: int, seed: int, *, split: str = "train", at_most: bool = False
    ) -> list[dict[str, Any]]:
        """Distinct problems, the same on every platform for the same arguments.

        Args:
            num_problems (`int`): how many; `ValueError` if no new one turns up in 20,000 draws. There are 111,000
                single digit additions, 10,000 double digit additions, 9,000 three operations, 10,000 rotations.
            seed (`int`): seeds the generator; has no influence on the split a problem belongs to.
            split (`str`): "train" (9 problems in 10) or "test". The side is a hash of the question as it is written:
                a test problem may be a training problem with its numbers in another order.
            at_most (`bool`): give as many as were found instead of raising.

        Returns:
            `list[dict]`: "question", "reasoning", "answer", all text.
        """
        if split not in ("train", "test"):
            raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
        rng = random.Random(f"{self.name} {seed}")
        found: dict[str, dict[str, Any]] = {}
        misses = 0
        with progress(num_problems, f"drawing {self.name} problems") as advance:
            while len(found) < num_problems:
                question = self._draw(rng)
                if question not in found and self.split_of(question) == split:
                    found[question] = self.solve(question)
                    misses = 0
                    advance(1)
                elif (misses := misses + 1) == MAX_MISSES:
                    if at_most:
                        break
                    raise ValueError(f"Found only {len(found)} of {num_problems} {split} problems: ask for fewer.")
        return list(found.values())

    def split_of(self, question: str) -> str:
        """ "test" for one problem in ten, else "train": a hash of kind and question."""
        key = f"{self.name} {question}"
        return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 == 0 else "train"

    def solve(self, question: str) -> dict[str, Any]:
        """The problem that asks `question`."""
        steps, answer = self._reason(question)
        return {"question": question, "reasoning": self._joint.join(steps), "answer": answer}

    def difficulty(self, problem: dict[str, Any]) -> int:
        """Steps of the reasoning: calculations, or places passed."""
        return len(self._reason(problem["question"])[0])

    # Formatter

    def format(self, problem: dict[str, Any]) -> dict[str, str]:
        """The prompt and the completion of a problem, without special tokens."""
        parts = [problem["answer"], problem["reasoning"]]
        parts = [part for part in (parts if self.order == "answer_first" else parts[::-1]) if part]
        return {"prompt": problem["question"], "completion": self._joint.join(parts)}

    def dataset(self, num_problems: int, seed: int, *, split: str = "train", at_most: bool = False) -> Dataset:
        """`generate(...)` as a dataset with the columns of `format` and of the problems."""
        from datasets import Dataset

        problems = self.generate(num_problems, seed, split=split, at_most=at_most)
        return Dataset.from_list([self.format(problem) | problem for problem in problems])

    # Verifier

    def answer_of(self, completion: str) -> str | None:
        """The answer in a completion without special tokens: its first or last token."""
        tokens = completion.split()
        return None if not tokens else tokens[0 if self.order == "answer_first" else -1]

    def is_solved(self, problem: dict[str, Any], completion: str) -> bool:
        """Whether the answer in a decoded completion is the problem's; the reasoning is not looked at."""
        return self.answer_of(strip_special(completion)) == problem["answer"]

    def is_sound(self, problem: dict[str, Any], completion: str) -> bool:
        """Whether answer and reasoning are those of the problem, every token of them."""
        return strip_special(completion) == self.format(problem)["completion"]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See [`answer_first_tokenizer`]."""
        return answer_first_tokenizer()


def strip_special(text: str) -> str:
    """A decoded text without special tokens and with single spaces."""
    return " ".join(token for token in text.split() if token not in SPECIAL)


SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def answer_first_tokenizer() -> PreTrainedTokenizerFast:
    """
    A tokenizer for all kinds whose tokens are whole numbers, signs and words, separated by spaces, with BART's special
    tokens in BART's places: `<s> 3 + 5 </s>`.
    """
    tokens = [*SPECIAL, *OPERATORS, "=", "(", ")", SEPARATOR, *CYCLE, *map(str, range(SMALLEST, LARGEST + 1))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, vocabulary[token]) for token in ("<s>", "</s>")]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **ends,
        **{f"{name}_token": f"<{name}>" for name in ("pad", "unk", "mask")},
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )
