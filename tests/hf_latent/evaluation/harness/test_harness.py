"""lm-evaluation-harness runs our models on tasks of a local folder: what it gets is what the model gives alone."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from hf_latent.evaluation.scoring.encoding import ScoredText, context_key, scored_pair
from hf_latent.evaluation.scoring.estimators import estimate, would_write
from hf_latent.evaluation.scoring.likelihood import log_likelihood
from hf_latent.hub import bundle

lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'hf-latent[eval]'")

from hf_latent.evaluation.harness.adapter import HfLatentLM  # noqa: E402  (needs lm-eval)

DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
GENERATE = (
    f"{DATA}task: tiny_generate\noutput_type: generate_until"
    """
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 20, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 3}}
"""
)
CHOOSE = (
    f"{DATA}task: tiny_choice\noutput_type: multiple_choice"
    """
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""
)


def request(*args, kind="loglikelihood"):
    return SimpleNamespace(args=args, request_type=kind)


@pytest.fixture
def tasks(tmp_path, puzzles):
    """A folder with two tasks, and their data: puzzles with their solutions, and a wrong choice beside each."""
    rows = []
    for puzzle in puzzles:
        solution = puzzle["completion"]
        wrong = solution[1] + solution[0] + solution[2:]
        rows.append({"question": puzzle["prompt"], "answer": solution, "choices": [solution, wrong]})
    data, folder = tmp_path / "data.jsonl", tmp_path / "tasks"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.mkdir()
    (folder / "generate.yaml").write_text(GENERATE.format(data=data))
    (folder / "choose.yaml").write_text(CHOOSE.format(data=data))
    return folder


def manager_of(tasks):
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(tasks), include_defaults=False)


def test_an_oracle_is_right_wherever_it_is(oracle, tokenizer, tasks):
    """The whole way: YAML, prompts, our generation, lm-eval's metric. Two puzzles are answered wrong on purpose."""
    lm = HfLatentLM(oracle({1, 3}), tokenizer, batch_size=2, decoding="med", entropy_threshold=0.1)
    results = lm_eval.simple_evaluate(model=lm, tasks=["tiny_generate"], task_manager=manager_of(tasks))
    assert results["results"]["tiny_generate"]["exact_match,none"] == pytest.approx(3 / 5)
    assert (lm.num_generations, lm.num_forward_passes, lm.num_committed) == (5, 5, 100)
    assert [sample["resps"] == [[sample["doc"]["answer"]]] for sample in results["samples"]["tiny_generate"]] == [
        True, False, True, False, True,
    ]  # fmt: skip
    limited = lm_eval.simple_evaluate(model=lm, tasks=["tiny_generate"], task_manager=manager_of(tasks), limit=2)
    assert limited["results"]["tiny_generate"]["exact_match,none"] == pytest.approx(1 / 2)


def test_answers_that_lm_eval_keeps_are_not_those_of_another_model_or_decoder(oracle, tokenizer, tasks, tmp_path):
    """lm-eval's cache knows an answer by its request alone: weights and decoder are ours to look at."""
    model = oracle({1, 3})
    options = {"tasks": ["tiny_generate"], "task_manager": manager_of(tasks), "use_cache": str(tmp_path / "cache")}

    def evaluate(**knobs):
        lm = HfLatentLM(model, tokenizer, batch_size=2, **{"decoding": "med", "entropy_threshold": 0.1, **knobs})
        return lm, lm_eval.simple_evaluate(model=lm, **options)["results"]["tiny_generate"]["exact_match,none"]

    first, again = evaluate(), evaluate()
    assert first[1] == again[1] == pytest.approx(3 / 5)
    assert (first[0].num_generations, again[0].num_generations) == (5, 0)
    with pytest.raises(ValueError, match=r"`use_cache` .* Changed: settings\.entropy_threshold 0\.1 -> 0\.2\. Give"):
        evaluate(entropy_threshold=0.2)
    with torch.no_grad():
        model.get_input_embeddings().weight[2, 2] += 1
    with pytest.raises(ValueError, match=r"Changed: model\.weights"):
        evaluate()


def test_choices_are_those_of_the_likelihood(sudoku_model, tokenizer, tasks, puzzles):
    lm = HfLatentLM(sudoku_model, tokenizer, batch_size=64, num_samples=8, seed=2)
    results = lm_eval.simple_evaluate(model=lm, tasks=["tiny_choice"], task_manager=manager_of(tasks))
    right = 0
    for sample in results["samples"]["tiny_choice"]:
        values = [value for value, _ in sample["filtered_resps"]]
        right += values[0] > values[1]
    assert results["results"]["tiny_choice"]["acc,none"] == pytest.approx(right / 5)


def test_loglikelihood_is_ours_with_the_greedy_text_marked(sudoku_model, tokenizer):
    lm = HfLatentLM(sudoku_model, tokenizer, num_samples=8, seed=1)
    ids = tokenizer("12")["input_ids"]
    candidates = [scored_pair(ids, [token], 0) for token in range(len(tokenizer)) if token != tokenizer.mask_token_id]
    greedy = candidates[would_write(sudoku_model, candidates).index(True)].ids[-1]
    other = 7 if greedy != 7 else 8
    (value, is_greedy), (_, is_other) = lm._loglikelihood_tokens([(("", ""), ids, [greedy]), (("", ""), ids, [other])])
    assert (is_greedy, is_other) == (True, False)
    text = ScoredText([*ids, greedy], [False, False, True], context_key(ids))
    assert value == pytest.approx(-float(estimate(sudoku_model, [text], num_samples=8, seed=1)[0].mean()), rel=1e-5)
    found = lm.loglikelihood([request("12", "34"), request("", "34")], disable_tqdm=True)
    expected = log_likelihood(sudoku_model, tokenizer, ["12", ""], ["34", "34"], num_samples=8, seed=1)
    assert [value for value, _ in found] == pytest.approx([score.value for score in expected], rel=1e-5)


def test_the_chain_is_exact_and_texts_beyond_the_window_are_scored_once(sudoku_model, tokenizer):
    """A text of 10 tokens through windows of 5: each token once, behind as much context as fits."""
    lm = HfLatentLM(sudoku_model, tokenizer, estimator="chain", max_length=6)
    text = "1234.1234="
    ids = tokenizer(text)["input_ids"]
    found = lm.loglikelihood_rolling([request(text, kind="loglikelihood_rolling"), request(text[:5])], True)
    first = ScoredText(ids[:5], [True] * 5, 0)
    second = scored_pair(ids[4:5], ids[5:], 0)
    sums = [-float(draws.sum()) for draws in estimate(sudoku_model, [first, second], estimator="chain")]
    assert found == pytest.approx([sum(sums), sums[0]], rel=1e-5)
    long = lm.loglikelihood([request("11112", "34")], disable_tqdm=True)[0][0]
    assert long == pytest.approx(lm.loglikelihood([request("1112", "34")], disable_tqdm=True)[0][0], rel=1e-5)
    with pytest.raises(ValueError, match="7 tokens, more than `max_length`"):
        lm.loglikelihood([request("1", "1234123")], disable_tqdm=True)


def test_requests_are_answered_for_themselves_in_their_order(sudoku_model, tokenizer):
    """Sampling: batches, grouping by arguments and sorting by length change nothing; repeats of a request differ."""
    options = {"until": [], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
    other = options | {"max_gen_toks": 3}
    knobs = {"suppress_tokens": [0, 1, 2], "seed": 4}
    requests = [("12", options), ("3", other), ("12", options), ("4444", options), ("1.1", other)]

    def answers(chosen, batch_size):
        lm = HfLatentLM(sudoku_model, tokenizer, batch_size=batch_size, **knobs)
        return lm.generate_until([request(*r, kind="generate_until") for r in chosen], disable_tqdm=True)

    whole = answers(requests, 5)
    assert answers(requests, 1) == whole
    assert [len(text) for text in whole] == [6, 3, 6, 6, 3]
    assert whole[0] != whole[2]
    assert answers(requests[3:], 2) == whole[3:]


def test_text_ends_at_stop_strings_and_the_requests_own_arguments_win(sudoku_model, tokenizer):
    lm = HfLatentLM(sudoku_model, tokenizer, decoding="entropy", suppress_tokens=[0, 1, 2], max_gen_toks=5)
    whole = lm.generate_until([request("12", {"until": []})], disable_tqdm=True)[0]
    assert len(whole) == 5
    cut = lm.generate_until([request("12", {"until": [whole[2]]})], disable_tqdm=True)[0]
    assert cut == whole[: whole.index(whole[2])]
    only = {"suppress_tokens": [t for t in range(len(tokenizer)) if t != 7]}
    assert lm.generate_until([request("12", {"until": [], **only})], True) == [tokenizer.decode([7]) * 5]
    ends = {"suppress_tokens": [t for t in range(len(tokenizer)) if t != tokenizer.eos_token_id]}
    assert lm.generate_until([request("", {"until": [], **ends})], True) == [""]


def test_chat_templates_are_the_tokenizers(sudoku_model, tokenizer, monkeypatch):
    template = "{% for m in messages %}{{ m['content'] }}={% endfor %}{% if add_generation_prompt %}.{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    lm = HfLatentLM(sudoku_model, tokenizer)
    messages = [{"role": "user", "content": "12"}]
    assert lm.apply_chat_template(messages) == "12=."
    assert lm.chat_template(True) == template


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decodng": "med"}, "decodng.*decoding"),
        ({"decoding": "mde"}, "'mde'"),
        ({"temperature": 0.5}, "--gen_kwargs temperature"),
        ({"batch_size": "auto"}, "'auto'"),
        ({"estimator": "exact"}, "'exact'"),
    ],
)
def test_mistakes_are_said_before_anything_runs(sudoku_model, tokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        HfLatentLM(sudoku_model, tokenizer, **arguments)


def test_a_request_longer_than_the_model_is_refused(sudoku_model, tokenizer):
    lm = HfLatentLM(sudoku_model, tokenizer, max_length=16)
    with pytest.raises(ValueError, match="16"):
        lm.generate_until([request("1", {"until": [], "max_gen_toks": 16})], disable_tqdm=True)


def test_the_harness_command_line_finds_our_model(sudoku_model, tokenizer, tasks, tmp_path, monkeypatch, capsys):
    """`python -m hf_latent.evaluation.harness`: lm-eval's own command line, our model by name, knobs in model_args."""
    from lm_eval.tasks import TaskManager

    from hf_latent.evaluation.harness.adapter import main

    folder = bundle(sudoku_model, tokenizer, tmp_path / "tiny", verify=False)
    # The index of lm-eval's own thousands of tasks takes half a minute.
    index = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, *a, **kw: index(self, *a, **{**kw, "include_defaults": False})
    )
    arguments = (
        f"harness --model_args pretrained={folder},decoding=med,entropy_threshold=0.3 --tasks {tasks}/generate.yaml"
    )
    monkeypatch.setattr(sys, "argv", [*arguments.split(), "--batch_size", "4", "--limit", "3"])
    main()
    out = capsys.readouterr().out
    assert "hf_latent" in out and "tiny_generate" in out and "exact_match" in out
