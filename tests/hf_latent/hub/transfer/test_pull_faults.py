"""
A download that fails leaves nothing half, and what was here before; the message says what to do, and the same call
again completes it.
"""

import json
import logging
import re
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hf_latent.hub import HubError, pull, push

FOREVER = 1000
OWNER = "hf_" + "z" * 40  # ann's, whose repositories are pulled here
# Of `repository_kinds`; a test of the pushes holds both equal.
KINDS = ("llada", "dream", "latent-token", "latent-token-causal", "latent-diffusion", "trained", "adapter")
KINDS += ("decoder", "traces", "saved-traces")
# A model in shards and a data set meet every fault; the others, which differ from them in their files alone, a few.
EVERY_FAULT, FEW = ("trained", "traces"), ("large-disconnected", "file-500", "gated")


class Case(NamedTuple):
    """What is done to the Hub and the repository, what the message says, and its status."""

    spoil: Callable[[Any, Any], Any]
    message: str
    status: int | None = None


def failing(method: str, path: str, action: int | str, **kwargs: Any) -> Callable[[Any, Any], Any]:
    return lambda hub, repository: hub.fail(method, path, action, times=FOREVER, **kwargs)


LIMITED = {"RateLimit": '"resolvers";r=0;t=1', "RateLimit-Policy": '"fixed window";"resolvers";q=500;w=300'}
LOST, PROBLEM, LOGIN = (
    "The connection was lost: wait",
    "The Hub has a problem of its own: wait",
    "expired or revoked: ",
)
CASES = {
    "large-interrupted": Case(failing("GET", "/content/", "half"), LOST),
    "large-disconnected": Case(failing("GET", "/content/", "disconnect"), LOST),
    "large-500": Case(failing("GET", "/content/", 500), PROBLEM, 500),
    "large-429": Case(failing("GET", "/content/", 429), "Too many requests: wait", 429),
    "card-interrupted": Case(failing("GET", r"/resolve/.*README\.md", "half"), LOST),
    "file-disconnected": Case(failing("GET", "/resolve/", "disconnect"), LOST),
    "file-500": Case(failing("GET", "/resolve/", 500), PROBLEM, 500),
    "file-429": Case(failing("GET", "/resolve/", 429, headers=LIMITED), "Too many requests: wait", 429),
    "head-500": Case(failing("HEAD", "/resolve/", 500), PROBLEM, 500),
    "head-disconnected": Case(failing("HEAD", "/resolve/", "disconnect"), LOST),
    "info-500": Case(failing("GET", r"/revision/|/api/[a-z]+/ann/mine(\?|$)", 500), PROBLEM, 500),
    "tree-429": Case(failing("GET", "/tree/", 429), "Too many requests: wait", 429),
    "tree-interrupted": Case(failing("GET", "/tree/", "half"), LOST),
    "gated": Case(lambda hub, repo: setattr(repo, "gated", True), "The repository is gated: ask for access", 403),
    "private": Case(lambda hub, repo: setattr(repo, "private", True), "does not exist, or the token is missing", 404),
    "revoked": Case(lambda hub, repo: hub.users.clear(), LOGIN, 401),
    # Listed with a token that is good, and asked for the files with it no more.
    "revoked-meanwhile": Case(lambda hub, repo: hub.fail("HEAD", "/resolve/", hub.users.clear), LOGIN, 401),
}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_silence(token: str, error: Any, caplog: pytest.LogCaptureFixture) -> None:
    shown = "".join(traceback.format_exception(error.value))
    for text in (str(error.value), repr(error.value), shown, caplog.text):
        assert token not in text
    assert "Request" in caplog.text  # the client has logged, so its silence means something


def repair(hub: Any, repository: Any, users: dict[str, str]) -> None:
    hub.faults.clear()
    hub.users.update(users)
    repository.gated = repository.private = False


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in CASES if kind in EVERY_FAULT or name in FEW]
)
def test_a_failed_pull_leaves_nothing_half_and_the_next_completes_it(
    hub: Any,
    versions_of: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    token: str,
    kind: str,
    name: str,
) -> None:
    """
    Into a folder, and into the cache, which holds an earlier version: what could be loaded before, without a network
    too, can be loaded after the failure.
    """
    versions, case = versions_of(kind), CASES[name]
    hub.users[OWNER] = "ann"
    users, asked = dict(hub.users), {"repo_type": versions.repo_type}
    push(versions.first, "ann/mine", token=OWNER, verify=False)
    old = pull("ann/mine", **asked)
    push(versions.second, "ann/mine", token=OWNER, verify=False)
    repository = hub.repository("ann/mine", versions.repo_type)
    caplog.set_level(logging.DEBUG)
    for target in (tmp_path / "pulled", None):
        case.spoil(hub, repository)
        with pytest.raises(HubError, match=case.message) as error:
            pull("ann/mine", target, **asked)
        assert error.value.status == case.status and str(error.value).startswith("ann/mine: not pulled. ")
        check_silence(token, error, caplog)
        assert not (tmp_path / "pulled").exists()
        repair(hub, repository, users)
        with monkeypatch.context() as patch:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            assert pull("ann/mine", **asked) == old and read(old) == versions.first_files
        if target is not None:
            assert read(pull("ann/mine", target, **asked)) == versions.second_files
            shutil.rmtree(target)
            assert list(tmp_path.glob(".pulled*")) == []
    assert read(pull("ann/mine", **asked)) == versions.second_files


def read(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if name != ".gitattributes"}


@pytest.mark.parametrize("kind", EVERY_FAULT)
@pytest.mark.parametrize("name", ["large-interrupted", "file-500", "revoked-meanwhile"])
def test_a_first_pull_into_the_cache_that_fails_is_not_taken_for_a_whole_one(
    hub: Any, versions_of: Any, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    """Without a network, the cache is all there is to ask."""
    versions, case = versions_of(kind), CASES[name]
    users, asked = dict(hub.users), {"repo_type": versions.repo_type}
    push(versions.first, "user/mine", verify=False)
    repository = hub.repository("user/mine", versions.repo_type)
    case.spoil(hub, repository)
    with pytest.raises(HubError, match=case.message):
        pull("user/mine", **asked)
    repair(hub, repository, users)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set.*unset it"):
            pull("user/mine", **asked)
    assert read(pull("user/mine", **asked)) == versions.first_files


@pytest.mark.parametrize("kind", KINDS)
def test_a_revision_that_changes_between_two_tries_gives_the_new_one_whole(
    hub: Any, versions_of: Any, tmp_path: Path, kind: str
) -> None:
    """Files of the first try are there, some of them by names that the new revision does not have."""
    versions = versions_of(kind)
    asked = {"repo_type": versions.repo_type}
    push(versions.first, "user/mine", verify=False)
    hub.fail("GET", "/content/.*", "disconnect", times=FOREVER)
    with pytest.raises(HubError, match=LOST):
        pull("user/mine", tmp_path / "pulled", **asked)
    hub.faults.clear()
    push(versions.second, "user/mine", verify=False)
    # And the Hub fails once more, where huggingface_hub takes the folder as it finds it.
    fault = hub.fail("GET", "/tree/", lambda: hub.fail("GET", "/tree/", 500, times=FOREVER))
    with pytest.raises(HubError, match="did not arrive whole: wait, and do it again"):
        pull("user/mine", tmp_path / "pulled", **asked)
    assert fault.times == 0 and not (tmp_path / "pulled").exists()
    hub.faults.clear()
    assert read(pull("user/mine", tmp_path / "pulled", **asked)) == versions.second_files
    assert [path.name for path in tmp_path.iterdir() if "pulled" in path.name] == ["pulled"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_cache", [False, True], ids=["folder", "cache"])
def test_a_revision_that_changes_during_a_pull_is_not_mixed(
    hub: Any, versions_of: Any, tmp_path: Path, kind: str, is_cache: bool
) -> None:
    """Would catch files of two commits in one folder, and new files that are thrown away as unknown."""
    versions = versions_of(kind)
    push(versions.first, "user/mine", verify=False)
    other = hub.repository("user/mine", versions.repo_type)
    lines = [{"key": "header", "value": {"summary": "theirs"}}]
    lines += [{"key": "deletedFile", "value": {"path": sorted(versions.first_files)[-1]}}]
    lines += [{"key": "file", "value": {"path": "NEWS.md", "content": "bmV3cw=="}}]
    fault = hub.fail("HEAD", "/resolve/", lambda: other.commit(lines, "main", create_pr=False))
    folder = pull("user/mine", None if is_cache else tmp_path / "pulled", repo_type=versions.repo_type)
    assert fault.times == 0 and other.history() == ["theirs", "Upload with hf-latent"]
    # The cache's name for the branch means one commit, which therefore has to be the last.
    assert read(folder) == (other.contents() if is_cache else versions.first_files)


def test_files_that_have_arrived_are_not_sent_again(hub: Any, versions_of: Any, tmp_path: Path) -> None:
    versions = versions_of("dream")
    push(versions.first, "user/mine", verify=False)
    repository = hub.repository("user/mine")
    index = json.loads(versions.first_files["model.safetensors.index.json"])["weight_map"]
    last = repository.files()[max(index.values())].sha256
    hub.fail("GET", f"/content/.*{last}", "half", times=FOREVER)
    with pytest.raises(HubError, match=LOST):
        pull("user/mine", tmp_path / "pulled")
    hub.faults.clear()
    asked = len(hub.entries)
    assert read(pull("user/mine", tmp_path / "pulled")) == versions.first_files
    sent = [entry.path for entry in hub.entries[asked:] if re.search("/content/", entry.path)]
    assert all(last in path for path in sent) and sent


def test_what_was_changed_on_the_way_is_not_taken(hub: Any, versions_of: Any, tmp_path: Path) -> None:
    """As many bytes as there should be, and others."""
    versions = versions_of("llada")
    push(versions.first, "user/mine", verify=False)
    repository = hub.repository("user/mine")
    oid, data = next(iter(repository.large.items()))
    repository.large[oid] = bytes(len(data))
    with pytest.raises(HubError, match=r"model\.safetensors did not arrive whole: wait, and do it again"):
        pull("user/mine", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    repository.large[oid] = data
    assert read(pull("user/mine", tmp_path / "pulled")) == versions.first_files


def test_without_a_network_no_folder_is_made_of_what_had_arrived(
    hub: Any, versions_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(versions_of("llada").first, "user/mine", verify=False)
    hub.fail("GET", "/content/", "half", times=FOREVER)
    with pytest.raises(HubError):
        pull("user/mine", tmp_path / "pulled")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # where huggingface_hub would look which files are missing
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"not pulled\. HF_HUB_OFFLINE is set, so nothing was asked .*: unset it"):
        pull("user/mine", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_revision_that_is_not_there_is_said(hub: Any, versions_of: Any, tmp_path: Path) -> None:
    push(versions_of("llada").first, "user/mine", verify=False)
    for target in (tmp_path / "pulled", None):
        with pytest.raises(HubError, match="There is no such revision or file: check `revision`"):
            pull("user/mine", target, revision="none")
