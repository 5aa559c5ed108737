"""What every test can rely on: no network, no state of the user's machine, a fixed number of threads."""

import atexit
import gc
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Set before torch and huggingface_hub are imported, which read the environment only then; child processes inherit it.
_threads = "1"  # the models are tiny: a second thread costs more than it brings, above all on a busy machine
_cache = tempfile.mkdtemp(prefix="hf-latent-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
_quiet = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
os.environ.update(dict.fromkeys((*_quiet, "HF_HUB_DISABLE_PROGRESS_BARS"), "1"))
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), _threads))
os.environ.update(TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
os.environ["HF_HOME"] = (
    _cache  # also the cache of remote code, which parallel workers would otherwise write to at once
)
for _name in ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "HF_ENDPOINT"):
    os.environ.pop(_name, None)

# The first call of a torch function is slow, which is no failure; a red run is the same run for everybody.
settings.register_profile("hf_latent", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("hf_latent")


def pytest_configure(config: pytest.Config) -> None:
    """Parallel workers keep the tests of an `xdist_group` together, whose costly fixture is then made once."""
    if config.getoption("dist", None) == "load":
        config.option.dist = "loadgroup"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share costly fixtures run first, and in one worker."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_collection_finish() -> None:
    """See `_small_heap`."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> Iterator[None]:
    """
    Keep the garbage collector from walking what stays anyway. Trainers and models collect at every turn, and in the
    heap of a long session each time takes longer than the test.
    """
    yield
    gc.collect()
    gc.freeze()


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
    return _part(shared_dir, "fixtures")


@pytest.fixture(scope="session")
def data_dir(shared_dir: Path) -> Path:
    """Public data sets as local files."""
    return _part(shared_dir, "data")


def _part(shared_dir: Path, name: str) -> Path:
    if not (shared_dir / name).is_dir():
        pytest.skip(f"no folder {shared_dir / name}")
    return shared_dir / name


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """`run_python(code, *arguments, cwd=None)`: what `code` prints in a process of its own, which has to succeed."""

    def run(code: str, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


# Begins a program that is not to find hf_latent, as it is for most who load a checkpoint.
_NOT_INSTALLED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_latent":
            raise ModuleNotFoundError("hf_latent is not installed here")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="session")
def run_stranger() -> Callable[..., subprocess.CompletedProcess]:
    """
    `run_stranger(program, folder, *arguments, blocked=True, **environment)` runs `program` in `folder`, with caches
    there, in a process of its own that cannot import hf_latent (can, unless `blocked`) and has to succeed. An empty
    variable is none.
    """

    def run(
        program: str, folder: Path, *arguments: str, blocked: bool = True, **environment: str
    ) -> subprocess.CompletedProcess:
        (folder / "stranger.py").write_text((_NOT_INSTALLED if blocked else "") + program)
        own = {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HOME": str(folder / "home"), "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            [sys.executable, "stranger.py", *arguments],
            cwd=folder,
            env={name: value for name, value in (os.environ | own | environment).items() if value},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    return run


# Tiny models and tokenizers that many tests build.
_LLADA: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def make_llada() -> Callable[..., Any]:
    """`make_llada(seed=0, **fields)`: a LLaDA model of two layers and width 16, random, in evaluation mode."""
    import torch

    from hf_latent import LladaConfig, LladaForMaskedDiffusion

    def make(seed: int = 0, **fields: Any) -> Any:
        torch.manual_seed(seed)
        return LladaForMaskedDiffusion(LladaConfig(**(_LLADA | fields))).eval()

    return make


@pytest.fixture(scope="session")
def make_words() -> Callable[..., Any]:
    """
    `make_words(9)`: a tokenizer of words, `w0` ... `w8` and `<eos>`, `<pad>`, `<mask>`; it knows those of the three
    that are named in `special` as such.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(number: int, special: tuple[str, ...] = ("eos", "pad", "mask"), **arguments: Any) -> Any:
        words = [*(f"w{i}" for i in range(number)), "<eos>", "<pad>", "<mask>"]
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        named = {f"{name}_token": f"<{name}>" for name in special}
        return PreTrainedTokenizerFast(tokenizer_object=backend, **named, **arguments)

    return make


# Families of decoders that semi-causal attention meets: plain, with windows of 4 in all or in some layers (which take
# their masks as one or as a dict), and with a table of positions.
_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 61,
    "pad_token_id": 62,
}
_WINDOWS: dict[str, Any] = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_GPT2: dict[str, Any] = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": _SIZES,
    "qwen2": _SIZES | _WINDOWS | {"use_sliding_window": True},
    "qwen3": _SIZES,
    "mistral": _SIZES | {"sliding_window": 4},
    "gemma2": _SIZES | _WINDOWS,
    "gemma3_text": _SIZES | _WINDOWS,
    "olmo2": _SIZES,
    "phi3": _SIZES,
    "cohere": _SIZES,
    "granite": _SIZES | {"logits_scaling": 3.0},
    "qwen3_moe": _SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    "gpt2": _GPT2 | {"bos_token_id": 1, "eos_token_id": 61, "pad_token_id": 62},
}


@pytest.fixture(scope="session")
def make_decoder() -> Callable[..., Any]:
    """
    `make_decoder(family, attention, **fields)`: an autoregressive model of transformers with random weights that all
    matter, of 64 tokens: 61 end-of-sequence, 62 padding; 63 is free for the mask.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    def make(family: str = "llama", attention: str | None = None, seed: int = 0, **fields: Any) -> Any:
        attention = attention or ("eager" if family == "gemma2" else "sdpa")
        config = CONFIG_MAPPING[family](**DECODERS[family] | fields)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = 0.25 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + noise if parameter.dim() == 1 else noise)
            model.get_output_embeddings().weight.mul_(3)  # far from ties
        return model

    return make


@pytest.fixture(scope="session")
def make_latent_token(make_decoder: Callable[..., Any]) -> Callable[..., Any]:
    """`make_latent_token("any" or "left_to_right", family, ...)`: the semi-causal model of that decoder; 63 masks."""

    def make(order: str, family: str = "llama", attention: str | None = None, **fields: Any) -> Any:
        from hf_latent import LatentTokenForCausalLM, LatentTokenForMaskedDiffusion

        decoder = make_decoder(family, attention, **fields)
        if order == "any":
            return LatentTokenForMaskedDiffusion.from_backbone(decoder, mask_token_id=63, attention="semi_causal")
        return LatentTokenForCausalLM.from_backbone(decoder, mask_token_id=63)

    return make
