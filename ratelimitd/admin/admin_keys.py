"""The admin keys and what they allow. By default there are no keys. Keys are never shown or logged."""

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ratelimitd.errors import SettingsError
from ratelimitd.settings import Settings, env_name

MAX_KEYS = 2
"""Keys per role: the old one and the new one during a rotation."""

_KEY = re.compile(r"[\x21-\x7e]{16,256}")


class Role(IntEnum):
    """What a key allows. A higher role includes the lower one."""

    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True, repr=False)
class AdminKeys:
    """The keys in use."""

    write: tuple[str, ...]
    read: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.write or self.read)

    def role(self, presented: str) -> Role | None:
        """Returns what a key allows, or None. Its duration does not reveal how much of the key was right."""
        found = None
        for role, key in self._roles_and_keys():
            if hmac.compare_digest(_digest(key), _digest(presented)):
                found = role
        return found

    def fingerprint(self, presented: str) -> str:
        """Returns what a session remembers of a key: it identifies the key and cannot be used as one."""
        return hmac.digest(presented.encode(errors="surrogateescape"), b"fingerprint", "sha256").hex()

    def role_of_fingerprint(self, fingerprint: str) -> Role | None:
        """Returns what the key of a session allows now: None when it was removed from the settings."""
        found = None
        for role, key in self._roles_and_keys():
            if hmac.compare_digest(self.fingerprint(key), fingerprint):
                found = role
        return found

    def session_secret(self) -> str:
        """Returns the secret that signs session cookies, the same on every admin service with these keys.

        A change of the keys changes the secret, which ends every session.
        """
        keys = "\n".join((*self.write, "", *self.read))
        return hmac.digest(keys.encode(), b"session", "sha256").hex()

    def _roles_and_keys(self) -> Iterator[tuple[Role, str]]:
        yield from ((Role.READ, key) for key in self.read)
        yield from ((Role.WRITE, key) for key in self.write)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def load_admin_keys(settings: Settings) -> AdminKeys:
    """Returns the keys from the settings and their files. Raises SettingsError, whose text shows no key."""
    write = _keys(settings.admin_key, settings.admin_key_file, "admin_key")
    read = _keys(settings.admin_read_key, settings.admin_read_key_file, "admin_read_key")
    if set(write) & set(read):
        raise SettingsError(f"a key in {env_name('admin_read_key')} is also in {env_name('admin_key')}")
    return AdminKeys(write, read)


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
        raise SettingsError(f"{where}: there are {len(found)} keys; at most {MAX_KEYS} are allowed")
    if not all(_KEY.fullmatch(key) for key in found):
        raise SettingsError(f"{where}: a key must have 16 to 256 printable ASCII characters, no spaces")
    return tuple(found)
