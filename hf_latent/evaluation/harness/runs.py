"""Tasks of lm-evaluation-harness in `hf-latent eval`: over a grid of decoders, into the same results."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from hf_latent.evaluation.evaluator import Evaluator
from hf_latent.evaluation.harness.adapter import SAID_BY_TASKS, HfLatentLM
from hf_latent.evaluation.reports.records import digest
from hf_latent.evaluation.reports.report import read_entries


def measure_with_harness(
    evaluator: Evaluator,
    names: Sequence[str],
    grid: Sequence[dict[str, Any]],
    samples: dict[str, Any],
    seed: int,
    *,
    limit: int | None = None,
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
) -> Iterator[dict[str, Any]]:
    """
    Tasks of lm-eval with every decoder of `grid`, or with the draws `samples` where nothing is generated.

    Answers of requests are kept in the evaluator's folder as they come; an interrupted run goes on. Yields entries of
    the results file, in the main process. Forwards and seconds are means over the requests that this process answered
    since the last interruption.
    """
    manager = _find_tasks(names, include_path)
    for name in names:
        tasks = list(manager.load([name])["tasks"].values())
        generates = any(task.get_config("output_type") == "generate_until" for task in tasks)
        for knobs in grid if generates else [{}]:
            settings = {**knobs, "seed": seed} if generates else {**samples, "seed": seed}
            key = digest([evaluator.identity, settings, samples, seed, [_content(task) for task in tasks]])
            options = {"limit": limit, "num_fewshot": num_fewshot, "apply_chat_template": chat}
            done = _find(evaluator, name, settings, key, options)
            if done:
                yield from done if evaluator.is_main else ()
                continue
            lm = _make_lm(evaluator, knobs, samples, seed)
            results = _run_harness(evaluator, lm, name, manager, knobs, key, options)
            if results is not None:
                for entry in _entries(name, lm, results):
                    source = {
                        **options,
                        "name": name,
                        "version": results["versions"].get(entry["task"].partition(":")[2]),
                    }
                    yield evaluator.put({**entry, "settings": settings, "run": key, "source": source})


def _find_tasks(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """A manager that knows `names`; lm-eval's own thousands of tasks are read only if the folder lacks one of them."""
    if include_path is not None:
        manager = TaskManager(include_path=str(include_path), include_defaults=False)
        with contextlib.suppress(KeyError):
            manager.load(list(names))
            return manager
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    try:
        manager.load(list(names))
    except KeyError as error:
        raise ValueError(
            f"`tasks`: lm-eval does not know all of {list(names)}; see `--include-path`. {error}"
        ) from None
    return manager


def _content(task: Any) -> str:
    """Identity of a task: its configuration and its documents."""
    # Functions are shown with their address, which is another one in each process.
    config = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(task.dump_config(), sort_keys=True, default=str))
    return digest([config, list(task.eval_docs)])


def _find(
    evaluator: Evaluator, name: str, settings: dict[str, Any], key: str, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """What the results file has of a run already: from the cache alone, its costs would not be known."""
    wanted = {**options, "name": name}
    return [
        entry
        for entry in read_entries(evaluator.folder / "results.json")
        if (entry["measure"], entry["run"], entry["settings"]) == ("harness", key, settings)
        and wanted.items() <= entry["source"].items()
    ]


def _make_lm(evaluator: Evaluator, knobs: dict[str, Any], samples: dict[str, Any], seed: int) -> HfLatentLM:
    """The model as the harness calls it, with the knobs that tasks do not say."""
    own = {knob: value for knob, value in knobs.items() if knob not in SAID_BY_TASKS}
    lm = HfLatentLM(evaluator.model, evaluator.tokenizer, batch_size=evaluator.batch_size, seed=seed, **samples, **own)
    lm.identity = evaluator.identity  # which it would find out by reading all weights again
    return lm


def _run_harness(
    evaluator: Evaluator,
    lm: HfLatentLM,
    name: str,
    manager: Any,
    knobs: dict[str, Any],
    key: str,
    options: dict[str, Any],
) -> dict[str, Any] | None:
    """Results of one call of the harness; None but in the main process."""
    said = {knob: value for knob, value in knobs.items() if knob in SAID_BY_TASKS}
    if said.get("temperature"):
        said["do_sample"] = True
    return simple_evaluate(
        model=lm,
        tasks=[name],
        use_cache=str(evaluator.folder / "records" / key / "harness"),
        task_manager=manager,
        gen_kwargs=said or None,
        log_samples=False,
        **options,
    )


def _entries(name: str, lm: HfLatentLM, results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An entry for the task or group `name`; for each of its tasks if it is a tag."""
    found = results["results"]
    for task in [name] if name in found else list(found):
        metrics = {k: v for k, v in found[task].items() if isinstance(v, int | float) and v == v and "," in k}
        first = next((metric for metric in metrics if "_stderr," not in metric), None)
        if first is None:
            raise ValueError(f"lm-eval gives no number for {task}: {found[task]}.")
        metric, _, filter_ = first.partition(",")
        error = found[task].get(f"{metric}_stderr,{filter_}")
        counts = results.get("n-samples", {}).get(task, {})
        entry = {
            "task": f"harness:{task}",
            "measure": "harness",
            "metric": metric,
            "value": metrics[first],
            "standard_error": error if isinstance(error, int | float) and error == error else None,
            "num_examples": counts.get("effective"),
            "metrics": metrics,
        }
        if lm.num_requests:  # what an earlier, interrupted run has answered costs nothing now
            entry["seconds_per_request"] = lm.seconds / lm.num_requests
        if lm.num_generations:
            entry["forwards_per_example"] = lm.num_forward_passes / lm.num_generations
            entry["tokens_per_forward"] = lm.num_committed / max(lm.num_forward_passes, 1)
        yield entry


__all__ = ["measure_with_harness"]
