"""The revisions of the policy on a real store: conflicts, what is kept, and what is announced."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from ratelimitd.core.model import MICRO
from ratelimitd.errors import ConflictError, StoreError, UnknownRevisionError
from ratelimitd.policy.text import DEFAULT_TEXT
from ratelimitd.rollout.revision import EXTERNAL, Revision
from ratelimitd.rollout.revisions import KEPT, Revisions
from ratelimitd.rollout.snapshot import sha1_of
from ratelimitd.rollout.wrong_type import WRONG_TYPE
from ratelimitd.store.client import open_client
from tests.example_limits import KEY

HASH = f"{{{KEY}}}:revisions"


@pytest.fixture
def revisions(store: Redis) -> Revisions:
    """Returns the revisions of an empty store."""
    return Revisions(store, KEY)


async def commit(revisions: Revisions, text: str, author: str = "alice", note: str = "") -> Revision:
    """Commits a text over the current value of the key."""
    seen = await revisions.snapshot()
    return await revisions.commit(text, author=author, note=note, expected=seen.head, over=seen.sha1)


async def now_us(store: Redis) -> int:
    """Returns the store's clock."""
    seconds, micros = await store.time()
    return int(seconds) * MICRO + int(micros)


@asynccontextmanager
async def subscribed(store: Redis, revisions: Revisions) -> AsyncIterator[Any]:
    """Subscribes to the channel, and yields a function that returns the next message."""
    async with store.pubsub(ignore_subscribe_messages=False) as pubsub:
        await pubsub.subscribe(revisions.channel)
        await pubsub.get_message(timeout=None)

        async def message() -> str:
            data: bytes = (await pubsub.get_message(timeout=None))["data"]
            return data.decode()

        yield message


async def test_in_an_empty_store_the_default_policy_is_number_0(store: Redis, revisions: Revisions) -> None:
    before = await now_us(store)
    seen = await revisions.snapshot()
    assert (seen.value, seen.wrong_type, seen.sha1, seen.head, seen.stored) == (None, False, "", 0, "")
    assert not seen.foreign
    assert before <= seen.now_us <= await now_us(store)
    head = await revisions.head()
    assert (head.number, head.text) == (0, DEFAULT_TEXT)
    assert head.sha256 == hashlib.sha256(DEFAULT_TEXT.encode()).hexdigest()
    assert await revisions.get(0) == head
    assert await revisions.history() == []
    assert await revisions.adopt(seen) == head
    assert await store.exists(HASH) == 0


async def test_a_commit_records_every_field_and_sets_the_key(store: Redis, revisions: Revisions) -> None:
    before = await now_us(store)
    first = await commit(revisions, '{"a":1}', "alice", "the first")
    after = await now_us(store)
    assert before <= first.at_us <= after
    digest = hashlib.sha256(b'{"a":1}').hexdigest()
    assert first == Revision(
        number=1, sha256=digest, at_us=first.at_us, author="alice", note="the first", text='{"a":1}'
    )
    assert await store.get(KEY) == b'{"a":1}'
    second = await commit(revisions, "b: 2", "bob", "the second")
    assert (second.number, second.author, second.note, second.text) == (2, "bob", "the second", "b: 2")
    assert await revisions.head() == second
    assert [await revisions.get(1), await revisions.get(2)] == [first, second]
    seen = await revisions.snapshot()
    assert (seen.value, seen.sha1, seen.head, seen.foreign) == (b"b: 2", sha1_of(b"b: 2"), 2, False)


async def test_the_layout_in_redis_is_the_documented_one(store: Redis, revisions: Revisions) -> None:
    """No integer is written as 1e+15, however large."""
    await store.hset(HASH, "head", "1000000000000000")
    made = await commit(revisions, "{}", "alice", "big")
    assert made.number == 10**15 + 1
    fields = await store.hgetall(HASH)
    raw = fields.pop(b"1000000000000001")
    assert fields == {b"head": b"1000000000000001", b"stored": sha1_of(b"{}").encode()}
    assert f'"number":1000000000000001,"at_us":{made.at_us},'.encode() in raw
    assert json.loads(raw) == {
        "number": made.number,
        "at_us": made.at_us,
        "sha256": hashlib.sha256(b"{}").hexdigest(),
        "author": "alice",
        "note": "big",
        "text": "{}",
    }


async def test_history_is_newest_first_and_the_last_100_are_kept(store: Redis, revisions: Revisions) -> None:
    for number in range(1, KEPT + 4):
        assert (await commit(revisions, f"text {number}")).number == number
    assert [revision.number for revision in await revisions.history(3)] == [103, 102, 101]
    assert len(await revisions.history()) == 20
    assert [revision.number for revision in await revisions.history(1000)] == list(range(103, 3, -1))
    assert await revisions.history(0) == []
    assert await store.hlen(HASH) == KEPT + len(("head", "stored"))
    assert (await revisions.get(4)).text == "text 4"
    with pytest.raises(UnknownRevisionError, match=r"revision 3 does not exist; 4 to 103 are kept"):
        await revisions.get(3)


@pytest.mark.parametrize("number", [1, -1])
async def test_an_unknown_revision_is_named_in_the_error(revisions: Revisions, number: int) -> None:
    with pytest.raises(
        UnknownRevisionError, match=f"revision {number} does not exist; none was accepted yet"
    ):
        await revisions.get(number)


async def test_of_two_simultaneous_commits_exactly_one_wins(store: Redis, revisions: Revisions) -> None:
    """The other error names the winner and the time, and nothing of the loser is written."""
    await commit(revisions, "before")
    seen = await revisions.snapshot()
    made = await asyncio.gather(
        *(
            revisions.commit(author, author=author, note="", expected=seen.head, over=seen.sha1)
            for author in ("bob", "carol")
        ),
        return_exceptions=True,
    )
    (won,) = [result for result in made if isinstance(result, Revision)]
    (lost,) = [result for result in made if isinstance(result, ConflictError)]
    assert str(lost).startswith(f"revision 2 by {won.author} was accepted meanwhile, at 20")
    assert str(lost).endswith("Z; review it (policy diff), then apply again")
    assert await store.get(KEY) == won.text.encode()
    assert [revision.text for revision in await revisions.history()] == [won.text, "before"]


async def test_the_time_in_a_conflict_is_that_of_the_newest_revision(
    store: Redis, revisions: Revisions
) -> None:
    first = await commit(revisions, "{}")
    await store.hset(HASH, "1", json.dumps(first.model_dump() | {"at_us": 1_795_492_799_999_999}))
    with pytest.raises(
        ConflictError, match=r"revision 1 by alice was accepted meanwhile, at 2026-11-24T03:59:59\.999Z"
    ):
        await revisions.commit("x", author="bob", note="", expected=0, over="")


async def test_a_commit_on_a_missing_number_is_a_conflict(store: Redis, revisions: Revisions) -> None:
    """The store was emptied or restored from a backup."""
    seen = await revisions.snapshot()
    with pytest.raises(ConflictError, match="revision 7 is gone, the newest is revision 0;"):
        await revisions.commit("x", author="bob", note="", expected=7, over=seen.sha1)
    assert await store.exists(KEY, HASH) == 0


async def test_a_direct_write_since_the_snapshot_is_a_conflict(store: Redis, revisions: Revisions) -> None:
    await commit(revisions, "{}")
    seen = await revisions.snapshot()
    await store.set(KEY, "foreign")
    with pytest.raises(
        ConflictError,
        match=f"{KEY} was changed directly since you read it, on top of revision 1 by alice, at 20",
    ):
        await revisions.commit("x", author="bob", note="", expected=seen.head, over=seen.sha1)
    assert await store.get(KEY) == b"foreign"
    assert (await revisions.head()).number == 1


async def test_a_commit_may_overwrite_a_foreign_text_of_its_snapshot(
    store: Redis, revisions: Revisions
) -> None:
    """An invalid text, which is never adopted, is repaired this way."""
    await commit(revisions, "good")
    await store.set(KEY, b"\xff not even UTF-8")
    seen = await revisions.snapshot()
    assert seen.foreign
    with pytest.raises(ValueError, match="utf-8"):
        await revisions.adopt(seen)
    made = await revisions.commit("better", author="bob", note="repair", expected=1, over=seen.sha1)
    assert made.number == 2
    assert await store.get(KEY) == b"better"
    assert not (await revisions.snapshot()).foreign


async def test_a_commit_replaces_a_key_of_another_type(store: Redis, revisions: Revisions) -> None:
    await store.hset(KEY, "user_rate", "1")
    seen = await revisions.snapshot()
    assert (seen.value, seen.wrong_type, seen.sha1, seen.foreign) == (None, True, WRONG_TYPE, True)
    assert seen.now_us > 0
    with pytest.raises(ValueError, match="not a string has no text"):
        await revisions.adopt(seen)
    with pytest.raises(ConflictError, match="changed directly"):
        await revisions.commit("{}", author="bob", note="", expected=0, over="")
    await revisions.commit("{}", author="bob", note="", expected=0, over=seen.sha1)
    assert await store.get(KEY) == b"{}"


async def test_five_replicas_adopt_a_foreign_write_once(store: Redis, store_url: str) -> None:
    """All get the same revision, and the bytes at the key stay the same."""
    await commit(Revisions(store, KEY), "{}")
    await store.set(KEY, "foreign: é")
    await store.expire(KEY, 1000)
    async with open_client(store_url) as other:
        replicas = [Revisions(client, KEY) for client in (store, other, store, other, store)]
        snapshots = [await replica.snapshot() for replica in replicas]
        made = await asyncio.gather(*(r.adopt(seen) for r, seen in zip(replicas, snapshots, strict=True)))
        assert [revision.number for revision in made] == [2] * 5
        assert len(set(made)) == 1
        assert await replicas[1].history() == [made[0], await replicas[0].get(1)]
    assert (made[0].author, made[0].text) == (EXTERNAL, "foreign: é")
    assert made[0].note == f"written to {KEY} directly"
    assert made[0].sha256 == hashlib.sha256("foreign: é".encode()).hexdigest()
    assert await store.get(KEY) == "foreign: é".encode()
    assert await store.ttl(KEY) > 0
    assert not (await replicas[0].snapshot()).foreign


async def test_a_key_older_than_the_revisions_becomes_revision_1(store: Redis, revisions: Revisions) -> None:
    """An upgrade from a version without revisions keeps the limits."""
    await store.set(KEY, "")
    seen = await revisions.snapshot()
    assert seen.foreign
    made = await revisions.adopt(seen)
    assert (made.number, made.author, made.text) == (1, EXTERNAL, "")


async def test_a_deletion_is_adopted_once_as_the_default_policy(store: Redis, revisions: Revisions) -> None:
    await commit(revisions, "{}")
    await store.delete(KEY)
    seen = await revisions.snapshot()
    assert seen.foreign
    made = await revisions.adopt(seen)
    assert (made.number, made.author, made.note) == (2, EXTERNAL, "the key was deleted")
    assert made.text == DEFAULT_TEXT
    assert await revisions.adopt(seen) == made == await revisions.head()
    assert await store.exists(KEY) == 0
    assert not (await revisions.snapshot()).foreign
    assert (await commit(revisions, "{}")).number == 3


async def test_a_text_that_changed_since_the_snapshot_is_not_adopted(
    store: Redis, revisions: Revisions
) -> None:
    await store.set(KEY, "one")
    seen = await revisions.snapshot()
    await store.set(KEY, "two")
    with pytest.raises(ConflictError, match=f"{KEY} changed again since it was read"):
        await revisions.adopt(seen)
    assert await revisions.history() == []


async def test_an_old_text_becomes_a_new_revision(store: Redis, revisions: Revisions) -> None:
    first = await commit(revisions, "good")
    await commit(revisions, "bad")
    third = await commit(revisions, first.text, "bob", "back to 1")
    assert (third.number, third.sha256, third.text) == (3, first.sha256, "good")
    assert await store.get(KEY) == b"good"


async def test_commits_adoptions_and_resets_are_announced_and_conflicts_are_not(
    store: Redis, revisions: Revisions
) -> None:
    async with subscribed(store, revisions) as message:
        assert revisions.channel == f"{{{KEY}}}:changes"
        await commit(revisions, "{}")
        assert await message() == "1"
        assert await store.get(KEY) == b"{}"
        await store.set(KEY, "foreign")
        seen = await revisions.snapshot()
        await revisions.adopt(seen)
        await revisions.adopt(seen)
        assert await message() == "2"
        with pytest.raises(ConflictError):
            await revisions.commit("x", author="bob", note="", expected=1, over=seen.sha1)
        await revisions.announce_reset()
        assert await message() == "reset"


async def test_a_user_who_may_not_publish_can_make_revisions(store: Redis, store_url: str) -> None:
    await store.acl_setuser(
        "quiet", enabled=True, nopass=True, commands=["+@all"], keys=["*"], reset_channels=True
    )
    try:
        async with open_client(store_url.replace("://", "://quiet:x@")) as quiet:
            assert (await commit(Revisions(quiet, KEY), "{}")).number == 1
            await Revisions(quiet, KEY).announce_reset()
        assert await store.get(KEY) == b"{}"
    finally:
        await store.acl_deluser("quiet")


async def test_a_large_text_of_any_characters_is_kept_exactly(store: Redis, revisions: Revisions) -> None:
    piece = "\"'\\\x00\x01\x7f\r\n\t\u2028é漢🚦\ufeff%s%d</script>{}"
    text = piece * ((1 << 20) // len(piece.encode()))
    made = await commit(revisions, text, piece, piece * 10)
    assert (made.text, made.author, made.note) == (text, piece, piece * 10)
    assert made.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert await revisions.head() == made
    assert await store.get(KEY) == text.encode()
    await store.set(KEY, text[1:])
    assert (await revisions.adopt(await revisions.snapshot())).text == text[1:]


async def test_lone_surrogates_in_author_and_note_are_replaced(store: Redis, revisions: Revisions) -> None:
    """A shell passes bytes that are not UTF-8 on as lone surrogates."""
    made = await commit(revisions, "{}", "ren\udce9", "\ud800")
    assert (made.author, made.note) == ("ren?", "?")
    with pytest.raises(ValueError, match="surrogates"):
        await commit(revisions, "\ud800")
    assert await store.get(KEY) == b"{}"


async def test_the_script_is_loaded_again_after_script_flush(store: Redis, revisions: Revisions) -> None:
    await commit(revisions, "one")
    await store.script_flush()
    assert (await commit(revisions, "two")).number == 2


async def test_a_damaged_revision_counts_as_lost(store: Redis, revisions: Revisions) -> None:
    """It blocks neither the other revisions nor the next commit."""
    await commit(revisions, "one")
    await commit(revisions, "two")
    await store.hset(HASH, "2", '{"number":"2"}')
    assert [revision.number for revision in await revisions.history()] == [1]
    with pytest.raises(UnknownRevisionError, match="revision 2 does not exist"):
        await revisions.head()
    with pytest.raises(ConflictError, match=r"^revision 2 was accepted meanwhile; review it"):
        await revisions.commit("x", author="bob", note="", expected=1, over=sha1_of(b"two"))
    assert (await commit(revisions, "three")).number == 3
    assert (await revisions.head()).text == "three"


async def test_a_head_that_is_not_a_number_is_an_error_and_nothing_is_written(
    store: Redis, revisions: Revisions
) -> None:
    await store.hset(HASH, "head", "seven")
    for reading in (revisions.snapshot(), revisions.head(), revisions.history(), revisions.get(1)):
        with pytest.raises(StoreError, match=r"head of .* must be a whole number, got b'seven'"):
            await reading
    with pytest.raises(StoreError, match="head of the revisions is not a number"):
        await revisions.commit("x", author="bob", note="", expected=7, over="")
    assert await store.exists(KEY) == 0


async def test_a_hash_of_another_type_is_a_failure_of_the_store(store: Redis, revisions: Revisions) -> None:
    """It must not be mistaken for a config key of another type."""
    await store.set(HASH, "x")
    for call in (
        revisions.snapshot(),
        revisions.head(),
        revisions.commit("x", author="", note="", expected=0, over=""),
    ):
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await call
    assert await store.exists(KEY) == 0


async def test_without_a_store_every_call_raises_store_error(tmp_path: Path, store: Redis) -> None:
    await store.set(KEY, "{}")
    seen = await Revisions(store, KEY).snapshot()
    async with open_client(f"unix://{tmp_path}/none.sock") as client:
        revisions = Revisions(client, KEY)
        for call in (
            revisions.snapshot(),
            revisions.head(),
            revisions.get(1),
            revisions.history(),
            revisions.commit("{}", author="alice", note="", expected=0, over=""),
            revisions.adopt(seen),
            revisions.announce_reset(),
        ):
            with pytest.raises(StoreError, match="the store failed"):
                await call
