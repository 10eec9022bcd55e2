"""A request that a person asks about, put as Envoy would put it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ratelimitd.core.identity import HEADER_NAME, address_key, identify, plain_key
from ratelimitd.core.model import Identity, Request
from ratelimitd.errors import RequestSpecError
from ratelimitd.settings import Settings


@dataclass(frozen=True, slots=True)
class Subject:
    """Somebody by the id in the identity header, or by the client's address: one of the two is given."""

    user: str | None = None
    address: str | None = None

    def identity(self) -> Identity:
        """Who is charged. Raises RequestSpecError."""
        if (self.user is None) == (self.address is None):
            raise RequestSpecError("name a user or an address, one of the two")
        if self.user is not None:
            user = self.user.strip(" \t")
            if not user or "," in user:
                raise RequestSpecError(
                    f"{self.user!r} names nobody: it must not be empty and must have no comma"
                )
            return Identity("header", plain_key(user))
        key = address_key(self.address or "")
        if key is None:
            raise RequestSpecError(f"{self.address!r} is no IP address")
        return Identity("address", key)


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """A request of which somebody wants to know what it would get.

    Args:
        path: as the client sends it; a query does not count.
        method: of the request.
        user: the value of the first header that identifies, or None.
        address: the client's, or None.
        headers: more headers.
        context: what the operator attached to the route in Envoy (context_extensions).
    """

    path: str
    method: str = "GET"
    user: str | None = None
    address: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)

    def request(self, settings: Settings) -> Request:
        """The request. Raises RequestSpecError."""
        if not self.path.startswith("/"):
            raise RequestSpecError(f"the path must begin with /, got {self.path!r}")
        headers = {name.lower(): value for name, value in self.headers.items()}
        for name in headers:
            if not HEADER_NAME.fullmatch(name):
                raise RequestSpecError(f"{name!r} is no name of a header")
        if self.user is not None:
            if settings.identity_header is None:
                raise RequestSpecError(
                    f"no header identifies here: the setting identity is {settings.identity}"
                )
            headers[settings.identity_header] = self.user
        if self.address is not None and address_key(self.address) is None:
            raise RequestSpecError(f"{self.address!r} is no IP address")
        return Request(
            method=self.method.upper(),
            path=self.path.partition("?")[0],
            host="",
            headers=headers,
            peer_address=self.address or "",
            context=self.context,
        )


def join_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns headers by name. The values of a repeated header are joined with a comma, as Envoy does."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def identity_of(request: Request, settings: Settings) -> Identity:
    """Who such a request is charged to, by the settings of the service."""
    return identify(settings.sources(), request)
