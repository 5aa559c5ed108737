"""
Pairs of neighbouring sentences, and a tokenizer of their own: a small text set for latent diffusion.

What it writes into `--output_dir`
    train.jsonl, test.jsonl  `prompt`, a sentence, and `completion`, the one that follows it in its text
    tokenizer/               byte pairs of the training sentences, with BART's special tokens in BART's places
    levels.json              chrF of what knows nothing: another pair's completion, and the prompt itself

Texts are a column of JSON lines files, here the questions of GSM8K (arXiv 2110.14168).

    python recipes/studies/latent_diffusion_sentences.py --train_file train.jsonl --test_file test.jsonl \
        --output_dir runs/latent_diffusion/sentences

The stages then are those of `recipes/latent_diffusion`, and arms of `latent_diffusion_study.yaml`:

    OMP_NUM_THREADS=1 python recipes/latent_diffusion/backbone.py --config recipes/latent_diffusion/text_pretrain.yaml
    OMP_NUM_THREADS=1 python recipes/latent_diffusion/stages.py --config recipes/latent_diffusion/text_autoencoder.yaml
    OMP_NUM_THREADS=1 python recipes/latent_diffusion/stages.py --config recipes/latent_diffusion/text_denoiser.yaml
    OMP_NUM_THREADS=1 python recipes/latent_diffusion/backbone.py --config recipes/latent_diffusion/text_baseline.yaml
"""

import argparse
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hf_latent.data.data_files import read_rows
from hf_latent.evaluation.solving.similarity import text_similarity
from hf_latent.modeling.atomic import replacing
from hf_latent.training.runs.report import write_json
from hf_latent.training.runs.studies import script_parser, this_command

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
# Behind the end of a sentence and before the beginning of one.
BETWEEN_SENTENCES = re.compile(r"(?<=[.?!])\s+(?=[A-Z\"'])")


def sentence_pairs(texts: Iterable[str]) -> list[dict[str, str]]:
    """Each sentence of a text with the next one; pairs that occur twice are taken once."""
    pairs: dict[tuple[str, str], None] = {}
    for text in texts:
        pairs |= dict.fromkeys(pairwise(" ".join(part.split()) for part in BETWEEN_SENTENCES.split(text.strip())))
    return [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte pairs; a text becomes `<s> text </s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="right", clean_up_tokenization_spaces=False, **names
    )


def main(args: argparse.Namespace) -> dict[str, Dataset]:
    """Write pairs, tokenizer and levels; returns the pairs of each split."""
    sets: dict[str, Dataset] = {}
    for split, file in (("train", args.train_file), ("test", args.test_file)):
        rows = read_rows(file)
        if args.column not in rows.columns:
            raise ValueError(f"`column` must be one of {rows.columns}, got {args.column!r}")
        texts = [rows.text(number, args.column) for number in range(len(rows))]
        sets[split] = Dataset.from_list(sentence_pairs(texts))
    if args.num_eval_examples < len(sets["test"]):
        sets["test"] = sets["test"].shuffle(seed=0).select(range(args.num_eval_examples))
    known = set(zip(sets["train"]["prompt"], sets["train"]["completion"], strict=True))
    sets["test"] = sets["test"].filter(lambda row: (row["prompt"], row["completion"]) not in known)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for split, pairs in sets.items():
        with replacing(args.output_dir / f"{split}.jsonl") as beside:
            pairs.to_json(beside)
    tokenizer = train_tokenizer([*sets["train"]["prompt"], *sets["train"]["completion"]], args.vocab_size)
    with replacing(args.output_dir / "tokenizer") as beside:
        tokenizer.save_pretrained(beside)
    prompts, completions = (list(sets["test"][name]) for name in ("prompt", "completion"))
    levels = {
        "another pair's completion": text_similarity([*completions[1:], completions[0]], completions),
        "the prompt itself": text_similarity(prompts, completions),
    }
    counts = {f"num_{split}_pairs": len(pairs) for split, pairs in sets.items()}
    write_json(args.output_dir / "levels.json", {"command": this_command(), **counts, "chrf": levels})
    return sets


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--train_file", type=Path, required=True, help="JSON lines")
    parser.add_argument("--test_file", type=Path, required=True, help="JSON lines")
    parser.add_argument("--column", default="question", help="of the texts (default: %(default)s)")
    parser.add_argument("--vocab_size", type=int, default=2048, help="tokens (default: %(default)s)")
    parser.add_argument("--num_eval_examples", type=int, default=1000, help="held-out pairs (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/latent_diffusion/sentences"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    for name, pairs in main(parse()).items():
        print(name, len(pairs), pairs[0])
