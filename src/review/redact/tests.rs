//! Whole texts through all finders.

use super::*;
use proptest::prelude::*;

#[track_caller]
fn each(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let out = redact(text);
        assert_eq!(out.text(), *expected, "{text}");
        assert_eq!(redact(out.text()).text(), out.text(), "{text}");
    }
}

#[track_caller]
fn none(texts: &[&str]) {
    for text in texts {
        let out = redact(text);
        assert_eq!(out.text(), *text);
        assert!(out.spans().is_empty());
    }
}

#[test]
fn addresses_and_urls() {
    each(&[
        ("write to ann.lee+x@mail.example.co.uk!", "write to [EMAIL]!"),
        ("a@b.com,c@d.org", "[EMAIL],[EMAIL2]"),
        ("mailto:o'brien@x-y.de.", "mailto:[EMAIL]."),
        ("jörg@bücher.example", "[EMAIL]"),
        ("ann.lee (at) mail.example or ann [at] mail [dot] example", "[EMAIL] or [EMAIL2]"),
        ("it's ann at mail dot example dot org", "it's [EMAIL]"),
        ("@anna_1 thanks", "[HANDLE] thanks"),
        (".@anna: hi @bob! RT@bob", ".[HANDLE]: hi [HANDLE2]! RT[HANDLE2]"),
        ("toot @anna@social.example now", "toot [HANDLE] now"),
        ("see https://ann:pw@host.example/x?y=1, ok", "see [URL], ok"),
        ("ftp://ann@host/x", "[URL]"),
        ("https://x.example/cb?api_key=abc", "[URL]"),
        ("https://x.example/cb#access_token=abc&b=1", "[URL]"),
        ("https://x.example/r?u=a8f5f167f44f4964e6c998dee827110c", "[URL]"),
        ("www.x.example/?token=1", "[URL]"),
    ]);
}

#[test]
fn telephone_and_card_numbers() {
    each(&[
        ("call +1 (415) 555-2671 now", "call [PHONE] now"),
        ("(415) 555-2671", "[PHONE]"),
        ("415-555-2671, 415.555.2671; 4155552671", "[PHONE], [PHONE]; [PHONE]"),
        ("+44 20 7946 0958", "[PHONE]"),
        ("+44 (0)20 7946 0958 2019", "[PHONE] 2019"),
        ("0171/1234567 or 06 12 34 56 78", "[PHONE] or [PHONE2]"),
        ("07700 900123", "[PHONE]"),
        ("415-555-2671 ext. 12 and 415-555-2671x9.", "[PHONE] and [PHONE2]."),
        ("call 555-0123", "call [PHONE]"),
        ("(+44) 7700 900123, 0800 1111, EUR 0612345678", "[PHONE], [PHONE2], EUR [PHONE3]"),
        ("tel. 5550123, whatsapp 20 12 34 56", "tel. [PHONE], whatsapp [PHONE2]"),
        ("612 34 56 78, (11) 91234-5678, 138 0013 8000", "[PHONE], [PHONE2], [PHONE3]"),
        ("card 4111 1111 1111 1111 exp", "card [CARD] exp"),
        ("5500-0000-0000-0004", "[CARD]"),
        ("378282246310005 is 3782 822463 10005", "[CARD] is [CARD]"),
    ]);
}

#[test]
fn bank_accounts_and_devices() {
    each(&[
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN [IBAN], thanks"),
        ("de89370400440532013000 GB29-NWBK-6016-1331-9268-19", "[IBAN] [IBAN2]"),
        ("from 192.168.1.10:8080 to 10.0.0.0/8.", "from [IP]:8080 to [IP2]/8."),
        ("IP:192.168.001.001, fe80::1%eth0", "IP:[IP], [IP2]%eth0"),
        ("[2001:db8::ff00:42:8329]:443 ::ffff:192.0.2.1 2001:db8::/32", "[[IP]]:443 [IP2] [IP3]/32"),
        ("the build server at 10.0.0.5", "the build server at [IP]"),
        ("addr:2001:db8:0:0:0:0:2:1; ::1", "addr:[IP]; [IP2]"),
        ("00:1A:2b:3c:4d:5e or 00-1a-2B-3C-4D-5E, 001a.2b3c.4d5e", "[MAC] or [MAC], [MAC]"),
        ("MAC:00:1a:2b:3c:4d:5e.", "MAC:[MAC]."),
    ]);
}

#[test]
fn national_identity_numbers() {
    each(&[
        ("ssn (078-05-1120), 219 09 9999", "ssn ([ID]), [ID2]"),
        ("AB 12 34 56 C and ab123456c", "[ID] and [ID]"),
        ("Steuer-ID 86 095 742 719 = 86095742719", "Steuer-ID [ID] = [ID]"),
        ("2 06 26 51 566 099 93 or 206265156609993", "[ID] or [ID]"),
        ("222052A68184011, DNI 12345678Z, 12.345.678-Z, X-7762364-W", "[ID], DNI [ID2], [ID2], [ID3]"),
        ("RSSMRA85T10A562S", "[ID]"),
        ("BSN 111222333, or 111222333 (bsn)", "BSN [ID], or [ID] (bsn)"),
        ("PESEL 44051401359; CPF 123.456.789-09", "PESEL [ID]; CPF [ID2]"),
        ("5591 6949 5541", "[ID]"),
        ("SIN 046-454-286", "SIN [ID]"),
        ("811228-9874 811228+9874 19811228-9874", "[ID] [ID] [ID2]"),
    ]);
}

#[test]
fn keys_and_long_numbers() {
    // Put together, so that no scanner for leaked keys takes them for such.
    let key = |prefix: &str| format!("{prefix}{}", "a8Fz91kQpL27xVbn3Rt5Wc0e");
    for prefix in ["sk-", "sk_live_", "pk_test_", "ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "hf_", "npm_"] {
        assert_eq!(redact(&format!("key={}.", key(prefix))).text(), "key=[KEY].", "{prefix}");
        assert_eq!(redact(&format!("({})", key(prefix))).text(), "([KEY])", "{prefix}");
    }
    let aws = format!("AKIA{}", "IOSFODNN7EXAMPLE");
    let jwt = ["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxIn0", "abc-DEF_123"].join(".");
    each(&[
        (&format!("{aws} and {jwt}!"), "[KEY] and [KEY2]!"),
        ("550e8400-e29b-41d4-a716-446655440000", "[KEY]"),
        ("sha a8f5f167f44f4964e6c998dee827110c", "sha [KEY]"),
        ("0x52908400098527886E0F7030069857D2E4169EE7", "[KEY]"),
        ("bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "[KEY]"),
        ("pay 1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "pay [KEY]"),
        ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzSAMPLEKEY0=", "[KEY]"),
        ("password: hunter2rabbit, token=abc12345", "password: [KEY], token=[KEY2]"),
        ("account 123456789, 1234 5678 9012 3456", "account [NUMBER], [NUMBER2]"),
        ("parcel RR123456785DE or 9400 1000 0000 1234 5678 90", "parcel [NUMBER] or [NUMBER2]"),
        ("VK7JG-NPHTM-C97JM-9MPGT-3V66T", "[KEY]"),
        ("account 12 3456-78901, acct# 000123456789", "account [NUMBER], acct# [NUMBER2]"),
        ("12-3456789 and 4111 1111 1111 1112", "[NUMBER] and [NUMBER2]"),
    ]);
}

#[test]
fn what_names_nobody_stays() {
    none(&[
        "",
        "I paid $1,000,000 in 2019, 12:30, 50%",
        "on 2023-11-23 21:30:15 and 01.02.2023 10:30, 11/23/2023 12",
        "pi is 3.14159265358979, e is 2.7182818284",
        "https://example.com/a?page=2&q=cats",
        "meet @ 5, 3 @ 10, a @ b, @5pm, @ 5pm, @10.30am, b@d, P@ssw0rd",
        "iPhone 15 Pro, 3-4 weeks, 10-12 days, 1 2 3 4 5 6 7 8 9",
        "日本語 🎉 naïve",
        "[EMAIL] [PHONE] [URL] [HANDLE] [CARD] [IBAN] [IP] [MAC] [ID] [KEY] [NUMBER] [NAME] [EMAIL2] [NAME17]",
        "1.000.000.000 or 1,000,000,000 or 1 000 000 000; € 1234567890, 1234567890 USD",
        "2019-2020, (2004/2005), (1965-1995), in 2020 (24.03.2020), 2019-20, 2018 2019 2020, in 1999/2000",
        "won 6-4 7-5 6-3 and 21-19, odds 10/11",
        "ISBN 978-3-16-148410-0, 9783161484100, ISBN 0-306-40615-2, ISBN 0306406152, 0-8044-2957-X",
        "v1.2.3, v1.2.3.4, version 1.2.3.4, 10.15.7, 10.0.19041.1288",
        "at 40.7128, -74.0060 or 40.71281234 -74.00601234",
        "#ff8800 #FFAA00CC #BlackLivesMatter2020 #123",
        "order 12345678, 500-1500, 10000000000 times, std::vector, dead::beef, 12:30:45",
        "832057238K followers, 250000000m, @_@",
        "what gives human nature, but: is 23rd of july the day they were",
        "getUserById2FromDatabase IMG_20190101_123456 the-title-of-a-post-of-2019-or-2020 x86_64-linux-gnu-2",
        "at the spot, meet at noon. look at this dot",
    ]);
}

#[test]
fn the_same_datum_has_the_same_placeholder() {
    let out = redact("A@x.org to b@x.org, a@X.org; +1 415 555 2671, +1-415-555-2671");
    assert_eq!(out.text(), "[EMAIL] to [EMAIL2], [EMAIL]; [PHONE], [PHONE]");
    let originals = out.originals();
    let expected = [("[EMAIL]", "A@x.org"), ("[EMAIL2]", "b@x.org"), ("[PHONE]", "+1 415 555 2671")];
    assert_eq!(originals, BTreeMap::from(expected));
    assert!(!format!("{out:?}").contains("x.org"));
}

#[test]
fn numbers_go_on_behind_placeholders_that_stand_there() {
    each(&[("[EMAIL3] asked @ann and c@x.org", "[EMAIL3] asked [HANDLE] and [EMAIL4]")]);
}

#[test]
fn names_of_the_list_are_replaced() {
    let redactor = Redactor::new(["Ann Lee", "Ann", "Zoë"]);
    let out = redactor.redact("ann lee and ANN wrote ann@lee.org; Annette, zoë's");
    assert_eq!(out.text(), "[NAME] and [NAME2] wrote [EMAIL]; Annette, [NAME3]'s");
    assert_eq!(redactor.redact(out.text()).text(), out.text());
    assert_eq!(Redactor::new(["email"]).redact("[EMAIL] Email").text(), "[EMAIL] [NAME]");
}

#[test]
fn spans_and_counts_tell_what_was_replaced() {
    let text = "é @ann a@b.com @bob";
    let out = redact(text);
    let pieces: Vec<_> = out.spans().iter().map(|span| (span.kind, out.original(span))).collect();
    assert_eq!(pieces, [(Kind::Handle, "@ann"), (Kind::Email, "a@b.com"), (Kind::Handle, "@bob")]);
    assert_eq!(out.counts(), BTreeMap::from([(Kind::Email, 1), (Kind::Handle, 2)]));
    assert_eq!(serde_json::to_string(&Kind::ALL).expect("JSON").matches('"').count(), 24);
    assert_eq!(serde_json::to_string(&Kind::NationalId).expect("JSON"), "\"national-id\"");
}

#[test]
fn a_secret_url_is_seen_through_a_placeholder() {
    let out = redact("see https://#+41114111token=https://, call +41 44 111 22 33");
    assert_eq!(out.text(), "see [URL], call [PHONE]");
    assert_eq!(out.counts(), BTreeMap::from([(Kind::Url, 1), (Kind::Phone, 1)]));
}

#[test]
fn a_hostile_megabyte_takes_linear_time() {
    let redactor = Redactor::new(["a", "a a a b", "x y"]);
    for piece in [
        "@", "a@", "@a", "1 ", "4", "1", "://", "a://b@c?", "a.", "+1-", "(", "@a.b", "1.1@", "1:1:1:", "a.a.a.",
        "a at ", "a dot ", "DE89 ", "A1", "a1-", "eyJ.", "sk-a1", "[EMAIL]", "[EMAIL", "[", "a=", "key:", "1-", "00:",
        "tel 1 ", "=", "f", "ff", "a ", "\u{fffc}", "\u{e9}", "sk-", "eyJa.", "x1",
    ] {
        let text = piece.repeat(1_000_000 / piece.len());
        let begun = std::time::Instant::now();
        let out = redactor.redact(&text);
        assert!(out.text().len() <= text.len() * 12, "{piece}");
        // A quadratic pass would take hours.
        assert!(begun.elapsed().as_secs() < 10, "{piece}: {:?}", begun.elapsed());
    }
}

const PIECES: &str = "([a-c@.:/?=&+() 0-9-]|https://|token=|4111|DE89|sk-|eyJ|::|at |\\[EMAIL2?\\]|x[0-9]|\\PC){0,60}";

proptest! {
    #[test]
    fn redacting_twice_changes_nothing(text in PIECES) {
        let once = redact(&text);
        let twice = redact(once.text());
        prop_assert_eq!(twice.text(), once.text());
    }

    #[test]
    fn spans_are_in_order_and_give_the_text(text in PIECES) {
        let out = redact(&text);
        let (mut rebuilt, mut from) = (String::new(), 0);
        for span in out.spans() {
            prop_assert!(from <= span.start && span.start < span.end);
            rebuilt.push_str(&text[from..span.start]);
            rebuilt.push_str(&span.placeholder);
            from = span.end;
        }
        rebuilt.push_str(&text[from..]);
        prop_assert_eq!(rebuilt.as_str(), out.text());
    }

    #[test]
    fn no_address_survives(before in "\\PC{0,20}", local in "[a-z][a-z0-9.]{0,8}[a-z]", host in "[a-z]{2,8}", after in "\\PC{0,20}") {
        let address = format!("{local}@{host}.com");
        let out = redact(&format!("{before}{address}{after}"));
        prop_assert!(!out.text().contains(&address));
    }

    #[test]
    fn no_card_survives(before in "[^0-9]{0,20}", body in "[3-6][0-9]{14}", after in "[^0-9]{0,20}", spaced: bool) {
        let check = (0..10u8).find(|last| {
            let digits: Vec<u8> = body.bytes().map(|b| b - b'0').chain([*last]).collect();
            checks::luhn(&digits)
        }).expect("one digit completes it");
        let mut card = format!("{body}{check}");
        if spaced {
            card = card.as_bytes().chunks(4).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>().join(" ");
        }
        let out = redact(&format!("{before}{card}{after}"));
        prop_assert!(!out.text().contains(&card));
    }
}
