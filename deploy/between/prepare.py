"""Makes what Envoy and the service need between them: `prepare.py tls` or `prepare.py socket`.

Both write envoy.yaml with another cluster `ratelimitd` into /envoy. It runs as root in the service's image.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path("/envoy.yaml")
ENVOY, SERVICE, SOCKET = Path("/envoy"), Path("/service"), Path("/socket")
SERVICE_USER, ENVOY_GROUP = 65532, 101
DAYS = 365
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def tls() -> None:
    """Makes an authority and two certificates, unless they are there, and an Envoy that uses its own."""
    folder = ENVOY / "tls"
    folder.mkdir(exist_ok=True)
    if not (SERVICE / "tls.crt").exists():
        authority = ("-x509", "-days", str(DAYS), "-subj", "/CN=example", "-keyout", "/tmp/ca.key")  # noqa: S108
        _openssl("req", *_KEY, *authority, "-out", "/tmp/ca.crt")  # noqa: S108
        for name, where in (("ratelimitd", SERVICE), ("envoy", folder)):
            _issue(name, where)
    context = {
        "@type": f"{_TLS}.UpstreamTlsContext",
        "sni": "ratelimitd",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [_source("client")],
            "validation_context_sds_secret_config": _source("service"),
        },
    }
    pair = {name: {"filename": f"/etc/envoy/tls/tls.{end}"} for name, end in _PAIR}
    watched = {"watched_directory": {"path": "/etc/envoy/tls"}}
    names = [{"san_type": "DNS", "matcher": {"exact": "ratelimitd"}}]
    trusted = {"trusted_ca": {"filename": "/etc/envoy/tls/ca.crt"}, "match_typed_subject_alt_names": names}
    _write_secret(folder, "client", {"tls_certificate": pair | watched})
    _write_secret(folder, "service", {"validation_context": trusted | watched})
    _write_envoy({"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}})


def socket() -> None:
    """Lets the service make a socket for the group of Envoy, and makes an Envoy that uses it."""
    SOCKET.chmod(0o2770)  # a new socket gets the group of this folder
    os.chown(SOCKET, SERVICE_USER, ENVOY_GROUP)
    address = {"pipe": {"path": "/run/ratelimitd/ratelimitd.sock"}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    assignment = {"cluster_name": "ratelimitd", "endpoints": endpoints}
    _write_envoy({"type": "STATIC", "load_assignment": assignment, "cluster_type": None})


_PAIR = (("certificate_chain", "crt"), ("private_key", "key"))


def _issue(name: str, folder: Path) -> None:
    """Writes a certificate, its key and the authority. Only containers with this volume can read them."""
    request, names = f"/tmp/{name}.csr", Path(f"/tmp/{name}.ext")  # noqa: S108
    names.write_text(f"subjectAltName=DNS:{name}\n")
    _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", f"{folder}/tls.key", "-out", request)
    signer = ("-CA", "/tmp/ca.crt", "-CAkey", "/tmp/ca.key", "-CAcreateserial")  # noqa: S108
    signed = ("-days", str(DAYS), "-extfile", str(names), "-out", f"{folder}/tls.crt")
    _openssl("x509", "-req", "-in", request, *signer, *signed)
    (folder / "ca.crt").write_bytes(Path("/tmp/ca.crt").read_bytes())  # noqa: S108
    (folder / "tls.key").chmod(0o444)  # the services do not run as root


def _source(name: str) -> dict[str, Any]:
    path = f"/etc/envoy/tls/{name}.yaml"
    return {"name": name, "sds_config": {"path_config_source": {"path": path}}}


def _write_secret(folder: Path, name: str, content: dict[str, Any]) -> None:
    resource = {"@type": f"{_TLS}.Secret", "name": name, **content}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"resources": [resource]}))


def _write_envoy(changes: dict[str, Any]) -> None:
    """Writes the shipped configuration with changes of the cluster; None removes a field."""
    config = yaml.safe_load(SHIPPED.read_text())
    config["node"] = {"id": "front", "cluster": "front"}  # SDS needs it
    cluster = next(one for one in config["static_resources"]["clusters"] if one["name"] == "ratelimitd")
    cluster.update(changes)
    for name in [name for name, value in cluster.items() if value is None]:
        del cluster[name]
    (ENVOY / "envoy.yaml").write_text(yaml.safe_dump(config))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True)  # noqa: S603, S607 - fixed arguments


if __name__ == "__main__":
    {"tls": tls, "socket": socket}[sys.argv[1]]()
