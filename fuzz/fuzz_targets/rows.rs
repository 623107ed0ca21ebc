//! Data files of every format: cut anywhere, they give the same rows.
#![no_main]

use autoannotator::data::{DataError, Format, ReadOptions, Reader, Row};
use libfuzzer_sys::fuzz_target;

const FORMATS: [Format; 4] = [Format::Csv, Format::Tsv, Format::Jsonl, Format::Txt];
const ENCODINGS: [Option<&str>; 3] = [None, Some("windows-1252"), Some("utf-16le")];

fn read(format: Format, encoding: Option<&str>, parts: &[&[u8]]) -> (Vec<Row>, Result<(), DataError>) {
    let options = ReadOptions { text_column: None, encoding: encoding.map(str::to_owned) };
    let mut rows = Vec::new();
    let mut reader = match Reader::new(format, &options) {
        Ok(reader) => reader,
        Err(error) => return (rows, Err(error)),
    };
    let pushed = parts.iter().try_for_each(|part| reader.push(part, &mut rows));
    let ended = pushed.and_then(|()| reader.finish(&mut rows));
    (rows, ended)
}

fuzz_target!(|data: &[u8]| {
    let [how, cut, file @ ..] = data else { return };
    let (format, encoding) = (FORMATS[usize::from(how % 4)], ENCODINGS[usize::from(how / 4 % 3)]);
    let (whole, ended) = read(format, encoding, &[file]);
    let (one, other) = file.split_at(usize::from(*cut).min(file.len()));
    let (parts, parts_ended) = read(format, encoding, &[one, other]);
    assert_eq!(ended.is_ok(), parts_ended.is_ok(), "{ended:?}, cut {parts_ended:?}");
    if ended.is_ok() {
        assert_eq!(whole, parts);
    }
    for (at, row) in whole.iter().enumerate() {
        assert_eq!(row.number, at as u64 + 1);
        assert!(row.problem.is_none() || row.sample.text.is_empty());
    }
});
