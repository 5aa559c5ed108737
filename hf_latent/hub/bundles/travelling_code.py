"""Which Python files belong into a repository: byte for byte the travelling modules of this installation."""

import ast
from functools import cache
from pathlib import Path, PurePosixPath

from hf_latent.auto import MODELS
from hf_latent.hub.bundles.decoder import DECODERS, ENTRY_POINT, FOLDER, HEADER, decoder_folder
from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.modeling.travel import TravellingConfigMixin, package_sources, travelling_sources

# By `model_type`.
CONFIGS: dict[str, type[TravellingConfigMixin]] = {
    config.model_type: config for config in (*(config for config, _ in MODELS), LatentDiffusionConfig)
}


@cache
def model_sources() -> dict[str, str]:
    """File name to text of every module that travels with a model of any family."""
    sources: dict[str, str] = {}
    for model_type in CONFIGS:
        sources |= family_sources(model_type)
    return sources


@cache
def family_sources(model_type: str) -> dict[str, str]:
    """File name to text of every module that travels with a model of one family."""
    return travelling_sources(CONFIGS[model_type])


def auto_map_of(folder: Path, model_type: str) -> dict[str, str]:
    """What `auto_map` has to say in the `config.json` of a model's folder."""
    return CONFIGS[model_type].from_pretrained(folder).travelling_auto_map()  # type: ignore[attr-defined]


@cache
def decoder_sources() -> dict[str, str]:
    """File name to text of every module that travels with a decoder, but for its `generate.py`."""
    return package_sources([ENTRY_POINT], HEADER)


def find_foreign_code(path: PurePosixPath, content: bytes) -> str | None:
    """
    Why the Python file at `path` of a repository is not this library's; None if it is.

    Modules of models lie at the top, those of a decoder in `custom_generate`, whose `generate.py` may set its own
    defaults.
    """
    if len(path.parts) == 1:
        expected = model_sources().get(path.name)
    elif path.parts[0] == FOLDER and len(path.parts) == 2:
        is_entry = path.name == "generate.py"
        expected = _expected_entry_point(content) if is_entry else decoder_sources().get(path.name)
    else:
        expected = None
    if expected is None:
        return "is no module of hf-latent"
    return None if content == expected.encode("utf-8") else "differs from the module of that name in hf-latent"


def _expected_entry_point(content: bytes) -> str:
    """The `generate.py` that would be written for the name and defaults that `content` has."""
    try:
        tree = ast.parse(content)
        name = str(ast.get_docstring(tree)).removeprefix("Decoder ").partition(":")[0]
        assignment = next(node for node in tree.body if isinstance(node, ast.Assign))
        defaults = ast.literal_eval(assignment.value)
        is_known = name in DECODERS and isinstance(defaults, dict)
        return decoder_folder(name, defaults)["generate.py"] if is_known else ""
    except (SyntaxError, ValueError, StopIteration):
        return ""


__all__ = ["CONFIGS", "auto_map_of", "decoder_sources", "family_sources", "find_foreign_code", "model_sources"]
