"""The service bears mutated messages, and the fuzzer finds the defects of a service that has some."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path
from random import Random

import pytest
from hpack import Decoder

from fuzz import attack as fuzz_attack
from fuzz import wire
from fuzz.__main__ import main, parse
from fuzz.attack import attack
from fuzz.calls import CALLS, FIELDS, Message, compressed
from fuzz.contention import Waits
from fuzz.endings import ENDINGS
from fuzz.http1 import HTTP1_ENDINGS, Http1Message, http1_check
from fuzz.http1_talk import Http1Talk
from fuzz.outcome import GROWTH_BYTES, STALL_MS, Outcome, User
from fuzz.run import fuzzed
from fuzz.tally import Tally
from ratelimitd.address import TcpAddress
from tests.eventually import eventually

DEFECTS = """
import os, time
import redis
from ratelimitd.transport import ext_authz

calls, kept, victims, decode = 0, [], [], ext_authz.decode

def bad(payload, traceparent):
    global calls
    if b"victim-" in payload:
        victims.append(payload)
        if len(victims) == 3:
            raise ZeroDivisionError
    elif b"fuzz-" in payload:
        calls += 1
        if calls == CRASH_AT:
            os._exit(3)
        if calls == 600:
            time.sleep(2)
            store = redis.from_url(os.environ["RATELIMITD_REDIS_URL"])
            for key in store.scan_iter("rate:user:bystander-*"):
                store.hset(key, "tokens", "6")
        if 600 < calls < 630:
            kept.append(b"x" * 3 * 2**20)
            payload = victims[0]
    return decode(payload, traceparent)

ext_authz.decode = bad
from ratelimitd.__main__ import main
main()
"""
"""A service with every defect that the fuzzer looks for."""

GOOD = Outcome(
    transport="grpcio",
    messages=Counter(protobuf=1000),
    unread=0,
    connections=100,
    responses=900,
    stuck=0,
    undecided=0,
    took_s=1,
    grown_bytes=GROWTH_BYTES,
    status=None,
    serving=True,
    errors=[],
    user=User(
        calls=10, allowed=10, refused=0, failed=[], p50_ms=1, p99_ms=2, longest_ms=200, stall_ms=STALL_MS
    ),
    spent=10,
    untouched=True,
)


@pytest.mark.timeout(600)  # some seconds on an idle machine
@pytest.mark.timeout(400)  # a quarter of a minute on an idle machine
@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_service_bears_25_000_messages(transport: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = await main(parse(["--messages", "25000", "--transport", transport, "--no-timing"]))
    output = capsys.readouterr().out
    assert status == 0, output
    assert output.splitlines()[-1] == "  fault: none"


async def test_the_defects_of_a_service_are_found(tmp_path: Path) -> None:
    serve = ("-P", "-c", DEFECTS.replace("CRASH_AT", "None"))
    outcome = await fuzzed("grpcio", 1500, 1, tmp_path, serve=serve)
    faults = " ".join(outcome.faults(timing=True))
    for sentence in (
        "reports errors: ['call_failed']",
        "Calls of the user failed: ",
        "The bucket of the user paid ",
        "The bucket of a user who made no call has changed.",
        "The memory of the service grew by ",
        "The service kept the user waiting for ",
    ):
        assert sentence in faults


async def test_a_crash_is_found_and_the_last_messages_are_kept(tmp_path: Path) -> None:
    serve = ("-P", "-c", DEFECTS.replace("CRASH_AT", "500"))
    outcome = await fuzzed("grpcio", 1500, 1, tmp_path, serve=serve)
    assert {"The service ended with status 3.", "The service does not serve."} <= set(
        outcome.faults(timing=False)
    )
    *_, last = sorted((tmp_path / "grpcio-sent").iterdir())
    assert last.read_bytes().startswith(wire.PREFACE)


async def test_a_server_that_does_not_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_attack, "ANSWER_S", 0.01)

    async def read_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65536):
                pass
        writer.close()

    async with await asyncio.start_server(read_only, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        tally = Tally(wanted=1)
        await attack(TcpAddress(host, port), "1", tally)
    assert (tally.messages, tally.stuck) == (0, fuzz_attack.CONNECTIONS)


async def test_messages_on_a_connection_that_the_server_closes_do_not_count() -> None:
    wanted = 100
    tally = Tally(wanted)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tally.wanted = 0
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        await attack(TcpAddress(host, port), "1", tally)
    assert (tally.messages, tally.stuck) == (0, 0)
    assert tally.unread > 0


def test_an_outcome_without_faults_says_nothing() -> None:
    assert GOOD.faults(timing=True) == []


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (replace(GOOD, status=-11), "The service ended with status -11."),
        (replace(GOOD, serving=False), "The service does not serve."),
        (replace(GOOD, errors=["call_failed"]), "The log of the service reports errors: ['call_failed']"),
        (replace(GOOD, stuck=1), "1 connections got no answer."),
        (replace(GOOD, undecided=1), "1 checks were allowed without a decision."),
        (replace(GOOD, spent=11), "The bucket of the user paid 11 tokens for 10 calls."),
        (replace(GOOD, untouched=False), "The bucket of a user who made no call has changed."),
        (replace(GOOD, grown_bytes=GROWTH_BYTES + 2**20), "The memory of the service grew by 65 MB."),
        (
            replace(GOOD, user=replace(GOOD.user, failed=["INTERNAL"])),
            "Calls of the user failed: ['INTERNAL']",
        ),
    ],
)
def test_each_fault_is_a_sentence(outcome: Outcome, sentence: str) -> None:
    assert outcome.faults(timing=False) == [sentence]


def test_stalls_and_refusals_are_faults_only_where_timing_counts() -> None:
    slow = replace(GOOD, user=replace(GOOD.user, stall_ms=STALL_MS + 1, refused=1, calls=999))
    assert slow.faults(timing=False) == []
    assert slow.faults(timing=True) == [
        "The service kept the user waiting for 101 ms.",
        "1 calls of the user were refused.",
    ]


async def test_the_time_that_a_process_waits_for_a_cpu_counts() -> None:
    only = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\nwhile True: pass"
    busy = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", only, stderr=DEVNULL) for _ in range(2)
    ]
    try:
        before = Waits([busy[0].pid])

        async def has_waited() -> bool:
            return Waits([busy[0].pid]).since_s(before) > 0.2

        await eventually(has_waited, "a process that shares its CPU has waited for it")
    finally:
        for process in busy:
            process.kill()
            await process.wait()
    assert Waits([busy[0].pid]).since_s(before) >= 0  # of a process that has ended


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", {"undecided"}),
        (b"HTTP/1.1 200 OK\r\nratelimit-policy: x\r\n\r\n", set()),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", set()),
        (b"", {"stuck"}),
    ],
)
async def test_faults_of_responses_over_http1_are_found(answer: bytes, found: set[str]) -> None:
    ended = asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65536):
                writer.write(answer * 4)
        writer.close()
        ended.set()

    tally = Tally(wanted=0)
    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        talk = Http1Talk(Random(1), tally, answer_s=30 if answer else 0.01)  # noqa: S311 - not a secret
        await talk.over(*await asyncio.open_connection(*server.sockets[0].getsockname()))
        await ended.wait()
    assert {name for name in ("undecided", "stuck") if getattr(tally, name)} == found
    assert (tally.messages == 0) == bool(tally.stuck)


def stream_one(message: Http1Message) -> Message:
    return wraps(message)(lambda random, _stream: message(random))


HTTP1: list[Message] = [stream_one(message) for message in (http1_check, *HTTP1_ENDINGS)]


@pytest.mark.parametrize(
    "message", dict.fromkeys((*CALLS, *ENDINGS, *HTTP1)), ids=lambda message: message.__name__
)
def test_a_seed_repeats_the_bytes_of_a_message(message: Message) -> None:
    first, second, other = (
        [message(Random(seed), 1) for seed in range(start, start + 10)]  # noqa: S311 - not a secret
        for start in (0, 0, 10)
    )
    assert first == second != other


def test_a_compressed_block_is_valid_also_the_second_time_on_a_connection() -> None:
    decoder, random = Decoder(), Random(1)  # noqa: S311 - not a secret
    for _ in range(2):
        data = bytearray(compressed(random, 1))
        parts = [
            payload
            for kind, _, _, payload in wire.frames_in(data)
            if kind in (wire.HEADERS, wire.CONTINUATION)
        ]
        assert list(decoder.decode(b"".join(parts), raw=True))[: len(FIELDS)] == FIELDS


def test_literals_of_any_length_are_decoded() -> None:
    fields = [(b"x", b"v" * length) for length in (0, 126, 127, 128, 254, 255, 400, 20_000)]
    assert Decoder(max_header_list_size=1 << 20).decode(wire.literal_block(fields), raw=True) == fields


def test_the_command_line_refuses_too_few_messages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--messages", "999"])
    assert "--messages 999: expected at least 1000" in capsys.readouterr().err
