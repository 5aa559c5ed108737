"""A model is known by what decides its output: each such thing changes its facts and is named, nothing else does."""

import contextlib
import copy
import json
import os
import threading

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_latent import LladaForMaskedDiffusion
from hf_latent.data.identity import changes, digest_weights, identify, record_or_check


def nudge(model, name):
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] += 1e-3


@pytest.fixture
def checkpoint(sudoku_model, tokenizer, tmp_path):
    sudoku_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def read(folder, **kwargs):
    return AutoModelForCausalLM.from_pretrained(folder, **kwargs).eval(), AutoTokenizer.from_pretrained(folder)


def test_a_copy_is_the_same_wherever_it_lies_and_whenever_it_was_used(checkpoint, tmp_path):
    """Nor does it matter what was tokenized or generated before, or which attention computes it."""
    model, tokenizer = read(checkpoint)
    before = identify(model, tokenizer)
    tokenizer(["1", "1234"], padding=True, truncation=True, max_length=3)
    model.generate(torch.tensor([[5, 6]]), max_new_tokens=4)
    assert identify(model, tokenizer) == before
    checkpoint.rename(tmp_path / "moved")
    assert changes(before, identify(*read(tmp_path / "moved", attn_implementation="eager"))) == []
    assert before == json.loads(json.dumps(before))


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"]
)
def test_every_value_of_every_weight_counts(checkpoint, name):
    """Also one of thousands: an adapter that trains one token's embedding changes no more."""
    model, tokenizer = read(checkpoint)
    before = identify(model, tokenizer)
    nudge(model, name)
    told = changes(before, identify(model, tokenizer))
    assert len(told) == 1
    assert told[0].startswith("weights ")


def test_settings_tokenizer_template_and_dtype_are_named(checkpoint):
    model, tokenizer = read(checkpoint)
    before = identify(model, tokenizer)

    def told(change):
        other, its_tokenizer = copy.deepcopy(model), copy.deepcopy(tokenizer)
        change(other, its_tokenizer)
        return changes(before, identify(other, its_tokenizer))

    assert told(lambda m, t: setattr(m.config, "rms_norm_eps", 0.5)) == ["config.rms_norm_eps 1e-05 -> 0.5"]
    assert told(lambda m, t: setattr(m.generation_config, "block_length", 4)) == [
        "generation_config.block_length null -> 4"
    ]
    assert [line.split()[0] for line in told(lambda m, t: t.add_tokens(["42"]))] == ["tokenizer"]
    assert told(lambda m, t: setattr(t, "chat_template", "{{ messages }}"))[0].startswith("chat_template null -> ")
    assert 'dtype "float32" -> "bfloat16"' in told(lambda m, t: m.bfloat16())


def test_versions_are_named(checkpoint):
    facts = identify(*read(checkpoint))
    older = {**facts, "versions": {**facts["versions"], "transformers": "5.0.0"}}
    assert changes(older, facts) == [f'versions.transformers "5.0.0" -> "{facts["versions"]["transformers"]}"']


def test_an_adapter_counts_merged_or_not_and_so_does_its_scale(checkpoint):
    """The scale of an adapter that is not merged is no weight."""
    peft = pytest.importorskip("peft")
    model, tokenizer = read(checkpoint)
    before = identify(model, tokenizer)
    facts = []
    for alpha in (8, 16):
        torch.manual_seed(1)
        config = peft.LoraConfig(
            r=2, lora_alpha=alpha, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False
        )
        facts.append(identify(peft.get_peft_model(copy.deepcopy(model), config), tokenizer))
    assert changes(*facts) == ["adapters.default.lora_alpha 8 -> 16"]
    merged = peft.get_peft_model(copy.deepcopy(model), config).merge_and_unload()
    assert [line.split()[0] for line in changes(before, identify(merged, tokenizer))] == ["weights"]


@pytest.mark.parametrize("device_map", [{"": "disk"}, {"model": "disk", "lm_head": "cpu"}], ids=["all", "part"])
def test_weights_on_disk_count_as_those_in_memory(checkpoint, tmp_path, device_map):
    """Offloaded ones are on no device; without their values another checkpoint would pass for this one."""
    offloaded = LladaForMaskedDiffusion.from_pretrained(
        checkpoint, device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert any(weight.is_meta for weight in offloaded.state_dict().values())
    assert digest_weights(offloaded) == digest_weights(read(checkpoint)[0])


def test_code_that_came_with_a_checkpoint_counts(run_python, checkpoint):
    """Same weights, same configuration, another `forward`."""
    script = """
import sys
import threading
from transformers import AutoModelForCausalLM
from hf_latent.data.identity import identify
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
facts = identify(model)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
assert facts["code"], facts
"""
    config = json.loads((checkpoint / "config.json").read_text())
    source = "class MineConfig(LladaConfig):\n    model_type = 'mine'\n"
    (checkpoint / "configuration_mine.py").write_text(f"from hf_latent import LladaConfig\n{source}")
    (checkpoint / "modeling_mine.py").write_text(
        "from hf_latent import LladaForMaskedDiffusion\nfrom .configuration_mine import MineConfig\n"
        "class Mine(LladaForMaskedDiffusion):\n    config_class = MineConfig\n"
    )
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.Mine"},
    }
    # By the names that its code asks for: a LLaDA's own would be missed.
    weights = {name: weight.clone() for name, weight in read(checkpoint)[0].state_dict().items()}
    (checkpoint / "config.json").write_text(json.dumps(config))
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    run_python(script, str(checkpoint))


def test_a_folder_is_kept_to_one_model(tmp_path):
    path = tmp_path / "run" / "model.json"
    record_or_check(path, {"model": {"weights": "a", "config": {"size": 1}}}, about={"path": "here"})
    record_or_check(path, {"model": {"weights": "a", "config": {"size": 1}}}, about={"path": "there"})
    with pytest.raises(
        ValueError, match=r'`output` \(.*model\.json\) .*Changed: model.weights "a" -> "b"; model.config.size 1 -> '
    ):
        record_or_check(path, {"model": {"weights": "b", "config": {"size": None}}})
    with pytest.raises(ValueError, match=r"Changed: model.config.depth nothing -> 2\."):
        record_or_check(path, {"model": {"weights": "a", "config": {"size": 1, "depth": 2}}})
    path.write_text('{"model": ')
    with pytest.raises(ValueError, match=r"model\.json cannot be read"):
        record_or_check(path, {"model": {}})
    path.write_text('{"model": "some/path"}')
    with pytest.raises(ValueError, match=r"path alone \('some/path'\)"):
        record_or_check(path, {"model": {}})
    assert os.listdir(path.parent) == ["model.json"]  # nothing else is left behind


def test_of_two_models_that_begin_at_once_in_one_folder_one_is_refused(tmp_path):
    """Both find no file, and both write theirs: the folder would hold results of two models."""
    for run in range(10):
        path, accepted, start = tmp_path / str(run) / "run.json", [], threading.Barrier(2)

        def begin(weights, path=path, accepted=accepted, start=start):
            start.wait()
            with contextlib.suppress(ValueError):
                record_or_check(path, {"model": {"weights": weights}})
                accepted.append(weights)

        threads = [threading.Thread(target=begin, args=(weights,)) for weights in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert accepted == [json.loads(path.read_text())["model"]["weights"]]


def test_a_model_without_values_is_no_model():
    with torch.device("meta"):
        layer = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="no values for 'bias'"):
        digest_weights(layer)
