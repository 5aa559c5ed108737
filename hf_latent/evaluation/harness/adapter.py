"""
Our models as a model of lm-evaluation-harness.

    python -m hf_latent.evaluation.harness --model hf_latent --tasks gsm8k \\
        --model_args pretrained=GSAI-ML/LLaDA-8B-Instruct,decoding=med,block_length=32 --batch_size 8

is the harness's own command line with the model `hf_latent` in its registry: lm-eval finds no models of other packages
by itself. In Python, importing this module registers it: `lm_eval.simple_evaluate(model="hf_latent", ...)`.
"""

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.data.embeddings import check_pair
from hf_latent.data.identity import changes, identify
from hf_latent.data.vocabulary import naming
from hf_latent.evaluation.grid import check_settings
from hf_latent.evaluation.scoring.encoding import ScoredText, context_key, scored_pair
from hf_latent.evaluation.scoring.estimators import check_estimator, would_write
from hf_latent.evaluation.scoring.likelihood import score_texts
from hf_latent.evaluation.sharded_runs import process_state
from hf_latent.generation.arguments.devices import find_device
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig
from hf_latent.modeling.mode import evaluation_mode

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


logger = logging.getLogger(__name__)

NAME = "hf_latent"
CACHED_FACTS = "hf_latent: what the answers are a function of"  # a key beside lm-eval's, which are digests
# Said by each task, so that a value here would be ignored.
SAID_BY_TASKS = ("temperature", "do_sample", "max_new_tokens", "max_length")


class HfLatentLM(TemplateLM):
    """
    A masked diffusion model in lm-evaluation-harness: `generate_until`, `loglikelihood`, `loglikelihood_rolling`.

    - What a request gets is a function of it and the seed, never of its batch.
    - Stop strings cut what was written; they do not save forwards. End-of-sequence tokens do.
    - Likelihoods are estimates: `masked_count` and `continuous_time` bounds, `chain` exact from left to right. Choices
      of a question share their noise. `is_greedy` says whether left-to-right greedy decoding would write the text.

    Args:
        pretrained: folder, name on the Hub, name of a packaged checkpoint, or a model.
        tokenizer: with a model.
        adapter: PEFT adapter to merge in first (`peft=` too).
        revision, trust_remote_code, device: as in `from_pretrained`.
        batch_size: rows of a forward.
        max_length: tokens of context and continuation; the model's positions if None.
        max_gen_toks: tokens to write where a task does not say.
        estimator, num_samples: of likelihoods; see `hf_latent.evaluation.scoring.estimators`.
        seed: of all noise.
        generation_kwargs: any knob of `generate`, e.g. `decoding="med"`. Temperature and length are said by tasks, or
            by `--gen_kwargs`.

    Raises:
        ValueError: for unknown names or values, before anything is loaded where possible.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        adapter: str | None = None,
        peft: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: str | None = None,
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        estimator: str = "masked_count",
        num_samples: int = 128,
        seed: int = 0,
        **generation_kwargs: Any,
    ) -> None:
        super().__init__()
        check_estimator(estimator, num_samples)
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"`batch_size` must be an integer of at least 1, got {batch_size!r}.")
        said = [name for name in SAID_BY_TASKS if name in generation_kwargs]
        if said:
            raise ValueError(f"`{said[0]}` is said by each task; to change it give `--gen_kwargs {said[0]}=...`.")
        DiffusionGenerationConfig.refuse_unknown(generation_kwargs)
        state = process_state()
        self._rank, self._world_size = state.process_index, state.num_processes
        if isinstance(pretrained, str):
            from hf_latent.checkpoints.loading import load

            self.model, self.tokenizer = load(
                pretrained,
                adapter=adapter or peft,
                revision=None if revision == "main" else revision,
                trust_remote_code=trust_remote_code,
                device_map=_resolve_device(device, state),
            )
        elif tokenizer is None:
            raise ValueError("`tokenizer` is needed with a model that is loaded already.")
        else:
            self.model, self.tokenizer = pretrained, tokenizer
        check_pair(self.model, self.tokenizer)
        # "none" arrives as text.
        kwargs = {k: None if v in ("none", "None") else v for k, v in generation_kwargs.items()}
        check_settings(self.model.generation_config, kwargs)
        self.generation_kwargs = kwargs
        self._device = find_device(self.model)
        self.batch_size = int(batch_size)
        self.max_gen_toks = max_gen_toks
        limit = getattr(self.model.config, "max_position_embeddings", None)
        self.max_length = max_length or limit or 2048
        self.sampling: dict[str, Any] = {"estimator": estimator, "num_samples": num_samples, "seed": seed}
        self.seed = seed
        self.num_requests = self.num_generations = self.num_forward_passes = self.num_committed = 0
        self.seconds = 0.0

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the model's output; see `identify`."""
        return identify(self.model, self.tokenizer)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """
        As lm-eval calls it with `--use_cache`. Its cache knows answers by their request alone: what else they are a
        function of is kept in it, too, and another is refused.
        """
        super().set_cache_hook(cache_hook)
        if cache_hook.dbdict is None:
            return
        knobs = {**self.generation_kwargs, **self.sampling, "max_length": self.max_length}
        facts = json.loads(json.dumps({"model": self.identity, "settings": knobs, "max_gen_toks": self.max_gen_toks}))
        known = cache_hook.dbdict.get(CACHED_FACTS)
        if known is None and next(iter(cache_hook.dbdict), None) is not None:
            raise ValueError("`use_cache` holds answers, but not of which weights and settings: give another path.")
        if known is not None and (told := changes(known, facts)):
            raise ValueError(
                f"`use_cache` holds answers of another checkpoint or other settings. Changed: {'; '.join(told)}. Give "
                "another path."
            )
        cache_hook.dbdict[CACHED_FACTS] = facts

    # What lm-eval asks for

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence token."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The beginning-of-sequence token; the end-of-sequence token of a tokenizer without one."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """For the names of request caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokens of a text; one that begins with the beginning-of-sequence token (of a chat) gets no second."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (bos and string.startswith(bos))
        with naming(f"The text {string!r}"):
            return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation, as text."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all processes, one after the other."""
        return tensor if self._world_size == 1 else gather(tensor.to(process_state().device).reshape(-1))

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all processes, in process `dst`."""
        if self._world_size == 1:
            return [obj]
        found: list[Any] | None = [None] * self._world_size if self._rank == dst else None
        torch.distributed.gather_object(obj, found, dst=dst)
        return found

    def barrier(self) -> None:
        """Wait for all processes."""
        process_state().wait_for_everyone()

    # Likelihood

    def loglikelihood(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(nats, is_greedy) of each request's (context, continuation)."""
        pairs = []
        for request in requests:
            context, continuation = request.args
            if context:
                encoded = self._encode_pair(context, continuation)
            else:
                # Nothing stands before a diffusion model's text but what its tokenizer puts there.
                encoded = self._beginning(), self.tok_encode(continuation, add_special_tokens=False)
            pairs.append(((context, continuation), *encoded))
        return self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[float]:
        """Nats of each request's text, in windows of `max_length` that overlap as little as they can."""
        results = []
        for (text,) in [request.args for request in requests]:
            start = self._beginning()
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            pairs = []
            for number, (given, behind) in enumerate(map(make_disjoint_window, windows)):
                pairs.append((("", ""), given if number else start, behind))
            scores = self._loglikelihood_tokens(pairs, disable_tqdm=True, greedy=False, cache=False)
            results.append(sum(value for value, _ in scores))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), results[-1])
        return results

    def _beginning(self) -> list[int]:
        """What the tokenizer puts before a text."""
        ids, bos = self.tok_encode("", add_special_tokens=True), self.tokenizer.bos_token_id
        return [bos] if bos is not None and ids[:1] == [bos] else []

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        *,
        greedy: bool = True,
        cache: bool = True,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        texts = [self._fit(given, behind) for _, given, behind in requests]
        rows = 1 if self.sampling["estimator"] == "chain" else self.sampling["num_samples"]
        at_once = max(1, self.batch_size // rows)
        results: list[tuple[float, bool]] = []
        for first in _progress(range(0, len(texts), at_once), "loglikelihood", disable_tqdm or self._rank != 0):
            some = texts[first : first + at_once]
            start = time.perf_counter()
            scores = score_texts(self.model, some, batch_size=self.batch_size, **self.sampling)
            flags = [False] * len(some)
            if greedy:
                flags = would_write(self.model, some, batch_size=self.batch_size)
            self._count(len(some), start)
            for (pair, _, _), score, flag in zip(requests[first : first + at_once], scores, flags, strict=True):
                results.append((score.value, flag))
                if cache:
                    self.cache_hook.add_partial("loglikelihood", pair, results[-1])
        return results

    def _fit(self, given: list[int], behind: list[int]) -> ScoredText:
        """A pair within `max_length`: the context loses its beginning."""
        room = self.max_length - len(behind)
        if room < 0:
            raise ValueError(f"A continuation has {len(behind)} tokens, more than `max_length` ({self.max_length}).")
        if len(given) > room:
            logger.warning("A context of %d tokens is cut to its last %d.", len(given), room)
        return scored_pair(given[len(given) - room :] if len(given) > room else given, behind, context_key(given))

    # Generation

    def generate_until(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[str]:
        """What is written behind each request's context, up to its first stop string."""
        seen: Counter[str] = Counter()
        groups: dict[str, list[tuple[int, list[int], int]]] = {}
        for number, request in enumerate(requests):
            context, options = request.args
            ids = self.tok_encode(context) or [self.prefix_token_id]  # something must stand before what is written
            # Repeats of a request, as for pass@k, meet different noise.
            key = context_key([*ids, seen[context]]) if seen[context] else context_key(ids)
            seen[context] += 1
            groups.setdefault(repr(sorted(options.items())), []).append((number, ids, key))
        written: list[str] = [""] * len(requests)
        jobs = [(group, first) for group in groups.values() for first in range(0, len(group), self.batch_size)]
        for group in groups.values():
            group.sort(key=lambda job: -len(job[1]))
        for group, first in _progress(jobs, "generate_until", disable_tqdm or self._rank != 0):
            batch = group[first : first + self.batch_size]
            start = time.perf_counter()
            texts = list(self._write(batch, requests[batch[0][0]].args[1]))
            self._count(len(batch), start)
            for (number, _, _), text in zip(batch, texts, strict=True):
                written[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return written

    def _write(self, batch: Sequence[tuple[int, list[int], int]], options: dict[str, Any]) -> Iterator[str]:
        kwargs = normalize_gen_kwargs(options, self.max_gen_toks)
        stop = handle_stop_sequences(kwargs.pop("until", None), eos=self.tokenizer.eos_token)
        length = kwargs.pop("max_gen_toks")
        room = self.max_length - length
        if room < 1:
            raise ValueError(
                f"`max_gen_toks` ({length}) must leave room for a context within `max_length` ({self.max_length})."
            )
        if max(len(ids) for _, ids, _ in batch) > room:
            logger.warning("Contexts are cut to their last %d tokens.", room)
        rows = [torch.tensor(ids[-room:]) for _, ids, _ in batch]
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eot_token_id
        stack = torch.nn.utils.rnn.pad_sequence
        shape = {"batch_first": True, "padding_side": "left"}
        ids = stack(rows, padding_value=pad, **shape)
        exists = stack([torch.ones_like(row) for row in rows], padding_value=0, **shape)
        with evaluation_mode(self.model):
            output = self.model.generate(
                ids.to(self._device),
                attention_mask=exists.to(self._device),
                max_new_tokens=length,
                row_indices=[key for _, _, key in batch],
                return_dict_in_generate=True,
                seed=self.seed,
                **{**self.generation_kwargs, **kwargs},
            )
        self.num_generations += len(batch)
        self.num_forward_passes += int(output.num_forward_passes.sum())
        self.num_committed += int((output.commit_step >= 0).sum())
        for row in output.sequences[:, ids.shape[1] :].cpu():
            # With special tokens, as the end-of-sequence token is among the stop strings; then without.
            kept = postprocess_generated_text(self.tokenizer.decode(row), stop, None)
            yield self._without_special(kept)

    def _count(self, num: int, start: float) -> None:
        self.num_requests += num
        self.seconds += time.perf_counter() - start

    def _without_special(self, text: str) -> str:
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, "")
        return text


def _resolve_device(device: str | None, state: PartialState) -> Any:
    """`device_map` of a process."""
    if state.num_processes > 1:
        return {"": state.device}
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        # lm-eval asks for cuda:0 where the user says nothing.
        logger.warning("There is no CUDA device for %s; the model goes where there is room.", device)
        return "auto"
    return "auto" if device is None else {"": device}


def _progress(items: Any, title: str, disable: bool) -> Any:
    from tqdm import tqdm

    return tqdm(items, desc=title, disable=disable)


def register() -> None:
    """Make `hf_latent` a model of lm-eval's registry."""
    register_model(NAME)(HfLatentLM)


def main() -> None:
    """lm-eval's command line, with our model in its registry."""
    from lm_eval.__main__ import cli_evaluate

    if "--model" not in sys.argv and "-M" not in sys.argv and "--model_args" in sys.argv:
        sys.argv += ["--model", NAME]
    cli_evaluate()


register()

__all__ = ["NAME", "SAID_BY_TASKS", "HfLatentLM", "main", "register"]
