"""Checkpoint folders carry their code: whoever has transformers and torch loads them, and nothing else is needed."""

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hf_latent import LladaConfig, LladaForMaskedDiffusion

FAMILIES = ("llada", "dream")
BOTH = pytest.mark.parametrize("case", FAMILIES, indirect=True)
MODEL_CLASS = {"llada": "LladaForMaskedDiffusion", "dream": "DreamForMaskedDiffusion"}
COMMON_CODE = {
    "configuration_generation.py",
    "generation_belief.py",
    "generation_denoising.py",
    "generation_rows.py",
    "generation_stopping.py",
    "generation_mixin.py",
    "modeling_masked_diffusion.py",
    "modeling_atomic.py",
    "modeling_travel.py",
}
# What a stranger calls: method, arguments.
CALLS = [
    ("generate", {"max_new_tokens": 8}),
    ("generate", {"max_new_tokens": 8, "decoding": "low_confidence", "block_length": 4, "max_denoising_steps": 4}),
    ("generate", {"max_new_tokens": 8, "decoding": "med", "entropy_threshold": 2.5, "max_tokens_per_step": 3}),
    ("generate", {"max_new_tokens": 8, "decoding": "random", "seed": 5}),
    ("generate", {"max_new_tokens": 8, "decoding": "margin", "temperature": 0.9, "top_p": 0.9, "seed": 6}),
    ("generate", {"max_new_tokens": 8, "decoding": "entropy_bound", "cfg_scale": 0.7}),
    ("infill", {"decoding": "left_to_right"}),
]
# Runs in a process of its own. Reads {"blocked", "folders", "calls", "prompts", "cache", "untrusted", "resave"}.
STRANGER = """
import json, os, shutil, sys
job = json.load(open(sys.argv[1]))
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
torch.set_num_threads(1)
result = {"refusals": [], "executed": [], "folders": {}}

for folder in job["untrusted"]:
    for auto in (AutoConfig, AutoModel, AutoModelForCausalLM):
        for kwargs in ({}, {"trust_remote_code": False}):
            try:
                auto.from_pretrained(folder, **kwargs)
                result["refusals"].append("loaded")
            except ValueError as error:
                result["refusals"].append(str(error))
result["executed"] = [name for name in sys.modules if name.startswith("transformers_modules")]
result["copied"] = [name for _, _, files in os.walk(job["cache"]) for name in files if name != "__init__.py"]

def ids_of(model):
    prompts = {"generate": torch.tensor(job["prompts"][0]), "infill": torch.tensor(job["prompts"][1])}
    return [getattr(model, method)(prompts[method], **kwargs).tolist() for method, kwargs in job["calls"]]

for name, source in job["folders"].items():
    folder = shutil.copytree(source, os.path.join("vanishing", name))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    entry = result["folders"][name] = {"config": type(config).__name__, "classes": [], "ids": []}
    if job["resave"]:
        config.save_pretrained(f"{job['resave']}/{name}-config")
    for auto in (AutoModel, AutoModelForCausalLM):
        model = auto.from_pretrained(folder, trust_remote_code=True)
        entry["classes"].append(type(model).__name__)
    shutil.rmtree(folder)
    entry["ids"] = ids_of(model)
    entry["knobs"] = {k: getattr(model.generation_config, k) for k in ("block_length", "decoding", "max_new_tokens")}
    if job["resave"]:
        model.save_pretrained(f"{job['resave']}/{name}")
assert not any(name.split(".")[0] == "hf_latent" for name in sys.modules)

if not job["blocked"]:
    import hf_latent
    for name, folder in job["folders"].items():
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert type(model).__module__.startswith("hf_latent."), type(model)
        result["folders"][name]["ids with hf_latent"] = ids_of(model)
json.dump(result, open(sys.argv[2], "w"))
"""


def visit(run_stranger: Callable, folder: Path, **job) -> dict:
    """What `STRANGER` finds, in `folder`."""
    job = {"blocked": True, "untrusted": [], "resave": None, "cache": str(folder / "modules")} | job
    (folder / "job.json").write_text(json.dumps(job))
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    run_stranger(STRANGER, folder, "job.json", "result.json", blocked=job["blocked"], **environment)
    return json.loads((folder / "result.json").read_text())


def prompts_of(model):
    mask = model.config.mask_token_id
    return [[[5, 6, 7], [9, 1, 33]], [[5, mask, 7, mask, mask, 2], [mask, 4, 4, 8, 1, mask]]]


def ids_of(model):
    generate, infill = (torch.tensor(prompt) for prompt in prompts_of(model))
    prompts = {"generate": generate, "infill": infill}
    return [getattr(model, method)(prompts[method], **kwargs).tolist() for method, kwargs in CALLS]


def code_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}


def write_stale(model, folder: Path) -> None:
    """A folder as the original authors publish it: an `auto_map` of their code, here without that code."""
    model.save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.unlink()
    fields = json.loads((folder / "config.json").read_text())
    name = "configuration_llada.LLaDAConfig", "modeling_llada.LLaDAModelLM"
    fields["auto_map"] = {"AutoConfig": name[0], "AutoModel": name[1], "AutoModelForCausalLM": name[1]}
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.fixture(scope="module")
def made(tmp_path_factory, build):
    """Folders saved in the ways users save, and the ids that their models give here."""
    root = tmp_path_factory.mktemp("bundles")
    folders, ids, prompts = {}, {}, None
    for family in FAMILIES:
        model = build(family)
        model.generation_config.update(block_length=2, decoding="confidence_threshold", confidence_threshold=0.3)
        prompts, ids[family] = prompts_of(model), ids_of(model)
        model.save_pretrained(root / f"{family}-saved", max_shard_size="20KB")
        arguments = TrainingArguments(output_dir=str(root / "trainer"), report_to=[], use_cpu=True)
        Trainer(model, arguments).save_model(str(root / f"{family}-trainer"))
        write_stale(model, root / f"{family}-original")
        AutoModel.from_pretrained(root / f"{family}-original").save_pretrained(root / f"{family}-stale")
        folders |= {f"{family}-{way}": str(root / f"{family}-{way}") for way in ("saved", "trainer", "stale")}
    return {"root": root, "folders": folders, "ids": ids, "prompts": prompts}


@pytest.fixture(scope="module")
def stranger(made, run_stranger, tmp_path_factory):
    """What happens in a process that cannot import hf_latent, which saves everything again."""
    folder = tmp_path_factory.mktemp("stranger")
    return visit(
        run_stranger,
        folder,
        untrusted=[folder for name, folder in made["folders"].items() if name.endswith("saved")],
        folders=made["folders"],
        calls=CALLS,
        prompts=made["prompts"],
        resave=str(made["root"] / "again"),
    )


@pytest.fixture(scope="module")
def second_stranger(made, stranger, run_stranger, tmp_path_factory):
    """What happens with the stranger's folders in another process, which imports hf_latent at the end."""
    folders = {name: str(made["root"] / "again" / name) for name in made["folders"] if name.endswith("-saved")}
    folder = tmp_path_factory.mktemp("second")
    return visit(run_stranger, folder, blocked=False, folders=folders, calls=CALLS, prompts=made["prompts"])


def test_a_stranger_loads_and_generates_the_same(made, stranger):
    """Decoders, sampling, guidance and infilling: the code that travels is all of the code."""
    assert stranger["folders"].keys() == made["folders"].keys()
    for name, entry in stranger["folders"].items():
        family = name.split("-")[0]
        assert entry["classes"] == [MODEL_CLASS[family]] * 2
        assert entry["config"] == {"llada": "LladaConfig", "dream": "DreamConfig"}[family]
        for call, theirs, ours in zip(CALLS, entry["ids"], made["ids"][family], strict=True):
            assert theirs == ours, (name, call)


def test_a_stranger_keeps_our_knobs(stranger):
    """The stock class drops every field that it does not know."""
    for name, entry in stranger["folders"].items():
        assert entry["knobs"] == {"block_length": 2, "decoding": "confidence_threshold", "max_new_tokens": None}, name


def test_nothing_is_executed_or_copied_without_trust(stranger):
    assert len(stranger["refusals"]) == 12
    for message in stranger["refusals"]:
        assert re.search(r"trust_remote_code=True", message), message
    assert stranger["executed"] == [] and stranger["copied"] == []


def test_what_a_stranger_saves_is_what_he_loaded(made, stranger):
    """The configuration's and the model's files are two copies for transformers; saving once failed on that."""
    for name, folder in made["folders"].items():
        before, after = Path(folder), made["root"] / "again" / name
        assert code_of(before) == code_of(after)
        for file in ("config.json", "generation_config.json"):
            assert json.loads((before / file).read_text()) == json.loads((after / file).read_text())


def test_a_stranger_saves_a_configuration_alone(made, stranger):
    for name, folder in made["folders"].items():
        assert code_of(made["root"] / "again" / f"{name}-config") == code_of(Path(folder))


def test_what_a_stranger_saved_loads_for_the_next(made, second_stranger):
    for name, entry in second_stranger["folders"].items():
        assert entry["ids"] == made["ids"][name.split("-")[0]]


def test_hf_latent_imports_after_a_bundle_was_loaded(made, second_stranger):
    """Registering the key names a second time raises unless told to overwrite."""
    for name, entry in second_stranger["folders"].items():
        assert entry["ids with hf_latent"] == made["ids"][name.split("-")[0]]


@BOTH
def test_a_bundle_loads_after_hf_latent_was_imported(case, made, ids, tmp_path, monkeypatch):
    """Our own class is taken, also for those who trust; and the folder's class, if asked for, disturbs nothing."""
    folder = made["folders"][f"{case.name}-saved"]
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(model) is type(case.model())
    reference = f"modeling_{case.name}.{MODEL_CLASS[case.name]}"
    theirs = get_class_from_dynamic_module(reference, folder).from_pretrained(folder)
    assert type(theirs).__module__.startswith("transformers_modules.")
    assert torch.equal(theirs(ids).logits, model(ids).logits)
    theirs.save_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    assert code_of(tmp_path / "theirs") == code_of(tmp_path / "ours") == code_of(Path(folder))


# The folder


@BOTH
def test_travelling_files_stand_alone_and_are_all_used(case, made):
    """transformers copies only what `from .name import` reaches; a file that nothing reaches is dead weight."""
    folder = Path(made["folders"][f"{case.name}-saved"])
    code = code_of(folder)
    assert set(code) >= COMMON_CODE | {f"configuration_{case.name}.py", f"modeling_{case.name}.py"}
    allowed = set(sys.stdlib_module_names) | {"torch", "transformers", "huggingface_hub"}
    siblings = {}
    for name, text in code.items():
        compile(text, name, "exec")
        assert text.splitlines()[0].startswith("# Part of hf-latent (Apache-2.0)")
        siblings[name] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, name
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module and "." not in node.module, name
                siblings[name].add(f"{node.module}.py")
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in allowed, name
        assert siblings[name] <= set(code), name
    reached, pending = set(), {f"modeling_{case.name}.py", f"configuration_{case.name}.py"}
    while pending:
        reached |= pending
        pending = set().union(*(siblings[name] for name in pending)) - reached
    assert reached == set(code)


@BOTH
def test_the_auto_map_is_complete_and_true(case, made):
    for way in ("saved", "trainer", "stale"):
        folder = Path(made["folders"][f"{case.name}-{way}"])
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
        for reference in auto_map.values():
            file, name = reference.split(".")
            assert re.search(rf"^class {name}\(", (folder / f"{file}.py").read_text(), re.MULTILINE), reference


def test_no_file_is_a_pickle(made):
    for folder in made["folders"].values():
        suffixes = {path.suffix for path in Path(folder).iterdir() if path.name != "training_args.bin"}
        assert suffixes == {".json", ".py", ".safetensors"}


@pytest.mark.parametrize("case", ["llada"], indirect=True)
def test_an_interrupted_save_leaves_the_code_of_the_one_before(case, model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    before = code_of(tmp_path)
    written = []
    write_text = Path.write_text

    def fail_in_the_third_file(path, text, **kwargs):
        written.append(path.name)
        if len(written) < 3:
            return write_text(path, text, **kwargs)
        write_text(path, text[: len(text) // 2], **kwargs)
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail_in_the_third_file)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert code_of(tmp_path) == before
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob(".*"))


# Who else saves


@pytest.fixture
def hub(monkeypatch):
    """A hub that remembers the files of each commit."""
    commits = []

    def create_repo(self, repo_id, **kwargs):
        return type("Url", (), {"repo_id": repo_id})()

    def create_commit(self, repo_id, operations, **kwargs):
        commits.append((repo_id, {op.path_in_repo: Path(op.path_or_fileobj).read_bytes() for op in operations}))

    def no_card(*args, **kwargs):
        raise EntryNotFoundError("no card")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(ModelCard, "load", no_card)
    return commits


@BOTH
@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained", "save again"])
def test_a_pushed_model_takes_its_code_along(case, model, hub, tmp_path, way):
    if way == "push_to_hub":
        model.push_to_hub("me/model")
    else:
        if way == "save again":
            model.save_pretrained(tmp_path / "model")
        model.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="me/model")
    [(repo_id, files)] = hub
    assert repo_id == "me/model"
    model.save_pretrained(tmp_path / "plain")
    code = code_of(tmp_path / "plain")
    assert {name: text.decode() for name, text in files.items() if name.endswith(".py")} == code
    assert {"config.json", "generation_config.json", "model.safetensors"} <= set(files)
    assert json.loads(files["config.json"])["auto_map"]["AutoModel"].endswith(MODEL_CLASS[case.name])


@BOTH
@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_a_pushed_configuration_takes_its_code_along(case, hub, tmp_path, way):
    config = case.config()
    if way == "push_to_hub":
        config.push_to_hub("me/config")
    else:
        config.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/config", commit_message="hello")
    [(repo_id, files)] = hub
    assert repo_id == "me/config"
    config.save_pretrained(tmp_path / "plain")
    assert {name for name in files if name.endswith(".py")} == set(code_of(tmp_path / "plain"))


class OwnConfig(LladaConfig):
    """A user's subclass."""


class OwnModel(LladaForMaskedDiffusion):
    """A user's subclass."""


@pytest.mark.parametrize("case", ["llada"], indirect=True)
def test_a_users_subclass_saves_and_its_code_is_not_ours_to_publish(case, model, ids, tmp_path):
    """A training script that cannot save at its end has lost the run."""
    own = OwnModel(OwnConfig(**case.fields))
    own.load_state_dict(model.state_dict())
    own.save_pretrained(tmp_path)
    assert not code_of(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    assert torch.equal(OwnModel.from_pretrained(tmp_path)(ids).logits, model(ids).logits)
