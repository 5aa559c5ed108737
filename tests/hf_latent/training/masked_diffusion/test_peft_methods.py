"""
Every method of peft does in `generate`, `infill`, training, saving and merging what its forward does, or is refused.

The right value for one mask is the argmax of peft's own forward there: whatever decodes without the adapter, or with
its virtual tokens missing, writes what the base model writes.
"""

from typing import Any

import peft
import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from hf_latent import (
    DreamConfig,
    DreamForMaskedDiffusion,
    LatentTokenForCausalLM,
    LatentTokenForMaskedDiffusion,
    LladaConfig,
    LladaForMaskedDiffusion,
)
from hf_latent.hub import bundle
from hf_latent.tasks import sudoku_tokenizer
from hf_latent.training import (
    LatentTokenTrainer,
    LatentTokenTrainingConfig,
    MaskedDiffusionConfig,
    MaskedDiffusionTrainer,
)
from hf_latent.training.common.adapters import check_peft_config

TOKENIZER = sudoku_tokenizer(4)
MASK, EOS, PAD = TOKENIZER.mask_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
TARGETS = ["q_proj", "v_proj"]
# Name to class and arguments of a configuration whose adapter lives in the layers, so that all of it has to work.
INSIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 4, "target_modules": "all-linear"}),
    "dora": ("LoraConfig", {"r": 4, "target_modules": TARGETS, "use_dora": True}),
    "lora-embeddings": ("LoraConfig", {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}),
    "trained-tokens": ("LoraConfig", {"r": 4, "target_modules": TARGETS, "trainable_token_indices": [MASK, 5]}),
    "saved": ("LoraConfig", {"r": 4, "target_modules": TARGETS, "modules_to_save": ["lm_head", "embed_tokens"]}),
    "tokens-alone": ("TrainableTokensConfig", {"token_indices": [MASK, 5]}),
    "adalora": (
        "AdaLoraConfig",
        {"total_step": 9, "tinit": 1, "tfinal": 2, "target_modules": TARGETS, "orth_reg_weight": 0.0},
    ),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "ln": ("LNTuningConfig", {"target_modules": ["input_layernorm", "norm"]}),
    "vera": ("VeraConfig", {"r": 4, "target_modules": TARGETS}),
    "oft": ("OFTConfig", {"oft_block_size": 8, "r": 0, "target_modules": TARGETS}),
    "boft": ("BOFTConfig", {"boft_block_size": 8, "target_modules": TARGETS}),
    "loha": ("LoHaConfig", {"r": 4, "target_modules": TARGETS}),
    "lokr": ("LoKrConfig", {"r": 4, "target_modules": TARGETS}),
    "vblora": ("VBLoRAConfig", {"num_vectors": 16, "vector_length": 8, "topk": 2, "target_modules": TARGETS}),
}
# Those that act outside the layers, or make a position depend on which others are read: refused, by this name.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}, "PROMPT_TUNING"),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 4}, "PREFIX_TUNING"),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 16}, "P_TUNING"),
    "cartridge": ("CartridgeConfig", {"num_virtual_tokens": 4, "num_frozen_tokens": 0}, "CARTRIDGE"),
    "cpt": ("CPTConfig", {"cpt_token_ids": [5, 6], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 4]}, "CPT"),
    "alora": ("LoraConfig", {"target_modules": TARGETS, "alora_invocation_tokens": [5]}, "aLoRA"),
    "lily": ("LilyConfig", {"r": 4, "target_modules": TARGETS}, "LILY"),
    "poly": ("PolyConfig", {"r": 4, "n_tasks": 2, "n_skills": 2, "target_modules": TARGETS}, "POLY"),
    "shadow": ("ShadowConfig", {"r": 4}, "SHADOW"),
}
FAMILIES = ("llada", "dream", "masked", "causal")


def build(family: str, *, tied: bool = False) -> Any:
    """A tiny model in which every parameter is random and matters."""
    if family in ("llada", "dream"):
        config_class, model_class = (
            (LladaConfig, LladaForMaskedDiffusion) if family == "llada" else (DreamConfig, DreamForMaskedDiffusion)
        )
        model: Any = model_class(config_class(**SIZES, mask_token_id=MASK, tie_word_embeddings=tied))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.25 * noise)
    if family == "masked":
        model = LatentTokenForMaskedDiffusion.from_backbone(model, TOKENIZER)
    if family == "causal":
        model = LatentTokenForCausalLM.from_backbone(model, TOKENIZER)
    return model.eval()


def config_of(name: str) -> Any:
    kind, fields = (INSIDE | REFUSED)[name][:2]
    return getattr(peft, kind)(task_type="CAUSAL_LM", **fields)


def shake(model: Any) -> None:
    """Move what is trainable: most methods begin as the base model."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))


def wrapped(family: str, name: str) -> Any:
    torch.manual_seed(0)
    model = peft.get_peft_model(build(family), config_of(name)).eval()
    shake(model)
    return model


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    ids = torch.randint(3, len(TOKENIZER) - 2, (24, 10), generator=torch.Generator().manual_seed(1))
    return ids.masked_fill(ids == MASK, 5)


def best(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.clone()
    logits[..., MASK] = float("-inf")
    return logits.argmax(-1)


def make_trainer(family: str, folder: Any, ids: torch.Tensor, model: Any = None, **arguments: Any) -> Any:
    trainer, config = MaskedDiffusionTrainer, MaskedDiffusionConfig
    if family == "causal":
        trainer, config = LatentTokenTrainer, LatentTokenTrainingConfig
    args = config(
        str(folder), max_steps=2, learning_rate=0.05, report_to="none", disable_tqdm=True, save_strategy="no",
        bf16=False, use_cpu=True, gradient_checkpointing=False,
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": [-100] * 3 + row[3:]} for row in ids.tolist()]
    model = build(family) if model is None else model
    return trainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=TOKENIZER, **arguments)


CASES = [("llada", name) for name in INSIDE] + [
    (family, name) for family in FAMILIES[1:] for name in ("lora", "trained-tokens", "ia3", "vera", "boft")
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "name"), CASES)
def test_what_is_written_is_what_the_forward_says(family: str, name: str, ids: torch.Tensor) -> None:
    model, base = wrapped(family, name), build(family)
    if family == "causal":
        for latent in (0, 2):
            written = model.generate(ids, max_new_tokens=1, num_latent_tokens=latent, eos_token_id=None)[:, -1]
            assert torch.equal(written, model(ids, num_latent_tokens=latent).logits[:, -1].argmax(-1))
            assert not torch.equal(written, base(ids, num_latent_tokens=latent).logits[:, -1].argmax(-1))
        return
    canvas = torch.cat([ids, torch.full((len(ids), 1), MASK)], 1)
    written = model.generate(ids, max_new_tokens=1, eos_token_id=None)[:, -1]
    assert torch.equal(written, best(model(canvas).logits)[:, -1])
    assert not torch.equal(written, best(base(canvas).logits)[:, -1])
    template = ids.clone()
    template[:, 6] = MASK
    written = model.infill(template)[:, 6]
    assert torch.equal(written, best(model(template).logits)[:, 6])
    with model.disable_adapter():
        assert torch.equal(model.infill(template)[:, 6], best(base(template).logits)[:, 6])


@pytest.mark.parametrize(("family", "name"), CASES)
def test_it_trains_is_saved_reloads_and_merges(family: str, name: str, ids: torch.Tensor, tmp_path: Any) -> None:
    trainer = make_trainer(family, tmp_path, ids, peft_config=config_of(name))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.save_model()
    with torch.no_grad():
        expected = trainer.model.eval()(ids).logits
        loaded = peft.PeftModel.from_pretrained(build(family), tmp_path).eval()
        assert torch.equal(loaded(ids).logits, expected)
        torch.testing.assert_close(loaded.merge_and_unload()(ids).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", list(REFUSED))
def test_others_are_refused_by_name(family: str, name: str, ids: torch.Tensor, tmp_path: Any) -> None:
    """Prompt learning trained and generated what the base model says: half of the tokens were others."""
    label = REFUSED[name][2]
    model = wrapped(family, name)
    latent = {"num_latent_tokens": 2} if family == "causal" else {}
    with pytest.raises(ValueError, match=rf"peft's {label}.* not supported"):
        model.generate(ids, max_new_tokens=2, **latent)
    if family != "causal":
        with pytest.raises(ValueError, match=rf"peft's {label}.* not supported"):
            model.infill(ids)
    with pytest.raises(ValueError, match=f"peft's {label}.* not supported by this trainer"):
        make_trainer(family, tmp_path, ids, peft_config=config_of(name))
    with pytest.raises(ValueError, match=f"peft's {label}.* not supported by this trainer"):
        make_trainer(family, tmp_path, ids, model=model)
    with pytest.raises(ValueError, match="`model` carries adapters"):
        bundle(model, TOKENIZER, tmp_path / "bundle")


@pytest.mark.parametrize("name", ["prompt", "alora"])
def test_a_base_with_its_adapter_off_generates(name: str, ids: torch.Tensor) -> None:
    model, base = wrapped("llada", name), build("llada")
    expected = base.generate(ids, max_new_tokens=2)
    with model.disable_adapter():
        assert torch.equal(model.generate(ids, max_new_tokens=2), expected)
        template = torch.cat([ids, torch.full((len(ids), 1), MASK)], 1)
        assert torch.equal(model.infill(template), base.infill(template))
    if name == "prompt":  # its base was never changed
        assert torch.equal(model.get_base_model().generate(ids, max_new_tokens=2), expected)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # peft's Shadow calls it so
@pytest.mark.parametrize("name", ["prompt", "p-tuning", "cpt", "lily", "shadow"])
def test_without_latent_tokens_and_cache_it_is_the_autoregressive_model(name: str, ids: torch.Tensor) -> None:
    model = wrapped("causal", name)
    arguments = {"max_new_tokens": 3, "num_latent_tokens": 0, "eos_token_id": None}
    with pytest.raises(ValueError, match="needs `use_cache=False`"):
        model.generate(ids, **arguments)
    expected = ids
    for _ in range(3):
        expected = torch.cat([expected, model(expected).logits[:, -1].argmax(-1)[:, None]], 1)
    assert torch.equal(model.generate(ids, **arguments, use_cache=False), expected)


@torch.no_grad()
def test_the_adapter_that_is_set_is_the_one_that_writes(ids: torch.Tensor) -> None:
    model = wrapped("llada", "lora")
    torch.manual_seed(5)
    model.add_adapter("other", config_of("dora"))
    model.set_adapter("other")
    shake(model)
    template = ids.clone()
    template[:, 6] = MASK
    written = []
    for adapters in ("default", "other", ["default", "other"]):
        model.base_model.set_adapter(adapters)
        written.append(model.infill(template)[:, 6])
        assert torch.equal(written[-1], best(model(template).logits)[:, 6])
    assert not torch.equal(written[0], written[1])
    with pytest.raises(ValueError, match="`adapter_names` is not supported"):
        model.generate(ids, max_new_tokens=2, adapter_names=["default"] * 12 + ["other"] * 12)


@torch.no_grad()
def test_mixed_adapters_generate_and_are_not_trained(ids: torch.Tensor, tmp_path: Any) -> None:
    """peft cannot save them: a training would end in an error, with its weights lost."""
    first = peft.LoHaConfig(r=4, target_modules=TARGETS, init_weights=False)
    model = peft.get_peft_model(build("llada"), first, "first", mixed=True)
    model.add_adapter("second", peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False))
    model.set_adapter(["first", "second"])
    model.eval()
    template = ids.clone()
    template[:, 6] = MASK
    assert torch.equal(model.infill(template)[:, 6], best(model(template).logits)[:, 6])
    with pytest.raises(ValueError, match="PeftMixedModel cannot be trained"):
        make_trainer("llada", tmp_path, ids, model=model)


@torch.no_grad()
def test_weighed_adapters_generate_and_do_not_infill(ids: torch.Tensor, tmp_path: Any) -> None:
    """X-LoRA weighs its adapters in the forward of peft's wrapper, which `infill` goes past."""
    folders = {}
    for seed in range(2):
        torch.manual_seed(seed)
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, init_lora_weights=False)
        folders[str(seed)] = str(tmp_path / str(seed))
        peft.get_peft_model(build("llada"), config).save_pretrained(folders[str(seed)])
    base = build("llada")
    base.config.use_cache = False
    config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, xlora_depth=2, adapters=folders)
    model = peft.get_peft_model(base, config).eval()
    canvas = torch.cat([ids, torch.full((len(ids), 1), MASK)], 1)
    written = model.generate(ids, max_new_tokens=1, eos_token_id=None)[:, -1]
    assert torch.equal(written, best(model(canvas).logits)[:, -1])
    with pytest.raises(ValueError, match="peft's XLORA is not supported"):
        model.infill(canvas)


def test_a_term_of_the_models_own_loss_is_refused_by_name() -> None:
    """AdaLoRA's orthogonality is added to the loss of `labels`: without it the ranks that are cut are others."""
    config = peft.AdaLoraConfig(task_type="CAUSAL_LM", total_step=9, tinit=1, tfinal=2, target_modules=TARGETS)
    assert config.orth_reg_weight > 0
    with pytest.raises(ValueError, match=r"ADALORA with `orth_reg_weight`=0\.5 adds a term .*`orth_reg_weight=0`"):
        check_peft_config(config, build("llada"))


TIED: dict[str, dict[str, Any]] = {
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "tying": {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    "expression": {"target_modules": r".*(embed_tokens|q_proj)"},
}


@pytest.mark.parametrize("fields", list(TIED.values()), ids=list(TIED))
@pytest.mark.parametrize("wrap", [False, True])
def test_low_rank_changes_of_tied_embeddings_are_refused(
    fields: dict[str, Any], wrap: bool, ids: torch.Tensor, tmp_path: Any
) -> None:
    """peft merges them into the one weight of embeddings and head, once or twice: logits were off by 200."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", **fields)
    model = build("llada", tied=True)
    arguments: dict[str, Any] = {"model": model, "peft_config": config}
    if wrap:
        arguments = {"model": peft.get_peft_model(model, config)}
    with pytest.raises(ValueError, match="share their weight with the head"):
        make_trainer("llada", tmp_path, ids, **arguments)


def test_names_of_the_original_code_are_refused_with_ours(ids: torch.Tensor, tmp_path: Any) -> None:
    """peft adapts the layers that it finds, `q_proj`, and says nothing of the rest."""
    config = peft.LoraConfig(target_modules=["q_proj", "ff_proj"])
    with pytest.raises(ValueError, match=r"`target_modules` has 'ff_proj'.* original code, for 'gate_proj'"):
        make_trainer("llada", tmp_path, ids, peft_config=config)
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["wte"], task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match=r"`modules_to_save` has 'wte'.* original code, for 'embed_tokens'"):
        make_trainer("llada", tmp_path, ids, model=peft.get_peft_model(build("llada"), config))
