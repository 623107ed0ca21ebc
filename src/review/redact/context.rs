//! What the words before a number say of it.

/// What a number is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    Phone,
    /// An account, a customer, a parcel.
    Account,
    /// A number of somebody's, of whatever kind.
    Number,
    Ssn,
    Sin,
    Aadhaar,
    Bsn,
    SteuerId,
    Pesel,
    Cpf,
    Isbn,
    /// A version, a section: dots that are no address.
    Version,
}

/// How many bytes before a number are looked at.
const REACH: usize = 40;

/// The last `bytes` of a text, or a little less.
pub(super) fn tail(text: &str, bytes: usize) -> &str {
    let from = (text.len().saturating_sub(bytes)..=text.len()).find(|at| text.is_char_boundary(*at));
    from.and_then(|from| text.get(from..)).unwrap_or_default()
}

/// The first `bytes` of a text, or a little less.
pub(super) fn head(text: &str, bytes: usize) -> &str {
    let to = (0..=text.len().min(bytes)).rev().find(|at| text.is_char_boundary(*at));
    to.and_then(|to| text.get(..to)).unwrap_or_default()
}

/// What the nearest telling word in the same line before `at` says.
pub(super) fn hint(text: &str, at: usize) -> Option<Hint> {
    let before = tail(text.get(..at).unwrap_or_default(), REACH);
    let line = before.rsplit('\n').next().unwrap_or_default().to_lowercase();
    let mut weak = None;
    // A word that the reach cuts off is at the far end, where it matters least.
    for word in line.rsplit(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        match strong(word) {
            Some(hint) => return Some(hint),
            None if matches!(word, "number" | "no" | "nr" | "num" | "id" | "nummer") => weak = Some(Hint::Number),
            None => {}
        }
    }
    weak
}

/// Whether the word right before `at` is one for a version or a section.
pub(super) fn is_version(text: &str, at: usize) -> bool {
    let before = tail(text.get(..at).unwrap_or_default(), 16).trim_end_matches([' ', ':', '.', '\u{a7}']);
    let section = text.get(..at).is_some_and(|head| head.trim_end_matches(' ').ends_with('\u{a7}'));
    let word = before.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    section || strong(&word.to_lowercase()) == Some(Hint::Version)
}

/// Whether the words shortly after a number say that it is `wanted`.
pub(super) fn said_after(text: &str, end: usize, wanted: Hint) -> bool {
    let after = head(text.get(end..).unwrap_or_default(), REACH).to_lowercase();
    after.split(|c: char| !c.is_alphanumeric()).any(|word| strong(word) == Some(wanted))
}

fn strong(word: &str) -> Option<Hint> {
    Some(match word {
        "tel" | "telephone" | "telefon" | "telefono" | "teléfono" | "phone" | "ph" | "mobile" | "mob" | "mobil"
        | "móvil" | "cell" | "cellphone" | "celular" | "call" | "fax" | "whatsapp" | "sms" | "txt" | "text"
        | "ring" | "dial" | "reach" | "handy" | "telefoon" | "téléphone" | "portable" | "hotline" | "landline" => {
            Hint::Phone
        }
        "account" | "acct" | "acc" | "customer" | "client" | "tracking" | "order" | "invoice" | "reference" | "ref"
        | "konto" | "kontonummer" | "kunde" | "kundennummer" | "policy" | "member" | "membership" | "booking"
        | "case" | "ticket" | "parcel" | "shipment" | "routing" | "passport" | "licence" | "license" | "serial"
        | "imei" | "card" | "loan" | "student" | "employee" | "patient" | "user" => Hint::Account,
        "ssn" | "security" => Hint::Ssn,
        "sin" | "insurance" => Hint::Sin,
        "aadhaar" | "aadhar" | "uidai" => Hint::Aadhaar,
        "bsn" | "burgerservicenummer" | "sofinummer" => Hint::Bsn,
        "steuer" | "steuerid" | "idnr" | "tin" | "identifikationsnummer" | "steueridentifikationsnummer" => {
            Hint::SteuerId
        }
        "pesel" => Hint::Pesel,
        "cpf" => Hint::Cpf,
        "isbn" => Hint::Isbn,
        "v" | "ver" | "version" | "release" | "firmware" | "build" | "section" | "chapter" | "clause" => Hint::Version,
        _ => return None,
    })
}

const CURRENCY_SIGNS: [char; 12] = ['$', '€', '£', '¥', '₹', '₽', '₩', '₺', '₴', '₪', '฿', '₦'];
const CURRENCY_WORDS: [&str; 16] = [
    "usd", "eur", "gbp", "chf", "inr", "jpy", "rs", "cad", "aud", "euro", "euros", "dollars", "pounds", "rupees",
    "bucks", "yen",
];

/// Whether a sign or word of money, a percent sign, or a letter for thousands or millions stands beside a number.
pub(super) fn is_amount(text: &str, start: usize, end: usize) -> bool {
    let before = tail(text.get(..start).unwrap_or_default(), 12).trim_end_matches([' ', '-', '\u{a0}']);
    let glued = head(text.get(end..).unwrap_or_default(), 16);
    let after = glued.trim_start_matches([' ', '\u{a0}']);
    let word = |text: &str| CURRENCY_WORDS.iter().any(|one| one.eq_ignore_ascii_case(text));
    let letters = |c: char| !c.is_alphabetic();
    let unit = |c: char| matches!(c, 'k' | 'K' | 'm' | 'M');
    before.ends_with(CURRENCY_SIGNS)
        || glued.strip_prefix(unit).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        || after.starts_with(CURRENCY_SIGNS)
        || after.starts_with('%')
        || word(before.trim_end_matches('.').rsplit(letters).next().unwrap_or_default())
        || word(after.split(letters).next().unwrap_or_default())
}
