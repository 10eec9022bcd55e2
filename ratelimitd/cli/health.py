"""`ratelimitd health`: for a container's health check, which has no gRPC client of its own.

`python -m ratelimitd.cli.health` is the same at a third of the CPU: it imports nothing of the service.
"""

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc


def health(
    target: Annotated[
        str, typer.Argument(envvar="RATELIMITD_LISTEN", help="HOST:PORT or unix:/path of the service.")
    ] = "127.0.0.1:50051",
    timeout_s: Annotated[float, typer.Option(help="How long to wait for the answer, in seconds.")] = 2.0,
) -> None:
    """Ask a running service how it is: exit status 0 when it serves, 1 when not."""
    reachable = target.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    # A proxy of this machine's environment is not for this.
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
