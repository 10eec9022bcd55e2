"""The choice of the transport: the setting names one, or `auto` takes the fastest that can run here."""

from typing import Literal, NamedTuple

from ratelimitd.errors import ChildError, MissingExtraError

TransportName = Literal["fast", "grpcio"]


class Selection(NamedTuple):
    """The transport that will serve, and why."""

    transport: TransportName
    reason: str


def select_transport(setting: Literal["auto"] | TransportName) -> Selection:
    """The transport for a value of the setting. A transport that is named is not checked."""
    if setting != "auto":
        return Selection(setting, "requested")
    try:
        from ratelimitd.transport.fast import bootstrap  # noqa: PLC0415 - its library is an extra

        bootstrap.environment()
    except (ChildError, MissingExtraError) as error:
        return Selection("grpcio", f"auto: fast cannot run: {error}")
    return Selection("fast", "auto: an Envoy can host this Python")
