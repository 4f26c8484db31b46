"""A gRPC client that knows nothing of volattach: what there is to call it learns from the server, by reflection.

    /usr/bin/python3 grpc_client.py SOCKET <<<'[["volattach.v1.VolumeAttach/GetConnector", {}], ...]'

Makes the calls one after the other on one connection. Writes {"services": [NAME, ...], "answers": [...]}, an answer being
{"message": {...}} or {"code": NAME, "text": ..., "info": {"reason": ..., "domain": ..., "metadata": {...}}}.
Of Debian: python3-grpcio, python3-protobuf.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format

# What every client of gRPC brings along: reflection itself (grpc/reflection/v1/reflection.proto), and the details of errors
# (google/rpc/status.proto, google/rpc/error_details.proto). Debian has no package with these.
KNOWN = """
name: "known.proto" package: "known" syntax: "proto3"
message_type { name: "Ask"
  field { name: "file_by_filename" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "file_containing_symbol" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "list_services" number: 7 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "Files"
  field { name: "file_descriptor_proto" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
message_type { name: "Service" field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "Services"
  field { name: "service" number: 1 type: TYPE_MESSAGE type_name: ".known.Service" label: LABEL_REPEATED } }
message_type { name: "Told"
  field { name: "files" number: 4 type: TYPE_MESSAGE type_name: ".known.Files" label: LABEL_OPTIONAL }
  field { name: "services" number: 6 type: TYPE_MESSAGE type_name: ".known.Services" label: LABEL_OPTIONAL } }
message_type { name: "Any"
  field { name: "type_url" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "value" number: 2 type: TYPE_BYTES label: LABEL_OPTIONAL } }
message_type { name: "Status"
  field { name: "code" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "message" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "details" number: 3 type: TYPE_MESSAGE type_name: ".known.Any" label: LABEL_REPEATED } }
message_type { name: "ErrorInfo"
  field { name: "reason" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "domain" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "metadata" number: 3 type: TYPE_MESSAGE type_name: ".known.ErrorInfo.MetadataEntry" label: LABEL_REPEATED }
  nested_type { name: "MetadataEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } } }
"""
DEADLINE = 120  # seconds


class Types:
    """Message types, by what is known of their files."""

    def __init__(self):
        self.pool = descriptor_pool.DescriptorPool()
        self.factory = message_factory.MessageFactory(self.pool)

    def add(self, file):
        self.pool.Add(file)

    def of(self, descriptor):
        return self.factory.GetPrototype(descriptor)

    def named(self, name):
        return self.of(self.pool.FindMessageTypeByName(name))


known = Types()
known.add(text_format.Parse(KNOWN, descriptor_pb2.FileDescriptorProto()))
Ask, Told, Status, ErrorInfo = (known.named(f"known.{name}") for name in ["Ask", "Told", "Status", "ErrorInfo"])


def ask(channel, **question):
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Ask.SerializeToString, Told.FromString)
    return next(call(iter([Ask(**question)]), timeout=DEADLINE))


class Learnt(Types):
    """What the server tells of itself."""

    def __init__(self, channel):
        super().__init__()
        self.channel = channel
        self.files = set()

    def learn(self, **question):
        for data in ask(self.channel, **question).files.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name in self.files:
                continue
            self.files.add(file.name)
            for name in file.dependency:
                self.learn(file_by_filename=name)
            self.add(file)

    def method(self, path):
        service, method = path.split("/")
        self.learn(file_containing_symbol=service)
        return self.pool.FindServiceByName(service).FindMethodByName(method)


def error_info(error):
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                if detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo":
                    return json_format.MessageToDict(ErrorInfo.FromString(detail.value))
    return None


def call(channel, types, path, request):
    method = types.method(path)
    stub = channel.unary_unary(
        "/" + path, lambda message: message.SerializeToString(), types.of(method.output_type).FromString)
    try:
        message = stub(json_format.ParseDict(request, types.of(method.input_type)()), timeout=DEADLINE)
    except grpc.RpcError as error:
        return {"code": error.code().name, "text": error.details(), "info": error_info(error)}
    return {"message": json_format.MessageToDict(message, preserving_proto_field_name=True)}


with grpc.insecure_channel("unix:" + sys.argv[1]) as channel:
    services = [service.name for service in ask(channel, list_services="*").services.service]
    types = Learnt(channel)
    answers = [call(channel, types, path, request) for path, request in json.load(sys.stdin)]
json.dump({"services": sorted(services), "answers": answers}, sys.stdout)
