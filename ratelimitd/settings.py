"""Settings: one table of name, default and meaning. Nothing else in the service reads the environment.

Each is an environment variable `RATELIMITD_NAME` and a flag `--name` of `ratelimitd serve`; the flag wins.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ratelimitd.address import parse_address
from ratelimitd.core.identity import HEADER_NAME, Source, parse_sources
from ratelimitd.core.model import OnStoreError
from ratelimitd.errors import SettingsError, must
from ratelimitd.store_url import check_store_url

PREFIX = "RATELIMITD_"

MAX_BATCH = 64
"""Requests in one call: more would hold the store for over a millisecond at 12 us a decision."""

MAX_IN_FLIGHT = 2
"""Calls at once: one is answered while the next is on its way."""

_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_(HOST|PORT)(_.*)?|PORT(_\d+_(TCP|UDP).*)?)")
"""What Kubernetes sets in every pod beside a Service that is named ratelimitd: no settings, no mistakes."""

SECRET = {"redis_url", "admin_key", "admin_read_key"}
"""Settings whose value is never shown: a URL may hold a password."""

EMBEDDED = "embedded"
"""As a store's URL: start the bundled Valkey as a child process."""


class Settings(BaseModel):
    """Checked and immutable. Build it with `load`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field(
        "127.0.0.1:50051", description="Where to answer gRPC: HOST:PORT, [IPV6]:PORT or unix:/path."
    )
    transport: Literal["grpcio", "fast"] = Field(
        "grpcio",
        description="What answers: `grpcio`, in this process, or `fast`, in an Envoy that hosts it.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The store: redis://, rediss:// (TLS) or unix:// URL, or `embedded`: a bundled Valkey.",
    )
    store_timeout_ms: int = Field(
        50, ge=1, le=10_000, description="Deadline for a decision in the store, in milliseconds."
    )
    max_batch: int = Field(
        MAX_BATCH, ge=1, le=1024, description="Decisions in one call of the store, at most."
    )
    max_in_flight: int = Field(
        MAX_IN_FLIGHT,
        ge=1,
        le=16,
        description="Calls of the store at once; decisions gather while so many are under way.",
    )
    on_store_error: OnStoreError = Field(
        OnStoreError.DENY,
        description="When the store cannot decide: `deny` answers 503, `allow` lets the request through, "
        "`envoy` answers 503 unless Envoy's failure_mode_allow is true.",
    )
    identity: str = Field(
        "header:x-user-id,address",
        description="Who is charged; the first that is known: `header:NAME`, `address`, separated by commas.",
    )
    address_header: str = Field(
        "",
        description="A header that your Envoy overwrites with the client's address. Empty: the peer address. "
        "Name none that a client can set.",
    )
    key_prefix: str = Field(
        "rate",
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="What the keys of buckets begin with: 1 to 64 letters, digits and `_.:-`.",
    )
    config_key: str = Field(
        "rate_limit:config",
        min_length=1,
        max_length=256,
        description="The key that holds the limits, as JSON.",
    )
    max_message_bytes: int = Field(
        262_144, ge=1024, le=16_777_216, description="Longest CheckRequest that is read, in bytes."
    )
    leave_s: float = Field(
        3,
        ge=0,
        le=300,
        description="How long calls are still taken after SIGTERM, with health at NOT_SERVING, in seconds. "
        "Longer than Envoy takes to notice.",
    )
    drain_s: float = Field(
        5, ge=0, le=300, description="How long calls in flight may then take to finish, in seconds."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )

    admin_listen: str = Field(
        "127.0.0.1:9090", description="Where `ratelimitd admin` answers HTTP: HOST:PORT or [IPV6]:PORT."
    )
    admin_key: str = Field(
        "",
        repr=False,
        description="The key that may change limits, or two with a space between, to rotate them. "
        "Without any key only /healthz, /readyz and /metrics answer.",
    )
    admin_key_file: str = Field("", description="A file that holds such keys, one a line.")
    admin_read_key: str = Field("", repr=False, description="The key that may only look, or two.")
    admin_read_key_file: str = Field("", description="A file that holds such keys, one a line.")
    admin_check_target: str = Field(
        "127.0.0.1:50051", description="The service that the admin service's own check asks: HOST:PORT."
    )

    @field_validator("listen", "admin_listen", "admin_check_target")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url_can_be_used(cls, value: str) -> str:
        if value != EMBEDDED:
            check_store_url(value)
        return value

    @field_validator("address_header")
    @classmethod
    def _address_header_is_a_header(cls, value: str) -> str:
        if value and not HEADER_NAME.fullmatch(value.lower()):
            raise ValueError("it must be one header name, or empty")
        return value.lower()

    @field_validator("identity")
    @classmethod
    def _identity_has_known_sources(cls, value: str) -> str:
        parse_sources(value, None)
        return value

    @property
    def identity_header(self) -> str | None:
        """The first header that identifies, or None."""
        parts = [part.strip().lower().partition(":") for part in self.identity.split(",")]
        return next((name for kind, _, name in parts if kind == "header"), None)

    def sources(self) -> tuple[Source, ...]:
        """The identity sources, in order."""
        return parse_sources(self.identity, self.address_header or None)


def env_name(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def environment(settings: Settings) -> dict[str, str]:
    """The environment variables that `load` reads as these settings."""
    return {env_name(name): str(value) for name, value in settings.model_dump(mode="json").items()}


def load(environ: Mapping[str, str], flags: Mapping[str, str | None]) -> Settings:
    """Settings from the environment, and from flags where given. Raises SettingsError naming all problems."""
    given: dict[str, Any] = {}
    problems = []
    for variable, value in environ.items():
        if variable.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(variable):
            name = variable.removeprefix(PREFIX).lower()
            if name in Settings.model_fields:
                given[name] = value
            else:
                problems.append(f"{variable} is no setting{_nearest(variable)}")
    given |= {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        problems += [_problem(given, **problem) for problem in error.errors(include_url=False)]
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _nearest(variable: str) -> str:
    near = difflib.get_close_matches(variable.removeprefix(PREFIX).lower(), Settings.model_fields, n=1)
    if near:
        return f"; did you mean {env_name(near[0])}?"
    return f"; there are {', '.join(env_name(name) for name in Settings.model_fields)}"


def _problem(given: Mapping[str, str], *, loc: tuple[str | int, ...], msg: str, **_: object) -> str:
    name = str(loc[0])
    shown = "" if name in SECRET else f" is {given[name]!r}"
    return f"{env_name(name)}{shown}: {must(msg)}"
