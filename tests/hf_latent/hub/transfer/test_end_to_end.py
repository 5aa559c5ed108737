"""
Published here, used by a stranger: a process that has transformers, peft and datasets, and no hf-latent, loads every
kind of repository by its name and gets the same tokens; then once more without a network.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from huggingface_hub import HfApi
from peft import PeftModel
from transformers import PreTrainedModel

from hf_latent.hub import bundle, bundle_decoder, pull, push
from hf_latent.tasks import sudoku_tokenizer

KNOBS = {"max_new_tokens": 8, "decoding": "entropy", "block_length": 4}
MODELS = ("llada", "dream", "latent-token", "trained")
# Loads everything, first without trust, then with.
STRANGER = """
import os
import torch
torch.set_num_threads(1)
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

ids = torch.tensor(job["prompt"])
if job["untrusted"]:
    result["refusals"] = []
    for name in job["untrusted"]:
        for auto in (AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer):
            try:
                auto.from_pretrained(name, trust_remote_code=False)
                result["refusals"].append(f"{auto.__name__} loaded")
            except (ValueError, OSError) as error:
                result["refusals"].append(str(error))
    result["executed"] = os.path.exists(os.environ["MARKER"])
    AutoConfig.from_pretrained("user/marked", trust_remote_code=True)
    result["executed with trust"] = os.path.exists(os.environ["MARKER"])

def load(name, auto=AutoModel, **kwargs):
    return auto.from_pretrained(name, trust_remote_code=True, **kwargs).eval()

result["ids"] = {name: load(f"user/{name}").generate(ids, **job["knobs"]).tolist() for name in job["models"]}
result["causal"] = load("user/llada", AutoModelForCausalLM).generate(ids, **job["knobs"]).tolist()
tokenizer = AutoTokenizer.from_pretrained("user/llada")
result["text"] = tokenizer.decode(ids[0])
result["dream tokenizer"] = AutoTokenizer.from_pretrained("user/dream")("12\\n")["input_ids"]
ahead = load("user/latent-token-causal")
for number in (0, 3):
    result[f"looking {number} ahead"] = ahead.generate(
        ids, max_new_tokens=8, do_sample=False, num_latent_tokens=number
    ).tolist()
latent = load("user/latent-diffusion", AutoModelForSeq2SeqLM)
result["latent-diffusion"] = latent.generate(ids, seed=0, num_inference_steps=3).tolist()
for key, revision in job["revisions"].items():
    result[key] = load("user/llada", revision=revision).generate(ids, **job["knobs"]).tolist()

from peft import AutoPeftModelForCausalLM, PeftModel
adapted = PeftModel.from_pretrained(load("user/llada"), "user/adapter")
result["adapter"] = adapted.generate(ids, **job["knobs"]).tolist()
alone = AutoPeftModelForCausalLM.from_pretrained("user/adapter", trust_remote_code=True)
result["adapter alone"] = alone.generate(ids, **job["knobs"]).tolist()

decoder = {"custom_generate": "user/decoder", "trust_remote_code": True, "max_new_tokens": 8}
model = load("user/dream")
result["decoder"] = model.generate(ids, **decoder).tolist()
if job["untrusted"]:
    os.environ["MARKER"] += ".decoder"
    try:
        model.generate(ids, custom_generate="user/marked-decoder", max_new_tokens=8, trust_remote_code=False)
    except ValueError as error:
        result["refusals"].append(str(error))
    result["decoder executed"] = os.path.exists(os.environ["MARKER"])

from datasets import load_dataset
for name in ("traces", "saved-traces"):
    loaded = load_dataset(f"user/{name}")
    result[name] = {split: part.to_list() for split, part in loaded.items()}
"""


class Published(NamedTuple):
    hub: Any
    prompt: list[list[int]]
    expected: dict[str, Any]
    revisions: dict[str, str]


def train_a_little(kinds: Any, tokenizer: Any, folder: Path) -> PreTrainedModel:
    """Two steps, a push after the first one, and one at the end."""
    arguments = {"push_to_hub": True, "hub_model_id": "user/trained", "hub_always_push": True}
    trainer = kinds.make_trainer(tokenizer, folder, **arguments)
    trainer.train()
    trainer.push_to_hub()
    return trainer.model.eval()


def push_marked(hub: Any, folder: Path, name: str, file: str) -> None:
    """What an attacker publishes: importing the code leaves a trace."""
    path = folder / file
    path.write_text(path.read_text() + "\nimport os\nopen(os.environ['MARKER'], 'w').close()\n")
    api = HfApi()
    api.create_repo(f"user/{name}")
    api.upload_folder(repo_id=f"user/{name}", folder_path=folder)


@pytest.fixture(scope="module")
def published(shared_hub: Any, kinds: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    root = tmp_path_factory.mktemp("published")
    tokenizer = sudoku_tokenizer(4)
    prompt = torch.tensor([tokenizer("1...\n")["input_ids"], tokenizer("23..\n")["input_ids"]])
    expected: dict[str, Any] = {}
    revisions = {}

    first, second = kinds.llada(0, tokenizer), kinds.llada(10, tokenizer)
    revisions["pinned"] = str(push(first, "user/llada", tokenizer=tokenizer, verify=False).commit_oid)
    push(second, "user/llada", tokenizer=tokenizer, revision="other", verify=False)
    revisions["branch"] = "other"
    push(second, "user/llada", tokenizer=tokenizer, verify=False)
    models = {"llada": second, "dream": kinds.dream(tokenizer)}
    models["latent-token"] = kinds.latent_token(tokenizer, root / "llama")
    models["dream"].push_to_hub("user/dream")
    tokenizer.push_to_hub("user/dream")
    push(bundle(models["latent-token"], tokenizer, root / "token", verify=False), "user/latent-token", verify=False)
    models["trained"] = train_a_little(kinds, tokenizer, root / "run")
    for name, model in models.items():
        expected[name] = model.generate(prompt, **KNOBS).tolist()
    expected["pinned"] = first.generate(prompt, **KNOBS).tolist()

    ahead = kinds.latent_token_causal(tokenizer, root / "llama")
    push(ahead, "user/latent-token-causal", tokenizer=tokenizer, verify=False)
    for number in (0, 3):
        knobs = {"max_new_tokens": 8, "do_sample": False, "num_latent_tokens": number}
        expected[f"looking {number} ahead"] = ahead.generate(prompt, **knobs).tolist()

    latent = kinds.latent_diffusion(len(tokenizer))
    push(latent, "user/latent-diffusion", verify=False)
    expected["latent-diffusion"] = latent.generate(prompt, seed=0, num_inference_steps=3).tolist()

    adapted = kinds.adapter(tokenizer)
    push(adapted, "user/adapter", base_model="user/llada")
    expected["adapter"] = adapted.generate(prompt, **KNOBS).tolist()

    push(bundle_decoder("med", root / "decoder", verify=False, entropy_threshold=2.0), "user/decoder", verify=False)
    knobs = {"decoding": "med", "entropy_threshold": 2.0, "max_new_tokens": 8}
    expected["decoder"] = models["dream"].generate(prompt, **knobs).tolist()

    traces = kinds.traces()
    push(traces, "user/traces")
    traces.save_to_disk(root / "saved")
    push(root / "saved", "user/saved-traces", private=True)
    expected["traces"] = traces.to_list()

    push_marked(shared_hub, bundle(first, None, root / "marked", verify=False), "marked", "configuration_llada.py")
    decoder = bundle_decoder("med", root / "marked-decoder", verify=False)
    push_marked(shared_hub, decoder, "marked-decoder", "custom_generate/generate.py")
    yield Published(shared_hub, prompt.tolist(), expected, revisions)


def job_of(published: Published, untrusted: tuple[str, ...] = ()) -> dict[str, Any]:
    knobs = {"prompt": published.prompt, "revisions": published.revisions, "knobs": KNOBS}
    return knobs | {"models": MODELS, "untrusted": list(untrusted)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the stranger: what he has downloaded stays there."""
    return tmp_path_factory.mktemp("stranger")


@pytest.fixture(scope="module")
def online(published: Published, stranger: Any, home: Path) -> dict[str, Any]:
    job = job_of(published, ("user/marked", "user/dream", "user/latent-diffusion"))
    return stranger(STRANGER, published.hub, home, job, MARKER=str(home / "marker"))


@pytest.fixture(scope="module")
def offline(published: Published, stranger: Any, home: Path, online: dict[str, Any]) -> dict[str, Any]:
    """The same once more, without a Hub; `before` is how often it had been asked."""
    before = len(published.hub.entries)
    result = stranger(STRANGER, published.hub, home, job_of(published), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    return result | {"asked": len(published.hub.entries) - before}


def check(published: Published, result: dict[str, Any]) -> None:
    expected = published.expected
    assert len({json.dumps(ids) for ids in expected.values()}) == len(expected)  # no two are equal by chance
    for name in MODELS:
        assert result["ids"][name] == expected[name], name
    assert result["causal"] == expected["llada"]
    ahead = [name for name in expected if name.startswith("looking")]
    assert len(ahead) == 2 and all(result[name] == expected[name] for name in ahead)
    assert result["latent-diffusion"] == expected["latent-diffusion"]
    assert result["adapter"] == result["adapter alone"] == expected["adapter"]
    assert result["decoder"] == expected["decoder"]
    assert result["pinned"] == expected["pinned"] and result["branch"] == expected["llada"]
    assert result["text"] == sudoku_tokenizer(4).decode(published.prompt[0])
    assert result["dream tokenizer"] == sudoku_tokenizer(4)("12\n")["input_ids"]
    assert result["traces"] == result["saved-traces"] == {"train": expected["traces"]}


@pytest.mark.slow
def test_a_stranger_loads_every_repository_and_generates_the_same(published: Published, online: Any) -> None:
    """Models of all families, adapters, revisions, a decoder and data sets, by their names alone."""
    check(published, online)


@pytest.mark.slow
def test_after_one_download_the_same_works_offline(published: Published, offline: Any) -> None:
    check(published, offline)
    assert offline["asked"] == 0


@pytest.mark.slow
def test_nothing_is_run_without_trust(online: Any) -> None:
    """The marker is there after the load with trust, so its absence before means something."""
    assert online["executed"] is False and online["decoder executed"] is False
    assert online["executed with trust"] is True
    assert "AutoModel loaded" not in online["refusals"] and "AutoConfig loaded" not in online["refusals"]
    assert sum("trust_remote_code=True" in message for message in online["refusals"]) >= 10


@pytest.mark.slow
def test_every_way_of_pushing_gives_a_repository_that_stands_alone(published: Published, tmp_path: Path) -> None:
    """`pull` has compared the code byte for byte, and looked for pickles: here `training_args.bin` was pushed once."""
    for name in (*MODELS, "latent-token-causal", "latent-diffusion"):
        files = published.hub.repository(f"user/{name}").contents()
        assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= set(files)
        assert json.loads(files["config.json"])["auto_map"]
        assert not [path for path in files if path.endswith((".bin", ".pt", ".pth"))]
        pull(f"user/{name}", tmp_path / name)
    trained = published.hub.repository("user/trained")
    # What is pushed at the end is what was pushed after the last step: there is nothing to commit.
    assert trained.history() == ["Training in progress, step 2", "Training in progress, step 1"]
    middle = trained.commits[trained.find("main")].parent
    assert {"modeling_llada.py", "model.safetensors"} <= set(trained.commits[middle].files)


@pytest.mark.slow
def test_an_adapter_loads_on_the_base_it_names(published: Published, kinds: Any, tmp_path: Path) -> None:
    """Here, with hf-latent; its folder says nothing of the one it was trained from."""
    folder = pull("user/adapter", tmp_path / "adapter")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "user/llada"
    adapted = PeftModel.from_pretrained(kinds.llada(10, sudoku_tokenizer(4)), folder).eval()
    prompt = torch.tensor(published.prompt)
    assert adapted.generate(prompt, **KNOBS).tolist() == published.expected["adapter"]
