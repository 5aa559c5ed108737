"""`python -m hf_latent.evaluation.harness`: lm-eval's own command line, with our models."""

from hf_latent.evaluation.harness.adapter import main

main()
