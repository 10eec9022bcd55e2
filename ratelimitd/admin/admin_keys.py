"""Who may look and who may change. There is no default key, and none is ever shown or logged."""

import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ratelimitd.errors import SettingsError
from ratelimitd.settings import Settings, env_name

MAX_KEYS = 2
"""Of a kind: the old one and the new one, while they are rotated."""

_KEY = re.compile(r"[\x21-\x7e]{16,256}")


class Role(IntEnum):
    """What a key allows. A higher one allows all that a lower one does."""

    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The keys in use."""

    write: tuple[str, ...]
    read: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.write or self.read)

    def role(self, presented: str) -> Role | None:
        """What a presented key allows. The time that it takes does not tell how much of it was right."""
        found = None
        for role, keys in ((Role.READ, self.read), (Role.WRITE, self.write)):
            for key in keys:
                if hmac.compare_digest(_digest(key), _digest(presented)):
                    found = role
        return found

    def fingerprint(self, presented: str) -> str:
        """What a session remembers of a key: it says which one it was, and cannot be used as one."""
        return hmac.digest(presented.encode(errors="surrogateescape"), b"fingerprint", "sha256").hex()

    def role_of_fingerprint(self, fingerprint: str) -> Role | None:
        """What the key of a session allows now. A key that was taken away allows nothing any more."""
        found = None
        for role, keys in ((Role.READ, self.read), (Role.WRITE, self.write)):
            for key in keys:
                if hmac.compare_digest(self.fingerprint(key), fingerprint):
                    found = role
        return found

    def session_secret(self) -> str:
        """What signs session cookies: the same on every admin service with these keys.

        Another set of keys is another secret, so whoever was signed in has to do it again.
        """
        keys = "\n".join((*self.write, "", *self.read))
        return hmac.digest(keys.encode(), b"session", "sha256").hex()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def load_keys(settings: Settings) -> Keys:
    """The keys of the settings, from their files too. Raises SettingsError, which shows no key."""
    write = _keys(settings.admin_key, settings.admin_key_file, "admin_key")
    read = _keys(settings.admin_read_key, settings.admin_read_key_file, "admin_read_key")
    if set(write) & set(read):
        raise SettingsError(f"a key in {env_name('admin_read_key')} is also one in {env_name('admin_key')}")
    return Keys(write, read)


def _keys(text: str, file: str, name: str) -> tuple[str, ...]:
    found = text.split()
    if file:
        try:
            found += Path(file).read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{env_name(name + '_file')}: {file} cannot be read: {error}") from error
        if not found:
            raise SettingsError(f"{env_name(name + '_file')}: {file} holds no key")
    where = f"{env_name(name)} with {file}" if file else env_name(name)
    if len(found) > MAX_KEYS:
        raise SettingsError(f"{where}: there are {len(found)} keys; at most {MAX_KEYS} can be in use")
    if not all(_KEY.fullmatch(key) for key in found):
        raise SettingsError(f"{where}: a key must have 16 to 256 printable ASCII characters, no spaces")
    return tuple(found)
