#!/usr/bin/env bash
# Versions: transformers 5.24.0, peft 0.21.2 (the newest on 2026-11-29), torch 2.13.0 (CPU), a tiny random Llama.
# Guess, before running: the adapter methods of transformers' models work with the peft that pip installs today:
#   what `load_adapter` has loaded can be switched off, on and be deleted again.
# Seen: `load_adapter` works. `set_adapter`, `disable_adapters`, `enable_adapters` and `delete_adapter` raise a
#   ValueError that asks for peft 0.22.0 or later, which is not released: an adapter that was loaded stays.
#   peft's own `PeftModel` does all of it.
# Exits 1 if that changes. Needs a package registry; installs into a temporary folder, 3 minutes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.24.0 peft==0.21.2
cat > "$work/check.py" <<'PY'
import sys
import tempfile
import warnings

import peft
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

warnings.filterwarnings("ignore")
transformers.utils.logging.set_verbosity_error()
print("transformers", transformers.__version__, "peft", peft.__version__)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=0)
folder = tempfile.mkdtemp()
lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
get_peft_model(LlamaForCausalLM(config), lora).save_pretrained(folder)
model = LlamaForCausalLM(config)
refused = {}
for name, arguments in (
    ("load_adapter", (folder,)),
    ("set_adapter", ("default",)),
    ("disable_adapters", ()),
    ("enable_adapters", ()),
    ("delete_adapter", ("default",)),
):
    try:
        getattr(model, name)(*arguments)
        refused[name] = False
        print(f"{name}: works")
    except ValueError as error:
        refused[name] = "0.22.0" in str(error)
        print(f"{name}: ValueError: {error}")
as_seen = not refused.pop("load_adapter") and all(refused.values())
print("as seen" if as_seen else "changed")
sys.exit(not as_seen)
PY
"$work/venv/bin/python" "$work/check.py"
# Printed on 2026-11-29:
#   transformers 5.24.0 peft 0.21.2
#   load_adapter: works
#   set_adapter: ValueError: The version of PEFT you are using is not compatible, please use a version >= 0.22.0
#   disable_adapters: ValueError: The version of PEFT you are using is not compatible, please use a version >= 0.22.0
#   enable_adapters: ValueError: The version of PEFT you are using is not compatible, please use a version >= 0.22.0
#   delete_adapter: ValueError: The version of PEFT you are using is not compatible, please use a version >= 0.22.0
#   as seen
