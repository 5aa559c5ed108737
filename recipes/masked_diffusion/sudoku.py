"""
Train a masked diffusion model from scratch to solve Sudoku.

Objective
    1. A puzzle is the prompt, its solution the completion; both are rows of characters, one token each.
    2. Every epoch masks each solution token with probability t ~ U(0, 1); the puzzle stays visible.
    3. The model (LLaDA's: a Llama that sees both sides) predicts the masked tokens from all others.
    4. Minimise the cross entropy of the masked tokens, averaged over all solution tokens.

Evaluation
    Held-out puzzles (never in the training set, whatever the seeds) are solved with `generate`; a solution counts
    if the whole board is right and keeps the given cells.

Where the defaults come from
    t ~ U(0, 1), linear schedule, only the answer masked   LLaDA's SFT, arXiv 2502.09992, section 2.3
    smallest time 1e-3                                     LLaDA's training code
    `loss_weighting: uniform`                              ours: every masked token counts the same; `nelbo` (1 / t)
                                                           minimises the bound on the likelihood instead
    `num_ambiguous_examples` (4x4)                         ours: puzzles with too few given cells for one solution,
                                                           with one of theirs as the target
    `decoding: med`                                        multi-token entropy decoding, arXiv 2510.19990
    sizes, learning rate, steps                            ours; the logs beside the checkpoints show what they give

Hardware: one CPU thread. The published runs took 36 (4x4) and 65 minutes (6x6) on two cores shared with other work,
and solved 99.5 % and 98.0 % of 200 held-out puzzles at the end. Wall time and score of a run are in its
`results.json`; `publish_sudoku.py` measures more and writes the card.

    OMP_NUM_THREADS=1 python recipes/masked_diffusion/sudoku.py --config recipes/masked_diffusion/sudoku_4x4.yaml
    OMP_NUM_THREADS=1 python recipes/masked_diffusion/sudoku.py --config recipes/masked_diffusion/sudoku_6x6.yaml

Any value of the YAML can be overridden on the command line (`--max_steps 2000 --seed 1`); a run that was interrupted
goes on from its last checkpoint when the same command is given again.
"""

from hf_latent.training.run import main, parse
from hf_latent.training.runs.finishing import describe_end

if __name__ == "__main__":
    arguments = parse()
    results = main(*arguments)
    print(describe_end(results, arguments[1].output_dir))
