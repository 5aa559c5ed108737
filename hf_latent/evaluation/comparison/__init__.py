"""Decoders compared: on the same examples, over several wordings of the question, and along a curve."""
