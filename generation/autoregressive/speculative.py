"""
Self-speculative decoding: what a model's latent tokens predict is a draft, what it would have written judges it.

A forward reads the drafts of the forward before as text, and behind each of them a group of latent tokens. The
longest prefix of drafts that would have been written one by one is kept, with the token that is written behind it;
the latent tokens behind the last draft kept are the next drafts. The judge is the prediction that decoding without
drafts reads: the one that looks ahead, or, of `num_latent_tokens=0`, that of the text alone; a forward gives both.
Greedily the text is that of decoding without drafts; sampled, its distribution is (speculative sampling,
arXiv 2211.17192).

`B` rows of which `A` are not done, `K` latent tokens, `V` vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.generation import (
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from hf_latent.generation.arguments.inputs import find_cache
from hf_latent.generation.autoregressive.speculative_scoring import DraftScoring
from hf_latent.generation.beliefs.score_check import raise_invalid_scores

# Processors that keep a state from call to call, which drafts would spoil.
STATEFUL = (SynthIDTextWatermarkLogitsProcessor, UnbatchedClassifierFreeGuidanceLogitsProcessor)


@dataclass
class SpeculativeOutput(ModelOutput):
    """
    Output of `generate(..., self_speculative=True, return_dict_in_generate=True)`.

    Args:
        sequences (`torch.LongTensor` of shape `(B, L)`): prompts and what was written; padded behind a row's end.
        num_forward_passes (`torch.LongTensor` of shape `(B,)`): of the row, with that of the prompt.
        tokens_per_forward (`torch.FloatTensor` of shape `(B,)`): tokens written by each of them, on average.
        num_judged (`torch.LongTensor` of shape `(B, K)`): how often the i-th draft was judged, those before it kept.
        num_accepted (`torch.LongTensor` of shape `(B, K)`): how often it was kept.
        cache (`Cache`, *optional*):
            Of a single row, for the next turn. Also there as `past_key_values`, its name before transformers 5.24.
    """

    sequences: torch.LongTensor | None = None
    num_forward_passes: torch.LongTensor | None = None
    tokens_per_forward: torch.FloatTensor | None = None
    num_judged: torch.LongTensor | None = None
    num_accepted: torch.LongTensor | None = None
    cache: Any | None = None

    @property
    def past_key_values(self) -> Any | None:
        """`cache`."""
        return self.cache


@torch.no_grad()
def speculate(
    model: Any,
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: BaseStreamer | None = None,
    *,
    verified_by_text: bool = False,
    **model_kwargs: Any,
) -> torch.LongTensor | SpeculativeOutput:
    """
    The `custom_generate` of `generate(..., self_speculative=True)`.

    1. Read the prompt: its last token predicts the first token, the masks behind it the drafts.
    2. Read token and drafts as text, with a group of masks behind each. 3. Keep the drafts that decoding one by one
    agrees with, and its token behind them. 4. Take the masks behind the last of them for the next drafts. 5. Forget
    what was read of the other drafts, and rows that have ended.

    Args:
        verified_by_text (`bool`): whether the text alone verifies, which writes what `num_latent_tokens=0` writes.
    """
    _check(generation_config, logits_processor, model_kwargs, synced_gpus)
    run = _Run.start(input_ids, model_kwargs, generation_config, stopping_criteria)
    scoring = DraftScoring(logits_processor, generation_config.do_sample, model.config.mask_token_id, len(input_ids))
    chunk = input_ids[:, run.num_cached :]
    drafts: torch.Tensor | None = None
    draft_p: torch.Tensor | None = None
    while True:
        run.add(None if drafts is None else chunk.shape[1])
        states = model.look_ahead(
            input_ids=chunk,
            attention_mask=run.exists.long(),
            past_key_values=run.cache,
            use_cache=True,
            logits_to_keep=1 if drafts is None else 0,
            num_latent_tokens=run.num_latent_tokens,
        )
        verifier_states = states.text[:, -states.next.shape[1] :] if verified_by_text else states.next
        logits = model.project(verifier_states).float()  # [A, 1 + drafts, V]
        prefixes = run.prefixes(drafts)
        accepted, token, normalizer = scoring.verify(logits, drafts, draft_p, prefixes)
        ended = run.write(drafts, accepted, token, normalizer, streamer)
        row_index = torch.arange(len(accepted), device=accepted.device)
        latent = states.latent[:, -1] if drafts is None else states.latent[row_index, accepted]
        run.forget(accepted, 0 if drafts is None else drafts.shape[1])
        going = (~ended).nonzero().squeeze(-1)
        if len(going) == 0:
            break
        run.select(going)
        token, latent = token[going], latent[going]
        drafts, draft_p = scoring.draft(model.project(latent).float())
        chunk = torch.cat([token[:, None], drafts], dim=1)
    if streamer is not None:
        streamer.end()
    return run.result()


# What is not done, and the value that asks for nothing.
PLAIN = {
    "num_beams": 1,
    "guidance_scale": 1,
    "penalty_alpha": 0,
    "prompt_lookup_num_tokens": None,
    "dola_layers": None,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
}


def _check(
    config: GenerationConfig, processors: LogitsProcessorList, model_kwargs: dict[str, Any], synced_gpus: bool
) -> None:
    """Raise `ValueError` for what self-speculative decoding cannot do, by name."""
    for name, plain in PLAIN.items():
        if (value := getattr(config, name, None)) not in (None, plain):
            raise ValueError(f"`{name}` must be {plain!r} with `self_speculative`, got {value!r}.")
    if synced_gpus:
        raise ValueError("`synced_gpus` must be False with `self_speculative`: rows take different numbers of steps.")
    stateful = [type(each).__name__ for each in processors if isinstance(each, STATEFUL)]
    if stateful:
        raise ValueError(f"`logits_processor` must keep no state with `self_speculative`, got {stateful}.")
    if not model_kwargs.get("use_cache", True):
        raise ValueError("`use_cache` must be True with `self_speculative`, got False.")
    if model_kwargs.get("inputs_embeds") is not None:
        raise ValueError("`self_speculative` takes `input_ids`, got `inputs_embeds`.")


@dataclass
class _Run:
    """What was written, and the rows that are not done."""

    cache: DynamicCache
    num_latent_tokens: int
    num_cached: int  # tokens of the prompt that came in a cache
    prompt_exists: torch.Tensor  # bool (B, T)
    exists: torch.Tensor  # bool (A, P): slots of the cache, those of rejected drafts are not there
    rows: torch.Tensor  # (A,): where the rows are in the batch
    texts: list[torch.Tensor]  # ids of every row, with its prompt
    num_forward_passes: torch.Tensor
    num_judged: torch.Tensor
    num_accepted: torch.Tensor
    stopping_criteria: StoppingCriteriaList
    config: GenerationConfig
    prompt_length: int

    @classmethod
    def start(
        cls,
        input_ids: torch.Tensor,
        model_kwargs: dict[str, Any],
        config: GenerationConfig,
        stopping_criteria: StoppingCriteriaList,
    ) -> "_Run":
        batch_size, device = len(input_ids), input_ids.device
        exists = model_kwargs.get("attention_mask")
        exists = torch.ones_like(input_ids).bool() if exists is None else exists.bool()
        num_latent_tokens = model_kwargs["num_latent_tokens"]
        counts = torch.zeros(batch_size, num_latent_tokens, dtype=torch.long, device=device)
        cache = find_cache(model_kwargs)
        num_cached = cache.get_seq_length()
        return cls(
            cache=cache,
            num_latent_tokens=num_latent_tokens,
            num_cached=num_cached,
            prompt_exists=exists,
            exists=exists[:, :num_cached],
            rows=torch.arange(batch_size, device=device),
            texts=list(input_ids),
            num_forward_passes=torch.zeros(batch_size, dtype=torch.long, device=device),
            num_judged=counts,
            num_accepted=counts.clone(),
            stopping_criteria=stopping_criteria,
            config=config,
            prompt_length=input_ids.shape[1],
        )

    def add(self, length: int | None) -> None:
        """Slots for the tokens that are read next; None: for the prompt."""
        if length is None:
            self.exists = self.prompt_exists
        else:
            self.exists = torch.cat([self.exists, self.exists.new_ones(len(self.rows), length)], -1)

    def prefixes(self, drafts: torch.Tensor | None) -> list[tuple[int, torch.Tensor]]:
        """Each row's number in the batch, and its text with its drafts, `(T_a + drafts,)`."""
        texts = [(row, self.texts[row]) for row in self.rows.tolist()]
        if drafts is None:
            return texts
        return [(row, torch.cat([text, draft])) for (row, text), draft in zip(texts, drafts, strict=True)]

    def write(
        self,
        drafts: torch.Tensor | None,
        accepted: torch.Tensor,
        token: torch.Tensor,
        normalizer: torch.Tensor,
        streamer: BaseStreamer | None,
    ) -> torch.Tensor:
        """
        Append to the texts what is kept, up to where a row ends; gives the rows `(A,)` that have.

        Args:
            normalizer: `(A,)`, not finite where no token could be chosen: `ValueError`, unless the row ends before.
        """
        self.num_forward_passes[self.rows] += 1
        ended, lengths = [], []
        per_row = torch.stack([self.rows, accepted, (~normalizer.isfinite()).long()]).tolist()
        for i, (row, count, is_bad) in enumerate(zip(*per_row, strict=True)):
            new = token[i : i + 1]
            if drafts is not None:
                new = torch.cat([drafts[i, :count], new])
            for length in range(1, len(new) + 1):
                text = torch.cat([self.texts[row], new[:length]])
                if is_bad and length == len(new):
                    raise_invalid_scores(row, len(text) - 1, float(normalizer[i]), greedy=not self.config.do_sample)
                stops = bool(self.stopping_criteria(text[None], None).any())
                if stops:
                    break
            self.texts[row] = text
            ended.append(stops)
            lengths.append(length)
            if streamer is not None:
                streamer.put(new[:length].cpu())
        if drafts is not None:
            # A draft behind a row's end was neither judged nor kept.
            written = torch.tensor(lengths, device=drafts.device)[:, None]
            offset = torch.arange(drafts.shape[1], device=drafts.device)
            self.num_judged[self.rows] += (offset <= accepted[:, None]) & (offset < written)
            self.num_accepted[self.rows] += (offset < accepted[:, None]) & (offset < written)
        return torch.tensor(ended, device=self.rows.device)

    def forget(self, accepted: torch.Tensor, num_drafts: int) -> None:
        """Drop the slots of drafts that no row has kept, and hide those that a row has not kept."""
        longest = int(accepted.max())
        if num_drafts:
            start = self.exists.shape[1] - num_drafts
            offset = torch.arange(num_drafts, device=accepted.device)
            self.exists[:, start:] = offset < accepted[:, None]
            if longest < num_drafts:
                self.cache.crop(longest - num_drafts)
                self.exists = self.exists[:, : start + longest]

    def select(self, going: torch.Tensor) -> None:
        """Keep these of the rows."""
        if len(going) < len(self.rows):
            self.rows, self.exists = self.rows[going], self.exists[going]
            self.cache.batch_select_indices(going)

    def result(self) -> torch.Tensor | SpeculativeOutput:
        """What `generate` returns."""
        device = self.rows.device
        pad = self.config._pad_token_tensor
        length = max(len(text) for text in self.texts)
        filler = 0 if pad is None else int(pad)
        sequences = torch.full((len(self.texts), length), filler, dtype=torch.long, device=device)
        for row, text in enumerate(self.texts):
            sequences[row, : len(text)] = text
        if not self.config.return_dict_in_generate:
            return sequences
        written = torch.tensor([len(text) - self.prompt_length for text in self.texts], device=device)
        return SpeculativeOutput(
            sequences=sequences,
            num_forward_passes=self.num_forward_passes,
            tokens_per_forward=written / self.num_forward_passes,
            num_judged=self.num_judged,
            num_accepted=self.num_accepted,
            cache=self._whole_cache(),
        )

    def _whole_cache(self) -> DynamicCache | None:
        """That of a single row, up to its last token but one, as plain decoding leaves it."""
        if len(self.texts) > 1:
            return None
        surplus = self.cache.get_seq_length() - (len(self.texts[0]) - 1)
        if surplus > 0:
            self.cache.crop(-surplus)
        return self.cache


__all__ = ["SpeculativeOutput", "speculate"]
