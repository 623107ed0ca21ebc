//! Names from a list.

use super::{Find, Kind};
use std::collections::HashSet;
use unicode_normalization_alignments::UnicodeNormalization;

/// Names by their folded words, one space between them.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    known: HashSet<String>,
    /// The most words of a name.
    words: usize,
    /// The most bytes of a name, folded.
    bytes: usize,
}

impl Names {
    pub(super) fn new(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut all = Self::default();
        for name in names {
            let words: Vec<String> = words(name.as_ref()).map(|(_, word)| fold(word)).collect();
            let name = words.join(" ");
            if !name.is_empty() {
                all.words = all.words.max(words.len());
                all.bytes = all.bytes.max(name.len());
                all.known.insert(name);
            }
        }
        all
    }

    /// The leftmost and longest names, whole words.
    pub(super) fn find(&self, text: &str, found: &mut Vec<Find>) {
        if self.known.is_empty() {
            return;
        }
        // Folding makes a word longer at most threefold; a longer one is in no name, and is not folded at all.
        let short = |word: &str| if word.len() > self.bytes * 4 { String::new() } else { fold(word) };
        let words: Vec<(usize, &str, String)> = words(text).map(|(at, word)| (at, word, short(word))).collect();
        let mut at = 0;
        while let Some(window) = words.get(at..) {
            let Some((start, ..)) = window.first() else { break };
            match self.longest(text, window) {
                Some((count, end)) => {
                    found.push(Find { kind: Kind::Name, start: *start, end });
                    at += count;
                }
                None => at += 1,
            }
        }
    }

    /// How many of the words make a name, and where it ends.
    fn longest(&self, text: &str, words: &[(usize, &str, String)]) -> Option<(usize, usize)> {
        let (mut name, mut best, mut end) = (String::new(), None, None);
        for (count, (start, word, folded)) in words.iter().take(self.words).enumerate() {
            if let Some(end) = end {
                if !text.get(end..*start).is_some_and(joins) {
                    break;
                }
                name.push(' ');
            }
            name.push_str(folded);
            if name.len() > self.bytes {
                break;
            }
            end = Some(start + word.len());
            if self.known.contains(&name) {
                best = Some((count + 1, start + word.len()));
            }
        }
        best
    }
}

/// What may stand between the words of one name.
fn joins(between: &str) -> bool {
    let joint = |c: char| matches!(c, ' ' | '.' | '-' | '\'' | '\u{2019}' | '\u{a0}' | '\u{2010}' | '\u{2011}');
    between.chars().count() <= 2 && between.chars().all(joint)
}

/// Words of letters and digits with their places. Where a script writes no spaces, each character is a word.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text.get(from..)?.find(word_char)?;
        let rest = text.get(start..)?;
        let first = rest.chars().next()?;
        let len = match unspaced(first) {
            true => first.len_utf8(),
            false => rest.find(|c| !word_char(c) || unspaced(c)).unwrap_or(rest.len()),
        };
        from = start + len;
        Some((start, rest.get(..len)?))
    })
}

fn word_char(c: char) -> bool {
    // Combining marks belong to the letter before them.
    c.is_alphanumeric() || matches!(c, '\u{300}'..='\u{36f}')
}

/// Chinese, Japanese, and Korean, which adds its particles to a name.
fn unspaced(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}')
}

/// The same for words that differ in case, or in how their accents are encoded.
fn fold(word: &str) -> String {
    word.nfd().map(|(c, _)| c).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(names: &[&str], text: &str) -> Vec<String> {
        let mut found = Vec::new();
        Names::new(names).find(text, &mut found);
        found.iter().map(|find| text[find.start..find.end].to_owned()).collect()
    }

    #[test]
    fn names_are_whole_words_in_any_case() {
        let names = ["Ann", "Mary Jane Miller", "Mary", "Jos\u{e9}", "李雷", "O'Neil", ""];
        assert_eq!(find(&names, "ANN's anna, ann_lee! Joann ann"), ["ANN", "ann", "ann"]);
        assert_eq!(
            find(&names, "mary  jane, Mary Jane MILLER; Mary-Jane-Miller"),
            ["mary", "Mary Jane MILLER", "Mary-Jane-Miller"]
        );
        assert_eq!(find(&names, "jose\u{301} JOS\u{c9} jose"), ["jose\u{301}", "JOS\u{c9}"]);
        assert_eq!(find(&names, "我叫李雷。 o\u{2019}neil"), ["李雷", "o\u{2019}neil"]);
        assert!(find(&[], "ann").is_empty() && find(&[" ", "!"], "ann !").is_empty());
    }

    #[test]
    fn ten_thousand_names_cost_no_more_than_one() {
        let names: Vec<String> = (0..10_000).map(|n| format!("name{n} of some person{n}")).collect();
        let names = Names::new(&names);
        let text = "name7 of some name7 of some person7 ".repeat(20_000);
        let begun = std::time::Instant::now();
        let mut found = Vec::new();
        names.find(&text, &mut found);
        assert_eq!(found.len(), 20_000);
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }
}
