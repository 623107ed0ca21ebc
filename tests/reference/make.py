"""Writes the reference values of tests/reference.rs, tests/tokenizer_bases.rs and the wasm tests.

Encoders: tiny models with random weights, run by PyTorch `transformers` (BertModel, MPNetModel, eager attention) in f64.
Tokenizers: the slow, pure Python tokenizers of `transformers`.

    pip install -r requirements.txt
    python make.py                     # writes the small models, cases.json and tokens.json beside this file
    python make.py ID=TOKENIZER.json…  # writes bases.json too: the ids of bases, from the vocabulary of their tokenizer
"""

import hashlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")

import torch
from safetensors.torch import save_file
from transformers import AddedToken, BertConfig, BertModel, BertTokenizer, BertTokenizerFast
from transformers import MPNetConfig, MPNetModel, MPNetTokenizer, MPNetTokenizerFast
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

HERE = Path(__file__).resolve().parent
MAX_LENGTH, LABELS, TEMPERATURE = 48, 3, 1.5
LENGTHS = [1, 2, 3, 5, 8, 17, 31, MAX_LENGTH]
SIZES = dict(
    vocab_size=120, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, hidden_act="gelu"
)

CORPUS = [
    "",
    " ",
    " \t\n\r \u00a0\u2003\u3000 ",
    "a",
    "The cat sat on the mat.",
    "ÉLÈVE Ünïcödé ÀÉÎÕÜ Ångström ñandú İstanbul Straße",
    "e\u0301a\u0300\u0316\u0317 o\u0308\u0304 \u0301 n\u0303",
    "I like it 😀👍🏽 but 🤷‍♀️",
    "👨‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 🇩🇪 🇫🇷",
    "中文字符 and 漢字 mixed中with文",
    "ひらがな カタカナ ｶﾀｶﾅ 한국어 ﾊﾝｸﾞﾙ",
    "𠀀𠀁 extension B",
    "שלום עולם",
    "مرحبا بالعالم \u200fhi\u200e",
    "\u202eright to left\u202c",
    "हिन्दी में लिखा",
    "ไทย",
    "a\x00b\x00",
    "\x00",
    "bell\x07 back\x08 esc\x1b del\x7f c1\x85\x9f end",
    "\ufffd replaced \ufffd",
    "\ufeffbom and zero\u200bwidth soft\u00adhyphen",
    "tab\tnew\nline\r\nvertical\x0bfeed\x0c",
    "\u2028line\u2029paragraph",
    "don't stop-me_now! (really?) $5 ^2 `x` a+b=c <b>|</b> ~",
    "…“quotes” ‘single’ — dash – en « guillemets » ¿qué? ¡sí!",
    "© ® ™ € £ ¥ ½ ² ﬁ ﬀ Ⅷ ①",
    "Ｆｕｌｌ ｗｉｄｔｈ １２３",
    "MiXeD CaSe CAFÉ Café café cafe",
    "[CLS] in [SEP] the [MASK] text [UNK] [PAD]",
    "<s> in </s> the <mask> text <unk>",
    "[cls] [ CLS] [CLS][SEP]",
    "https://example.org/a?b=c&d=%20#e user@example.org @name #tag",
    "1234567890 3.14 1,000 0x1F",
    "x" * 100,
    "x" * 101,
    "###### ## a##b",
    {"repeat": "a", "times": 100000},
    {"repeat": "the cat, é 中 ", "times": 2000},
    {"repeat": "😀", "times": 300},
    {"repeat": " ", "times": 5000},
]

WORDS = [
    "the", "cat", "sat", "on", "mat", "like", "it", "hate", "not", "un", "##ed", "##ing", "cafe", "!", ".", ",", "?", "'",
    "-", "#", "😀", "中", "文", "漢", "字", "ש", "##ל", "##ו", "##ם", "ก", "の", "##\ufe0f", "…", "“", "”", "$", "<", ">", "[",
    "]", "/", "##字", "€",
]  # fmt: skip


def text_of(item):
    return item if isinstance(item, str) else item["repeat"] * item["times"]


def vocabulary(specials):
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = specials + letters + ["##" + c for c in letters] + ["1", "2"] + WORDS
    assert len(set(words)) == len(words) <= SIZES["vocab_size"], len(words)
    return words


def tokenizers(kind, words):
    """The slow tokenizer over a vocabulary, and the `tokenizer.json` of the same."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("\n".join(words) + "\n", encoding="utf-8")
        slow, fast = {"bert": (BertTokenizer, BertTokenizerFast), "mpnet": (MPNetTokenizer, MPNetTokenizerFast)}[kind]
        return slow(str(file)), fast(vocab_file=str(file)).backend_tokenizer.to_str()


def ids_of(tokenizer, text, max_length=None):
    ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    ids = tokenizer.build_inputs_with_special_tokens(ids)
    if max_length is not None and len(ids) > max_length:
        return ids[: max_length - 1] + ids[-1:], True
    return ids, False


def scale(model, generator):
    """Weights large enough that a mistake anywhere shows in the logits."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "LayerNorm.weight" in name:
            value = 1 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embeddings" in name or "relative_attention_bias" in name:
            value = noise
        else:
            value = 1.5 * noise / parameter.shape[1] ** 0.5
        parameter.data.copy_(value)


def tensors(model):
    return {k: v.contiguous() for k, v in model.state_dict().items() if "position_ids" not in k and "pooler" not in k}


def states(model, ids):
    """Hidden states after the last layer, [tokens x hidden], in f64."""
    ids = torch.tensor([ids])
    with torch.no_grad():
        return model.double()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]


def rounded(values, digits=7):
    return [float(f"{v:.{digits}g}") for v in values.flatten().tolist()]


def case(name, model, texts, head, first=()):
    weight, bias = head
    logits = [states(model, ids).mean(0) @ weight.T.double() + bias.double() for ids in texts]
    return {
        "model": name,
        "texts": texts,
        "logits": [rounded(row) for row in logits],
        "hidden": [{"text": i, "states": rounded(states(model, texts[i]))} for i in first],
    }


def make_model(kind, specials, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind == "bert":
        config = BertConfig(
            **SIZES, max_position_embeddings=MAX_LENGTH, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0,
            attn_implementation="eager",
        )
        model = BertModel(config, add_pooling_layer=False)
    else:
        config = MPNetConfig(
            **SIZES, max_position_embeddings=MAX_LENGTH + 2, layer_norm_eps=1e-5, pad_token_id=1,
            relative_attention_num_buckets=32,
        )
        model = MPNetModel(config, add_pooling_layer=False)
    model.eval()
    scale(model, generator)
    head = (torch.randn(LABELS, SIZES["hidden_size"], generator=generator), torch.randn(LABELS, generator=generator))
    # No padding inside a text: MPNet's positions would skip it.
    texts = [torch.randint(2, SIZES["vocab_size"], (n,), generator=generator).tolist() for n in LENGTHS]
    slow, fast = tokenizers(kind, vocabulary(specials))

    cases, f32 = [], tensors(model)
    for precision in ["f32", "f16", "bf16"] if kind == "bert" else ["f32"]:
        name = kind if precision == "f32" else f"{kind}-{precision}"
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[precision]
        stored = {k: v.to(dtype) for k, v in f32.items()}
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        described = config.to_diff_dict() | {"model_type": kind} | kept(config)
        (folder / "config.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        model.float().load_state_dict({k: v.float() for k, v in stored.items()}, strict=False)
        cases.append(case(name, model, texts, head, [2, 3] if precision == "f32" else []))
        if precision == "f32":
            (folder / "tokenizer.json").write_text(fast, encoding="utf-8")
            votes = []
            for text in ["The cat sat on the mat.", "I like it!", "", "not 中文 " * 40]:
                ids, truncated = ids_of(slow, text, MAX_LENGTH)
                logits = states(model, ids).mean(0) @ head[0].T.double() + head[1].double()
                votes.append({
                    "text": text, "truncated": truncated, "logits": rounded(logits),
                    "probabilities": rounded(torch.softmax(logits / TEMPERATURE, 0)),
                })
            cases[-1]["votes"] = votes
        cases[-1]["head"] = {"weight": rounded(head[0], 9), "bias": rounded(head[1], 9), "temperature": TEMPERATURE}
    return cases, slow


def kept(config):
    keys = list(SIZES) + ["max_position_embeddings", "layer_norm_eps", "pad_token_id"]
    keys += ["type_vocab_size"] if config.model_type == "bert" else ["relative_attention_num_buckets"]
    return {key: getattr(config, key) for key in keys}


def buckets():
    """MPNet's bucket of every relative position (key - query) from -600 to 600."""
    relative = torch.arange(-600, 601)
    table = {n: MPNetEncoder.relative_position_bucket(relative, num_buckets=n).tolist() for n in (8, 32, 64)}
    return {"first": -600, "table": table}


def write(name, value):
    (HERE / name).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    special = {
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "mpnet": ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"],
    }
    cases, tokens = [], {"corpus": CORPUS, "max_length": 200}
    for seed, kind in enumerate(special):
        found, slow = make_model(kind, special[kind], seed + 1)
        cases += found
        encoded = [ids_of(slow, text_of(item), 200) for item in CORPUS]
        tokens[kind] = [{"ids": ids, "truncated": cut} for ids, cut in encoded]
    labels = ["negative", "neutral", "positive"]
    write("cases.json", {"labels": labels, "max_length": MAX_LENGTH, "cases": cases, "buckets": buckets()})
    write("tokens.json", tokens)

    bases = {}
    for argument in sys.argv[1:]:
        base, _, file = argument.partition("=")
        described = json.loads(Path(file).read_text(encoding="utf-8"))
        vocab = described["model"]["vocab"]
        words = sorted(vocab, key=vocab.get)
        assert [vocab[word] for word in words] == list(range(len(words)))
        slow, _ = tokenizers("mpnet" if "<s>" in vocab else "bert", words)
        # Specials of the file that the class does not know (MPNet's <unk>, which is not its unknown token).
        more = [token["content"] for token in described["added_tokens"] if token["content"] not in slow.all_special_tokens]
        slow.add_tokens([AddedToken(token, normalized=False, special=True) for token in more])
        assert len(slow) == len(words)
        hashes = []
        for item in CORPUS:
            ids, _ = ids_of(slow, text_of(item))
            hashes.append(hashlib.sha256(b"".join(i.to_bytes(4, "little") for i in ids)).hexdigest())
        bases[base] = hashes
    if bases:
        write("bases.json", bases)


main()
