"""What every test can rely on: no network, no state of the user's machine, a fixed number of threads."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Set before torch and huggingface_hub are imported, which read the environment only then; child processes inherit it.
_threads = "1"  # the models are tiny: a second thread costs more than it brings, above all on a busy machine
_cache = tempfile.mkdtemp(prefix="hf-latent-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ.update(
    HF_HOME=_cache,  # also the cache of remote code, which parallel workers would otherwise write to at once
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS=_threads,
    MKL_NUM_THREADS=_threads,
)
for _name in ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "HF_ENDPOINT"):
    os.environ.pop(_name, None)

# The first call of a torch function is slow, which is no failure; a red run is the same run for everybody.
settings.register_profile("hf_latent", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("hf_latent")


def pytest_report_header() -> str:
    spec = importlib.util.find_spec("hf_latent")
    return f"hf_latent: {Path(spec.origin).parent if spec and spec.origin else 'not installed'}"


@pytest.fixture(scope="session", autouse=True)
def _fixed_threads() -> None:
    """Hold torch to the number of threads above even where it ignores OMP_NUM_THREADS (macOS, some builds)."""
    import torch

    torch.set_num_threads(int(_threads))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Material too large or not ours to keep in the repository: a folder `shared/` beside the checkout, or wherever
    the environment variable HF_LATENT_SHARED points. Tests that need it are skipped without it."""
    folder = Path(os.environ.get("HF_LATENT_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set HF_LATENT_SHARED to the folder that holds fixtures/ and data/")
    return folder


@pytest.fixture(scope="session")
def fixtures_dir(shared_dir: Path) -> Path:
    """Checkpoints with the logits and generations that the reference implementations compute from them."""
    folder = shared_dir / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def data_dir(shared_dir: Path) -> Path:
    """Public data sets as local files."""
    folder = shared_dir / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder
