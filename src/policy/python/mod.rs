//! What the rule language takes from Python: how values are written, `%`-formatting, and literals.
//!
//! The language compares strings that Python made. So what a value looks like in Python decides who is let in, and is
//! reproduced here to the letter; where Python raises an exception, there is a [`Fault`].

mod expression;
mod format;
mod literal;
mod number;
mod token;
mod value;

pub(super) use format::{FormatError, format, keys};
pub(super) use literal::literal;
pub use value::{Attributes, Value};

/// Why something cannot be evaluated: where Python would raise an exception.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);
