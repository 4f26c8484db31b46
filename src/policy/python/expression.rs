//! Whether a text is a Python expression, and whether a literal one.
//!
//! Python tries the left side of a check as a literal first. Other expressions are then taken for a path through the
//! credentials, as `user.id` and even `user-id` are; what is no expression at all, such as `class` or `2x`, raises an
//! exception. So all of the expressions' grammar counts that fits in a check: it has no colon, so no lambda, slice or
//! dictionary with entries.

use super::Fault;
use super::literal::Literal;
use super::token::{Token, fault, tokens};

/// How deep an expression may be nested.
const MAX_DEPTH: usize = 50;

const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
    "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import",
    "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while",
    "with", "yield",
];

/// Binary operators; their precedence does not matter to whether a text is an expression, but for `not`.
const BINARY: [&str; 19] = [
    "+", "-", "*", "/", "//", "%", "@", "**", "&", "|", "^", "<<", ">>", "<", ">", "==", "!=",
    "<=", ">=",
];

/// An expression: a literal, or something else that Python would have to run.
pub(super) type Expression = Option<Literal>;

/// Reads `text` as one expression.
pub(super) fn parse(text: &str) -> Result<Expression, Fault> {
    let tokens = tokens(text)?;
    let mut parser = Parser {
        rest: &tokens,
        depth: 0,
    };
    let expression = parser.list("")?;
    match parser.rest {
        [] => Ok(expression.into_one()),
        _ => fault("there is more after the end of the expression"),
    }
}

/// What stands between brackets, or alone.
struct Elements {
    items: Vec<Expression>,
    comma: bool,
}

impl Elements {
    /// One without a comma is itself; else it is a tuple.
    fn into_one(self) -> Expression {
        match <[Expression; 1]>::try_from(self.items) {
            Ok([one]) if !self.comma => one,
            Ok([one]) => Literal::tuple(vec![one?]),
            Err(items) => Literal::tuple(items.into_iter().collect::<Option<_>>()?),
        }
    }
}

struct Parser<'a> {
    rest: &'a [Token<'a>],
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token<'a>> {
        self.rest.first()
    }

    fn next(&mut self) -> Option<&'a Token<'a>> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn take_op(&mut self, operator: &str) -> bool {
        let there = self.peek() == Some(&Token::Op(operator));
        self.rest = &self.rest[usize::from(there)..];
        there
    }

    fn take_word(&mut self, word: &str) -> bool {
        let there = self.peek() == Some(&Token::Word(word));
        self.rest = &self.rest[usize::from(there)..];
        there
    }

    /// Expressions parted by commas, up to and with the closing bracket; `""`: at least one, up to the end.
    fn list(&mut self, close: &str) -> Result<Elements, Fault> {
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            let ended = match close {
                "" => comma && self.rest.is_empty(),
                close => self.take_op(close),
            };
            if ended {
                return Ok(Elements { items, comma });
            }
            items.push(self.test()?);
            if self.take_op(",") {
                comma = true;
            } else if close.is_empty() || self.take_op(close) {
                return Ok(Elements { items, comma });
            } else {
                return fault("a comma or a closing bracket is missing");
            }
        }
    }

    /// `a if b else c`, and everything that binds tighter.
    fn test(&mut self) -> Result<Expression, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return fault(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        let mut expression = self.boolean()?;
        if self.take_word("if") {
            self.boolean()?;
            if !self.take_word("else") {
                return fault("an if without its else");
            }
            self.test()?;
            expression = None;
        }
        self.depth -= 1;
        Ok(expression)
    }

    /// `a and not b or c`
    fn boolean(&mut self) -> Result<Expression, Fault> {
        let mut whole = self.inverted()?;
        while self.take_word("and") || self.take_word("or") {
            self.inverted()?;
            whole = None;
        }
        Ok(whole)
    }

    /// `not a in b`
    fn inverted(&mut self) -> Result<Expression, Fault> {
        let mut inverted = false;
        while self.take_word("not") {
            inverted = true;
        }
        let comparison = self.operation()?;
        Ok(comparison.filter(|_| !inverted))
    }

    /// Operands and what joins them.
    fn operation(&mut self) -> Result<Expression, Fault> {
        let mut whole = self.operand()?;
        loop {
            let joined = match self.peek() {
                Some(Token::Op(operator)) if BINARY.contains(operator) => {
                    self.next();
                    true
                }
                Some(Token::Word("in")) => self.take_word("in"),
                Some(Token::Word("is")) => {
                    self.next();
                    self.take_word("not");
                    true
                }
                Some(Token::Word("not")) => {
                    self.next();
                    if !self.take_word("in") {
                        return fault("a not in the middle, without in");
                    }
                    true
                }
                _ => false,
            };
            if !joined {
                return Ok(whole);
            }
            self.operand()?;
            whole = None;
        }
    }

    /// `-a.b[c](d)`
    fn operand(&mut self) -> Result<Expression, Fault> {
        let mut signs = Vec::new();
        while let Some(Token::Op(sign @ ("+" | "-" | "~"))) = self.peek() {
            self.next();
            signs.push(*sign);
        }
        let mut set = self.peek() == Some(&Token::Word("set"));
        let mut operand = self.atom()?;
        loop {
            // `set()` is the one call that makes a literal.
            let of_set = std::mem::take(&mut set);
            let mut literal = None;
            if self.take_op(".") {
                match self.next() {
                    Some(Token::Word(word)) if !KEYWORDS.contains(word) => {}
                    _ => return fault("a name is missing after a dot"),
                }
            } else if self.take_op("(") {
                let empty = self.list(")")?.items.is_empty();
                literal = (of_set && empty).then(|| Literal::constant("set()"));
            } else if self.take_op("[") {
                if self.list("]")?.items.is_empty() {
                    return fault("an index is missing");
                }
            } else {
                break;
            }
            operand = literal;
        }
        match signs[..] {
            [] => Ok(operand),
            [sign] => Ok(operand.and_then(|literal| literal.signed(sign))),
            _ => Ok(None),
        }
    }

    fn atom(&mut self) -> Result<Expression, Fault> {
        match self.next() {
            Some(Token::Int(digits)) => Ok(Some(Literal::int(digits))),
            Some(Token::Float(number)) => Ok(Some(Literal::float(*number))),
            Some(Token::Text(text)) => {
                let mut text = text.clone();
                while let Some(Token::Text(more)) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Ok(Some(Literal::text(text)))
            }
            Some(Token::Op("...")) => Ok(Some(Literal::constant("Ellipsis"))),
            Some(Token::Word(word @ ("None" | "True" | "False"))) => {
                Ok(Some(Literal::constant(word)))
            }
            Some(Token::Word(word)) if !KEYWORDS.contains(word) => Ok(None),
            Some(Token::Op("(")) => Ok(self.list(")")?.into_one()),
            Some(Token::Op("[")) => {
                let items = self.list("]")?.items.into_iter();
                Ok(items.collect::<Option<_>>().and_then(Literal::list))
            }
            Some(Token::Op("{")) => match self.list("}")?.items[..] {
                [] => Ok(Some(Literal::constant("{}"))),
                _ => fault("sets are not read"),
            },
            Some(Token::Word(word)) => fault(format!("{word:?} is a word of Python's own")),
            Some(Token::Op(operator)) => fault(format!("{operator:?} has nothing to work on")),
            None => fault("it is empty, or ends in the middle"),
        }
    }
}
