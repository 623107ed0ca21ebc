//! IP and MAC addresses.

use super::context::is_version;
use super::{Find, Kind};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest IPv6 address, with an IPv4 one at its end.
const LONGEST: usize = 45;

/// One look at each run of characters that such addresses are made of.
pub(super) fn network(text: &str, found: &mut Vec<Find>) {
    let mut from = 0;
    while let Some(rest) = text.get(from..) {
        let Some(begin) = rest.find(|c: char| c.is_ascii_hexdigit() || c == ':') else { break };
        let begin = from + begin;
        let Some(run) = text.get(begin..) else { break };
        let end = begin + run.find(|c| !run_char(c)).unwrap_or(run.len());
        from = end;
        // Every address has two signs at least.
        let signs = text.get(begin..end).unwrap_or_default().bytes().filter(|byte| matches!(byte, b':' | b'.' | b'-'));
        if signs.take(2).count() < 2 {
            continue;
        }
        let glued = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let left = glued(text.get(..begin).and_then(|head| head.chars().next_back()));
        let right = glued(text.get(end..).and_then(|tail| tail.chars().next()));
        run_of(text, begin, end, (left, right), found);
    }
}

fn run_char(c: char) -> bool {
    c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '-')
}

/// Finds addresses in a run; `glued` says whether a word goes on before and behind it.
fn run_of(text: &str, begin: usize, end: usize, glued: (bool, bool), found: &mut Vec<Find>) {
    let run = text.get(begin..end).unwrap_or_default();
    if let Some((kind, start, len)) = whole(run, glued) {
        found.push(Find { kind, start: begin + start, end: begin + start + len });
        return;
    }
    // IPv4 addresses, also with a port, in a range, or in a list.
    let mut at = begin;
    for piece in run.split([':', '-']) {
        let (first, last) = (at == begin, at + piece.len() == end);
        let trimmed = piece.trim_end_matches('.');
        let right = last && glued.1 && trimmed.len() == piece.len();
        let left = first && glued.0;
        if !left && !right && ipv4(trimmed) && !is_version(text, at) {
            found.push(Find { kind: Kind::Ip, start: at, end: at + trimmed.len() });
        }
        at += piece.len() + 1;
    }
}

/// The address that a run is as a whole, but for punctuation around it: its kind, start and length.
fn whole(run: &str, glued: (bool, bool)) -> Option<(Kind, usize, usize)> {
    let mut start = match run.strip_prefix(':') {
        Some(rest) if !rest.starts_with(':') => 1,
        _ => 0,
    };
    let mut core = run.get(start..)?;
    // The end of a word such as 'addr:' is no group of an address.
    if start == 0 && glued.0 {
        start = run.find(':')? + 1;
        core = run.get(start..)?;
    }
    core = core.trim_end_matches(['.', '-']);
    if core.ends_with(':') && !core.ends_with("::") {
        core = core.strip_suffix(':')?;
    }
    let right = glued.1 && start + core.len() == run.len();
    if core.len() > LONGEST || right {
        return None;
    }
    let kind = match () {
        () if mac(core) => Kind::Mac,
        () if ipv6(core) => Kind::Ip,
        () => return None,
    };
    Some((kind, start, core.len()))
}

/// Six pairs between colons or hyphens, or three groups of four between dots.
fn mac(text: &str) -> bool {
    let groups = |separator: char, count: usize, len: usize| {
        let mut parts = 0;
        text.split(separator).all(|part| {
            parts += 1;
            part.len() == len && part.bytes().all(|byte| byte.is_ascii_hexdigit())
        }) && parts == count
    };
    groups(':', 6, 2)
        || groups('-', 6, 2)
        || (groups('.', 3, 4) && text.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'.')))
}

/// An IPv6 address that says something: not `::`, nor words with colons between them.
fn ipv6(text: &str) -> bool {
    text.matches(':').take(2).count() == 2
        && text.bytes().any(|byte| byte.is_ascii_digit())
        && text.parse::<Ipv6Addr>().is_ok()
}

/// An IPv4 address, zeros before its numbers allowed.
fn ipv4(text: &str) -> bool {
    if text.len() > 15 {
        return false;
    }
    let plain: Vec<&str> = text
        .split('.')
        .map(|part| if part.len() > 3 { part } else { part.trim_start_matches('0') })
        .map(|part| if part.is_empty() { "0" } else { part })
        .collect();
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && !text.contains("..")
        && !text.starts_with('.')
        // Thousands with dots between them.
        && !text.contains(".000")
        && plain.join(".").parse::<Ipv4Addr>().is_ok()
}
