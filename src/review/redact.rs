//! Redaction: what could name a person is replaced by a typed placeholder before a text leaves the device.
//!
//! A hand-written scanner instead of regular expressions: it is a few KB of wasm, and every pass is linear in the text
//! whatever the text holds. Passes repeat (a replacement can bare a new boundary) until nothing is found.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
}

impl Kind {
    /// What stands in the text instead, such as `[EMAIL]`.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Email => "[EMAIL]",
            Self::Phone => "[PHONE]",
            Self::Url => "[URL]",
            Self::Handle => "[HANDLE]",
            Self::Card => "[CARD]",
        }
    }
}

/// Where something was replaced: a byte range of the original text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// What stood there.
    pub kind: Kind,
    /// The first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// A text that may leave the device. Only [`redact`] makes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Redacted {
    text: String,
    spans: Vec<Span>,
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

    /// How often each kind was replaced.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for span in &self.spans {
            *counts.entry(span.kind).or_default() += 1;
        }
        counts
    }
}

/// More passes than any text of people needs; the bound keeps hostile ones linear.
const PASSES: usize = 8;

/// Replaces e-mail addresses, telephone and card numbers, URLs with credentials and @handles by placeholders.
/// Redacting the result again changes nothing.
pub fn redact(text: &str) -> Redacted {
    let mut done = Redacted { text: text.to_owned(), spans: Vec::new() };
    for _ in 0..PASSES {
        let mut changed = false;
        for find in [urls as fn(&str, &mut Vec<Span>), addresses, numbers] {
            let mut found = Vec::new();
            find(&done.text, &mut found);
            changed |= !found.is_empty();
            done.spans = absorb(&done.spans, found);
            done.text = render(text, &done.spans);
        }
        if !changed {
            break;
        }
    }
    done
}

/// The text with a placeholder for each span.
fn render(text: &str, spans: &[Span]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for span in spans {
        out.push_str(text.get(from..span.start).unwrap_or_default());
        out.push_str(span.kind.placeholder());
        from = span.end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

/// Adds what was found in the rendered text to the spans of the original one; a find that reaches into a placeholder
/// takes its span in. Both lists are in order.
fn absorb(spans: &[Span], mut found: Vec<Span>) -> Vec<Span> {
    found.sort_by_key(|span| span.start);
    let mut all: Vec<Span> = Vec::with_capacity(spans.len() + found.len());
    let mut old = spans.iter().peekable();
    // How far the rendered text is ahead of the original one, behind the spans passed so far.
    let (mut original, mut rendered) = (0, 0);
    let pass = |span: &Span, original: &mut usize, rendered: &mut usize| {
        *rendered += span.start - *original + span.kind.placeholder().len();
        *original = span.end;
    };
    for find in found {
        while let Some(span) =
            old.next_if(|span| rendered + (span.start - original) + span.kind.placeholder().len() <= find.start)
        {
            pass(span, &mut original, &mut rendered);
            all.push(span.clone());
        }
        let mut start = original + (find.start - rendered);
        let mut end = None;
        while let Some(span) = old.next_if(|span| rendered + (span.start - original) < find.end) {
            start = start.min(span.start);
            pass(span, &mut original, &mut rendered);
            end = (rendered >= find.end).then_some(span.end);
        }
        let end = end.unwrap_or_else(|| original + find.end.saturating_sub(rendered));
        all.push(Span { kind: find.kind, start, end });
    }
    all.extend(old.cloned());
    all
}

// ---- URLs ----

const SECRETS: [&str; 20] = [
    "key",
    "apikey",
    "token",
    "auth",
    "authorization",
    "password",
    "passwd",
    "pwd",
    "pass",
    "secret",
    "sig",
    "signature",
    "session",
    "sessionid",
    "sid",
    "code",
    "jwt",
    "credential",
    "otp",
    "hash",
];

/// One look at each whitespace-delimited run that holds a URL.
fn urls(text: &str, found: &mut Vec<Span>) {
    let mut from = 0;
    while let Some(rest) = text.get(from..) {
        let Some(begin) = rest.find(|c: char| !ends_url(c)) else { break };
        let begin = from + begin;
        let Some(run) = text.get(begin..) else { break };
        let end = begin + run.find(ends_url).unwrap_or(run.len());
        if let Some((start, end)) = text.get(begin..end).and_then(secret_url) {
            found.push(Span { kind: Kind::Url, start: begin + start, end: begin + end });
        }
        from = end;
    }
}

fn ends_url(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"')
}

/// The range of the URL in a run without whitespace, where it carries credentials.
fn secret_url(run: &str) -> Option<(usize, usize)> {
    let scheme = run.find("://").map(|at| {
        let word = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-'));
        run.get(..at)
            .and_then(|head| head.rfind(word).map(|p| p + head[p..].chars().next().map_or(1, char::len_utf8)))
            .unwrap_or(0)
    });
    let start = scheme.or_else(|| run.to_ascii_lowercase().find("www."))?;
    let url = run.get(start..)?;
    let user = url.split("://").skip(1).any(|after| {
        let authority = after.split(['/', '?', '#', '\\']).next().unwrap_or_default();
        authority.find('@').is_some_and(|at| at > 0)
    });
    let mut pairs = url.split(['?', '&', '#', ';']).skip(1);
    if !user && !pairs.any(secret_pair) {
        return None;
    }
    let end = url.trim_end_matches(['.', ',', '!', '?', ')', ']', '}', '\'', ':', ';']).len();
    Some((start, start + end))
}

/// `name=value` where the name or the look of the value says that it is a credential.
fn secret_pair(pair: &str) -> bool {
    let Some((name, value)) = pair.split_once('=') else { return false };
    if value.is_empty() {
        return false;
    }
    let name = name.to_ascii_lowercase();
    let whole: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    if SECRETS.contains(&whole.as_str()) || name.split(['_', '-', '.', '[', ']']).any(|part| SECRETS.contains(&part)) {
        return true;
    }
    let core: Vec<u8> = value.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"_-.~%+/".contains(b)).collect();
    core.len() >= 24 && core.iter().any(u8::is_ascii_digit) && core.iter().any(u8::is_ascii_alphabetic)
}

// ---- e-mail addresses and handles ----

/// Each '@': to its left the local part, to its right the domain. Neither holds an '@', so that no byte is looked at
/// more than twice.
fn addresses(text: &str, found: &mut Vec<Span>) {
    let mut done = 0;
    for (at, _) in text.match_indices(['@', '\u{ff20}']) {
        if at < done {
            continue;
        }
        let width = text.get(at..).and_then(|s| s.chars().next()).map_or(1, char::len_utf8);
        let right = text.get(at + width..).unwrap_or_default();
        let left = text.get(done..at).unwrap_or_default();
        let local = left.len() - left.trim_end_matches(local_char).len();
        let domain = right.len() - right.trim_start_matches(domain_char).len();
        let domain = right.get(..domain).unwrap_or_default().trim_end_matches(['.', '-']);
        if local > 0 && has_top_level(domain) {
            let mut start = at - local;
            // A federated handle, @user@host.tld, goes as a whole.
            if start > done && text.get(..start).is_some_and(|head| head.ends_with('@')) {
                start -= 1;
            }
            done = at + width + domain.len();
            found.push(Span { kind: Kind::Email, start, end: done });
            continue;
        }
        if let Some(name) = handle(right) {
            // The '@' of a federated handle is dealt with at its second '@'.
            let after = right.get(name..).unwrap_or_default();
            if after.strip_prefix('@').is_some_and(|host| {
                let run = host.len() - host.trim_start_matches(domain_char).len();
                has_top_level(host.get(..run).unwrap_or_default())
            }) {
                let host = after.get(1..).unwrap_or_default();
                let run = host.len() - host.trim_start_matches(domain_char).len();
                let run = host.get(..run).unwrap_or_default().trim_end_matches(['.', '-']).len();
                done = at + width + name + 1 + run;
            } else {
                done = at + width + name;
            }
            found.push(Span { kind: Kind::Handle, start: at, end: done });
        }
    }
}

fn local_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-' | '\'')
}

fn domain_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// Whether a dot is followed by at least two letters.
fn has_top_level(domain: &str) -> bool {
    domain.split('.').skip(1).any(|part| part.chars().take_while(|c| c.is_alphabetic()).take(2).count() == 2)
}

/// The bytes of a handle's name: letters, digits, underscores, and dots and hyphens between them; none where there is no letter.
fn handle(right: &str) -> Option<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut end = 0;
    let mut chars = right.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let joins = matches!(c, '.' | '-') && at > 0 && chars.peek().is_some_and(|(_, next)| word(*next));
        if !word(c) && !joins {
            break;
        }
        end = at + c.len_utf8();
    }
    let name = right.get(..end)?;
    name.chars().any(|c| c.is_alphabetic() || c == '_').then_some(end)
}

// ---- numbers ----

/// Digits that stand together.
#[derive(Debug)]
struct Group {
    start: usize,
    end: usize,
    /// What stands between the group before and this one; none at the head of a run.
    joint: Option<char>,
    /// Where a '+' or '(' before the digits begins.
    lead: usize,
    plus: bool,
    paren: bool,
}

impl Group {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

fn joins(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '/' | '(' | ')' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2010}'..='\u{2013}')
}

fn numbers(text: &str, found: &mut Vec<Span>) {
    let mut run: Vec<Group> = Vec::new();
    let mut from = 0;
    while let Some(rest) = text.get(from..) {
        let Some(offset) = rest.find(|c: char| c.is_ascii_digit()) else { break };
        let start = from + offset;
        let Some(tail) = text.get(start..) else { break };
        let end = start + tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let between = text.get(from..start).unwrap_or_default();
        let joined =
            !run.is_empty() && !between.is_empty() && between.chars().all(joins) && between.chars().count() <= 3;
        if !joined {
            close(text, &mut run, found);
        }
        let (plus, paren) = (between.ends_with('+') || between.ends_with("+("), between.ends_with('('));
        let lead = start - if plus && paren { 2 } else { usize::from(plus || paren) };
        run.push(Group { start, end, joint: joined.then(|| between.chars().next()).flatten(), lead, plus, paren });
        from = end;
    }
    close(text, &mut run, found);
}

/// Finds the card and telephone numbers in a run of groups, and empties it.
fn close(text: &str, run: &mut Vec<Group>, found: &mut Vec<Span>) {
    let mut at = 0;
    let cards = cards(text, run);
    let clear = |from: usize, to: usize| !cards.iter().any(|card| card.start < to && from < card.end);
    while at < run.len() {
        let most = (run.len() - at).min(8);
        let fits = (1..=most)
            .rev()
            .find(|count| run.get(at..at + count).is_some_and(|groups| phone(text, groups, run.get(at + count))));
        let Some(count) = fits else {
            at += 1;
            continue;
        };
        if let (Some(first), Some(last)) = (run.get(at), run.get(at + count - 1)) {
            // Cards are few in a run of groups that a person wrote; a hostile run is bounded in `cards`.
            if clear(first.lead, last.end) {
                found.push(Span { kind: Kind::Phone, start: first.lead, end: last.end });
            }
        }
        at += count;
    }
    found.extend(cards);
    run.clear();
}

/// Card numbers, leftmost and longest first, anywhere in the digits of a run.
fn cards(text: &str, run: &[Group]) -> Vec<Span> {
    let bytes = text.as_bytes();
    let digits: Vec<(usize, u8)> = run
        .iter()
        .flat_map(|group| group.start..group.end)
        .filter_map(|at| bytes.get(at).map(|byte| (at, byte.wrapping_sub(b'0'))))
        .collect();
    let mut cards = Vec::new();
    let mut from = 0;
    while let Some(window) = digits.get(from..) {
        if window.len() < 13 {
            break;
        }
        let first = window.first().map_or(0, |(_, digit)| *digit);
        let length = (13..=window.len().min(19))
            .rev()
            .find(|length| matches!(first, 2..=6) && window.get(..*length).is_some_and(luhn));
        match length.and_then(|length| Some((length, window.first()?.0, window.get(length - 1)?.0))) {
            Some((length, start, end)) => {
                cards.push(Span { kind: Kind::Card, start, end: end + 1 });
                from += length;
            }
            None => from += 1,
        }
    }
    cards
}

/// The Luhn checksum (ISO/IEC 7812-1).
fn luhn(digits: &[(usize, u8)]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, (_, digit))| match (place % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Whether the groups, as a whole, look like one telephone number.
fn phone(text: &str, groups: &[Group], next: Option<&Group>) -> bool {
    let Some(first) = groups.first() else { return false };
    let total: usize = groups.iter().map(Group::len).sum();
    let rest = groups.get(1..).unwrap_or_default();
    if rest.iter().any(|group| group.plus) {
        return false;
    }
    let digits = text.get(first.start..first.end).unwrap_or_default();
    if first.plus || (digits.starts_with("00") && total >= 10) {
        return (8..=15).contains(&total);
    }
    let sizes: Vec<usize> = groups.iter().map(Group::len).collect();
    let dotted = |group: Option<&Group>| group.is_some_and(|group| group.joint == Some('.'));
    let zero = digits.starts_with('0');
    match sizes.as_slice() {
        // A decimal fraction is no telephone number.
        [_] if dotted(Some(first)) || dotted(next) => false,
        [10 | 11] => true,
        [9 | 12] => zero,
        [3, 4] => rest.first().is_some_and(|group| group.joint == Some('-')) && first.joint.is_none() && next.is_none(),
        [3, 3, 4] | [1, 3, 3, 4] => true,
        [3, 7] => true,
        [5, 5] => matches!(digits.as_bytes().first(), Some(b'0' | b'6'..=b'9')),
        [2, 2, 4, ..] | [1] => false,
        [_, _, ..] => (zero || first.paren) && (9..=12).contains(&total) && !rest.iter().all(|group| group.len() == 1),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_names_a_person_is_replaced() {
        for (text, expected) in [
            ("write to ann.lee+x@mail.example.co.uk!", "write to [EMAIL]!"),
            ("a@b.com,c@d.org", "[EMAIL],[EMAIL]"),
            ("mailto:o'brien@x-y.de.", "mailto:[EMAIL]."),
            ("jörg@bücher.example", "[EMAIL]"),
            ("@anna_1 thanks", "[HANDLE] thanks"),
            (".@anna: hi @bob!", ".[HANDLE]: hi [HANDLE]!"),
            ("toot @anna@social.example now", "toot [HANDLE] now"),
            ("call +1 (415) 555-2671 now", "call [PHONE] now"),
            ("(415) 555-2671", "[PHONE]"),
            ("415-555-2671, 415.555.2671; 4155552671", "[PHONE], [PHONE]; [PHONE]"),
            ("+44 20 7946 0958", "[PHONE]"),
            ("0171/1234567 or 06 12 34 56 78", "[PHONE] or [PHONE]"),
            ("07700 900123", "[PHONE]"),
            ("call 555-0123", "call [PHONE]"),
            ("card 4111 1111 1111 1111 exp", "card [CARD] exp"),
            ("5500-0000-0000-0004", "[CARD]"),
            ("378282246310005", "[CARD]"),
            ("see https://ann:pw@host.example/x?y=1, ok", "see [URL], ok"),
            ("ftp://ann@host/x", "[URL]"),
            ("https://x.example/cb?api_key=abc", "[URL]"),
            ("https://x.example/cb#access_token=abc&b=1", "[URL]"),
            ("https://x.example/r?u=a8f5f167f44f4964e6c998dee827110c", "[URL]"),
            ("www.x.example/?token=1", "[URL]"),
        ] {
            assert_eq!(redact(text).text(), expected, "{text}");
        }
    }

    #[test]
    fn what_names_nobody_stays() {
        for text in [
            "",
            "I paid $1,000,000 in 2019, 12:30, 50%",
            "on 2023-11-23 21:30:15 and 01.02.2023 10:30",
            "pi is 3.14159265358979, e is 2.7182818284",
            "192.168.100.200 is an address",
            "https://example.com/a?page=2&q=cats",
            "meet @ 5, 3 @ 10, a @ b",
            "4111 1111 1111 1112",
            "iPhone 15 Pro, 3-4 weeks, 10-12 days, 1 2 3 4 5 6 7 8 9",
            "日本語 🎉 naïve",
            "[EMAIL] [PHONE] [URL] [HANDLE] [CARD]",
        ] {
            let out = redact(text);
            assert_eq!(out.text(), text);
            assert!(out.spans().is_empty());
        }
    }

    #[test]
    fn spans_and_counts_tell_what_was_replaced() {
        let text = "é @ann a@b.com @bob";
        let out = redact(text);
        let pieces: Vec<_> = out.spans().iter().map(|span| (span.kind, &text[span.start..span.end])).collect();
        assert_eq!(pieces, [(Kind::Handle, "@ann"), (Kind::Email, "a@b.com"), (Kind::Handle, "@bob")]);
        assert_eq!(out.counts(), BTreeMap::from([(Kind::Email, 1), (Kind::Handle, 2)]));
    }

    #[test]
    fn a_secret_url_is_seen_through_a_placeholder() {
        let out = redact("see https://#+41114111token=https://, call +41 44 111 22 33");
        assert_eq!(out.text(), "see [URL], call [PHONE]");
        assert_eq!(out.counts(), BTreeMap::from([(Kind::Url, 1), (Kind::Phone, 1)]));
    }

    #[test]
    fn a_hostile_megabyte_takes_linear_time() {
        let begun = std::time::Instant::now();
        for piece in ["@", "a@", "@a", "1 ", "4", "://", "a://b@c?", "a.", "+1-", "(", "@a.b", "1.1@"] {
            let text = piece.repeat(1_000_000 / piece.len());
            let out = redact(&text);
            assert!(out.text().len() <= text.len() * 8);
        }
        // A quadratic pass over one of them would take hours.
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    }

    proptest! {
        #[test]
        fn redacting_twice_changes_nothing(text in "([a-c@.:/?=&+() 0-9-]|https://|token=|4111|\\PC){0,60}") {
            let once = redact(&text);
            let twice = redact(once.text());
            prop_assert_eq!(twice.text(), once.text());
        }

        #[test]
        fn no_address_survives(before in "\\PC{0,20}", local in "[a-z][a-z0-9.]{0,8}[a-z]", host in "[a-z]{2,8}", after in "\\PC{0,20}") {
            let address = format!("{local}@{host}.com");
            let out = redact(&format!("{before}{address}{after}"));
            prop_assert!(!out.text().contains(&address));
        }

        #[test]
        fn no_card_survives(before in "[^0-9]{0,20}", body in "[3-6][0-9]{14}", after in "[^0-9]{0,20}", spaced: bool) {
            let check = (0..10u8).find(|last| {
                let digits: Vec<_> = body.bytes().map(|b| b - b'0').chain([*last]).enumerate().collect();
                luhn(&digits)
            }).expect("one digit completes it");
            let mut card = format!("{body}{check}");
            if spaced {
                card = card.as_bytes().chunks(4).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>().join(" ");
            }
            let out = redact(&format!("{before}{card}{after}"));
            prop_assert!(!out.text().contains(&card));
        }
    }
}
