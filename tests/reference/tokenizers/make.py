"""Writes the folders beside this file, `tokens.json`, and the tables `emoji.txt` and `entities.txt` of the crate.

Small tokenizers of each kind are trained on generated sentences and written as the files that older models have. What is
expected of them is what the slow, pure Python tokenizers of `transformers` make of the corpus; ModernBERT, which has none,
is held against the `tokenizers` library.

    pip install -r requirements.txt
    python make.py
"""

import collections
import html.entities
import json
import random
import tempfile
from pathlib import Path

import emoji
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertTokenizer, BertTokenizer, BertweetTokenizer, DebertaV2Tokenizer, MPNetTokenizer, PhobertTokenizer,
    RobertaTokenizer, XLMRobertaTokenizer,
)  # fmt: skip

HERE = Path(__file__).resolve().parent
MAX_LENGTH = 200
SOURCE = HERE.parents[2] / "src" / "slm" / "tokenize"

# Of the corpus of the encoders' tokens.json; a slow tokenizer takes its time for one long word.
OLD = json.loads((HERE.parent / "tokens.json").read_text())["corpus"]
OLD = [item if isinstance(item, str) else item | {"times": min(item["times"], 1500)} for item in OLD]
NEW = [
    "Hello   world \t and\n\nnew  lines ",
    "  leading and trailing  ",
    "\u3000ideographic\u3000space\u3000",
    "it's I'm they're we'll he'd you've don't can't cannot ain't CAN'T",
    "He's here 's s' '",
    "In 1,000, 9, 2000,, and 3.5, 12,",
    "``quoted'' text and \"more\"",
    "▁ literal ▁▁ marks▁",
    "한국어 decomposed: \u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165",
    "ﾊﾞﾊﾟ ｶﾞ ㍿ ㌔ ﷺ ™ ﬃ ⅷ ¼ ㎏ １２３ ａｂｃ",
    "e\u0301\u0323 a\u0308\u0301 o\u0328\u0304 q\u0307\u0323 d\u0323\u0307",
    "İstanbul ΣΊΣΥΦΟΣ ǅ ẞ ŉ",
    "\x1cfile\x1dgroup\x1erecord\x1funit\x85next",
    "\u200bzero\u200cwidth\u200djoin\u2060er\ufeff",
    "a\u00a0b\u202fc\u2009d",
    "<mask> <mask>   <mask>x x <mask> , <pad></s><s>",
    "text [MASK] text[MASK]text  [SEP] [CLS][PAD] [UNK]",
    "@USER @user_name: check https://t.co/AbC123 and www.example.com/x?y=1 !!!",
    "RT @someone: so happy :) :-( ;D <3 =P >:( XD 8-)",
    "Call 555-123-4567 or (555) 123 4567 or +1 555.123.4567 now",
    "#hashtag #hash-tag_2 ## #1 user@example.org a.b+c@mail.example.co.uk",
    "price: $5.99, 50% off &amp; more &lt;b&gt; &#39;q&#39; &#x41; &unknown; &#150; &nbsp; AT&T; &;",
    "so goooooood!!!!!!! ......... hmmmm…… ——————",
    "I’m “fine” ‘ok’ … don’t",
    "😀 😂😂😂😂😂 👍🏽 ❤️ ☺ ☀️ 🇩🇪 👨‍👩‍👧 🏳️‍🌈 ©️ 1️⃣",
    "->  <-- ---> <tag> </a> <a href=x> < b > a->b",
    "at 5 p.m. or 5 p . m . or a . m  today, 10 a.m.",
    "well-known state-of-the-art o'clock _under_score_ x_1 -dash- 'n'",
    "1/2 3-4 5:30 10,000.50 +7 -3.2- 1.2.3.4 192.168.0.1",
    "http:// https://x http://a.b(c)d https://en.example.org/wiki/X_(y)_(z) (see example.com/). foo@bar.com.",
    "example.com, sub-domain.example.co.uk/path?q=(1) mail@x.y HTTP://UPPER.COM Www.Mixed.Org https:stop",
    "привет мир, как дела? Москва",
    "这是一个测试。今天天气很好！",
    "すべてのテスト。カタカナ",
    "mixed مرحبا and שלום עולם ১২৩ ४५६ ௧௨",
    "½ ² ³ ① Ⅷ ⓐ 🅰 𝒜𝓫𝕔 ℌ ª º",
    "\U0001f6fc\U0001faf6 newer 🫠 emoji 🧋",
    "combining \u20dd \u0488 \u093e\u0915\u093e \u0bbe",
    "\ue000 private \U000f0000 \ufdd0 \U0010ffff",
    "x" * 300,
    "ab" * 120 + " " + "é" * 90,
    {"repeat": "great day at the lake @user http://t.co/x1 😀 ", "times": 40},
    {"repeat": "一二三", "times": 120},
    {"repeat": "'s", "times": 150},
    {"repeat": ".-", "times": 200},
    {"repeat": "((", "times": 150},
    {"repeat": "http://.,", "times": 60},
    "line one\nline two\r\nline three\rline four\n",
    "word\n",
    "\n",
]  # fmt: skip
CORPUS = OLD + NEW

SUBJECTS = ["the cat", "my friend", "this phone", "the service", "our team", "a new update", "the weather", "that movie",
            "her answer", "@USER", "nobody", "I", "they", "we", "it's", "she", "the company", "customer support"]  # fmt: skip
VERBS = ["is", "was", "likes", "hates", "broke", "don't understand", "can't wait for", "loved", "makes", "sold", "won't help",
         "says", "opened", "has never seen", "recommends", "reported"]  # fmt: skip
OBJECTS = ["a great day", "the worst day ever", "10,000 shares", "new lines", "the state-of-the-art camera", "nothing", "5 stars",
           "HTTPURL", "my order", "café and crème brûlée", "two hours of waiting", "the price of $5.99", "text", "#love", "more"]  # fmt: skip
ENDS = [".", "!", "?", " :)", " :(", "...", " 😀", " 😂😂", ", and then left.", " today", " <3", "", " , really", " \"quoted\""]
FOREIGN = [
    "Der Zug fährt heute nicht, und niemand weiß warum.", "¡Qué día tan bonito! ¿Vienes mañana?", "Il fait très beau aujourd'hui à Paris.",
    "Привет мир, как дела? Сегодня хорошая погода.", "这是一个测试。今天天气很好，我们去公园。", "今日は天気がいいです。カタカナのテスト。",
    "한국어 테스트입니다. 오늘 날씨가 좋습니다.", "مرحبا بالعالم، كيف حالك اليوم؟", "שלום עולם, מה שלומך היום?", "हिन्दी में लिखा हुआ पाठ है।",
]  # fmt: skip


def sentences():
    draw = random.Random(8)
    english = [f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)}{draw.choice(ENDS)}" for _ in range(3000)]
    english += [line.capitalize() for line in english[:500]]
    syllables = [a + b for a in "b d f g k l m n p r s t st tr ch".split() for b in "a e i o u an en ing er ou".split()]
    words = ["".join(draw.choice(syllables) for _ in range(draw.choice([1, 2, 2, 3]))) for _ in range(800)]
    english += [" ".join(draw.choice(words) for _ in range(5)) for _ in range(1500)]
    return english + FOREIGN * 20


def write(folder, name, text):
    folder = HERE / folder
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)


def describe(folder, config, tokenizer_config=None, **more):
    write(folder, "config.json", json.dumps(config) + "\n")
    for name, value in {"tokenizer_config": tokenizer_config, **more}.items():
        if value is not None:
            write(folder, f"{name}.json", json.dumps(value) + "\n")


def wordpiece(folder, specials, lower, size=500):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=specials, limit_alphabet=220)
    tokenizer.train_from_iterator(sentences(), trainer)
    vocab = tokenizer.get_vocab()
    write(folder, "vocab.txt", "".join(token + "\n" for token in sorted(vocab, key=vocab.get)))


def byte_bpe(specials, size=600):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(sentences(), trainer)
    return tokenizer


def roberta(folder):
    with tempfile.TemporaryDirectory() as place:
        for file in byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]).model.save(place):
            write(folder, Path(file).name, Path(file).read_bytes())


def sentencepiece_model(folder, name, **options):
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "m"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences()), model_prefix=str(file), num_threads=1, minloglevel=2,
            hard_vocab_limit=False, **options
        )
        write(folder, name, file.with_suffix(".model").read_bytes())


def rules():
    """A small map of characters, instead of the quarter megabyte of NFKC."""
    pairs = {"\t": " ", "\n": " ", "\r": " ", "\u3000": " ", "\xa0": " ", "ﬁ": "fi", "ﬃ": "ffi", "™": "TM", "½": "1⁄2", "\u200b": " ",
             "e\u0301": "é", "a\u0308": "ä", "a\u0308\u0301": "ǟ", "\u1112\u1161": "하", "\u1112\u1161\u11ab": "한",
             "\u00ad": "", "①": "1"}  # fmt: skip
    line = lambda text: " ".join(f"{ord(c):X}" for c in text)
    return "".join(f"{line(source)}\t{line(target)}\n" for source, target in pairs.items())


def tweet(folder, size=700):
    """Codes of BPE, and a vocabulary that lacks some of what they make, as one that is cut by frequency does."""
    words = collections.Counter(word for line in sentences() for word in line.split())
    parts = {word: list(word[:-1]) + [word[-1] + "</w>"] for word in words}
    codes = []
    while len(codes) < size:
        pairs = collections.Counter()
        for word, count in words.items():
            pairs.update({pair: 0 for pair in zip(parts[word], parts[word][1:])})
            for pair in zip(parts[word], parts[word][1:]):
                pairs[pair] += count
        if not pairs:
            break
        (left, right), count = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        codes.append(f"{left} {right} {count}\n")
        for word, symbols in parts.items():
            at = 0
            while at + 1 < len(symbols):
                if (symbols[at], symbols[at + 1]) == (left, right):
                    symbols[at : at + 2] = [left + right]
                at += 1
    tokens = collections.Counter()
    for word, count in words.items():
        for symbol in parts[word]:
            tokens[symbol[:-4] if symbol.endswith("</w>") else symbol + "@@"] += count
    for letter in "abcdefghijklmnopqrstuvwxyz.:!'()":
        tokens[letter] += 1
        tokens[letter + "@@"] += 1
    for name in ["😀", "😂", "👍"]:
        tokens[emoji.demojize(name)] += 1
    kept = [(token, count) for token, count in sorted(tokens.items(), key=lambda item: (-item[1], item[0])) if count != 3]
    write(folder, "bpe.codes", "".join(codes))
    write(folder, "vocab.txt", "".join(f"{token} {count}\n" for token, count in kept))


def modernbert(folder):
    tokenizer = byte_bpe(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("|||IP_ADDRESS|||", normalized=True), *(AddedToken(" " * n, normalized=True) for n in range(2, 9))])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids)
    write(folder, "tokenizer.json", tokenizer.to_str())
    return tokenizer


def text_of(item):
    return item if isinstance(item, str) else item["repeat"] * item["times"]


def slow_ids(tokenizer, text):
    ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    return tokenizer.build_inputs_with_special_tokens(ids)


def cut(ids):
    truncated = len(ids) > MAX_LENGTH
    return {"ids": ids[: MAX_LENGTH - 1] + ids[-1:] if truncated else ids} | ({"truncated": True} if truncated else {})


def main():
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    wordpiece("bert-cased", bert, lower=False)
    describe("bert-cased", {"model_type": "bert"}, {"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    wordpiece("electra", bert, lower=True)
    describe("electra", {"model_type": "electra"}, added_tokens={"<brand>": 500})
    wordpiece("mpnet", ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"], lower=True, size=400)
    describe("mpnet", {"model_type": "mpnet"}, {"tokenizer_class": "MPNetTokenizer"})
    roberta("roberta")
    describe("roberta", {"model_type": "roberta"}, None)
    sentencepiece_model("xlm-roberta", "sentencepiece.bpe.model", vocab_size=500, character_coverage=0.995)
    describe("xlm-roberta", {"model_type": "xlm-roberta"}, {"model_max_length": 512})
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as table:
        table.write(rules())
        table.flush()
        sentencepiece_model(
            "albert", "spiece.model", vocab_size=400, character_coverage=0.99, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
            control_symbols="[CLS],[SEP],[MASK]", pad_piece="<pad>", normalization_rule_tsv=table.name,
        )  # fmt: skip
        describe("albert", {"model_type": "albert"}, {"tokenizer_class": "AlbertTokenizer"})
        sentencepiece_model(
            "deberta", "spm.model", vocab_size=450, character_coverage=0.99, pad_id=0, bos_id=1, eos_id=2, unk_id=3,
            pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", normalization_rule_tsv=table.name,
            user_defined_symbols="#love",
        )  # fmt: skip
        size = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "deberta" / "spm.model")).get_piece_size()
        config = {"do_lower_case": False, "vocab_type": "spm"}
        describe("deberta", {"model_type": "deberta-v2"}, config, added_tokens={"[MASK]": size})
    tweet("bertweet")
    describe("bertweet", {"model_type": "roberta", "tokenizer_class": "BertweetTokenizer"}, {"normalization": True})
    fast = modernbert("modernbert")

    folder = lambda name: str(HERE / name)
    electra = BertTokenizer.from_pretrained(folder("electra"))
    assert electra.convert_tokens_to_ids("<brand>") == 500
    plain = PhobertTokenizer(folder("bertweet") + "/vocab.txt", folder("bertweet") + "/bpe.codes")
    slow = {
        "bert-cased": BertTokenizer.from_pretrained(folder("bert-cased")),
        "electra": electra,
        "mpnet": MPNetTokenizer.from_pretrained(folder("mpnet")),
        "roberta": RobertaTokenizer.from_pretrained(folder("roberta")),
        "xlm-roberta": XLMRobertaTokenizer.from_pretrained(folder("xlm-roberta")),
        "albert": AlbertTokenizer.from_pretrained(folder("albert")),
        "deberta": DebertaV2Tokenizer.from_pretrained(folder("deberta")),
        "bertweet": BertweetTokenizer.from_pretrained(folder("bertweet"), normalization=True),
        "bertweet-plain": plain,
    }
    expected = {}
    for name, tokenizer in slow.items():
        expected[name] = [cut(slow_ids(tokenizer, text_of(item))) for item in CORPUS]
    expected["modernbert"] = [cut(fast.encode(text_of(item)).ids) for item in CORPUS]
    tweets = [{"text": text_of(item), "normalized": slow["bertweet"].normalizeTweet(text_of(item))} for item in NEW]
    tweets = [tweet for tweet in tweets if len(tweet["text"]) < 400]
    size = {name: len(tokenizer) for name, tokenizer in slow.items()} | {"modernbert": fast.get_vocab_size()}
    found = {"corpus": CORPUS, "max_length": MAX_LENGTH, "sizes": size, "tokens": expected, "tweets": tweets}
    (HERE / "tokens.json").write_text(json.dumps(found, ensure_ascii=True, separators=(",", ":")) + "\n")

    names = {c: name[1:-1] for c, name in emoji.UNICODE_EMOJI.items() if len(c) == 1}
    (SOURCE / "emoji.txt").write_text("".join(f"{c} {names[c]}\n" for c in sorted(names)))
    table = html.entities.name2codepoint
    (SOURCE / "entities.txt").write_text("".join(f"{name} {table[name]}\n" for name in sorted(table)))


main()
