"""A decoder folder runs on models whose code is not ours, where ours is not installed, and writes what ours writes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from hf_latent import (
    DiffusionGenerationConfig,
    DreamConfig,
    DreamForMaskedDiffusion,
    LladaConfig,
    LladaForMaskedDiffusion,
)
from hf_latent.generation import custom_generate
from hf_latent.hub import bundle, bundle_decoder
from hf_latent.hub.bundles.decoder import DECODERS

VOCAB_SIZE, PAD, MASK = 24, 22, 23
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 4}
# Low enough that rules by the belief write several tokens at once.
THRESHOLDS = {"confidence_threshold": 0.4, "entropy_threshold": 1.5, "entropy_bound": 1.0}
TOKENS = {"pad_token_id": PAD, "eos_token_id": PAD, "mask_token_id": MASK}

# A checkpoint's own code: no mixin of ours, all logits, no `logits_to_keep`, no `position_ids`. {name}, {base}, {type}
# and {limit} stand for what differs between families; the configuration has no `pad_token_id` of its own.
FOREIGN = """
import torch
from torch import nn
from transformers import GenerationMixin, {base}Config, {base}Model, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class ForeignConfig(PreTrainedConfig):
    model_type = "{type}"


class {name}(PreTrainedModel, GenerationMixin):
    config_class = ForeignConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = {base}Model({base}Config(**config.inner, is_causal=False, use_cache=False))
        self.lm_head = nn.Linear(config.inner["hidden_size"], config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None):
        states = self.model(input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds)[0]
        return CausalLMOutputWithPast(logits=self.lm_head(states))
"""
FAMILIES: dict[str, dict[str, str]] = {
    "llada": {"name": "LLaDAModelLM", "base": "Llama", "type": "llada", "limit": "max_sequence_length"},
    "dream": {"name": "DreamModel", "base": "Qwen2", "type": "Dream", "limit": "max_position_embeddings"},
}

# Runs in a process of its own: every call on every checkpoint, with nothing of ours to import.
STRANGER = """
import json, sys
sys.modules["hf_latent"] = None  # any import of it raises
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
job = json.load(open(sys.argv[1]))
result = {}
for checkpoint in job["checkpoints"]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)
    result[checkpoint] = []
    for call in job["calls"]:
        inputs = {name: torch.tensor(value) for name, value in call["inputs"].items()}
        try:
            output = model.generate(
                **inputs, custom_generate=call["decoder"], trust_remote_code=True, **call["arguments"]
            )
            result[checkpoint].append(output.tolist())
        except ValueError as error:
            result[checkpoint].append(str(error))
json.dump(result, open(sys.argv[2], "w"))
"""


def build(family: str) -> PreTrainedModel:
    """A tiny model whose beliefs differ from position to position: some certain, some not."""
    torch.manual_seed(3)
    if family == "llada":
        config = LladaConfig(**SIZES, **TOKENS, max_position_embeddings=64)
        model: PreTrainedModel = LladaForMaskedDiffusion(config)
    else:
        model = DreamForMaskedDiffusion(DreamConfig(**SIZES, **TOKENS, max_position_embeddings=64))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm.weight" not in name:
                parameter.copy_(0.6 * torch.randn_like(parameter))
    return model.eval()


def write_foreign(model: PreTrainedModel, family: str, folder: Path) -> Path:
    """The weights of `model` as a checkpoint with code of its own."""
    folder.mkdir()
    parts = FAMILIES[family]
    source = FOREIGN
    for name, value in parts.items():
        source = source.replace(f"{{{name}}}", value)
    (folder / "modeling_foreign.py").write_text(source)
    inner = SIZES | {"rope_parameters": model.config.rope_parameters, "rms_norm_eps": model.config.rms_norm_eps}
    config: dict[str, Any] = {
        "model_type": parts["type"],
        "vocab_size": VOCAB_SIZE,
        "inner": inner,
        "mask_token_id": MASK,
        "eos_token_id": PAD,
        parts["limit"]: 64,
        "dtype": "float32",
        "auto_map": {
            "AutoConfig": "modeling_foreign.ForeignConfig",
            "AutoModelForCausalLM": f"modeling_foreign.{parts['name']}",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    return {family: build(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def checkpoints(models: dict[str, PreTrainedModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Of each family, a bundle of ours and a checkpoint with somebody else's code."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        family: [
            bundle(model, None, root / f"{family}-ours", verify=False),
            write_foreign(model, family, root / f"{family}-foreign"),
        ]
        for family, model in models.items()
    }


@pytest.fixture
def run(tmp_path: Path) -> Callable[[list[Path], list[dict[str, Any]]], dict[str, list[Any]]]:
    """`run(checkpoints, calls)`: what the calls give on each checkpoint in a process without hf-latent."""

    def run(checkpoints: list[Path], calls: list[dict[str, Any]]) -> dict[str, list[Any]]:
        (tmp_path / "stranger.py").write_text(STRANGER)
        (tmp_path / "job.json").write_text(json.dumps({"checkpoints": list(map(str, checkpoints)), "calls": calls}))
        command = [sys.executable, "stranger.py", "job.json", "result.json"]
        environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr[-3000:]
        return json.loads((tmp_path / "result.json").read_text())

    return run


def prompts() -> dict[str, torch.Tensor]:
    """Three rows, padded on the left."""
    ids = torch.randint(0, PAD, (3, 7), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1, :3] = mask[2, :1] = 0
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


def as_lists(inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in inputs.items()}


def test_every_decoder_writes_on_any_model_what_ours_writes(models, checkpoints, run, tmp_path):
    """
    Two copies of each model, ours in a bundle and one with foreign code, in a process without hf-latent; padded and
    unpadded batches. A shift of Dream's logits that is off by one, or positions that count padding, would differ.
    """
    padded = prompts()
    whole = {"input_ids": padded["input_ids"][:1]}
    calls, own = [], []
    for name, entry in DECODERS.items():
        folder = bundle_decoder(name, tmp_path / name, verify=False)
        arguments: dict[str, Any] = {"max_new_tokens": 12, "block_length": 6, "seed": 1}
        arguments |= {knob: value for knob, value in THRESHOLDS.items() if knob in entry.knobs}
        for inputs in (padded, whole):
            calls.append({"decoder": str(folder), "inputs": as_lists(inputs), "arguments": arguments})
            own.append((inputs, arguments | {"decoding": entry.decoding, "latent_refinement": entry.refines}))
    # With the answer marked, the masks in the prompts are written instead.
    canvas = torch.cat([padded["input_ids"], torch.full((3, 6), MASK)], -1)
    visible = torch.cat([padded["attention_mask"], torch.ones(3, 6, dtype=torch.long)], -1)
    answer = torch.zeros_like(canvas)
    answer[:, -2:] = 1
    infilling = {"input_ids": canvas, "attention_mask": visible, "answer_mask": answer}
    bundle_decoder("med", tmp_path / "exits", verify=False, max_new_tokens=3, early_exit_threshold=3.0)
    calls.append({"decoder": str(tmp_path / "exits"), "inputs": as_lists(infilling), "arguments": {}})
    own.append((infilling, {"decoding": "med", "early_exit_threshold": 3.0}))

    results = run([path for pair in checkpoints.values() for path in pair], calls)
    for family, model in models.items():
        written = set()
        for i, (inputs, arguments) in enumerate(own):
            expected = model.generate(**inputs, **arguments).tolist()
            written.add(json.dumps(expected))
            for path in checkpoints[family]:
                assert results[str(path)][i] == expected, (path.name, arguments)
        # No two decoders agree on the padded batch, so that agreement above says something about each of them.
        assert len(written) > len(DECODERS)


def test_keywords_go_before_the_decoder_and_the_decoder_before_the_configurations(models, checkpoints, run, tmp_path):
    folder = bundle_decoder("med", tmp_path / "mine", verify=False, max_new_tokens=5, entropy_threshold=1.5)
    arguments: list[dict[str, Any]] = [
        {},
        {"max_new_tokens": 8, "entropy_threshold": 0.1},
        {"max_length": 9},
        {"decoding": "random", "seed": 4, "row_indices": [7, 3, 5]},
        {"eos_token_id": None, "num_return_sequences": 1, "use_cache": True, "stopping_criteria": None},
    ]
    inputs = prompts()
    calls = [{"decoder": str(folder), "inputs": as_lists(inputs), "arguments": a} for a in arguments]
    results = run(checkpoints["llada"], calls)
    base = {"decoding": "med", "entropy_threshold": 1.5, "max_new_tokens": 5}
    for path in checkpoints["llada"]:
        for given, result in zip(arguments, results[str(path)], strict=True):
            asked = given | {"max_new_tokens": None} if "max_length" in given else given
            asked = {name: value for name, value in asked.items() if name != "stopping_criteria"}
            assert result == models["llada"].generate(**inputs, **(base | asked)).tolist(), given


def test_a_generation_config_fills_in_what_the_decoder_leaves_open():
    """A pipeline passes a copy of the model's configuration: the decoder must survive that."""
    model, inputs = build("llada"), prompts()
    model.generation_config.decoding = "random"
    model.generation_config.latent_refinement = True
    defaults = {"decoding": "med", "latent_refinement": False, "entropy_threshold": 1.5}
    expected = model.generate(**inputs, **defaults, max_new_tokens=6)
    for config in (
        DiffusionGenerationConfig(max_new_tokens=6),
        DiffusionGenerationConfig(max_new_tokens=6, decoding="random"),
        GenerationConfig(max_new_tokens=6),
    ):
        output = custom_generate.generate(generation_config=config, model=model, defaults=defaults, **inputs)
        assert torch.equal(output, expected)
    model.generation_config.max_new_tokens = 6
    assert torch.equal(custom_generate.generate(model=model, defaults=defaults, **inputs), expected)
    report = custom_generate.generate(model=model, defaults=defaults, return_dict_in_generate=True, **inputs)
    assert torch.equal(report.sequences, expected)
    with pytest.raises(ValueError, match=r"entropy_treshold.*`entropy_threshold`"):
        custom_generate.generate(model=model, defaults=defaults, entropy_treshold=1.0, **inputs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stopping_criteria", StoppingCriteriaList([lambda *_: True])),
        ("prefix_allowed_tokens_fn", lambda batch, ids: [1]),
        ("assistant_model", object()),
        ("negative_prompt_ids", torch.zeros(1, 2, dtype=torch.long)),
        ("negative_prompt_attention_mask", torch.zeros(1, 2, dtype=torch.long)),
        ("synced_gpus", True),
        ("num_beams", 2),
    ],
)
def test_what_no_denoising_loop_can_honour_is_refused_by_name(models, name, value):
    """Ignored in silence, it would be believed to have had an effect."""
    with pytest.raises(ValueError, match=f"`{name}`"):
        custom_generate.generate(model=models["llada"], max_new_tokens=2, **prompts(), **{name: value})


def test_arguments_that_are_passed_unset_change_nothing(models):
    unset = dict.fromkeys(("stopping_criteria", "assistant_model", "negative_prompt_ids", "streamer", "synced_gpus"))
    output = custom_generate.generate(
        model=models["llada"], max_new_tokens=2, logits_processor=LogitsProcessorList(), **prompts(), **unset
    )
    assert torch.equal(output, models["llada"].generate(**prompts(), max_new_tokens=2))


def test_a_checkpoint_can_carry_a_decoder_as_its_generate(sudoku_model, tmp_path):
    """transformers binds it with `functools.partial`, whose first positional argument is the prompt."""
    folder = bundle(sudoku_model, None, tmp_path / "mine", verify=False)
    card = (folder / "README.md").read_text()
    bundle_decoder("med", folder, verify=False, entropy_threshold=9.0)
    assert (folder / "README.md").read_text() == card
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    prompt = torch.tensor([[5, 6, 7]])
    output = loaded.generate(prompt, max_new_tokens=6, return_dict_in_generate=True)
    assert output.num_forward_passes.tolist() == [1]
    expected = sudoku_model.generate(prompt, decoding="med", entropy_threshold=9.0, max_new_tokens=6)
    assert torch.equal(output.sequences, expected)


def test_a_block_cache_needs_our_model_and_says_so(models, checkpoints, run, tmp_path):
    folder = bundle_decoder("lrd", tmp_path / "mine", verify=False, refinement_steps=2)
    call = {"decoder": str(folder), "inputs": as_lists(prompts())}
    cached = call | {"arguments": {"max_new_tokens": 8, "block_length": 4, "block_cache": "dual"}}
    too_long = call | {"arguments": {"max_new_tokens": 64}}
    ours, foreign = checkpoints["llada"]
    results = run([ours, foreign], [cached, too_long])
    expected = models["llada"].generate(
        **prompts(), decoding="entropy", latent_refinement=True, refinement_steps=2, **cached["arguments"]
    )
    assert results[str(ours)][0] == expected.tolist()
    assert re.search(r"`block_cache`='dual' needs a model of hf-latent, got LLaDAModelLM", results[str(foreign)][0])
    # LLaDA's own configuration calls its positions `max_sequence_length`.
    for path in (ours, foreign):
        assert re.search(r"71 tokens, more than", results[str(path)][1])
