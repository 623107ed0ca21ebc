//! IBANs and national identity numbers with letters in them.

use super::{Find, Kind, checks};

/// Characters of the longest of them.
const LONGEST: usize = 34;

/// At each place where a word begins, the letters and digits that follow, whatever single separators stand between.
struct Compact {
    text: String,
    /// Where each character ends.
    ends: Vec<usize>,
}

impl Compact {
    fn at(text: &str, start: usize) -> Self {
        let mut compact = Self { text: String::with_capacity(LONGEST), ends: Vec::with_capacity(LONGEST) };
        let mut separated = true;
        for (at, c) in text.get(start..).unwrap_or_default().char_indices() {
            if c.is_ascii_alphanumeric() {
                compact.text.push(c);
                compact.ends.push(start + at + 1);
                separated = false;
            } else if !separated && matches!(c, ' ' | '-' | '.' | '/' | '\u{a0}') {
                separated = true;
            } else {
                break;
            }
            if compact.ends.len() == LONGEST {
                break;
            }
        }
        compact
    }

    /// Where the first `count` characters end, where no word goes on behind them and they pass a check.
    fn valid(&self, text: &str, count: usize, check: impl Fn(&str) -> bool) -> Option<usize> {
        let end = *self.ends.get(count.checked_sub(1)?)?;
        let next = text.get(end..)?.chars().next();
        let whole = !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        (whole && self.text.get(..count).is_some_and(check)).then_some(end)
    }

    /// Whether the place before character `at` holds a separator other than a hyphen.
    fn spaced(&self, text: &str, at: usize) -> bool {
        let (Some(before), Some(end)) = (at.checked_sub(1).and_then(|at| self.ends.get(at)), self.ends.get(at)) else {
            return false;
        };
        text.get(*before..end - 1).is_some_and(|gap| !matches!(gap, "" | "-"))
    }
}

/// Bytes that such a number takes at most: each character, and a separator of two bytes behind it.
const REACH: usize = 3 * LONGEST;

pub(super) fn ids(text: &str, found: &mut Vec<Find>) {
    let next_digit = |from: usize| {
        let rest = text.as_bytes().get(from..)?;
        rest.iter().position(u8::is_ascii_digit).map(|at| from + at)
    };
    let (mut done, mut before, mut digit) = (0, ' ', next_digit(0));
    for (start, c) in text.char_indices() {
        let begins = c.is_ascii_alphanumeric() && !(before.is_ascii_alphanumeric() || before == '_');
        before = c;
        if !begins || start < done {
            continue;
        }
        // All of them hold digits, and most words have none near.
        if digit.is_some_and(|at| at < start) {
            digit = next_digit(start);
        }
        match digit {
            None => return,
            Some(at) if at >= start + REACH => continue,
            Some(_) => {}
        }
        if let Some((kind, end)) = id(text, start) {
            found.push(Find { kind, start, end });
            done = end;
        }
    }
}

fn id(text: &str, start: usize) -> Option<(Kind, usize)> {
    let compact = Compact::at(text, start);
    let class = |byte: &u8| if byte.is_ascii_digit() { '9' } else { 'A' };
    let shape: String = compact.text.as_bytes().iter().take(9).map(class).collect();
    let national =
        |count: usize, check: fn(&str) -> bool| compact.valid(text, count, check).map(|end| (Kind::NationalId, end));
    match shape.as_bytes() {
        [b'A', b'A', b'9', b'9', ..] => {
            let iban = || {
                let length = checks::iban_length(compact.text.get(..2)?)?;
                // Words of a sentence can pass by chance; they hold few digits.
                let numeric = |iban: &str| digits(iban) * 2 >= length && checks::iban(iban);
                compact.valid(text, length, numeric).map(|end| (Kind::Iban, end))
            };
            iban().or_else(|| national(9, checks::nino))
        }
        [b'A', b'A', b'A', b'A', b'A', b'A', ..] => {
            national(16, |code| digits(code) >= 3 && checks::codice_fiscale(code))
        }
        [b'A' | b'9', b'9', b'9', b'9', b'9', b'9', b'9', b'9', b'A'] => {
            // A word of one letter behind a number is no check letter.
            let last = compact.text.as_bytes().get(8).is_some_and(u8::is_ascii_uppercase);
            (last || !compact.spaced(text, 8)).then(|| national(9, checks::dni)).flatten()
        }
        [b'9', b'9', b'9', b'9', b'9', b'9', b'A', ..] => national(15, checks::nir),
        _ => None,
    }
}

fn digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}
