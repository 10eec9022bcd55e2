"""The fast transport: an Envoy hosts this Python by means of pyvoy, and calls it over ASGI.

`framing` is the format of gRPC, `grpc_app` and `streams` serve calls. `application` is what Envoy loads,
`bootstrap` how it is started. `supervisor` runs it as a child process, and `embed` puts it into the user's
own Envoy. `host_site` keeps the host's imports in order.
"""
