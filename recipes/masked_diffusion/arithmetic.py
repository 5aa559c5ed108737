"""
Train a masked diffusion model from scratch to reason: word problems with written-out calculations and an answer.

Objective
    1. A question in words is the prompt. The completion is the reasoning (a calculation a sentence), filled up with
       end-of-sequence tokens, then a delimiter, then the answer.
    2. Every epoch masks each completion token with probability t ~ U(0, 1); the question stays visible.
    3. The model (LLaDA's: a Llama that sees both sides) predicts the masked tokens from all others.
    4. Minimise the cross entropy of the masked tokens, averaged over all completion tokens.

    Every completion has the layout of `ReasoningTemplate(60, 3, delimiter="\\nThe answer is ")`, so that the model can
    be asked for its answer while it is still reasoning.

Evaluation
    Held-out problems, none of which is a training problem with other names, items or words, are solved with
    `generate`; the number behind the delimiter has to be right.

Where the defaults come from
    t ~ U(0, 1), linear schedule, only the answer masked   LLaDA's SFT, arXiv 2502.09992, section 2.3
    filling with end-of-sequence tokens that are predicted the same
    smallest time 1e-3                                     LLaDA's training code
    `loss_weighting: uniform`                              ours: every masked token counts the same; `nelbo` (1 / t)
                                                           minimises the bound on the likelihood instead
    `decoding: med`                                        multi-token entropy decoding, arXiv 2510.19990
    sizes, learning rate, steps                            ours; the logs beside the checkpoint show what they give

What the model sees
    Half of the problems come with their reasoning up to a random place, mostly behind an equals sign, as part of the
    prompt, and a quarter of all rows are calculations that have nothing to do with each other, of which the results
    are predicted. Without these it learns the format and to look up numbers in the question, and hardly to calculate:
    under random masks a result is seldom hidden while its operands are seen, and its copy in the next calculation
    gives it away.

Hardware: one CPU thread, some 90 minutes on two cores shared with other work. The published run was begun with
`--max_steps 10000` and went on from update 3,000 with 7,000. Wall time and score are in `results.json`;
`publish_arithmetic.py` compares the decoders and writes the card.

    OMP_NUM_THREADS=1 python recipes/masked_diffusion/arithmetic.py --config recipes/masked_diffusion/arithmetic.yaml

With glibc, `MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592` keeps the memory of large temporaries
instead of asking the system for it anew in every step; on the machine above it doubled the speed.

Any value of the YAML can be overridden on the command line (`--max_steps 2000 --seed 1`); a run that was interrupted
goes on from its last checkpoint when the same command is given again.
"""

from hf_latent.training.run import main, parse
from hf_latent.training.runs.finishing import describe_end

if __name__ == "__main__":
    arguments = parse()
    results = main(*arguments)
    print(describe_end(results, arguments[1].output_dir))
