//! The rule language, read as oslo.policy reads it: a rule that it cannot parse denies.

use super::check::Check;

/// How deep a rule may be nested: evaluation recurses.
const MAX_DEPTH: usize = 200;

/// What a file has for a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RuleText {
    /// `role:member and project_id:%(project_id)s`
    Text(String),
    /// The older form, a list of checks or lists of checks: one of the outer ones, all of the inner ones.
    List(Vec<Item>),
}

/// An element of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// One check.
    One(String),
    /// Checks that must all hold.
    All(Vec<String>),
}

/// Reads a rule.
pub(super) fn parse(rule: &RuleText) -> Check {
    match rule {
        RuleText::Text(text) => parse_text(text),
        RuleText::List(items) => parse_list(items),
    }
}

/// Reads a rule in the language.
pub(super) fn parse_text(text: &str) -> Check {
    if text.is_empty() {
        return Check::Always;
    }
    let mut stack = Stack::default();
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if let Err(why) = stack.shift_word(word) {
            return Check::Unparsable(why);
        }
    }
    stack.into_result().unwrap_or_else(Check::Unparsable)
}

/// What Python's `\s` matches: the white space of Unicode, and four control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn parse_list(items: &[Item]) -> Check {
    if items.is_empty() {
        return Check::Always;
    }
    let mut any = Vec::new();
    for item in items {
        match item {
            Item::One(text) if text.is_empty() => {}
            Item::One(text) => any.push(Check::leaf(text)),
            Item::All(texts) if texts.is_empty() => {}
            Item::All(texts) => any.push(one_or(
                texts.iter().map(|text| Check::leaf(text)).collect(),
                Check::And,
            )),
        }
    }
    match any.is_empty() {
        true => Check::Never,
        false => one_or(any, Check::Or),
    }
}

/// The only one of the parts, or what joins them.
fn one_or(parts: Vec<Check>, join: fn(Vec<Check>) -> Check) -> Check {
    match <[Check; 1]>::try_from(parts) {
        Ok([one]) => one,
        Err(parts) => join(parts),
    }
}

/// A token, or what tokens were reduced to.
enum Symbol {
    Open,
    Close,
    And,
    Or,
    Not,
    /// A check that is complete: a leaf, in parentheses, or negated.
    Check(Check),
    /// `a and b`, which may go on.
    AndChain(Vec<Check>),
    /// `a or b`, which may go on; another `and` binds to its last part.
    OrChain(Vec<Check>),
}

/// Reduces from the right as soon as it can. There is nothing to recurse into, so depth costs no stack.
#[derive(Default)]
struct Stack(Vec<Symbol>);

impl Stack {
    fn shift_word(&mut self, word: &str) -> Result<(), &'static str> {
        let inner = word.trim_start_matches('(');
        for _ in inner.len()..word.len() {
            self.shift(Symbol::Open)?;
        }
        let bare = inner.trim_end_matches(')');
        let quoted = |mark| inner.len() >= 2 && inner.starts_with(mark) && inner.ends_with(mark);
        if bare.eq_ignore_ascii_case("and") {
            self.shift(Symbol::And)?;
        } else if bare.eq_ignore_ascii_case("or") {
            self.shift(Symbol::Or)?;
        } else if bare.eq_ignore_ascii_case("not") {
            self.shift(Symbol::Not)?;
        } else if quoted('"') || quoted('\'') {
            return Err("a word in quotes is no check");
        } else if !bare.is_empty() {
            self.shift(Symbol::Check(Check::leaf(bare)))?;
        }
        for _ in bare.len()..inner.len() {
            self.shift(Symbol::Close)?;
        }
        Ok(())
    }

    fn shift(&mut self, symbol: Symbol) -> Result<(), &'static str> {
        self.0.push(symbol);
        while self.reduce()? {}
        Ok(())
    }

    /// Takes the last symbols off and puts what they make in their place; false: nothing yet.
    fn reduce(&mut self) -> Result<bool, &'static str> {
        let made = match &mut self.0[..] {
            [
                ..,
                Symbol::Open,
                Symbol::Check(_) | Symbol::AndChain(_) | Symbol::OrChain(_),
                Symbol::Close,
            ] => {
                self.0.pop();
                let inner = self.0.pop();
                self.0.pop();
                inner.and_then(Symbol::into_check).map(Symbol::Check)
            }
            [
                ..,
                Symbol::Check(_) | Symbol::AndChain(_) | Symbol::OrChain(_),
                Symbol::And | Symbol::Or,
                Symbol::Check(_),
            ] => {
                let right = self.0.pop().and_then(Symbol::into_check);
                let operator = self.0.pop();
                let left = self.0.pop();
                match (left, operator, right) {
                    (Some(left), Some(operator), Some(right)) => left.join(&operator, right),
                    _ => None,
                }
            }
            [.., Symbol::Not, Symbol::Check(_)] => {
                let inner = self.0.pop().and_then(Symbol::into_check);
                self.0.pop();
                inner.map(|inner| Symbol::Check(Check::Not(Box::new(inner))))
            }
            _ => return Ok(false),
        };
        if let Some(Symbol::Check(check)) = &made
            && check.depth() > MAX_DEPTH
        {
            return Err("it is nested too deep");
        }
        self.0.extend(made);
        Ok(true)
    }

    fn into_result(self) -> Result<Check, &'static str> {
        let mut symbols = self.0.into_iter();
        match (symbols.next(), symbols.next()) {
            (None, _) => Err("there is nothing but white space; an empty rule allows, ! denies"),
            (Some(only), None) => only
                .into_check()
                .ok_or("it is an operator or a parenthesis alone"),
            _ => Err("operators, checks and parentheses do not fit together"),
        }
    }
}

impl Symbol {
    fn into_check(self) -> Option<Check> {
        match self {
            Self::Check(check) => Some(check),
            Self::AndChain(parts) => Some(Check::And(parts)),
            Self::OrChain(parts) => Some(Check::Or(parts)),
            Self::Open | Self::Close | Self::And | Self::Or | Self::Not => None,
        }
    }

    fn join(self, operator: &Self, right: Check) -> Option<Self> {
        let is_and = matches!(operator, Self::And);
        match (self, is_and) {
            (Self::AndChain(mut parts), true) => {
                parts.push(right);
                Some(Self::AndChain(parts))
            }
            (Self::OrChain(mut parts), true) => {
                let last = match parts.pop()? {
                    Check::And(mut inner) => {
                        inner.push(right);
                        inner
                    }
                    other => vec![other, right],
                };
                parts.push(Check::And(last));
                Some(Self::OrChain(parts))
            }
            (Self::OrChain(mut parts), false) => {
                parts.push(right);
                Some(Self::OrChain(parts))
            }
            (left, true) => Some(Self::AndChain(vec![left.into_check()?, right])),
            (left, false) => Some(Self::OrChain(vec![left.into_check()?, right])),
        }
    }
}
