"""
Whatever goes wrong, the repository is as it was or complete, nothing here is lost, the message says what to do, and
the same push again completes it.
"""

import hashlib
import json
import logging
import re
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import HfApi
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent.hub import HubError, pull, push

FOREVER = 1000


class Case(NamedTuple):
    """
    What fails: requests of `method` to `path`, with `action`, `times`; what the message says, and its status.

    `is_retried`: the client tries again by itself, so that failing once is no failure.
    """

    method: str
    path: str
    action: int | str
    message: str
    status: int | None = None
    is_retried: bool = True
    headers: dict[str, str] | None = None


# Of `repository_kinds`; a test holds both equal.
KINDS = ("llada", "dream", "latent-token", "latent-token-causal", "latent-diffusion", "trained", "adapter")
KINDS += ("decoder", "traces", "saved-traces")
# A model in shards and a data set meet every fault; the others, which differ from them in their files alone, a few.
EVERY_FAULT, FEW = ("trained", "traces"), ("upload-interrupted", "commit-500")
LIMITED = {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
CASES = {
    "upload-interrupted": Case("PUT", "/lfs/", "half", "The connection was lost: wait, and do it again"),
    "upload-disconnected": Case("PUT", "/lfs/", "disconnect", "The connection was lost"),
    "upload-500": Case("PUT", "/lfs/", 500, "The Hub has a problem of its own: wait", 500),
    "upload-429": Case("PUT", "/lfs/", 429, "Too many requests: wait", 429),
    "verify-500": Case("POST", "/verify", 500, "The Hub has a problem of its own", 500),
    "batch-503": Case("POST", "/objects/batch", 503, "The Hub has a problem of its own", 503),
    "batch-disconnected": Case("POST", "/objects/batch", "disconnect", "The connection was lost"),
    "preupload-429": Case("POST", "/preupload/", 429, "Too many requests", 429, is_retried=False, headers=LIMITED),
    "preupload-403": Case("POST", "/preupload/", 403, "The token may not write here", 403, is_retried=False),
    "tree-500": Case("GET", "/tree/", 500, "The Hub has a problem of its own", 500),
    "commit-500": Case("POST", "/commit/", 500, "The Hub has a problem of its own", 500, is_retried=False),
    "commit-502": Case("POST", "/commit/", 502, "The Hub has a problem of its own", 502, is_retried=False),
    "commit-429": Case("POST", "/commit/", 429, "Too many requests", 429, is_retried=False, headers=LIMITED),
    "commit-half-sent": Case("POST", "/commit/", "half", "The connection was lost", is_retried=False),
    "commit-disconnected": Case("POST", "/commit/", "disconnect", "The connection was lost", is_retried=False),
    "commit-409": Case("POST", "/commit/", 409, "Somebody else has changed the branch", 409, is_retried=False),
    "commit-412": Case("POST", "/commit/", 412, "Somebody else has changed the branch", 412, is_retried=False),
    "card-500": Case("POST", "/validate-yaml", 500, "The Hub has a problem of its own", 500, is_retried=False),
}


@pytest.fixture
def folder(bundled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled, tmp_path / "mine"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(folder: Path) -> None:
    """Other weights and another card, as after some more training."""
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nTrained some more.\n")


@pytest.mark.parametrize(
    ("kind", "name", "is_new"),
    [
        *((kind, name, False) for kind in KINDS for name in CASES if kind in EVERY_FAULT or name in FEW),
        *((kind, name, True) for kind in EVERY_FAULT for name in ("upload-interrupted", "tree-500", "commit-500")),
    ],
)
def test_a_failed_push_leaves_the_repository_as_it_was_and_the_next_completes_it(
    hub: Any, versions_of: Any, kind: str, name: str, is_new: bool, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of every kind: files of a push that fails in the middle would be half of a model, an adapter or a data set."""
    caplog.set_level(logging.DEBUG)
    case, versions = CASES[name], versions_of(kind)
    before: dict[str, bytes] = {}
    if not is_new:
        push(versions.first, "user/mine", verify=False)
        before = hub.repository("user/mine", versions.repo_type).contents()
        assert before == versions.first_files
    local = content(versions.second)
    hub.fail(case.method, case.path, case.action, times=FOREVER, headers=case.headers or {}, message=f"no, {token}")
    with pytest.raises(HubError, match=case.message) as error:
        push(versions.second, "user/mine", verify=False)
    assert error.value.status == case.status
    known = hub.repositories.get((versions.repo_type, "user/mine"))
    assert (known.contents() if known else {}) == before
    # Where the Hub does not even list its files, nobody can say.
    said = (
        "created and is empty|nothing was changed|Not confirmed" if is_new else "as it was before|nothing was changed"
    )
    assert re.search(said, str(error.value))
    assert content(versions.second) == local
    check_silence(token, error, caplog)

    hub.faults.clear()
    done = push(versions.second, "user/mine", verify=False)
    repository = hub.repository("user/mine", versions.repo_type)
    assert repository.contents() == versions.second_files != before
    assert done.commit_oid == repository.find("main")
    assert repository.history() == ["Upload with hf-latent"] * (1 if is_new else 2)


def check_silence(token: str, error: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No token in the message, in the traceback with all its causes, or in what anybody has logged."""
    shown = "".join(traceback.format_exception(error.value))
    assert error.value.__context__ is None and error.value.__cause__ is None
    for text in (str(error.value), repr(error.value), shown, caplog.text):
        assert token not in text
    assert "Request" in caplog.text  # the client has logged, so its silence means something


@pytest.mark.parametrize("kind", EVERY_FAULT)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_retried])
def test_what_fails_once_is_tried_again(hub: Any, versions_of: Any, kind: str, name: str) -> None:
    case, versions = CASES[name], versions_of(kind)
    fault = hub.fail(case.method, case.path, case.action, headers=case.headers or {})
    push(versions.first, "user/mine", verify=False)
    assert fault.times == 0
    assert hub.repository("user/mine", versions.repo_type).contents() == versions.first_files


def test_every_kind_of_the_end_to_end_test_meets_the_faults(kinds: Any) -> None:
    """What is published there and not here would be a repository that no fault was tried on."""
    source = (Path(__file__).parent / "test_end_to_end.py").read_text()
    names = set(re.findall(r'"user/([a-z-]+)"', source)) - {"marked", "marked-decoder"}  # what an attacker publishes
    assert len(names) > 5 and names <= set(KINDS) == set(kinds.FOLDERS)


def test_large_files_that_have_arrived_are_not_sent_again(hub: Any, folder: Path) -> None:
    """Two of them: one arrives, the other does not, then the commit fails."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    half = len(names) // 2
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{n}-of-00002.safetensors": part for n, part in ((1, names[:half]), (2, names[half:]))}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / shard, {"format": "pt"})
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    first = hashlib.sha256((folder / "model-00001-of-00002.safetensors").read_bytes()).hexdigest()
    hub.fail("PUT", f"/lfs/(?!.*{first})", "half", times=FOREVER)
    with pytest.raises(HubError):
        push(folder, "user/mine", verify=False)
    hub.faults.clear()
    hub.fail("POST", "/commit/", 500)
    with pytest.raises(HubError):
        push(folder, "user/mine", verify=False)
    push(folder, "user/mine", verify=False)
    repository = hub.repository("user/mine")
    assert sorted(repository.uploads.values()) == [1, 1]
    assert repository.contents() == content(folder)


def test_a_commit_whose_answer_is_lost_is_a_push_that_succeeded(hub: Any, folder: Path) -> None:
    """Otherwise one would push again, and never know."""
    push(folder, "user/mine", verify=False)
    change(folder)
    hub.fail("POST", "/commit/", "unanswered")
    done = push(folder, "user/mine", verify=False)
    repository = hub.repository("user/mine")
    assert repository.contents() == content(folder)
    assert done.commit_oid == repository.find("main") and done.commit_url.endswith(done.commit_oid)
    assert len(repository.history()) == 2


def test_a_pull_request_whose_answer_is_lost_is_said_to_be_complete_if_it_is_there(hub: Any, folder: Path) -> None:
    push(folder, "user/mine", verify=False)
    change(folder)
    hub.fail("POST", "/commit/", "unanswered")
    with pytest.raises(HubError, match="if a pull request is open on the page of the repository, it is complete"):
        push(folder, "user/mine", create_pr=True, verify=False)
    assert hub.repository("user/mine").contents("refs/pr/1") == content(folder)


def test_what_others_push_meanwhile_is_not_overwritten(hub: Any, folder: Path) -> None:
    push(folder, "user/mine", verify=False)
    change(folder)

    def meanwhile(repository: Any) -> None:
        line = {"key": "file", "value": {"path": "README.md", "content": "b3RoZXI="}}
        repository.commit([{"key": "header", "value": {"summary": "theirs"}}, line], "main", create_pr=False)

    hub.before_commit = meanwhile
    with pytest.raises(HubError, match=r"nothing of this push is in the repository\. Somebody else has changed"):
        push(folder, "user/mine", verify=False)
    repository = hub.repository("user/mine")
    assert repository.history() == ["theirs", "Upload with hf-latent"]
    assert repository.contents()["README.md"] == b"other"
    push(folder, "user/mine", verify=False)  # having looked at it
    assert repository.contents() == content(folder)


def test_a_branch_that_was_to_be_made_is_not_there_after_a_failed_upload(hub: Any, folder: Path) -> None:
    push(folder, "user/mine", verify=False)
    change(folder)
    hub.fail("PUT", "/lfs/", 500, times=FOREVER)
    with pytest.raises(HubError):
        push(folder, "user/mine", revision="later", verify=False)
    assert set(hub.repository("user/mine").refs) == {"refs/heads/main"}


@pytest.mark.parametrize(
    ("spoil", "status", "message"),
    [
        (
            lambda hub, token: hub.users.clear(),
            401,
            "wrong, expired or revoked: .*`hf auth login`, or set HF_",
        ),
        (lambda hub, token: hub.readers.add(token), 403, "The token may not write here: .*right to write"),
    ],
    ids=["revoked", "read-only"],
)
def test_a_token_that_does_not_do_is_said_and_not_shown(
    hub: Any,
    folder: Path,
    token: str,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Any, str], None],
    status: int,
    message: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    push(folder, "user/mine", verify=False)
    before = hub.repository("user/mine").contents()
    change(folder)
    spoil(hub, token)
    for dry_run in (True, False):
        with pytest.raises(HubError, match=message) as error:
            push(folder, "user/mine", dry_run=dry_run, verify=False)
        assert error.value.status == status
        check_silence(token, error, caplog)
    with pytest.raises(HubError, match=message):
        push(folder, "user/new", verify=False)
    assert hub.repository("user/mine").contents() == before
    hub.users[token] = "user"
    hub.readers.clear()
    push(folder, "user/mine", verify=False)
    assert hub.repository("user/mine").contents() == content(folder)


def test_a_token_that_is_revoked_during_the_upload(hub: Any, folder: Path, token: str) -> None:
    push(folder, "user/mine", verify=False)
    before = hub.repository("user/mine").contents()
    change(folder)
    hub.before_commit = lambda repository: hub.users.clear()
    hub.fail("POST", "/commit/", 401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
    with pytest.raises(HubError, match="revoked: check the name, or run `hf auth login`") as error:
        push(folder, "user/mine", verify=False)
    assert error.value.status == 401
    assert hub.repository("user/mine").contents() == before


def test_other_peoples_repositories_are_not_written_to(hub: Any, folder: Path, token: str) -> None:
    hub.users["hf_" + "z" * 40] = "ann"
    HfApi(token="hf_" + "z" * 40).create_repo("ann/theirs")
    with pytest.raises(HubError, match="The token may not write here") as error:
        push(folder, "ann/theirs", verify=False)
    assert error.value.status == 403 and hub.repository("ann/theirs").contents() == {}
    with pytest.raises(HubError, match="The token may not write here"):
        push(folder, "ann/new", verify=False)
    assert push(folder, "ann/theirs", create_pr=True, verify=False).pr_url  # which anybody may open
    assert hub.repository("ann/theirs").contents("refs/pr/1") == content(folder)


def test_a_hub_that_is_gone_is_said(hub: Any, folder: Path) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(HubError, match=r"nothing was changed on the Hub\. The connection was lost"):
        push(folder, "user/mine", verify=False)
    with pytest.raises(HubError, match=r"user/mine: not pulled\. The connection was lost"):
        pull("user/mine")


def test_the_command_line_says_it_in_one_line(
    hub: Any, folder: Path, token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    hub.fail("POST", "/commit/", 500, message=f"no, {token}")
    monkeypatch.setattr("sys.argv", ["hf-latent", "push", str(folder), "user/mine", "--no-verify"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    shown = capsys.readouterr()
    assert left.value.code == 2
    assert "hf-latent: user/mine: Not pushed; the repository was created and is empty." in shown.err
    assert "Traceback" not in shown.err and token not in shown.err + shown.out
    assert CliRunner().invoke(cli.app, ["push", str(folder), "user/mine", "--no-verify"]).exit_code == 0
