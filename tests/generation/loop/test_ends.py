"""A row ends at an end-of-sequence token with nothing open before it; what is streamed hangs on where it is."""

from collections.abc import Callable

import pytest
import torch

from hf_latent.generation.beliefs.belief import Belief
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.loop.denoising import denoise
from hf_latent.generation.model_calls.predictor import ForwardRequest
from hf_latent.generation.state.canvas import Canvas, build_canvas
from hf_latent.generation.state.progress import Progress
from hf_latent.generation.state.rows import ActiveRows
from hf_latent.generation.state.settings import DenoisingSettings

EOS, PAD, MASK = 45, 46, 47


def run_script(
    tokens: list[int],
    order: list[int],
    prompt: int = 1,
    on_step: Callable | None = None,
    eos: int | None = EOS,
    block_length: int | None = None,
) -> tuple[list[int], list[int], int]:
    """Denoise one row whose masks get `tokens`, the most confident first as `order` has it, one token a forward."""
    ids = torch.tensor([[7] * prompt + [MASK] * len(tokens)])
    rank = torch.tensor([0] * prompt + [order.index(i) for i in range(len(tokens))])
    column_token = torch.tensor([7] * prompt + tokens)

    class Script:
        temperature, reads_canvas, ends_later, mask_token_id = 0.0, False, False, MASK

        def __call__(self, columns: torch.Tensor, canvas_ids: None, noise: None, offset: None) -> Belief:
            return Belief(column_token[columns], 1.0 / (1 + rank[columns]), None)

    class Columns:
        """Predicts each position's column."""

        def select_candidates(self, canvas: Canvas, rows: ActiveRows, selected: torch.Tensor) -> torch.Tensor:
            return selected

        def host_values(self, canvas: Canvas, read: torch.Tensor) -> list[torch.Tensor]:
            return []

        def __call__(self, canvas: Canvas, request: ForwardRequest) -> torch.Tensor:
            return request.indices[1]

    canvas = build_canvas(ids, torch.ones_like(ids).bool(), ids == MASK, torch.tensor([0]), block_length)
    progress = denoise(
        canvas,
        Columns(),
        Script(),
        DenoisingSettings(
            rule=RULES["low_confidence"],
            threshold=None,
            max_denoising_steps=None,
            dream_schedule=False,
            schedule_epsilon=1e-3,
            pace_to_schedule=False,
            max_tokens_per_step=None,
            seed=0,
            eos_token_ids=None if eos is None else torch.tensor([eos]),
            fill_token_id=PAD,
        ),
        on_step,
    )
    return progress.ids[0].tolist(), progress.commit_step[0].tolist(), int(progress.num_forward_passes)


def test_a_row_ends_at_an_eos_with_nothing_open_before_it() -> None:
    """It stops paying, is filled with padding, and what was written behind is taken back."""
    ids, steps, forwards = run_script([1, 2, EOS, 3, 4, 5], order=[4, 0, 1, 2, 3, 5])
    assert ids == [7, 1, 2, EOS, PAD, PAD, PAD]
    assert steps == [-1, 1, 2, 3, -1, -1, -1]
    assert forwards == 4


def test_an_eos_behind_open_positions_does_not_end_the_row() -> None:
    ids, steps, forwards = run_script([1, 2, EOS, 3], order=[2, 3, 1, 0])
    assert ids == [7, 1, 2, EOS, PAD]
    assert steps == [-1, 3, 2, 0, -1]
    assert forwards == 4


def test_the_first_of_several_eos_is_the_end() -> None:
    ids, _, forwards = run_script([EOS, 2, EOS, 3], order=[2, 0, 1, 3])
    assert ids == [7, EOS, PAD, PAD, PAD]
    assert forwards == 2


def test_an_eos_in_an_early_block_spares_the_later_ones() -> None:
    ids, _, forwards = run_script([1, EOS, 3, 4, 5, 6], order=list(range(6)), block_length=2)
    assert ids == [7, 1, EOS, PAD, PAD, PAD, PAD]
    assert forwards == 2


def test_an_eos_in_the_prompt_does_not_end_the_row() -> None:
    ids = torch.tensor([[EOS, 3, EOS]])
    canvas = build_canvas(ids, torch.ones_like(ids).bool(), ids == 3, torch.tensor([0]), None)
    assert canvas.writable.tolist() == [[False, True, False]]
    assert run_script([1, 2, 3], order=[0, 1, 2], eos=7)[0] == [7, 1, 2, 3]


def test_without_eos_the_row_is_written_to_the_end() -> None:
    ids, _, forwards = run_script([EOS, 2, EOS, 3], order=[0, 1, 2, 3], eos=None)
    assert ids == [7, EOS, 2, EOS, 3]
    assert forwards == 4


@pytest.mark.parametrize("steps", [None, 9, 24])
def test_generate_ends_with_eos_and_pays_nothing_more(make_model: Callable, steps: int | None) -> None:
    """A quarter of the vocabulary ends the text, so that rows end at different places."""
    model = make_model("llada")
    ends = list(range(0, 46, 4))
    settings = {"max_new_tokens": 9, "max_denoising_steps": steps, "decoding": "left_to_right"}
    settings["return_dict_in_generate"] = True
    rows = torch.arange(8)[:, None] + torch.tensor([[1, 9, 17]])
    written = model.generate(rows, eos_token_id=None, **settings)
    out = model.generate(rows, eos_token_id=ends, **settings)
    lengths = set()
    for row in range(len(rows)):
        answer = written.sequences[row, 3:].tolist()
        length = next((i for i, token in enumerate(answer) if token in ends), 8) + 1
        lengths.add(length)
        assert out.sequences[row, 3:].tolist() == answer[:length] + [PAD] * (9 - length)
        assert (out.commit_step[row, 3 + length :] == -1).all()
        assert out.commit_entropy[row, 3 + length :].isnan().all()
        if length < 9:
            assert out.num_forward_passes[row] == written.commit_step[row, 2 + length] + 1
        assert out.tokens_per_forward[row] * out.num_forward_passes[row] == pytest.approx(length)
    assert len(lengths) > 2, "the model is to end at several places"


def test_infill_does_not_end_early(llada: torch.nn.Module) -> None:
    """Text follows the masks: what ends a text within it is a token like others."""
    ids = torch.tensor([[1, MASK, MASK, 5, MASK, 6]])
    everything = llada.infill(ids, eos_token_id=list(range(46)))
    assert everything.tolist() == llada.infill(ids, eos_token_id=None).tolist()
    assert PAD not in everything


def test_progress_says_where_the_current_block_ends() -> None:
    """What is streamed hangs on it."""
    ends, masked = [], []

    def look(progress: Progress) -> None:
        ends.append(int(progress.current_block_end))
        masked.append(int(progress.masked.sum()))

    run_script([1, 2, 3, 4, 5], order=list(range(5)), prompt=2, on_step=look, block_length=2)
    assert ends == [4, 4, 6, 6, 7]
    assert masked == [4, 3, 2, 1, 0]
