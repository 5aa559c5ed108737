"""A push is one commit of exactly what a dry run lists; the Hub is a server of ours that speaks its protocol."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent.hub import PushPlan, bundle, bundle_decoder, pull, push
from hf_latent.hub.bundles.travelling_code import model_sources


@pytest.fixture
def folder(bundled: Path, tmp_path: Path) -> Path:
    """A bundle, with results and a picture."""
    folder = Path(shutil.copytree(bundled, tmp_path / "mine"))
    (folder / "results.json").write_text('{"accuracy": 1.0}')
    (folder / "plots").mkdir()
    (folder / "plots" / "curve.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def received(repository: Any, commit: str) -> list[tuple[str, int, bool]]:
    """What came with a commit, by the server's own account: path, bytes, whether as a large file."""
    files = repository.commits[commit].files
    written = [line for line in repository.commits[commit].operations if line["key"] in ("file", "lfsFile")]
    return sorted((w["value"]["path"], files[w["value"]["path"]].size, w["key"] == "lfsFile") for w in written)


def listed(plan: PushPlan) -> list[tuple[str, int, bool]]:
    return sorted((file.path, file.size, file.is_lfs) for file in plan.sent)


def test_a_dry_run_lists_exactly_what_the_hub_then_receives(hub: Any, folder: Path) -> None:
    """To a new repository, to one that has a part of it, and to one that keeps other files as large ones."""
    empty = [hub.repositories, hub.requests("POST", "")]
    plan = push(folder, "user/mine", dry_run=True, verify=False)
    assert plan.is_new and not plan.was_asked and plan.commit_oid is None
    assert [hub.repositories, hub.requests("POST", "")] == empty
    done = push(folder, "user/mine", verify=False)
    repository = hub.repository("user/mine")
    assert repository.contents() == content(folder)
    assert listed(plan) == received(repository, done.commit_oid)
    assert {"model.safetensors", "plots/curve.png"} == {path for path, _, is_lfs in listed(plan) if is_lfs}

    (folder / "results.json").write_text('{"accuracy": 0.5}')
    (folder / "new.md").write_text("new")
    attributes = repository.files()[".gitattributes"].content + b"*.jsonl filter=lfs diff=lfs merge=lfs -text\n"
    HfApi().upload_file(path_or_fileobj=attributes, path_in_repo=".gitattributes", repo_id="user/mine")
    (folder / "log.jsonl").write_text("{}\n")
    plan = push(folder, "user/mine", dry_run=True, verify=False)
    assert plan.was_asked and not plan.is_new
    assert listed(plan) == [("log.jsonl", 3, True), ("new.md", 3, False), ("results.json", 17, False)]
    assert f"bytes in 3 files; {len(content(folder)) - 3} files are there already" in str(plan)
    assert len(repository.history()) == 2  # the dry run has added none
    done = push(folder, "user/mine", verify=False)
    assert listed(plan) == received(repository, done.commit_oid) and listed(done) == listed(plan)
    assert repository.contents() == content(folder)


def test_a_dry_run_without_a_network_says_that_it_has_not_asked(
    hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    plan = push(folder, "user/mine", dry_run=True, verify=False)
    assert not plan.was_asked and "the Hub was not asked" in str(plan)
    assert {file.path for file in plan.files} == set(content(folder))
    with pytest.raises(OSError, match=r"nothing was changed on the Hub\. HF_HUB_OFFLINE is set"):
        push(folder, "user/mine", verify=False)


def test_a_push_is_one_commit_and_the_same_push_again_is_none(hub: Any, folder: Path) -> None:
    first = push(folder, "user/mine", commit_message="Say hello", verify=False)
    again = push(folder, "user/mine", verify=False)
    assert hub.repository("user/mine").history() == ["Say hello"]
    assert again.commit_oid == first.commit_oid and again.sent == ()
    assert len(hub.requests("POST", "/commit/")) == 1


def test_weights_and_code_of_an_earlier_push_go_and_everything_else_stays(
    hub: Any, folder: Path, sudoku_model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """A loader that finds an index of old shards takes the old weights."""
    HfApi().create_repo("user/mine")
    sharded = tmp_path / "sharded"
    sudoku_model.save_pretrained(sharded, max_shard_size="20KB")
    (sharded / "modeling_old.py").write_text("")
    (sharded / "handler.py").write_text("")
    (sharded / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    (sharded / "notes.md").write_text("by hand")
    HfApi().upload_folder(repo_id="user/mine", folder_path=sharded)
    plan = push(folder, "user/mine", dry_run=True, verify=False)
    shards = {path.name for path in sharded.glob("model-*.safetensors")}
    assert len(shards) > 1
    gone = shards | {"model.safetensors.index.json", "modeling_old.py", "pytorch_model.bin"}
    assert set(plan.deleted) == gone
    assert all(f"delete       {name}" in str(plan) for name in gone)
    push(folder, "user/mine", verify=False)
    kept = {"handler.py": b"", "notes.md": b"by hand"}
    assert hub.repository("user/mine").contents() == content(folder) | kept


def test_a_branch_is_made_and_a_pull_request_opened(hub: Any, folder: Path) -> None:
    push(folder, "user/mine", verify=False)
    repository = hub.repository("user/mine")
    before = repository.find("main")
    (folder / "results.json").write_text("{}")
    push(folder, "user/mine", revision="exp/one", verify=False)
    assert repository.find("main") == before
    assert repository.contents("exp/one") == content(folder)
    (folder / "results.json").write_text('{"n": 2}')
    done = push(folder, "user/mine", create_pr=True, verify=False)
    assert done.pr_url == f"{hub.url}/user/mine/discussions/1"
    assert repository.find("main") == before
    assert repository.contents("refs/pr/1") == content(folder)
    (folder / "results.json").write_text('{"n": 3}')
    push(folder, "user/mine", revision="refs/pr/1", verify=False)
    assert repository.contents("refs/pr/1") == content(folder)
    with pytest.raises(ValueError, match=r"`revision`='refs/pr/7' is no pull request of user/mine"):
        push(folder, "user/mine", revision="refs/pr/7", verify=False)


def test_private_is_what_is_asked_for_or_an_error(hub: Any, folder: Path) -> None:
    """A folder that was meant to be private must not land in a public repository of that name."""
    push(folder, "mine", private=True, verify=False)  # the namespace is the token's
    assert hub.repository("user/mine").private
    push(folder, "user/open", verify=False)
    assert not hub.repository("user/open").private
    (folder / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="`private`=True, but user/open exists and is public"):
        push(folder, "user/open", private=True, verify=False)
    assert hub.repository("user/open").history() == ["Upload with hf-latent"]


@pytest.mark.slow
def test_objects_are_written_and_pushed(hub: Any, sudoku_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """With `verify`, which loads the model where hf-latent is not installed."""
    plan = push(sudoku_model, "user/model", tokenizer=tokenizer)
    assert plan.kind == "model"
    files = hub.repository("user/model").contents()
    assert {name for name in files if name.endswith(".py")} <= set(model_sources())
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)

    adapted = get_peft_model(sudoku_model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    plan = push(adapted, "user/adapter", tokenizer=tokenizer, base_model="user/model")
    assert plan.kind == "adapter" and plan.repo_type == "model"
    files = hub.repository("user/adapter").contents()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/model"
    assert {"adapter_model.safetensors", "tokenizer.json"} <= set(files)
    assert push(bundle_decoder("lrd", tmp_path / "decoder", verify=False), "user/lrd").kind == "decoder"


def test_a_base_model_is_named_in_a_copy(hub: Any, sudoku_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The folder that is pushed is the user's: it is not changed."""
    base = bundle(sudoku_model, tokenizer, tmp_path / "base", verify=False)
    sudoku_model.config._name_or_path = sudoku_model.name_or_path = str(base)
    adapted = get_peft_model(sudoku_model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    before = content(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"adapter_config.json has the local path .*`base_model="):
        push(tmp_path / "adapter", "user/adapter")
    assert ("model", "user/adapter") not in hub.repositories
    push(tmp_path / "adapter", "user/adapter", base_model="user/base")
    assert content(tmp_path / "adapter") == before
    files = hub.repository("user/adapter").contents()
    assert b"base_model: user/base\n" in files["README.md"] and b"base_model:adapter:user/base\n" in files["README.md"]
    assert str(tmp_path).encode() not in b"".join(files.values())


def test_data_sets_become_parquet_with_their_splits(hub: Any, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"trace": "a", "score": 0.5}, {"trace": "b", "score": -1.0}])
    splits = DatasetDict({"train": rows, "test": rows.select([1])})
    plan = push(splits, "user/both")
    assert plan.repo_type == "dataset" and plan.kind == "dataset"
    repository = hub.repository("user/both", "dataset")
    assert set(repository.contents()) == {
        "README.md",
        "data/train-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
    }
    folder = pull("user/both", tmp_path / "both", repo_type="dataset")
    for split, part in splits.items():
        assert (
            Dataset.from_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet")).to_list() == part.to_list()
        )
    run = tmp_path / "run"  # of `hf-latent traces`
    rows.save_to_disk(run / "traces")
    (run / "shards").mkdir()
    (run / "shards" / "00000.jsonl").write_text("{}")
    (run / "README.md").write_text("# Mine\n")
    assert push(run, "user/traces", dry_run=True).repo_type == "dataset"
    push(run, "user/traces")
    files = hub.repository("user/traces", "dataset").contents()
    assert set(files) == {"README.md", "data/train-00000-of-00001.parquet"} and files["README.md"] == b"# Mine\n"
    with pytest.raises(ValueError, match="a split must be named"):
        push(DatasetDict({"a b": rows}), "user/other")


def test_a_large_push_takes_several_commits_and_goes_on_where_it_stopped(hub: Any, tmp_path: Path) -> None:
    """huggingface_hub's own pipeline, which needs hf_xet; files that git keeps need no xet server."""
    pytest.importorskip("hf_xet")
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03d}.jsonl").write_text(json.dumps({"number": number}))
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("mine")
    import huggingface_hub.constants as constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        # The second commit fails for good, after the client's own six tries.
        hub.before_commit = lambda repository: hub.fail("POST", "/commit/", 500, times=100)
        with pytest.raises(OSError, match="a part of the files may be in the repository until you push again"):
            push(folder, "user/data", large=True)
        hub.faults.clear()
        repository = hub.repository("user/data", "dataset")
        assert repository.history() == ["Upload with hf-latent"]
        assert 0 < len(repository.contents()) < 300
        push(folder, "user/data", large=True)
    assert len(repository.history()) == 2
    assert repository.contents() == {name: text for name, text in content(folder).items() if ".git/" not in name}


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda path: path / "none", {}, "`source` must be a folder"),
        (lambda path: 3, {}, "`source` must be a folder, a model of hf-latent, a PEFT model .* got int"),
        (lambda path: path, {}, "`source` must be a folder with a model .* holds nothing"),
        (lambda path: path, {"repo_type": "space"}, "`repo_type` must be 'model', 'dataset' or None, got 'space'"),
        (lambda path: path, {"commit_message": "hf_" + "x" * 34}, "`commit_message` has a Hugging Face token in it"),
        (lambda path: path, {"tokenizer": "some"}, "`tokenizer` goes with a model"),
    ],
)
def test_what_cannot_be_pushed_is_refused_by_name(
    hub: Any, tmp_path: Path, make: Callable[[Path], Any], arguments: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    source = make(tmp_path / "empty")
    with pytest.raises(ValueError, match=message):
        push(source, "user/mine", **arguments)
    assert hub.entries == []


def test_what_is_not_whole_is_refused_with_what_to_do(hub: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`repo_type` must be 'model' for a model, got 'dataset'"):
        push(folder, "user/mine", repo_type="dataset")
    with pytest.raises(ValueError, match="`base_model` is for adapters, and `source` is a model"):
        push(folder, "user/mine", base_model="user/base")
    with pytest.raises(ValueError, match="Repo id must"):
        push(folder, "user/mine/deep", verify=False)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="a model of type 'llama', which is not one of hf-latent"):
        push(folder, "user/mine")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "user/base"}')
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        push(adapter, "user/adapter")
    assert not hub.repositories


def test_on_the_command_line(hub: Any, folder: Path, tmp_path: Path) -> None:
    run = CliRunner()
    arguments = ["push", str(folder), "user/mine", "--no-verify"]
    dry = run.invoke(cli.app, [*arguments, "--dry-run", "--private"])
    assert dry.exit_code == 0, dry.output
    assert "LFS  model.safetensors" in dry.output
    assert "Without --dry-run this goes to model user/mine, main (new)" in dry.output
    assert not hub.repositories
    done = run.invoke(cli.app, [*arguments, "--private", "--message", "First"])
    assert done.exit_code == 0, done.output
    repository = hub.repository("user/mine")
    assert repository.private and repository.history() == ["First"]
    assert f"{hub.url}/user/mine/commit/{repository.find('main')}" in done.output
    (folder / "new.md").write_text("new")
    opened = run.invoke(cli.app, [*arguments, "--create-pr"])
    assert f"{hub.url}/user/mine/discussions/1" in opened.output
    pulled = run.invoke(cli.app, ["pull", "user/mine", str(tmp_path / "pulled"), "--revision", "refs/pr/1"])
    assert pulled.exit_code == 0, pulled.output
    assert "new.md" in pulled.output
    assert content(tmp_path / "pulled") == content(folder) | {
        ".gitattributes": repository.files()[".gitattributes"].content
    }
    for command in ("push", "pull"):
        assert "hf auth login" in run.invoke(cli.app, [command, "--help"]).output
