"""What a push would send: asked of the Hub where it can be, and said where it was not."""

import base64
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from hf_latent.hub.safety.contents import replaces
from hf_latent.hub.safety.training_files import summarize

MAIN = "main"
SAMPLE_BYTES = 512
FILES_PER_QUESTION = 256
# Of a new repository; what an existing one does is asked.
LARGE_BYTES = 10 * 2**20
LARGE_SUFFIXES = {
    *(".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gz", ".h5", ".joblib", ".mlmodel", ".model", ".msgpack"),
    *(".npy", ".npz", ".onnx", ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar", ".safetensors"),
    *(".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip", ".zst"),
}


@dataclass(frozen=True)
class PlannedFile:
    """
    A file of a push.

    Args:
        path: in the repository.
        size: bytes.
        is_lfs: kept as a large file, not in git.
        state: `"new"`, `"changed"`, or `"unchanged"`, which is not sent.
    """

    path: str
    size: int
    is_lfs: bool
    state: str


@dataclass(frozen=True)
class PushPlan:
    """
    What a push sends, or has sent.

    Args:
        repo_id, repo_type, revision: where to.
        kind: model, adapter, decoder or dataset.
        files: all files of the folder.
        deleted: paths of an earlier push that this one replaces and does not have.
        left_out: files of the folder that a training run keeps for itself, which are not sent.
        is_new: whether the repository is created.
        was_asked: whether the Hub has said what is kept as a large file and what has not changed. Otherwise (a new
            repository, no network) these are the rules of a new repository.
        parent: the commit this is a change of; None for a new repository.
        commit_url, commit_oid: of the commit; None before there is one.
        pr_url: of the pull request.
    """

    repo_id: str
    repo_type: str
    revision: str
    kind: str
    files: tuple[PlannedFile, ...]
    deleted: tuple[str, ...]
    is_new: bool
    was_asked: bool
    left_out: tuple[str, ...] = ()
    parent: str | None = None
    commit_url: str | None = None
    commit_oid: str | None = None
    pr_url: str | None = None

    @property
    def sent(self) -> tuple[PlannedFile, ...]:
        """Files that are not there yet as they are here."""
        return tuple(file for file in self.files if file.state != "unchanged")

    def __str__(self) -> str:
        lines = [f"{file.size:>14,}  {'LFS' if file.is_lfs else '   '}  {file.path}" for file in self.sent]
        lines += [f"{'delete':>14}       {path}" for path in self.deleted]
        unchanged = len(self.files) - len(self.sent)
        total = sum(file.size for file in self.sent)
        lines.append(f"{total:>14,}  bytes in {len(self.sent)} files; {unchanged} files are there already")
        if self.left_out:
            lines.append(f"Left out, as it is of the training run: {summarize(self.left_out)}")
        if not self.was_asked:
            lines.append("LFS as in a new repository: the Hub was not asked.")
        return "\n".join(lines)


@dataclass(frozen=True)
class Remote:
    """
    What is there.

    Args:
        commit: the head of the revision, None if there is no repository.
        has_revision: whether the revision exists; `commit` is that of the main branch otherwise.
        oids: path to git's object id, or to the sha256 of a large file.
        is_private: of the repository.
    """

    commit: str | None = None
    has_revision: bool = False
    oids: dict[str, str] | None = None
    is_private: bool | None = None


def read_remote(api: HfApi, repo_id: str, repo_type: str, revision: str) -> Remote:
    """What is at `revision`; an empty `Remote` where there is no such repository."""
    has_revision = True
    try:
        info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    except RevisionNotFoundError:
        has_revision = False
        info = api.repo_info(repo_id, repo_type=repo_type, revision=MAIN)
    except GatedRepoError:  # which is there, and is a RepositoryNotFoundError to huggingface_hub
        raise
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401:
            api.whoami()  # raises for a wrong token, or none; otherwise there is no such repository
        return Remote()
    oids = {}
    for entry in api.list_repo_tree(repo_id, repo_type=repo_type, revision=info.sha, recursive=True):
        if isinstance(entry, RepoFile):
            oids[entry.path] = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    return Remote(info.sha, has_revision, oids, info.private)


def make_plan(
    api: HfApi,
    files: dict[str, Path],
    *,
    repo_id: str,
    repo_type: str,
    revision: str,
    kind: str,
    offline_ok: bool,
    create_pr: bool = False,
    left_out: tuple[str, ...] = (),
) -> tuple[PushPlan, Remote]:
    """
    Compare `files` with what is there.

    Of an existing repository the Hub says which files it keeps as large ones; it is told path, size and the first 512
    bytes of each for that. With `offline_ok`, HF_HUB_OFFLINE gives the plan of a new repository.
    """
    plan = PushPlan(repo_id, repo_type, revision, kind, (), (), is_new=True, was_asked=False, left_out=left_out)
    try:
        remote = read_remote(api, repo_id, repo_type, revision)
    except OfflineModeIsEnabled:
        if not offline_ok:
            raise
        remote, plan = Remote(), replace(plan, is_new=False)
    if remote.oids is None:
        planned = [PlannedFile(name, size_of(path), _is_large(path), "new") for name, path in files.items()]
        return replace(plan, files=tuple(planned)), remote
    asked_of = revision if remote.has_revision else MAIN
    large = _ask_large(api, files, f"{repo_type}s/{repo_id}/preupload/{quote(asked_of, safe='')}", create_pr)
    planned = []
    for name, path in files.items():
        is_lfs = large[name] and size_of(path) > 0
        known = remote.oids.get(name)
        same = known is not None and known == oid_of(path, is_lfs=is_lfs)
        state = "new" if known is None else "unchanged" if same else "changed"
        planned.append(PlannedFile(name, size_of(path), is_lfs, state))
    deleted = sorted(path for path in remote.oids if path not in files and replaces(kind, path))
    plan = replace(plan, files=tuple(planned), deleted=tuple(deleted), is_new=False, was_asked=True)
    return replace(plan, parent=remote.commit), remote


def _ask_large(api: HfApi, files: dict[str, Path], address: str, create_pr: bool) -> dict[str, bool]:
    large: dict[str, bool] = {}
    items = list(files.items())
    parameters = {"create_pr": "1"} if create_pr else {}  # which needs no right to write
    for start in range(0, len(items), FILES_PER_QUESTION):
        described = [
            {"path": name, "size": size_of(path), "sample": base64.b64encode(_sample(path)).decode()}
            for name, path in items[start : start + FILES_PER_QUESTION]
        ]
        response = get_session().post(
            f"{api.endpoint}/api/{address}",
            json={"files": described},
            headers=build_hf_headers(token=api.token),
            params=parameters,
        )
        hf_raise_for_status(response)
        large |= {answer["path"]: answer["uploadMode"] == "lfs" for answer in response.json()["files"]}
    return large


def _is_large(path: Path) -> bool:
    """As a new repository would have it: by suffix, size and content."""
    suffix = PurePosixPath(path.name).suffix.lower()
    return suffix in LARGE_SUFFIXES or size_of(path) >= LARGE_BYTES or b"\0" in _sample(path)


def size_of(path: Path) -> int:
    """Bytes."""
    return path.stat().st_size


def _sample(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SAMPLE_BYTES)


def oid_of(path: Path, *, is_lfs: bool) -> str:
    """Of a large file the sha256, of others git's object id."""
    digest = hashlib.sha256() if is_lfs else hashlib.sha1(b"blob %d\0" % size_of(path), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


__all__ = ["MAIN", "PlannedFile", "PushPlan", "Remote", "make_plan", "oid_of", "read_remote", "size_of"]
