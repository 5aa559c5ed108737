"""A configuration that leads out of its folder is refused: what transformers and peft would follow, at any depth."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from hf_latent.hub import pull, push
from hf_latent.hub.safety.inspection import check_files, list_files

# File, fields, what the message says.
OUT = [
    ("config.json", {"transformers_weights": "../other/model.safetensors"}, "names weights outside of the folder"),
    ("config.json", {"transformers_weights": "/etc/model.safetensors"}, "names weights outside of the folder"),
    ("config.json", {"transformers_weights": "a/../../x.safetensors"}, "names weights outside of the folder"),
    ("config.json", {"transformers_weights": "..\\x.safetensors"}, "names weights outside of the folder"),
    ("config.json", {"transformers_weights": "pytorch_model.bin"}, "which is no safetensors file"),
    ("config.json", {"transformers_weights": "other.safetensors"}, "which is not there"),
    ("config.json", {"text_config": {"transformers_weights": "../x.safetensors"}}, "names weights outside"),
    ("config.json", {"text_config": {"auto_map": {"AutoModel": "other/repo--x.Model"}}}, "runs code of another"),
    ("config.json", {"custom_pipelines": {"chat": {"impl": "other/repo--x.Chat"}}}, "runs code of another repository"),
    ("config.json", {"custom_pipelines": {"chat": {"impl": "chat.Chat"}}}, "names the code 'chat.Chat'"),
    ("config.json", {"attn_implementation": "other/kernel"}, "runs kernels of another repository, 'other/kernel'"),
    (
        "config.json",
        {"_attn_implementation": {"text_config": "other/kernel:fn"}},
        "runs kernels of another repository",
    ),
    ("config.json", {"text_config": {"experts_implementation": "a/b"}}, "runs kernels of another repository"),
    ("config.json", {"index_path": "https://example.org/index"}, "leads out of the folder"),
    ("generation_config.json", {"custom_generate": "other/decoder"}, "runs the decoder of another place"),
    ("generation_config.json", {"auto_map": {"AutoGeneration": "a/b--x.Y"}}, "runs code of another repository"),
    ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "leads out of the folder, to '/etc/passwd'"),
    ("tokenizer_config.json", {"tokenizer_file": "../tokenizer.json"}, "leads out of the folder"),
    (
        "tokenizer_config.json",
        {"fast_tokenizer_files": ["tokenizer.json", "~/tokenizer.json"]},
        "leads out of the folder",
    ),
    ("tokenizer_config.json", {"chat_template_file": "file:///etc/passwd"}, "leads out of the folder"),
    ("tokenizer_config.json", {"chat_template_path": "C:\\x.jinja"}, "leads out of the folder"),
    ("processor_config.json", {"auto_map": {"AutoProcessor": "a/b--x.P"}}, "runs code of another repository"),
    (
        "processor_config.json",
        {"image_processor": {"auto_map": {"AutoImageProcessor": "x.P"}}},
        "names the code 'x.P'",
    ),
    (
        "processor_config.json",
        {"audio_tokenizer": {"audio_tokenizer_name_or_path": "../x"}},
        "has the local path ../x",
    ),
    ("preprocessor_config.json", {"speaker_embeddings": {"repo_or_path": "../x"}}, "leads out of the folder"),
    ("adapter_config.json", {"base_model_name_or_path": "../base"}, "has the local path ../base"),
    ("adapter_config.json", {"prompt_tuning_init_state_dict_path": "../x.safetensors"}, "leads out of the folder"),
    ("adapter_config.json", {"tokenizer_name_or_path": "/srv/x"}, "has the local path /srv/x"),
    ("adapter_config.json", {"corda_config": {"cache_file": "/tmp/x"}}, "leads out of the folder"),
    ("adapter_config.json", {"adapters": {"0": "../other"}}, "leads out of the folder"),
    ("adapter_config.json", {"megatron_core": "somebodys.module"}, "imports 'somebodys.module'"),
    ("adapter_config.json", {"auto_mapping": {"parent_library": "somebodys"}}, "imports 'somebodys'"),
]
# What checkpoints of others say and nothing follows.
FINE = [
    ("config.json", {"transformers_weights": "model.safetensors", "drop_path": 0.1, "attn_implementation": "sdpa"}),
    ("config.json", {"_name_or_path": "user/base", "text_config": {"_name_or_path": "", "init_weights": True}}),
    ("config.json", {"custom_pipelines": {"chat": {"impl": "modeling_llada.Chat", "pt": ["AutoModel"]}}}),
    ("tokenizer_config.json", {"vocab_file": "vocab.json", "tokenizer_file": None, "name_or_path": "user/base"}),
    ("tokenizer_config.json", {"chat_template": "{% for file in ['/etc/x', '../y'] %}{{ file }}{% endfor %}"}),
    ("adapter_config.json", {"base_model_name_or_path": "user/base", "megatron_core": "megatron.core"}),
    ("adapter_config.json", {"init_lora_weights": True, "tokenizer_name_or_path": "user/base"}),
    ("run.json", {"output_dir": "runs/sft", "model_name_or_path": "user/base"}),
]


@pytest.fixture
def folder(bundled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled, tmp_path / "mine"))


def change(folder: Path, file: str, fields: dict[str, Any]) -> None:
    path = folder / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | fields))


@pytest.mark.parametrize("is_leaving", [True, False], ids=["push", "pull"])
@pytest.mark.parametrize(("file", "fields", "message"), OUT, ids=str)
def test_a_field_that_leads_out_of_the_folder_is_refused(
    folder: Path, file: str, fields: dict[str, Any], message: str, is_leaving: bool
) -> None:
    check_files(list_files(folder), folder, is_leaving=is_leaving)
    change(folder, file, fields)
    with pytest.raises(ValueError) as error:
        check_files(list_files(folder), folder, is_leaving=is_leaving)
    assert f"- {file} " in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(("file", "fields"), FINE, ids=str)
def test_what_nothing_follows_is_taken(folder: Path, file: str, fields: dict[str, Any]) -> None:
    """A check that refuses every second repository is one that is turned off."""
    change(folder, file, fields)
    for is_leaving in (True, False):
        check_files(list_files(folder), folder, is_leaving=is_leaving)


def test_weights_elsewhere_are_refused_of_whom_one_trusts_too(hub: Any, folder: Path, tmp_path: Path) -> None:
    """As weights in an index; and a folder within a repository is no way around it."""
    (folder / "inner").mkdir()
    (folder / "inner" / "config.json").write_text('{"transformers_weights": "../../x.safetensors"}')
    with pytest.raises(ValueError, match=r"inner/config\.json names weights outside of the folder"):
        push(folder, "user/mine")
    HfApi().create_repo("user/evil")
    HfApi().upload_folder(repo_id="user/evil", folder_path=folder)
    with pytest.raises(ValueError, match=r"inner/config\.json names weights outside of the folder"):
        pull("user/evil", tmp_path / "pulled", trust_remote_code=True)
    assert not (tmp_path / "pulled").exists()
