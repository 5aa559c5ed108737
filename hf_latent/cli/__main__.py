"""`python -m hf_latent.cli`, e.g. for `accelerate launch -m hf_latent.cli eval ...`."""

from hf_latent.cli import main

if __name__ == "__main__":
    main()
