"""Verifies corpus.jsonl: offsets, overlaps, check digits, and data left outside the spans.

    pip install python-stdnum phonenumbers && python3 check_corpus.py

Independent of the code in make_corpus.py. Exits with 1 when anything is wrong.
"""
import base64
import collections
import hashlib
import ipaddress
import json
import os
import re
import sys
import unicodedata

import phonenumbers
from stdnum import bitcoin, iban, luhn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import ssn

HERE = os.path.dirname(os.path.abspath(__file__))
REGIONS = "US GB IE AU DE AT CH FR ES MX IT PT BR NL PL SE TR JP IN SA EG AE CA".split()
NINO = re.compile(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]", re.I)
problems = []


def digits_of(text):
    return "".join(str(unicodedata.digit(c)) for c in text if c.isdigit())


def national_forms(text):
    """The names of the national ids that the text is a valid one of."""
    bare = re.sub(r"[\s\u00a0.]", "", text)
    tests = {
        "US SSN": re.fullmatch(r"\d{3}-\d\d-\d{4}", text) and ssn.is_valid(text),
        "UK NINO": NINO.fullmatch(text), "DE Steuer-ID": idnr.is_valid(bare), "FR NIR": nir.is_valid(bare),
        "ES DNI": dni.is_valid(bare.replace("-", "")), "ES NIE": nie.is_valid(bare.replace("-", "")),
        "IT codice fiscale": codicefiscale.is_valid(bare), "NL BSN": bsn.is_valid(bare) and re.fullmatch(r"\d{9}", bare),
        "PL PESEL": pesel.is_valid(bare), "BR CPF": cpf.is_valid(text),
        "IN Aadhaar": re.fullmatch(r"\d{4}[ -]\d{4}[ -]\d{4}", text) and aadhaar.is_valid(text),
        "CA SIN": re.fullmatch(r"\d{3}[ -]\d{3}[ -]\d{3}", text) and sin.is_valid(text),
        "SE personnummer": re.fullmatch(r"(19|20)?\d{6}-\d{4}", text) and personnummer.is_valid(text),
    }
    return [name for name, valid in tests.items() if valid]


def bare_digit_kinds(d):
    """The checked numbers that a bare digit string passes for."""
    tests = {
        "card": 13 <= len(d) <= 19 and luhn.is_valid(d), "idnr": idnr.is_valid(d), "pesel": pesel.is_valid(d),
        "cpf": cpf.is_valid(d), "bsn": len(d) == 9 and bsn.is_valid(d), "sin": len(d) == 9 and sin.is_valid(d),
        "aadhaar": aadhaar.is_valid(d), "nir": nir.is_valid(d), "pnr": len(d) in (10, 12) and personnummer.is_valid(d),
    }
    return [name for name, valid in tests.items() if valid]


def possible_phone(text):
    for region in REGIONS:
        try:
            if phonenumbers.is_possible_number(phonenumbers.parse(text, region)):
                return True
        except phonenumbers.NumberParseException:
            pass
    return re.fullmatch(r"555-01\d\d", text)


def is_card(text):
    d = digits_of(text)
    prefix = re.match(r"4|5[1-5]|2[2-6]\d|27[01]|2720|3[47]|3[68]|35(2[89]|[3-8])|6011|65|62|5018|6759|220[0-4]", d)
    return re.fullmatch(r"[\d \u00a0-]+", text) and 13 <= len(d) <= 19 and prefix and luhn.is_valid(d)


def is_key(text):
    if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32,64}|0x[0-9a-f]{40}", text):
        return True
    if text.startswith("eyJ"):
        parts = text.split(".")
        return len(parts) == 3 and all(json.loads(base64.urlsafe_b64decode(p + "==")) for p in parts[:2])
    if re.match(r"sk-|gh[po]_|github_pat_|AKIA|xox[bp]-|glpat-|AIza|[sr]k_test_|hf_|npm_|SG\.", text):
        return "FAKE" in text or "Fake" in text or "EXAMPLE" in text
    if bitcoin.is_valid(text):
        return True
    if re.fullmatch(r"[TD][1-9A-HJ-NP-Za-km-z]{33}", text):
        value = 0
        for c in text:
            value = value * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(c)
        raw = value.to_bytes(25, "big")
        return hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]
    if len(text) >= 40 and len(text) % 4 == 0:
        return len(base64.b64decode(text, validate=True)) >= 30
    return len(text) == 19 and re.search(r"[A-Z]", text) and re.search(r"[a-z]", text) and re.search(r"\d", text)


def is_ip(text):
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return False


CHECKS = {
    "email": lambda t: re.fullmatch(r"[\w.+'-]+@[\w-]+(\.[\w-]+)*\.[a-z]{2,}", t),
    "phone": lambda t: possible_phone(t) and not bare_digit_kinds(digits_of(t)),
    "url": lambda t: re.fullmatch(r"[a-z+]+://\S*[\w/]", t) and (
        re.match(r"[a-z+]+://[^/@\s]*:[^/@\s]+@", t)
        or re.search(r"[?&#;]([\w-]*(token|key|signature|session|sessid|sessionid)[\w-]*|sig|sid)=.", t, re.I)),
    "handle": lambda t: re.fullmatch(r"@\w+(\.[a-z]+)?(@[\w.]+\w)?", t, re.A),
    "iban": lambda t: iban.is_valid(t.replace("\u00a0", " ")),
    "card": is_card, "ip": is_ip,
    "mac": lambda t: re.fullmatch(r"[\da-f]{2}((:|-)[\da-f]{2})(\2[\da-f]{2}){4}|([\da-f]{4}\.){2}[\da-f]{4}", t, re.I),
    "national-id": lambda t: national_forms(t) and not is_card(t),
    "key": is_key,
    "digits": lambda t: re.fullmatch(r"\d[\d ]{7,}\d", t) and not bare_digit_kinds(digits_of(t)),
}

LEFTOVERS = {
    "@word": r"@\w", "long digits": r"\d{9,}", "long hex": r"(?i)\b[0-9a-f]{24,}\b", "ipv4": r"\b\d{1,3}(\.\d{1,3}){3}\b",
    "mac": r"(?i)\b[0-9a-f]{2}([:-][0-9a-f]{2}){5}\b", "ssn": r"\b\d{3}-\d\d-\d{4}\b", "nino": NINO.pattern,
    "dni": r"(?i)\b[xyz]?\d{7,8}[a-z]\b", "cf": r"(?i)\b[a-z]{6}\d\d[a-z]\d\d[a-z]\d{3}[a-z]\b", "secret url": r"(?i)://\S*(token|key|sig|session)\S*=",
    "userinfo": r"://[^/\s]*@", "mixed token": r"\b(?=\w*\d)(?=\w*[a-z])(?=\w*[A-Z])\w{16,}\b", "uuid": r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-",
    "ipv6": r"(?i)\b[0-9a-f]{1,4}(:[0-9a-f]{0,4}){3,}", "phone-like": r"\+\d[\d ()-]{7,}",
}


def leftovers(text):
    """Everything outside the spans that could itself be taken for a datum."""
    for name, expression in LEFTOVERS.items():
        for hit in re.finditer(expression, text):
            yield name, hit[0]
    for hit in re.finditer(r"\d(?:[ \u00a0.,/-]?\d)+", text):
        d = digits_of(hit[0])
        if bare_digit_kinds(d) or (len(d) > 4 and national_forms(hit[0])):
            yield "checked number", hit[0]
    for hit in re.finditer(r"\b[A-Z]{2}\d\d[A-Z0-9 -]{11,}\b", text, re.I):
        if iban.is_valid(hit[0]):
            yield "iban", hit[0]
    for region in ("US", "GB", "DE", "FR", "ES", "IN", "JP"):
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID):
            yield "phone " + region, match.raw_string


def main():
    path = os.path.join(HERE, "corpus.jsonl")
    raw = open(path, "rb").read()
    rows = [json.loads(line) for line in raw.decode().splitlines()]
    kinds, forms, ids, texts, data = collections.Counter(), collections.Counter(), set(), set(), set()
    for row in rows:
        assert set(row) == {"id", "text", "spans"}
        encoded, masked, end = row["text"].encode(), b"", 0
        if row["id"] in ids or row["text"] in texts:
            problems.append((row["id"], "repeated", row["text"]))
        ids.add(row["id"])
        texts.add(row["text"])
        for span in row["spans"]:
            if not end <= span["start"] < span["end"] <= len(encoded):
                problems.append((row["id"], "order, overlap or range", span))
            value = encoded[span["start"]:span["end"]].decode()  # fails inside a character
            if value != value.strip() or not CHECKS[span["kind"]](value):
                problems.append((row["id"], span["kind"], value))
            if value in data:
                problems.append((row["id"], "datum used twice", value))
            data.add(value)
            kinds[span["kind"]] += 1
            if span["kind"] == "national-id":
                forms[" or ".join(national_forms(value))] += 1
            masked += encoded[end:span["start"]] + "▮".encode()
            end = span["end"]
        masked = (masked + encoded[end:]).decode()
        problems.extend((row["id"], "outside a span: " + name, hit, masked) for name, hit in leftovers(masked))
    print(*(f"{kind:12} {count}" for kind, count in sorted(kinds.items())), sep="\n")
    print("spans", sum(kinds.values()), "| texts with spans", sum(bool(r["spans"]) for r in rows),
          "| without", sum(not r["spans"] for r in rows))
    print(dict(forms))
    print("sha256", hashlib.sha256(raw).hexdigest())
    for problem in problems:
        print("PROBLEM", *problem)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
