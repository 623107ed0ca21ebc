//! Templates, and the values that go into them.
//!
//! A template is a file as it will be, with placeholders `{{name}}` where a value goes: always inside the quotes, or the
//! text, of the file's own language, so that its linters read it too. A value is encoded for the place by the kind of the
//! file; it is data there, whatever it holds, and is not looked at for placeholders again.

use super::GenerateError;
use std::fmt::Write;

/// How a value is written into a file of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text or a quoted attribute of HTML.
    Html,
    /// Inside a JSON string, or a basic string of TOML.
    Quoted,
    /// Inside single quotes of a POSIX shell.
    Shell,
    /// Inside double quotes of an argument of `ExecStart=`, not of its first word.
    Unit,
    /// Text of Markdown, not in its code; a [`word`] may stand anywhere.
    Markdown,
    /// Code that takes no values: its data stand in files of their own.
    Code,
}

impl Kind {
    /// The kind that the name of a file says.
    pub(super) fn of(file: &str) -> Self {
        match file.rsplit('.').next() {
            Some("html") => Self::Html,
            Some("json" | "toml") => Self::Quoted,
            Some("sh") => Self::Shell,
            Some("service" | "timer") => Self::Unit,
            Some("md") => Self::Markdown,
            _ => Self::Code,
        }
    }

    /// A value as it is written; none where there is no way to write it.
    fn encode(self, value: &str) -> Option<String> {
        if word(value) {
            return (self != Self::Code).then(|| value.to_owned());
        }
        match self {
            Self::Html => Some(html(value)),
            Self::Quoted => Some(quoted(value)),
            Self::Shell => (!value.contains('\0')).then(|| value.replace('\'', r"'\''")),
            Self::Unit => (!value.contains('\0')).then(|| unit(value)),
            Self::Markdown => Some(markdown(value)),
            Self::Code => None,
        }
    }
}

/// Letters, digits, `-`, `_` and `.`, and not a `-` first: the same in every language, and no option.
pub(super) fn word(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !value.is_empty() && !value.starts_with('-') && value.bytes().all(plain)
}

fn html(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// JSON's escapes are TOML's too, once there is no `\/` and no pair of surrogates; DEL may not stand in TOML as it is.
fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// systemd unquotes with the escapes of C, and replaces `%` and `$` where they stand once.
fn unit(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' | '$' => out.extend([c, c]),
            c if c.is_control() => c.to_string().bytes().for_each(|byte| {
                let _ = write!(out, "\\x{byte:02x}");
            }),
            c => out.push(c),
        }
    }
    out
}

/// One line, every punctuation mark escaped.
fn markdown(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_ascii_punctuation() {
            out.push('\\');
        }
        out.push(if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    }
    out
}

/// Replaces the placeholders of a template in one pass.
pub(super) fn fill(file: &str, template: &str, values: &[(&str, &str)]) -> Result<String, GenerateError> {
    let kind = Kind::of(file);
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let name = after.split_once("}}").map(|(name, _)| name).unwrap_or_default();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
            out.push_str("{{");
            rest = after;
            continue;
        }
        let value = values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let encoded = value.and_then(|value| kind.encode(value));
        out.push_str(&encoded.ok_or_else(|| GenerateError::Value { file: file.to_owned(), name: name.to_owned() })?);
        rest = after.get(name.len() + 2..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any text, much of it what means something somewhere.
    fn hostile() -> impl Strategy<Value = String> {
        let parts = [
            "'",
            "\"",
            "\\",
            "`",
            "$(id)",
            "${x}",
            "</script>",
            "<!--",
            "-->",
            "%",
            "%h",
            "\n",
            "\r",
            "\t",
            "..",
            "/",
            "{{",
            "}}",
            "{{title}}",
            "&",
            ";",
            "#",
            "]]>",
            "\u{2028}",
            "\u{7f}",
            "\u{85}",
            "*",
            "_",
            "[a](b)",
            "é",
            "李",
            "\u{1b}[31m",
            " ",
        ];
        proptest::collection::vec(
            prop_oneof![prop::sample::select(parts.to_vec()).prop_map(String::from), ".{0,4}"],
            0..12,
        )
        .prop_map(|parts| parts.concat())
    }

    fn filled(file: &str, template: &str, value: &str) -> String {
        fill(file, template, &[("title", value), ("other", "second")]).expect("filled")
    }

    /// What a shell makes of single-quoted pieces and `\'` between them; none if it is anything else.
    fn shell_word(text: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(r"\'") {
                out.push('\'');
                rest = after;
                continue;
            }
            let (inside, after) = rest.strip_prefix('\'')?.split_once('\'')?;
            out.push_str(inside);
            rest = after;
        }
        Some(out)
    }

    /// What systemd makes of a double-quoted word: its escapes, then specifiers and variables, of which there may be none.
    fn unit_word(text: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut chars = text.strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\n' => return None,
                '\\' => match chars.next()? {
                    c @ ('"' | '\\') => bytes.push(c as u8),
                    'x' => {
                        let digits: String = chars.by_ref().take(2).collect();
                        bytes.push(u8::from_str_radix(&digits, 16).ok()?);
                    }
                    _ => return None,
                },
                c @ ('%' | '$') => {
                    (chars.next()? == c).then_some(())?;
                    bytes.push(c as u8);
                }
                c => bytes.extend(c.to_string().bytes()),
            }
        }
        chars.next().is_none().then_some(())?;
        String::from_utf8(bytes).ok()
    }

    /// What a browser makes of character references.
    fn html_text(text: &str) -> String {
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
            .iter()
            .fold(text.to_owned(), |text, (reference, c)| text.replace(reference, c))
    }

    proptest! {
        #[test]
        fn json_and_toml_read_the_value_back(value in hostile()) {
            let json: serde_json::Value = serde_json::from_str(&filled("a.json", r#"{"x": "{{title}}", "y": "{{other}}"}"#, &value)).expect("JSON");
            prop_assert_eq!((json["x"].as_str(), json["y"].as_str()), (Some(value.as_str()), Some("second")));
            let toml: toml::Table = filled("a.toml", "x = \"{{title}}\"\ny = \"{{other}}\"\n", &value).parse().expect("TOML");
            prop_assert_eq!((toml["x"].as_str(), toml["y"].as_str()), (Some(value.as_str()), Some("second")));
        }

        #[test]
        fn a_shell_sees_one_word(value in hostile()) {
            let value = value.replace('\0', "");
            let script = filled("a.sh", "'{{title}}'", &value);
            prop_assert_eq!(shell_word(&script), Some(value));
        }

        #[test]
        fn systemd_sees_one_argument(value in hostile()) {
            let value = value.replace('\0', "");
            prop_assert_eq!(unit_word(&filled("a.service", "\"{{title}}\"", &value)), Some(value));
        }

        #[test]
        fn html_has_no_new_tags_or_attributes(value in hostile()) {
            let page = filled("a.html", "{{title}}", &value);
            prop_assert!(!page.contains(['<', '>', '"', '\'', '\n', '\r']), "{}", page);
            let one_line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            prop_assert_eq!(html_text(&page), one_line);
        }

        #[test]
        fn markdown_stays_one_line_of_text(value in hostile()) {
            let text = filled("a.md", "{{title}}", &value);
            let one_line = !text.contains(['\n', '\r', '\u{85}', '\u{2028}']);
            prop_assert!(one_line);
            // Each mark but those of a plain word is escaped, and the escapes are all there are.
            if !word(&value) {
                let mut chars = text.chars();
                while let Some(c) = chars.next() {
                    prop_assert!(!c.is_ascii_punctuation() || (c == '\\' && chars.next().is_some_and(|c| c.is_ascii_punctuation())), "{}", text);
                }
            }
        }
    }

    #[test]
    fn a_shell_agrees() {
        for value in ["it's", "$(touch /tmp/x)`id`", "a\nb\\", "'; exit 1; '", "%s\t\"", "}"] {
            let script = filled("a.sh", "x='{{title}}'\nprintf %s \"$x\"", value);
            let said = std::process::Command::new("sh").args(["-c", &script]).output().expect("a shell").stdout;
            assert_eq!(String::from_utf8(said).expect("UTF-8"), value);
        }
    }

    #[test]
    fn values_are_not_templates_and_names_must_be_known() {
        assert_eq!(filled("a.html", "{{title}} {{other}} {{ x }} {{", "{{other}}"), "{{other}} second {{ x }} {{");
        for (file, template) in [("a.html", "{{nothing}}"), ("a.js", "'{{title}}'"), ("gitignore", "{{title}}")] {
            assert!(matches!(fill(file, template, &[("title", "x")]), Err(GenerateError::Value { .. })), "{file}");
        }
        assert!(fill("a.sh", "'{{title}}'", &[("title", "\0x")]).is_err());
    }

    #[test]
    fn words_are_harmless() {
        assert!(word("sentiment-page") && word("annotator.toml") && word("..") && word("1.2.3"));
        assert!(!word("") && !word("-x") && !word("a b") && !word("a/b") && !word("a\n") && !word("é"));
    }
}
