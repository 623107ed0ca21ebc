//! URLs with credentials.

use super::{Find, Kind};

#[rustfmt::skip]
const SECRETS: [&str; 22] = [
    "key", "apikey", "token", "accesstoken", "auth", "authorization", "password", "passwd", "pwd", "pass", "secret",
    "sig", "signature", "session", "sessionid", "sid", "code", "jwt", "credential", "otp", "hash", "apitoken",
];

/// One look at each whitespace-delimited run that holds a URL.
pub(super) fn urls(text: &str, found: &mut Vec<Find>) {
    let mut from = 0;
    while let Some(rest) = text.get(from..) {
        let Some(begin) = rest.find(|c: char| !ends_url(c)) else { break };
        let begin = from + begin;
        let Some(run) = text.get(begin..) else { break };
        let end = begin + run.find(ends_url).unwrap_or(run.len());
        if let Some((start, end)) = text.get(begin..end).and_then(secret_url) {
            found.push(Find { kind: Kind::Url, start: begin + start, end: begin + end });
        }
        from = end;
    }
}

fn ends_url(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"')
}

/// The range of the URL in a run without whitespace, where it carries credentials.
fn secret_url(run: &str) -> Option<(usize, usize)> {
    // Most runs have neither, which one sign tells.
    let scheme = run.contains(':').then(|| run.find("://")).flatten().map(|at| {
        let word = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-'));
        run.get(..at)
            .and_then(|head| head.rfind(word).map(|p| p + head[p..].chars().next().map_or(1, char::len_utf8)))
            .unwrap_or(0)
    });
    let bare = || run.contains('.').then(|| run.to_ascii_lowercase().find("www.")).flatten();
    let start = scheme.or_else(bare)?;
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
