"""The messages of volattach.v1, as protoc makes them of volattach.proto, which has their meaning and units.

They show no secret: `repr` and `str` have `***` in the place of Cinder's JSON and of passwords.
"""

from google.protobuf import text_format
from google.protobuf.message import Message

from volattach.v1 import volattach_pb2
from volattach.v1.volattach_pb2 import *  # noqa: F403

SECRETS = frozenset({"cinder_json", "password", "password_in"})


def _hide(message: Message) -> None:
    for field, value in message.ListFields():
        if field.name in SECRETS:
            setattr(message, field.name, "***")
        elif isinstance(value, Message):
            _hide(value)
        elif field.message_type is not None:
            for part in value:
                _hide(part)


def _shown(message: Message) -> str:
    copy = type(message)()
    copy.CopyFrom(message)
    _hide(copy)
    return text_format.MessageToString(copy)


for _name in volattach_pb2.DESCRIPTOR.message_types_by_name:
    _class = getattr(volattach_pb2, _name)
    _class.__repr__ = _class.__str__ = _shown
