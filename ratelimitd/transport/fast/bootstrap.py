"""The Envoy that hosts this Python: its command, its environment, and the filters that serve the module."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NoReturn

from ratelimitd.errors import ChildError, MissingExtraError
from ratelimitd.process.envoy_binary import envoy_binary

try:
    from pyvoy import PyvoyServer
    from pyvoy._server import get_envoy_environ
except ImportError as missing:
    raise MissingExtraError(f"this needs {missing.name}: pip install 'ratelimitd[fast]'") from missing

Config = dict[str, Any]
"""A piece of Envoy's configuration, as in JSON."""

PRELOAD = "LD_PRELOAD"


def environment() -> dict[str, str]:
    """What the process needs to find this Python. Raises ChildError when this Python cannot be hosted."""
    found: dict[str, str] = get_envoy_environ()
    if sys.platform == "linux" and PRELOAD not in found:
        raise ChildError(
            f"{sys.executable} has no shared libpython, so no Envoy can host it: use a Python that is built "
            "with --enable-shared, as the official images have, or the transport grpcio"
        )
    _ensure_nothing_shadowed()
    return found


def _ensure_nothing_shadowed() -> None:
    """Raises ChildError for a file that the host's Python would load instead of a module that it needs.

    pyvoy lets that Python look into the working directory before all else.
    """
    for name, module in list(sys.modules.items()):
        needed = getattr(module, "__file__", None)
        if needed is None or "." in name or name == "__main__":  # the last is never looked for
            continue
        there = PathFinder.find_spec(name, [""])
        if there and there.origin and Path(there.origin).resolve() != Path(needed).resolve():
            raise ChildError(
                f"{there.origin} would be loaded in place of the module {name} that is needed here: "
                "start in another folder, or give it another name"
            )


def command(config: Config) -> tuple[list[str], int]:
    """The arguments that run Envoy with `config`, and the file that they name, which it must inherit.

    A file without a name: a configuration may hold keys, which `ps` must not show, and have any length.
    """
    file = os.memfd_create("envoy.json")
    os.write(file, json.dumps(config).encode())
    os.lseek(file, 0, os.SEEK_SET)
    return [envoy_binary(), "--config-path", f"/dev/fd/{file}", "--disable-hot-restart"], file


def become(config: Config, *, environ: Mapping[str, str], arguments: Sequence[str]) -> NoReturn:
    """This process is an Envoy with `config` from now on. Raises ChildError when it cannot be."""
    line, file = command(config)
    os.set_inheritable(file, True)  # noqa: FBT003 - the library's way
    os.execve(line[0], [*line, *arguments], {**environ, **environment()})  # noqa: S606 - no shell is wanted


def filter_chain(app: str) -> Config:
    """The network filters that serve `app` (module:attribute) to HTTP/2 clients."""
    listener = PyvoyServer(app, lifespan=True).get_envoy_config()["static_resources"]["listeners"][0]
    (chain,) = listener["filter_chains"]
    (connections,) = chain["filters"]
    connections["typed_config"] |= {
        "stat_prefix": "ratelimitd",
        "codec_type": "HTTP2",
        # A Watch is silent for as long as health stays as it is.
        "stream_idle_timeout": "0s",
    }
    return {"filters": chain["filters"]}
