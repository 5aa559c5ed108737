"""What may not be in a repository is refused, on the way out and on the way in, with file, reason and remedy."""

import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from hf_latent.hub import bundle_decoder, pull, push
from hf_latent.hub.bundles.travelling_code import decoder_sources, model_sources
from hf_latent.hub.safety.inspection import check_files, list_files
from hf_latent.hub.safety.local_paths import find_local_path
from hf_latent.hub.safety.tokens import find_token, redact

HF = "hf_" + "A1b2C3d4" * 5


def torch_archive() -> bytes:
    """As `torch.save` writes it, under whatever name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


@pytest.fixture
def folder(bundled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled, tmp_path / "mine"))


def change_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# Name of the file, what it holds, what the message says. The first are left out of a push and refused by a pull.
STATES = [
    ("optimizer.pt", b"x", "optimizer.pt is the state of a training run, a pickle: .*hf-latent bundle"),
    ("scheduler.pt", b"x", "scheduler.pt is the state of a training run"),
    ("rng_state_0.pth", b"x", "rng_state_0.pth is the state of a training run"),
    ("training_args.bin", b"x", "training_args.bin is a pickle"),
    ("checkpoint-5/optimizer.pt", b"x", "checkpoint-5/optimizer.pt is the state"),
]
PICKLES = [
    ("pytorch_model.bin", b"x", "pytorch_model.bin is a pickle"),
    ("deep/er/model.PKL", b"x", "deep/er/model.PKL is a pickle"),
    ("data.dat", pickle.dumps({}), "data.dat is a pickle by its content"),
    ("weights", torch_archive(), "weights is a pickle by its content"),
    ("model-2.safetensors", pickle.dumps({}), "model-2.safetensors is not a safetensors file"),
    ("lib.so", b"x", "lib.so is compiled code"),
]
CODE = [
    ("setup.py", b"print(1)", "setup.py is no module of hf-latent"),
    ("deep/modeling_llada.py", None, "deep/modeling_llada.py is no module of hf-latent"),
    ("modeling_llada.py", b"import os", "modeling_llada.py differs from the module of that name"),
    ("custom_generate/generate.py", b"def generate(): pass", "custom_generate/generate.py differs"),
    ("custom_generate/helper.py", b"", "custom_generate/helper.py is no module"),
]
PRIVATE = [
    ("README.md", b"See /home/ann/runs/7 for more.", "README.md has the local path /home/ann/runs/7 in line 1"),
    ("run.json", b'{"a": 1,\n"dir": "/tmp/abc"}', "run.json has the local path /tmp/abc in line 2"),
    ("run.yaml", b"data: /scratch/ann/gsm8k", "run.yaml has the local path /scratch/ann/gsm8k"),
    ("run.json", b'{"dir": "C:\\\\Users\\\\ann\\\\run"}', "run.json has the local path C:.*Users"),
    ("sub/config.json", b'{"text_config": {"_name_or_path": "."}}', r"has the local path \. as `_name_or_path`"),
    ("log.txt", b"at file:///home/ann/x", "log.txt has the local path file:///home/ann/x"),
    ("log.jsonl", b"{}\n" + json.dumps({"key": HF}).encode(), "log.jsonl has a Hugging Face token in line 2"),
    ("notes.md", b"AKIAABCDEFGHIJKLMNOP", "notes.md has an AWS key in line 1"),
    ("tokenizer.json", json.dumps({"x": HF}).encode(), "tokenizer.json has a Hugging Face token in line 1"),
    (f"{HF}.txt", b"", "A file has a Hugging Face token in its name"),
]


def name_of(value: Any) -> str | None:
    return value.replace("/", " ") if isinstance(value, str) and len(value) < 30 else ""


@pytest.mark.parametrize(("name", "content", "message"), [*PICKLES, *CODE, *PRIVATE], ids=name_of)
def test_a_folder_with_it_is_not_pushed(
    hub: Any, folder: Path, name: str, content: bytes | None, message: str
) -> None:
    """Nothing of it reaches the Hub, and the message does not repeat the token."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_sources()["modeling_llada.py"].encode() if content is None else content)
    with pytest.raises(ValueError, match=message) as error:
        push(folder, "user/mine", verify=False)
    assert HF not in str(error.value)
    assert str(error.value).startswith("Not pushed: `folder` has 1 file(s) that do not belong into a repository.\n- ")
    assert hub.entries == []


@pytest.mark.parametrize(("name", "content", "message"), [*STATES, *PICKLES, *CODE], ids=name_of)
def test_a_repository_with_it_is_not_pulled(
    hub: Any, folder: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """What tells by its name is not even downloaded; nothing stays in the folder that was asked for."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_sources()["modeling_llada.py"].encode() if content is None else content)
    HfApi().create_repo("user/evil")
    HfApi().upload_folder(repo_id="user/evil", folder_path=folder)
    for target in (tmp_path / "pulled", None):
        with pytest.raises(ValueError, match=message):
            pull("user/evil", target)
    by_name = not message.endswith(("content", "file")) and (name, content, message) in [*STATES, *PICKLES]
    assert bool(hub.requests("GET", "/resolve/")) is not by_name
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["mine"]


@pytest.mark.parametrize("shard", ["../../x.safetensors", "/etc/x.safetensors", "..", "a/b.safetensors", "a\\b"])
def test_an_index_that_leads_out_of_the_folder_is_refused(hub: Any, folder: Path, tmp_path: Path, shard: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
    message = f"index.json names weights outside of the folder, {shard!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        push(folder, "user/mine")
    HfApi().create_repo("user/evil")
    HfApi().upload_folder(repo_id="user/evil", folder_path=folder)
    with pytest.raises(ValueError, match=re.escape(message)):
        pull("user/evil", tmp_path / "pulled", trust_remote_code=True)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "pytorch_model.bin"}}))
    with pytest.raises(ValueError, match=r"names 'pytorch_model.bin', which is no safetensors file"):
        push(folder, "user/mine")
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ValueError, match="which is not there: save the model again"):
        push(folder, "user/mine")


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "other/repo--x.Model"}}, "runs code of another repository, 'other"),
        (
            "config.json",
            {"auto_map": {"AutoModel": "modeling_x.Model"}},
            "names the code 'modeling_x.Model'",
        ),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": [None, "a/b--tok.T"]}},
            "tokenizer_config.json runs code of another repository, 'a/b--tok.T'",
        ),
        (
            "adapter_config.json",
            {"auto_mapping": {"parent_library": "hf_latent.modeling"}},
            "adapter_config.json imports 'hf_latent.modeling', .*set `task_type`",
        ),
    ],
)
def test_configurations_that_run_other_code_are_refused(
    hub: Any, folder: Path, tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    change_json(folder / file, **fields)
    with pytest.raises(ValueError, match=message):
        push(folder, "user/mine")
    HfApi().create_repo("user/evil")
    HfApi().upload_folder(repo_id="user/evil", folder_path=folder)
    with pytest.raises(ValueError, match=message):
        pull("user/evil")
    assert (pull("user/evil", tmp_path / "trusted", trust_remote_code=True) / file).exists()


def test_names_from_the_hub_that_lead_out_of_the_folder_are_refused(hub: Any, folder: Path, tmp_path: Path) -> None:
    """A server can say what it likes; the client's own check is not relied upon."""
    push(folder, "user/evil", verify=False)
    repository = hub.repository("user/evil")
    files = repository.commits[repository.find("main")].files
    files["../../outside.txt"] = files["README.md"]
    with pytest.raises(ValueError, match=r"\.\./\.\./outside.txt leads out of the folder"):
        pull("user/evil", tmp_path / "pulled")
    assert not list(tmp_path.rglob("outside.txt"))


def test_links_out_of_the_folder_are_refused(hub: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    (folder / "inside.md").symlink_to(folder / "README.md")
    push(folder, "user/mine", dry_run=True, verify=False)
    (folder / "linked.md").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "other").mkdir()
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "broken").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError) as error:
        push(folder, "user/mine", verify=False)
    assert "has 3 file(s)" in str(error.value)
    assert "linked.md is a link out of the folder: copy the file" in str(error.value)
    assert "linked is a link to a folder or to nothing" in str(error.value)
    assert "broken is a link to a folder or to nothing" in str(error.value)


def test_all_of_it_is_said_at_once_and_the_list_ends(hub: Any, folder: Path) -> None:
    for number in range(30):
        (folder / f"state-{number:02d}.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="has 30 file") as error:
        push(folder, "user/mine")
    assert str(error.value).count("\n- state-") == 20 and "and 10 more" in str(error.value)


def test_the_token_of_this_machine_is_found_whatever_it_looks_like(hub: Any, folder: Path) -> None:
    (folder / "notes.md").write_text("the key is: my-very-own-token")
    push(folder, "user/mine", dry_run=True, verify=False)
    hub.users["my-very-own-token"] = "user"
    with pytest.raises(ValueError, match=r"notes.md has the token of this machine in line 1") as error:
        push(folder, "user/mine", token="my-very-own-token", verify=False)
    assert "my-very-own" not in str(error.value)


def test_a_bundle_with_a_decoder_passes(folder: Path) -> None:
    """Else the check would refuse what this library writes itself; and the code is compared, byte for byte."""
    decoder = bundle_decoder("lrd_med", folder, verify=False, entropy_threshold=0.5, block_length=8)
    files = list_files(decoder)
    check_files(files, decoder)
    code = {name: path.read_text() for name, path in files.items() if name.endswith(".py")}
    own = {f"custom_generate/{name}": text for name, text in decoder_sources().items()} | model_sources()
    assert {name for name in code if own.get(name) != code[name]} == {"custom_generate/generate.py"}
    for line in ("import os", "DEFAULTS['x'] = 1"):
        entry = decoder / "custom_generate" / "generate.py"
        entry.write_text(code["custom_generate/generate.py"] + line)
        with pytest.raises(ValueError, match=r"generate.py differs"):
            check_files(list_files(decoder), decoder)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("in /home/ann/x.json,", "/home/ann/x.json"),
        ('"/Users/ann/run"', "/Users/ann/run"),
        ("(/mnt/disk1)", "/mnt/disk1"),
        ("path=/content/drive", "/content/drive"),
        ("https://example.org/home/ann", None),
        ("see docs/tmp/x and ./tmp/x, ~/tmp/x or ../data/y", None),
        ("/usr/lib/python3 and /etc/hosts, /dev/null", None),
        ("either/or, 1/2, a /home page", None),
        ("</content/>", None),
        ("C:\\Users\\ann", "C:\\Users\\ann"),
        ("Note: a\\b", None),
    ],
)
def test_local_paths_are_told_from_addresses_and_prose(text: str, found: str | None) -> None:
    assert find_local_path(text) == found


def test_the_folder_one_is_in_is_found_wherever_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "cwd", classmethod(lambda cls: Path("/srv2/ann/project")))
    assert find_local_path("in /srv2/ann/project/x") == "/srv2/ann/project"
    assert find_local_path("in /srv2/ann/projects") is None


@pytest.mark.parametrize(
    "secret",
    [
        HF,
        "hf_oauth_" + "a" * 40,
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a" * 60,
        "glpat-" + "x" * 20,
        "sk-ant-api03-" + "a" * 40,
        "sk-" + "a" * 48,
        "AIza" + "a" * 35,
        "xoxb-123456789012-abc",
        "pypi-" + "A" * 60,
        "WANDB_API_KEY=" + "0123456789" * 4,
        "eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + "." + "c" * 20,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "https://ann:hunter2@example.org",
        "Authorization: Bearer abcdefghijklmnop",
    ],
)
def test_tokens_are_found_and_hidden(secret: str) -> None:
    text = f"before {secret} after"
    assert find_token(text) is not None
    assert secret not in redact(text) and redact(text).startswith("before ") and redact(text).endswith(" after")


@pytest.mark.parametrize(
    "text", ["hf_latent, hf_hub_download", "a" * 40, "sk-learn and sk-ip", "AKIA", "https://example.org/a@b", "eyJ"]
)
def test_prose_and_hashes_are_no_tokens(text: str) -> None:
    assert find_token(text) is None and redact(text) == text


def refuses(check: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        check()
    return str(error.value)


def test_a_pull_puts_a_folder_in_place_whole_or_not_at_all(hub: Any, folder: Path, tmp_path: Path) -> None:
    push(folder, "user/mine", verify=False)
    target = pull("user/mine", tmp_path / "pulled")
    assert {path.name for path in target.iterdir()} == {path.name for path in folder.iterdir()} | {".gitattributes"}
    assert "must be empty or not exist" in refuses(lambda: pull("user/mine", target))
    (tmp_path / "file").write_text("")
    assert "must be empty or not exist" in refuses(lambda: pull("user/mine", tmp_path / "file"))
    assert "`repo_type` must be" in refuses(lambda: pull("user/mine", repo_type="space"))
    hub.fail("GET", "/content/", "disconnect", times=100)
    with pytest.raises(OSError, match=r"user/mine: not pulled\. The connection was lost"):
        pull("user/mine", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    hub.faults.clear()
    done = len(hub.requests("GET", r"/resolve/.*/config\.json"))
    assert (pull("user/mine", tmp_path / "again") / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    assert len(hub.requests("GET", r"/resolve/.*/config\.json")) == done  # what was there was not fetched again
    assert not list(tmp_path.glob(".*partial"))
