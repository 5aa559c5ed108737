"""Pictures are written, show what they are given, and leave no global state."""

import struct
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hf_latent.evaluation import DecodingResult
from hf_latent.viz import plot_accuracy_over_forwards, plot_commit_order
from hf_latent.viz.commit_order import WrittenBoard


def size_of(png: Path) -> tuple[int, int]:
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: object, **kwargs: object) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_commit_order_has_a_panel_for_each_decoder_with_digits_and_forwards(tmp_path, drawn):
    steps = [[0, 1, 2, 3], [0, 0, 1, 1], [4, 4, 4, 4], [5, 5, 5, 5]]
    board = WrittenBoard("med", ["1234", "3412", "2143", "4321"], steps, forwards=6, solved=True)
    wrong = WrittenBoard("random", ["1111", "3412", "2143", "4321"], steps, forwards=6, solved=False)
    path = plot_commit_order(["1...", "....", "....", "...1"], [board, wrong], tmp_path / "order.png")
    width, height = size_of(path)
    assert width > height > 100
    panels = [axis for axis in drawn[0].axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == ["med\n6 forwards, solved", "random\n6 forwards, wrong"]
    texts = [text.get_text().strip() for text in panels[0].texts]
    assert texts[:4] == ["[1]", "1", "2", "2"]  # a given digit and its forward, a written digit and its forward
    assert texts[-2:] == ["[1]", "6"]


def test_one_forward_only_is_drawn_without_dividing_by_zero(tmp_path):
    board = WrittenBoard("med", ["12", "21"], [[0, 0], [0, 0]], forwards=1, solved=True)
    assert size_of(plot_commit_order(["1.", ".."], [board], tmp_path / "one.png"))[0] > 100


def test_accuracy_over_forwards_groups_by_rule_and_sorts_by_forwards(tmp_path, drawn):
    def result(decoding: str, threshold: float, forwards: float, correct: int) -> DecodingResult:
        settings = {"decoding": decoding, "entropy_threshold": threshold}
        return DecodingResult(settings, correct, 10, forwards, 20 / forwards, 1.0, (True,) * correct)

    results = [result("med", 0.1, 8, 9), result("entropy", 0, 20, 10), result("med", 0.5, 2, 5)]
    size_of(plot_accuracy_over_forwards(results, tmp_path / "curve.png", "title"))
    axis = drawn[0].axes[0]
    lines = {container.get_label(): container.lines[0].get_xydata().tolist() for container in axis.containers}
    assert lines == {"med": [[2, 50], [8, 90]], "entropy": [[20, 100]]}
