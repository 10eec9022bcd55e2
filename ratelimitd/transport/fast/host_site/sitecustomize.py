"""Start-up hook of the host's Python, which keeps its imports away from the working directory.

`bootstrap.environment()` puts this folder first on the host's PYTHONPATH, so Python imports this module while
it starts. Right after that, pyvoy inserts "." into sys.path, then imports what it needs and the application.
The first of these imports reaches the finder below, which removes "." before sys.path is searched. The finder
also finds the package ratelimitd where this file is, so the host runs the code of its supervisor.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).parent
_PACKAGE = _HERE.parents[2]


class _HostFinder:
    @staticmethod
    def find_spec(
        name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        while "." in sys.path:
            sys.path.remove(".")
        return PathFinder.find_spec(name, [str(_PACKAGE.parent)]) if name == _PACKAGE.name else None


def _run_the_shadowed_hook() -> None:
    """Runs the sitecustomize of this Python's own installation, which this one shadows."""
    spec = PathFinder.find_spec(__name__)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


sys.path.remove(str(_HERE))
sys.meta_path.insert(0, _HostFinder)
_run_the_shadowed_hook()
