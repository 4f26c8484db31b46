//! A small tree of XML elements: just what libvirt's documents need, read and written by quick-xml alone.
//!
//! libvirt's documents have no mixed content, no namespaces that matter and no entities but the predefined ones, so
//! an element is its name, attributes, children, and its text where it has no children.

use std::io;

use quick_xml::escape::{EscapeError, resolve_predefined_entity};
use quick_xml::events::{BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer, XmlVersion};

/// Deeper documents are refused: libvirt's own nest some eight levels.
const MAX_DEPTH: usize = 64;

/// Why a document cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// The document is not well-formed.
    #[error("the document is not well-formed XML")]
    Syntax(#[source] quick_xml::Error),
    /// Elements nest too deeply.
    #[error("the document nests more than {MAX_DEPTH} levels")]
    TooDeep,
    /// An element that is never closed, or nothing at all.
    #[error("the document ends early")]
    Incomplete,
    /// A character that XML 1.0 cannot carry, not even escaped (XML 1.0, production 2, "Char").
    #[error("{place} {value:?} holds {character:?}, which XML cannot carry")]
    Character {
        /// The element, and the attribute where it is one.
        place: String,
        /// The text, cut to 200 characters.
        value: String,
        /// The first such character.
        character: char,
    },
    /// Writing failed.
    #[error("the document cannot be written")]
    Write(#[source] io::Error),
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Element {
    /// Its name.
    pub(super) name: String,
    /// Its attributes, in order.
    pub(super) attributes: Vec<(String, String)>,
    /// Its children, in order.
    pub(super) children: Vec<Element>,
    /// Its text; empty where it has children.
    pub(super) text: String,
}

impl Element {
    /// An empty element.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// With one attribute more.
    pub(super) fn with(mut self, attribute: &str, value: impl ToString) -> Self {
        self.attributes
            .push((attribute.to_owned(), value.to_string()));
        self
    }

    /// With one attribute more, where there is a value.
    pub(super) fn with_some(self, attribute: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(attribute, value),
            None => self,
        }
    }

    /// With this text.
    pub(super) fn with_text(mut self, text: impl ToString) -> Self {
        self.text = text.to_string();
        self
    }

    /// With more children.
    pub(super) fn with_children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The attribute's value.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let mut found = self.attributes.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of that name.
    pub(super) fn children_named(&self, name: &str) -> impl Iterator<Item = &Self> {
        let name = name.to_owned();
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Writes the element and all beneath it, indented for people.
    pub(super) fn write(&self) -> Result<String, XmlError> {
        self.check_characters()?;
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        self.write_to(&mut writer).map_err(XmlError::Write)?;
        String::from_utf8(writer.into_inner()).map_err(|e| XmlError::Write(io::Error::other(e)))
    }

    fn write_to(&self, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
        let attributes = self.attributes.iter();
        let element = writer
            .create_element(self.name.as_str())
            .with_attributes(attributes.map(|(key, value)| (key.as_str(), value.as_str())));
        if !self.children.is_empty() {
            element.write_inner_content(|inner| {
                self.children
                    .iter()
                    .try_for_each(|child| child.write_to(inner))
            })?;
        } else if self.text.is_empty() {
            element.write_empty()?;
        } else {
            element.write_text_content(BytesText::new(&self.text))?;
        }
        Ok(())
    }

    fn check_characters(&self) -> Result<(), XmlError> {
        check(&self.text, || self.name.clone())?;
        for (key, value) in &self.attributes {
            check(value, || format!("{} {key}", self.name))?;
        }
        self.children.iter().try_for_each(Self::check_characters)
    }

    /// Reads a document: its root element.
    pub(super) fn read(document: &str) -> Result<Self, XmlError> {
        let mut reader = Reader::from_str(document);
        let mut open: Vec<Self> = Vec::new();
        loop {
            let closed = match reader.read_event().map_err(XmlError::Syntax)? {
                Event::Start(start) => {
                    if open.len() >= MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    open.push(Self::open(&start)?);
                    None
                }
                Event::Empty(start) => Some(Self::open(&start)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    push_text(&mut open, &text.xml10_content());
                    None
                }
                Event::CData(text) => {
                    push_text(&mut open, &text.xml10_content());
                    None
                }
                Event::GeneralRef(reference) => {
                    let character = reference.resolve_char_ref().map_err(XmlError::Syntax)?;
                    match character {
                        Some(character) => push_text(&mut open, character.encode_utf8(&mut [0; 4])),
                        None => push_text(&mut open, predefined(&reference.xml10_content())?),
                    }
                    None
                }
                Event::Eof => return Err(XmlError::Incomplete),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => None,
            };
            if let Some(closed) = closed {
                match open.last_mut() {
                    Some(parent) => parent.adopt(closed),
                    None => return Ok(closed),
                }
            }
        }
    }

    fn open(start: &BytesStart<'_>) -> Result<Self, XmlError> {
        let mut element = Self::new(start.name().as_ref());
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|e| XmlError::Syntax(e.into()))?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(XmlError::Syntax)?;
            element = element.with(attribute.key.as_ref(), value);
        }
        Ok(element)
    }

    /// Takes a child in; what text stood around it is indentation.
    fn adopt(&mut self, child: Self) {
        self.text.clear();
        self.children.push(child);
    }
}

fn push_text(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut()
        && element.children.is_empty()
    {
        element.text.push_str(text);
    }
}

fn predefined(entity: &str) -> Result<&'static str, XmlError> {
    resolve_predefined_entity(entity).ok_or_else(|| {
        XmlError::Syntax(EscapeError::UnrecognizedEntity(0..0, entity.to_owned()).into())
    })
}

fn check(value: &str, place: impl Fn() -> String) -> Result<(), XmlError> {
    match value.chars().find(|c| !is_xml_char(*c)) {
        None => Ok(()),
        Some(character) => Err(XmlError::Character {
            place: place(),
            value: value.chars().take(200).collect(),
            character,
        }),
    }
}

/// XML 1.0, production 2. Surrogates are no `char`.
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Any text that XML can carry, rich in what needs escaping.
    pub(crate) fn xml_text() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            prop::sample::select(vec![
                '<', '>', '&', '"', '\'', '\t', '\n', '\r', ' ', ']', ';'
            ]),
            any::<char>().prop_filter("XML cannot carry it", |c| is_xml_char(*c)),
        ];
        vec(character, 0..20).prop_map(|characters| characters.into_iter().collect())
    }

    fn element() -> impl Strategy<Value = Element> {
        let leaf =
            ("[a-z]{1,5}", vec(xml_text(), 0..4), xml_text()).prop_map(|(name, values, text)| {
                let mut element = Element::new(&name).with_text(text);
                for (n, value) in values.into_iter().enumerate() {
                    element = element.with(&format!("a{n}"), value);
                }
                element
            });
        leaf.prop_recursive(4, 20, 4, |inner| {
            vec(inner, 1..4).prop_map(|children| Element::new("parent").with_children(children))
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(element in element()) {
            let written = element.write().unwrap();
            prop_assert_eq!(Element::read(&written).unwrap(), element);
        }

        #[test]
        fn reading_never_panics(document in ".{0,200}", tags in "(</?[ab]( c='[&;#x0-9a]*')?/?>|&[a-z#0-9]{0,4};|<!\\[CDATA\\[|\\]\\]>|<!--|<\\?){0,30}") {
            let _ = Element::read(&document);
            let _ = Element::read(&tags);
        }
    }

    #[test]
    fn characters_that_xml_cannot_carry_are_refused() {
        for bad in ['\0', '\u{1}', '\u{1f}', '\u{fffe}', '\u{ffff}'] {
            let text = format!("a{bad}");
            let error = Element::new("x").with("y", &text).write().unwrap_err();
            assert!(error.to_string().starts_with("x y \"a"), "{error}");
            assert!(Element::new("x").with_text(&text).write().is_err());
        }
    }

    #[test]
    fn bad_documents_are_errors() {
        for bad in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "<a b=c/>",
            "<a b='1' b='2'/>",
            "</a>",
        ] {
            assert!(Element::read(bad).is_err(), "{bad}");
        }
        let deep = "<a>".repeat(100_000);
        assert!(matches!(Element::read(&deep), Err(XmlError::TooDeep)));
    }
}
