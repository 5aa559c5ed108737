"""Results on disk: measured one after the other, kept as they come, never measured twice."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

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
) -> list[DecodingResult]:
    """
    Measure every setting of `grid` and write `path` after each: `header`, versions and the results so far.

    A result that the file, or one of the files `known`, already has under the same header is taken from there: an
    interrupted run goes on.
    """
    from hf_latent import __version__

    found = {}
    for source in (*known, path):
        found.update(_read(source, header))
    report = {**header, "hf_latent": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
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


def _read(path: Path, header: dict[str, Any]) -> dict[str, DecodingResult]:
    if not path.exists():
        return {}
    report = read_json_object(path)
    if any(report.get(name) != json.loads(json.dumps(value)) for name, value in header.items()):
        return {}
    return {json.dumps(r["settings"]): DecodingResult.from_dict(r) for r in report["results"]}


__all__ = ["describe", "measure_all"]
