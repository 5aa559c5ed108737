"""
Train a latent-token model: one that predicts positions it does not write yet, so that it looks ahead.

Objective, from left to right (`order: left_to_right`)
    1. The text is read as by any autoregressive model; every token predicts the next one.
    2. Behind `num_states` random tokens of each row stands a group: the token once more, and `num_latent_tokens` masks
       at the positions after it. A group sees the text before it, and itself.
    3. Minimise CE(next token) + lambda * mean CE(latent tokens), lambda = `latent_loss_weight`.

Objective, in any order (`order: any`)
    1. Mask each supervised token with probability t ~ U(0, 1); the others were written in a random order, each seeing
       those before it.
    2. The masked tokens form random groups of `num_latent_tokens + 1`, each predicted jointly from what is written.
    3. Minimise the cross entropy of the masked tokens, averaged over all supervised ones.

Every step draws its number of latent tokens from `num_latent_tokens`, so that one checkpoint serves them all:
`generate(..., num_latent_tokens=k)`.

Where the defaults come from
    objectives, groups, drawing k per batch            arXiv 2602.03769
    loss of the text's own predictions beside theirs   ours: it costs nothing, and k = 0 and drafts need it
    sizes, learning rate, steps                        ours; the logs beside the checkpoints show what they give

    OMP_NUM_THREADS=1 python recipes/latent_tokens/latent_tokens.py --config recipes/latent_tokens/star_graph.yaml
    python recipes/latent_tokens/latent_tokens.py --config recipes/latent_tokens/smollm2.yaml

Any value of the YAML can be overridden on the command line (`--max_steps 2000 --seed 1`); a run that was interrupted
goes on from its last checkpoint when the same command is given again. `--train_file data.jsonl` takes the place of the
dataset of a YAML; `--use_peft true` trains an adapter.
"""

from hf_latent.training.run import main, parse
from hf_latent.training.runs.finishing import describe_end

if __name__ == "__main__":
    arguments = parse()
    results = main(*arguments)
    print(describe_end(results, arguments[1].output_dir))
