"""redis-py's client, except that it finds the new master for a write, and that errors name the command."""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ReadOnlyError, ResponseError

from ratelimitd.store.reply_errors import name_command


class PlainClient(Redis):
    """A client that finds the new master for a write, and whose errors name the command that was refused."""

    in_cluster = False
    """Whether the servers are nodes of a Redis Cluster."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Returns the reply to a command. Raises RedisError."""
        try:
            return await self._execute_once(*args, **options)
        except ReadOnlyError:  # not executed, so it may be repeated: the pool opens a new connection
            return await self._execute_once(*args, **options)

    async def _execute_once(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # it is untyped
        except ResponseError as error:
            name_command(error, args, in_cluster=self.in_cluster)
            raise

    def pipeline(
        self,
        transaction: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
        shard_hint: str | None = None,
    ) -> "PlainPipeline":
        """Returns a pipeline that sends its commands together."""
        return PlainPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class PlainPipeline(Pipeline):
    """A pipeline whose errors name the command that the store refused."""

    in_cluster = False

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's signature
        """Returns the replies; refused commands have an error unless `raise_on_error`. Raises RedisError."""
        commands = [command for command, _ in self.command_stack]
        replies = await super().execute(raise_on_error=False)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ResponseError):
                name_command(reply, [*command], in_cluster=self.in_cluster)
                if raise_on_error:
                    raise reply
        return replies
