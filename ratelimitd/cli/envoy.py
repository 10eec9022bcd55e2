"""`ratelimitd envoy`: runs the user's Envoy with the service inside. This process becomes that Envoy."""

import asyncio
import json
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import structlog
import typer

from ratelimitd import settings
from ratelimitd.app import HOSTED
from ratelimitd.cli.failure import logged_as_json
from ratelimitd.errors import FrontConfigError, MissingExtraError, SettingsError
from ratelimitd.settings import EMBEDDED, Settings, env_name
from ratelimitd.store.access import access_by
from ratelimitd.store.client import refuse_unsupported
from ratelimitd.telemetry.logs import configure_logs
from ratelimitd.telemetry.traces.variables import prepare_environment
from ratelimitd.transport.metrics_sockets import open_metrics_sockets


class Hop(StrEnum):
    """How an Envoy asks the service inside it."""

    AUTO = "auto"
    HTTP = "http"
    GRPC = "grpc"


class _Hosting(NamedTuple):
    """An Envoy that hosts the service.

    Args:
        config: its configuration.
        environ: the variables that the service needs for the hop.
        hop: how Envoy asks, `http` or `grpc`.
        reason: why it asks in this way.
    """

    config: dict[str, Any]
    environ: Mapping[str, str]
    hop: Hop
    reason: str


@logged_as_json({})
def envoy(
    config: Annotated[
        Path, typer.Option(help="Your Envoy configuration, YAML or JSON.", metavar="FILE", show_default=False)
    ],
    *,
    cluster: Annotated[str, typer.Option(help="Cluster that your ext_authz filter calls.")] = "ratelimitd",
    hop: Annotated[
        Hop, typer.Option(help="How Envoy asks the service: `auto` is `http` where it gives the same result.")
    ] = Hop.AUTO,
    show: Annotated[
        bool, typer.Option("--print", help="Print the changed configuration instead of running Envoy.")
    ] = False,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="Options for Envoy, after `--`: for example `-- --concurrency 2`.", metavar="[-- ARGS]"
        ),
    ] = None,
) -> None:
    """Run your Envoy with the service inside. The settings of the service come from the environment."""
    try:
        import yaml  # noqa: PLC0415 - of the extra `fast`

        from ratelimitd.transport.fast import bootstrap  # noqa: PLC0415 - of the extra `fast`
        from ratelimitd.transport.fast.embed import with_service  # noqa: PLC0415 - of the extra `fast`
    except ImportError as error:
        raise MissingExtraError(f"this needs {error.name}: pip install 'ratelimitd[fast]'") from error
    chosen = settings.load(os.environ, flags={})
    if chosen.redis_url == EMBEDDED:
        raise SettingsError(
            f"{env_name('redis_url')}: `embedded` works only with `serve`; use the URL of a store"
        )
    try:
        parsed: Any = yaml.safe_load(config.read_text())
        config_with_service = with_service(parsed, app=HOSTED, cluster=cluster)
        hosting = _with_hop(parsed, config_with_service, cluster, hop, chosen)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, FrontConfigError) as error:
        raise FrontConfigError(f"--config {config}: {error}") from error
    if show:
        typer.echo(yaml.safe_dump(hosting.config, sort_keys=False), nl=False)
        return
    prepare_environment(os.environ)
    metrics_sockets = open_metrics_sockets(chosen, beside=None)
    asyncio.run(refuse_unsupported(access_by(chosen)))
    configure_logs(chosen.log_level, chosen.log_format)
    log = structlog.get_logger("ratelimitd")
    log.info("hop_chosen", hop=hosting.hop.value, reason=hosting.reason)
    bootstrap.become(
        hosting.config,
        environ={**os.environ, **settings.environment(chosen), **hosting.environ},
        arguments=arguments or [],
        metrics_sockets=metrics_sockets,
    )


def _with_hop(parsed: Any, config: dict[str, Any], cluster: str, hop: Hop, chosen: Settings) -> _Hosting:
    """The configuration with this hop. Raises FrontConfigError if `http` would give another result.

    Args:
        parsed: the user's configuration.
        config: the same with the service inside.
        cluster: the one that the user's filter calls.
        hop: how Envoy asks.
        chosen: the settings.
    """
    from ratelimitd.transport.fast.hop_config import ask_over_http  # noqa: PLC0415 - of the extra `fast`
    from ratelimitd.transport.fast.metadata_readers import metadata_read  # noqa: PLC0415 - of the extra `fast`
    from ratelimitd.transport.hop_check import VARIABLE  # noqa: PLC0415 - needed here only

    if hop is Hop.GRPC:
        return _Hosting(config, {}, Hop.GRPC, "chosen by --hop")
    try:
        identified_by = (*chosen.identity_headers, chosen.address_header)
        read = metadata_read(parsed)
        changed, hop_settings = ask_over_http(config, cluster, read, identified_by)
    except FrontConfigError as error:
        if hop is Hop.HTTP:
            raise FrontConfigError(f"--hop http gives another result: {error}; use --hop grpc") from error
        return _Hosting(config, {}, Hop.GRPC, f"HTTP gives another result: {error}")
    reason = "HTTP gives the same result" if hop is Hop.AUTO else "chosen by --hop"
    return _Hosting(changed, {VARIABLE: json.dumps(hop_settings)}, Hop.HTTP, reason)
