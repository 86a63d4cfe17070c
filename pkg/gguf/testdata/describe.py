#!/usr/bin/env python3
"""Writes what the Python package gguf reads in GGUF files: FOLDER/NAME.txt a file.

    describe.py FOLDER FILE.gguf...

Its lines are described in README.md.
"""

import hashlib
import struct
import sys
from pathlib import Path

import gguf
from gguf import GGUFValueType as Type


def digest(raw):
    return hashlib.sha256(raw).hexdigest()[:16]


def scalar(kind, value):
    if kind == Type.FLOAT32:
        return struct.pack(">f", value).hex()
    if kind == Type.BOOL:
        return str(bool(value)).lower()
    if kind == Type.STRING:
        return f"{len(value.encode())} {digest(value.encode())}"
    return str(int(value))


def array(field):
    values, elem = field.contents(), field.types[1]
    if elem == Type.STRING:
        texts = [text.encode() for text in values]
        raw = b"".join(struct.pack("<Q", len(text)) + text for text in texts)
    else:
        raw = b"".join(field.parts[i].tobytes() for i in field.data)
    return f"array {elem.name.lower()} {len(values)} {digest(raw)}"


def describe(path):
    reader = gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        kind = field.types[0]
        if key.startswith("GGUF."):  # the header, which the package adds
            continue
        if kind == Type.ARRAY:
            yield f"kv {key} {array(field)}"
        else:
            yield f"kv {key} {kind.name.lower()} {scalar(kind, field.contents())}"
    for t in reader.tensors:
        dims = "x".join(str(int(d)) for d in t.shape)
        yield f"tensor {t.name} {t.tensor_type.name} {dims} {int(t.data_offset)} {int(t.n_bytes)} {digest(t.data.tobytes())}"


for name in map(Path, sys.argv[2:]):
    stem = name.name if name.stem != "model-f16" else f"{name.parent.name}-f16.gguf"
    (Path(sys.argv[1]) / f"{stem}.txt").write_text("\n".join(describe(name)) + "\n")
