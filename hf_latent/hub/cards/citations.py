"""How to cite what a checkpoint stands on: BibTeX of methods, base models and data."""

from collections.abc import Iterable
from typing import NamedTuple


class Paper(NamedTuple):
    """An entry of BibTeX. `authors` names the first, and `others` where there are more than three."""

    title: str
    authors: str
    year: int
    arxiv: str | None


PAPERS = {
    "llada": Paper("Large Language Diffusion Models", "Nie, Shen and others", 2025, "2502.09992"),
    "dream": Paper("Dream 7B: Diffusion Large Language Models", "Ye, Jiacheng and others", 2025, "2508.15487"),
    "latent_tokens": Paper(
        "Reasoning with Latent Tokens in Diffusion Language Models", "He and Welleck and Fried", 2026, "2602.03769"
    ),
    "latent_diffusion": Paper("Latent Diffusion with LLMs for Reasoning", "Anonymous", 2025, None),
    "bart": Paper(
        "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and "
        "Comprehension",
        "Lewis, Mike and others",
        2019,
        "1910.13461",
    ),
    "med": Paper(
        "No Compute Left Behind: Rethinking Reasoning and Sampling with Masked Diffusion Models",
        "Horvitz, Zachary and others",
        2025,
        "2510.19990",
    ),
    "lrd": Paper("Latent Refinement Decoding", "Zhu and others", 2025, "2510.11052"),
    "lora": Paper(
        "LoRA: Low-Rank Adaptation of Large Language Models", "Hu, Edward J. and others", 2021, "2106.09685"
    ),
    "smollm2": Paper(
        "SmolLM2: When Smol Goes Big -- Data-Centric Training of a Small Language Model",
        "Allal, Loubna Ben and others",
        2025,
        "2502.02737",
    ),
    "block_diffusion": Paper(
        "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models",
        "Arriola, Marianne and others",
        2025,
        "2503.09573",
    ),
    "sdar": Paper(
        "SDAR: A Synergistic Diffusion-AutoRegression Paradigm for Scalable Sequence Generation",
        "Cheng, Shuang and others",
        2025,
        "2510.06303",
    ),
    "fast_dllm_v2": Paper(
        "Fast-dLLM v2: Efficient Block-Diffusion LLM", "Wu, Chengyue and others", 2025, "2509.26328"
    ),
    "llada2": Paper(
        "LLaDA2.0: Scaling Up Diffusion Language Models to 100B", "Bie, Tiwei and others", 2025, "2512.15745"
    ),
    "llada_moe": Paper(
        "LLaDA-MoE: A Sparse MoE Diffusion Language Model", "Zhu, Fengqi and others", 2025, "2509.24389"
    ),
    "gsm8k": Paper("Training Verifiers to Solve Math Word Problems", "Cobbe, Karl and others", 2021, "2110.14168"),
}
MODEL_TYPES = {
    "llada": ("llada",),
    "llada_moe": ("llada_moe",),
    "illada": ("llada",),
    "Dream": ("dream",),
    "sdar": ("sdar",),
    "sdar_moe": ("sdar",),
    "Fast_dLLM_Qwen": ("fast_dllm_v2",),
    "llada2_moe": ("llada2",),
    "latent_token": ("latent_tokens",),
    "latent_diffusion": ("latent_diffusion",),
    "block_causal": ("block_diffusion",),  # any decoder, as below
    "opened": (
        "llada",
        "dream",
    ),  # any decoder as a masked diffusion model: recipes/masked_diffusion/llama_to_diffusion.py says whence
}
# A text in the name of a base model or data set, and what is cited for it.
NAMES = {"smollm2": "smollm2", "gsm8k": "gsm8k", "llada": "llada", "dream": "dream", "bart": "bart"}


def papers_of(
    model_type: str | None, *, names: Iterable[str] = (), decodings: Iterable[str] = (), is_adapter: bool = False
) -> list[str]:
    """
    Keys of `PAPERS` that a checkpoint stands on.

    Args:
        model_type: of its configuration.
        names: of base model and data sets.
        decodings: commit rules that it is decoded with; `"latent_refinement"` among them.
        is_adapter: whether it is a LoRA adapter.
    """
    found = list(MODEL_TYPES.get(model_type or "", ()))
    found += [key for name in names for text, key in NAMES.items() if text in name.lower()]
    rules = set(decodings)
    found += ["med"] if rules & {"med", "med_left_to_right"} else []
    found += ["lrd"] if "latent_refinement" in rules else []
    found += ["lora"] if is_adapter else []
    return list(dict.fromkeys(found))


def bibtex(key: str) -> str:
    """The entry of `PAPERS` of this key."""
    paper = PAPERS[key]
    lines = [f"  title = {{{paper.title}}},", f"  author = {{{paper.authors}}},", f"  year = {{{paper.year}}},"]
    if paper.arxiv is not None:
        lines += [f"  eprint = {{{paper.arxiv}}},", "  archivePrefix = {arXiv},"]
    else:
        lines.append("  note = {Submitted to ICLR},")
    return "\n".join([f"@misc{{{key}{paper.year},", *lines, "}"])


__all__ = ["PAPERS", "bibtex", "papers_of"]
