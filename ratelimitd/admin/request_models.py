"""What the API is sent. A value of these classes is bounded, and is text that every reader can show."""

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from ratelimitd.control.request_spec import RequestSpec, Subject
from ratelimitd.core.model import MAX_EXACT
from ratelimitd.policy.text import DEFAULT_TEXT
from ratelimitd.rollout.revisions import KEPT, MAX_AUTHOR, MAX_NOTE, checked_author

AUTHOR = "admin"
"""Who changed something, when nobody says."""

MAX_WAIT_S = 60

_TOKEN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$"  # noqa: S105 - RFC 9110 section 5.6.2, `token`: no password


def _printable(text: str) -> str:
    if _NO_TEXT.search(text):
        raise ValueError("must be text without control characters")
    return text


def _address(text: str) -> str:
    try:
        ip_address(text)
    except ValueError as error:
        raise ValueError("must be an IP address") from error
    return text


_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""

_PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*$"
_Plain = Annotated[str, AfterValidator(_printable), Field(json_schema_extra={"pattern": _PLAIN})]
Author = Annotated[_Plain, Field(min_length=1, max_length=MAX_AUTHOR), AfterValidator(checked_author)]
Note = Annotated[_Plain, Field(max_length=MAX_NOTE)]
Number = Annotated[int, Field(ge=0, le=MAX_EXACT)]
Value = Annotated[_Plain, Field(max_length=8192)]
Token = Annotated[str, Field(pattern=_TOKEN)]
Address = Annotated[
    str,
    AfterValidator(_address),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}),
]


class Body(BaseModel):
    """What all have in common: nothing is guessed, and nothing unknown is passed over."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextBody(Body):
    """A policy, JSON or YAML, flat or full."""

    text: str = Field(description="The policy: JSON or YAML, at most 1 MiB.", examples=[DEFAULT_TEXT])


class DiffBody(TextBody):
    """A policy, and the revision that it is compared with."""

    against: Number | None = Field(None, description="The number of a revision. Null is the newest.")


class ChangeBody(Body):
    """Who changes something, why, and whether every replica must have it before the answer."""

    author: Author = Field(AUTHOR, description="Who changes it.")
    note: Note = Field("", description="Why.")
    wait_s: float = Field(
        0,
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="How long to wait until every live replica runs it, in seconds. 0 does not wait.",
    )


class PolicyBody(ChangeBody, TextBody):
    """A policy that is to be in force."""


class RollbackBody(ChangeBody):
    """The revision whose text is to be in force again."""

    to: Number


class QuestionBody(Body):
    """A request, as Envoy would put it."""

    path: str = Field(max_length=8192, pattern="^/", description="As a client sends it.")
    method: str = Field("GET", max_length=32, pattern=_TOKEN)
    user: Value | None = Field(None, description="What the first header that identifies holds.")
    address: Address | None = Field(None, description="The client's.")
    headers: dict[Token, Value] = Field(
        default_factory=dict,
        max_length=100,
        description="More headers.",
        json_schema_extra={"additionalProperties": False},
    )
    context: dict[Value, Value] = Field(
        default_factory=dict,
        max_length=100,
        description="The context_extensions of Envoy's route.",
        json_schema_extra={"propertyNames": {"pattern": _PLAIN}},
    )

    def question(self) -> RequestSpec:
        """The question."""
        return RequestSpec(
            path=self.path,
            method=self.method,
            user=self.user,
            address=self.address,
            headers=self.headers,
            context=self.context,
        )


class CheckBody(QuestionBody):
    """A request that a running service is asked about."""

    dry_run: bool = Field(default=False, description="The service takes nothing, and says what it would.")


class HistoryQuery(Body):
    """How many revisions are wanted. A query is text, so a number in it is read from text."""

    model_config = ConfigDict(strict=False)

    limit: int = Field(20, ge=1, le=KEPT, description="The newest so many.")


class WhoQuery(Body):
    """Somebody: one of the two is given."""

    user: Value | None = Field(None, description="An id, as the header that identifies holds it.")
    address: Address | None = Field(None, description="A client's.")

    def who(self) -> Subject:
        """The somebody. It may be nobody: RequestSpecError comes when the buckets are asked for."""
        return Subject(self.user, self.address)
