"""The texts and numbers of a policy. Each is bounded, and each rejection says what would be valid.

Text that can never match a request, such as a user id with a comma, is rejected too: it is a mistake.
"""

import re
from ipaddress import IPv6Address
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from ratelimitd.core.client_address import plain_address
from ratelimitd.core.identity import HEADER_NAME, address_key
from ratelimitd.core.patterns import pattern_segments
from ratelimitd.rate_text import RATE, per_second
from ratelimitd.whole_number import WHOLE_NUMBER

MAX_CHARACTERS = 256
MAX_TOKENS = 1_000_000_000
MIN_RATE = 0.000001

_METHOD = re.compile(r"[A-Z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


def key_of_address(text: str) -> str | None:
    """Returns the identity key of an address or an IPv6 /64 network, or None when the text is neither.

    A network whose clients are charged one by one has a key that no request has.
    """
    if text != text.strip():
        return None
    if not text.endswith("/64"):
        return address_key(text)
    address = plain_address(text.removesuffix("/64"))
    # An IPv4 address has no /64, not even when it is written as an IPv6 one.
    if not isinstance(address, IPv6Address) or address.ipv4_mapped:
        return None
    return address_key(str(IPv6Address(int(address) >> 64 << 64)))


def _rate(rate: str) -> str:
    if not MIN_RATE <= per_second(rate) <= MAX_TOKENS:
        raise ValueError(f"must be from {MIN_RATE:f} to {MAX_TOKENS} tokens per second")
    return rate


def _pattern(pattern: str) -> str:
    pattern_segments(pattern)
    return pattern


def _no_blanks(text: str) -> str:
    if _BLANK.search(text):
        raise ValueError("must have neither spaces nor control characters")
    return text


def _no_control(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must have no control characters")
    return text


def _value(text: str) -> str:
    if text != text.strip(" "):
        raise ValueError("must have no spaces around it: they are stripped from the request's value")
    return _no_control(text)


def _user_id(text: str) -> str:
    if "," in text:
        raise ValueError("must have no comma: a header with a comma identifies no user")
    return _value(text)


def _address(text: str) -> str:
    if key_of_address(text) is None:
        raise ValueError("must be an IPv4 address, an IPv6 address, or an IPv6 network of /64")
    return text


def _header_name(text: str) -> str:
    if not HEADER_NAME.fullmatch(text):
        raise ValueError("must be a header name in lower case")
    return text


def _method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        raise ValueError("must be a method in upper case, such as GET")
    return text


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("must have a value, or be omitted")
    return value


T = TypeVar("T")
Maybe = Annotated[T | None, BeforeValidator(_not_null)]
"""An optional field that may be omitted but not null: `cost:` with nothing after it is a mistake."""

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]

Capacity = Annotated[int, Field(ge=1, le=MAX_TOKENS), WHOLE_NUMBER]
"""Tokens. The upper bound keeps microtokens within the 2^53 that Lua counts exactly."""

Cost = Annotated[int, Field(ge=0, le=MAX_TOKENS), WHOLE_NUMBER]

Rate = Annotated[float, Field(ge=MIN_RATE, le=MAX_TOKENS, allow_inf_nan=False)]
"""Tokens per second. The lower bound is one token in twelve days."""

RateText = Annotated[
    str, AfterValidator(_rate), Field(max_length=32, json_schema_extra={"pattern": f"^{RATE.pattern}$"})
]
Pattern = Annotated[
    Text,
    AfterValidator(_pattern),
    Field(json_schema_extra={"pattern": "^/(?:[^%?#\\s]|%[0-9A-Fa-f]{2})*$"}),
]
Api = Annotated[Text, AfterValidator(_no_blanks)]
Method = Annotated[
    Text, AfterValidator(_method), Field(json_schema_extra={"pattern": f"^{_METHOD.pattern}$"})
]
UserId = Annotated[Text, AfterValidator(_user_id)]
Address = Annotated[Text, AfterValidator(_address)]
HeaderName = Annotated[Text, AfterValidator(_header_name)]
ContextKey = Annotated[Text, AfterValidator(_no_control)]
Value = Annotated[Text, AfterValidator(_value)]
"""The value of a header or of a context key."""

StoreAnswer = Literal["deny", "allow", "envoy", "local"]


def _off_is_text(value: Any) -> Any:
    return "off" if value is False else value


Lease = Annotated[
    Literal["auto", "off"],
    BeforeValidator(_off_is_text, json_schema_input_type=Literal["auto", "off", False]),
]
"""Whether tokens are leased. YAML reads a bare `off` as false."""
