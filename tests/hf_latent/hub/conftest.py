"""A Hub on this machine, a huggingface_hub that talks to it, and a process that has no hf-latent."""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

LOOPBACK = Path(__file__).parent / "loopback"
KINDS = Path(__file__).parent / "kinds"
TOKEN = "hf_" + "abcdefghij" * 4  # looks like one, and is nobody's
USER = "user"


def make_hub() -> Any:
    sys.path.insert(0, str(LOOPBACK))
    try:
        import loopback_routes  # noqa: F401  (registers what the server answers)
        from loopback_server import LoopbackHub
    finally:
        sys.path.remove(str(LOOPBACK))
    server = LoopbackHub()
    server.users[TOKEN] = USER
    return server


def stop(server: Any) -> None:
    server.shutdown()
    server.server_close()
    assert server.bugs == []


def connect(patch: pytest.MonkeyPatch, server: Any, cache: Path) -> None:
    """Make the huggingface_hub of this process talk to `server`: its environment was read when it was imported."""
    import huggingface_hub.constants as constants
    import huggingface_hub.file_download as file_download
    import huggingface_hub.hf_api as hf_api
    import huggingface_hub.utils._http as http
    import transformers.utils.hub as transformers_hub

    patch.setattr(constants, "ENDPOINT", server.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(hf_api.api, "endpoint", server.url)
    patch.setattr(transformers_hub, "_hf_api", None)
    for module in (http, file_download):  # between two tries
        patch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    patch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An empty Hub that this process is logged in to."""
    server = make_hub()
    connect(monkeypatch, server, tmp_path / "cache")
    yield server
    stop(server)


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """As `hub`, for all tests of a file."""
    server = make_hub()
    with pytest.MonkeyPatch.context() as patch:
        connect(patch, server, tmp_path_factory.mktemp("cache"))
        yield server
    stop(server)


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with its tokenizer; to be copied, not changed."""
    import torch

    from hf_latent import LladaConfig, LladaForMaskedDiffusion
    from hf_latent.hub import bundle
    from hf_latent.tasks import sudoku_tokenizer

    torch.manual_seed(0)
    tokenizer = sudoku_tokenizer(4)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos")}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = LladaForMaskedDiffusion(LladaConfig(vocab_size=len(tokenizer), **sizes, **special))
    return bundle(model, tokenizer, tmp_path_factory.mktemp("bundled") / "mine", verify=False)


@pytest.fixture(scope="session")
def kinds() -> Any:
    """Functions that make a tiny model, adapter, decoder or data set; `FOLDERS` has one for every kind of folder."""
    sys.path.insert(0, str(KINDS))
    try:
        import repository_kinds
    finally:
        sys.path.remove(str(KINDS))
    return repository_kinds


class Versions(NamedTuple):
    """Two versions of a folder, and of the repository (path to bytes) that each becomes. Not to be changed."""

    first: Path
    second: Path
    first_files: dict[str, bytes]
    second_files: dict[str, bytes]
    repo_type: str


@pytest.fixture(scope="session")
def versions_of(kinds: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Versions]:
    """`versions_of(kind)`: made once."""

    @functools.cache
    def make(kind: str) -> Versions:
        from hf_latent.hub.transfer.preparation import prepare

        root = tmp_path_factory.mktemp(kind)
        first = kinds.FOLDERS[kind](root)
        second = kinds.change(kind, first, root / "second" / "mine")
        files = []
        for folder in (first, second):
            with prepare(folder, "mine", tokenizer=None, base_model=None, verify=False) as prepared:
                files.append({name: path.read_bytes() for name, path in prepared.files.items()})
                is_dataset = prepared.kind == "dataset"
        return Versions(first, second, *files, "dataset" if is_dataset else "model")

    return make


@pytest.fixture(scope="session")
def token() -> str:
    """What the Hubs of these tests take."""
    return TOKEN


@pytest.fixture(scope="session")
def stranger(run_stranger: Callable) -> Callable[..., Any]:
    """
    `stranger(program, server, home, job, **environment)` runs `program` in a process that cannot import hf_latent and
    talks to `server`; `job` is handed over as JSON, and so is its `result`.
    """
    first = "import json\njob, result = json.load(open('job.json')), {}\n"
    last = "\nassert not any(name.split('.')[0] == 'hf_latent' for name in sys.modules)\n"
    last += "json.dump(result, open('result.json', 'w'))\n"

    def run(program: str, server: Any, home: Path, job: dict[str, Any] | None = None, **environment: str) -> Any:
        home.mkdir(parents=True, exist_ok=True)
        (home / "job.json").write_text(json.dumps(job or {}))
        own = {
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
        }
        done = run_stranger(first + program + last, home, **own | environment)
        return json.loads((home / "result.json").read_text()) | {"stderr": done.stderr, "stdout": done.stdout}

    return run
