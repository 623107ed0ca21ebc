//! Long numbers that are none of the others.

use super::context::{Hint, hint};
use super::numbers::{Group, digits};
use super::{Find, Kind};

/// How many digits make a number that nobody writes for its size.
const LONG: usize = 9;

/// Long numbers in what is left of a run: chains of groups with the same joint, one after the other.
pub(super) fn long(text: &str, mut groups: &[Group], found: &mut Vec<Find>) {
    if (2..=8).contains(&groups.len()) && is_long(text, groups) && numbered(text, groups) {
        push(text, groups, found);
        return;
    }
    while let Some(rest) = groups.get(1..) {
        let joint = rest.first().filter(|group| group.single).and_then(|group| group.joint);
        let more = joint.map_or(0, |joint| rest.iter().take_while(|group| group.joined_by(joint)).count());
        let (chain, last) = groups.split_at((more + 1).min(groups.len()));
        match joint.filter(|joint| grouped(text, chain, *joint)) {
            Some(_) => push(text, chain, found),
            // A list of small numbers may have a long one in it.
            None => {
                for part in chain.split(|group| group.len() < 3).filter(|part| !part.is_empty()) {
                    match joint.filter(|joint| *joint != '.' && grouped(text, part, *joint)) {
                        Some(_) => push(text, part, found),
                        None => part.chunks(1).filter(|one| is_long(text, one)).for_each(|one| push(text, one, found)),
                    }
                }
            }
        }
        groups = last;
    }
}

/// Whether a word before the groups says that they are somebody's number.
fn numbered(text: &str, groups: &[Group]) -> bool {
    let said = groups.first().and_then(|first| hint(text, first.lead));
    said.is_some_and(|said| said != Hint::Version && said != Hint::Isbn)
}

fn is_long(text: &str, groups: &[Group]) -> bool {
    groups.iter().map(Group::len).sum::<usize>() >= LONG && !hollow(text, groups)
}

fn push(text: &str, groups: &[Group], found: &mut Vec<Find>) {
    if let (Some(first), Some(last)) = (groups.first(), groups.last()) {
        let (start, end) = word(text, first.start, last.end);
        found.push(Find { kind: Kind::Digits, start, end });
    }
}

/// The letters and digits that an ASCII word of a number goes on with on both sides, such as a parcel's `RR..DE`.
fn word(text: &str, start: usize, end: usize) -> (usize, usize) {
    // A longer word is no number of anything; the bound keeps hostile ones linear.
    const SIDE: usize = 24;
    let letter = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    let left = bytes.get(..start).unwrap_or_default().iter().rev().take(SIDE).take_while(|byte| letter(byte)).count();
    let right = bytes.get(end..).unwrap_or_default().iter().take(SIDE).take_while(|byte| letter(byte)).count();
    (start - left, end + right)
}

/// A number that says nothing: round, or one digit over and over.
fn hollow(text: &str, groups: &[Group]) -> bool {
    let digits = digits(text, groups);
    let zeros = digits.iter().rev().take_while(|digit| **digit == 0).count();
    (zeros >= 6 && digits.len() - zeros <= 3) || digits.windows(2).all(|pair| pair.first() == pair.last())
}

/// Whether groups with one joint between them are one long number, and not a list, a range or a version.
fn grouped(text: &str, groups: &[Group], joint: char) -> bool {
    let sizes: Vec<usize> = groups.iter().map(Group::len).collect();
    let least = sizes.iter().min().copied().unwrap_or_default();
    let most = sizes.iter().max().copied().unwrap_or_default();
    let (Some(first), Some((last, front))) = (groups.first(), sizes.split_last()) else { return false };
    if groups.len() < 2 || !is_long(text, groups) {
        return false;
    }
    let even =
        || front.iter().all(|size| Some(size) == front.first() && *size >= 3) && last <= front.first().unwrap_or(&0);
    // Signs join the numbers of a file name or an address, too.
    let word = text.get(..first.start).is_some_and(|head| head.ends_with(|c: char| c.is_ascii_alphabetic()));
    match joint {
        _ if word && joint != ' ' => false,
        '-' => most >= 3,
        ' ' => even() || least >= 3,
        '.' => least >= 4,
        '/' => least >= 3,
        _ => false,
    }
}
