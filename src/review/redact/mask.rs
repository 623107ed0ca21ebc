//! A text with a barrier where something was found: finders see neither what stood there nor its placeholder.

use super::{Find, Kind};

/// U+FFFC, the object replacement character: neither a letter, a digit, whitespace nor a separator of anything.
pub(super) const BARRIER: char = '\u{fffc}';

/// A range of the original text that is not looked at any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// The number of a placeholder that stands in the original.
    pub(super) number: Option<usize>,
}

/// The highest number that is read in a placeholder; beyond, it is a text like any other.
const MOST: usize = 99_999;

/// The placeholders that stand in a text already.
pub(super) fn placeholders(text: &str) -> Vec<Taken> {
    let mut all = Vec::new();
    for (start, _) in text.match_indices('[') {
        let rest = text.get(start + 1..).unwrap_or_default();
        // No placeholder is longer.
        let inner = rest.bytes().take(12).position(|byte| byte == b']').and_then(|end| rest.get(..end));
        if let Some((inner, (kind, number))) = inner.and_then(|inner| Some((inner, placeholder(inner)?))) {
            all.push(Taken { kind, start, end: start + inner.len() + 2, number: Some(number) });
        }
    }
    all
}

/// The kind and number of a placeholder without its brackets.
fn placeholder(inner: &str) -> Option<(Kind, usize)> {
    let word = inner.trim_end_matches(|c: char| c.is_ascii_digit());
    let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
    let number = match inner.get(word.len()..)? {
        "" => 1,
        digits if !digits.starts_with('0') => digits.parse().ok().filter(|number| (2..=MOST).contains(number))?,
        _ => return None,
    };
    Some((kind, number))
}

/// A text with barriers, and where they stand.
pub(super) struct Masked {
    text: String,
    barriers: Vec<usize>,
}

impl Masked {
    pub(super) fn new(original: &str, taken: &[Taken]) -> Self {
        let mut text = String::with_capacity(original.len());
        let mut barriers = Vec::with_capacity(taken.len());
        let mut from = 0;
        for one in taken {
            text.push_str(original.get(from..one.start).unwrap_or_default());
            barriers.push(text.len());
            text.push(BARRIER);
            from = one.end;
        }
        text.push_str(original.get(from..).unwrap_or_default());
        Self { text, barriers }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Adds what was found here to what was taken; a find over a barrier takes it in. Of finds that overlap, the first
    /// one counts.
    pub(super) fn absorb(&self, taken: &[Taken], found: &mut [Find]) -> Vec<Taken> {
        found.sort_by_key(|find| find.start);
        let mut all: Vec<Taken> = Vec::with_capacity(taken.len() + found.len());
        let mut old = taken.iter().zip(&self.barriers).peekable();
        // Behind the barriers passed so far, a place here and the same place in the original.
        let (mut here, mut there, mut done) = (0, 0, 0);
        for find in found.iter().filter(|find| find.start < find.end) {
            if find.start < done {
                continue;
            }
            while let Some((one, at)) = old.next_if(|(_, at)| **at < find.start) {
                (here, there) = (at + BARRIER.len_utf8(), one.end);
                all.push(*one);
            }
            let start = there + (find.start - here);
            while let Some((one, at)) = old.next_if(|(_, at)| **at < find.end) {
                (here, there) = (at + BARRIER.len_utf8(), one.end);
            }
            all.push(Taken { kind: find.kind, start, end: there + (find.end - here), number: None });
            done = find.end;
        }
        all.extend(old.map(|(one, _)| *one));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_that_stand_there_are_known() {
        let text = "[EMAIL] [EMAIL2] [[IP]] [ID99999] [email] [EMAIL1] [EMAIL02] [ID100000] [KEYS] [] [é] [NUMBER";
        let found: Vec<_> = placeholders(text).iter().map(|one| &text[one.start..one.end]).collect();
        assert_eq!(found, ["[EMAIL]", "[EMAIL2]", "[IP]", "[ID99999]"]);
        assert_eq!(placeholders("[NUMBER12]")[0].number, Some(12));
    }

    #[test]
    fn a_find_over_a_barrier_takes_it_in() {
        let text = "ab[IP]cd[IP]ef";
        let taken = placeholders(text);
        let masked = Masked::new(text, &taken);
        assert_eq!(masked.text(), "ab\u{fffc}cd\u{fffc}ef");
        let mut found = [
            Find { kind: Kind::Key, start: 1, end: 6 },
            Find { kind: Kind::Key, start: 5, end: 7 },
            Find { kind: Kind::Name, start: 10, end: 12 },
        ];
        let ranges: Vec<_> = masked.absorb(&taken, &mut found).iter().map(|one| &text[one.start..one.end]).collect();
        assert_eq!(ranges, ["b[IP]c", "[IP]", "ef"]);
    }
}
