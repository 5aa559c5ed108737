"""What a streamer is told of a run."""

import torch

from hf_latent import LladaConfig, LladaForMaskedDiffusion


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


def tiny() -> LladaForMaskedDiffusion:
    torch.manual_seed(0)
    config = LladaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        mask_token_id=10,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LladaForMaskedDiffusion(config).eval()


def test_a_streamer_that_takes_progress_sees_every_forward_with_its_candidates():
    """A page that shows candidates live would show those of the forward before, or miss the last."""
    recorder = Recorder()
    output = tiny().generate(
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
