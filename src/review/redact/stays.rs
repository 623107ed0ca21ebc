//! Numbers that name nobody.

use super::checks;
use super::context::{Hint, is_amount};
use super::numbers::{Group, digits, value};

/// How many groups at the head stay as they are: dates, years, decimals, amounts, ISBNs.
pub(super) fn stays(text: &str, window: &[Group], hinted: &impl Fn() -> Option<Hint>) -> Option<usize> {
    let head = window.first()?;
    if head.plus {
        return None;
    }
    isbn(text, window, hinted)
        .or_else(|| date(text, window))
        .or_else(|| years(text, window))
        .or_else(|| decimal(text, window))
        .or_else(|| amount(text, window, hinted))
}

fn isbn(text: &str, window: &[Group], hinted: &impl Fn() -> Option<Hint>) -> Option<usize> {
    for count in 1..=window.len().min(5) {
        let Some(groups) = window.get(..count) else { break };
        let total: usize = groups.iter().map(Group::len).sum();
        if total > 13 {
            break;
        }
        if !matches!(total, 9 | 10 | 13) || window.get(count).is_some_and(|next| next.joint == Some('-')) {
            continue;
        }
        let mut digits = digits(text, groups);
        let after = text.get(groups.last()?.end..).unwrap_or_default();
        if total == 9 && after.trim_start_matches('-').starts_with(['X', 'x']) {
            digits.push(10);
        }
        // Ten digits are only an ISBN in four groups, or where it is said.
        let hyphens = groups.iter().skip(1).all(|group| group.joined_by('-'));
        let parts = count == 4 || (count == 3 && total == 9);
        let likely = total == 13 || (parts && hyphens && digits.len() == 10);
        if checks::isbn(&digits) && (likely || hinted() == Some(Hint::Isbn)) {
            return Some(count);
        }
    }
    None
}

/// Day, month and year in any order, one separator between them.
fn date(text: &str, window: &[Group]) -> Option<usize> {
    let [a, b, c, ..] = window else { return None };
    let joint = b.joint.filter(|joint| matches!(joint, '-' | '.' | '/') && b.single)?;
    let apart = window.get(3).is_none_or(|next| next.joint != Some(joint));
    if !c.joined_by(joint) || !apart || [a, b, c].iter().any(|group| !matches!(group.len(), 1 | 2 | 4)) {
        return None;
    }
    let day_month = |x: &Group, y: &Group| {
        let (x, y) = (value(text, x), value(text, y));
        (1..=31).contains(&x) && (1..=31).contains(&y) && x.min(y) <= 12
    };
    let year = |group: &Group| group.len() == 4 && (1000..=2999).contains(&value(text, group));
    let dated = (year(a) && day_month(b, c) && b.len() < 4 && c.len() < 4)
        || ((year(c) || c.len() == 2) && day_month(a, b) && a.len() < 4 && b.len() < 4);
    dated.then_some(3)
}

/// Years, from one to another or in a row.
fn years(text: &str, window: &[Group]) -> Option<usize> {
    let year = |group: &&Group| group.len() == 4 && (1900..=2099).contains(&value(text, group));
    // A longer row is no row of years, and hostile ones are.
    let count = window.iter().take(8).take_while(year).count();
    let [from, to, ..] = window else { return None };
    // 2019-20
    let short = window.len() == 2 && year(&from) && to.len() == 2 && to.joined_by('-');
    (count >= 2 && window.len() == count).then_some(count).or(short.then_some(2))
}

/// A number with a fraction: two groups with a dot between them, and no more dots.
fn decimal(text: &str, window: &[Group]) -> Option<usize> {
    let [whole, fraction, rest @ ..] = window else { return None };
    let integer = text.get(whole.start..whole.end).unwrap_or_default();
    let plain = integer == "0" || !integer.starts_with('0');
    let last = rest.first().is_none_or(|next| next.joint != Some('.') && !(next.single && next.joint == Some('-')));
    (plain && last && fraction.dotted() && whole.joint != Some('.')).then_some(2)
}

/// A sum of money, or a number whose thousands are set apart.
fn amount(text: &str, window: &[Group], hinted: &impl Fn() -> Option<Hint>) -> Option<usize> {
    let head = window.first()?;
    let thousands = |joint: char| {
        if head.joint == Some(joint) {
            return None;
        }
        let rest = window.get(1..).unwrap_or_default();
        let more = rest.iter().take_while(|group| group.joined_by(joint) && group.len() == 3).count();
        let next = rest.get(more);
        let apart = next.is_none_or(|next| !matches!(next.joint, Some('-')) && next.joint != Some(joint));
        let led = text.as_bytes().get(head.start) != Some(&b'0');
        (more > 0 && head.len() <= 3 && led && apart).then_some(more + 1)
    };
    let said = |count: usize| {
        if text.as_bytes().get(head.start) == Some(&b'0') {
            return false;
        }
        let end = window.get(count - 1).map_or(head.end, |last| last.end);
        is_amount(text, head.start, end)
    };
    if let Some(count) = thousands('.') {
        let numbered = matches!(hinted(), Some(Hint::Account | Hint::Phone));
        return (!numbered || said(count)).then_some(count);
    }
    if let Some(count) = thousands(' ') {
        let round = window.get(1..count)?.iter().any(|group| text.get(group.start..group.end) == Some("000"));
        if said(count) || ((head.len() < 3 || round) && hinted().is_none()) {
            return Some(count);
        }
    }
    said(1).then_some(1)
}
