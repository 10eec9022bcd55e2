"""`ratelimitd demo`: runs the whole system on this machine, without Docker."""

from typing import Annotated

import typer

from ratelimitd.errors import ListenError, MissingExtraError, SettingsError
from ratelimitd.process import event_loop
from ratelimitd.settings import EMBEDDED
from ratelimitd.store_source import check_store_url


def demo(
    *,
    port: Annotated[
        int, typer.Option(help="Port of loopback where Envoy listens.", metavar="PORT", min=1, max=65535)
    ] = 8081,
    redis_url: Annotated[
        str | None, typer.Option(help="Your store, instead of the bundled Valkey.", metavar="URL")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Exit after the output instead of waiting for Ctrl-C.")
    ] = False,
    traffic: Annotated[
        bool, typer.Option("--traffic", help="Keep sending requests of several users until Ctrl-C.")
    ] = False,
) -> None:
    """Start a store, two replicas, a backend and Envoy, send requests through them, and show the results."""
    if once and traffic:
        raise typer.BadParameter("it lasts until Ctrl-C, so leave out --once", param_hint="--traffic")
    try:
        from ratelimitd.demo.run import run_demo  # noqa: PLC0415 - its libraries are the `demo` extra
    except ImportError as error:
        raise MissingExtraError(f"the demo needs {error.name}: pip install 'ratelimitd[demo]'") from error
    if redis_url == EMBEDDED:
        redis_url = None
    if redis_url is not None:
        try:
            check_store_url(redis_url)
        except ValueError as error:
            raise SettingsError(f"--redis-url: {error}") from error
    try:
        event_loop.run(run_demo(port=port, redis_url=redis_url, once=once, traffic=traffic))
    except ListenError as error:
        raise ListenError(f"{error}; choose another port with --port") from error
