//! csv and tsv: bytes to records, on `csv-core`'s state machine.

use super::{CUT, DataError, MAX_ROW};
use csv_core::ReadRecordResult;

/// One record.
pub(super) struct Record {
    /// Its fields, unquoted, not decoded; each cut where the record is too long.
    pub(super) fields: Vec<Vec<u8>>,
    /// Where it starts in the decoded file, in bytes.
    pub(super) offset: u64,
    /// The line it starts on, from 1.
    pub(super) line: u64,
    /// Its length in bytes, where that is more than [`MAX_ROW`].
    pub(super) too_long: Option<u64>,
}

/// More fields than this in one record make it too long.
const MAX_FIELDS: usize = 1 << 16;

/// Cuts delimited text into records.
pub(super) struct Records {
    core: csv_core::Reader,
    out: Vec<u8>,
    out_len: usize,
    ends: Vec<usize>,
    ends_len: usize,
    overflow: bool,
    scratch: Vec<u8>,
    /// Bytes and lines taken so far, and where the record in progress starts, if there is one.
    offset: u64,
    line: u64,
    start: Option<(u64, u64)>,
}

impl Records {
    pub(super) fn new(delimiter: u8) -> Self {
        Self {
            core: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            out: vec![0; 4 << 10],
            out_len: 0,
            ends: vec![0; 64],
            ends_len: 0,
            overflow: false,
            scratch: vec![0; 16 << 10],
            offset: 0,
            line: 1,
            start: None,
        }
    }

    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        each: &mut dyn FnMut(Record) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        while !bytes.is_empty() {
            if self.start.is_none() {
                // Line ends before a record belong to none.
                let skip = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.count(&bytes[..skip]);
                bytes = &bytes[skip..];
                if bytes.is_empty() {
                    break;
                }
                self.start = Some((self.offset, self.line));
            }
            let (result, read) = self.step(bytes);
            self.count(&bytes[..read]);
            bytes = &bytes[read..];
            if matches!(result, ReadRecordResult::Record) {
                let record = self.take();
                each(record)?;
            }
        }
        Ok(())
    }

    /// The last record, where the file does not end with a line end; or the line on which the record in progress
    /// started, where a quote in it is still open.
    pub(super) fn finish(&mut self) -> Result<Option<Record>, u64> {
        let Some((_, line)) = self.start else { return Ok(None) };
        // In a quoted field a line end is text like any other; everywhere else it ends the record.
        loop {
            match self.step(b"\n").0 {
                ReadRecordResult::Record => return Ok(Some(self.take())),
                ReadRecordResult::End | ReadRecordResult::InputEmpty => return Err(line),
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {}
            }
        }
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.out.capacity() + self.scratch.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    fn count(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.line += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    }

    /// One step of the machine. Output beyond the limits goes nowhere.
    fn step(&mut self, bytes: &[u8]) -> (ReadRecordResult, usize) {
        let out = if self.overflow { &mut self.scratch[..] } else { &mut self.out[self.out_len..] };
        let many = self.ends_len >= MAX_FIELDS;
        let mut no_ends = [0; 16];
        let ends = if many { &mut no_ends[..] } else { &mut self.ends[self.ends_len..] };
        let (result, read, written, ended) = self.core.read_record(bytes, out, ends);
        if !self.overflow {
            self.out_len += written;
        }
        if !many {
            self.ends_len += ended;
        }
        match result {
            ReadRecordResult::OutputFull if self.out.len() < MAX_ROW => {
                self.out.resize((self.out.len() * 2).min(MAX_ROW), 0);
            }
            ReadRecordResult::OutputFull => self.overflow = true,
            ReadRecordResult::OutputEndsFull if self.ends.len() < MAX_FIELDS => {
                self.ends.resize((self.ends.len() * 2).min(MAX_FIELDS), 0);
            }
            _ => {}
        }
        (result, read)
    }

    fn take(&mut self) -> Record {
        let (offset, line) = self.start.take().unwrap_or((self.offset, self.line));
        let long = self.overflow || self.ends_len >= MAX_FIELDS;
        let mut fields = Vec::with_capacity(self.ends_len);
        let mut start = 0;
        for end in &self.ends[..self.ends_len] {
            let kept = &self.out[start.min(self.out_len)..(*end).min(self.out_len)];
            let kept = if long { cut(kept) } else { kept };
            fields.push(kept.to_vec());
            start = *end;
        }
        let too_long = long.then_some(self.offset - offset);
        if self.out.len() > 1 << 20 {
            self.out = vec![0; 4 << 10];
        }
        (self.out_len, self.ends_len, self.overflow) = (0, 0, false);
        Record { fields, offset, line, too_long }
    }
}

/// The start of a value, cut between characters where it is UTF-8.
pub(super) fn cut(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= CUT {
        return bytes;
    }
    let boundary = (CUT - 3..=CUT).rev().find(|at| bytes[*at] & 0xC0 != 0x80).unwrap_or(CUT);
    &bytes[..boundary]
}

/// The delimiter of a file whose first line this is: a comma, unless the line has none and has semicolons or tabs.
pub(super) fn delimiter(head: &[u8]) -> u8 {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or(head);
    let mut quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    for byte in line {
        quoted ^= *byte == b'"';
        if let (false, Some((_, count))) = (quoted, counts.iter_mut().find(|(delimiter, _)| delimiter == byte)) {
            *count += 1;
        }
    }
    match counts {
        [(_, 0), (_, semicolons), (_, tabs)] if semicolons > 0 && semicolons >= tabs => b';',
        [(_, 0), _, (_, tabs)] if tabs > 0 => b'\t',
        _ => b',',
    }
}
