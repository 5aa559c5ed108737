"""
The part of the Hub's HTTP API that `huggingface_hub` uses, on a port of this machine, with faults on demand.

Large files are served as the Hub does it: redirected to another host, which must not be sent the token.
"""

import base64
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from loopback_repositories import Blob, HubError, Repository

REPO = r"(?P<name>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kinds>models|datasets)/{REPO}"


@dataclass
class Fault:
    """
    What goes wrong with requests of `method` whose path matches `path`.

    Args:
        action: a status to answer; `"disconnect"`: hang up unanswered; `"half"`: hang up in the middle of the body;
            `"unanswered"`: do what was asked and hang up.
        times: how often.
        headers, message: of the answer.
    """

    method: str
    path: str
    action: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "fault on demand"


@dataclass
class Answer:
    content: Any = b""  # bytes, or what becomes JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A request that was made."""

    method: str
    path: str
    status: int | None  # None: hung up on
    token: str | None


class LoopbackHub(ThreadingHTTPServer):
    """
    A Hub for tests. `url` is its endpoint.

    `users` maps a token to its user; a user writes to his own namespace. `readers` holds tokens that may not write.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.users: dict[str, str] = {}
        self.readers: set[str] = set()
        self.faults: list[Fault] = []
        self.entries: list[Entry] = []
        self.bugs: list[Exception] = []
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lock = threading.RLock()
        self.before_commit: Callable[[Repository], None] | None = None  # what somebody else does meanwhile
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def content_url(self) -> str:
        """Another host name, as large files have on the Hub."""
        return f"http://localhost:{self.server_port}"

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.repositories[kind, name]

    def fail(self, method: str, path: str, action: int | str, **kwargs: Any) -> Fault:
        self.faults.append(Fault(method, path, action, **kwargs))
        return self.faults[-1]

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def requests(self, method: str, path: str) -> list[Entry]:
        """Those that were made with `method` to what matches `path`."""
        return [entry for entry in self.entries if entry.method == method and re.search(path, entry.path)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""


class Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"
    timeout = 60
    routes: ClassVar[list[tuple[str, re.Pattern, Callable[..., Answer]]]] = []

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to the terminal."""

    def handle_one_request(self) -> None:
        self.status: int | None = None
        super().handle_one_request()

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        self.url_path = unquote(url.path)
        # Of a quoted revision the slashes belong to it: paths are matched as they were sent.
        self.raw_path, self.query = url.path, {name: values[0] for name, values in parse_qs(url.query).items()}
        fault = self.server.take_fault(self.command, self.path)
        if fault is not None and fault.action == "half":
            self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
            return self.hang_up()
        self.body = self.read_body()
        if fault is not None and fault.action == "disconnect":
            return self.hang_up()
        if fault is not None and isinstance(fault.action, int):
            return self.answer(Answer({"error": fault.message}, fault.action, fault.headers))
        try:
            with self.server.lock:
                answer = self.route()
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            answer = Answer({"error": error.message}, error.status, headers)
        except Exception as error:  # of this file: a test that meets it fails at its end
            self.server.bugs.append(error)
            answer = Answer({"error": f"loopback: {error!r}"}, 501)
        if fault is not None and fault.action == "unanswered":
            return self.hang_up()
        return self.answer(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def route(self) -> Answer:
        method = "GET" if self.command == "HEAD" else self.command
        for known, pattern, function in self.routes:
            if known == method and (match := pattern.fullmatch(self.raw_path)):
                return function(self, **{name: unquote(value) for name, value in match.groupdict().items() if value})
        raise HubError(404, message=f"The loopback Hub does not know {self.command} {self.raw_path}")

    def answer(self, answer: Answer) -> None:
        content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(content)), "X-Request-Id": "loopback"} | answer.headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.record(answer.status)

    def hang_up(self) -> None:
        self.record(None)
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            self.connection.close()

    def record(self, status: int | None) -> None:
        self.server.entries.append(Entry(self.command, self.path, status, self.token))

    # Who asks

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def user(self) -> str | None:
        if self.token is not None and self.token not in self.server.users:
            raise HubError(401, message="Invalid credentials in Authorization header")
        return self.server.users[self.token] if self.token else None

    def readable(self, kind: str, name: str) -> Repository:
        user, repository = self.user(), self.server.repositories.get((kind, name))
        if repository is None or (repository.private and user != name.split("/")[0]):
            raise HubError(401 if user is None else 404, "RepoNotFound", "Repository not found")
        return repository

    def writable(self, kind: str, name: str, *, own: bool = True) -> Repository:
        repository, user = self.readable(kind, name), self.user()
        if user is None:
            raise HubError(401, message="Invalid username or password.")
        if self.token in self.server.readers or (own and user != name.split("/")[0]):
            raise HubError(403, message="You don't have the rights to write to this repository")
        return repository


def route(method: str, pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        Handler.routes.append((method, re.compile(pattern), function))
        return function

    return register


def in_repository(kinds: str) -> str:
    return kinds.removesuffix("s")


@route("GET", "/api/whoami-v2")
def whoami(hub: Handler) -> Answer:
    user = hub.user()
    if user is None:
        raise HubError(401, message="Invalid username or password.")
    role = "read" if hub.token in hub.server.readers else "write"
    return Answer(
        {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token", "accessToken": {"role": role}}}
    )


@route("POST", "/api/repos/create")
def create(hub: Handler) -> Answer:
    asked, user = json.loads(hub.body), hub.user()
    if user is None:
        raise HubError(401, message="Invalid username or password.")
    if hub.token in hub.server.readers or (asked.get("organization") or user) != user:
        raise HubError(403, message="You don't have the rights to create a repository under this namespace")
    kind, name = asked.get("type", "model"), f"{user}/{asked['name']}"
    known = hub.server.repositories.get((kind, name))
    repository = known or Repository(kind, name, private=asked.get("visibility") == "private")
    hub.server.repositories[kind, name] = repository
    answer = {"url": f"{hub.server.url}/{repository.url}", "name": name}
    return Answer(answer | ({"error": "You already created this repo"} if known else {}), 409 if known else 200)


@route("POST", "/api/validate-yaml")
def validate(hub: Handler) -> Answer:
    match = re.match(r"---\n(.*?)\n---", json.loads(hub.body)["content"], re.DOTALL)
    if match is None:
        return Answer({"warnings": [{"message": "empty or missing yaml metadata in repo card"}], "errors": []})
    try:
        yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        return Answer({"warnings": [], "errors": [{"message": str(error)}]}, 400)
    return Answer({"warnings": [], "errors": []})


@route("POST", rf"{API}/preupload/(?P<revision>[^/]+)")
def preupload(hub: Handler, kinds: str, name: str, revision: str) -> Answer:
    repository = hub.writable(in_repository(kinds), name, own="create_pr" not in hub.query)
    known, files = repository.files(revision), []
    for file in json.loads(hub.body)["files"]:
        path, sample = file["path"], base64.b64decode(file["sample"])
        mode = repository.upload_mode(path, file["size"], sample, revision)
        oid = known[path].oid if path in known else None
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Answer({"files": files})


@route("POST", rf"/(?P<kinds>datasets/)?{REPO}\.git/info/lfs/objects/batch")
def batch(hub: Handler, name: str, kinds: str = "") -> Answer:
    kind = "dataset" if kinds else "model"
    repository = hub.writable(kind, name, own=False)
    objects = []
    for item in json.loads(hub.body)["objects"]:
        entry = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in repository.large:
            address = f"/lfs/{kind}/{name}/{item['oid']}"
            entry["actions"] = {
                "upload": {"href": f"{hub.server.content_url}{address}"},
                "verify": {"href": f"{hub.server.url}{address}/verify"},
            }
        objects.append(entry)
    return Answer({"transfer": "basic", "objects": objects})


@route("PUT", rf"/lfs/(?P<kind>\w+)/{REPO}/(?P<oid>\w+)")
def upload(hub: Handler, kind: str, name: str, oid: str) -> Answer:
    if hub.token is not None:
        raise HubError(400, message="The token was sent to the storage")
    blob, repository = Blob(hub.body, True), hub.server.repository(name, kind)
    if blob.sha256 != oid:
        raise HubError(400, message=f"{len(hub.body)} bytes are not {oid}")
    repository.large[oid] = hub.body
    repository.uploads[oid] += 1
    return Answer()


@route("POST", rf"/lfs/(?P<kind>\w+)/{REPO}/(?P<oid>\w+)/verify")
def verify(hub: Handler, kind: str, name: str, oid: str) -> Answer:
    if oid not in hub.writable(kind, name, own=False).large:
        raise HubError(404, message="Object not found")
    return Answer({})


@route("POST", rf"{API}/commit/(?P<revision>[^/]+)")
def commit(hub: Handler, kinds: str, name: str, revision: str) -> Answer:
    create_pr = "create_pr" in hub.query
    repository = hub.writable(in_repository(kinds), name, own=not create_pr)
    if hub.server.before_commit is not None:
        meanwhile, hub.server.before_commit = hub.server.before_commit, None
        meanwhile(repository)
    lines = [json.loads(line) for line in hub.body.splitlines()]
    oid, number = repository.commit(lines, revision, create_pr=create_pr)
    url = f"{hub.server.url}/{repository.url}"
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}
    return Answer(answer | ({"pullRequestUrl": f"{url}/discussions/{number}"} if number else {}))


@route("GET", rf"{API}(/revision/(?P<revision>[^/]+))?")
def info(hub: Handler, kinds: str, name: str, revision: str = "main") -> Answer:
    repository = hub.readable(in_repository(kinds), name)
    oid = repository.find(revision)
    siblings = [{"rfilename": path} for path in sorted(repository.commits[oid].files)]
    about = {"id": name, "sha": oid, "private": repository.private, "gated": "manual" if repository.gated else False}
    return Answer(about | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})


@route("GET", rf"{API}/refs")
def refs(hub: Handler, kinds: str, name: str) -> Answer:
    known = hub.readable(in_repository(kinds), name).refs
    groups: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for ref, oid in known.items():
        _, folder, short = ref.split("/", 2)
        group = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}[folder]
        groups[group].append({"name": short, "ref": ref, "targetCommit": oid})
    return Answer(groups)


@route("POST", rf"{API}/branch/(?P<revision>[^/]+)")
def branch(hub: Handler, kinds: str, name: str, revision: str) -> Answer:
    start = (json.loads(hub.body or b"{}") or {}).get("startingPoint", "main")
    hub.writable(in_repository(kinds), name).branch(revision, start)
    return Answer({})


def describe(path: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
    lfs = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
    return entry | ({"lfs": lfs} if blob.is_lfs else {})


def list_folder(files: dict[str, Blob], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    prefix, folders, entries = f"{folder}/" if folder else "", set(), []
    for path, blob in sorted(files.items()):
        inner = path.removeprefix(prefix) if path.startswith(prefix) else None
        if inner is None:
            continue
        parts = inner.split("/")
        folders |= {prefix + "/".join(parts[:depth]) for depth in range(1, len(parts) if recursive else 2)} - {path}
        if recursive or len(parts) == 1:
            entries.append(describe(path, blob))
    return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)] + entries


@route("GET", rf"{API}/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?")
def tree(hub: Handler, kinds: str, name: str, revision: str, folder: str = "") -> Answer:
    files = hub.readable(in_repository(kinds), name).files(revision)
    entries = list_folder(files, folder, recursive=hub.query.get("recursive", "").lower() in ("1", "true"))
    if folder and not entries:
        raise HubError(404, "EntryNotFound", f"{folder} does not exist")
    return Answer(entries)


@route("POST", rf"{API}/paths-info/(?P<revision>[^/]+)")
def paths_info(hub: Handler, kinds: str, name: str, revision: str) -> Answer:
    files = hub.readable(in_repository(kinds), name).files(revision)
    entries = []
    for path in parse_qs(hub.body.decode()).get("paths", []):
        if path in files:
            entries.append(describe(path, files[path]))
        elif any(known.startswith(f"{path}/") for known in files):
            entries.append({"type": "directory", "path": path, "oid": "0" * 40})
    return Answer(entries)


@route("POST", rf"{API}/discussions")
def discuss(hub: Handler, kinds: str, name: str) -> Answer:
    return Answer({"num": hub.writable(in_repository(kinds), name, own=False).open_pull_request()})


@route("GET", rf"/(?P<kinds>datasets/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub: Handler, name: str, revision: str, path: str, kinds: str = "") -> Answer:
    kind = "dataset" if kinds else "model"
    repository = hub.readable(kind, name)
    if repository.gated and hub.user() != name.split("/")[0]:
        raise HubError(403, "GatedRepo", f"Access to model {name} is restricted and you are not in the list")
    oid = repository.find(revision)
    headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
    if path not in repository.commits[oid].files:
        return Answer(b"", 404, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
    blob = repository.commits[oid].files[path]
    if blob.is_lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        address = f"{hub.server.content_url}/content/{kind}/{name}/{blob.sha256}"
        return Answer(b"", 302, headers | {"Location": address, "ETag": f'"{blob.git_oid}"'})
    return serve(hub, blob.content, headers | {"ETag": f'"{blob.git_oid}"'})


@route("GET", rf"/content/(?P<kind>\w+)/{REPO}/(?P<oid>\w+)")
def content(hub: Handler, kind: str, name: str, oid: str) -> Answer:
    if hub.token is not None:
        raise HubError(400, message="The token was sent to the storage")
    return serve(hub, hub.server.repository(name, kind).large[oid], {"ETag": f'"{oid}"'})


def serve(hub: Handler, content: bytes, headers: dict[str, str]) -> Answer:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", hub.headers.get("Range", ""))
    if asked is None:
        return Answer(content, 200, headers)
    first, last = int(asked[1]), int(asked[2] or len(content) - 1)
    part = content[first : last + 1]
    return Answer(part, 206, headers | {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"})
