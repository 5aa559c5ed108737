"""lm-evaluation-harness: our models by their name there, and its tasks in `hf-latent eval`. Needs lm-eval."""

from hf_latent.evaluation.harness.adapter import NAME, SAID_BY_TASKS, HfLatentLM, main, register

__all__ = ["NAME", "SAID_BY_TASKS", "HfLatentLM", "main", "register"]
