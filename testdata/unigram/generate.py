#!/usr/bin/env python3
"""Trains two small unigram tokenizers and writes what their own libraries make of texts.

usage: generate.py OUT TEXT.md ...

spm.gguf.gz is the vocabulary of a SentencePiece model with the rules nmt_nfkc, as GGUF
files hold it, with the ids that SentencePiece gives ("spm" in golden.json).
tokenizer.json is a vocabulary of the package tokenizers with tokens of bytes to fall
back to, with the ids that this package gives ("tokenizers"). Both are trained on the
given files. Needs sentencepiece, tokenizers and gguf.
"""
import gzip
import json
import pathlib
import sys

import sentencepiece as spm
from gguf import GGUFWriter
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CASES = [
    "Hello world", "  two  spaces   and more ", "", " ", "a", "▁", "line\nbreaks\tand\r\ntabs", "naïve café Ångström", "ﬁne ½ ① ｆｕｌｌ　ｗｉｄｔｈ",
    "日本語のテキスト", "Привет, мир!", "🙂🙃 emoji 👩‍👩‍👧", "1234567890 3.14159 1e-9", "camelCase snake_case kebab-case", "x" * 200, "zzzzqqqq ÿþ",
    "e\u0301 combining", "\u200bzero\u200bwidth", "(){}[]<>;:,.!?'\"`~@#$%^&*-+=/\\|", "<s> </s> <unk> <0x41>", "trailing space ", "\u00a0nbsp\u00a0",
]


def lines(paths):
    out = []
    for p in paths:
        out += [line for line in pathlib.Path(p).read_text().splitlines() if line.strip()]
    return out


def write_spm(out, text):
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(out / "spm"), vocab_size=1200, model_type="unigram", byte_fallback=True,
        normalization_rule_name="nmt_nfkc", character_coverage=0.995, num_threads=1, minloglevel=2)
    proto = pb.ModelProto()
    proto.ParseFromString((out / "spm.model").read_bytes())
    writer = GGUFWriter(out / "spm.gguf", "llama")
    writer.add_tokenizer_model("t5")
    writer.add_token_list([p.piece for p in proto.pieces])
    writer.add_token_scores([p.score for p in proto.pieces])
    writer.add_token_types([p.type for p in proto.pieces])
    writer.add_unk_token_id(proto.trainer_spec.unk_id)
    writer.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(proto.normalizer_spec.remove_extra_whitespaces)
    writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    packed = gzip.compress((out / "spm.gguf").read_bytes(), 9, mtime=0)
    (out / "spm.gguf.gz").write_bytes(packed)
    model = spm.SentencePieceProcessor(model_file=str(out / "spm.model"))
    for name in ("spm.gguf", "spm.model", "spm.vocab"):
        (out / name).unlink()
    return lambda s: model.encode(s)


def write_tokenizers(out, text):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(text, trainers.UnigramTrainer(vocab_size=900, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    saved = json.loads(t.to_str())
    saved["model"]["byte_fallback"] = True
    saved["model"]["vocab"] += [[f"<0x{b:02X}>", 0.0] for b in range(256)]
    (out / "tokenizer.json").write_text(json.dumps(saved, ensure_ascii=False, indent=None) + "\n")
    again = Tokenizer.from_file(str(out / "tokenizer.json"))
    return lambda s: again.encode(s, add_special_tokens=False).ids


def main():
    out, text = pathlib.Path(sys.argv[1]), lines(sys.argv[2:])
    a, b = write_spm(out, text), write_tokenizers(out, text)
    cases = CASES + text[:: max(1, len(text) // 150)]
    golden = [{"text": s, "spm": a(s), "tokenizers": b(s)} for s in cases]
    (out / "golden.json").write_text("[\n" + ",\n".join(json.dumps(g) for g in golden) + "\n]\n")


if __name__ == "__main__":
    main()
