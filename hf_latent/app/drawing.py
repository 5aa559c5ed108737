"""Panels of the page as HTML: canvas, numbers, curve. Every text of a model or visitor is escaped."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_latent.app.stepwise_generation import Snapshot

Spell = Callable[[Sequence[int]], Sequence[str]]
SIGNS = str.maketrans({" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥"})
WIDTH, HEIGHT = 420, 120
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 20, 22


def draw_panel(
    name: str,
    settings: Mapping[str, Any],
    snapshot: Snapshot | None,
    text_of: Callable[[int], str],
    *,
    mask_token_id: int | None,
    special_ids: frozenset[int] = frozenset(),
    given: Sequence[bool] = (),
    largest: float | None = None,
    output: str | None = None,
    solved: bool | None = None,
    spell: Spell | None = None,
    note: str = "",
) -> str:
    """
    One decoder's panel.

    Args:
        name: of the decoder, the heading.
        settings: knobs to show.
        snapshot: None before the run.
        text_of: id to text.
        mask_token_id, special_ids: how a position that is open, or holds no text, is told.
        given: `(P,)` whether the position was given; what lies behind its end was not.
        largest: nats, top of the curve's scale, for two curves to share it; the curve's own if None.
        output: the text written, once it is known.
        solved: whether a puzzle's answer is right, once it is known.
        spell: ids of all positions to the text of each, in the place of `text_of`: a character may be spread over
            several tokens (see [`~hf_latent.viz.spelling.Speller`]).
        note: what to do, where the run has not begun; it is said in the place of numbers.
    """
    head = f"<header><h3>{html.escape(name)}</h3>{draw_verdict(solved)}{draw_knobs(settings)}</header>"
    if snapshot is None:
        return f'<section class="hl-panel" data-state="waiting">{head}{draw_note(note or "waiting")}</section>'
    flags = [*given, *[False] * (len(snapshot.ids) - len(given))]
    spell = spell or (lambda ids: [text_of(i) if i >= 0 else "" for i in ids])
    if note:
        body = draw_note(note) + draw_canvas(snapshot, flags, spell, mask_token_id, special_ids)
        return f'<section class="hl-panel" data-state="waiting">{head}{body}</section>'
    state = "running" if snapshot.replay is None else "done"
    body = draw_numbers(snapshot) + draw_progress(snapshot, flags)
    body += draw_canvas(snapshot, flags, spell, mask_token_id, special_ids)
    body += draw_entropy(snapshot, largest)
    if output is not None:
        body += f'<div class="hl-output"><h4>Text</h4><pre tabindex="0">{html.escape(output)}</pre></div>'
    return f'<section class="hl-panel" data-state="{state}">{head}{body}</section>'


def draw_note(note: str) -> str:
    """A line in a panel."""
    return f'<p class="hl-note">{html.escape(note)}</p>'


def draw_knobs(settings: Mapping[str, Any]) -> str:
    """Knobs as a list of chips."""
    items = "".join(f"<li>{html.escape(f'{key} = {value}')}</li>" for key, value in settings.items())
    return f'<ul class="hl-knobs">{items}</ul>'


def draw_verdict(solved: bool | None) -> str:
    """Whether the puzzle is solved, in words too: colour alone is not seen by everybody."""
    if solved is None:
        return ""
    return f'<b class="hl-verdict" data-solved="{str(solved).lower()}">{"✓ solved" if solved else "✗ wrong"}</b>'


def draw_numbers(snapshot: Snapshot) -> str:
    """Forwards, tokens a forward, seconds."""
    written = sum(step >= 0 for step in snapshot.commit_step)
    pairs = {
        "forwards": str(snapshot.num_forwards),
        "tokens per forward": f"{written / max(1, snapshot.num_forwards):.2f}",
        "tokens": str(written),
        "seconds": f"{snapshot.seconds:.2f}",
    }
    items = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in pairs.items())
    return f'<dl class="hl-numbers">{items}</dl>'


def draw_progress(snapshot: Snapshot, given: Sequence[bool]) -> str:
    """A bar of what is written, full at the end."""
    to_write = max(1, sum(not flag for flag in given))
    written = sum(step >= 0 for step in snapshot.commit_step)
    share = 1.0 if snapshot.replay is not None else written / to_write
    return f'<div class="hl-bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></div>'


def draw_canvas(
    snapshot: Snapshot,
    given: Sequence[bool],
    spell: Spell,
    mask_token_id: int | None,
    special_ids: frozenset[int],
) -> str:
    """One box a token: given, open with its candidate, written now, written before."""
    last = max(1, snapshot.num_forwards - 1)
    first_open = list(given).index(False) if False in given else len(given)
    parts: tuple[list[str], list[str]] = ([], [])
    boxes: list[tuple[str, int, str]] = []  # state, what is shown, and what is said about it
    for position, token in enumerate(snapshot.ids):
        step, confidence = snapshot.commit_step[position], snapshot.confidence[position]
        is_open = token == mask_token_id and step < 0 and snapshot.replay is None
        if given[position]:
            state, shown, hint = "given", token, "given"
        elif is_open:
            state, shown, hint = "open", snapshot.candidate[position], "open"
        elif step < 0:
            # Padding behind a row's end, or what an early exit left open.
            state, shown, hint = "filled", -1, "left open"
        else:
            is_new = snapshot.replay is None and step == snapshot.num_forwards - 1
            state, shown, hint = "now" if is_new else "written", token, f"written at forward {step + 1}"
        if confidence is not None and not given[position]:
            hint += f", confidence {confidence:.3f}"
        if state in ("now", "written") and position < len(snapshot.commit_entropy):
            entropy = snapshot.commit_entropy[position]
            hint += "" if entropy is None else f", entropy {entropy:.3f} nats"
        boxes.append((state, shown, hint))
    texts = spell([shown for _, shown, _ in boxes])
    for position, ((state, shown, hint), spelled) in enumerate(zip(boxes, texts, strict=True)):
        step, confidence = snapshot.commit_step[position], snapshot.confidence[position]
        text = "·" if shown < 0 else spelled
        style = f"--c:{confidence or 0:.3f};--o:{max(0, step) / last:.3f}"
        special = " data-special" if shown in special_ids else ""
        box = f'<span class="hl-token" data-state="{state}"{special} style="{style}" title="{html.escape(hint)}">'
        box += f"{html.escape(text.translate(SIGNS))}</span>"
        # Lines end where the text's do, once it is there.
        parts[position >= first_open].append(box + ("<br>" if text.endswith(("\n", "\r")) else ""))
    groups = "".join(f"<div>{''.join(part)}</div>" for part in parts if part)
    return f'<div class="hl-canvas" role="group" aria-label="Tokens">{groups}</div>'


def entropy_curve(snapshot: Snapshot) -> tuple[str, list[float | None]]:
    """What is drawn over the forwards, and its name: the answer's entropy or, without an answer, that of what each
    forward wrote."""
    if snapshot.answer_entropy is not None:
        return "Entropy of the answer, nats", snapshot.answer_entropy
    sums: list[list[float]] = [[] for _ in range(snapshot.num_forwards)]
    for step, entropy in zip(snapshot.commit_step, snapshot.commit_entropy, strict=False):
        if 0 <= step < len(sums) and entropy is not None:
            sums[step].append(entropy)
    return "Mean entropy of the tokens that each forward wrote, nats", [
        sum(values) / len(values) if values else None for values in sums
    ]


def largest_entropy(snapshots: Sequence[Snapshot | None]) -> float:
    """The highest point of all curves."""
    values = [entropy_curve(snapshot)[1] for snapshot in snapshots if snapshot is not None]
    return max((value for curve in values for value in curve if value is not None), default=0.0)


def draw_entropy(snapshot: Snapshot, largest: float | None) -> str:
    """The curve, as SVG that follows the page's colours."""
    name, values = entropy_curve(snapshot)
    points = [(k, value) for k, value in enumerate(values) if value is not None]
    if not points:
        return ""
    replay = snapshot.replay
    threshold = None if replay is None else replay.exit_threshold
    exit_step = None if replay is None else replay.exit_step
    top = max(largest or 0.0, threshold or 0.0, *(value for _, value in points), 1e-9) * 1.05
    last = max(1, len(values) - 1)

    def x(k: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * k / last, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top, 1)

    marks = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0)}" y2="{y(0)}"/>']
    for value in (0.0, top / 1.05):
        marks.append(f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:.2g}</text>')
    marks.append(f'<text x="{LEFT}" y="{HEIGHT - 5}">forward 1</text>')
    if len(values) > 1:
        marks.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{len(values)}</text>')
    if threshold is not None:
        marks.append(f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(threshold)}" y2="{y(threshold)}"/>')
    line = " ".join(f"{x(k)},{y(value)}" for k, value in points)
    marks.append(f'<polyline points="{line}"/>')
    if len(points) < 60:
        marks += [f'<circle cx="{x(k)}" cy="{y(value)}" r="2.5"/>' for k, value in points]
    if exit_step is not None:
        anchor = "end" if exit_step > last / 2 else "start"
        marks.append(f'<line class="exit" x1="{x(exit_step)}" x2="{x(exit_step)}" y1="{TOP}" y2="{y(0)}"/>')
        label = f"exit at forward {exit_step + 1}"
        marks.append(f'<text class="exit" x="{x(exit_step)}" y="{TOP - 6}" text-anchor="{anchor}">{label}</text>')
    label = f"{name}, {points[-1][1]:.3g} at forward {points[-1][0] + 1}"
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(marks)}</svg>'
    return f'<div class="hl-curve"><h4>{name}</h4>{svg}</div>'


def draw_message(text: str, kind: str = "error") -> str:
    """A line for the visitor: `error` or `note`; nothing for an empty text."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="hl-message" data-kind="{kind}" role="{role}">{html.escape(text)}</p>' if text else ""


def draw_replay(page: str) -> str:
    """The page of `write_replay` in a frame that may run its script and nothing else."""
    return (
        '<iframe class="hl-replay" title="Replay, forward by forward" sandbox="allow-scripts" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )


__all__ = [
    "draw_canvas",
    "draw_entropy",
    "draw_message",
    "draw_panel",
    "draw_replay",
    "entropy_curve",
    "largest_entropy",
]
