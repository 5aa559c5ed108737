"""Registration with the Auto classes without importing torch before somebody needs it."""

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

# Whoever comes to an Auto class comes past the first, whoever comes to one of our models past the others. When the own
# file of one has been executed, nothing that our models need is half imported.
DOORS = ("transformers", "hf_latent.generation", "hf_latent.modeling", "hf_latent.auto")


class RegisterOnImport(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it has our models registered as soon as one of `DOORS` has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in DOORS:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader.exec_module = functools.partial(self._execute, spec.loader.exec_module)  # type: ignore[method-assign]
                return spec
        return None

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        is_first = self in sys.meta_path
        if is_first:
            sys.meta_path.remove(self)
        execute(module)
        if is_first:
            register()


def register() -> None:
    """Import the model classes and register them."""
    importlib.import_module("hf_latent.auto").register()


def register_when_needed() -> None:
    """Now if `transformers` is there already, otherwise as soon as it is."""
    if "transformers" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, RegisterOnImport())


__all__ = ["DOORS", "RegisterOnImport", "register", "register_when_needed"]
