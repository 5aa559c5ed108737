"""
Turn an autoregressive model (Llama, SmolLM2, Qwen, Mistral, Gemma, GPT-2, ...) into a masked diffusion model.

Objective
    1. The decoder is taken over as it is; its attention is opened (every position sees all others) and a mask token
       gets a row of its own in embeddings and head, the mean of all others.
    2. A conversation is a question and its answer. Every epoch masks each token of the answer with probability
       t ~ U(0, 1); the question stays visible.
    3. The state of the position before predicts a masked token (`shift_logits`): the head goes on predicting the next
       token, as it has learnt to.
    4. Minimise the cross entropy of the masked tokens, weighted by 1 / t, averaged over all tokens of the answers: a
       bound on -log p(answer | question).

Where the defaults come from
    opened attention, shifted logits                        Dream (arXiv 2508.15487), DiffuLLaMA (arXiv 2410.17891)
    t ~ U(0, 1), linear schedule, only the answer masked    LLaDA's SFT, arXiv 2502.09992, section 2.3
    smallest time, learning rates, sizes, steps             ours; the logs beside the cards show what they give

Hardware of the published runs: one CPU core with bfloat16 autocast; see `results.json` beside the cards for wall time.
On a GPU bfloat16 is the default; on a CPU ask for it with `--bf16 true --use_cpu true`.

    python recipes/masked_diffusion/llama_to_diffusion.py --config recipes/masked_diffusion/smollm2_gsm8k.yaml
    python recipes/masked_diffusion/llama_to_diffusion.py --config recipes/masked_diffusion/smollm2_gsm8k_lora.yaml
    accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/masked_diffusion/llama_to_diffusion.py \
        --config ...

Local data instead of the Hub's: `--train_file train.jsonl --eval_file test.jsonl`. Any value of the
YAML can be overridden; a run that was interrupted goes on when the same command is given again.
"""

from hf_latent.training.run import main, parse
from hf_latent.training.runs.finishing import describe_end

if __name__ == "__main__":
    arguments = parse()
    results = main(*arguments)
    print(describe_end(results, arguments[1].output_dir))
