"""Prompts are laid out, answered and read as asked, each for itself."""

import dataclasses
import warnings

import pytest

from hf_latent import ReasoningTemplate
from hf_latent.evaluation.solving.solving import Layout, cut, solve

CHAT = "{% for m in messages %}{{ m['content'] }}={% endfor %}{% if add_generation_prompt %}.{% endif %}"


def texts_of(model, tokenizer, prompts, layout, **kwargs):
    return [
        s.text for batch in solve(model, tokenizer, prompts, lambda n, t: True, layout=layout, **kwargs) for s in batch
    ]


def test_what_is_written_does_not_depend_on_the_batch(sudoku_model, tokenizer):
    """Noise by the place in the batch would give the third prompt other numbers in batches of 2 than in one of 5."""
    prompts = ["1..4", "2", "4", "33.", "4=4"]
    knobs = {"decoding": "random", "temperature": 1.0, "seed": 3, "eos_token_id": None}
    layout = Layout(max_new_tokens=8)
    together = texts_of(sudoku_model, tokenizer, prompts, layout, batch_size=5, **knobs)
    assert len(set(together)) == 5
    assert texts_of(sudoku_model, tokenizer, prompts, layout, batch_size=2, **knobs) == together
    shared = texts_of(sudoku_model, tokenizer, prompts[3:], layout, row_indices=[3, 4], **knobs)
    assert shared == together[3:]
    assert texts_of(sudoku_model, tokenizer, prompts[3:], layout, **knobs) != together[3:]


def test_the_judge_is_asked_about_each_prompt_by_its_number(sudoku_model, tokenizer):
    asked = []
    batches = solve(
        sudoku_model,
        tokenizer,
        ["1", "2", "3"],
        lambda number, text: asked.append(number) or number == 1,
        layout=Layout(max_new_tokens=4),
        batch_size=2,
    )
    solved = [s for batch in batches for s in batch]
    assert asked == [0, 1, 2]
    assert [s.correct for s in solved] == [False, True, False]
    for s in solved:
        assert (s.forwards, s.tokens, s.exited, s.refinement_forwards) == (4, 4, False, 0)
        assert s.seconds > 0
    assert solved[0].seconds == solved[1].seconds, "a share of the same batch"


def test_a_template_gives_its_answer_and_a_whole_completion_has_its_special_tokens(sudoku_model, tokenizer):
    template = ReasoningTemplate(reasoning_length=3, answer_length=2, delimiter="=")
    knobs = {"suppress_tokens": [0, 1, 2, 3, 4, 5]}
    answers = texts_of(sudoku_model, tokenizer, ["1.", "2"], Layout(template), **knobs)
    wholes = texts_of(sudoku_model, tokenizer, ["1.", "2"], Layout(template, completion_length=6), **knobs)
    for answer, whole in zip(answers, wholes, strict=True):
        assert len(whole) == 6 and whole[3] == "="
        assert whole[4:] == answer
    only_eos = {"suppress_tokens": [t for t in range(len(tokenizer)) if t != tokenizer.eos_token_id]}
    assert texts_of(sudoku_model, tokenizer, ["1"], Layout(max_new_tokens=2), **only_eos) == [""]
    assert texts_of(sudoku_model, tokenizer, ["1"], Layout(max_new_tokens=2, completion_length=2), **only_eos)[
        0
    ].startswith("<eos>")


def test_chat_prompts_go_through_the_chat_template(sudoku_model, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    layout = Layout(max_new_tokens=1, chat=True)
    messages = [{"role": "user", "content": "12"}]
    for prompts in (["12"], [messages]):
        ids = layout.encode(sudoku_model, tokenizer, prompts)["input_ids"]
        assert tokenizer.decode(ids[0]) == "12=."
    assert tokenizer.decode(Layout().encode(sudoku_model, tokenizer, [messages])["input_ids"][0]) == "12=."
    assert tokenizer.decode(Layout().encode(sudoku_model, tokenizer, ["12"])["input_ids"][0]) == "12"


def test_text_ends_at_the_first_stop():
    assert cut("a. b; c", (";", ".")) == "a"
    assert cut("abc", (";", "")) == "abc"


def test_what_was_written_is_cut_at_a_stop(sudoku_model, tokenizer):
    knobs = {"suppress_tokens": [0, 1, 2, 3, 4, 5], "eos_token_id": None}
    whole = texts_of(sudoku_model, tokenizer, ["12"], Layout(max_new_tokens=6), **knobs)[0]
    layout = dataclasses.replace(Layout(max_new_tokens=6), stop=(whole[2],))
    assert texts_of(sudoku_model, tokenizer, ["12"], layout, **knobs) == [whole[: whole.index(whole[2])]]


def test_an_unknown_knob_is_refused(sudoku_model, tokenizer):
    with pytest.raises(ValueError, match="entropy_treshold"):
        texts_of(sudoku_model, tokenizer, ["1"], Layout(max_new_tokens=2), entropy_treshold=1)


def test_a_model_that_says_no_length_writes_as_much_as_a_denoising_loop(make_latent_token, make_words):
    """transformers would stop after 20 tokens, and warn; a checkpoint that says how much is taken at its word."""
    model, words = make_latent_token("left_to_right", max_position_embeddings=256), make_words(61)
    model.generation_config.eos_token_id = None

    def written(**knobs):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            ((solved,),) = solve(model, words, ["w1 w2"], lambda number, text: True, layout=Layout(), **knobs)
        return solved.tokens

    assert written() == 128
    assert written(max_new_tokens=3) == 3
    model.generation_config.max_new_tokens = 5
    assert written() == 5
