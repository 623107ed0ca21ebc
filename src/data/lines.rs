//! jsonl and txt: bytes to lines.

use super::delimited::cut;
use super::{DataError, MAX_ROW};

/// One line, without its end.
pub(super) struct Line<'a> {
    /// Its bytes, not decoded; only their start where it is too long.
    pub(super) bytes: &'a [u8],
    /// Where it starts in the decoded file, in bytes.
    pub(super) offset: u64,
    /// Its length in bytes, where that is more than [`MAX_ROW`].
    pub(super) too_long: Option<u64>,
}

/// What is done with a line.
type Each<'a> = dyn FnMut(Line<'_>) -> Result<(), DataError> + 'a;

/// Cuts text into lines.
pub(super) struct Lines {
    skip_blank: bool,
    buffer: Vec<u8>,
    length: u64,
    offset: u64,
}

impl Lines {
    /// `skip_blank`: lines of only whitespace are none.
    pub(super) fn new(skip_blank: bool) -> Self {
        Self { skip_blank, buffer: Vec::new(), length: 0, offset: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8], each: &mut Each<'_>) -> Result<(), DataError> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (body, ended) = match piece.split_last() {
                Some((b'\n', body)) => (body, true),
                _ => (piece, false),
            };
            self.length += body.len() as u64;
            let room = MAX_ROW.saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(&body[..body.len().min(room)]);
            if ended {
                self.end(1, each)?;
            }
        }
        Ok(())
    }

    /// The last line, where the file does not end with a line end.
    pub(super) fn finish(&mut self, each: &mut Each<'_>) -> Result<(), DataError> {
        if self.length > 0 { self.end(0, each) } else { Ok(()) }
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    fn end(&mut self, newline: u64, each: &mut Each<'_>) -> Result<(), DataError> {
        let too_long = (self.length > self.buffer.len() as u64).then_some(self.length);
        let bytes = match too_long {
            Some(_) => cut(&self.buffer),
            None => self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer),
        };
        let blank = self.skip_blank && bytes.iter().all(u8::is_ascii_whitespace);
        let outcome = if blank { Ok(()) } else { each(Line { bytes, offset: self.offset, too_long }) };
        self.offset += self.length + newline;
        self.length = 0;
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        outcome
    }
}
