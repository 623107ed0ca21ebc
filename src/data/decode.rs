//! From the file's encoding to UTF-8.

use super::DataError;
use super::encoding::{Converter, Encoding, of_mark};

/// Decodes a file in pieces. What is not valid comes out as the byte 0xFF, which no UTF-8 holds, so that the row it
/// stands in is set aside further on instead of being changed silently.
pub(super) struct Decoder {
    state: State,
    declared: Option<Encoding>,
    skipped: u64,
}

enum State {
    /// Fewer bytes than it takes to know the encoding.
    Start(Vec<u8>),
    /// UTF-8: bytes pass as they are and are checked row by row.
    Pass,
    Convert(Converter),
}

/// How many bytes are looked at to know the encoding.
const SNIFF: usize = 8;

impl Decoder {
    pub(super) fn new(label: Option<&str>) -> Result<Self, DataError> {
        let declared = label.map(encoding).transpose()?;
        Ok(Self { state: State::Start(Vec::new()), declared, skipped: 0 })
    }

    /// Bytes of a byte order mark that were left out in front of what passes undecoded.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    pub(super) fn push(&mut self, bytes: &[u8], last: bool) -> Result<Vec<u8>, DataError> {
        let State::Start(head) = &mut self.state else { return Ok(self.decode(bytes, last)) };
        head.extend_from_slice(bytes);
        if head.len() < SNIFF && !last {
            return Ok(Vec::new());
        }
        let head = std::mem::take(head);
        let encoding = match self.declared.take() {
            Some(declared) => declared,
            None => encoding(sniff(&head)?)?,
        };
        if encoding.is_utf_8() {
            self.state = State::Pass;
            let body = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&head);
            self.skipped = (head.len() - body.len()) as u64;
            return Ok(body.to_vec());
        }
        self.state = State::Convert(encoding.converter());
        Ok(self.decode(&head, last))
    }

    fn decode(&mut self, bytes: &[u8], last: bool) -> Vec<u8> {
        match &mut self.state {
            State::Convert(converter) => converter.convert(bytes, last),
            _ => bytes.to_vec(),
        }
    }
}

fn encoding(label: &str) -> Result<Encoding, DataError> {
    Encoding::new(label).ok_or_else(|| DataError::Encoding { label: label.to_owned() })
}

/// The encoding that a file's first bytes say: UTF-8 where they say nothing.
fn sniff(head: &[u8]) -> Result<&'static str, DataError> {
    let binary = [
        (&b"PK\x03\x04"[..], "a zip archive or a spreadsheet (xlsx)"),
        (b"\x1F\x8B", "a gzip archive"),
        (b"PAR1", "a parquet file"),
        (b"%PDF-", "a PDF"),
        (b"\xD0\xCF\x11\xE0", "an old spreadsheet or document (xls, doc)"),
    ];
    if let Some((_, found)) = binary.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(DataError::Binary { found });
    }
    if let Some(label) = of_mark(head) {
        return Ok(label);
    }
    // ASCII letters in UTF-16: every other byte is 0.
    let head = &head[..head.len().min(SNIFF)];
    if head.len() >= 4 {
        let zeros = |odd: usize| head.iter().enumerate().all(|(index, byte)| (index % 2 == odd) == (*byte == 0));
        for (odd, encoding) in [(1, "utf-16le"), (0, "utf-16be")] {
            if zeros(odd) {
                return Err(DataError::Utf16 { encoding });
            }
        }
    }
    Ok("utf-8")
}
