"""The table of all settings: name, default, meaning, and the checks of their values.

A setting is an environment variable `RATELIMITD_NAME` and a flag `--name` of `serve`; the flag wins. The
variables of OpenTelemetry are in telemetry/traces/variables.py.
"""

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ratelimitd.address import DEFAULT_LISTEN, Address, TcpAddress, UnixAddress, parse_address
from ratelimitd.core.identity import HEADER_NAME, Source, Unreadable, ignore_unreadable, parse_sources
from ratelimitd.core.model import OnStoreError
from ratelimitd.rate_text import per_second
from ratelimitd.secret_file import read_secret
from ratelimitd.store_source import EMBEDDED, StoreSource, check_store_source, check_store_url
from ratelimitd.whole_number import whole_number_in_text

PREFIX = "RATELIMITD_"

MAX_BATCH = 64
"""Default of `max_batch`: at 12 us a decision, a larger call would block the store for over a millisecond."""

MAX_IN_FLIGHT = 2
"""Default of `max_in_flight`: the store works on one call while the next is on its way."""

CONFIG_KEY = "rate_limit:config"
"""Default of `config_key`."""

MIN_LINES_PER_SECOND, MAX_LINES_PER_SECOND = per_second("1/day"), 1000
"""Bounds of `log_denials`. Writing a line takes about 50 us."""

OFF = "off"
"""The value of `metrics_listen` and `log_denials` that means the same as an empty one."""


def env_name(name: str) -> str:
    """Returns the environment variable of a setting."""
    return PREFIX + name.upper()


class Settings(BaseModel):
    """Validated and immutable settings, made by `load`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field(
        DEFAULT_LISTEN, description="Address of the gRPC server: HOST:PORT, [IPV6]:PORT or unix:/path."
    )
    listen_mode: str = Field(
        "",
        description="Permissions of the Unix socket that `listen` names, as three octal digits such as 660. "
        "Empty: as the umask says.",
    )
    tls_cert_file: str = Field(
        "",
        description="File with the certificate of the gRPC server, then intermediate ones, as PEM. Turns TLS "
        "on. Read again when it changes, like the next two.",
    )
    tls_key_file: str = Field("", description="File with the key of that certificate, without a password.")
    tls_client_ca_file: str = Field(
        "",
        description="File with authorities of client certificates. With it, a client needs a certificate "
        "(mTLS).",
    )
    tls_client_names: str = Field(
        "",
        description="Names of clients that may call, comma-separated: DNS names, IP addresses, or URIs such "
        "as spiffe://example.org/ns/edge/sa/envoy. Empty: any client with a valid certificate.",
    )
    transport: Literal["auto", "fast", "grpcio"] = Field(
        "auto",
        description="gRPC server: `grpcio` runs in this process; `fast` runs in an embedded Envoy and needs "
        "the extra `fast`; `auto` is `fast` where it can run, else `grpcio`.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="URL of the store: redis://, rediss:// (TLS), unix://, redis+sentinel:// or "
        "redis+cluster://, or `embedded` for a bundled Valkey.",
    )
    redis_url_file: str = Field(
        "", description="File with the URL of the store, instead of `redis_url`. It is read at each connect."
    )
    redis_username: str = Field(
        "", description="User of the store, if the URL names none. Empty: the default user."
    )
    redis_password_file: str = Field(
        "", description="File with the password of the store's user. It is read at each connect."
    )
    redis_credentials: str = Field(
        "",
        description="MODULE:CLASS of a credential provider of redis-py, for example for IAM tokens, instead "
        "of a user and a password.",
    )
    sentinel_username: str = Field("", description="User of the Sentinels, with `sentinel_password_file`.")
    sentinel_password_file: str = Field(
        "", description="File with the password of the Sentinels. It is read at each connect."
    )
    store_timeout_ms: int = Field(
        50, ge=1, le=10_000, description="How long a decision waits for the store, in milliseconds."
    )
    max_batch: int = Field(
        MAX_BATCH, ge=1, le=1024, description="Maximum number of decisions in one call to the store."
    )
    max_in_flight: int = Field(
        MAX_IN_FLIGHT,
        ge=1,
        le=16,
        description="Maximum number of calls to the store at a time. Decisions that arrive meanwhile share "
        "the next call.",
    )
    on_store_error: OnStoreError = Field(
        OnStoreError.DENY,
        description="Response when the store cannot decide: `deny` answers 503, `allow` lets the request "
        "through, `envoy` answers 503 unless Envoy's failure_mode_allow is true, `local` decides from memory "
        "with the replica's share of every limit.",
    )
    identity: str = Field(
        "header:x-user-id,address",
        description="Identity sources in order of preference, comma-separated: `header:NAME` or `address`. "
        "The first one present is charged.",
    )
    address_header: str = Field(
        "",
        description="Header that your Envoy overwrites with the client's address; clients must not be able "
        "to set it. Empty: the peer address.",
    )
    key_prefix: str = Field(
        "rate",
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="Prefix of the bucket keys in the store: 1 to 64 letters, digits and `_.:-`.",
    )
    config_key: str = Field(
        CONFIG_KEY,
        min_length=1,
        max_length=256,
        description="Key in the store that holds the policy, as JSON or YAML.",
    )
    max_message_bytes: int = Field(
        16_777_216,
        ge=1024,
        le=268_435_456,
        description="Maximum size of a CheckRequest, in bytes, without the body of its HTTP request.",
    )
    leave_s: float = Field(
        3,
        ge=0,
        le=300,
        description="How long the service accepts calls after SIGTERM while its health is NOT_SERVING, in "
        "seconds. Choose more than Envoy takes to notice.",
    )
    drain_s: float = Field(
        5, ge=0, le=300, description="How long calls in flight may then take to finish, in seconds."
    )
    max_connection_age_s: int = Field(
        0,
        ge=0,
        le=86_400,
        description="Age in seconds, varied by 10 %, at which the service asks a caller to connect again, so "
        "that an L4 balancer spreads connections to new replicas. 0: never.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level of log lines to write: debug, info, warning or error."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="Form of log lines: `json`, `console`, or `auto`: console on a terminal, else JSON.",
    )
    log_denials: str = Field(
        "",
        description="Maximum rate of log lines about denied requests, such as 10/s or 100/min. "
        "Empty, or `off`: none.",
    )
    metrics_listen: str = Field(
        "127.0.0.1:9091",
        description="Address of the HTTP server of `/metrics` and `/healthz`: HOST:PORT or [IPV6]:PORT. "
        "Empty, or `off`: none.",
    )
    top_users: Literal["on", "hashed", "off"] = Field(
        "on",
        description="Count the users with the most requests: `on`, `hashed` (without their names) or `off`.",
    )

    admin_listen: str = Field(
        "127.0.0.1:9090",
        description="Address of the HTTP server of `ratelimitd admin`: HOST:PORT or [IPV6]:PORT.",
    )
    admin_key: str = Field(
        "",
        repr=False,
        description="API key with write access, or two keys separated by a space, for rotation. Without any "
        "key only /healthz, /readyz and /metrics answer.",
    )
    admin_key_file: str = Field("", description="File with API keys for write access, one per line.")
    admin_read_key: str = Field("", repr=False, description="API key with read access, or two keys.")
    admin_read_key_file: str = Field("", description="File with API keys for read access, one per line.")
    admin_check_target: str = Field(
        DEFAULT_LISTEN, description="Service that the admin service sends test requests to: HOST:PORT."
    )

    check_ca_file: str = Field(
        "",
        description="File with the authorities of the service's certificate. With it, `check`, `health` and "
        "the admin service call the service with TLS.",
    )
    check_cert_file: str = Field("", description="File with the client certificate of these calls, for mTLS.")
    check_key_file: str = Field("", description="File with the key of that certificate.")
    check_server_name: str = Field(
        "",
        description="Name that the service's certificate must have. Empty: the host of the address called.",
    )

    @field_validator("listen", "admin_listen", "admin_check_target")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_listen_is_a_tcp_address_or_off(cls, value: str) -> str:
        if value.lower() in {"", OFF}:
            return ""
        expected = f"must be HOST:PORT or [IPV6]:PORT, or `{OFF}`"
        try:
            address = parse_address(value)
        except ValueError as error:
            raise ValueError(expected) from error
        if isinstance(address, UnixAddress):
            raise ValueError(f"{expected}; Prometheus cannot scrape a Unix socket")  # noqa: TRY004 - for pydantic
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _whole_numbers_may_have_an_exponent(cls, value: Any, info: ValidationInfo) -> Any:
        whole = cls.model_fields[info.field_name or ""].annotation is int
        return whole_number_in_text(value) if whole else value

    @field_validator("transport", "on_store_error", "log_level", "log_format", "top_users", mode="before")
    @classmethod
    def _case_of_choices_does_not_matter(cls, value: str) -> str:
        return value.lower()

    @field_validator("listen_mode")
    @classmethod
    def _listen_mode_lets_the_owner_connect(cls, value: str, info: ValidationInfo) -> str:
        if not re.fullmatch("(0?[67][0-7]{2})?", value):
            raise ValueError("must be three octal digits such as 660, the first 6 or 7, or empty")
        listen = info.data.get("listen", "unix:/")  # no second sentence if that setting is wrong
        if value and not isinstance(parse_address(listen), UnixAddress):
            raise ValueError(
                f"needs a Unix socket in {env_name('listen')}, such as unix:/run/ratelimitd/ratelimitd.sock"
            )
        return value

    @field_validator("log_denials")
    @classmethod
    def _log_denials_is_a_rate_that_is_written(cls, value: str, info: ValidationInfo) -> str:
        if value.lower() in {"", OFF}:
            return ""
        if not MIN_LINES_PER_SECOND <= per_second(value) <= MAX_LINES_PER_SECOND:
            raise ValueError(f"must be from 1/day to {MAX_LINES_PER_SECOND}/s")
        if info.data.get("log_level", "info") not in {"debug", "info"}:
            raise ValueError(
                f"needs {env_name('log_level')} info or debug, because these lines have level info"
            )
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url_can_be_used(cls, value: str) -> str:
        if value.lower() == EMBEDDED:
            return EMBEDDED
        check_store_url(value)
        return value

    @field_validator("redis_url_file")
    @classmethod
    def _redis_url_file_holds_a_url(cls, value: str) -> str:
        if value:
            check_store_url(url_file=value)
        return value

    @field_validator("redis_password_file", "sentinel_password_file")
    @classmethod
    def _file_holds_one_line(cls, value: str) -> str:
        if value:
            read_secret(value)
        return value

    @model_validator(mode="after")
    def _settings_of_the_store_fit_together(self) -> Self:
        check_store_source(self.store_source())
        return self

    @field_validator("address_header")
    @classmethod
    def _address_header_is_a_header(cls, value: str) -> str:
        if value and not HEADER_NAME.fullmatch(value.lower()):
            raise ValueError("must be one header name, or empty")
        return value.lower()

    @field_validator("identity")
    @classmethod
    def _identity_has_known_sources(cls, value: str) -> str:
        parse_sources(value, None)
        return value

    @property
    def identity_headers(self) -> tuple[str, ...]:
        """The headers among the identity sources, in order of preference."""
        parts = [part.strip().lower().partition(":") for part in self.identity.split(",")]
        return tuple(name for kind, _, name in parts if kind == "header")

    @property
    def identity_header(self) -> str | None:
        """The first header among the identity sources, or None."""
        return next(iter(self.identity_headers), None)

    @property
    def store_timeout_s(self) -> float:
        """How long a decision waits for the store, in seconds."""
        return self.store_timeout_ms / 1000

    def store_source(self) -> StoreSource:
        """Returns where the URL and the credentials of the store come from."""
        return StoreSource(
            url="" if self.redis_url_file else self.redis_url,
            url_file=self.redis_url_file,
            username=self.redis_username,
            password_file=self.redis_password_file,
            provider=self.redis_credentials,
            sentinel_username=self.sentinel_username,
            sentinel_password_file=self.sentinel_password_file,
        )

    def listen_address(self) -> Address:
        """Returns the address of the gRPC server."""
        address = parse_address(self.listen)
        if isinstance(address, UnixAddress) and self.listen_mode:
            return UnixAddress(address.path, int(self.listen_mode, 8))
        return address

    def metrics_address(self) -> TcpAddress | None:
        """Returns the address of the HTTP server of the metrics, or None if there is none."""
        address = parse_address(self.metrics_listen) if self.metrics_listen else None
        return address if isinstance(address, TcpAddress) else None

    def sources(self, on_unreadable: Unreadable = ignore_unreadable) -> tuple[Source, ...]:
        """Returns the identity sources in order of preference.

        `on_unreadable` is called with each value of the address header that is not an address, and with None
        for a request without the header.
        """
        return parse_sources(self.identity, self.address_header or None, on_unreadable)
