"""Whatever evaluates leaves dropout off and gives every module its own mode back, also after an exception."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForCausalLM

from hf_latent import ReasoningTemplate
from hf_latent.data import sample_posterior_traces, score_traces
from hf_latent.evaluation import evaluate_likelihood, log_likelihood, solve_puzzles
from hf_latent.evaluation.scoring.encoding import ScoredText
from hf_latent.evaluation.scoring.estimators import estimate, would_write
from hf_latent.modeling.mode import evaluation_mode
from hf_latent.tasks import SudokuTask
from hf_latent.viz.recording import run_once

TEMPLATE = ReasoningTemplate(4, 3, "\n")


class NoisyHead(nn.Module):
    """A head behind dropout; tells in which mode it is asked."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.dropout, self.seen = head, nn.Dropout(0.9), []

    @property
    def weight(self):
        return self.head.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.training or self.dropout.training)
        return self.head(self.dropout(states))


@pytest.fixture
def mixed(sudoku_model):
    """In training, but for one layer that was frozen in evaluation mode."""
    sudoku_model.lm_head = NoisyHead(sudoku_model.lm_head)
    sudoku_model.train()
    sudoku_model.model.layers[0].eval()
    return sudoku_model


def modes(model):
    return [module.training for module in model.modules()]


def harness(model, tokenizer):
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'hf-latent[eval]'")
    from hf_latent.evaluation.harness.adapter import HfLatentLM

    lm = HfLatentLM(model, tokenizer, num_samples=4, batch_size=2)
    written = lm.generate_until([SimpleNamespace(args=("12", {"until": ["x"], "max_gen_toks": 4}))], disable_tqdm=True)
    return written, lm.loglikelihood([SimpleNamespace(args=("12", "34"))], disable_tqdm=True)


def solved(model, tokenizer, puzzles):
    result = solve_puzzles(model, tokenizer, SudokuTask(4), puzzles[:2], seed=0, max_denoising_steps=4)
    return result.correct, result.forwards_per_example


def recorded(model, tokenizer, puzzles):
    return run_once(model, tokenizer, puzzles[0]["prompt"], {"max_new_tokens": 4}, parts={}, infill=False, chat=False)


TRACES = {"num_cuts": 2, "batch_size": 2}
EVALUATIONS = {
    "harness": lambda m, t, p: harness(m, t),
    "solve_puzzles": solved,
    "evaluate_likelihood": lambda m, t, p: evaluate_likelihood(m, [{"text": "1234"}], t, num_samples=4).nats_per_token,
    "log_likelihood": lambda m, t, p: log_likelihood(m, t, ["1"], ["23"], num_samples=4),
    "estimate": lambda m, t, p: estimate(m, [ScoredText([5, 6], [True, True], 0)], num_samples=4)[0].tolist(),
    "would_write": lambda m, t, p: would_write(m, [ScoredText([5, 6], [True, True], 0)]),
    "score_traces": lambda m, t, p: score_traces(m, t, ["1"], ["2"], ["3"], TEMPLATE, **TRACES),
    "sample_posterior_traces": lambda m, t, p: sample_posterior_traces(
        m, t, ["1"], ["3"], TEMPLATE, **TRACES
    ).to_list(),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_dropout_is_off_and_every_mode_is_given_back(name, mixed, tokenizer, puzzles):
    before = modes(mixed)
    first, again = (EVALUATIONS[name](mixed, tokenizer, puzzles) for _ in range(2))
    assert mixed.lm_head.seen and not any(mixed.lm_head.seen)
    assert first == again
    assert modes(mixed) == before


@pytest.mark.parametrize("name", [*EVALUATIONS, "run_once"])
def test_weights_that_accelerate_keeps_on_disk_give_the_same(name, sudoku_model, tokenizer, puzzles, tmp_path):
    """They lie on `meta` until they run: that is where weights are, and not where inputs belong."""
    evaluate = (EVALUATIONS | {"run_once": recorded})[name]
    sudoku_model.save_pretrained(tmp_path / "model")
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map={"": "disk"}, offload_folder=str(tmp_path / "offload")
    )
    assert offloaded.device.type == "meta"
    offloaded.config.name_or_path = sudoku_model.config.name_or_path  # which is written into traces
    assert evaluate(offloaded, tokenizer, puzzles) == evaluate(sudoku_model, tokenizer, puzzles)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_modes_are_given_back_after_an_exception(name, mixed, tokenizer, puzzles):
    before = modes(mixed)
    mixed.lm_head.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError("out of memory")))
    with pytest.raises(MemoryError):
        EVALUATIONS[name](mixed, tokenizer, puzzles)
    assert modes(mixed) == before


def test_a_model_that_evaluates_already_is_left_alone(sudoku_model):
    """Nor is anything that is no module: some measures take a function for a model."""
    with evaluation_mode(sudoku_model, object(), None):
        assert not any(modes(sudoku_model))
    assert not any(modes(sudoku_model))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_without_finite_logits_is_named(sudoku_model, tokenizer, value):
    """A score of nan is neither good nor bad, and no file of results can hold it."""
    with torch.no_grad():
        sudoku_model.lm_head.weight.fill_(value)
    with pytest.raises(ValueError, match="`model` gives text 0 no finite score"):
        log_likelihood(sudoku_model, tokenizer, ["1"], ["23"], num_samples=2)
    with pytest.raises(ValueError, match="`model` gives the answer of row 0 no finite score"):
        score_traces(sudoku_model, tokenizer, ["1"], ["2"], ["3"], TEMPLATE)


def test_scores_that_are_none_filter_nothing():
    from hf_latent.data import keep_best, keep_scored, keep_top_share, separation

    traces = Dataset.from_dict({"score": [0.5, float("nan")], "question_id": [0, 0]})
    for keep in (lambda t: keep_scored(t, 0.1), lambda t: keep_top_share(t, 0.5), lambda t: keep_best(t)):
        with pytest.raises(ValueError, match="'score' of trace 1 must be a number, got nan"):
            keep(traces)
    with pytest.raises(ValueError, match="got nan at 1"):
        separation([0.5, float("nan")], [True, False])


def test_a_text_without_tokens_is_named(sudoku_model, tokenizer):
    """A small vocabulary has no token for what is unknown, and the tokenizer says neither text nor place."""
    with pytest.raises(ValueError, match=r"The text 'x' holds what the tokenizer has no token for"):
        log_likelihood(sudoku_model, tokenizer, ["1"], ["x"])
    with pytest.raises(ValueError, match=r"The prompt 'x' holds what the tokenizer has no token for"):
        log_likelihood(sudoku_model, tokenizer, ["x"], ["1"])
    with pytest.raises(ValueError, match=r"`answers`, at 0: 'x' holds what"):
        score_traces(sudoku_model, tokenizer, ["1"], ["2"], ["x"], TEMPLATE)
