"""Tokens and keys: found before they are published, and never shown in a message."""

import os
import re

from huggingface_hub import get_token

HIDDEN = "***"
# What services hand out. Each begins in a way of its own, so that prose, vocabularies and hashes are no matches.
PATTERNS: dict[str, re.Pattern[str]] = {
    "a Hugging Face token": re.compile(r"\b(?:hf_(?:oauth_|jwt_)?|api_org_)[A-Za-z0-9]{30,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})"),
    "a GitLab token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "an OpenAI or Anthropic key": re.compile(r"\bsk-[A-Za-z0-9_-]{32,}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "a Slack token": re.compile(r"\bxox[abeprs]-[0-9A-Za-z-]{10,}"),
    "a PyPI token": re.compile(r"\bpypi-[A-Za-z0-9_-]{50,}"),
    "a Weights & Biases key": re.compile(r"(?i)wandb_api_key\W{1,4}[0-9a-f]{40}\b"),
    "a JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "a password in an address": re.compile(r"\bhttps?://[^\s/:@\"'<>]+:[^\s/@\"'<>{}]+@"),
    "an authorization header": re.compile(r"(?i)\bauthorization\W{1,4}(?:bearer|basic)\s+[A-Za-z0-9+/=._-]{16,}"),
}
# Of tokens that are used here: they need not look like any of the above.
MIN_LENGTH = 8


def tokens_in_use(token: str | bool | None = None) -> list[str]:
    """The token of a call and those of the machine, for `find_token` and `redact`."""
    candidates = [token, get_token(), os.environ.get("HF_TOKEN")]
    return list({text for text in candidates if isinstance(text, str) and len(text) >= MIN_LENGTH})


def find_token(text: str, known: list[str] | None = None) -> str | None:
    """What kind of token or key `text` has in it, e.g. `"a Hugging Face token"`; None if there is none."""
    if any(token in text for token in known or ()):
        return "the token of this machine"
    return next((kind for kind, pattern in PATTERNS.items() if pattern.search(text)), None)


def redact(text: str, known: list[str] | None = None) -> str:
    """`text` with every token or key in it replaced by `***`."""
    for token in known or ():
        text = text.replace(token, HIDDEN)
    for pattern in PATTERNS.values():
        text = pattern.sub(HIDDEN, text)
    return text


__all__ = ["find_token", "redact", "tokens_in_use"]
