"""Word problems of two to five steps: generate, format with written-out reasoning, verify, and a word tokenizer."""

from __future__ import annotations

import hashlib
import random
import re
from typing import TYPE_CHECKING, Any

from hf_latent.tasks.drawing import progress
from hf_latent.tasks.symbols import symbol_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

__all__ = ["ArithmeticTask", "arithmetic_tokenizer", "extract_answer"]

NAMES = ("Ana", "Ben", "Carl", "Dina", "Emma", "Finn", "Gina", "Hugo", "Ida", "Jack", "Kim", "Leo")
ITEMS = ("apples", "books", "cards", "coins", "marbles", "pens", "shells", "stamps")
SMALLEST, LARGEST = 10, 99  # of whatever is counted
MAX_MISSES = 2000
FACTORS = (2, 3, 4, 5)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
# Sentences for each way a number changes; {n} number, {f} fraction, {o} another person.
STORY = {
    "+": ("On {day} {name} buys {n} more.", "On {day} {name} finds {n}.", "On {day} {name} gets {n} from {o}."),
    "-": ("On {day} {name} sells {n}.", "On {day} {name} loses {n}.", "On {day} {name} gives {n} to {o}."),
    "*": ("By {day} {name} has {n} times as many.",),
    "/": ("On {day} {name} keeps only {f}.",),
}
PEOPLE = {
    "+": ("{name} has {n} more than {o}.",),
    "-": ("{name} has {n} fewer than {o}.",),
    "*": ("{name} has {n} times as many as {o}.",),
    "/": ("{name} has {f} as many as {o}.",),
}
TEMPLATES = ("story", "boxes", "people", "together")
DELIMITER = "\nThe answer is "


class ArithmeticTask:
    """Answer a question in words by writing out one calculation after the other.

    One instance of two steps, formatted (a word, a digit or a sign is one token):

    ```
    prompt      "Finn has 17 more than Ida. Ida has 3 times as many as Leo. Leo has 16 coins. How many coins does Finn
                 have?\\n"
    completion  "Ida 16*3=48. Finn 48+17=65. So Finn has 65 coins.<eos>...<eos>\\nThe answer is 65<eos>"
    ```

    The reasoning is filled up with `<eos>` to `reasoning_length` tokens, the answer to `answer_length`, so that every
    completion is what `ReasoningTemplate(task.reasoning_length, task.answer_length, task.delimiter)` leaves open.
    There are four templates: changes to what one person has, changes to what is in boxes, comparisons of people told
    in any order, and what the last two of those have together. All that is counted lies in 10..99.

    Args:
        num_steps (`tuple[int, int]`): fewest and most calculations, within 2..5.

    Changelog: version 1, first release.
    """

    name = "arithmetic"
    version = 1
    reasoning_length = 60
    answer_length = 3
    delimiter = DELIMITER

    def __init__(self, num_steps: tuple[int, int] = (2, 5)) -> None:
        low, high = num_steps
        if not 2 <= low <= high <= 5:
            raise ValueError(f"`num_steps` must be a range within 2..5, got {num_steps!r}.")
        self.num_steps = (low, high)

    @property
    def completion_length(self) -> int:
        """Tokens of a completion: reasoning, delimiter, answer."""
        return self.reasoning_length + len(tokenize(self.delimiter)) + self.answer_length

    # Generator

    def generate(self, num_problems: int, seed: int, *, split: str = "train") -> list[dict[str, Any]]:
        """Distinct problems, the same on every platform for the same arguments.

        Args:
            num_problems (`int`): how many; `ValueError` if no new one turns up in 2000 draws.
            seed (`int`): seeds the generator; has no influence on the split a problem belongs to.
            split (`str`): "train" (9 problems in 10) or "test". The side is a function of the template and the
                calculations: no test problem is a training problem with other names, items or sentences.

        Returns:
            `list[dict]`: "question", "reasoning", "answer" (all text), "num_steps" and "template".
        """
        if split not in ("train", "test"):
            raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
        rng = random.Random(f"arithmetic {self.num_steps} {seed}")
        found: dict[str, dict[str, Any]] = {}
        misses = 0
        with progress(num_problems, "drawing word problems") as advance:
            while len(found) < num_problems:
                problem = _draw(rng, rng.randint(*self.num_steps), rng.choice(TEMPLATES))
                if problem["question"] not in found and self.split_of(problem) == split:
                    found[problem["question"]] = problem
                    misses = 0
                    advance(1)
                elif (misses := misses + 1) == MAX_MISSES:
                    raise ValueError(f"Found only {len(found)} of {num_problems} {split} problems: ask for fewer.")
        return list(found.values())

    def split_of(self, problem: dict[str, Any]) -> str:
        """ "test" for one problem in ten, else "train": a hash of its template and calculations."""
        key = " ".join([problem["template"], *re.findall(r"\d+[-+*/]\d+", problem["reasoning"])])
        return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 == 0 else "train"

    def difficulty(self, problem: dict[str, Any]) -> int:
        """Calculations of the reasoning."""
        return problem["num_steps"]

    # Formatter

    def format(self, problem: dict[str, Any]) -> dict[str, str]:
        """The prompt and the completion of a problem, without the last `<eos>`: the trainer adds it."""
        reasoning = problem["reasoning"] + "<eos>" * (self.reasoning_length - len(tokenize(problem["reasoning"])))
        answer = problem["answer"]
        answer += "<eos>" * (self.answer_length - 1 - len(tokenize(answer)))
        return {"prompt": problem["question"] + "\n", "completion": reasoning + self.delimiter + answer}

    def format_partly(self, problem: dict[str, Any], rng: random.Random) -> dict[str, str]:
        """
        As `format`, with the reasoning given up to a random place: behind an equals sign, or anywhere.

        Under random masks a result is seldom to be worked out: its operands are masked with it, or the next
        calculation repeats it. Behind what is given, it is.
        """
        texts = self.format(problem)
        tokens = tokenize(problem["reasoning"])
        ends = [i + 1 for i, token in enumerate(tokens) if token == "="]
        cut = len("".join(tokens[: rng.choice(ends) if rng.random() < 2 / 3 else rng.randrange(len(tokens))]))
        return {"prompt": texts["prompt"] + texts["completion"][:cut], "completion": texts["completion"][cut:]}

    def drill(self, rng: random.Random) -> tuple[str, str]:
        """Calculations that have nothing to do with each other, as text, and the same with `~` for their results."""
        text = hidden = ""
        for _ in range(11):
            ((a, sign, b, c),) = _chain(rng, rng.randint(SMALLEST, LARGEST), 1)
            asked = f"{rng.choice(NAMES + DAYS)} {a}{sign}{b}="
            text, hidden = f"{text}{asked}{c}. ", f"{hidden}{asked}~~. "
        return text, hidden

    def dataset(
        self, num_problems: int, seed: int, *, given_share: float = 0.0, num_drills: int = 0, **kwargs: Any
    ) -> Dataset:
        """
        `generate(num_problems, seed, **kwargs)` as a dataset with the columns of `format` and of the problems.

        Args:
            given_share: share of the problems that come with a part of their reasoning (`format_partly`).
            num_drills: rows of calculations to add, of which only the results are to be predicted (`drill`). The
                dataset then has `input_ids` and `labels` instead of texts, and is shuffled.
        """
        from datasets import Dataset

        rng = random.Random(f"arithmetic given {seed}")
        rows = []
        for problem in self.generate(num_problems, seed, **kwargs):
            is_given = rng.random() < given_share
            rows.append((self.format_partly(problem, rng) if is_given else self.format(problem)) | problem)
        if not num_drills:
            return Dataset.from_list(rows)
        tokenizer = self.tokenizer()
        tokenized = []
        for row in rows:
            prompt, completion = (tokenizer(row[name])["input_ids"] for name in ("prompt", "completion"))
            completion.append(tokenizer.eos_token_id)
            tokenized.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
        for _ in range(num_drills):
            text, hidden = self.drill(rng)
            ids = tokenizer(text)["input_ids"]
            is_result = [token == "~" for token in tokenize(hidden)]
            labels = [token if flag else -100 for token, flag in zip(ids, is_result, strict=True)]
            tokenized.append({"input_ids": ids, "labels": labels})
        rng.shuffle(tokenized)
        return Dataset.from_list(tokenized)

    # Verifier

    def is_solved(self, problem: dict[str, Any], completion: str) -> bool:
        """Whether the answer in a decoded completion is the problem's; the reasoning is not looked at."""
        return extract_answer(completion) == problem["answer"]

    def is_sound(self, completion: str) -> bool:
        """Whether every calculation in the reasoning is right and there is one."""
        steps = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", completion.partition(self.delimiter)[0])
        return bool(steps) and all(_apply(int(a), sign, int(b)) == int(c) for a, sign, b, c in steps)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See [`arithmetic_tokenizer`]."""
        return arithmetic_tokenizer()


def extract_answer(text: str) -> str | None:
    """The number behind the delimiter or, where there is none, the last number of the text."""
    before, delimiter, after = text.partition(DELIMITER)
    if delimiter:
        match = re.match(r"(\d+)", after)
        return match.group(1) if match else None
    numbers = re.findall(r"\d+", before)
    return numbers[-1] if numbers else None


def _apply(value: int, sign: str, operand: int) -> int | None:
    if sign == "/":
        return value // operand if operand and value % operand == 0 else None
    return {"+": value + operand, "-": value - operand, "*": value * operand}[sign]


def _next_operand(rng: random.Random, value: int, sign: str) -> int | None:
    """An operand for which `value` stays within 10..99, or None."""
    if sign in "*/":
        options = [f for f in FACTORS if (_apply(value, sign, f) or 0) in range(SMALLEST, LARGEST + 1)]
    else:
        room = LARGEST - value if sign == "+" else value - SMALLEST
        options = list(range(10, min(room, 50) + 1))
    return rng.choice(options) if options else None


def _chain(rng: random.Random, value: int, num_steps: int) -> list[tuple[int, str, int, int]]:
    """Calculations (value, sign, operand, result), each on the result before."""
    steps: list[tuple[int, str, int, int]] = []
    while len(steps) < num_steps:
        sign = rng.choice("++--**//")
        operand = _next_operand(rng, value, sign)
        if operand is None:
            continue
        result = _apply(value, sign, operand)
        assert result is not None
        steps.append((value, sign, operand, result))
        value = result
    return steps


def _draw(rng: random.Random, num_steps: int, template: str) -> dict[str, Any]:
    names, items = rng.sample(NAMES, 6), rng.choice(ITEMS)
    if template in ("story", "boxes"):
        question, reasoning, answer = _draw_changes(rng, num_steps, template, names, items)
    else:
        drawn = None
        while drawn is None:  # the sum of two people may be too large
            drawn = _draw_people(rng, num_steps, template, names, items)
        question, reasoning, answer = drawn
    return {
        "question": question,
        "reasoning": reasoning,
        "answer": str(answer),
        "num_steps": num_steps,
        "template": template,
    }


def _draw_changes(
    rng: random.Random, num_steps: int, template: str, names: list[str], items: str
) -> tuple[str, str, int]:
    name = names[0]
    if template == "story":
        value, first = rng.randint(SMALLEST, 50), []
        question = [f"{name} has {value} {items}."]
    else:
        boxes = rng.choice(FACTORS)
        each = rng.randint(SMALLEST, LARGEST // boxes)
        value, first = boxes * each, [("Boxes", each, "*", boxes, boxes * each)]
        question = [f"{name} has {boxes} boxes with {each} {items} each."]
    changes = _chain(rng, value, num_steps - len(first))
    steps = first + [(day, *change) for day, change in zip(DAYS, changes, strict=False)]
    for day, _, sign, operand, _ in steps[len(first) :]:
        words = {"day": day, "name": name, "n": operand, "f": FRACTIONS.get(operand), "o": rng.choice(names[1:])}
        question.append(rng.choice(STORY[sign]).format(**words))
    question.append(f"How many {items} does {name} have?")
    written = [f"{key} {a}{sign}{b}={c}." for key, a, sign, b, c in steps]
    answer = steps[-1][4]
    return " ".join(question), " ".join([*written, f"So {name} has {answer} {items}."]), answer


def _draw_people(
    rng: random.Random, num_steps: int, template: str, names: list[str], items: str
) -> tuple[str, str, int] | None:
    is_sum = template == "together"
    value = rng.randint(SMALLEST, 50)
    steps = _chain(rng, value, num_steps - is_sum)
    sentences = [f"{names[0]} has {value} {items}."]
    written = []
    for i, (a, sign, b, c) in enumerate(steps):
        sentence = rng.choice(PEOPLE[sign])
        sentences.append(sentence.format(name=names[i + 1], n=b, f=FRACTIONS.get(b), o=names[i]))
        written.append(f"{names[i + 1]} {a}{sign}{b}={c}.")
    rng.shuffle(sentences)
    last, answer = names[len(steps)], steps[-1][3]
    if not is_sum:
        sentences.append(f"How many {items} does {last} have?")
        return " ".join(sentences), " ".join([*written, f"So {last} has {answer} {items}."]), answer
    other, total = names[len(steps) - 1], steps[-1][0] + answer
    if total > LARGEST:
        return None
    sentences.append(f"How many {items} do {other} and {last} have together?")
    written.append(f"Together {steps[-1][0]}+{answer}={total}.")
    return " ".join(sentences), " ".join([*written, f"So they have {total} {items}."]), total


_TOKEN = r"[A-Za-z]+ ?|[0-9]|[^A-Za-z0-9\s] ?|\s"


def tokenize(text: str) -> list[str]:
    """Tokens of a text without special tokens."""
    return re.findall(_TOKEN, text)


def arithmetic_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are digits, words and signs, the latter two with the space behind them, and `<pad>`,
    `<eos>`, `<mask>`. It knows the words of the task and raises for any other; decoding restores a text exactly.
    """
    sentences = [s for group in (STORY, PEOPLE) for options in group.values() for s in options]
    sentences += ["boxes with each How many does do have has and So they Together Boxes The answer is"]
    words = {word for text in sentences for word in re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", "", text))}
    words |= {*NAMES, *ITEMS, *DAYS, *(word for text in FRACTIONS.values() for word in text.split())}
    # Those that a sentence may end with come without the space, too.
    ends = [*NAMES, *ITEMS, *["many", "more", "each", "have", "half", "third", "quarter", "fifth", "together"]]
    tokens = ["\n", " ", ".", ". ", "?", *"+-*/=", *"0123456789", *ends]
    tokens += [f"{word} " for word in sorted(words)]
    return symbol_tokenizer(tokens, pattern=_TOKEN, model_max_length=160)
