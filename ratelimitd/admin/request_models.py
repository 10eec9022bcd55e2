"""Request bodies and queries of the API. Each text in them is bounded and free of control characters."""

import re
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from ratelimitd.control.request_spec import RequestSpec, Subject
from ratelimitd.core.client_address import read_address
from ratelimitd.core.model import MAX_EXACT
from ratelimitd.policy.text import DEFAULT_TEXT
from ratelimitd.rollout.revision import MAX_AUTHOR, MAX_NOTE, checked_author
from ratelimitd.rollout.revisions import HISTORY_LENGTH, KEPT
from ratelimitd.usage.ranges import UsageRange
from ratelimitd.whole_number import WHOLE_NUMBER

DEFAULT_AUTHOR = "admin"
"""The author of a change when the request does not name one."""

MAX_WAIT_S = 60

MAX_VALUE = 8192
"""Characters of a path, and of the value of a header or of the context."""

_TOKEN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$"  # noqa: S105 - `token` of RFC 9110 section 5.6.2: not a password


def _printable(text: str) -> str:
    if _UNPRINTABLE.search(text):
        raise ValueError("must be text without control characters")
    return text


def _ip_address(text: str) -> str:
    if read_address(text) is None:
        raise ValueError("must be an IP address")
    return text


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""

_PRINTABLE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$"
_Printable = Annotated[
    str, AfterValidator(_printable), Field(json_schema_extra={"pattern": _PRINTABLE_PATTERN})
]
Author = Annotated[_Printable, Field(min_length=1, max_length=MAX_AUTHOR), AfterValidator(checked_author)]
Note = Annotated[_Printable, Field(max_length=MAX_NOTE)]
RevisionNumber = Annotated[int, Field(ge=0, le=MAX_EXACT), WHOLE_NUMBER]
Value = Annotated[_Printable, Field(max_length=MAX_VALUE)]
Token = Annotated[str, Field(pattern=_TOKEN)]
IpAddress = Annotated[
    str,
    AfterValidator(_ip_address),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}),
]
Key = Annotated[_Printable, Field(max_length=256)]


class RequestModel(BaseModel):
    """Strict base class: it converts no types and refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextBody(RequestModel):
    """A policy, JSON or YAML, flat or full."""

    text: str = Field(description="The policy: JSON or YAML, at most 1 MiB.", examples=[DEFAULT_TEXT])


class DiffBody(TextBody):
    """A policy, and the revision to compare it with."""

    against: RevisionNumber | None = Field(
        None, description="Number of the revision to compare with. Null: the newest."
    )


class ChangeBody(RequestModel):
    """Author and reason of a change, and how long to wait for the replicas."""

    author: Author = Field(DEFAULT_AUTHOR, description="Author of the change.")
    note: Note = Field("", description="Reason for the change.")
    wait_s: float = Field(
        0,
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="How long to wait until every live replica runs the change, in seconds. 0: do not wait.",
    )


class PolicyBody(ChangeBody, TextBody):
    """A policy to put in force."""


class RollbackBody(ChangeBody):
    """The revision to roll back to."""

    to: RevisionNumber = Field(description="Number of the revision whose text to use.")


class RequestSpecBody(RequestModel):
    """A request as Envoy would describe it."""

    path: str = Field(max_length=MAX_VALUE, pattern="^/", description="Path as the client sends it.")
    method: str = Field("GET", max_length=32, pattern=_TOKEN, description="HTTP method.")
    user: Value | None = Field(None, description="Value of the first identity header.")
    address: IpAddress | None = Field(None, description="IP address of the client.")
    headers: dict[Token, Value] = Field(
        default_factory=dict,
        max_length=100,
        description="Further request headers.",
        json_schema_extra={"additionalProperties": False},
    )
    context: dict[Value, Value] = Field(
        default_factory=dict,
        max_length=100,
        description="The context_extensions of the route in Envoy.",
        json_schema_extra={"propertyNames": {"pattern": _PRINTABLE_PATTERN}},
    )

    def request_spec(self) -> RequestSpec:
        """Returns the described request."""
        return RequestSpec(
            path=self.path,
            method=self.method,
            user=self.user,
            address=self.address,
            headers=self.headers,
            context=self.context,
        )


class ExplainBody(RequestSpecBody):
    """A request to explain. A key takes the place of user and address."""

    key: Key | None = Field(None, description="Key of an identity, as /top and /explain return it.")

    def request_spec(self) -> RequestSpec:
        """Returns the described request."""
        return replace(super().request_spec(), key=self.key)


class CheckBody(RequestSpecBody):
    """A request to send to a running service as a Check."""

    dry_run: bool = Field(
        default=False, description="If true, the service answers as usual but takes no tokens."
    )


class HistoryQuery(RequestModel):
    """How many revisions to list."""

    model_config = ConfigDict(strict=False)  # a query is text, so its number must be converted

    limit: int = Field(HISTORY_LENGTH, ge=1, le=KEPT, description="Number of revisions, newest first.")


class TopQuery(RequestModel):
    """Which requests count."""

    model_config = ConfigDict(strict=False)  # a query is text, so it must be converted

    denied: bool = Field(default=False, description="If true, only denied requests count, not blocked ones.")


class UsageQuery(RequestModel):
    """The range of time that usage is read for."""

    model_config = ConfigDict(strict=False)  # a query is text

    range: UsageRange = Field(UsageRange.QUARTER_HOUR, description="Range of time, which ends now.")


class SubjectQuery(RequestModel):
    """A user, an address or the key of an identity, exactly one of the three."""

    user: Value | None = Field(None, description="A user id: the value of the identity header.")
    address: IpAddress | None = Field(None, description="IP address of a client.")
    key: Key | None = Field(None, description="Key of an identity, as /top and /explain return it.")

    def subject(self) -> Subject:
        """Returns the subject. It may be empty; Control then raises RequestSpecError."""
        return Subject(self.user, self.address, self.key)
