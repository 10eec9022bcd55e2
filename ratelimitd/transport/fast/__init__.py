"""The fast transport: an Envoy hosts this Python (pyvoy), which speaks gRPC itself, over ASGI.

`wire` is the format of a message, `asgi` the calls, `health` and `reflection` the two standard services,
`module` how an Envoy loads it all, `host` the process, `front` the same inside a user's own Envoy.
"""
