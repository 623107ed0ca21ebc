//! Encodings other than UTF-8: the browser's own decoder in wasm, where tables for all of them would weigh a fifth of the
//! module, and encoding_rs, which browsers share, elsewhere. Both follow the WHATWG Encoding Standard.

pub(super) use platform::{Converter, Encoding};

/// The encoding that a byte order mark says.
pub(super) fn of_mark(head: &[u8]) -> Option<&'static str> {
    let marks = [(&b"\xEF\xBB\xBF"[..], "utf-8"), (b"\xFF\xFE", "utf-16le"), (b"\xFE\xFF", "utf-16be")];
    marks.into_iter().find(|(mark, _)| head.starts_with(mark)).map(|(_, label)| label)
}

#[cfg(not(target_arch = "wasm32"))]
mod platform {
    use encoding_rs::DecoderResult;

    /// An encoding.
    pub(in crate::data) struct Encoding(&'static encoding_rs::Encoding);

    impl Encoding {
        /// That of a label, such as windows-1252.
        pub(in crate::data) fn new(label: &str) -> Option<Self> {
            encoding_rs::Encoding::for_label_no_replacement(label.as_bytes()).map(Self)
        }

        pub(in crate::data) fn is_utf_8(&self) -> bool {
            self.0 == encoding_rs::UTF_8
        }

        /// A byte order mark of the encoding is left out.
        pub(in crate::data) fn converter(&self) -> Converter {
            Converter(self.0.new_decoder_with_bom_removal())
        }
    }

    /// Converts a file in pieces.
    pub(in crate::data) struct Converter(encoding_rs::Decoder);

    impl Converter {
        /// In UTF-8, with the byte 0xFF for what is not valid.
        pub(in crate::data) fn convert(&mut self, mut bytes: &[u8], last: bool) -> Vec<u8> {
            let decoder = &mut self.0;
            let mut out = Vec::new();
            loop {
                let start = out.len();
                let room = decoder.max_utf8_buffer_length_without_replacement(bytes.len()).unwrap_or(bytes.len());
                out.resize(start + room.max(16), 0);
                let (result, read, written) =
                    decoder.decode_to_utf8_without_replacement(bytes, &mut out[start..], last);
                out.truncate(start + written);
                bytes = &bytes[read..];
                match result {
                    DecoderResult::InputEmpty => return out,
                    DecoderResult::OutputFull => {}
                    DecoderResult::Malformed(..) => out.push(0xFF),
                }
            }
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod platform {
    use web_sys::{TextDecodeOptions, TextDecoder};

    /// An encoding.
    pub(in crate::data) struct Encoding(TextDecoder);

    impl Encoding {
        /// That of a label, such as windows-1252.
        pub(in crate::data) fn new(label: &str) -> Option<Self> {
            TextDecoder::new_with_label(label).ok().map(Self)
        }

        pub(in crate::data) fn is_utf_8(&self) -> bool {
            self.0.encoding() == "utf-8"
        }

        /// A byte order mark of the encoding is left out.
        pub(in crate::data) fn converter(&self) -> Converter {
            Converter(self.0.clone())
        }
    }

    /// Converts a file in pieces.
    pub(in crate::data) struct Converter(TextDecoder);

    impl Converter {
        /// In UTF-8, with the byte 0xFF for what is not valid, and for a replacement character of the file's own: something
        /// could not be decoded there before.
        pub(in crate::data) fn convert(&mut self, bytes: &[u8], last: bool) -> Vec<u8> {
            let options = TextDecodeOptions::new();
            options.set_stream(!last);
            // It throws in the fatal mode alone; if it ever did here, what is lost shows as not valid.
            let text = self.0.decode_with_u8_array_and_options(bytes, &options);
            let text = text.unwrap_or_else(|_| '\u{FFFD}'.to_string());
            let mut out = Vec::with_capacity(text.len());
            for (at, part) in text.split('\u{FFFD}').enumerate() {
                out.extend((at > 0).then_some(0xFF));
                out.extend(part.bytes());
            }
            out
        }
    }
}
