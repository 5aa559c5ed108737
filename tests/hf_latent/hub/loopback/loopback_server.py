"""
A Hub on a port of this machine, with faults on demand; what it answers is in `loopback_routes`.
"""

import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_repositories import HubError, Repository


@dataclass
class Fault:
    """
    What goes wrong with requests of `method` whose path matches `path`.

    Args:
        action: a status to answer; `"disconnect"`: hang up unanswered; `"half"`: hang up in the middle of what is
            sent, which is the answer's body for GET; `"unanswered"`: do what was asked and hang up; a function: call
            it first, then do what was asked.
        times: how often.
        headers, message: of the answer.
    """

    method: str
    path: str
    action: int | str | Callable[[], Any]
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

    def fail(self, method: str, path: str, action: int | str | Callable[[], Any], **kwargs: Any) -> Fault:
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
    disable_nagle_algorithm = True  # headers and body are two writes: the second would wait 40 ms for an answer
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
        if fault is not None and fault.action == "half" and self.command != "GET":
            self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
            return self.hang_up()
        self.body = self.read_body()
        if fault is not None and fault.action == "disconnect":
            return self.hang_up()
        if fault is not None and isinstance(fault.action, int):
            return self.answer(Answer({"error": fault.message}, fault.action, fault.headers))
        if fault is not None and callable(fault.action):
            fault.action()
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
        return self.answer(answer, is_cut=fault is not None and fault.action == "half")

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

    def answer(self, answer: Answer, *, is_cut: bool = False) -> None:
        content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(content)), "X-Request-Id": "loopback"} | answer.headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if is_cut:
            self.wfile.write(content[: len(content) // 2])
            return self.hang_up()
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
