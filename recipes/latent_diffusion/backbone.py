"""
A plain encoder-decoder beside latent diffusion: pre-train a small BART by denoising, or fine-tune one from input to
target, the answer first or last.

Objective
    denoise      spans of the text, 30 % of its tokens, become one mask each; write the whole text (BART, arXiv
                 1910.13461, text infilling)
    translate    write the target of the input; cross entropy per token

Defaults are those of `latent_diffusion.py`, which says how the stages follow each other.

    OMP_NUM_THREADS=1 python recipes/latent_diffusion/backbone.py --config recipes/latent_diffusion/pretrain.yaml
    OMP_NUM_THREADS=1 python recipes/latent_diffusion/backbone.py --config recipes/latent_diffusion/baseline.yaml
    OMP_NUM_THREADS=1 python recipes/latent_diffusion/backbone.py --config recipes/latent_diffusion/baseline.yaml \
        --order answer_last --output_dir runs/latent_diffusion/baseline_answer_last
"""

from hf_latent.training.latent_diffusion.backbone import main, parse
from hf_latent.training.runs.finishing import describe_end

if __name__ == "__main__":
    arguments = parse()
    results = main(*arguments)
    print(describe_end(results, arguments[1].output_dir))
