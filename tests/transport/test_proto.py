"""Compares the .proto files with another implementation of Envoy's API and with the generated code."""

import filecmp
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ratelimitd.transport._pb.envoy.config.core.v3 import address_pb2, base_pb2
from ratelimitd.transport._pb.envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from ratelimitd.transport._pb.envoy.type.v3 import http_status_pb2

ROOT = Path(__file__).parents[2]
FILES = (address_pb2, base_pb2, attribute_context_pb2, external_auth_pb2, http_status_pb2)


def _with_nested(message: Descriptor) -> list[Descriptor]:
    nested = [found for inner in message.nested_types for found in _with_nested(inner)]
    return [] if message.GetOptions().map_entry else [message, *nested]


MESSAGES = [
    found
    for file in FILES
    for message in file.DESCRIPTOR.message_types_by_name.values()
    for found in _with_nested(message)
]


def theirs_for(descriptor: Descriptor) -> Any:
    """Returns the class of the same message in envoy-data-plane, which writes A.B as AB."""
    package = descriptor.file.package
    name = descriptor.full_name.removeprefix(package + ".").replace(".", "")
    return getattr(importlib.import_module(f"envoy_data_plane.{package}"), name)


def _value(field: Any) -> Any:
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: b"\xff raw" if field.type == field.TYPE_BYTES else f"{field.name} ✓",
        FieldDescriptor.CPPTYPE_INT32: 429,
        FieldDescriptor.CPPTYPE_UINT32: 65_535,
        FieldDescriptor.CPPTYPE_ENUM: 2,
    }
    return kinds[field.cpp_type]


def fill(message: Message, member: str = "") -> Message:
    """Sets every field; of a oneof, the member of this name, or else the first."""
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        chosen = [other.name for other in oneof.fields] if oneof else [field.name]
        if field.name != (member if member in chosen else chosen[0]):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            if field.message_type.fields_by_name["value"].message_type is None:
                entries["key"] = "value ✓"
            else:
                entries["key"].update({"hand-over": "0f"})
        elif field.message_type is not None and field.message_type.full_name == "google.protobuf.Struct":
            getattr(message, field.name).update({"tier": "user", "remaining": 3})
        elif field.message_type is not None and field.message_type.file.package.startswith("google.rpc"):
            getattr(message, field.name).code = 8
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            fill(inner.add() if field.is_repeated else inner).SetInParent()
        else:
            setattr(message, field.name, _value(field))
    return message


CASES = [
    pytest.param(descriptor, member, id=f"{descriptor.full_name}-{member}")
    for descriptor in MESSAGES
    for member in [m.name for oneof in descriptor.oneofs for m in oneof.fields] or [""]
]


@pytest.mark.parametrize(("descriptor", "member"), CASES)
def test_messages_survive_a_round_trip_through_another_implementation(
    descriptor: Descriptor, member: str
) -> None:
    ours = fill(GetMessageClass(descriptor)(), member)
    theirs = theirs_for(descriptor).parse(ours.SerializeToString())
    assert theirs._unknown_fields == b""
    assert type(ours).FromString(bytes(theirs)) == ours


@pytest.mark.parametrize("descriptor", MESSAGES, ids=lambda descriptor: descriptor.full_name)
def test_every_field_has_envoys_name_number_and_oneof(descriptor: Descriptor) -> None:
    metadata = {
        name: field.metadata["betterproto"]
        for name, field in theirs_for(descriptor).__dataclass_fields__.items()
        if "betterproto" in field.metadata
    }
    for field in descriptor.fields:
        oneof = field.containing_oneof.name if field.containing_oneof else None
        assert (metadata[field.name].number, metadata[field.name].group) == (field.number, oneof)


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """If this fails, run proto/generate.py."""
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True)
    committed = ROOT / "ratelimitd" / "transport" / "_pb"
    fresh = {path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2.py*")}
    assert fresh == {path.relative_to(committed) for path in committed.rglob("*_pb2.py*")}
    stale = [path for path in fresh if not filecmp.cmp(tmp_path / path, committed / path, shallow=False)]
    assert stale == [], "run .venv/bin/python proto/generate.py"
