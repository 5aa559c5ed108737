"""Any decoder-only model of transformers as one that predicts masked positions."""
