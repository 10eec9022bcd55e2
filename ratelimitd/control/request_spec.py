"""Users, addresses and requests as operators describe them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ratelimitd.core.client_address import read_address
from ratelimitd.core.identity import HEADER_NAME, client_key, identify, plain_key
from ratelimitd.core.model import Identity, Request
from ratelimitd.errors import RequestSpecError
from ratelimitd.settings import Settings


@dataclass(frozen=True, slots=True)
class Subject:
    """A user, by the value of the identity header, or a client's address. Exactly one of them is given.

    The address may be in any form that proxies write.
    """

    user: str | None = None
    address: str | None = None

    def identity(self) -> Identity:
        """Returns the identity that is charged. Raises RequestSpecError."""
        if (self.user is None) == (self.address is None):
            raise RequestSpecError("give either a user or an address")
        if self.user is not None:
            user = self.user.strip(" \t")
            if not user or "," in user:
                raise RequestSpecError(
                    f"{self.user!r} is not a valid user: it must not be empty or contain a comma"
                )
            return Identity("header", plain_key(user))
        key = client_key(self.address or "")
        if key is None:
            raise RequestSpecError(f"{self.address!r} is not an IP address")
        return Identity("address", key)


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """A request to explain or to send to a running service.

    Args:
        path: as the client sends it. A query is ignored.
        method: the HTTP method, in any case.
        user: value of the first identity header, or None.
        address: IP address of the client, in any form that proxies write, or None.
        headers: other request headers. Names that differ only in case are one header.
        context: context_extensions of the route in Envoy.
    """

    path: str
    method: str = "GET"
    user: str | None = None
    address: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)

    def request(self, settings: Settings) -> Request:
        """Returns the request as Envoy would send it. Raises RequestSpecError."""
        if not self.path.startswith("/"):
            raise RequestSpecError(f"the path must begin with /, got {self.path!r}")
        headers = join_headers(self.headers.items())
        for name in headers:
            if not HEADER_NAME.fullmatch(name):
                raise RequestSpecError(f"{name!r} is not a header name")
        if self.user is not None:
            if settings.identity_header is None:
                raise RequestSpecError(
                    f"users cannot be given: the setting identity ({settings.identity}) has no header"
                )
            headers[settings.identity_header] = self.user
        address = None if self.address is None else read_address(self.address)
        if self.address is not None and address is None:
            raise RequestSpecError(f"{self.address!r} is not an IP address")
        if address is not None and settings.address_header:
            # With brackets, the last part of an IPv6 address is not taken for a port.
            value = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6
            headers.setdefault(settings.address_header, value)
        return Request(
            method=self.method.upper(),
            path=self.path.partition("?")[0],
            host="",
            headers=headers,
            peer_address="" if address is None else str(address),
            context=self.context,
        )


def join_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns headers by lower-case name. Joins the values of a repeated header, as Envoy does."""
    joined: dict[str, str] = {}
    for written, value in pairs:
        name = written.lower()
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def identity_of(request: Request, settings: Settings) -> Identity:
    """Returns the identity that the service would charge for such a request."""
    return identify(settings.sources(), request)
