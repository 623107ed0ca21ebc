//! API keys, tokens, UUIDs, wallets and what looks like them.

use super::{Find, Kind};

/// How keys of known issuers begin, and how many characters follow at least.
#[rustfmt::skip]
const PREFIXES: &[(&str, usize)] = &[
    ("sk-", 16), ("sk_", 16), ("pk_", 16), ("pk-", 16), ("rk_", 16), ("ghp_", 16), ("gho_", 16), ("ghu_", 16),
    ("ghs_", 16), ("ghr_", 16), ("github_pat_", 16), ("glpat-", 16), ("gldt-", 16), ("glrt-", 16), ("xoxb-", 12),
    ("xoxp-", 12), ("xoxa-", 12), ("xoxr-", 12), ("xoxs-", 12), ("xoxe-", 12), ("xapp-", 12), ("AIza", 30),
    ("hf_", 16), ("npm_", 20), ("pypi-", 20), ("dop_v1_", 20), ("doo_v1_", 20), ("SG.", 20), ("shpat_", 16),
    ("shpss_", 16), ("shpca_", 16), ("sq0atp-", 16), ("sq0csp-", 16), ("ya29.", 20), ("whsec_", 16), ("EAAC", 24),
    ("gsk_", 16), ("xai-", 16), ("r8_", 16), ("dckr_pat_", 16), ("lin_api_", 16), ("figd_", 16), ("rubygems_", 16),
    ("AGE-SECRET-KEY-1", 30), ("PMAK-", 20), ("NRAK-", 16), ("key-", 24), ("secret_", 20), ("ntn_", 20),
    ("tvly-", 16),
];

/// What stands before a key and says that it is one.
const SAYING: [&str; 14] = [
    "key",
    "apikey",
    "api_key",
    "token",
    "secret",
    "password",
    "passwd",
    "pwd",
    "bearer",
    "passcode",
    "access_token",
    "secret_key",
    "access_key",
    "client_secret",
];

fn token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '/' | '=' | '~')
}

/// Runs of the characters of keys, with their places.
fn tokens(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(|c: char| !token_char(c))
        .filter(|token| token.len() >= 8)
        .map(move |token| (token.as_ptr() as usize - text.as_ptr() as usize, token))
}

/// Keys that show what they are.
pub(super) fn keys(text: &str, found: &mut Vec<Find>) {
    for (at, token) in tokens(text) {
        let glued = text.get(..at).and_then(|head| head.chars().next_back()).is_some_and(char::is_alphanumeric);
        // A token may hold `name=key` and paths; a key begins a part of it.
        let mut start = 0;
        while let Some(rest) = token.get(start..).filter(|rest| rest.len() >= 8) {
            match key(rest).filter(|_| !(glued && start == 0)) {
                Some(len) => {
                    found.push(Find { kind: Kind::Key, start: at + start, end: at + start + len });
                    start += len;
                }
                None => {
                    let part = |c: char| !c.is_ascii_alphanumeric();
                    let Some(next) = rest.find(part) else { break };
                    start += next + 1;
                }
            }
        }
    }
}

/// The bytes of the key that a part of a token begins with.
fn key(rest: &str) -> Option<usize> {
    jwt(rest).or_else(|| uuid(rest)).or_else(|| wallet(rest)).or_else(|| hexadecimal(rest)).or_else(|| issued(rest))
}

/// The bytes at the head that `fits` and end where no letter or digit follows.
fn run(rest: &str, fits: impl Fn(u8) -> bool) -> Option<&str> {
    let len = rest.bytes().position(|byte| !fits(byte)).unwrap_or(rest.len());
    let ends = !rest.as_bytes().get(len).is_some_and(u8::is_ascii_alphanumeric);
    rest.get(..len).filter(|_| ends)
}

/// The longest key; what goes on behind it is looked at anew.
const LONGEST: usize = 512;

fn issued(rest: &str) -> Option<usize> {
    let aws = ["AKIA", "ASIA", "AROA", "AIDA"].iter().any(|prefix| rest.starts_with(prefix));
    if aws && run(rest, |b| b.is_ascii_uppercase() || b.is_ascii_digit()).is_some_and(|id| id.len() == 20) {
        return Some(20);
    }
    let (prefix, least) = PREFIXES.iter().find(|(prefix, _)| rest.starts_with(prefix))?;
    let body = rest.get(prefix.len()..)?;
    let len = body.bytes().take(LONGEST).take_while(|b| b.is_ascii_alphanumeric() || b"_-.=".contains(b)).count();
    let body = body.get(..len)?.trim_end_matches(['.', '-', '_']);
    // Hyphenated words are no key.
    let letters = body.bytes().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    (body.len() >= *least && letters).then_some(prefix.len() + body.len())
}

/// A JSON web token: two or three parts of base64url with dots between them, the first a JSON object.
fn jwt(rest: &str) -> Option<usize> {
    rest.strip_prefix("eyJ")?;
    let mut parts = 0;
    let mut len = 0;
    for part in rest.splitn(6, '.').take(5) {
        let fits = part.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"_-=".contains(b)).count();
        if fits == 0 {
            break;
        }
        len += fits + usize::from(parts > 0);
        parts += 1;
        if fits < part.len() {
            break;
        }
    }
    (parts >= 2 && len >= 20 || len >= 40).then_some(len)
}

fn uuid(rest: &str) -> Option<usize> {
    let head = rest.get(..36)?;
    let fits = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let ends = !rest.as_bytes().get(36).is_some_and(u8::is_ascii_alphanumeric);
    (ends && head.bytes().enumerate().all(fits)).then_some(36)
}

/// An address of a cryptocurrency.
fn wallet(rest: &str) -> Option<usize> {
    if let Some(hex) = rest.strip_prefix("0x") {
        let hex = run(hex, |b| b.is_ascii_hexdigit())?;
        return (hex.len() >= 40).then_some(hex.len() + 2);
    }
    let begins = |prefix: &str| rest.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    if ["bc1", "tb1", "ltc1", "addr1"].into_iter().any(begins) {
        let all = run(rest, |b| b.is_ascii_alphanumeric())?;
        let digits = all.bytes().filter(u8::is_ascii_digit).count();
        return ((26..=110).contains(&all.len()) && digits >= 3).then_some(all.len());
    }
    if rest.starts_with(['1', '3', 'L', 'M', 'D', 'T', 'r']) {
        let all = run(rest, |b| b.is_ascii_alphanumeric() && !b"0OIl".contains(&b))?;
        let some = |class: fn(&u8) -> bool| all.as_bytes().iter().any(class);
        let mixed = some(u8::is_ascii_digit) && some(u8::is_ascii_lowercase) && some(u8::is_ascii_uppercase);
        return ((26..=35).contains(&all.len()) && mixed).then_some(all.len());
    }
    None
}

/// 32 or more hexadecimal digits, letters among them.
fn hexadecimal(rest: &str) -> Option<usize> {
    let all = run(rest, |b| b.is_ascii_hexdigit())?;
    let mixed = all.bytes().any(|b| b.is_ascii_digit()) && all.bytes().any(|b| b.is_ascii_alphabetic());
    (all.len() >= 32 && mixed).then_some(all.len())
}

/// Tokens that look drawn by chance, and those that a word before them calls a key.
pub(super) fn random(text: &str, found: &mut Vec<Find>) {
    for (at, token) in tokens(text) {
        let before = text.get(..at).unwrap_or_default();
        // A hashtag or a handle is a name.
        if before.ends_with(['#', '@', '\u{ff20}']) || before.chars().next_back().is_some_and(char::is_alphanumeric) {
            continue;
        }
        let in_url =
            before.ends_with("://") || token.contains("://") || token.starts_with("//") || token.starts_with("www.");
        let path = in_url || token.trim_end_matches('.').contains('.');
        for part in parts(token, path) {
            let start = at + (part.as_ptr() as usize - token.as_ptr() as usize);
            let name = text.get(..start).unwrap_or_default();
            if looks_random(part) || (is_value(part) && said(name)) {
                found.push(Find { kind: Kind::Key, start, end: start + part.len() });
            }
        }
    }
}

/// The parts of a token that could each be a key: in a URL or path the slash separates, elsewhere it is base64's.
fn parts(token: &str, path: bool) -> impl Iterator<Item = &str> {
    let separates = move |c: char| matches!(c, '.' | '~') || (path && c == '/');
    token.split(separates).flat_map(|part| {
        // `name=value`, but for the signs at the end of base64.
        let body = part.trim_end_matches('=');
        let from = body.rfind('=').map_or(0, |at| at + 1);
        let value = part.get(from..).unwrap_or_default();
        let name = part.get(..from).unwrap_or_default().trim_end_matches('=');
        [name, value].into_iter().map(bare)
    })
}

/// Without the signs around a part; a single one can be its own.
fn bare(part: &str) -> &str {
    let signs = ['-', '_', '/', '+'];
    let from = part.len() - part.trim_start_matches(signs).len();
    let end = part.trim_end_matches(signs).len();
    let from = if from == 1 { 0 } else { from };
    let end = if end + 1 == part.len() { part.len() } else { end };
    // Of signs alone nothing is left, at a place in the part.
    part.get(from..end.max(from)).unwrap_or_default()
}

/// What a token is made of.
#[derive(Default)]
struct Texture {
    /// Runs of one class; a capital and the small letters behind it are one.
    chunks: usize,
    digit_runs: usize,
    letters: usize,
    vowels: usize,
    /// Parts between signs.
    pieces: usize,
    distinct: usize,
    mixed: bool,
}

impl Texture {
    fn of(core: &str) -> Self {
        let mut texture = Self { pieces: 1, ..Self::default() };
        let mut seen = [false; 128];
        let (mut last, mut run) = (' ', 0);
        for byte in core.bytes() {
            if let Some(seen) = seen.get_mut(usize::from(byte)) {
                *seen = true;
            }
            let class = class(byte);
            if class == ' ' {
                texture.pieces += 1;
            } else if class != last {
                texture.chunks += usize::from(!(class == 'a' && last == 'A' && run == 1));
                texture.digit_runs += usize::from(class == '9');
            }
            texture.letters += usize::from(class != ' ' && class != '9');
            texture.vowels += usize::from(b"aeiou".contains(&byte.to_ascii_lowercase()));
            run = if class == last { run + 1 } else { 1 };
            last = class;
        }
        texture.distinct = seen.iter().filter(|seen| **seen).count();
        let some = |class: fn(&u8) -> bool| core.as_bytes().iter().any(class);
        texture.mixed = some(u8::is_ascii_lowercase) && some(u8::is_ascii_uppercase);
        texture
    }
}

/// Whether a long token looks drawn by chance: it alternates between digits and letters, and between cases, or has few
/// vowels, as words and names do not.
fn looks_random(token: &str) -> bool {
    let core = token.trim_end_matches('=');
    if core.len() < 16 {
        return false;
    }
    let texture = Texture::of(core);
    let Texture { chunks, digit_runs, letters, vowels, pieces, distinct, mixed } = texture;
    if letters < 4 || distinct < 10 {
        return false;
    }
    // Base64 that is filled up.
    if core.len() < token.len() && core.len() >= 20 && token.len().is_multiple_of(4) && mixed {
        return true;
    }
    // Ten times the mean length of a chunk, at most: the less the shorter the token is, and the fewer its digits.
    let longest_chunk = match (mixed, core.len(), digit_runs) {
        (_, _, 0) => return false,
        (true, 16..20, 3..) | (false, 16..20, 4..) => 22,
        (_, 16..20, _) => return false,
        // An AWS secret is base64 of 40 characters.
        (true, 40, _) if core.contains(['/', '+']) => 40,
        (true, _, 1) => 26,
        (true, ..) => 32,
        (false, _, 1) => 0,
        (false, ..) => 40,
    };
    let length = core.len() - (pieces - 1);
    let dense = length * 10 <= chunks * longest_chunk && (length / pieces >= 6 || printed(core));
    let unspeakable = core.len() >= 20 && letters >= 10 && vowels * 4 < letters && length / pieces >= 8;
    dense || unspeakable
}

/// Capitals and digits in groups of one size, as licence keys are printed.
fn printed(core: &str) -> bool {
    let first = core.split('-').next().unwrap_or_default().len();
    let all = core.bytes().all(|byte| byte == b'-' || byte.is_ascii_uppercase() || byte.is_ascii_digit());
    (4..8).contains(&first) && all && core.split('-').all(|group| group.len() == first)
}

fn class(byte: u8) -> char {
    match byte {
        b'0'..=b'9' => '9',
        b'A'..=b'Z' => 'A',
        b'a'..=b'z' => 'a',
        _ => ' ',
    }
}

/// Whether the text ends in a word for a key, with a colon or an equals sign behind it.
fn said(before: &str) -> bool {
    let before = before.trim_end_matches([' ', '"', '\'', '`']);
    let Some(name) = before.strip_suffix([':', '=']) else {
        return before.get(before.len().saturating_sub(6)..).is_some_and(|word| word.eq_ignore_ascii_case("bearer"));
    };
    let name = super::context::tail(name.trim_end_matches([' ', '"', '\'']), 24).to_ascii_lowercase();
    let word = name.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
    SAYING.contains(&word) || word.ends_with("_key") || word.ends_with("_token") || word.ends_with("_secret")
}

/// Eight characters or more with a letter and a digit among them.
fn is_value(token: &str) -> bool {
    token.len() >= 8 && token.bytes().any(|b| b.is_ascii_digit()) && token.bytes().any(|b| b.is_ascii_alphabetic())
}
