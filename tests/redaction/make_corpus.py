"""Fills the templates with invented data and prints the redaction corpus as JSON lines.

    python3 make_corpus.py > corpus.jsonl

Needs the standard library only; the seed is fixed, so the output is always the same.
Check digits are computed here and verified by `check_corpus.py` with python-stdnum.
"""
import base64
import hashlib
import json
import os
import random
import re
import string

rng = random.Random(20240229)
HERE = os.path.dirname(os.path.abspath(__file__))
NBSP = "\u00a0"
ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
HEX = "0123456789abcdef"


def pick(options):
    return rng.choice(options)


def chars(alphabet, count):
    return "".join(rng.choice(alphabet) for _ in range(count))


def num(count):
    return chars(string.digits, count)


def pattern(text):
    """Replaces each # by a digit and each N by a digit from 2 to 9."""
    return "".join(num(1) if c == "#" else chars("23456789", 1) if c == "N" else c for c in text)


def group(text, sizes, separator):
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at:at + size])
        at += size
    return separator.join(part for part in parts if part)


class Cycle:
    """Deals the options like shuffled cards, so that every one of them occurs."""

    def __init__(self, options):
        self.options, self.left = list(options), []

    def __call__(self):
        if not self.left:
            self.left = rng.sample(self.options, len(self.options))
        return self.left.pop()


# --- check digits

def luhn_sum(digits):
    total = 0
    for place, c in enumerate(reversed(digits)):
        d = int(c) * (1 + place % 2)
        total += d - 9 if d > 9 else d
    return total % 10


def luhn(body):
    return body + str(-luhn_sum(body + "0") % 10)


def iso7064_11_10(body):
    product = 10
    for c in body:
        total = (int(c) + product) % 10 or 10
        product = total * 2 % 11
    return body + str((11 - product) % 10)


def weighted(digits, weights):
    return sum(int(d) * w for d, w in zip(digits, weights))


def pesel(body):
    return body + str(-weighted(body, [1, 3, 7, 9] * 3) % 10)


def cpf(body):
    for _ in range(2):
        body += str(-weighted(body, range(len(body) + 1, 1, -1)) % 11 % 10)
    return body


def verhoeff_digit(c, d):
    """Multiplication in the dihedral group D5."""
    return (c + d) % 5 if c < 5 and d < 5 else (c + d - 5) % 5 + 5 if c < 5 \
        else (c - d) % 5 + 5 if d < 5 else (c - d) % 5


def verhoeff_sum(digits):
    table = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(table) < 8:
        table.append([table[1][i] for i in table[-1]])
    check = 0
    for place, c in enumerate(reversed(digits)):
        check = verhoeff_digit(check, table[place % 8][int(c)])
    return check


def is_date(yymmdd, centuries=False):
    month = int(yymmdd[2:4])
    return 1 <= (month % 20 if centuries else month) <= 12 and 1 <= int(yymmdd[4:6]) <= 31


def claims(d):
    """The checked kinds that the digits would pass for."""
    found = set()
    if 13 <= len(d) <= 19 and luhn_sum(d) == 0:
        found.add("card")
    if len(d) == 9:
        if weighted(d, [9, 8, 7, 6, 5, 4, 3, 2, -1]) % 11 == 0:
            found.add("bsn")
        if luhn_sum(d) == 0:
            found.add("sin")
    if len(d) in (10, 12) and luhn_sum(d[-10:]) == 0 and is_date(d[-10:-4]):
        found.add("pnr")
    if len(d) == 11:
        if pesel(d[:10]) == d and is_date(d, True):
            found.add("pesel")
        if iso7064_11_10(d[:10]) == d:
            found.add("idnr")
        if cpf(d[:9]) == d:
            found.add("cpf")
    if len(d) == 12 and verhoeff_sum(d) == 0:
        found.add("aadhaar")
    if len(d) == 15 and d[0] in "12" and int(d[13:]) == 97 - int(d[:13]) % 97:
        found.add("nir")
    return found


def only(make, allowed=()):
    """Draws again until the digits pass for nothing but the allowed kinds."""
    while True:
        text = make()
        digits = "".join(str(int(c)) for c in text if c.isdigit())
        # A number with a country code is also judged without it.
        tails = {digits, digits[1:], digits[2:], digits[3:]}
        seen = set().union(*map(claims, tails)) if not allowed else claims(digits)
        if not seen - set(allowed):
            return text


# --- email, handle

FIRST = ("anna ben carla deniz elif farid greta hugo ines jonas kaja luca mira nils olga pavel "
         "rosa sami tess umut vera wim yara zoe").split()
LAST = ("brook castell dorn ekholm fabre gruber hale ibsen jarosz kolb lindt moreau novak "
        "oduya pires quist rossi sato tanner ueda vidal weiss yilmaz zander").split()
WORDS = ("moss heron kettle pixel tram lentil comet bagel drift maple orbit pepper quartz "
         "ripple saddle tundra velvet walnut yonder zephyr").split()
DOMAINS = Cycle("""example.com example.org example.net mail.example.com mx.eu.example.org example.co.uk
    example.com.br post.example.net nordwerk.example tidelands.example kleinbahn.example fabrik-sued.example
    students.uni.example example.museum example.photography example.io example.travel bakery.example
    casa-verde.example cloud9.example lists.example.org example.dev example.online
    harbour-view.example 4seasons.example example.pl example.de example.fr""".split())
LOCALS = Cycle([
    lambda: f"{pick(FIRST)}.{pick(LAST)}", lambda: f"{pick(FIRST)[0]}.{pick(LAST)}",
    lambda: f"{pick(FIRST)}+{pick(WORDS)}", lambda: f"{pick(FIRST)}_{pick(LAST)}{num(2)}",
    lambda: f"{pick(FIRST)}-{pick(WORDS)}.{pick(LAST)}", lambda: pick(WORDS) + num(4),
    lambda: f"{pick(FIRST)}.{pick(LAST)}+{pick(WORDS)}{num(2)}", lambda: pick(FIRST),
    lambda: f"{pick(FIRST).upper()}.{pick(LAST).upper()}", lambda: "19" + num(6),
    lambda: f"{pick(FIRST).title()}{pick(LAST).title()}", lambda: f"{pick(WORDS)}.{num(2)}.{pick(WORDS)}",
    lambda: f"{pick(FIRST)[0]}{pick(LAST)[0]}{num(1)}", lambda: f"the_{pick(WORDS)}_{pick(WORDS)}",
])
UNICODE_EMAILS = Cycle([
    lambda: f"jürgen.{pick(LAST)}@{DOMAINS()}", lambda: f"zoë.{pick(LAST)}@{DOMAINS()}",
    lambda: f"łukasz{num(2)}@{DOMAINS()}", lambda: f"{pick(FIRST)}@bücher.example",
    lambda: f"peña_{pick(LAST)}@{DOMAINS()}", lambda: f"o'{pick(LAST)}@{DOMAINS()}",
    lambda: f"{pick(FIRST)}@xn--bcher-kva.example", lambda: f"аня.{num(3)}@{DOMAINS()}",
])


def email(form):
    if not form and rng.random() < 0.1:
        return UNICODE_EMAILS()()
    return f"{LOCALS()()}@{DOMAINS()}"


HANDLES = Cycle([
    lambda: f"{pick(FIRST)}_{pick(WORDS)}", lambda: f"{pick(WORDS)}{pick(WORDS).title()}",
    lambda: f"{pick(FIRST)}{num(4)}", lambda: f"the{pick(WORDS)}", lambda: f"{pick(WORDS)}_hq",
    lambda: f"{pick(FIRST).title()}{pick(LAST).title()}", lambda: f"_{pick(FIRST)}_{pick(WORDS)}",
    lambda: f"x{pick(WORDS)}x{num(2)}", lambda: f"{pick(FIRST)}{pick(LAST)[0]}", lambda: pick(WORDS).upper() + num(2),
])


def handle(form):
    if form == "fedi":
        return f"@{HANDLES()()}@" + pick(["social.example", "fedi.example.org", "toot.tidelands.example", "m.example.net"])
    if form == "dot":
        return f"@{pick(FIRST)}.{pick(WORDS)}"
    return "@" + HANDLES()()


# --- phone: # is a digit, N a digit from 2 to 9, A an area code

PHONES = {
    "us": ["A-555-01##", "(A) 555-01##", "A.555.01##", "A 555 01##", "+1 A-555-01##", "+1A55501##",
           "1-A-555-01##", "A55501##", "(A)555-01##", "+1 (A) 555-01##", "A/555-01##", "001 A 555 01##"],
    "us7": ["555-01##"],
    "ca": ["416-555-01##", "(604) 555-01##", "+1 514 555 01##", "1 (613) 555-01##"],
    "toll": ["0800 157 0###", "0808 157 0###", "1-800-555-01##", "1 (888) 555-01##", "00800 #### ####"],
    "uk": ["07700 900###", "07700900###", "+44 7700 900###", "+447700900###", "+44 (0)7700 900 ###",
           "020 7946 0###", "(020) 7946 0###", "0161 496 0###", "07700-900-###", "0044 7700 900###", "01632 960###"],
    "ie": ["020 91# ####", "+353 20 91# ####", "(020) 91# ####"],
    "au": ["(02) 5550 ####", "02 7010 ####", "+61 2 5550 ####", "0491 570 1##"],
    "de": ["030 23125###", "030/23125###", "(030) 23125-###", "+49 30 23125###", "+49 (0)30 23125-###",
           "0171 39200##", "0171/39200##", "+4917139200##", "0049 69 90009###", "089 - 99998###",
           "0221-4710###", "0176 040 69 0##", "(040) 66969 ###"],
    "at": ["+43 664 ### ####", "0664 / ### ## ##"],
    "ch": ["079 ### ## ##", "+41 79 ### ## ##", "044 ### ## ##"],
    "fr": ["06 39 98 ## ##", "06.39.98.##.##", "063998####", "+33 6 39 98 ## ##", "+3363998####",
           "01 99 00 ## ##", "0033 6 39 98 ## ##", "+33 (0)6 39 98 ## ##", "01-99-00-##-##"],
    "es": ["6## ### ###", "6########", "+34 6## ## ## ##", "91 ### ## ##", "+346########", "6##-###-###"],
    "mx": ["55 #### ####", "+52 55 #### ####", "(33) #### ####"],
    "it": ["347 ### ####", "347#######", "+39 347 #######", "06 #### ####", "+39 02 #### ####", "333.###.####"],
    "pt": ["91# ### ###", "+351 21# ### ###", "93#######"],
    "br": ["(11) 9####-####", "+55 11 9####-####", "11 9#### ####", "(21) 2###-####", "+55119########"],
    "nl": ["06-########", "06 ## ## ## ##", "+31 6 ########", "020-### ####", "+316########", "06########"],
    "pl": ["5## ### ###", "+48 6## ### ###", "22 N## ## ##", "+485########", "6##-###-###"],
    "se": ["070-174 06 ##", "08-465 004 ##", "+46 70 174 06 ##", "07017406##", "+46 (0)70-174 06 ##"],
    "tr": ["0532 ### ## ##", "+90 532 ### ## ##", "0(532) ### ## ##", "0532#######", "0212 N## ## ##"],
    "jp": ["090-N###-####", "03-N###-####", "+81 90-N###-####", "０９０－N###－####", "090N#######", "0120-###-###"],
    "in": ["98### #####", "+91 98### #####", "+91-98########", "98########", "022-2### ####"],
    "ar": ["05N ### ####", "+966 5N ### ####", "010########", "+971 50 ### ####", "٠٥N#######"],
    "int": ["+1 A 555 01##", "+447700900###", "+49 30 23125###", "+33 6 39 98 ## ##", "+467017406##",
            "+61 2 7010 ####", "+65 9### ####", "+27 82 ### ####", "+234 803 ### ####", "+7 912 ###-##-##",
            "+380 67 ### ## ##", "+86 138 #### ####", "+82 10-N###-####", "+972-52-###-####", "+1-A-555-01##"],
}
PHONE_FORMS = {region: Cycle(forms) for region, forms in PHONES.items()}
AREAS = ["212", "415", "303", "617", "206", "312", "512", "404"]
SCRIPTS = {"٠": "٠١٢٣٤٥٦٧٨٩", "０": "０１２３４５６７８９"}


def phone(form):
    shape = PHONE_FORMS[form or "int"]()

    def draw():
        text = pattern(shape.replace("A", pick(AREAS)))
        digits = SCRIPTS.get(shape[0])
        return text.translate(str.maketrans(string.digits, digits)) if digits else text

    return only(draw)


# --- url with a secret

def secret(count):
    return chars(ALNUM, count)


def password():
    return pick([f"{pick(WORDS)}{num(3)}", secret(10), f"{pick(WORDS).title()}-{num(2)}{chars(ALNUM, 4)}"])


URLS = {
    "cred": ["https://{u}:{p}@wiki.example.org/start", "https://{u}:{p}@intranet.example.com", "http://{u}:{p}@cam.example.net:8081/live",
             "https://{u}:{p}@api.tidelands.example/v2/items?limit=10", "http://admin:{p}@router.example/"],
    "db": ["postgres://{u}:{p}@db.example.com:5432/shop", "mysql://root:{p}@mysql.example.net/blog", "redis://:{p}@cache.example.org:6379/0",
           "mongodb+srv://{u}:{p}@cluster0.example.net/test?retryWrites=true", "amqp://{u}:{p}@queue.example:5672/vhost"],
    "git": ["https://oauth2:glpat-FAKE{16}@git.example.com/team/site.git", "https://{u}:ghp_Fake{32}@code.example.org/{u}/notes.git",
            "https://x-token-auth:{24}@git.example.net/app.git"],
    "ftp": ["ftp://{u}:{p}@ftp.example.org/in", "sftp://{u}:{p}@files.example.com:2222/backup/", "ftps://{u}:{p}@ftp.example.net"],
    "token": ["https://app.example.com/reset?token={32}", "https://example.org/login?uid={n}&access_token={40}", "https://id.example.com/cb#access_token={36}&expires_in=3600",
              "http://www.example.net/confirm?auth_token={22}&lang=en", "https://join.example/i?invite_token={20}", "https://example.com/u/unsubscribe?id={n}&token={h}",
              "https://accounts.example.org/verify?next=/home&token={t}"],
    "signed": ["https://files.s3.example.com/report.pdf?X-Amz-Expires=3600&X-Amz-Signature={h}{h}", "https://blob.example.net/out/data.csv?sv=2022-11-02&sig={28}%2B{12}%3D",
               "https://cdn.example.org/v/clip.mp4?Expires=86400&Signature={43}&Key-Pair-Id=APKAFAKE{U}", "https://docs.example.com/d/{n}/view?signature={h}"],
    "session": ["https://shop.example.de/konto;jsessionid={H}", "http://old.example.com/index.php?PHPSESSID={26}", "https://portal.example.org/app?sid={h}&tab=2",
                "https://example.net/cart?session_id={24}", "https://bank.example/view?lang=pl&session={30}"],
    "key": ["https://maps.example.com/tile?z=4&key=AIzaFAKE{31}", "https://api.example.org/v1/geo?q=harbour&api_key={h}", "webcal://cal.example.net/house.ics?key={24}",
            "https://weather.example/now?apikey={h}&units=metric", "https://calendar.example.com/feed.ics?private_key={20}"],
}
URL_FORMS = {form: Cycle(shapes) for form, shapes in URLS.items()}


def url(form):
    def fill(match):
        name = match.group(1)
        return {"u": lambda: pick(FIRST), "p": password, "n": lambda: num(4), "h": lambda: chars(HEX, 32),
                "H": lambda: chars(HEX, 32).upper(), "U": lambda: chars(UPPER, 12),
                "t": lambda: jwt()}.get(name, lambda: secret(int(name)))()

    return re.sub(r"\{(\w+)\}", fill, URL_FORMS[form]())


# --- iban

BANKS = {"GB": ["NWBK", "BARC", "LOYD"], "IE": ["AIBK", "BOFI"], "NL": ["INGB", "ABNA", "RABO", "TRIO"]}
ODD = dict(zip(string.digits + string.ascii_uppercase,
               [1, 0, 5, 7, 9, 13, 15, 17, 19, 21] + [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12,
                                                      14, 16, 10, 22, 25, 24, 23]))


def italian_check(text):
    """The check character of the codice fiscale and of Italian account numbers."""
    even = {c: i % 10 if i < 10 else i - 10 for i, c in enumerate(string.digits + string.ascii_uppercase)}
    return chr(65 + sum((even if i % 2 else ODD)[c] for i, c in enumerate(text)) % 26)


def spanish_check(digits):
    rest = 11 - weighted(digits, [1, 2, 4, 8, 5, 10, 9, 7, 3, 6]) % 11
    return str({10: 1, 11: 0}.get(rest, rest))


def bban(country):
    if country in BANKS:
        return pick(BANKS[country]) + num(14 if country != "NL" else 10)
    if country == "FR":
        bank, desk, account = num(5), num(5), num(11)
        return bank + desk + account + f"{97 - (89 * int(bank) + 15 * int(desk) + 3 * int(account)) % 97:02}"
    if country == "ES":
        bank, account = num(8), num(10)
        return bank + spanish_check("00" + bank) + spanish_check(account) + account
    if country == "IT":
        rest = num(22)
        return italian_check(rest) + rest
    if country == "PT":
        body = num(19)
        return body + f"{98 - int(body) * 100 % 97:02}"
    if country == "PL":
        bank = num(7)
        return bank + str(-weighted(bank, [3, 9, 7, 1, 3, 9, 7]) % 10) + num(16)
    if country == "BE":
        body = pick(["001", "363", "539", "735"]) + num(7)
        return body + f"{int(body) % 97 or 97:02}"
    if country == "TR":
        return num(5) + "0" + num(16)
    return num({"DE": 18, "AT": 16, "CH": 17, "SE": 20, "LU": 16, "DK": 14}[country])


ANY_IBAN = Cycle("DE FR ES IT NL GB BE AT LU DK IE".split())
IBAN_STYLES = Cycle(["groups"] * 4 + ["compact"] * 4 + ["nbsp", "hyphen", "lower", "lower groups"])


def iban(form):
    country = form.upper() or ANY_IBAN()
    body = bban(country)
    value = int("".join(str(int(c, 36)) for c in body + country + "00"))
    text, style = f"{country}{98 - value % 97:02}{body}", IBAN_STYLES()
    if "lower" in style:
        text = text.lower()
    separator = "" if style in ("compact", "lower") else NBSP if style == "nbsp" else "-" if style == "hyphen" else " "
    return group(text, [4] * 9, separator)


# --- card

CARDS = {
    "visa": [("4", 16), ("4", 16), ("4", 13), ("4", 19)], "mc": [("51", 16), ("53", 16), ("55", 16), ("2221", 16), ("2500", 16)],
    "amex": [("34", 15), ("37", 15)], "diners": [("36", 14), ("38", 14)], "jcb": [("3528", 16), ("3566", 16)],
    "other": [("6011", 16), ("65", 16), ("62", 16), ("62", 19), ("5018", 16), ("6759", 18), ("2200", 16)],
}
ISSUERS = Cycle(["visa"] * 4 + ["mc"] * 4 + ["amex"] * 2 + ["diners", "jcb", "other", "other"])
ISSUER_FORMS = {name: Cycle(forms) for name, forms in CARDS.items()}
CARD_SEPARATORS = Cycle(["", "", " ", " ", " ", "-", "-", NBSP])


def card(form):
    prefix, length = ISSUER_FORMS[form or ISSUERS()]()
    text = only(lambda: luhn(prefix + num(length - 1 - len(prefix))), {"card"})
    sizes = {13: [4, 3, 3, 3], 14: [4, 6, 4], 15: [4, 6, 5]}.get(length, [4, 4, 4, 4, 3])
    return group(text, sizes, CARD_SEPARATORS())


# --- ip, mac

def ipv4():
    low = lambda: rng.randint(1, 254)
    return pick([lambda: f"192.0.2.{low()}", lambda: f"198.51.100.{low()}", lambda: f"203.0.113.{low()}",
                 lambda: f"10.{low()}.{low()}.{low()}", lambda: f"172.{rng.randint(16, 31)}.{low()}.{low()}",
                 lambda: f"192.168.{low()}.{low()}", lambda: f"198.18.{low()}.{low()}", lambda: f"100.{rng.randint(64, 127)}.{low()}.{low()}"])()


def word16():
    return f"{rng.randint(1, 65535):x}"


IPV6 = Cycle([
    lambda: f"2001:db8::{word16()}", lambda: f"2001:db8:{word16()}:{word16()}::{rng.randint(1, 99):x}",
    lambda: "2001:0db8:" + ":".join(f"{rng.randint(0, 65535):04x}" for _ in range(6)),
    lambda: "2001:db8:" + ":".join(word16() for _ in range(6)),
    lambda: "2001:DB8:" + ":".join(word16().upper() for _ in range(6)),
    lambda: f"fd{chars(HEX, 2)}:{word16()}:{word16()}::{word16()}:{word16()}", lambda: f"2001:db8:{word16()}::{word16()}:{word16()}:{word16()}",
])


def ip(form):
    if form == "link":
        return "fe80::" + ":".join(word16() for _ in range(4))
    if form == "mapped":
        return "::ffff:" + ipv4()
    return ipv4() if form == "4" else IPV6()()


MACS = Cycle(["colon", "colon", "COLON", "hyphen", "HYPHEN", "cisco"])


def mac(form):
    style, raw = form or MACS(), chars("02468ace", 1) + chars(HEX, 11)
    raw = raw[0] + pick("26ae") + raw[2:]  # locally administered, so of no maker
    if style.isupper():
        raw = raw.upper()
    return group(raw, [4] * 3, ".") if style == "cisco" else group(raw, [2] * 6, "-" if style.lower() == "hyphen" else ":")


# --- national ids

def birth(low=50, high=99):
    return f"{rng.randint(low, high):02}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"


def nino():
    while True:
        prefix = chars("ABCEGHJKLMNOPRSTWXYZ", 1) + chars("ABCEGHJKLMNPRSTWXYZ", 1)
        if prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ"):
            return prefix + num(6) + chars("ABCD", 1)


def idnr():
    while True:
        many, single = pick([(2, 8), (3, 7)])
        kinds = rng.sample(string.digits, single + 1)
        body = rng.sample(kinds[1:] + [kinds[0]] * many, 10)
        if body[0] != "0" and kinds[0] * 3 not in "".join(body):
            return iso7064_11_10("".join(body))


def nir():
    department = pick(["01", "13", "33", "59", "69", "75", "78", "2A", "2B"])
    body = f"{pick('12')}{rng.randint(50, 99)}{rng.randint(1, 12):02}{department}{rng.randint(1, 399):03}{rng.randint(1, 399):03}"
    return body + f"{97 - int(body.replace('2A', '19').replace('2B', '18')) % 97:02}"


def dni_letter(digits):
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23]


def nie():
    series, body = pick("XYZ"), num(7)
    return series + body + dni_letter(str("XYZ".index(series)) + body)


def codice_fiscale():
    consonants, sex = "BCDFGLMNPRSTVZ", pick([0, 40])
    body = f"{chars(consonants, 6)}{rng.randint(50, 99)}{pick('ABCDEHLMPRST')}{rng.randint(1, 28) + sex:02}{pick('ABDFGHL')}{rng.randint(100, 899)}"
    return body + italian_check(body)


def bsn():
    while True:
        text = chars("123456789", 1) + num(8)
        if "bsn" in claims(text):
            return text


def aadhaar():
    while True:
        text = chars("23456789", 1) + num(11)
        if verhoeff_sum(text) == 0:
            return text


def polish():
    date = birth()
    if rng.random() < 0.3:  # born after 1999: the month is raised by 20
        date = f"{rng.randint(0, 5):02}{int(date[2:4]) + 20}{date[4:]}"
    return pesel(date + num(4))


def swedish(long):
    digits = luhn(birth() + num(3))
    return ("19" if long else "") + digits


def dotted_dni():
    digits = str(rng.randint(10_000_000, 79_999_999))
    return digits, dni_letter(digits)


def spanish(style):
    digits, letter = dotted_dni()
    return [digits + letter, f"{digits}-{letter}", f"{group(digits, [2, 3, 3], '.')}-{letter}", f"{digits} {letter}"][style]


NATIONAL = {form: Cycle(makers) for form, makers in {
    "ssn": [lambda: f"{pick([rng.randint(1, 665), rng.randint(667, 899)]):03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"],
    "nino": [nino, nino, lambda: group(nino(), [2, 2, 2, 2, 1], " "), lambda: group(nino(), [2, 2, 2, 2, 1], " "), lambda: nino().lower()],
    "idnr": [lambda: only(idnr, {"idnr"}), lambda: group(only(idnr, {"idnr"}), [2, 3, 3, 3], " ")],
    "nir": [nir, lambda: group(nir(), [1, 2, 2, 2, 3, 3, 2], " "), lambda: group(nir(), [13, 2], " ")],
    "dni": [lambda: spanish(0), lambda: spanish(0), lambda: spanish(1), lambda: spanish(2), lambda: spanish(3)],
    "nie": [nie, lambda: group(nie(), [1, 7, 1], "-"), nie],
    "cf": [codice_fiscale, codice_fiscale, lambda: codice_fiscale().lower(), lambda: group(codice_fiscale(), [3, 3, 5, 5], " ")],
    "bsn": [bsn, bsn, lambda: group(bsn(), [4, 2, 3], "."), lambda: group(bsn(), [3, 3, 3], " ")],
    "pesel": [lambda: only(polish, {"pesel"})],
    "cpf": [lambda: group(cpf(num(9)), [9, 2], "-"), lambda: only(lambda: cpf(num(9)), {"cpf"}),
            lambda: re.sub(r"(...)(...)(...)(..)", r"\1.\2.\3-\4", cpf(num(9))), lambda: re.sub(r"(...)(...)(...)(..)", r"\1.\2.\3-\4", cpf(num(9)))],
    "aadhaar": [lambda: group(aadhaar(), [4, 4, 4], " "), lambda: group(aadhaar(), [4, 4, 4], " "), lambda: group(aadhaar(), [4, 4, 4], "-")],
    "sin": [lambda: group(luhn(pick("1234567") + num(7)), [3, 3, 3], " "), lambda: group(luhn(pick("1234567") + num(7)), [3, 3, 3], "-")],
    "pnr": [lambda: group(swedish(False), [6, 4], "-"), lambda: group(swedish(True), [8, 4], "-")],
}.items()}


def national_id(form):
    while True:
        text = NATIONAL[form]()()
        digits = re.sub(r"\D", "", text)
        if "card" not in claims(digits):
            return text


# --- key

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def base58check(version):
    payload = bytes([version]) + rng.randbytes(20)
    payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    value, text = int.from_bytes(payload, "big"), ""
    while value:
        value, rest = divmod(value, 58)
        text = BASE58[rest] + text
    return "1" * (len(payload) - len(payload.lstrip(b"\0"))) + text


def bech32():
    bits = int.from_bytes(rng.randbytes(20), "big")
    data = [0] + [bits >> shift & 31 for shift in range(155, -1, -5)]
    check = 1
    for value in [3, 3, 0, 2, 3] + data + [0] * 6:  # "bc" expanded, then the data
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, factor in enumerate([0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]):
            check ^= factor if top >> i & 1 else 0
    data += [(check ^ 1) >> 5 * (5 - i) & 31 for i in range(6)]
    return "bc1" + "".join(BECH32[d] for d in data)


def jwt():
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")
    claim = {"sub": num(6), "name": pick(FIRST), "iat": 1_600_000_000 + rng.randint(0, 10**8)}
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claim)}.{chars(ALNUM + '-_', 42)}{chars(ALNUM, 1)}"


def marked(prefix, count, mark="FAKE", alphabet=ALNUM):
    """A token with the prefix of a real service and a word that tells it is invented."""
    at = rng.randint(4, count - len(mark) - 4)
    return prefix + chars(alphabet, at) + mark + chars(alphabet, count - at - len(mark))


def strong_password():
    body = list(chars(ALNUM, 17))
    for place in rng.sample(range(3, 14), 2):
        body[place] = pick("#!%$*")
    return chars(string.ascii_letters, 1) + "".join(body) + num(1)


def uuid():
    return group(chars(HEX, 12) + "4" + chars(HEX, 3) + chars("89ab", 1) + chars(HEX, 15), [8, 4, 4, 4, 12], "-")


KEYS = {form: Cycle(makers) for form, makers in {
    "openai": [lambda: marked("sk-", 48), lambda: marked("sk-proj-", 48), lambda: marked("sk-live-", 32)],
    "github": [lambda: marked("ghp_", 36, "Fake"), lambda: marked("gho_", 36, "Fake"), lambda: marked("github_pat_", 22, "Fake") + "_" + secret(59)],
    "aws": [lambda: "AKIA" + chars(UPPER[:26] + "234567", 9) + "EXAMPLE"],
    "slack": [lambda: f"xoxb-{num(11)}-{num(12)}-" + marked("", 24), lambda: f"xoxp-{num(11)}-" + marked("", 24)],
    "jwt": [jwt], "gitlab": [lambda: marked("glpat-", 20)], "google": [lambda: marked("AIza", 35)],
    "btc": [lambda: base58check(0), lambda: base58check(5)], "bech32": [bech32], "tron": [lambda: base58check(0x41)],
    "doge": [lambda: base58check(0x1E)], "eth": [lambda: "0x" + chars(HEX, 40)],
    "uuid": [uuid, uuid, lambda: uuid().upper()],
    "hex": [lambda: chars(HEX, 32), lambda: chars(HEX, 40), lambda: chars(HEX, 64), lambda: chars(HEX, 32).upper(), lambda: chars(HEX, 48)],
    "base64": [lambda: base64.b64encode(rng.randbytes(32)).decode(), lambda: base64.b64encode(rng.randbytes(46)).decode(), lambda: base64.b64encode(rng.randbytes(64)).decode()],
    "stripe": [lambda: marked("sk_test_", 24), lambda: marked("rk_test_", 30)], "hf": [lambda: marked("hf_", 34)],
    "npm": [lambda: marked("npm_", 36)], "sendgrid": [lambda: marked("SG.", 22) + "." + secret(43)], "pass": [strong_password],
}.items()}


# --- digits

LENGTHS = {"": Cycle([9, 9, 10, 11, 12, 13, 14]), "long": Cycle([12, 13, 14, 15, 16, 18, 20])}


def digits(form):
    if form == "usps":
        return group("9400" + num(18), [4] * 6, " ")
    length = LENGTHS[form]()
    # Short ones begin so that no common phone number does.
    head = {9: ["10", "40", "11"], 10: ["10", "11"], 11: ["50", "90", "80"]}.get(length, ["10", "3", "7", "000", "8", "2024"])
    return only(lambda: (start := pick(head)) + num(length - len(start)))


KINDS = {"email": email, "phone": phone, "url": url, "handle": handle, "iban": iban, "card": card, "ip": ip, "mac": mac,
         "natid": national_id, "key": lambda form: KEYS[form]()(), "digits": digits}

# --- neutral filler

DATES = [lambda: f"20{rng.randint(19, 25)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}", lambda: f"{rng.randint(1, 28)}.{rng.randint(1, 12)}.20{rng.randint(19, 25)}",
         lambda: f"{rng.randint(1, 12):02}/{rng.randint(1, 28):02}/20{rng.randint(19, 25)}", lambda: f"{rng.randint(1, 28)} May 20{rng.randint(19, 25)}"]
FILLER = {
    "weekday": lambda: pick("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "weekday_de": lambda: pick("Mäntig Mittwuch Friitig".split()), "weekday_pl": lambda: pick("w poniedziałek|we wtorek|w piątek".split("|")),
    "month": lambda: pick("January March April June August October".split()), "year": lambda: str(rng.randint(1985, 2023)),
    "year2": lambda: str(rng.randint(2025, 2029)), "exp": lambda: f"{rng.randint(1, 12):02}/{rng.randint(26, 31)}",
    "time": lambda: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}", "price": lambda: f"{rng.randint(3, 240)}.{num(2)}",
    "first": lambda: pick(FIRST).title(), "date": lambda: pick(DATES)(),
}


def filler(name, turn):
    if name.startswith("|"):
        options = name[1:].split("|")
        return options[turn % len(options)]
    if name.startswith("n:"):
        low, high = name[2:].split("-")
        return str(rng.randint(int(low), int(high)))
    return FILLER[name]()


def fill(template, turn, used):
    """The text of a filled template, and its spans in bytes."""
    text, spans, at = "", [], 0
    for slot in re.finditer(r"\[\[(?!\[)([^\[\]]+)\]\]", template):
        text += template[at:slot.start()]
        at = slot.end()
        kind, _, form = slot[1].partition(":")
        if kind not in KINDS:
            text += filler(slot[1], turn)
            continue
        value = KINDS[kind](form)
        while value in used:
            value = KINDS[kind](form)
        used.add(value)
        start = len(text.encode())
        text += value
        spans.append({"kind": "national-id" if kind == "natid" else kind, "start": start, "end": len(text.encode())})
    return text + template[at:], spans


def templates(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if not line or line.startswith("##"):
                continue
            counted = re.match(r"(\d)> ", line)
            text = line[counted.end():] if counted else line
            yield text.replace("⏎", "\n").replace("⇥", "\t").replace("⍽", NBSP), counted and int(counted[1])


def main():
    used, rows, seen = set(), [], set()
    for name, usual in (("templates_positive.txt", 2), ("templates_negative.txt", 1)):
        for template, count in templates(name):
            for turn in range(count or usual):
                text, spans = fill(template, turn, used)
                if text not in seen:
                    seen.add(text)
                    rows.append((text, spans))
    rng.shuffle(rows)
    for number, (text, spans) in enumerate(rows, 1):
        print(json.dumps({"id": f"r{number:04}", "text": text, "spans": spans}, ensure_ascii=False))


if __name__ == "__main__":
    main()
