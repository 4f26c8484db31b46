//! TOML with positions: parsed, merged, and read key by key.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Fault, Position, Problem};

/// A value, and where it is.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    List(Vec<Node>),
    Table(Table),
    /// Of a type that no key has: floats and dates.
    Other,
}

pub(super) type Table = BTreeMap<String, Node>;

/// Parses one file.
pub(super) fn parse(file: &Path, text: &str) -> Result<Table, ConfigError> {
    let source = Source {
        file: file.into(),
        text,
    };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        at: source.position(error.span().map_or(0, |span| span.start)),
        message: error.message().replace('\n', ", "),
    })?;
    Ok(source.table(table.into_inner()))
}

struct Source<'a> {
    file: Arc<Path>,
    text: &'a str,
}

impl Source<'_> {
    fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position {
            file: Arc::clone(&self.file),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        table
            .into_iter()
            .map(|(key, value)| {
                // A key's own place: that of its value may be on another line.
                let at = self.position(key.span().start);
                let node = Node {
                    at,
                    value: self.value(value.into_inner()),
                };
                (key.into_inner().into_owned(), node)
            })
            .collect()
    }

    fn value(&self, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other, Value::Number),
            DeValue::Boolean(flag) => Value::Flag(flag),
            DeValue::Array(items) => {
                Value::List(items.into_iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Float(_) | DeValue::Datetime(_) => Value::Other,
        }
    }

    fn node(&self, value: Spanned<DeValue<'_>>) -> Node {
        Node {
            at: self.position(value.span().start),
            value: self.value(value.into_inner()),
        }
    }
}

/// Puts `over` on top of `under`: tables merge key by key, anything else replaces.
pub(super) fn merge(under: &mut Table, over: Table) {
    for (key, node) in over {
        match (under.get_mut(&key), node) {
            (
                Some(Node {
                    value: Value::Table(under),
                    ..
                }),
                Node {
                    value: Value::Table(over),
                    ..
                },
            ) => merge(under, over),
            (_, node) => {
                under.insert(key, node);
            }
        }
    }
}

/// Reads a table key by key: what was not read in the end is unknown, what was is what is known.
pub(super) struct Section {
    /// Where it is; `None`: it is not there.
    at: Option<Position>,
    path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    /// The document itself.
    pub(super) fn root(table: Table) -> Self {
        Self::new(None, String::new(), table)
    }

    fn new(at: Option<Position>, path: String, table: Table) -> Self {
        Self {
            at,
            path,
            table,
            known: Vec::new(),
        }
    }

    /// The full path of this table.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// The full path of a key.
    pub(super) fn key(&self, name: &str) -> String {
        // Server names hold dots: quoted as in TOML.
        let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let name = match !name.is_empty() && name.chars().all(bare) {
            true => name.to_owned(),
            false => format!("{name:?}"),
        };
        match self.path.as_str() {
            "" => name,
            path => format!("{path}.{name}"),
        }
    }

    /// A key's value, made by `make`; `None` where it is absent, or wrong and noted among the problems.
    pub(super) fn read<T>(
        &mut self,
        problems: &mut Vec<Problem>,
        key: &'static str,
        make: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Option<T> {
        let node = self.take(key)?;
        match make(&node.value) {
            Ok(value) => Some(value),
            Err(fault) => {
                problems.push(Problem {
                    at: node.at,
                    key: self.key(key),
                    fault,
                });
                None
            }
        }
    }

    /// As [`Self::read`], of a key that this table needs where it is there itself.
    pub(super) fn require<T>(
        &mut self,
        problems: &mut Vec<Problem>,
        key: &'static str,
        make: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Option<T> {
        if let Some(at) = self.at.clone().filter(|_| !self.table.contains_key(key)) {
            let key = self.key(key);
            let fault = Fault::Missing;
            problems.push(Problem { at, key, fault });
        }
        self.read(problems, key, make)
    }

    /// The table of that name; an empty one where it is absent, or wrong and noted among the problems.
    pub(super) fn section(&mut self, problems: &mut Vec<Problem>, key: &'static str) -> Self {
        let path = self.key(key);
        self.optional(problems, key)
            .unwrap_or_else(|| Self::new(None, path, Table::new()))
    }

    /// The table of that name; `None` where it is absent, or wrong and noted among the problems.
    pub(super) fn optional(
        &mut self,
        problems: &mut Vec<Problem>,
        key: &'static str,
    ) -> Option<Self> {
        let at = self.table.get(key).map(|node| node.at.clone());
        let table = self.read(problems, key, |value| match value {
            Value::Table(table) => Ok(table.clone()),
            _ => Err(Fault::Expected("a table")),
        });
        Some(Self::new(at, self.key(key), table?))
    }

    /// Every table in this one, by its name, where names are the deployer's.
    pub(super) fn sections(self, problems: &mut Vec<Problem>) -> Vec<(String, Position, Self)> {
        let mut sections = Vec::new();
        for (name, node) in &self.table {
            let path = self.key(name);
            match &node.value {
                Value::Table(table) => {
                    let section = Self::new(Some(node.at.clone()), path, table.clone());
                    sections.push((name.clone(), node.at.clone(), section));
                }
                _ => problems.push(Problem {
                    at: node.at.clone(),
                    key: path,
                    fault: Fault::Expected("a table"),
                }),
            }
        }
        sections
    }

    /// Every value in this table that `make` makes, by its name, where names are the deployer's, with its place and full
    /// path.
    pub(super) fn values<T>(
        self,
        problems: &mut Vec<Problem>,
        make: impl Fn(&Value) -> Result<T, Fault>,
    ) -> Vec<(String, Position, String, T)> {
        let mut values = Vec::new();
        for (name, node) in &self.table {
            let (at, key) = (node.at.clone(), self.key(name));
            match make(&node.value) {
                Ok(value) => values.push((name.clone(), at, key, value)),
                Err(fault) => problems.push(Problem { at, key, fault }),
            }
        }
        values
    }

    /// Notes what was not read.
    pub(super) fn finish(self, problems: &mut Vec<Problem>) {
        for (name, node) in &self.table {
            problems.push(Problem {
                at: node.at.clone(),
                key: self.key(name),
                fault: Fault::Unknown {
                    name: name.clone(),
                    known: self.known.clone(),
                },
            });
        }
    }
}
