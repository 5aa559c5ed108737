"""
Fine-tune a masked diffusion model (LLaDA, Dream, or one of your own) on questions and answers, with or without LoRA.

Objective
    1. A question and its answer are a conversation under the model's chat template; the question is the prompt.
    2. Every epoch masks each token of the answer with probability t ~ U(0, 1); the prompt stays visible.
    3. The model predicts the masked tokens from all others, on both sides.
    4. Minimise the cross entropy of the masked tokens, weighted by 1 / t, averaged over the tokens of each answer: a
       bound on -log p(answer | question) (LLaDA, arXiv 2502.09992, algorithm 2).

Where the defaults come from
    t ~ U(0, 1), 1 / t, mean over each answer     LLaDA's SFT, arXiv 2502.09992, section 2.3
    answers filled with predicted EOS tokens      LLaDA's SFT; Dream's answers end with the template's own token
    rank, alpha, learning rate, steps             ours, as is usual for LoRA on models of this size; not measured here

Hardware: 8B parameters in bfloat16 with LoRA need a GPU of 24 GB or more; these runs have not been made for this
project. What is tested is that this file trains tiny checkpoints of both layouts.

    python recipes/masked_diffusion/sft.py --config recipes/masked_diffusion/llada_gsm8k_lora.yaml
    python recipes/masked_diffusion/sft.py --config recipes/masked_diffusion/dream_gsm8k_lora.yaml
    accelerate launch --config_file recipes/accelerate/fsdp2.yaml recipes/masked_diffusion/sft.py \
        --config recipes/masked_diffusion/llada_gsm8k_lora.yaml

All weights instead of LoRA: `--use_peft false --learning_rate 1e-5`. 4-bit weights under LoRA: `--load_in_4bit true`.
Local data in the place of the Hub's: `--train_file train.jsonl --eval_file test.jsonl`. Any value of the YAML can be
overridden; a run that was interrupted goes on when the same command is given again.
"""

from hf_latent.training.run import main, parse
from hf_latent.training.runs.finishing import describe_end

if __name__ == "__main__":
    arguments = parse()
    results = main(*arguments)
    print(describe_end(results, arguments[1].output_dir))
