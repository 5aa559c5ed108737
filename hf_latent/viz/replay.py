"""Replay of a generation: one self-contained HTML page that shows the canvas at every forward."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hf_latent.generation.output import DiffusionGenerateOutput
from hf_latent.modeling.travel import write_atomically
from hf_latent.viz.spelling import Speller

PLACEHOLDER = "__REPLAY_JSON__"
PARTS = {"replay.css": "__REPLAY_STYLE__", "replay.js": "__REPLAY_SCRIPT__"}
MOST_REPLAYS = 2
NOT_READ = -1


@dataclass(frozen=True)
class Replay:
    """
    What the page shows of one row of one run. `P` positions of the row, `S` its forwards; plain lists for JSON.

    Args:
        name: the decoder.
        settings: knobs that are worth showing, by name.
        prompt: text of the given tokens.
        num_forwards: `S`.
        start: `(P,)` ids before the first forward, masks included.
        canvas: `(S, P)` ids after every forward.
        sequence: `(P,)` ids that were returned.
        given: `(P,)` whether the position was given.
        commit_step: `(P,)` 0-based forward that wrote the position; -1 for none.
        texts: id to text, of all ids above and of the candidates.
        special_ids: those of `texts` that are special tokens.
        mask_token_id: the id that stands for nothing written yet.
        candidates: `(S, P)` token that each forward proposed; -1 where it read nothing.
        confidences: `(S, P)` probability of those in [0, 1]; None where it read nothing.
        commit_entropy: `(P,)` nats, at the forward that wrote the position.
        in_answer: `(P,)` whether the position belongs to the answer.
        tokens_per_forward, leftmost_share, leftmost_distance: see `DiffusionGenerateOutput`.
        answer_entropy: `(S,)` nats.
        exit_step: 0-based forward of an early exit; None without one.
        exit_threshold: nats, below which the answer's entropy ends the reasoning.
        reasoning, answer: text of the two parts.
        spelled: fields as the page shows them, where a character is spread over several tokens; see `Speller`.
    """

    name: str
    settings: dict[str, Any]
    prompt: str
    num_forwards: int
    start: list[int]
    canvas: list[list[int]]
    sequence: list[int]
    given: list[bool]
    commit_step: list[int]
    texts: dict[int, str]
    special_ids: list[int]
    mask_token_id: int
    candidates: list[list[int]] | None = None
    confidences: list[list[float | None]] | None = None
    commit_entropy: list[float | None] | None = None
    in_answer: list[bool] = field(default_factory=list)
    tokens_per_forward: float | None = None
    leftmost_share: float | None = None
    leftmost_distance: float | None = None
    answer_entropy: list[float | None] | None = None
    exit_step: int | None = None
    exit_threshold: float | None = None
    reasoning: str | None = None
    answer: str | None = None
    spelled: dict[str, Any] = field(default_factory=dict)


def replay_of(
    output: DiffusionGenerateOutput,
    row: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    settings: Mapping[str, Any],
    input_ids: Sequence[int] | torch.Tensor,
    attention_mask: Sequence[int] | torch.Tensor | None = None,
    answer_mask: Sequence[int] | torch.Tensor | None = None,
    mask_token_id: int | None = None,
    exit_threshold: float | None = None,
    prompt: str | None = None,
    reasoning: str | None = None,
    answer: str | None = None,
) -> Replay:
    """
    Take one row out of the output of `generate` or `infill`.

    Args:
        output (`DiffusionGenerateOutput`):
            Of a run with `return_dict_in_generate=True`. With `output_history=True` every draft is shown; without, the
            canvas is rebuilt from `commit_step` and the candidates are missing.
        row (`int`): of the batch.
        tokenizer (`PreTrainedTokenizerBase`): gives the tokens their text.
        name (`str`): of the decoder, the panel's title.
        settings (`Mapping[str, Any]`): knobs to show.
        input_ids, attention_mask (of shape `(L_in,)`): what the row was given, as it was passed; masks are open.
        answer_mask (of shape `(L_in,)`, *optional*): positions of the answer among those.
        mask_token_id (`int`, *optional*): the tokenizer's if not given.
        exit_threshold (`float`, *optional*): nats, drawn into the curve of the answer's entropy.
        prompt, reasoning, answer (`str`, *optional*):
            Texts to show beside the canvas; the prompt is by default that of the given tokens, without special ones.

    Raises:
        ValueError: for an output without `commit_step`, a row that it does not have, or an unknown mask token.
    """
    if output.sequences is None or output.commit_step is None or output.num_forward_passes is None:
        raise ValueError("`output` must be that of a run with `return_dict_in_generate=True`, got one without steps.")
    if not 0 <= row < len(output.sequences):
        raise ValueError(f"`row` must be in [0, {len(output.sequences) - 1}], got {row}.")
    mask = tokenizer.mask_token_id if mask_token_id is None else mask_token_id
    if mask is None:
        raise ValueError("`mask_token_id` must be given: the tokenizer has none.")
    num_forwards = int(output.num_forward_passes[row])
    begin, ids, in_answer = _given(input_ids, attention_mask, answer_mask)
    sequence = _ids(output.sequences[row])[begin:]
    num_open = len(sequence) - len(ids)
    if num_open < 0:
        raise ValueError(f"`input_ids` must not be longer than the row's {len(sequence)} tokens, got {len(ids)}.")
    start = ids + [mask] * num_open
    commit_step = _ids(output.commit_step[row])[begin:]
    if output.history is not None:
        canvas = [_ids(step[row])[begin:] for step in output.history[:num_forwards]]
    else:
        canvas = _rebuilt(start, sequence, commit_step, num_forwards)
    candidates = confidences = None
    if output.candidate_history is not None:
        candidates = [_ids(step[row])[begin:] for step in output.candidate_history[:num_forwards]]
    if output.confidence_history is not None:
        confidences = [_floats(step[row])[begin:] for step in output.confidence_history[:num_forwards]]
    used = {*start, *sequence, mask}.union(*canvas, *(candidates or [])) - {NOT_READ}
    special_ids = used & {*tokenizer.all_special_ids, mask}
    exit_step = -1 if output.exit_step is None else int(output.exit_step[row])
    speller = Speller(tokenizer, special_ids)
    replay = Replay(
        name=name,
        settings=dict(settings),
        prompt="".join(speller.texts([i for i in ids if i not in special_ids])) if prompt is None else prompt,
        num_forwards=num_forwards,
        start=start,
        canvas=canvas,
        sequence=sequence,
        given=[token != mask for token in start],
        commit_step=commit_step,
        texts={token: speller.text(token) for token in sorted(used)},
        special_ids=sorted(special_ids),
        mask_token_id=mask,
        candidates=candidates,
        confidences=confidences,
        commit_entropy=None if output.commit_entropy is None else _floats(output.commit_entropy[row])[begin:],
        in_answer=in_answer + [False] * num_open,
        tokens_per_forward=_number(output.tokens_per_forward, row),
        leftmost_share=_number(output.leftmost_share, row),
        leftmost_distance=_number(output.leftmost_distance, row),
        answer_entropy=None if output.answer_entropy is None else _floats(output.answer_entropy[row])[:num_forwards],
        exit_step=None if exit_step < 0 else exit_step,
        exit_threshold=exit_threshold,
        reasoning=reasoning,
        answer=answer,
    )
    if any(speller.is_piece(token) for token in used - special_ids):
        replay = replace(replay, spelled=_spelled(replay, speller))
    return replay


def write_replay(replays: Sequence[Replay], path: str | Path, title: str) -> Path:
    """
    Write one page that replays one decoder, or two side by side.

    The page needs nothing but itself and asks nothing of the network. For scripts it has `window.replay`, with
    `goTo(k)`, `play()`, `pause()`, `current` and `length`: `k` is a 0-based forward as in `commit_step`, -1 the canvas
    before the first, and `length` the most forwards of a decoder.

    Args:
        replays (`Sequence[Replay]`): one or two.
        path (`str` or `Path`): of the page; its folder is made, an earlier file replaced in one step.
        title (`str`): heading, usually the model's name.

    Raises:
        ValueError: for another number of replays.
    """
    if not 1 <= len(replays) <= MOST_REPLAYS:
        raise ValueError(f"`replays` must be 1 or {MOST_REPLAYS} of them, got {len(replays)}.")
    shown = [{**vars(replay), **replay.spelled, "spelled": {}} for replay in replays]
    content = {"title": title, "replays": shown}
    # The parser of HTML ends a script at `</script`, wherever it stands; JSON knows no other meaning of `<`.
    text = json.dumps(content, allow_nan=False, default=str, separators=(",", ":")).replace("<", "\\u003c")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The run comes last: what it holds is text of somebody, and no part of the page.
    write_atomically(path, empty_page().replace(PLACEHOLDER, text))
    return path


def empty_page() -> str:
    """The page without a run: its markup, with its style and its script put in."""
    files = resources.files("hf_latent.viz")
    page = files.joinpath("replay.html").read_text(encoding="utf-8")
    for name, placeholder in PARTS.items():
        page = page.replace(f"{placeholder}\n", files.joinpath(name).read_text(encoding="utf-8"))
    return page


def _given(
    input_ids: Sequence[int] | torch.Tensor,
    attention_mask: Sequence[int] | torch.Tensor | None,
    answer_mask: Sequence[int] | torch.Tensor | None,
) -> tuple[int, list[int], list[bool]]:
    """Padding on the left, and ids and answer flags of the tokens that are not padding."""
    ids = _ids(input_ids)
    valid = [1] * len(ids) if attention_mask is None else _ids(attention_mask)
    flags = [0] * len(ids) if answer_mask is None else _ids(answer_mask)
    begin = valid.index(1) if 1 in valid else 0
    kept = [i for i, keep in enumerate(valid) if keep]
    return begin, [ids[i] for i in kept], [bool(flags[i]) for i in kept]


def _rebuilt(start: list[int], sequence: list[int], commit_step: list[int], num_forwards: int) -> list[list[int]]:
    """The canvas after every forward, from what was committed when; what nobody committed appears at the end."""
    canvas = [
        [
            token if 0 <= step <= k else open_token
            for open_token, token, step in zip(start, sequence, commit_step, strict=True)
        ]
        for k in range(num_forwards)
    ]
    return [*canvas[:-1], sequence] if canvas else []


def _spelled(replay: Replay, speller: Speller) -> dict[str, Any]:
    """
    What the page shows in the place of the ids, where a character is spread over several: the id of a position whose
    text is not that of its token is one of its own, behind all others.
    """
    texts = dict(replay.texts)
    known: dict[Any, Any] = {}

    def shown(ids: Sequence[int]) -> list[int]:
        found = []
        for token, text in zip(ids, speller.texts(ids), strict=True):
            if token >= 0 and text != texts[token]:
                token = known.setdefault((token, text), max(replay.texts) + 1 + len(known))
                texts[token] = text
            found.append(token)
        return found

    candidates = replay.candidates
    if candidates is not None:
        # A proposal is read beside what is written around it.
        before = [replay.start, *replay.canvas[:-1]]
        beside = [
            [new if new != NOT_READ else old for new, old in zip(row, canvas, strict=True)]
            for row, canvas in zip(candidates, before, strict=True)
        ]
        candidates = [
            [one if new != NOT_READ else NOT_READ for new, one in zip(row, shown(whole), strict=True)]
            for row, whole in zip(candidates, beside, strict=True)
        ]
    return {
        "start": shown(replay.start),
        "canvas": [shown(canvas) for canvas in replay.canvas],
        "sequence": shown(replay.sequence),
        "candidates": candidates,
        "texts": texts,
    }


def _ids(values: Sequence[int] | torch.Tensor) -> list[int]:
    return [int(value) for value in (values.tolist() if isinstance(values, torch.Tensor) else values)]


def _floats(values: torch.Tensor) -> list[float | None]:
    """Rounded to what can be seen, None for what is not a number: JSON has no nan."""
    return [round(value, 5) if math.isfinite(value) else None for value in values.tolist()]


def _number(values: torch.Tensor | None, row: int) -> float | None:
    return None if values is None else _floats(values[row : row + 1])[0]


__all__ = ["Replay", "replay_of", "write_replay"]
