//! Redaction: what could name a person is replaced by a typed placeholder before a text leaves the device.
//!
//! Hand-written scanners instead of regular expressions: they are a few KB of wasm, and each is linear in the text
//! whatever the text holds. They run one after the other, each on the text with a barrier for what was found so far, and
//! again until nothing is found (a replacement can bare a new boundary).
//!
//! Placeholders are numbered within a text: the first e-mail address is `[EMAIL]`, the next other one `[EMAIL2]`, and
//! whoever reads the text still sees who is who.

mod addresses;
mod checks;
mod context;
mod ids;
mod keys;
mod long;
mod mask;
mod names;
mod national;
mod network;
mod numbers;
mod phone;
mod stays;
mod urls;

#[cfg(test)]
mod tests;

use mask::{Masked, Taken};
use names::Names;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A telephone number.
    Phone,
    /// A URL with credentials: a user, or a token-like parameter.
    Url,
    /// An @handle.
    Handle,
    /// A card number (13 to 19 digits that pass the Luhn check).
    Card,
    /// A bank account's IBAN.
    Iban,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A device's MAC address.
    Mac,
    /// A number that a state gave to a person.
    NationalId,
    /// An API key or something that looks like one: a token, a UUID, a long hexadecimal number, a wallet.
    Key,
    /// Nine or more digits that are none of the others: an account, a customer, a parcel.
    Digits,
    /// A name from the list that the caller gave.
    Name,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Email,
        Self::Phone,
        Self::Url,
        Self::Handle,
        Self::Card,
        Self::Iban,
        Self::Ip,
        Self::Mac,
        Self::NationalId,
        Self::Key,
        Self::Digits,
        Self::Name,
    ];

    /// The word in its placeholders.
    pub fn word(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Phone => "PHONE",
            Self::Url => "URL",
            Self::Handle => "HANDLE",
            Self::Card => "CARD",
            Self::Iban => "IBAN",
            Self::Ip => "IP",
            Self::Mac => "MAC",
            Self::NationalId => "ID",
            Self::Key => "KEY",
            Self::Digits => "NUMBER",
            Self::Name => "NAME",
        }
    }

    /// What stands in the text instead of the first datum of the kind, such as `[EMAIL]`, the second, `[EMAIL2]`, and on.
    pub fn placeholder(self, number: usize) -> String {
        match number {
            0 | 1 => format!("[{}]", self.word()),
            _ => format!("[{}{number}]", self.word()),
        }
    }

    /// Whether separators make no difference between two data.
    fn is_a_number(self) -> bool {
        matches!(self, Self::Phone | Self::Card | Self::Iban | Self::Mac | Self::NationalId | Self::Digits)
    }

    /// The same for the same datum, however it is written.
    fn datum(self, written: &str) -> String {
        let lower = written.to_lowercase();
        match self.is_a_number() {
            true => lower.chars().filter(|c| c.is_alphanumeric()).collect(),
            false => lower,
        }
    }
}

/// Where something was replaced: a byte range of the original text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What stood there.
    pub kind: Kind,
    /// The first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What stands there now.
    pub placeholder: String,
}

/// A text that may leave the device. Only a [`Redactor`] makes one. It knows the original, so it is never serialised:
/// what is sent is its [`text`](Redacted::text).
#[derive(Clone, PartialEq, Eq)]
pub struct Redacted {
    original: String,
    text: String,
    spans: Vec<Span>,
}

/// Without the original: what is printed may end in a log.
impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Redacted").field(&self.text).finish()
    }
}

impl Redacted {
    /// The text with its placeholders.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What was replaced, in the order of the original text.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// What a span stands for.
    pub fn original(&self, span: &Span) -> &str {
        self.original.get(span.start..span.end).unwrap_or_default()
    }

    /// What each placeholder stands for, as it was written first. It stays on the device.
    pub fn originals(&self) -> BTreeMap<&str, &str> {
        let mut map = BTreeMap::new();
        for span in &self.spans {
            map.entry(span.placeholder.as_str()).or_insert_with(|| self.original(span));
        }
        map
    }

    /// How often each kind was replaced.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for span in &self.spans {
            *counts.entry(span.kind).or_default() += 1;
        }
        counts
    }
}

/// Something found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Find {
    kind: Kind,
    start: usize,
    end: usize,
}

/// More passes than any text of people needs; the bound keeps hostile ones linear.
const PASSES: usize = 8;

/// Finders in the order in which they are asked: the surest first, and those that would cut others up last.
const FINDERS: [fn(&str, &mut Vec<Find>); 8] = [
    urls::urls,
    addresses::addresses,
    addresses::spelled,
    keys::keys,
    ids::ids,
    network::network,
    keys::random,
    numbers::numbers,
];

/// Redacts texts. What it knows besides the formats are names.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    names: Names,
}

impl Redactor {
    /// A redactor that replaces these names too: whole words, in any case.
    pub fn new(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self { names: Names::new(names) }
    }

    /// Replaces what could name a person by placeholders. Redacting the result again changes nothing.
    pub fn redact(&self, text: &str) -> Redacted {
        let mut taken = mask::placeholders(text);
        let before: Vec<Taken> = taken.clone();
        let mut masked = Masked::new(text, &taken);
        let mut found = Vec::new();
        for _ in 0..PASSES {
            let mut changed = false;
            for finder in 0..=FINDERS.len() {
                match FINDERS.get(finder) {
                    Some(find) => find(masked.text(), &mut found),
                    None => self.names.find(masked.text(), &mut found),
                }
                if !found.is_empty() {
                    changed = true;
                    taken = masked.absorb(&taken, &mut found);
                    masked = Masked::new(text, &taken);
                    found.clear();
                }
            }
            if !changed {
                break;
            }
        }
        render(text, &taken, &before)
    }
}

/// Redacts a text by a redactor that knows no names.
pub fn redact(text: &str) -> Redacted {
    Redactor::default().redact(text)
}

/// The text with numbered placeholders. Numbers go on behind those that stood in the text `before`.
fn render(text: &str, taken: &[Taken], before: &[Taken]) -> Redacted {
    let mut last: HashMap<Kind, usize> = HashMap::new();
    for placeholder in before {
        let highest = last.entry(placeholder.kind).or_default();
        *highest = placeholder.number.unwrap_or_default().max(*highest);
    }
    let mut known: HashMap<(Kind, String), usize> = HashMap::new();
    let mut out = String::with_capacity(text.len());
    let (mut spans, mut from) = (Vec::new(), 0);
    for &Taken { kind, start, end, number } in taken {
        // A placeholder that stood there before stays as it is.
        if number.is_some() {
            continue;
        }
        out.push_str(text.get(from..start).unwrap_or_default());
        let written = text.get(start..end).unwrap_or_default();
        let number = *known.entry((kind, kind.datum(written))).or_insert_with(|| {
            let last = last.entry(kind).or_default();
            *last += 1;
            *last
        });
        let placeholder = kind.placeholder(number);
        out.push_str(&placeholder);
        spans.push(Span { kind, start, end, placeholder });
        from = end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    Redacted { original: text.to_owned(), text: out, spans }
}
