"""
The part of the Hub's HTTP API that `huggingface_hub` uses.

Large files are served as the Hub does it: redirected to another host, which must not be sent the token.
"""

import base64
import json
import re
from typing import Any
from urllib.parse import parse_qs

import yaml
from loopback_repositories import Blob, HubError, Repository
from loopback_server import Answer, Handler, route

REPO = r"(?P<name>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kinds>models|datasets)/{REPO}"


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
