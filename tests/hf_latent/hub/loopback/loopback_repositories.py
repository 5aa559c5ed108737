"""What a Hub keeps: repositories with commits, branches and pull requests, large files, users and their tokens."""

import base64
import fnmatch
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Of a new repository; the Hub's own list is longer.
GITATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n"
    for suffix in ("arrow", "bin", "ckpt", "npz", "parquet", "pt", "pth", "safetensors", "zip", "zst")
)
LARGE = 10 * 2**20  # bytes; also text of this size is kept as a large file


class HubError(Exception):
    """What is answered instead of a result: status, the Hub's code for it, a text."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message or code


@dataclass(frozen=True)
class Blob:
    """A file of a commit; `is_lfs` says how it is kept."""

    content: bytes
    is_lfs: bool

    @property
    def git_oid(self) -> str:
        """Of the content, or of the pointer that stands for it."""
        content = self.content
        if self.is_lfs:
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def oid(self) -> str:
        """What `preupload` answers, so that the client can tell what has not changed."""
        return self.sha256 if self.is_lfs else self.git_oid


@dataclass
class Commit:
    parent: str | None
    files: dict[str, Blob]
    message: str
    description: str
    operations: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Repository:
    """
    One repository.

    Args:
        refs: full name (`refs/heads/main`, `refs/pr/1`) to commit.
        large: sha256 to content of every large file that was ever uploaded, committed or not.
        uploads: sha256 to how often its content was received whole.
    """

    kind: str  # "model" or "dataset"
    name: str  # "user/name"
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    uploads: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        first = self._add(Commit(None, {".gitattributes": Blob(GITATTRIBUTES.encode(), False)}, "initial commit", ""))
        self.refs["refs/heads/main"] = first

    @property
    def url(self) -> str:
        return self.name if self.kind == "model" else f"{self.kind}s/{self.name}"

    def find(self, revision: str) -> str:
        """The commit that `revision` (branch, reference or commit) means."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision in self.commits:
            return revision
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def files(self, revision: str = "main") -> dict[str, Blob]:
        return self.commits[self.find(revision)].files

    def contents(self, revision: str = "main") -> dict[str, bytes]:
        """Path to bytes of everything that was committed by somebody."""
        return {path: blob.content for path, blob in self.files(revision).items() if path != ".gitattributes"}

    def history(self, revision: str = "main") -> list[str]:
        """Messages, newest first, without the first commit's."""
        oid, messages = self.find(revision), []
        while (commit := self.commits[oid]).parent is not None:
            messages.append(commit.message)
            oid = commit.parent
        return messages

    def branch(self, name: str, start: str = "main") -> None:
        if f"refs/heads/{name}" in self.refs:
            raise HubError(409, message=f"Reference already exists: refs/heads/{name}")
        if name.startswith("refs/"):
            raise HubError(400, message=f"Invalid reference for a branch: {name}")
        self.refs[f"refs/heads/{name}"] = self.find(start)

    def open_pull_request(self, start: str = "main") -> int:
        number = 1 + sum(name.startswith("refs/pr/") for name in self.refs)
        self.refs[f"refs/pr/{number}"] = self.find(start)
        return number

    def upload_mode(self, path: str, size: int, sample: bytes, revision: str) -> str:
        """`"lfs"` for what `.gitattributes` says, what is binary and what is large."""
        attributes = self.files(revision)[".gitattributes"].content.decode()
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        if size >= LARGE or any(fnmatch.fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns):
            return "lfs"
        return "lfs" if b"\0" in sample else "regular"

    def commit(self, lines: list[dict[str, Any]], revision: str, *, create_pr: bool) -> tuple[str, int | None]:
        """Apply the lines of a commit, all or none; the new commit and the number of its pull request."""
        header = next(line["value"] for line in lines if line["key"] == "header")
        operations = [line for line in lines if line["key"] != "header"]
        head = self.find(revision)
        parent = header.get("parentCommit")
        if parent is not None and not create_pr and parent != head:
            raise HubError(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(self.commits[parent or head].files)
        for operation in operations:
            self._apply(operation["key"], operation["value"], files)
        number = self.open_pull_request(parent or revision) if create_pr else None
        oid = self._add(Commit(parent or head, files, header["summary"], header.get("description", ""), operations))
        self.refs[self._ref(revision) if number is None else f"refs/pr/{number}"] = oid
        return oid, number

    def _ref(self, revision: str) -> str:
        return revision if revision.startswith("refs/") else f"refs/heads/{revision}"

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, Blob]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in self.large:
                raise HubError(400, message=f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = Blob(self.large[value["oid"]], True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
        else:
            raise HubError(400, message=f"Unknown operation {key}")

    def _add(self, commit: Commit) -> str:
        content = json.dumps([commit.parent, commit.message, len(self.commits), self.name, self.kind])
        oid = hashlib.sha1(content.encode()).hexdigest()
        self.commits[oid] = commit
        return oid
