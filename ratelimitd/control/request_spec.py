"""Users, addresses and requests as operators describe them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ratelimitd.core.client_address import read_address
from ratelimitd.core.identity import HEADER_NAME, client_key, identify, identity_of_key, plain_key
from ratelimitd.core.model import Identity, Request
from ratelimitd.errors import RequestSpecError
from ratelimitd.settings import Settings


@dataclass(frozen=True, slots=True)
class Subject:
    """A user, by the value of the identity header, a client's address, or the key of an identity.

    Exactly one of them is given. The address may be in any form that proxies write.
    """

    user: str | None = None
    address: str | None = None
    key: str | None = None

    @property
    def name(self) -> str:
        """The subject as the operator gave it."""
        return next((given for given in (self.user, self.address, self.key) if given is not None), "")

    def identity(self) -> Identity:
        """Returns the identity that is charged. Raises RequestSpecError."""
        if [self.user, self.address, self.key].count(None) != 2:  # noqa: PLR2004 - all but one
            raise RequestSpecError("give either a user, an address or a key")
        if self.key is not None:
            return _identity_of_key(self.key)
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
        key: the key of an identity, instead of a user and an address, for a request to explain.
    """

    path: str
    method: str = "GET"
    user: str | None = None
    address: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None

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


def identity_of(spec: RequestSpec, request: Request, settings: Settings) -> Identity:
    """Returns the identity that the service would charge for this request. Raises RequestSpecError."""
    if spec.key is None:
        return identify(settings.sources(), request)
    if spec.user is not None or spec.address is not None:
        raise RequestSpecError("give either a key, or a user and an address")
    return _identity_of_key(spec.key)


def _identity_of_key(key: str) -> Identity:
    identity = identity_of_key(key)
    if identity is None:
        raise RequestSpecError(
            f"{key!r:.140} is not the key of an identity; `ratelimitd explain` and `ratelimitd top` show keys"
        )
    return identity
