"""
Draw the pictures of the concepts: `python docs/pictures/draw.py` writes the SVG files beside it.

440 units wide, so that the text can be read on a phone; on a light ground of its own, so that it can be read in the
dark.
"""

from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
WIDTH, CELL, GAP = 440, 44, 4
INK, QUIET, GROUND, LINE = "#1f2937", "#6b7280", "#f8fafc", "#cbd5e1"
GIVEN, OPEN, WRITTEN, ANSWER, PADDING, LATENT = "#e2e8f0", "#ffffff", "#bfdbfe", "#fde68a", "#f1f5f9", "#e9d5ff"


class Picture:
    """Shapes on a light ground."""

    def __init__(self, height: int, title: str) -> None:
        self.height, self.title, self.shapes = height, title, []

    def text(self, x: float, y: float, text: str, size: int = 13, color: str = INK, anchor: str = "start") -> None:
        """A line of text."""
        self.shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def cell(self, x: float, y: float, text: str, fill: str, width: float = CELL, dashed: bool = False) -> None:
        """A position of the canvas."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="28" rx="5" fill="{fill}" stroke="{LINE}"{dash}/>'
        )
        self.text(x + width / 2, y + 19, text, 12, INK if text != "?" else QUIET, "middle")

    def bar(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """A bar that stands on `y`."""
        self.shapes.append(
            f'<rect x="{x:g}" y="{y - height:g}" width="{width:g}" height="{height:g}" fill="{fill}" rx="1.5"/>'
        )

    def line(self, points: list[tuple[float, float]], color: str, width: float = 2, dash: str = "") -> None:
        """A line through points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.shapes.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"{dashed}/>')

    def row(self, y: float, cells: list[tuple[str, str]], x: float = 16) -> None:
        """Cells beside each other."""
        for index, (text, fill) in enumerate(cells):
            self.cell(x + index * (CELL + GAP), y, text, fill, dashed=text == "?")

    def save(self, name: str) -> None:
        """Write the file."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" role="img" '
        head += f'font-family="system-ui, sans-serif"><title>{escape(self.title)}</title>'
        ground = f'<rect width="{WIDTH}" height="{self.height}" rx="8" fill="{GROUND}"/>'
        body = "\n".join([head, ground, *self.shapes, "</svg>"])
        (HERE / name).write_text(body + "\n", encoding="utf-8")


def draw_canvas() -> None:
    """Two rows of a batch: padding, given tokens, positions to write."""
    picture = Picture(230, "A canvas of two rows")
    picture.text(16, 26, "before the first forward")
    picture.row(36, [("pad", PADDING), ("pad", PADDING), *((word, GIVEN) for word in ("2", "+", "3", "="))])
    picture.row(36, [("?", OPEN), ("?", OPEN)], 16 + 6 * (CELL + GAP))
    picture.row(70, [(word, GIVEN) for word in ("1", "+", "4", "+", "4", "=")])
    picture.row(70, [("?", OPEN), ("?", OPEN)], 16 + 6 * (CELL + GAP))
    picture.text(16, 126, "after a forward that wrote one token in each row")
    picture.row(136, [("pad", PADDING), ("pad", PADDING), *((word, GIVEN) for word in ("2", "+", "3", "="))])
    picture.row(136, [("5", WRITTEN), ("?", OPEN)], 16 + 6 * (CELL + GAP))
    picture.row(170, [(word, GIVEN) for word in ("1", "+", "4", "+", "4", "=")])
    picture.row(170, [("?", OPEN), (".", WRITTEN)], 16 + 6 * (CELL + GAP))
    picture.text(16, 216, "grey: given · white: open (mask token) · blue: written", 12, QUIET)
    picture.save("canvas.svg")


def draw_belief() -> None:
    """What a forward believes of three open positions, and which of them are written."""
    picture = Picture(230, "The belief at three open positions")
    picture.text(16, 26, "one forward, three open positions")
    shares = [(0.96, 0.02, 0.01, 0.01), (0.55, 0.30, 0.10, 0.05), (0.90, 0.07, 0.02, 0.01)]
    words = [("18", "20", "8", "16"), ("So", "She", "Then", "It"), (".", ",", ";", "!")]
    entropies = ("0.21 nats", "1.07 nats", "0.41 nats")
    for index, (share, word, entropy) in enumerate(zip(shares, words, entropies, strict=True)):
        x = 24 + index * 140
        for place, (value, token) in enumerate(zip(share, word, strict=True)):
            picture.bar(x + place * 28, 140, 20, max(2, 90 * value), "#60a5fa" if value == max(share) else LINE)
            picture.text(x + place * 28 + 10, 156, token, 11, QUIET, "middle")
        picture.text(x, 178, f"confidence {max(share):.2f}", 12)
        picture.text(x, 194, f"entropy {entropy}", 12)
    picture.text(16, 220, "med below 0.5 nats: the left and the right one are written", 12, QUIET)
    picture.save("belief.svg")


def draw_blocks() -> None:
    """Two blocks of four, written one after the other, several tokens in a forward."""
    picture = Picture(236, "Two blocks, written one after the other")
    written = [0, 2, 1, 1, 3, 4, 3, 4]
    words = ["12", "x", "4", "=", "48", "km", "in", "all"]
    picture.text(16, 26, "block 1")
    picture.text(16 + 4 * (CELL + GAP), 26, "block 2")
    for step in range(5):
        cells = [
            (word, ANSWER if commit == step else WRITTEN) if commit <= step else ("?", OPEN)
            for word, commit in zip(words, written, strict=True)
        ]
        picture.row(36 + step * 34, cells)
        picture.text(406, 55 + step * 34, str(step), 12, QUIET)
    picture.line([(206, 30), (206, 206)], QUIET, 1.5, "5 4")
    picture.text(16, 226, "yellow: written by this forward · numbers: commit_step", 12, QUIET)
    picture.save("blocks.svg")


def draw_early_exit() -> None:
    """The entropy of the answer over forwards, and where the reasoning is left."""
    picture = Picture(250, "Reasoning that ends when the answer is decided")
    cells = [("12", WRITTEN), ("*4", WRITTEN), ("=", WRITTEN), ("?", OPEN), ("?", OPEN)]
    picture.text(16, 26, "reasoning")
    picture.row(36, cells)
    picture.text(16 + 5 * (CELL + GAP), 26, "delimiter")
    picture.cell(16 + 5 * (CELL + GAP), 36, "answer:", GIVEN, 68)
    picture.text(332, 26, "answer")
    picture.cell(332, 36, "48", ANSWER, 68)
    picture.line([(40, 96), (40, 200), (410, 200)], QUIET, 1.5)
    curve = [(40, 104), (90, 110), (140, 118), (190, 150), (240, 178), (290, 192)]
    picture.line(curve, "#2563eb", 2.5)
    picture.line([(40, 188), (410, 188)], "#b45309", 1.5, "5 4")
    picture.text(300, 182, "early_exit_threshold", 12, "#b45309")
    picture.text(46, 92, "entropy of the answer, nats", 12, QUIET)
    picture.text(350, 216, "forwards", 12, QUIET)
    picture.text(16, 240, "below the threshold the answer is committed; the rest stays open", 12, QUIET)
    picture.save("early_exit.svg")


def draw_latent_tokens() -> None:
    """Three positions that are predicted together with the next token, and are not written."""
    picture = Picture(196, "Latent tokens")
    text = [("8>10", GIVEN), ("10>2", GIVEN)]
    picture.text(16, 26, "the text")
    picture.row(36, text)
    picture.text(16 + 2 * (CELL + GAP), 26, "next")
    picture.row(36, [("?", OPEN)], 16 + 2 * (CELL + GAP))
    picture.text(16 + 3 * (CELL + GAP), 26, "latent tokens: predicted, not written")
    picture.row(36, [("?", LATENT)] * 3, 16 + 3 * (CELL + GAP))
    center = 16 + 2 * (CELL + GAP) + CELL / 2
    for index in range(3):
        end = 16 + (3 + index) * (CELL + GAP) + CELL / 2
        picture.line([(center, 68), (center, 84 + 8 * index), (end, 84 + 8 * index), (end, 68)], "#7c3aed", 1.5)
    picture.text(16, 134, "one forward later")
    picture.row(142, [*text, ("2>3", WRITTEN)])
    picture.row(142, [("?", OPEN), *[("?", LATENT)] * 3], 16 + 3 * (CELL + GAP))
    picture.text(16, 188, "next token and latent tokens see each other: that is the look ahead", 12, QUIET)
    picture.save("latent_tokens.svg")


def draw_semi_causal() -> None:
    """Who sees whom in semi-causal attention."""
    size, names = 26, ["a", "b", "c", "?", "?", "?"]
    picture = Picture(250, "Who sees whom")
    for left, title, sees in (
        (40, "bidirectional", lambda row, column: True),
        (250, "semi-causal", lambda row, column: column <= row if row < 3 else True),
    ):
        picture.text(left, 26, title)
        for row, name in enumerate(names):
            picture.text(left - 14, 60 + row * size, name, 12, QUIET)
            picture.text(left + row * size + 13, 38, name, 12, QUIET, "middle")
            for column in range(len(names)):
                seen = sees(row, column) and not (title == "semi-causal" and row < 3 <= column)
                fill = WRITTEN if seen else OPEN
                picture.shapes.append(
                    f'<rect x="{left + column * size}" y="{44 + row * size}" width="{size - 3}" height="{size - 3}" '
                    f'rx="3" fill="{fill}" stroke="{LINE}"/>'
                )
    picture.text(16, 222, "rows see the blue columns; a, b, c were written in this order,", 12, QUIET)
    picture.text(16, 239, "the three ? are one group", 12, QUIET)
    picture.save("semi_causal.svg")


def draw_all() -> None:
    """All pictures."""
    draw_canvas()
    draw_belief()
    draw_blocks()
    draw_early_exit()
    draw_latent_tokens()
    draw_semi_causal()


if __name__ == "__main__":
    draw_all()
