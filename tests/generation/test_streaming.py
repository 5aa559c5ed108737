"""What a streamer is told of a run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hf_latent import LladaForMaskedDiffusion


class Recorder:
    """Keeps what `put_progress` lends, as copies."""

    def __init__(self) -> None:
        self.frames: list[tuple[torch.Tensor, ...]] = []
        self.order: list[str] = []

    def put_progress(self, progress) -> None:
        self.order.append("progress")
        self.frames.append(tuple(x.clone() for x in (progress.ids, progress.candidate, progress.confidence)))

    def put(self, value: torch.Tensor) -> None:
        self.order.append("put")

    def put_draft(self, value: torch.Tensor) -> None:
        self.order.append("draft")

    def end(self) -> None:
        self.order.append("end")


@pytest.fixture
def tiny(make_llada: Callable) -> LladaForMaskedDiffusion:
    special = {"mask_token_id": 10, "eos_token_id": None, "pad_token_id": None}
    return make_llada(vocab_size=11, intermediate_size=16, num_hidden_layers=1, **special)


def test_a_streamer_that_takes_progress_sees_every_forward_with_its_candidates(tiny: LladaForMaskedDiffusion):
    """A page that shows candidates live would show those of the forward before, or miss the last."""
    recorder = Recorder()
    output = tiny.generate(
        torch.tensor([[1, 2, 3]]),
        max_new_tokens=6,
        block_length=3,
        streamer=recorder,
        output_history=True,
        return_dict_in_generate=True,
    )
    histories = zip(output.history, output.candidate_history, output.confidence_history, strict=True)
    for seen, kept in zip(recorder.frames, histories, strict=True):
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(seen, kept, strict=True))
    # The prompt, then progress before what is drawn from it: two drafts and a final block, twice.
    assert recorder.order == ["put", *(["progress", "draft"] * 2 + ["progress", "put"]) * 2, "end"]


class Collect:
    """A streamer without drafts: all that `put` gives it, in order."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        assert not self.ended
        self.ids += value.flatten().tolist()

    def end(self) -> None:
        self.ended += 1


PROMPT = torch.tensor([[1, 2, 3]])
HOLES = torch.tensor([[46, 1, 47, 47, 2, 47, 3, 47, 46]])
VALID = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 0]])
ANSWER = torch.tensor([[0, 0, 0, 0, 0, 1, 0, 1, 0]])
STREAMED: dict[str, dict[str, Any]] = {
    "one block": {"inputs": PROMPT, "max_new_tokens": 16},
    "blocks": {"inputs": PROMPT, "max_new_tokens": 16, "block_length": 4},
    "appended blocks": {"inputs": PROMPT, "max_new_tokens": 16, "block_length": 4, "append_blocks": True},
    "a last block cut short": {"inputs": PROMPT, "max_new_tokens": 10, "block_length": 4, "append_blocks": True},
    "refined": {"inputs": PROMPT, "max_new_tokens": 16, "block_length": 4, "latent_refinement": True},
    "cached": {"inputs": PROMPT, "max_new_tokens": 16, "block_length": 4, "block_cache": "dual"},
    "padded": {"inputs": torch.tensor([[46, 1, 2, 46]]), "max_new_tokens": 8, "block_length": 3},
    "an answer": {"inputs": HOLES, "attention_mask": VALID, "answer_mask": ANSWER},
    "early exit": {"inputs": HOLES, "attention_mask": VALID, "answer_mask": ANSWER, "early_exit_threshold": 99.0},
}


@pytest.mark.parametrize("decoding", ["low_confidence", "left_to_right", "med"])
@pytest.mark.parametrize("case", STREAMED)
def test_a_streamer_gets_exactly_what_is_returned(llada: Any, case: str, decoding: str) -> None:
    """Where a row ended early among appended blocks, the blocks that never were came, too."""
    knobs = STREAMED[case] | {"decoding": decoding, "pad_token_id": 46}
    free = llada.generate(**knobs, eos_token_id=None)[0].tolist()
    written = [token for token in free[3:] if token != 46]
    for end in (None, written[1], written[-2], written[-1]):
        streamer = Collect()
        out = llada.generate(**knobs, eos_token_id=end, streamer=streamer)
        assert streamer.ids == out[0].tolist() and streamer.ended == 1


def test_infilling_and_semi_causal_models_stream_what_they_return(llada: Any, make_latent_token: Callable) -> None:
    streamer = Collect()
    out = llada.infill(HOLES, attention_mask=VALID, block_length=2, streamer=streamer)
    assert streamer.ids == out[0].tolist()
    model = make_latent_token("any")
    free = model.generate(PROMPT, max_new_tokens=12, eos_token_id=None)[0].tolist()
    for append in (False, True):
        for end in (None, *free[3:]):
            streamer = Collect()
            knobs = {"max_new_tokens": 12, "block_length": 4, "append_blocks": append, "eos_token_id": end}
            out = model.generate(PROMPT, streamer=streamer, **knobs)
            assert streamer.ids == out[0].tolist()


@pytest.mark.parametrize("speculative", [False, True])
def test_a_causal_model_streams_what_it_returns(make_latent_token: Callable, speculative: bool) -> None:
    model = make_latent_token("left_to_right")
    free = model.generate(PROMPT, max_new_tokens=9, eos_token_id=None, num_latent_tokens=2)[0].tolist()
    for end in (None, *free[3:]):
        streamer = Collect()
        knobs = {"max_new_tokens": 9, "eos_token_id": end, "num_latent_tokens": 3, "self_speculative": speculative}
        out = model.generate(PROMPT, streamer=streamer, **knobs)
        assert streamer.ids == out[0].tolist() and streamer.ended == 1
