"""Results on disk: measured one after the other, kept as they come, never measured twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from hf_latent.data.identity import check_same, digest_each
from hf_latent.data.json_files import read_json_object
from hf_latent.evaluation.solving.puzzles import DecodingResult
from hf_latent.modeling.travel import write_atomically


def describe(settings: dict[str, Any]) -> str:
    """Settings of `generate` in one line: the rule, then its knobs."""
    knobs = [f"{name}={value}" for name, value in settings.items() if name not in ("decoding", "seed")]
    return ", ".join([settings["decoding"], *knobs])


say_at_once = partial(print, flush=True)


def measure_all(
    grid: Sequence[dict[str, Any]],
    measure: Callable[[dict[str, Any]], DecodingResult],
    path: Path,
    header: dict[str, Any],
    say: Callable[[str], None] = say_at_once,
    known: Sequence[Path] = (),
    identity: Mapping[str, Any] | None = None,
) -> list[DecodingResult]:
    """
    Measure every setting of `grid` and write `path` after each: `header`, versions and the results so far.

    A result that the file, or one of the files `known`, already has under the same header is taken from there: an
    interrupted run goes on.

    Args:
        identity: of the model that is measured, see [`~hf_latent.data.identify`]; a digest of each fact is written
            into the file, and results of another model there are refused, naming what has changed.

    Raises:
        ValueError: if one of the files has results, under the same header, of another model or of an unknown one.
    """
    from hf_latent import __version__

    facts = None if identity is None else digest_each(identity)
    found = {}
    for source in (*known, path):
        found.update(_read(source, header, facts))
    report = {**header, "hf_latent": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    report |= {} if facts is None else {"model": facts}
    results = []
    for settings in grid:
        result = found.get(json.dumps(settings)) or measure(settings)
        results.append(result)
        say(
            f"{describe(settings):78} {result.accuracy:.4f} {result.forwards_per_example:8.2f} {result.seconds:8.1f} s"
        )
        report["results"] = [r.to_dict() for r in results]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(report, indent=1) + "\n")
    return results


def _read(path: Path, header: dict[str, Any], facts: Mapping[str, str] | None) -> dict[str, DecodingResult]:
    if not path.exists():
        return {}
    report = read_json_object(path)
    if any(report.get(name) != json.loads(json.dumps(value)) for name, value in header.items()):
        return {}
    if facts is not None:
        if "model" not in report:
            raise ValueError(
                f"{path} has results of a model that it does not identify: whether it is the same cannot be told. "
                "Remove the file to measure anew."
            )
        check_same(report["model"], facts, place=str(path), remedy="Remove the file to measure anew.")
    return {json.dumps(r["settings"]): DecodingResult.from_dict(r) for r in report["results"]}


__all__ = ["describe", "measure_all"]
