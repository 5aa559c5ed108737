"""Reasoning traces: sampled from a model's own posterior, scored by the known answer, filtered, kept in shards."""
