//! Every string field of every request, found in the compiled descriptor: one that is added later is tried without a word here.

use anyhow::{Context, Result};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    Value,
};
use volattach::api::v1;

/// A request with a hostile text in one field, and what is valid in all others.
pub(crate) struct Case {
    /// `/volattach.v1.VolumeAttach/AttachVolume`
    pub(crate) method: String,
    /// Whether it is answered by a stream.
    pub(crate) streams: bool,
    /// `connection_info.smb.export`
    pub(crate) field: String,
    /// On the wire.
    pub(crate) message: Vec<u8>,
}

impl Case {
    /// The same with bytes that are no UTF-8 in the place of a text of ASCII.
    pub(crate) fn broken(mut self, text: &str) -> Result<Self> {
        let at = self
            .message
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        let at = at.context("the text is not in the message")?;
        self.message[at..at + text.len()].fill(0xff);
        Ok(self)
    }
}

/// What is valid in a field, by its message and name, as in `SmbVolume.export`; `None`: nothing is, too.
pub(crate) type Valid<'a> = dyn Fn(&str) -> Option<Value> + 'a;

/// The requests with this text, one for each string field of each method's.
pub(crate) fn cases(text: &str, valid: &Valid<'_>) -> Result<Vec<Case>> {
    let pool = DescriptorPool::decode(v1::FILE_DESCRIPTOR_SET)?;
    let service = pool
        .get_service_by_name("volattach.v1.VolumeAttach")
        .context("no such service")?;
    let mut cases = Vec::new();
    for method in service.methods() {
        for path in strings_of(&method.input()) {
            let field: Vec<&str> = path.iter().map(FieldDescriptor::name).collect();
            let message = message(&method.input(), &path, text, valid);
            cases.push(Case {
                method: path_of(&method),
                streams: method.is_server_streaming(),
                field: field.join("."),
                message: message.encode_to_vec(),
            });
        }
    }
    Ok(cases)
}

fn path_of(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The ways to each string in a message.
fn strings_of(message: &MessageDescriptor) -> Vec<Vec<FieldDescriptor>> {
    let mut found = Vec::new();
    for field in message.fields() {
        match field.kind() {
            Kind::String => found.push(vec![field]),
            Kind::Message(inner) => {
                for mut path in strings_of(&inner) {
                    path.insert(0, field.clone());
                    found.push(path);
                }
            }
            _ => {}
        }
    }
    found
}

fn message(
    of: &MessageDescriptor,
    path: &[FieldDescriptor],
    text: &str,
    valid: &Valid<'_>,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    let on_path = path.first();
    for field in of.fields() {
        // Of several forms the one that is tried, or else the first.
        let others = field.containing_oneof().is_some_and(|oneof| match on_path {
            Some(on_path) if on_path.containing_oneof().as_ref() == Some(&oneof) => {
                *on_path != field
            }
            _ => oneof.fields().next().as_ref() != Some(&field),
        });
        if others {
            continue;
        }
        let rest = path.get(1..).filter(|_| on_path == Some(&field));
        let value = match (field.kind(), rest) {
            (Kind::String, Some(_)) => Some(Value::String(text.to_owned())),
            (Kind::Message(inner), rest) => {
                let inner = self::message(&inner, rest.unwrap_or_default(), text, valid);
                Some(Value::Message(inner))
            }
            _ => valid(&format!("{}.{}", of.name(), field.name())),
        };
        if let Some(value) = value {
            let value = if field.is_list() {
                Value::List(vec![value])
            } else {
                value
            };
            message.set_field(&field, value);
        }
    }
    message
}
