"""The admin service: over HTTP, without a socket, on a real store."""
