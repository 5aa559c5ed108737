"""
Old names of modules and functions: one gives what has the new name, with a warning.

Scripts that were written against 0.1 name modules as they lay flat, `hf_latent.training.trainer` for example. They
keep working until 0.3. Nothing in this library uses an old name.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

# Old name, behind "hf_latent.": new name.
MOVED = {
    "app.shelf": "app.loaded_checkpoints",
    "app.watching": "app.stepwise_generation",
    "cli.board": "cli.sudoku_board",
    "cli.bundle": "cli.commands.bundle",
    "cli.bundle_decoder": "cli.commands.bundle_decoder",
    "cli.card": "cli.commands.card",
    "cli.demo": "cli.commands.demo",
    "cli.denoise": "cli.commands.denoise",
    "cli.eval": "cli.commands.eval",
    "cli.generate": "cli.commands.generate",
    "cli.loading": "checkpoints.loading",
    "cli.pull": "cli.commands.pull",
    "cli.push": "cli.commands.push",
    "cli.reasoning": "cli.early_exit",
    "cli.serve": "cli.commands.serve",
    "cli.traces": "cli.commands.traces",
    "cli.train": "cli.commands.train",
    "cli.view": "cli.commands.view",
    "data.rows": "data.data_files",
    "data.traces_filtering": "data.traces.filtering",
    "data.traces_layout": "data.traces.filled_templates",
    "data.traces_sampling": "data.traces.sampling",
    "data.traces_scoring": "data.traces.scoring",
    "data.traces_shards": "data.traces.shards",
    "data.traces_sources": "data.traces.questions",
    "evaluation.encoding": "evaluation.scoring.encoding",
    "evaluation.estimators": "evaluation.scoring.estimators",
    "evaluation.filters": "evaluation.solving.filters",
    "evaluation.harness_runs": "evaluation.harness.runs",
    "evaluation.likelihood": "evaluation.scoring.likelihood",
    "evaluation.local_files": "evaluation.solving.local_files",
    "evaluation.measures": "evaluation.metrics",
    "evaluation.puzzles": "evaluation.solving.puzzles",
    "evaluation.records": "evaluation.reports.records",
    "evaluation.report": "evaluation.reports.report",
    "evaluation.results": "evaluation.reports.results",
    "evaluation.running": "evaluation.sharded_runs",
    "evaluation.session": "evaluation.evaluator",
    "evaluation.similarity": "evaluation.solving.similarity",
    "evaluation.solving": "evaluation.solving.solving",
    "evaluation.suite": "evaluation.metric_specs",
    "generation.belief": "generation.beliefs.belief",
    "generation.block_cache": "generation.model_calls.block_cache",
    "generation.canvas": "generation.state.canvas",
    "generation.denoising": "generation.loop.denoising",
    "generation.distribution": "generation.beliefs.distribution",
    "generation.inputs": "generation.arguments.inputs",
    "generation.maxima": "generation.beliefs.top_k",
    "generation.noise": "generation.state.noise",
    "generation.nucleus": "generation.beliefs.nucleus",
    "generation.pace": "generation.loop.quotas",
    "generation.predictor": "generation.model_calls.predictor",
    "generation.progress": "generation.state.progress",
    "generation.refinement": "generation.beliefs.refinement",
    "generation.rows": "generation.state.rows",
    "generation.rules": "generation.commit.rules",
    "generation.running": "generation.generate",
    "generation.schedule": "generation.commit.schedule",
    "generation.semi_causal": "generation.model_calls.semi_causal",
    "generation.settings": "generation.state.settings",
    "generation.speculative": "generation.autoregressive.speculative",
    "generation.stopping": "generation.loop.stopping",
    "generation.survey": "generation.loop.step",
    "generation.visibility": "generation.model_calls.semi_causal_masks",
    "hub.bundles.staging": "hub.bundles.upload_folder",
    "hub.bundling": "hub.bundles.bundling",
    "hub.card": "hub.cards.card",
    "hub.card_check": "hub.safety.card_check",
    "hub.card_numbers": "hub.cards.numbers",
    "hub.card_results": "hub.cards.results",
    "hub.card_sections": "hub.cards.sections",
    "hub.card_subject": "hub.cards.subject",
    "hub.citations": "hub.cards.citations",
    "hub.contents": "hub.safety.contents",
    "hub.dataset": "hub.transfer.dataset",
    "hub.decoder": "hub.bundles.decoder",
    "hub.errors": "hub.transfer.errors",
    "hub.inspection": "hub.safety.inspection",
    "hub.local_paths": "hub.safety.local_paths",
    "hub.plan": "hub.transfer.push_plan",
    "hub.preparation": "hub.transfer.preparation",
    "hub.pulling": "hub.transfer.pulling",
    "hub.pushing": "hub.transfer.pushing",
    "hub.shelf": "hub.cards.model_table",
    "hub.tokens": "hub.safety.tokens",
    "hub.transfer.plan": "hub.transfer.push_plan",
    "hub.travelling_code": "hub.bundles.travelling_code",
    "training.checks": "training.masked_diffusion.checks",
    "training.collator": "training.masked_diffusion.collator",
    "training.config": "training.masked_diffusion.config",
    "training.latent_diffusion_average": "training.latent_diffusion.average",
    "training.latent_diffusion_backbone": "training.latent_diffusion.backbone",
    "training.latent_diffusion_config": "training.latent_diffusion.config",
    "training.latent_diffusion_data": "training.latent_diffusion.data",
    "training.latent_diffusion_objectives": "training.latent_diffusion.objectives",
    "training.latent_diffusion_run": "training.latent_diffusion.run",
    "training.latent_diffusion_sources": "training.latent_diffusion.sources",
    "training.latent_diffusion_trainer": "training.latent_diffusion.trainer",
    "training.latent_token_config": "training.latent_tokens.config",
    "training.latent_token_objectives": "training.latent_tokens.objectives",
    "training.latent_token_trainer": "training.latent_tokens.trainer",
    "training.objectives": "training.common.objectives",
    "training.packing": "training.masked_diffusion.packing",
    "training.publishing": "training.common.publishing",
    "training.report": "training.runs.report",
    "training.sources": "training.common.sources",
    "training.trainer": "training.masked_diffusion.trainer",
}


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the old names. The module it hands out is the one under the new name, not a copy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.removeprefix("hf_latent.") not in MOVED or not fullname.startswith("hf_latent."):
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = f"hf_latent.{MOVED[spec.name.removeprefix('hf_latent.')]}"
        # Seen from here, the import statement is behind importlib's own frames, which warnings skip.
        warnings.warn(f"`{spec.name}` is now `{new}`; the old name goes in 0.3.", DeprecationWarning, stacklevel=2)
        return importlib.import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run, the module has been. Its own spec is put back: importlib wrote the old name's over it."""
        module.__spec__ = importlib.machinery.ModuleSpec(
            module.__name__,
            module.__loader__,  # type: ignore[arg-type]
            origin=module.__file__,
            is_package=hasattr(module, "__path__"),
        )
        module.__spec__.has_location = True


def find_moved_modules() -> None:
    """Have the old names found where no module of that name is, in this process; once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())


def old_names(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of `module` that gives what was renamed (old name to new) under its old name, too."""

    def get(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = renamed[name]
        warnings.warn(f"`{module}.{name}` is now `{new}`; the old name goes in 0.3.", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], new)

    return get


__all__ = ["MOVED", "MovedModules", "find_moved_modules", "old_names"]
