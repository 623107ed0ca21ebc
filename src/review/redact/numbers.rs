//! Numbers: groups of digits, and who is asked what they are: cards first, long numbers last.

use super::context::hint;
use super::long::long;
use super::national::national;
use super::phone::{extension, phone};
use super::stays::stays;
use super::{Find, Kind, checks};

/// Digits that stand together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) start: usize,
    pub(super) end: usize,
    /// What stands between the group before and this one; none at the head of a run.
    pub(super) joint: Option<char>,
    /// Whether that is one character.
    pub(super) single: bool,
    /// Where a '+' or '(' before the digits begins.
    pub(super) lead: usize,
    pub(super) plus: bool,
    pub(super) paren: bool,
}

impl Group {
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether a dot alone stands between the group before and this one.
    pub(super) fn dotted(&self) -> bool {
        self.joined_by('.')
    }

    pub(super) fn joined_by(&self, joint: char) -> bool {
        self.single && self.joint == Some(joint)
    }
}

fn joins(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '/' | '(' | ')' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2010}'..='\u{2013}')
}

/// One of the spaces as the space, one of the hyphens as the hyphen.
fn plain(c: char) -> char {
    match c {
        '\u{a0}' | '\u{2009}' | '\u{202f}' => ' ',
        '\u{2010}'..='\u{2013}' => '-',
        c => c,
    }
}

/// Passes the runs of groups of digits.
pub(super) fn numbers(text: &str, found: &mut Vec<Find>) {
    let mut run: Vec<Group> = Vec::new();
    let mut from = 0;
    while let Some(rest) = text.get(from..) {
        let Some(offset) = rest.find(|c: char| c.is_ascii_digit()) else { break };
        let start = from + offset;
        let Some(tail) = text.get(start..) else { break };
        let end = start + tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let between = text.get(from..start).unwrap_or_default();
        // A personnummer of somebody over a hundred has a plus in it.
        let aged = between == "+" && run.last().is_some_and(|last| matches!(last.len(), 6 | 8)) && end - start == 4;
        let count = between.chars().take(4).count();
        let joined = !run.is_empty() && (1..=3).contains(&count) && (aged || between.chars().all(joins));
        if !joined {
            close(text, &mut run, found);
        }
        let (plus, paren) = (between.ends_with('+') || between.ends_with("+("), between.ends_with('('));
        let both = (plus && paren) || between.ends_with("(+");
        let lead = start - if both { 2 } else { usize::from(plus || paren) };
        let joint = joined.then(|| between.chars().next().map(plain)).flatten();
        run.push(Group { start, end, joint, single: count == 1, lead, plus, paren });
        from = end;
    }
    close(text, &mut run, found);
}

/// Finds what is in a run of groups, and empties it.
fn close(text: &str, run: &mut Vec<Group>, found: &mut Vec<Find>) {
    let (mut at, mut open) = (0, 0);
    while let Some(window) = run.get(at..).filter(|window| !window.is_empty()) {
        let Some((count, kind)) = first(text, window) else {
            at += 1;
            continue;
        };
        long(text, run.get(open..at).unwrap_or_default(), found);
        let last = window.get(count - 1);
        if let (Some(kind), Some(first), Some(last)) = (kind, window.first(), last) {
            let more = if kind == Kind::Phone { extension(text.get(last.end..).unwrap_or_default()) } else { 0 };
            let start = if kind == Kind::Phone { first.lead } else { first.start };
            found.push(Find { kind, start, end: last.end + more });
        }
        at += count;
        open = at;
    }
    long(text, run.get(open..).unwrap_or_default(), found);
    run.clear();
}

/// How many groups at the head of a run belong together and what they are; none where they stay as they are.
fn first(text: &str, window: &[Group]) -> Option<(usize, Option<Kind>)> {
    let head = window.first()?;
    let hinted = || hint(text, head.lead);
    card(text, window)
        .map(|count| (count, Some(Kind::Card)))
        .or_else(|| national(text, window, &hinted).map(|count| (count, Some(Kind::NationalId))))
        .or_else(|| stays(text, window, &hinted).map(|count| (count, None)))
        .or_else(|| phone(text, window, hinted).map(|count| (count, Some(Kind::Phone))))
}

/// The digits of groups, as values.
pub(super) fn digits(text: &str, groups: &[Group]) -> Vec<u8> {
    let group = |group: &Group| text.get(group.start..group.end).unwrap_or_default().bytes();
    groups.iter().flat_map(group).map(|byte| byte - b'0').collect()
}

pub(super) fn value(text: &str, group: &Group) -> u32 {
    // Only groups of a few digits are asked about.
    text.get(group.start..group.end).and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX)
}

/// Whether the groups are of these sizes, joined by one of these characters, the same throughout, and no more is joined
/// to them by it.
pub(super) fn shape(window: &[Group], sizes: &[usize], joints: &[char]) -> bool {
    let (Some(groups), next) = (window.get(..sizes.len()), window.get(sizes.len())) else { return false };
    let fits = groups.iter().zip(sizes).all(|(group, size)| group.len() == *size);
    let Some((head, rest)) = groups.split_first().filter(|_| fits) else { return false };
    let Some(joint) = rest.first().map(|group| group.joint) else {
        let free = |joint: Option<char>| matches!(joint, None | Some(' ' | '(' | ')'));
        return free(head.joint) && free(next.and_then(|next| next.joint));
    };
    joint.is_some_and(|joint| joints.contains(&joint))
        && rest.iter().all(|group| group.joint == joint && group.single)
        && (head.joint != joint)
        && next.is_none_or(|next| next.joint != joint)
}

/// A card number: groups as they are printed on cards, or all digits together.
fn card(text: &str, window: &[Group]) -> Option<usize> {
    const PRINTED: [&[usize]; 5] = [&[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4], &[4, 4, 4, 4, 3], &[8, 8]];
    let head = window.first()?;
    let first = text.as_bytes().get(head.start)?;
    let fraction = head.dotted() || window.get(1).is_some_and(Group::dotted);
    if !matches!(first, b'2'..=b'6') || head.plus {
        return None;
    }
    let luhn = |count: &usize| window.get(..*count).is_some_and(|groups| checks::luhn(&digits(text, groups)));
    let prefix = text.get(head.start..head.start + 2).unwrap_or_default();
    let bare = match head.len() {
        16 => true,
        13 => prefix.starts_with('4'),
        14 => matches!(prefix, "30" | "36" | "38" | "39"),
        15 => matches!(prefix, "34" | "37"),
        17..=19 => {
            matches!(prefix.as_bytes(), [b'6', _] | [b'5', b'0' | b'6'..=b'9'])
                || prefix.starts_with('4') && head.len() == 19
        }
        _ => false,
    };
    if bare && !fraction {
        return Some(1).filter(luhn);
    }
    let joined = |sizes: &&&[usize]| {
        let groups = window.get(..sizes.len()).unwrap_or_default();
        let rest = groups.get(1..).unwrap_or_default();
        let joint = rest.first().and_then(|group| group.joint);
        groups.len() == sizes.len()
            && groups.iter().zip(**sizes).all(|(group, size)| group.len() == *size)
            && matches!(joint, Some(' ' | '-' | '.'))
            && rest.iter().all(|group| group.joint == joint)
    };
    PRINTED.iter().filter(joined).map(|sizes| sizes.len()).find(luhn)
}
