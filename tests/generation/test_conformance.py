"""Every recorded generation of the reference implementations that our decoders cover, through `generate`'s knobs."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

FOLDERS = ("llada-tiny", "llada-tiny-gqa", "dream-tiny")
DREAM_RULES = {"maskgit_plus": "low_confidence", "topk_margin": "margin", "entropy": "entropy"}
# In the ids of cases that are not compared, and why.
NOT_COVERED = {
    "fast-block": "Dream's cached reference takes each block's first token from the full forward, as its window lacks "
    "the state before it; ours has it",
    "seeded": "needs the very draws of torch's generator, in the reference's order",
}
# The cached reference runs a second forward in a block that its first has completed: nothing is left to commit.
WASTEFUL = ("fast-prefix-thr0.15-16-4", "fast-dual-thr0.15-16-4")


def knobs_of(case: dict) -> dict[str, object]:
    """The reference's settings in our names."""
    settings = case["settings"]
    if case["reference"] == "official_generate":
        ours = {
            "max_new_tokens": settings["gen_length"],
            "max_denoising_steps": settings["steps"],
            "block_length": settings["block_length"],
            "decoding": settings["remasking"],
            "cfg_scale": settings["cfg_scale"],
        }
        if settings.get("logits_eos_inf"):
            ours["suppress_tokens"] = [settings["eos_token_id"]]
        if settings.get("confidence_eos_eot_inf"):
            ours["deferred_tokens"] = [settings["eos_token_id"], settings["eot_token_id"]]
        return ours
    if case["reference"] == "fast_generate":
        ours = {
            "max_new_tokens": settings["gen_length"],
            "max_denoising_steps": settings["steps"],
            "block_length": settings["block_length"],
        }
        if settings.get("threshold") is not None:
            ours |= {"decoding": "confidence_threshold", "confidence_threshold": settings["threshold"]}
        kind = case["id"].split("-")[1]
        return ours if kind == "nocache" else ours | {"block_cache": kind}
    ours = {
        "max_new_tokens": settings["max_new_tokens"],
        "max_denoising_steps": settings["steps"],
        "schedule_epsilon": settings["eps"],
        "decoding": DREAM_RULES.get(settings["alg"], settings["alg"]),
        "top_p": settings.get("top_p"),
        "top_k": settings.get("top_k"),
    }
    if settings.get("threshold") is not None:
        ours["confidence_threshold"] = settings["threshold"]
    return ours


def is_covered(case: dict) -> bool:
    return not any(word in case["id"] for word in NOT_COVERED)


def expected_calls(case: dict) -> tuple[list[list[int]], int]:
    """The call after which each position was written, and the number of calls, without those that nothing needs."""
    calls, nfe = case["commit_call"], case["nfe"]
    if not case["id"].startswith(WASTEFUL):
        return calls, nfe
    assert (nfe, sorted(set(calls[0]))) == (8, [0, 2, 4, 6])
    return [[call // 2 for call in row] for row in calls], 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_recorded_generations_are_reproduced(fixtures_dir: Path, folder: str, attention: str) -> None:
    """Token ids, the forward after which each was written, and the number of forwards."""
    model = AutoModelForCausalLM.from_pretrained(fixtures_dir / folder, attn_implementation=attention)
    cases = json.loads((fixtures_dir / folder / "expected.json").read_text())["generation"]
    covered = [case for case in cases if is_covered(case)]
    assert len(covered) >= 20
    if attention == "eager":
        covered = covered[::4]  # decodes alike; a quarter of the cases holds that
    cached = sum("prefix" in case["id"] or "dual" in case["id"] for case in covered)
    assert cached == 0 if folder == "dream-tiny" else cached >= 3
    wrong = {}
    for case in covered:
        mask = case["attention_mask"]
        out = model.generate(
            torch.tensor(case["prompt_ids"]),
            attention_mask=None if mask is None else torch.tensor(mask),
            eos_token_id=None,  # the references write on
            return_dict_in_generate=True,
            **knobs_of(case),
        )
        prompt = len(case["prompt_ids"][0])
        commit_call, nfe = expected_calls(case)
        agree = {
            "sequences": out.sequences.tolist() == case["sequences"],
            "commit_call": out.commit_step[:, prompt:].tolist() == commit_call,
            "nfe": set(out.num_forward_passes.tolist()) == {nfe},
        }
        if not all(agree.values()):
            wrong[case["id"]] = agree
    assert not wrong


@pytest.mark.parametrize("folder", FOLDERS)
def test_recorded_batches_are_reproduced_row_by_row(fixtures_dir: Path, folder: str) -> None:
    """Also those with left padding, which is cut off: padding is no part of a row."""
    model = AutoModelForCausalLM.from_pretrained(fixtures_dir / folder)
    cases = json.loads((fixtures_dir / folder / "expected.json").read_text())["generation"]
    batches = [case for case in cases if is_covered(case) and len(case["prompt_ids"]) > 1]
    padded = [case for case in batches if case["attention_mask"] and any(0 in row for row in case["attention_mask"])]
    assert padded
    for case in [*padded, batches[0]]:
        for row, prompt in enumerate(case["prompt_ids"]):
            padding = len(prompt) - sum((case["attention_mask"] or [[1] * len(prompt)] * 9)[row])
            out = model.generate(torch.tensor([prompt[padding:]]), eos_token_id=None, **knobs_of(case))
            assert out[0].tolist() == case["sequences"][row][padding:], case["id"]
