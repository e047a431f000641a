"""The demo model's tokenizers, trained on its captions and written as the real ones are: byte-pair
encoding for both CLIPs (Sennrich et al. 2016), a SentencePiece unigram model for T5 (Kudo 2018).

Captions mark where Chinese words meet (MARK). Neither vocabulary learns a piece across a mark, so a
word is one piece wherever it stands.
"""
import collections
import json
import math
import pathlib
import random
import tempfile
import unicodedata

import regex
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer, T5Tokenizer

import scenes

MARK = "\t"
CLIP_MERGES = 1500
T5_ENGLISH_PIECES = 1000
CLIP_TOKENS, T5_TOKENS = 77, 77  # T5's is what the model was trained with, and goes into its model_max_length
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def corpus(glyphs, count=60000):
    rng = random.Random(11)
    return [scenes.caption(rng, s, glyphs, language, MARK) for s in scenes.sample_many(12, glyphs, count) for language in ("en", "zh")]


def byte_symbols():
    """The visible character of each byte, in the vocabulary's order: visible bytes first."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return {**{b: chr(b) for b in visible}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def train_merges(lines, count):
    """Byte-pair encoding of lower-cased words; returns the merges in order."""
    symbols, words = byte_symbols(), collections.Counter()
    for line in lines:
        for run in line.lower().split():  # MARK is white space: it cuts Chinese runs into words
            for word in WORDS.findall(run):
                spelled = [symbols[b] for b in word.encode()]
                words[*spelled[:-1], spelled[-1] + "</w>"] += 1
                if not word.isascii():
                    words[tuple(spelled)] += 1  # inside a run it has no end-of-word mark
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        merged = collections.Counter()
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                joins = word[i:i + 2] == best
                out.append(word[i] + word[i + 1] if joins else word[i])
                i += 2 if joins else 1
            merged[tuple(out)] += n
        words = merged
    return merges


def write_clip(folder, merges, pad):
    symbols = list(byte_symbols().values())
    pieces = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), BOS, EOS]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    assert len(vocabulary) == len(pieces)
    folder.mkdir(parents=True, exist_ok=True)
    dump = lambda name, value: (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=None if name == "vocab.json" else 2) + "\n")
    dump("vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    added = {str(vocabulary[t]): dict(content=t, lstrip=False, normalized=t == BOS, rstrip=False, single_word=False, special=True)
             for t in dict.fromkeys([pad, BOS, EOS])}
    dump("tokenizer_config.json", dict(special, added_tokens_decoder=added, add_prefix_space=False, do_lower_case=True, errors="replace",
                                       model_max_length=CLIP_TOKENS, tokenizer_class="CLIPTokenizer"))
    dump("special_tokens_map.json", special)


def write_t5(folder, lines):
    """English pieces are SentencePiece's; Chinese ones are the marked words, with their frequency, and all single characters."""
    folder.mkdir(parents=True, exist_ok=True)
    english, chinese = [line for line in lines if line.isascii()], [line for line in lines if not line.isascii()]
    with tempfile.TemporaryDirectory() as temporary:
        text = pathlib.Path(temporary) / "captions.txt"
        text.write_text("\n".join(english))
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=f"{temporary}/spiece", vocab_size=T5_ENGLISH_PIECES, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            num_threads=1, minloglevel=1, required_chars="".join(chr(c) for c in range(33, 127)))
        model = sentencepiece_model_pb2.ModelProto.FromString((pathlib.Path(temporary) / "spiece.model").read_bytes())
    known = {piece.piece for piece in model.pieces}
    words = collections.Counter(word for line in chinese for word in unicodedata.normalize("NFKC", line).split(MARK))
    words.update({character: 1 for character in "".join(words)})
    for word, n in words.most_common():
        if word not in known:
            model.pieces.add(piece=word, score=math.log(n / words.total()))
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    T5Tokenizer.from_pretrained(folder, extra_ids=0, model_max_length=T5_TOKENS, eos_token="</s>", unk_token="<unk>",
                                pad_token="<pad>").save_pretrained(folder)
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def write(folder, glyphs):
    """Writes tokenizer, tokenizer_2 and tokenizer_3 below `folder`, which must not have them yet."""
    lines = corpus(glyphs)
    merges = train_merges(lines, CLIP_MERGES)
    write_clip(folder / "tokenizer", merges, EOS)
    write_clip(folder / "tokenizer_2", merges, "!")
    write_t5(folder / "tokenizer_3", lines)


def load(folder):
    return [AutoTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
