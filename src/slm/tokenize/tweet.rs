//! BERTweet's tokenizer (Nguyen et al., arXiv 2005.10200): byte-pair encoding of words by `bpe.codes`, and before it, where
//! the model asks for it, the normalisation of tweets: users and addresses become `@USER` and `HTTPURL`, an emoji its name,
//! and words are cut as NLTK's tweet tokenizer cuts them.
//!
//! No hub file describes it; `build` writes a `tokenizer.json` of a form of its own: a normaliser of type `Tweet` and a
//! model of type `FastBPE`.

use super::Encoded;
use super::bpe::{Merge, Merges};
use super::file::{AddedTokens, Around, File, Unread, number, part};
use super::unigram::is_python_space as is_space;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use unicode_categories::UnicodeCategories;

/// BERTweet's tokenizer.
pub struct Tweet {
    normalizer: Option<Normalizer>,
    /// Symbols by their text and whether a word ends with them.
    symbols: HashMap<(String, bool), u32>,
    /// The token of each symbol.
    tokens: Vec<u32>,
    merges: Merges,
    unknown: u32,
    verbatim: AddedTokens,
    vocabulary: usize,
    around: Around,
}

/// What marks the end of a word in `bpe.codes`.
const END: &str = "</w>";

/// What marks, in the vocabulary, that a word goes on.
const GOES_ON: &str = "@@";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    #[serde(rename = "type")]
    _type: String,
    unk_token: String,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// The tables of the normalisation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Normalizer {
    #[serde(rename = "type")]
    _type: String,
    /// HTML's named characters.
    entities: HashMap<String, char>,
    /// What takes the place of a token of one character.
    emoji: HashMap<char, String>,
}

impl Tweet {
    /// Reads a `tokenizer.json` that `build` wrote.
    pub fn from_json(json: &str) -> Result<Self, Unread> {
        let (file, around) = File::read(json)?;
        let model: Model = part("model", Some(file.model), "FastBPE")?;
        let normalizer = match file.normalizer {
            None => None,
            raw => Some(part("normalizer", raw, "Tweet")?),
        };
        let around = around?;
        let Some(unknown) = model.vocab.get(&model.unk_token).copied() else {
            return Err(Unread::Invalid(format!("its unk_token '{}' is not in its vocabulary", model.unk_token)));
        };
        let (mut symbols, mut tokens) = (HashMap::new(), Vec::new());
        let mut symbol = |text: &str| {
            let (text, ends) = text.strip_suffix(END).map_or((text, false), |text| (text, true));
            *symbols.entry((text.to_owned(), ends)).or_insert_with(|| {
                let token = if ends { model.vocab.get(text) } else { model.vocab.get(&format!("{text}{GOES_ON}")) };
                tokens.push(token.copied().unwrap_or(unknown));
                tokens.len() as u32 - 1
            })
        };
        for token in model.vocab.keys() {
            match token.strip_suffix(GOES_ON) {
                Some(text) => symbol(text),
                None => symbol(&format!("{token}{END}")),
            };
        }
        let mut merges = Merges::default();
        for (rank, merge) in (0..).zip(&model.merges) {
            let Some((left, right)) = merge.pair() else {
                return Err(Unread::Invalid(format!("merge {rank} is not a pair")));
            };
            let pair = (symbol(left), symbol(right));
            merges.push(pair, rank, symbol(&format!("{left}{right}")));
        }
        let (added, vocabulary) = number(file.added_tokens, &model.vocab)?;
        let verbatim = AddedTokens::new(&added, str::to_owned)?;
        Ok(Self { normalizer, symbols, tokens, merges, unknown, verbatim, vocabulary, around })
    }

    /// The size of its vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Tokenizes one text and cuts its end so that, special tokens included, at most `max_length` tokens are left; there
    /// are never fewer than the special ones.
    pub fn encode(&self, text: &str, max_length: usize) -> Encoded {
        Encoded::around(&self.around, max_length, |limit, ids| {
            self.verbatim.split(text, ids, |part, _, ids| match &self.normalizer {
                Some(normalizer) => self.words(&normalizer.normalize(part, limit), limit, ids),
                None => self.words(part, limit, ids),
            });
        })
    }

    /// Words between spaces; a line break right after a word is a part of it. Stops soon after `limit` ids.
    fn words(&self, text: &str, limit: usize, ids: &mut Vec<u32>) {
        let mut rest = text.trim_start_matches(is_space);
        while !rest.is_empty() && ids.len() <= limit {
            let mut end = rest.find(is_space).unwrap_or(rest.len());
            end += usize::from(rest[end..].starts_with('\n'));
            self.word(&rest[..end], ids);
            rest = rest[end..].trim_start_matches(is_space);
        }
    }

    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        let last = word.char_indices().next_back().map_or(0, |(at, _)| at);
        let symbol = |(at, c): (usize, char)| self.symbols.get(&(c.to_string(), at == last)).copied();
        // What is in no table takes part in no merge.
        let none = self.tokens.len() as u32;
        let mut symbols: Vec<u32> = word.char_indices().map(|place| symbol(place).unwrap_or(none)).collect();
        self.merges.apply(&mut symbols);
        ids.extend(symbols.into_iter().map(|symbol| self.tokens.get(symbol as usize).copied().unwrap_or(self.unknown)));
    }
}

// --- the normalisation ---

impl Normalizer {
    /// A tweet's words, normalised, with single spaces between them; of a long text at least so many that they are more
    /// than `limit` tokens.
    fn normalize(&self, text: &str, limit: usize) -> String {
        let text = text.replace('’', "'").replace('…', "...");
        let text = shorten(&self.entities(&text));
        // Below, four words can become one; a word that becomes nothing is not counted.
        let most = limit.saturating_add(2).saturating_mul(4);
        let mut words = String::with_capacity(text.len());
        let (mut at, mut count) = (0, 0);
        while count < most
            && let Some((start, end)) = next_word(&text, at)
        {
            let word: String = text[start..end].iter().collect();
            let new = self.word(&word);
            count += usize::from(!new.is_empty());
            words.push_str(if at == 0 { "" } else { " " });
            words.push_str(new);
            at = end;
        }
        let pairs = [
            ("cannot ", "can not "),
            ("n't ", " n't "),
            ("n 't ", " n't "),
            ("ca n't", "can't"),
            ("ai n't", "ain't"),
            ("'m ", " 'm "),
            ("'re ", " 're "),
            ("'s ", " 's "),
            ("'ll ", " 'll "),
            ("'d ", " 'd "),
            ("'ve ", " 've "),
            (" p . m .", "  p.m."),
            (" p . m ", " p.m "),
            (" a . m .", " a.m."),
            (" a . m ", " a.m "),
        ];
        let words = pairs.iter().fold(words, |words, (from, to)| words.replace(from, to));
        words.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn word<'a>(&'a self, word: &'a str) -> &'a str {
        let lower = word.to_lowercase();
        let mut chars = word.chars();
        match (chars.next(), chars.next()) {
            (Some('@'), _) => "@USER",
            _ if lower.starts_with("http") || lower.starts_with("www") => "HTTPURL",
            (Some('’'), None) => "'",
            (Some('…'), None) => "...",
            (Some(c), None) => self.emoji.get(&c).map_or(word, String::as_str),
            _ => word,
        }
    }

    /// Replaces HTML's character references; what is none, but looks like one, goes.
    fn entities(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('&') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = rest[1..].find(|c: char| matches!(c, '&' | ';') || is_blank(c)).map(|end| end + 1);
            match end.filter(|end| *end > 1 && rest[*end..].starts_with(';')) {
                Some(end) => {
                    out.extend(self.entity(&rest[1..end]));
                    rest = &rest[end + 1..];
                }
                None => {
                    out.push('&');
                    rest = &rest[1..];
                }
            }
        }
        out + rest
    }

    /// The character of a reference without its ampersand and semicolon.
    fn entity(&self, body: &str) -> Option<char> {
        // As the original's pattern `(#?(x?))([^&;\s]+)` takes it: a prefix is one only where something follows.
        let (hash, rest) =
            body.strip_prefix('#').filter(|rest| !rest.is_empty()).map_or((false, body), |rest| (true, rest));
        let (hex, digits) =
            rest.strip_prefix('x').filter(|rest| !rest.is_empty()).map_or((false, rest), |rest| (true, rest));
        if !hash && !hex {
            return self.entities.get(body).copied();
        }
        let number = u32::from_str_radix(digits, if hex { 16 } else { 10 }).ok()?;
        match u8::try_from(number) {
            Ok(byte @ 0x80..=0x9F) => WINDOWS_1252.chars().nth(usize::from(byte - 0x80)).filter(|c| !c.is_control()),
            _ => char::from_u32(number),
        }
    }
}

/// What the numbers 0x80 to 0x9F mean: characters of windows-1252, which has none for five of them. The crate that knows
/// every encoding would weigh 160 KB in each wasm module.
const WINDOWS_1252: &str = "\u{20AC}\u{81}\u{201A}\u{192}\u{201E}\u{2026}\u{2020}\u{2021}\u{2C6}\u{2030}\u{160}\u{2039}\u{152}\u{8D}\
    \u{17D}\u{8F}\u{90}\u{2018}\u{2019}\u{201C}\u{201D}\u{2022}\u{2013}\u{2014}\u{2DC}\u{2122}\u{161}\u{203A}\u{153}\u{9D}\u{17E}\u{178}";

/// Runs of four or more of one character, which is no ASCII letter or digit, become three.
fn shorten(text: &str) -> Vec<char> {
    let mut out: Vec<char> = Vec::with_capacity(text.len());
    let mut run = 0;
    for c in text.chars() {
        run = if out.last() == Some(&c) { run + 1 } else { 1 };
        if run <= 3 || c.is_ascii_alphanumeric() {
            out.push(c);
        }
    }
    out
}

// --- NLTK's pattern ---

/// A pattern over characters.
enum Re {
    One(fn(char) -> bool),
    All(Vec<Re>),
    /// The first that leads to a match.
    Any(Vec<Re>),
    /// At least so often and at most so often, as often as it can be or, if lazy, as seldom.
    Repeat {
        inner: Box<Re>,
        least: usize,
        most: Option<usize>,
        lazy: bool,
    },
    /// The character before is none of these.
    NotBefore(fn(char) -> bool),
    /// The next character is none of these.
    NotNext(fn(char) -> bool),
    /// A word begins or ends here.
    Boundary,
}

enum Step {
    One(fn(char) -> bool),
    /// First the one, then the other.
    Fork(usize, usize),
    NotBefore(fn(char) -> bool),
    NotNext(fn(char) -> bool),
    Boundary,
    Match,
}

impl Re {
    fn compile(&self, steps: &mut Vec<Step>) {
        match self {
            Self::One(class) => steps.push(Step::One(*class)),
            Self::NotBefore(class) => steps.push(Step::NotBefore(*class)),
            Self::NotNext(class) => steps.push(Step::NotNext(*class)),
            Self::Boundary => steps.push(Step::Boundary),
            Self::All(parts) => parts.iter().for_each(|part| part.compile(steps)),
            Self::Any(ways) => {
                let mut ends = Vec::new();
                for (index, way) in ways.iter().enumerate() {
                    let fork = steps.len();
                    let last = index + 1 == ways.len();
                    if !last {
                        steps.push(Step::Fork(fork + 1, 0));
                    }
                    way.compile(steps);
                    if !last {
                        ends.push(steps.len());
                        steps.push(Step::Fork(0, 0));
                        steps[fork] = Step::Fork(fork + 1, steps.len());
                    }
                }
                let end = steps.len();
                ends.into_iter().for_each(|place| steps[place] = Step::Fork(end, end));
            }
            Self::Repeat { inner, least, most, lazy } => {
                (0..*least).for_each(|_| inner.compile(steps));
                let fork = |inside, after| if *lazy { Step::Fork(after, inside) } else { Step::Fork(inside, after) };
                let times = most.map_or(1, |most| most - least);
                let mut forks = Vec::new();
                for _ in 0..times {
                    forks.push(steps.len());
                    steps.push(Step::Fork(0, 0));
                    inner.compile(steps);
                }
                if most.is_none() {
                    let start = forks.first().copied().unwrap_or_default();
                    steps.push(Step::Fork(start, start));
                }
                let end = steps.len();
                forks.into_iter().for_each(|place| steps[place] = fork(place + 1, end));
            }
        }
    }
}

/// Characters that one match can take in: it bounds what hostile text can cost, and no word is as long.
const WINDOW: usize = 4096;

/// The next match from `start` on: where it begins and ends. There is one wherever something but whitespace is left.
fn next_word(text: &[char], start: usize) -> Option<(usize, usize)> {
    let start = start + text.get(start..)?.iter().position(|c| !is_blank(*c))?;
    (start..text.len()).find_map(|start| Some((start, longest_first(text, start)?)))
}

/// Where the match that begins at `start` ends: the first in the pattern's order of preference. A fork at a place is taken
/// once, whatever way led there, so the time is bounded by the pattern times the window.
fn longest_first(text: &[char], start: usize) -> Option<usize> {
    let text = &text[..text.len().min(start + WINDOW)];
    let mut been: HashSet<(usize, usize)> = HashSet::new();
    let mut ways = vec![(0, start)];
    while let Some((mut step, mut at)) = ways.pop() {
        loop {
            let next = text.get(at).copied();
            let before = at.checked_sub(1).and_then(|at| text.get(at)).copied();
            let goes_on = match PATTERN.get(step) {
                Some(Step::One(class)) => {
                    at += 1;
                    next.is_some_and(class)
                }
                Some(Step::NotBefore(class)) => !before.is_some_and(class),
                Some(Step::NotNext(class)) => !next.is_some_and(class),
                Some(Step::Boundary) => before.is_some_and(is_word) != next.is_some_and(is_word),
                Some(Step::Fork(first, second)) => {
                    if !been.insert((step, at)) {
                        break;
                    }
                    if first != second {
                        ways.push((*second, at));
                    }
                    step = *first;
                    continue;
                }
                Some(Step::Match) => return Some(at),
                None => false,
            };
            if !goes_on {
                break;
            }
            step += 1;
        }
    }
    None
}

/// The pattern's whitespace.
fn is_blank(c: char) -> bool {
    c.is_whitespace()
}

/// A character of a word: a letter, mark, digit or connector.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || c == '_'
        || !c.is_ascii()
            && (c.is_alphabetic()
                || c.is_mark()
                || c.is_number_decimal_digit()
                || c.is_punctuation_connector()
                || matches!(c, '\u{200C}' | '\u{200D}'))
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || !c.is_ascii() && c.is_number_decimal_digit()
}

/// A letter in any case: three others fold to one.
fn is_latin(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, 'İ' | 'ſ' | '\u{212A}')
}

fn is_eyes(c: char) -> bool {
    matches!(c, ':' | ';' | '=' | '8')
}

fn is_nose(c: char) -> bool {
    matches!(c, '-' | 'o' | 'O' | '*' | '\'')
}

fn is_mouth(c: char) -> bool {
    matches!(c, ')' | ']' | '(' | '[' | 'd' | 'D' | 'p' | 'P' | '/' | ':' | '}' | '{' | '@' | '|' | '\\')
}

fn is_phone_gap(c: char) -> bool {
    matches!(c, ' ' | '*' | '-' | '.' | ')')
}

fn repeat(inner: Re, least: usize, most: Option<usize>) -> Re {
    Re::Repeat { inner: Box::new(inner), least, most, lazy: false }
}

fn lazily(inner: Re, least: usize) -> Re {
    Re::Repeat { inner: Box::new(inner), least, most: None, lazy: true }
}

fn maybe(inner: Re) -> Re {
    repeat(inner, 0, Some(1))
}

fn some(class: fn(char) -> bool) -> Re {
    repeat(Re::One(class), 1, None)
}

fn any_of(class: fn(char) -> bool) -> Re {
    repeat(Re::One(class), 0, None)
}

/// The alternatives in their order; the last takes any character but whitespace.
static PATTERN: LazyLock<Vec<Step>> = LazyLock::new(|| {
    let mut ways = vec![url(), domain(), phone()];
    ways.extend(emoticons());
    ways.extend([
        // A tag.
        Re::All(vec![Re::One(|c| c == '<'), some(|c| c != '>' && !is_blank(c)), Re::One(|c| c == '>')]),
        // Arrows.
        Re::All(vec![some(|c| c == '-'), Re::One(|c| c == '>')]),
        Re::All(vec![Re::One(|c| c == '<'), some(|c| c == '-')]),
        // A user.
        Re::All(vec![Re::One(|c| c == '@'), some(is_word)]),
        // A hashtag.
        Re::All(vec![
            some(|c| c == '#'),
            some(is_word),
            any_of(|c| is_word(c) || matches!(c, '\'' | '-')),
            some(is_word),
        ]),
        email(),
        // A word with apostrophes or dashes.
        Re::All(vec![Re::One(is_inner), some(|c| is_inner(c) || matches!(c, '\'' | '-' | '_')), Re::One(is_inner)]),
        // A number of two parts.
        Re::All(vec![
            maybe(Re::One(|c| matches!(c, '+' | '-'))),
            some(is_digit),
            Re::One(|c| matches!(c, ',' | '/' | '.' | ':' | '-')),
            some(is_digit),
            maybe(Re::One(|c| matches!(c, '+' | '-'))),
        ]),
        some(is_word),
        // Dots.
        Re::All(vec![Re::One(|c| c == '.'), repeat(Re::All(vec![any_of(is_blank), Re::One(|c| c == '.')]), 1, None)]),
        Re::One(|c| !is_blank(c)),
    ]);
    let mut steps = Vec::new();
    Re::Any(ways).compile(&mut steps);
    steps.push(Step::Match);
    steps
});

/// A letter of a word: no digit, no underscore.
fn is_inner(c: char) -> bool {
    is_word(c) && !is_digit(c) && c != '_'
}

/// Text in parentheses: with one more pair inside, or none.
fn parentheses() -> [Re; 2] {
    let open = || Re::One(|c| c == '(');
    let close = || Re::One(|c| c == ')');
    let plain = |c: char| !is_blank(c) && !matches!(c, '(' | ')');
    [
        Re::All(vec![
            open(),
            lazily(Re::One(plain), 0),
            open(),
            some(plain),
            close(),
            lazily(Re::One(plain), 0),
            close(),
        ]),
        Re::All(vec![open(), lazily(Re::One(|c| !is_blank(c)), 1), close()]),
    ]
}

/// An address with its scheme, or a domain with a path.
fn url() -> Re {
    let letters = |text: &str| -> Vec<Re> {
        text.chars()
            .map(|c| match c {
                'h' => Re::One(|c| matches!(c, 'h' | 'H')),
                't' => Re::One(|c| matches!(c, 't' | 'T')),
                _ => Re::One(|c| matches!(c, 'p' | 'P')),
            })
            .collect()
    };
    let mut scheme = letters("http");
    scheme.push(maybe(Re::One(|c| matches!(c, 's' | 'S' | 'ſ'))));
    scheme.push(Re::One(|c| c == ':'));
    scheme.push(Re::Any(vec![
        repeat(Re::One(|c| c == '/'), 1, Some(3)),
        Re::One(|c| is_latin(c) || c.is_ascii_digit() || c == '%'),
    ]));
    let begin = Re::Any(vec![
        Re::All(scheme),
        Re::All(vec![
            some(|c| is_latin(c) || c.is_ascii_digit() || matches!(c, '.' | '-')),
            Re::One(|c| c == '.'),
            repeat(Re::One(is_latin), 2, Some(13)),
            Re::One(|c| c == '/'),
        ]),
    ]);
    let plain = |c: char| !is_blank(c) && !matches!(c, '(' | ')' | '<' | '>' | '{' | '}' | '[' | ']');
    let [nested, flat] = parentheses();
    let run = repeat(Re::Any(vec![some(plain), nested, flat]), 1, None);
    let [nested, flat] = parentheses();
    let end = Re::Any(vec![nested, flat, Re::One(|c| !is_blank(c) && !"`!()[]{};:'\".,<>?«»“”‘’".contains(c))]);
    Re::All(vec![begin, run, end])
}

/// A bare domain.
fn domain() -> Re {
    let letter = |c: char| is_latin(c) || c.is_ascii_digit();
    Re::All(vec![
        Re::NotBefore(|c| c == '@'),
        some(letter),
        repeat(Re::All(vec![Re::One(|c| matches!(c, '.' | '-')), some(letter)]), 0, None),
        Re::One(|c| c == '.'),
        repeat(Re::One(is_latin), 2, Some(13)),
        Re::Boundary,
        maybe(Re::One(|c| c == '/')),
        Re::NotNext(|c| c == '@'),
    ])
}

fn phone() -> Re {
    let digits = |count| repeat(Re::One(is_digit), count, Some(count));
    Re::All(vec![
        maybe(Re::All(vec![maybe(Re::One(|c| c == '+')), Re::One(|c| matches!(c, '0' | '1')), any_of(is_phone_gap)])),
        maybe(Re::All(vec![maybe(Re::One(|c| c == '(')), digits(3), any_of(is_phone_gap)])),
        digits(3),
        any_of(is_phone_gap),
        digits(4),
    ])
}

fn emoticons() -> [Re; 3] {
    let hat = || maybe(Re::One(|c| matches!(c, '<' | '>')));
    let nose = || maybe(Re::One(is_nose));
    [
        Re::All(vec![hat(), Re::One(is_eyes), nose(), Re::One(is_mouth)]),
        Re::All(vec![Re::One(is_mouth), nose(), Re::One(is_eyes), hat()]),
        Re::All(vec![Re::One(|c| c == '<'), Re::One(|c| c == '3')]),
    ]
}

fn email() -> Re {
    let word = |c: char| is_word(c) || c == '-';
    Re::All(vec![
        some(|c| is_word(c) || matches!(c, '.' | '+' | '-')),
        Re::One(|c| c == '@'),
        some(word),
        Re::One(|c| c == '.'),
        repeat(Re::All(vec![Re::One(word), maybe(Re::One(|c| c == '.'))]), 1, None),
        Re::One(word),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn normalizer() -> Normalizer {
        let lines = |text: &'static str| text.lines().filter_map(|line| line.split_once(' '));
        let entities = lines(include_str!("entities.txt"))
            .filter_map(|(name, number)| Some((name.to_owned(), char::from_u32(number.parse().ok()?)?)));
        let emoji = lines(include_str!("emoji.txt"))
            .filter_map(|(emoji, name)| Some((emoji.chars().next()?, format!(":{name}:"))))
            .chain([('\u{FE0F}', String::new())]);
        Normalizer { _type: "Tweet".to_owned(), entities: entities.collect(), emoji: emoji.collect() }
    }

    #[test]
    fn numbers_from_0x80_are_windows_1252() {
        let bytes: Vec<u8> = (0x80..=0x9F).collect();
        assert_eq!(encoding_rs::WINDOWS_1252.decode_without_bom_handling(&bytes).0, WINDOWS_1252);
    }

    #[test]
    fn tweets_are_normalised_as_the_original_does_it() {
        let tokens: Value =
            serde_json::from_str(include_str!("../../../tests/reference/tokenizers/tokens.json")).expect("JSON");
        let normalizer = normalizer();
        let tweets = tokens["tweets"].as_array().expect("tweets");
        assert!(tweets.len() > 30);
        for tweet in tweets {
            let text = tweet["text"].as_str().expect("a text");
            assert_eq!(
                normalizer.normalize(text, usize::MAX),
                tweet["normalized"].as_str().expect("a text"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn hostile_text_takes_no_longer_than_its_length() {
        let normalizer = normalizer();
        for part in [".-", "((", "http://.,", "a.", "@a", "(a", "[:", "1 ", "-a'", "&#x", "+1-(", ".a@"] {
            let start = std::time::Instant::now();
            normalizer.normalize(&part.repeat(50_000), 128);
            assert!(start.elapsed().as_secs() < 20, "{part:?}: {:?}", start.elapsed());
        }
    }
}
