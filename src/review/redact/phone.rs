//! What digits that stand in groups must look like to be a telephone number.

use super::context::Hint;
use super::numbers::Group;

/// How many groups one telephone number has at most.
pub(super) const GROUPS: usize = 8;

/// How many of the groups at the head are a telephone number.
pub(super) fn phone(text: &str, window: &[Group], hint: impl Fn() -> Option<Hint>) -> Option<usize> {
    let first = window.first()?;
    let most = window.len().min(GROUPS);
    let of = |count: usize| window.get(..count);
    if first.plus {
        return international(text, window);
    }
    // A word that goes on into the digits, or on from them, makes no telephone number.
    let glued = |count: usize| {
        let after = of(count).and_then(<[Group]>::last).and_then(|last| text.get(last.end..));
        let behind =
            after.is_some_and(|after| after.starts_with(|c: char| c.is_ascii_alphabetic()) && extension(after) == 0);
        behind
            || text.get(..first.lead).is_some_and(|head| head.ends_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
    };
    // A chain that goes on is another number.
    let cut = |groups: &[Group], next: Option<&Group>| {
        let joint = groups.get(1).and_then(|group| group.joint).filter(|joint| *joint != ' ');
        joint.is_some() && (first.joint == joint || next.is_some_and(|next| next.joint == joint))
    };
    let fits = |count: &usize| {
        let next = window.get(*count);
        of(*count).is_some_and(|groups| !cut(groups, next) && shaped(text, groups, next, &hint))
    };
    // 2014: 6,494 2019: 3,849
    let figure = text.get(..first.lead).is_some_and(|head| head.ends_with([',', ':', '.', '>']));
    let said = |count: &usize| match hint() {
        Some(Hint::Phone) => of(*count).is_some_and(called),
        Some(Hint::Number) => !figure && of(*count).is_some_and(|groups| called(groups) && numbered(groups)),
        _ => false,
    };
    let found = (1..=most).rev().find(fits).or_else(|| (1..=most).rev().find(said))?;
    (!glued(found)).then_some(found)
}

fn total(groups: &[Group]) -> usize {
    groups.iter().map(Group::len).sum()
}

/// Digits of a whole number in countries where that is fixed, by how it begins.
#[rustfmt::skip]
const WHOLE: [(&str, usize); 24] = [
    ("1", 11), ("7", 11), ("20", 12), ("27", 11), ("30", 12), ("31", 11), ("32", 11), ("33", 11), ("34", 11),
    ("41", 11), ("44", 12), ("45", 10), ("46", 11), ("47", 10), ("48", 11), ("52", 12), ("55", 13), ("61", 11),
    ("64", 11), ("65", 10), ("81", 12), ("86", 13), ("91", 12), ("351", 12),
];

/// A number with a country's code, behind a plus.
fn international(text: &str, window: &[Group]) -> Option<usize> {
    let most = (1..window.len().min(GROUPS)).find(|at| window.get(*at).is_some_and(|group| group.plus));
    let most = most.unwrap_or(window.len().min(GROUPS));
    let counts = || (1..=most).filter(|count| window.get(..*count).is_some_and(|w| (8..=15).contains(&total(w))));
    let digits: String = window.iter().take(3).filter_map(|group| text.get(group.start..group.end)).collect::<String>();
    let whole = WHOLE.iter().find(|(code, _)| digits.starts_with(code)).map(|(_, whole)| *whole);
    // One digit more where a (0) is written along.
    let exact = |count: &usize| {
        window.get(..*count).is_some_and(|w| {
            let zero = w.iter().any(|group| group.paren && text.get(group.start..group.end) == Some("0"));
            Some(total(w) - usize::from(zero)) == whole
        })
    };
    counts().find(exact).or_else(|| counts().next_back())
}

/// Whether the groups look like one telephone number without a word that says so.
fn shaped(text: &str, groups: &[Group], next: Option<&Group>, hint: &impl Fn() -> Option<Hint>) -> bool {
    let [first, rest @ ..] = groups else { return false };
    let total = total(groups);
    if rest.iter().any(|group| group.plus) {
        return false;
    }
    let digits = text.get(first.start..first.end).unwrap_or_default();
    let second = rest.first().and_then(|group| text.get(group.start..group.end)).unwrap_or_default();
    let zero = digits.starts_with('0') && (digits.len() > 1 || first.paren);
    if digits.starts_with("00") && (10..=17).contains(&total) {
        return hint() != Some(Hint::Account);
    }
    let sizes: Vec<usize> = groups.iter().map(Group::len).collect();
    let area = |digits: &str| matches!(digits.as_bytes().first(), Some(b'2'..=b'9'));
    let spaced = rest.iter().all(|group| group.joint == Some(' '));
    match sizes.as_slice() {
        // A decimal fraction is no telephone number.
        [_] if first.dotted() || next.is_some_and(Group::dotted) => false,
        [9..=12] => {
            let head = text.get(..first.lead).unwrap_or_default();
            bare(digits) && !head.ends_with(['/', '=', '#', '_', '.']) && hint() != Some(Hint::Account)
        }
        [3, 4] => {
            let hyphen = rest.first().is_some_and(|group| group.joint == Some('-'));
            // 500-1500 is a range.
            let range = (digits.ends_with('0') && second.ends_with('0'))
                || second.starts_with("19")
                || second.starts_with("20");
            hyphen && first.joint.is_none() && next.is_none() && area(digits) && !range
        }
        [3, 3, 4] => (area(digits) || zero || first.paren || !spaced) && !rest.iter().any(|group| group.paren),
        [1, 3, 3, 4] => matches!(digits, "1" | "7" | "8") || rest.first().is_some_and(|group| group.paren),
        [1, 3, 3, 2, 2] => matches!(digits, "7" | "8"),
        [1, 10] => digits == "1" && area(second),
        [3, 7] => area(digits) || zero,
        [3, 3, 3] => spaced && matches!(digits.as_bytes().first(), Some(b'5'..=b'9')),
        [3, 2, 2, 2] | [3, 3, 2, 2] => true,
        [2, 3, 2, 2] | [3, 2, 3] => spaced && first.joint.is_none() && next.is_none(),
        [2, 2, 2, 2] => zero && rest.first().is_some_and(|group| group.joint == Some('-')) && next.is_none(),
        [4, 3, 3] => zero || digits.starts_with('1'),
        [2, 5, 4] => true,
        [2, 4, 4] => first.paren || rest.iter().all(|group| group.joint != Some('.')),
        [3, 4, 4] => zero || digits.starts_with('1') || first.paren,
        [5, 5] => matches!(digits.as_bytes().first(), Some(b'0' | b'6'..=b'9')),
        [5, 6] => zero || digits.starts_with('7'),
        [2, 2, 4, ..] | [1] => false,
        [head, _, ..] => {
            let apart = first.joint.is_none() && next.is_none() && !digits.starts_with("00");
            let least = if *head >= 3 && apart { 8 } else { 9 };
            (zero || first.paren) && (least..=13).contains(&total) && !rest.iter().all(|group| group.len() == 1)
        }
        _ => false,
    }
}

/// Whether digits that stand together can be a number as it is dialled within a country.
fn bare(digits: &str) -> bool {
    match digits.as_bytes() {
        [b'0', b'1'..=b'9', rest @ ..] => rest.len() >= 7,
        [b'2'..=b'9', _, _, b'2'..=b'9', ..] if digits.len() == 10 => true,
        [b'6'..=b'9', ..] if digits.len() == 10 => true,
        [b'1', b'2'..=b'9', ..] if digits.len() == 11 => true,
        [b'7' | b'8', b'3' | b'4' | b'8' | b'9', ..] if digits.len() == 11 => true,
        [b'9', b'1', b'6'..=b'9', ..] if digits.len() == 12 => true,
        [b'4', b'4', b'1' | b'2' | b'7', ..] if digits.len() == 12 => true,
        _ => false,
    }
}

/// Whether groups may be a telephone number where a word says that it is one.
fn called(groups: &[Group]) -> bool {
    let rest = groups.get(1..).unwrap_or_default();
    (7..=15).contains(&total(groups)) && groups.len() <= 6 && !rest.iter().any(|group| group.plus)
}

/// Whether groups are more likely a telephone number than another where a word says that they are a number.
fn numbered(groups: &[Group]) -> bool {
    (groups.len() >= 3 && total(groups) <= 10) || (groups.len() == 1 && total(groups) == 8)
}

/// The bytes of an extension behind a number: `ext. 12`, `x12`.
pub(super) fn extension(after: &str) -> usize {
    let trimmed = after.trim_start_matches([' ', ',']);
    if after.len() - trimmed.len() > 2 {
        return 0;
    }
    let lower = super::context::head(trimmed, 10).to_ascii_lowercase();
    let Some(word) = ["extension", "ext.", "ext", "x"].iter().find(|word| lower.starts_with(**word)) else { return 0 };
    let rest = trimmed.get(word.len()..).unwrap_or_default();
    let digits = rest.strip_prefix(' ').unwrap_or(rest);
    let len = digits.bytes().take(7).take_while(u8::is_ascii_digit).count();
    let ends = !digits.get(len..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()));
    if (1..=6).contains(&len) && ends { after.len() - digits.len() + len } else { 0 }
}
