//! Check digits. Digits come as values 0 to 9; a wrong count of them is never valid.

/// The Luhn checksum (ISO/IEC 7812-1): cards, Canadian SIN, Swedish personnummer.
pub(super) fn luhn(digits: &[u8]) -> bool {
    let double = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let term = |(place, digit): (usize, &u8)| u32::from(if place % 2 == 1 { double(*digit) } else { *digit });
    digits.len() > 1 && digits.iter().rev().enumerate().map(term).sum::<u32>().is_multiple_of(10)
}

/// The sum of digits times weights; none where their counts differ.
fn weighted(digits: &[u8], weights: &[u32]) -> Option<u32> {
    (digits.len() == weights.len()).then(|| digits.iter().zip(weights).map(|(d, w)| u32::from(*d) * w).sum())
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(*digit))
}

fn all_the_same(digits: &[u8]) -> bool {
    digits.windows(2).all(|pair| pair.first() == pair.last())
}

/// Characters of an IBAN by country (ISO 13616).
#[rustfmt::skip]
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24), ("AE", 23), ("AL", 28), ("AT", 20), ("AZ", 28), ("BA", 20), ("BE", 16), ("BG", 22), ("BH", 22),
    ("BI", 27), ("BR", 29), ("BY", 28), ("CH", 21), ("CR", 22), ("CY", 28), ("CZ", 24), ("DE", 22), ("DJ", 27),
    ("DK", 18), ("DO", 28), ("EE", 20), ("EG", 29), ("ES", 24), ("FI", 18), ("FK", 18), ("FO", 18), ("FR", 27),
    ("GB", 22), ("GE", 22), ("GI", 23), ("GL", 18), ("GR", 27), ("GT", 28), ("HN", 28), ("HR", 21), ("HU", 28),
    ("IE", 22), ("IL", 23), ("IQ", 23), ("IS", 26), ("IT", 27), ("JO", 30), ("KW", 30), ("KZ", 20), ("LB", 28),
    ("LC", 32), ("LI", 21), ("LT", 20), ("LU", 20), ("LV", 21), ("LY", 25), ("MC", 27), ("MD", 24), ("ME", 22),
    ("MK", 19), ("MN", 20), ("MR", 27), ("MT", 31), ("MU", 30), ("NI", 28), ("NL", 18), ("NO", 15), ("OM", 23),
    ("PK", 24), ("PL", 28), ("PS", 29), ("PT", 25), ("QA", 29), ("RO", 24), ("RS", 22), ("RU", 33), ("SA", 24),
    ("SC", 31), ("SD", 18), ("SE", 24), ("SI", 19), ("SK", 24), ("SM", 27), ("SO", 23), ("ST", 25), ("SV", 28),
    ("TL", 23), ("TN", 24), ("TR", 26), ("UA", 29), ("VA", 22), ("VG", 24), ("XK", 20), ("YE", 30),
];

/// How long the IBANs of a country are.
pub(super) fn iban_length(country: &str) -> Option<usize> {
    IBAN_LENGTHS.iter().find(|(code, _)| code.eq_ignore_ascii_case(country)).map(|(_, length)| *length)
}

/// ISO 7064 MOD 97-10 over letters and digits, the first four moved behind the others.
pub(super) fn iban(compact: &str) -> bool {
    let Some((head, tail)) = compact.split_at_checked(4) else { return false };
    if head.get(..2).and_then(iban_length) != Some(compact.len()) {
        return false;
    }
    let step = |rest: u32, c: char| c.to_digit(36).map(|v| (rest * if v > 9 { 100 } else { 10 } + v) % 97);
    tail.chars().chain(head.chars()).try_fold(0, step) == Some(1)
}

/// A US social security number: neither area, group nor serial are among those never given.
pub(super) fn ssn(digits: &[u8]) -> bool {
    let [area, group, serial] = [0..3, 3..5, 5..9].map(|range| digits.get(range).map(number));
    let (Some(area), Some(group), Some(serial)) = (area, group, serial) else { return false };
    digits.len() == 9 && !matches!(area, 0 | 666 | 900..) && group > 0 && serial > 0
}

/// A UK national insurance number: two letters, six digits, a letter from A to D. QQ is that of official examples.
pub(super) fn nino(compact: &str) -> bool {
    let [a, b, digits @ .., last] = compact.as_bytes() else { return false };
    let (a, b) = (a.to_ascii_uppercase(), b.to_ascii_uppercase());
    let pair = [a, b];
    let first = a.is_ascii_uppercase() && !b"DFIQUV".contains(&a);
    let second = b.is_ascii_uppercase() && !b"DFIOQUV".contains(&b);
    let given = !["BG", "GB", "NK", "KN", "TN", "NT", "ZZ"].iter().any(|never| never.as_bytes() == pair);
    let body = digits.len() == 6 && digits.iter().all(u8::is_ascii_digit);
    (first && second && given || pair == *b"QQ") && body && matches!(last.to_ascii_uppercase(), b'A'..=b'D')
}

/// A German Steuer-ID: ISO 7064 MOD 11,10; of the first ten digits exactly one stands twice or three times.
pub(super) fn steuer_id(digits: &[u8]) -> bool {
    let (Some((check, body)), true) = (digits.split_last(), digits.len() == 11) else { return false };
    let count = |digit: u8| body.iter().filter(|other| **other == digit).count();
    let counts = (0..10).map(count);
    let (repeated, more) = counts.fold((0, 0), |(repeated, more), count| match count {
        0 | 1 => (repeated, more),
        2 | 3 => (repeated + 1, more),
        _ => (repeated, more + 1),
    });
    let product = body.iter().fold(10, |product, digit| {
        let sum = match (u32::from(*digit) + product) % 10 {
            0 => 10,
            sum => sum,
        };
        sum * 2 % 11
    });
    digits.first() != Some(&0) && repeated == 1 && more == 0 && (11 - product) % 10 == u32::from(*check)
}

/// A French NIR of 13 digits and its key; in Corsica the department is 2A or 2B.
pub(super) fn nir(compact: &str) -> bool {
    let upper = compact.to_ascii_uppercase();
    let (Some(head), Some(department), Some(tail)) = (upper.get(..5), upper.get(5..7), upper.get(7..)) else {
        return false;
    };
    let department = match department {
        "2A" => "19",
        "2B" => "18",
        other => other,
    };
    let whole = format!("{head}{department}{tail}");
    let (Some(body), Some(key)) = (whole.get(..13), whole.get(13..)) else { return false };
    if whole.len() != 15 || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let (Ok(body), Ok(key), Ok(month)) =
        (body.parse::<u64>(), key.parse::<u64>(), whole.get(3..5).unwrap_or_default().parse::<u32>())
    else {
        return false;
    };
    let sex = matches!(whole.as_bytes().first(), Some(b'1'..=b'4' | b'7' | b'8'));
    sex && matches!(month, 1..=12 | 20..=42 | 50..=99) && 97 - body % 97 == key
}

/// A Spanish DNI (eight digits and a letter) or NIE (X, Y or Z, seven digits and a letter).
pub(super) fn dni(compact: &str) -> bool {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let [first, middle @ .., last] = compact.as_bytes() else { return false };
    let first = match first.to_ascii_uppercase() {
        letter @ b'X'..=b'Z' => letter - b'X',
        digit @ b'0'..=b'9' => digit - b'0',
        _ => return false,
    };
    if middle.len() != 7 || !middle.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = middle.iter().fold(usize::from(first), |sum, byte| sum * 10 + usize::from(byte - b'0'));
    LETTERS.get(number % 23) == Some(&last.to_ascii_uppercase())
}

/// An Italian codice fiscale: its pattern, with letters for digits where two people would share one, and its last letter.
pub(super) fn codice_fiscale(compact: &str) -> bool {
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let upper = compact.to_ascii_uppercase();
    let fits = |(place, byte): (usize, u8)| match place {
        6 | 7 | 9 | 10 | 12..=14 => byte.is_ascii_digit() || b"LMNPQRSTUV".contains(&byte),
        8 => b"ABCDEHLMPRST".contains(&byte),
        _ => byte.is_ascii_uppercase(),
    };
    if upper.len() != 16 || !upper.bytes().enumerate().all(fits) {
        return false;
    }
    let value = |byte: u8| usize::from(if byte.is_ascii_digit() { byte - b'0' } else { byte - b'A' });
    let term = |(place, byte): (usize, u8)| match place % 2 {
        0 => ODD.get(value(byte)).copied().unwrap_or_default(),
        _ => value(byte) as u32,
    };
    let sum: u32 = upper.bytes().take(15).enumerate().map(term).sum();
    upper.bytes().last().is_some_and(|last| u32::from(last - b'A') == sum % 26)
}

/// A Dutch BSN: the eleven test, with the last digit counting -1.
pub(super) fn bsn(digits: &[u8]) -> bool {
    // 10 is -1 modulo 11.
    number(digits) > 0 && weighted(digits, &[9, 8, 7, 6, 5, 4, 3, 2, 10]).is_some_and(|sum| sum.is_multiple_of(11))
}

/// A day of a month, in a year of two digits.
fn date(month: u64, day: u64) -> bool {
    (1..=12).contains(&month) && (1..=31).contains(&day)
}

/// A Polish PESEL: a date with the century in its month, and a check digit.
pub(super) fn pesel(digits: &[u8]) -> bool {
    let (Some(month), Some(day)) = (digits.get(2..4).map(number), digits.get(4..6).map(number)) else { return false };
    date(month % 20, day)
        && weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_some_and(|sum| sum.is_multiple_of(10))
}

/// A Brazilian CPF: two check digits, not all digits the same.
pub(super) fn cpf(digits: &[u8]) -> bool {
    let check = |upto: usize| {
        let sum: usize =
            digits.iter().take(upto).enumerate().map(|(place, d)| (upto + 1 - place) * usize::from(*d)).sum();
        digits.get(upto).map(|digit| usize::from(*digit)) == Some(sum * 10 % 11 % 10)
    };
    digits.len() == 11 && !all_the_same(digits) && check(9) && check(10)
}

/// An Indian Aadhaar number: twelve digits, the first from 2 to 9, with the Verhoeff checksum.
pub(super) fn aadhaar(digits: &[u8]) -> bool {
    digits.len() == 12 && digits.first() > Some(&1) && verhoeff(digits)
}

/// The Verhoeff checksum, in the dihedral group of order ten.
fn verhoeff(digits: &[u8]) -> bool {
    const PERMUTED: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    let product = |a: u8, b: u8| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => 5 + (a + b) % 5,
        (false, true) => 5 + (a - b) % 5,
        (false, false) => (5 + a - b) % 5,
    };
    let step = |sum: u8, (place, digit): (usize, &u8)| {
        let permuted = PERMUTED.get(place % 8).and_then(|row| row.get(usize::from(*digit))).copied();
        product(sum, permuted.unwrap_or_default())
    };
    digits.iter().rev().enumerate().fold(0, step) == 0
}

/// A Swedish personnummer of ten digits, or twelve with the century; a coordination number's day is 60 more.
pub(super) fn personnummer(digits: &[u8]) -> bool {
    let digits = match digits {
        [_, _, rest @ ..] if rest.len() == 10 => rest,
        digits => digits,
    };
    let (Some(month), Some(day)) = (digits.get(2..4).map(number), digits.get(4..6).map(number)) else { return false };
    digits.len() == 10 && date(month, if day > 60 { day - 60 } else { day }) && luhn(digits)
}

/// An ISBN of ten digits (the last may be X, as 10) or thirteen.
pub(super) fn isbn(digits: &[u8]) -> bool {
    match digits {
        [9, 7, 8 | 9, ..] if digits.len() == 13 => {
            weighted(digits, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]).is_some_and(|sum| sum.is_multiple_of(10))
        }
        _ => weighted(digits, &[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]).is_some_and(|sum| sum.is_multiple_of(11)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(digits: &str) -> Vec<u8> {
        digits.bytes().filter(u8::is_ascii_digit).map(|byte| byte - b'0').collect()
    }

    /// Each is valid as it stands, and no longer so when its last digit or letter is the next one.
    #[track_caller]
    fn each(check: impl Fn(&str) -> bool, valid: &[&str]) {
        for text in valid {
            assert!(check(text), "{text}");
            let (body, last) = text.split_at(text.len() - 1);
            let next = match last.as_bytes()[0] {
                b'9' => '0',
                b'Z' => 'A',
                byte => char::from(byte + 1),
            };
            let wrong = format!("{body}{next}");
            assert!(!check(&wrong), "{wrong}");
            for cut in 0..text.len() {
                assert!(!check(&text[..cut]), "{}", &text[..cut]);
            }
            assert!(!check(&format!("{text}{text}")));
        }
    }

    #[track_caller]
    fn each_number(check: fn(&[u8]) -> bool, valid: &[&str]) {
        for text in valid {
            let digits = values(text);
            assert!(check(&digits), "{text}");
            let mut wrong = digits.clone();
            let last = wrong.last_mut().expect("a digit");
            *last = (*last + 1) % 10;
            assert!(!check(&wrong), "{wrong:?}");
            wrong.clone_from(&digits);
            wrong.pop();
            wrong.pop();
            wrong.pop();
            assert!(!check(&wrong), "{wrong:?}");
        }
        assert!(!check(&[]) && !check(&[0]) && !check(&[9; 40]));
    }

    // Most of the valid numbers here were drawn by chance and passed by python-stdnum.
    #[test]
    fn numbers_with_check_digits() {
        each_number(steuer_id, &["45836207880", "49919073854", "65934285753", "86095742719", "47036892816"]);
        each_number(bsn, &["628194821", "252760189", "507529170", "111222333"]);
        each_number(pesel, &["28831436676", "85900314491", "50090518772", "44051401359"]);
        each_number(cpf, &["18455345306", "32798378710", "38239778577", "12345678909"]);
        each_number(aadhaar, &["559169495541", "665249155606", "403065777876"]);
        each_number(personnummer, &["170825-0277", "801208-8111", "590512-3120", "19811228-9874"]);
        each_number(isbn, &["9783161484100", "9780306406157"]);
        assert!(isbn(&values("0306406152")) && isbn(&[0, 8, 0, 4, 4, 2, 9, 5, 7, 10]) && !isbn(&values("0306406153")));
        for valid in ["382440766", "264300484", "046454286", "4111111111111111", "378282246310005"] {
            assert!(luhn(&values(valid)), "{valid}");
        }
        assert!(!luhn(&values("382440767")) && !luhn(&values("4111111111111112")) && !luhn(&[]));
    }

    #[test]
    fn what_repeats_too_much_is_no_id() {
        // Right check digits, but two digits stand twice, none does, or one stands four times.
        assert!(!steuer_id(&values("11223456789")) && !steuer_id(&values("12345678903")));
        assert!(!cpf(&values("11111111111")) && !bsn(&values("000000000")));
    }

    #[test]
    fn social_security_numbers_leave_some_out() {
        assert!(ssn(&values("078-05-1120")) && ssn(&values("899999999")));
        for never in ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "12-34-567"] {
            assert!(!ssn(&values(never)), "{never}");
        }
    }

    #[test]
    fn ids_with_letters() {
        each(nir, &["212682981787336", "206265156609993", "222052A68184011", "162052B76916147"]);
        each(dni, &["70657023B", "49993490T", "50867433N", "Y7500581L", "X7762364W", "Z1861626B", "12345678Z"]);
        each(codice_fiscale, &["YCFRXF10M08C108O", "ZJSGUU33D01D345A", "ODCCBL24B03A917J", "RSSMRA85T10A562S"]);
        assert!(codice_fiscale("rssmra85t10a562s"));
        for valid in ["AB123456C", "ab123456d", "QQ123456C"] {
            assert!(nino(valid), "{valid}");
        }
        for never in ["DA123456A", "AO123456A", "BG123456A", "AB123456E", "AB12345C", "A1123456A", "", "AB"] {
            assert!(!nino(never), "{never}");
        }
    }

    #[test]
    fn ibans_have_the_length_of_their_country() {
        let valid = [
            "DE89370400440532013000",
            "GB29NWBK60161331926819",
            "FR1420041010050500013M02606",
            "NL91ABNA0417164300",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "BR9700360305000010009795493P1",
        ];
        for text in valid {
            assert!(iban(text) && iban(&text.to_lowercase()), "{text}");
            let (head, tail) = text.split_at(2);
            assert!(!iban(&format!("{head}{}{}", &tail[1..2], &tail[..1])) && !iban(&format!("{text}0")), "{text}");
            assert!(!iban(&format!("XX{tail}")));
        }
        assert!(!iban("DE89370400440532013001") && !iban("") && !iban("DEé9"));
    }
}
