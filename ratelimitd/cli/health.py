"""`ratelimitd health`: the health check of a container, which has no other gRPC client.

`python -m ratelimitd.cli.health` does the same with a third of the CPU: it imports little of the service.
"""

import os
from typing import Annotated

import typer

from ratelimitd.address import CLIENT_TIMEOUT_S, DEFAULT_LISTEN, parse_address
from ratelimitd.certificates import CertificateFiles, ClientTls
from ratelimitd.errors import CertificateError

CaFile = Annotated[
    str,
    typer.Option(
        envvar="RATELIMITD_CHECK_CA_FILE", help="Authorities of its certificate, for TLS.", metavar="FILE"
    ),
]
CertFile = Annotated[
    str,
    typer.Option(envvar="RATELIMITD_CHECK_CERT_FILE", help="Client certificate, for mTLS.", metavar="FILE"),
]
KeyFile = Annotated[
    str,
    typer.Option(envvar="RATELIMITD_CHECK_KEY_FILE", help="Key of the client certificate.", metavar="FILE"),
]
ServerName = Annotated[
    str,
    typer.Option(
        envvar="RATELIMITD_CHECK_SERVER_NAME", help="Name that its certificate must have.", metavar="NAME"
    ),
]


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
    *,
    ca_file: CaFile = "",
    cert_file: CertFile = "",
    key_file: KeyFile = "",
    server_name: ServerName = "",
) -> None:
    """Ask a running service for its health: exit status 0 if it is serving, 1 if not."""
    target = (
        target.strip() or DEFAULT_LISTEN
    )  # a variable of white space counts as not set, as in `settings.load`
    try:
        address = parse_address(target).reachable
    except ValueError as error:
        typer.echo(f"ratelimitd: {target}: {error}", err=True)
        raise typer.Exit(1) from error
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc would print lines about failed handshakes
    # The other commands do without gRPC, and `serve` configures it first.
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    from ratelimitd.transport.channel import credentials, options, tls_failure  # noqa: PLC0415

    tls = _tls(ca_file, cert_file, key_file, server_name)
    try:
        with_tls = credentials(tls, address)
    except CertificateError as error:
        typer.echo(f"ratelimitd: {error}", err=True)
        raise typer.Exit(1) from error
    given = options(tls)
    with (
        grpc.insecure_channel(str(address), given)
        if with_tls is None
        else grpc.secure_channel(str(address), with_tls, given)
    ) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            reason = tls_failure(str(error.details()), tls, address)
            sentence = f"{target} does not answer: {error.code().name}"
            typer.echo(f"ratelimitd: {sentence}{reason and f', {reason}'}", err=True)
            raise typer.Exit(1) from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    typer.echo(status)
    raise typer.Exit(0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1)


def _tls(ca_file: str, cert_file: str, key_file: str, server_name: str) -> ClientTls | None:
    """Returns how to use TLS; None without a file of authorities."""
    ca, certificate = ca_file.strip(), cert_file.strip()
    key = key_file.strip() or certificate
    return ClientTls(CertificateFiles(certificate, key, ca), server_name.strip()) if ca else None


if __name__ == "__main__":
    typer.run(health)
