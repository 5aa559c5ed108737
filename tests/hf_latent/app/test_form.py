"""What visitors type becomes arguments of `generate`, or a sentence that says what is wrong with it."""

import pytest

from hf_latent.app.form import fill_blanks, read_form


def test_empty_fields_are_the_checkpoints_choice(form):
    """An empty field that became None or "" would overwrite what the checkpoint was published with."""
    assert read_form(form(temperature=" ", block_length=None)).knobs == ({"seed": 0},)


def test_a_second_decoder_differs_only_where_it_is_told_to(form):
    """Two decoders with different seeds or lengths would not be a comparison of decoders."""
    request = read_form(
        form(
            compare=True,
            max_new_tokens="20",
            temperature="0.5",
            rule_a="med",
            threshold_a="0.3",
            rule_b="confidence_threshold",
            threshold_b="0.95",
            more_b="block_cache = dual\n\nmax-tokens-per-step=2\n",
        )
    )
    shared = {"seed": 0, "max_new_tokens": 20, "temperature": 0.5}
    assert request.knobs == (
        shared | {"decoding": "med", "entropy_threshold": 0.3},
        shared
        | {
            "decoding": "confidence_threshold",
            "confidence_threshold": 0.95,
            "block_cache": "dual",
            "max_tokens_per_step": 2,
        },
    )


def test_a_threshold_that_the_rule_does_not_have_is_left_out(form):
    """The field keeps its text when a visitor changes to a rule by schedule."""
    assert read_form(form(rule_a="random", threshold_a="0.3")).knobs == ({"seed": 0, "decoding": "random"},)


def test_without_a_seed_each_run_has_another_and_both_decoders_the_same(form):
    """Odds of a chance failure: 2^-31."""
    runs = [read_form(form(seed="", compare=True)).knobs for _ in range(2)]
    assert runs[0][0]["seed"] == runs[0][1]["seed"] != runs[1][0]["seed"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": "-1"}, "`temperature` must be a number .* got -1"),
        ({"temperature": "warm"}, "`temperature` .* got 'warm'"),
        ({"block_length": "0"}, "`block_length` must be an integer of at least 1, got 0"),
        ({"max_new_tokens": "2.5"}, "`max_new_tokens` .* got 2.5"),
        ({"seed": "-3"}, "`seed` .* got -3"),
        ({"rule_a": "meed"}, "`decoding` must be one of .* got 'meed'. Did you mean 'med'"),
        ({"rule_a": "med", "threshold_a": "x"}, "`entropy_threshold` .* got 'x'"),
        ({"more_a": "entropy_treshold=1"}, "entropy_treshold.* Did you mean `entropy_threshold`"),
        ({"more_a": "just words"}, "`further knobs` takes one name=value a line, got 'just words'"),
        ({"more_a": "=3"}, "`further knobs` takes"),
        ({"compare": True, "more_b": "entropy_bound=-1"}, "`entropy_bound` .* got -1"),
        ({"prompt": ""}, "`prompt` is empty"),
        ({"mode": "sing"}, "`mode` must be one of append, infill, reason, got 'sing'"),
        ({"mode": "reason", "reasoning_length": "5"}, "`answer_length` is needed"),
        ({"mode": "reason", "reasoning_length": "5", "answer_length": "2", "delimiter": ""}, "`delimiter` is needed"),
    ],
)
def test_bad_values_are_named(form, changes, message):
    """A visitor who mistypes must learn which knob, what was given and what is allowed, before any model loads."""
    with pytest.raises(ValueError, match=message):
        read_form(form(**changes))


@pytest.mark.parametrize("name", ["custom_generate", "logits_processor", "streamer", "generation_config", "tokenizer"])
def test_arguments_that_are_no_knobs_cannot_be_typed(form, name):
    """`custom_generate=somebody/repository` would run code of that repository on the server."""
    with pytest.raises(
        ValueError, match=f"`further knobs` takes knobs of generate; `{name}` is an input or an object"
    ):
        read_form(form(more_a=f"{name}=somebody/repository"))


@pytest.mark.parametrize("name", ["output_history", "num_return_sequences"])
def test_what_the_page_needs_cannot_be_changed(form, name):
    """Without the history there is nothing to replay; two sequences cannot be streamed."""
    with pytest.raises(ValueError, match=f"`{name}` cannot be set here"):
        read_form(form(more_a=f"{name}=2"))


def test_blanks_become_masks():
    assert fill_blanks("a [[2]]b<m>[[1]] [[x]] [3]", "<m>") == "a <m><m>b<m><m> [[x]] [3]"


@pytest.mark.parametrize("text", ["[[0]]", "[[5000]]", "[[99999999]]"])
def test_a_blank_of_no_or_too_many_tokens_is_refused(text):
    """A blank of 10^8 masks would fill the memory of the server."""
    with pytest.raises(ValueError, match="`prompt` has a blank of"):
        fill_blanks(text, "<mask>")


def test_a_template_without_blanks_is_refused():
    """The loop would have nothing to write, and the streamer no first position."""
    with pytest.raises(ValueError, match=r"`prompt` has no blank to fill: write \[\[5\]\]"):
        fill_blanks("all there", "<mask>")
