"""The published checkpoints; tiny ones carry their weights.

Installed as `hf_latent.model_cards`, so that `importlib.resources.files("hf_latent.model_cards") / "sudoku-4x4"` is a
folder in a checkout as well as in an installed wheel. This file is what makes it one: without it, an editable install
does not find the folder.
"""
