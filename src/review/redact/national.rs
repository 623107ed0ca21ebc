//! National identity numbers of digits alone.

use super::checks;
use super::context::{Hint, is_amount, said_after};
use super::numbers::{Group, digits, shape};

const SEPARATORS: [char; 2] = [' ', '-'];

/// A check of digits.
type Check = fn(&[u8]) -> bool;

/// A national identity number by its groups and check digits.
pub(super) fn national(text: &str, window: &[Group], hinted: &impl Fn() -> Option<Hint>) -> Option<usize> {
    let head = window.first()?;
    // Digits that a word goes on into are a part of something else.
    if head.plus || text.get(..head.start).is_some_and(|head| head.ends_with(|c: char| c.is_ascii_alphabetic())) {
        return None;
    }
    let valid = |count: usize, check: Check| window.get(..count).is_some_and(|groups| check(&digits(text, groups)));
    let grouped: [(&[usize], &[char], Check); 7] = [
        (&[3, 2, 4], &SEPARATORS, checks::ssn),
        (&[3, 3, 3], &SEPARATORS, checks::luhn),
        (&[4, 4, 4], &SEPARATORS, checks::aadhaar),
        (&[2, 3, 3, 3], &[' '], checks::steuer_id),
        (&[6, 4], &['-', '+'], checks::personnummer),
        (&[8, 4], &['-', '+'], checks::personnummer),
        (&[11], &[], eleven),
    ];
    for (sizes, joints, check) in grouped {
        // Round thousands are an amount, and a telephone number is called one.
        let fits = shape(window, sizes, joints) && valid(sizes.len(), check);
        if fits && hinted() != Some(Hint::Phone) && !is_amount(text, head.start, head.end) {
            return Some(sizes.len());
        }
    }
    // Their check digits are sure enough whatever stands between the groups.
    let sized: [(&[usize], Check); 5] = [
        (&[1, 2, 2, 2, 3, 3, 2], nir),
        (&[13, 2], nir),
        (&[15], nir),
        (&[3, 3, 3, 2], checks::cpf),
        (&[9, 2], checks::cpf),
    ];
    let fits = |sizes: &[usize]| window.iter().take(sizes.len()).map(Group::len).eq(sizes.iter().copied());
    if let Some((sizes, _)) = sized.iter().find(|(sizes, check)| fits(sizes) && valid(sizes.len(), *check)) {
        return Some(sizes.len());
    }
    said(text, window, &valid, hinted)
}

/// Those that are only known by the word beside them.
fn said(
    text: &str,
    window: &[Group],
    valid: &impl Fn(usize, Check) -> bool,
    hinted: &impl Fn() -> Option<Hint>,
) -> Option<usize> {
    let whole = |length: usize| shape(window, &[length], &[]);
    if whole(9) || whole(12) || whole(8) {
        match hinted() {
            Some(Hint::Ssn) if valid(1, checks::ssn) => return Some(1),
            Some(Hint::Sin) if whole(9) && valid(1, checks::luhn) => return Some(1),
            Some(Hint::Aadhaar) if valid(1, checks::aadhaar) => return Some(1),
            _ => {}
        }
    }
    let dutch = match () {
        () if whole(9) => 1,
        () if shape(window, &[4, 2, 3], &['.', ' ', '-']) => 3,
        () if shape(window, &[3, 3, 3], &['.', ' ', '-']) => 3,
        () => return None,
    };
    let near = || {
        let end = window.get(dutch - 1).map_or(0, |last| last.end);
        hinted() == Some(Hint::Bsn) || said_after(text, end, Hint::Bsn)
    };
    (valid(dutch, checks::bsn) && near()).then_some(dutch)
}

fn nir(digits: &[u8]) -> bool {
    checks::nir(&digits.iter().map(|digit| char::from(digit + b'0')).collect::<String>())
}

/// The identity numbers of eleven digits.
fn eleven(digits: &[u8]) -> bool {
    checks::steuer_id(digits) || checks::pesel(digits) || checks::cpf(digits)
}
