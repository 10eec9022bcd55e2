"""`ratelimitd health`: the health check of a container, which has no other gRPC client.

`python -m ratelimitd.cli.health` does the same with a third of the CPU: it imports little of the service.
"""

from typing import Annotated

import typer

from ratelimitd.address import CLIENT_TIMEOUT_S, DEFAULT_LISTEN, parse_address


def health(
    target: Annotated[
        str,
        typer.Argument(
            envvar="RATELIMITD_LISTEN", help="Address of the service: HOST:PORT, [IPV6]:PORT or unix:/path."
        ),
    ] = DEFAULT_LISTEN,
    timeout_s: Annotated[
        float, typer.Option(help="Time limit for the answer, in seconds.", metavar="SECONDS", min=0)
    ] = CLIENT_TIMEOUT_S,
) -> None:
    """Ask a running service for its health: exit status 0 if it is serving, 1 if not."""
    target = (
        target.strip() or DEFAULT_LISTEN
    )  # a variable of white space counts as not set, as in `settings.load`
    try:
        reachable = str(parse_address(target).reachable)
    except ValueError as error:
        typer.echo(f"ratelimitd: {target}: {error}", err=True)
        raise typer.Exit(1) from error
    # The other commands do without gRPC, and `serve` configures it first.
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    # The proxy settings of the environment are meant for other programs.
    with grpc.insecure_channel(reachable, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            typer.echo(f"ratelimitd: {target} does not answer: {error.code().name}", err=True)
            raise typer.Exit(1) from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    typer.echo(status)
    raise typer.Exit(0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1)


if __name__ == "__main__":
    typer.run(health)
