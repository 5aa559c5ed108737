"""
Train a block-diffusion model: SDAR with LoRA, an autoregressive model turned into one, or a small one from scratch.

Objective
    1. A row is divided into blocks of `block_size` positions. A token sees its own block and the blocks before it.
    2. Every pass masks each completion token with probability t ~ U(0, 1); the prompt stays visible. t is drawn for
       each block (`time_per: block`), or once for a row (`sequence`).
    3. One forward reads the noisy row and the clean one behind it, `[x_t | x_0]`: a noisy token sees its own noisy
       block and the clean blocks before it, as when the text is written block by block.
    4. Minimise the cross entropy of the masked tokens. Weighted by 1 / t it bounds -log p, a sum over the blocks
       (BD3LM, arXiv 2503.09573); unweighted, with `complementary_masks`, every completion token is learnt once.

Where the defaults come from
    sdar_gsm8k_lora.yaml    one t a row, 1 / t, blocks of 4           SDAR's training code (arXiv 2510.06303)
                            mean over each answer, rank, rates, steps ours, not measured
    qwen2_gsm8k.yaml        blocks of 32, t of each block, a mask and its complement, unweighted, the state before
                            predicts a token                          Fast-dLLM v2 (arXiv 2509.26328)
                            data, rates, steps                        ours, not measured
    arithmetic.yaml         settings of masked_diffusion/arithmetic.yaml, which trains a bidirectional model: as many
                            parameters, updates and examples          to compare the two
                            blocks of 16                              ours

Hardware: `arithmetic.yaml` takes one CPU thread, and twice the tokens of its bidirectional counterpart; the other two
need a GPU and have not been run for this project. What is tested is that this file trains tiny models of each kind.

    python recipes/block_diffusion/block_diffusion.py --config recipes/block_diffusion/sdar_gsm8k_lora.yaml
    python recipes/block_diffusion/block_diffusion.py --config recipes/block_diffusion/qwen2_gsm8k.yaml
    python recipes/block_diffusion/block_diffusion.py --config recipes/block_diffusion/arithmetic.yaml

LLaDA2's clipped times: `--time_epsilon 0.3 --time_max 0.8 --time_per sequence`. Several block sizes in one model:
`--block_sizes 4 8 16`. Local data in the place of the Hub's: `--train_file train.jsonl --eval_file test.jsonl`. Any
value of the YAML can be overridden; a run that was interrupted goes on when the same command is given again.
"""

from hf_latent.training.run import main, parse
from hf_latent.training.runs.finishing import describe_end

if __name__ == "__main__":
    arguments = parse()
    results = main(*arguments)
    print(describe_end(results, arguments[1].output_dir))
