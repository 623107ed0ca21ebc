//! E-mail addresses and handles.

use super::{Find, Kind};

/// Each '@': to its left the local part, to its right the domain. Neither holds an '@', so that no byte is looked at
/// more than twice.
pub(super) fn addresses(text: &str, found: &mut Vec<Find>) {
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
            found.push(Find { kind: Kind::Email, start, end: done });
            continue;
        }
        if let Some(name) = handle(right).filter(|name| mentions(left, right.get(..*name).unwrap_or_default())) {
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
            found.push(Find { kind: Kind::Handle, start: at, end: done });
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

/// Whether an @ and a name that follows a text is a mention: neither an hour or a measure (@5pm), nor a word that is
/// spelled with an @ (b@d, p@ssword).
fn mentions(left: &str, name: &str) -> bool {
    const UNITS: [&str; 26] = [
        "a", "p", "am", "pm", "h", "hr", "hrs", "min", "mins", "k", "m", "kg", "km", "mph", "kmh", "x", "st", "nd",
        "rd", "th", "usd", "eur", "c", "f", "ghz", "mhz",
    ];
    let unit = name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if unit.len() < name.len() && UNITS.iter().any(|one| one.eq_ignore_ascii_case(unit)) {
        return false;
    }
    let word = left.len() - left.trim_end_matches(char::is_alphanumeric).len();
    let word = left.get(left.len() - word..).unwrap_or_default();
    let short = |text: &str| text.chars().take(3).count() < 3;
    let led = ["rt", "hi", "by", "cc", "mt", "ht", "to", "dm"].iter().any(|lead| lead.eq_ignore_ascii_case(word));
    // Only ASCII spells words so; other scripts write no space before a mention.
    let spelled = word.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric()) && (short(word) || short(name));
    led || !spelled
}

/// The bytes of a handle's name: letters, digits, underscores, and dots and hyphens between them; none where
/// there is no letter.
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
    // @_@ is a face.
    let named = name.chars().any(char::is_alphabetic) || (name.contains('_') && name.chars().any(char::is_numeric));
    named.then_some(end)
}

/// Addresses that spell out their signs: `ann (at) mail.example`, `ann at mail dot example`.
pub(super) fn spelled(text: &str, found: &mut Vec<Find>) {
    let lower = text.to_ascii_lowercase();
    let mut done = 0;
    for (at, _) in lower.match_indices("at") {
        let (Some(before), Some(after)) = (lower.get(done..at), lower.get(at + 2..)) else { continue };
        let Some((left, right, bare)) = around(before, after) else { continue };
        let local = left.len() - left.trim_end_matches(local_char).len();
        let domain = right.trim_start_matches(' ');
        // A plain 'at' is a word like any other unless a 'dot' follows.
        let Some(len) = spelled_domain(domain, bare) else { continue };
        if local > 0 {
            let start = done + left.len() - local;
            done = lower.len() - domain.len() + len;
            found.push(Find { kind: Kind::Email, start, end: done });
        }
    }
}

/// What stands around an 'at' in brackets, or in spaces (then true).
fn around<'a>(before: &'a str, after: &'a str) -> Option<(&'a str, &'a str, bool)> {
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
        if let (Some(left), Some(right)) = (before.strip_suffix(open), after.strip_prefix(close)) {
            return Some((left.trim_end_matches(' '), right, false));
        }
    }
    Some((before.strip_suffix(' ')?, after.strip_prefix(' ')?, true))
}

/// The bytes of a domain whose dots may be spelled out, and one is where `must`.
fn spelled_domain(domain: &str, must: bool) -> Option<usize> {
    const DOTS: [&str; 8] = [" dot ", "(dot)", "[dot]", "{dot}", " (dot) ", " [dot] ", " {dot} ", "."];
    let label = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '-').len();
    let (mut end, mut spelled, mut labels) = (label(domain), false, 1);
    // Longer than any domain of people.
    while labels < 8 {
        let rest = domain.get(end..)?;
        let Some(dot) = DOTS.iter().find(|dot| rest.starts_with(**dot)) else { break };
        let next = label(rest.get(dot.len()..)?);
        if next < 2 {
            break;
        }
        end += dot.len() + next;
        spelled |= dot.len() > 1;
        labels += 1;
    }
    (labels > 1 && (spelled || !must)).then_some(end)
}
