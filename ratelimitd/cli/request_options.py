"""The options that describe a request, for `explain` and `check`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from ratelimitd.control.request_spec import RequestSpec, join_headers

Path = Annotated[
    str, typer.Option(help="Path of the request, as the client sends it. A query is ignored.", metavar="PATH")
]
User = Annotated[
    str | None, typer.Option(help="Value of the identity header.", metavar="USER", show_default=False)
]
Method = Annotated[str, typer.Option(help="Method of the request.", metavar="METHOD")]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header", help="A request header; may be repeated.", metavar="NAME=VALUE", show_default=False
    ),
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        help="A context_extensions entry of the route in Envoy; may be repeated.",
        metavar="KEY=VALUE",
        show_default=False,
    ),
]


def request_spec(
    *,
    path: str,
    method: str,
    user: str | None,
    address: str | None,
    headers: Sequence[str] | None,
    context: Sequence[str] | None,
    key: str | None = None,
) -> RequestSpec:
    """Returns the described request. Raises typer.BadParameter for an option without `=`."""
    return RequestSpec(
        path,
        method,
        user,
        address,
        join_headers(_pairs("--header", headers)),
        dict(_pairs("--context", context)),
        key,
    )


def _pairs(option: str, given: Sequence[str] | None) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in given or ()]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise typer.BadParameter(f"must be NAME=VALUE, got {name + equals!r}", param_hint=option)
    return [(name, value) for name, _, value in pairs]
