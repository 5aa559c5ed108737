"""
Latent diffusion on BART: train it to write an answer first and the reasoning after it, which left-to-right models
cannot ("Latent diffusion with LLMs for reasoning").

Objective
    1. Autoencoder: a frozen BART encoder reads a text, learned queries compress its states to a few vectors, the
       latent, and the BART decoder writes the text again from what is reconstructed of them. Cross entropy.
    2. Denoiser: noise the latent of the target; a diffusion transformer, conditioned on the latent of the input,
       estimates the clean one. Squared error, weighted by min(SNR(t), 5), and a term for the learned variance.
    3. One row in ten is denoised without its condition, for classifier-free guidance.
    4. To generate: encode the input, denoise noise with a sampler of diffusers, decode.

Evaluation
    Held-out problems, split by a hash of the question. `accuracy`: the answer is right; `exact`: every token is.

Where the defaults come from
    latents 16 x 256, cosine schedule, T = 1000,   the paper, sections 3, 5 and A
    x0 prediction, learned variance, gamma 5,
    batch 128, learning rate 1e-4, width 768
    linear schedule, no Min-SNR weights            ours, without `bart_base` or `bart_large`: an answer is decided at
                                                   high noise, where the paper's leave few steps and little weight
    weight 1e-3 of the variance's term             improved DDPM, arXiv 2102.09672
    10 % of the rows without condition             classifier-free guidance, arXiv 2207.12598
    two blocks in compressor and reconstructor,    ours; the paper does not say
    normalized latents, noise on latents,
    moving average
    all sizes in the files without `bart_base`     ours: what two CPU cores can train
    or `bart_large`

Every stage is a command; the next one names what the one before has written. The first stage trains an autoencoder on,
too: name it instead of a BART.

    OMP_NUM_THREADS=1 python recipes/latent_diffusion/backbone.py --config recipes/latent_diffusion/pretrain.yaml
    OMP_NUM_THREADS=1 python recipes/latent_diffusion/stages.py --config recipes/latent_diffusion/autoencoder.yaml
    OMP_NUM_THREADS=1 python recipes/latent_diffusion/stages.py --config recipes/latent_diffusion/denoiser.yaml

With real weights the first command is not needed:

    accelerate launch recipes/latent_diffusion/stages.py --config recipes/latent_diffusion/bart_base_autoencoder.yaml
    accelerate launch recipes/latent_diffusion/stages.py --config recipes/latent_diffusion/bart_base_denoiser.yaml

The encoder-decoder to compare with, answer first or last, same data and updates:

    OMP_NUM_THREADS=1 python recipes/latent_diffusion/backbone.py --config recipes/latent_diffusion/baseline.yaml

Any value of a YAML can be overridden on the command line (`--max_steps 2000 --tasks rotation`); a run that was
interrupted goes on from its last checkpoint when the same command is given again. With glibc,
`MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_ARENA_MAX=1` keeps the memory of large
temporaries instead of asking the system for it anew in every step.
"""

from hf_latent.training.latent_diffusion.run import main, parse
from hf_latent.training.runs.finishing import describe_end

if __name__ == "__main__":
    arguments = parse()
    results = main(*arguments)
    print(describe_end(results, arguments[1].output_dir))
