#!/usr/bin/env bash
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0 (CPU), a tiny random Llama of transformers' own.
# Guess, before running: `PeftModel.generate` with prompt tuning or p-tuning writes greedily what a loop over
#   `PeftModel.forward` writes, with a cache and without; both are documented for causal language models.
# Seen: without a cache it does, in every row. With the default cache it writes another text: most rows differ.
#   So a prompt-tuned model that was evaluated by its loss is not the model that `generate` runs.
# Exits 1 if that changes. Needs a package registry; installs into a temporary folder, 3 minutes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.24.0 peft==0.21.2
cat > "$work/check.py" <<'PY'
import sys
import warnings

import peft
import torch
import transformers
from peft import PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

warnings.filterwarnings("ignore")
transformers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)
print("peft", peft.__version__, "transformers", transformers.__version__)
ROWS, NEW = 24, 12


def written(config, use_cache):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    tuned = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    prompt = torch.randint(1, 64, (ROWS, 6))
    by_forward = prompt
    with torch.no_grad():
        for _ in range(NEW):
            logits = tuned(input_ids=by_forward, attention_mask=torch.ones_like(by_forward)).logits
            by_forward = torch.cat([by_forward, logits[:, -1:].argmax(-1)], dim=1)
    text = tuned.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW,
                          do_sample=False, use_cache=use_cache)
    return int((text == by_forward).all(-1).sum())


found = {}
for name, config in (
    ("prompt tuning", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    ("p-tuning", PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16)),
):
    for use_cache in (False, True):
        found[name, use_cache] = written(config, use_cache)
        print(f"{name}, use_cache={use_cache}: {found[name, use_cache]} of {ROWS} rows as by forward")
as_seen = all(count == ROWS if not cached else count < ROWS // 2 for (_, cached), count in found.items())
print("as seen" if as_seen else "changed")
sys.exit(not as_seen)
PY
"$work/venv/bin/python" "$work/check.py"
# Printed on 2026-11-29:
#   peft 0.21.2 transformers 5.24.0
#   prompt tuning, use_cache=False: 24 of 24 rows as by forward
#   prompt tuning, use_cache=True: 0 of 24 rows as by forward
#   p-tuning, use_cache=False: 24 of 24 rows as by forward
#   p-tuning, use_cache=True: 0 of 24 rows as by forward
#   as seen
