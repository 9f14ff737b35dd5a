#!/usr/bin/env python3
"""Checks the vectors in this folder, and the worked examples of ../format.md.

A decoder of its own, written from ../format.md and not from the Rust code: it shares no line with what made the
vectors. Stops with status 1 at the first disagreement.

    python3 -m venv venv
    venv/bin/pip install -r requirements.txt
    venv/bin/python check.py
"""

import base64
import hashlib
import hmac
import json
import re
import struct
import sys
from pathlib import Path

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

HERE = Path(__file__).resolve().parent


class Refused(Exception):
    """A refusal, by its name on the page."""


class Disagreement(Exception):
    """A vector, or the example, that this program answers otherwise."""


# --- Notation


def u32le(n):
    return struct.pack("<I", n)


def string(x):
    return u32le(len(x)) + x


def encode_path(segments):
    return u32le(len(segments)) + b"".join(string(s.encode()) for s in segments)


def encode_context(pairs):
    names, length = set(), 4
    for name, value in pairs:
        length += 8 + len(name) + len(value)
        if not name:
            raise Refused("context-empty-name")
        if name in names:
            raise Refused("context-duplicate-name")
        names.add(name)
        if len(names) > 64:
            raise Refused("context-too-many-pairs")
        if length > 8192:
            raise Refused("context-too-long")
    return u32le(len(pairs)) + b"".join(string(n) + string(v) for n, v in sorted(pairs))


# --- Suites


def kdf(suite, key, message, length):
    if suite == 1:
        return blake3(message, key=key).digest(length=length)
    return hkdf_expand(key, message, length)


def hkdf_expand(prk, info, length):
    """RFC 5869, section 2.3."""
    out, block, i = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([i]), hashlib.sha256).digest()
        out, i = out + block, i + 1
    return out[:length]


def wrap_cipher(suite, key, nonce):
    """The cipher and the 12-byte nonce that a wrap with a 24-byte nonce comes down to."""
    if suite == 1:
        return xchacha(key, nonce)
    return AESGCM(xaes_steps(key, nonce)[-1]), nonce[12:]


def wrap_seal(suite, key, nonce, plaintext, aad):
    cipher, inner = wrap_cipher(suite, key, nonce)
    return cipher.encrypt(inner, plaintext, aad)


def wrap_open(suite, key, nonce, sealed, aad):
    cipher, inner = wrap_cipher(suite, key, nonce)
    return aead_open(cipher, inner, sealed, aad)


def aead_open(cipher, nonce, sealed, aad):
    try:
        return cipher.decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise Refused("rejected") from None


def chunk_cipher(suite, key):
    return ChaCha20Poly1305(key) if suite == 1 else AESGCM(key)


def aes_block(key, block):
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def xaes_steps(key, nonce):
    """L, K1, M1, M2 and the subkey."""
    zero = aes_block(key, bytes(16))
    doubled = int.from_bytes(zero, "big") << 1
    if doubled >> 128:
        doubled ^= 1 << 128 | 0x87
    k1 = doubled.to_bytes(16, "big")
    m1, m2 = (bytes([0, i]) + b"X\0" + nonce[:12] for i in (1, 2))
    return zero, k1, m1, m2, aes_block(key, xor(m1, k1)) + aes_block(key, xor(m2, k1))


def hchacha20(key, nonce16):
    """The subkey of XChaCha20: draft-irtf-cfrg-xchacha-03, section 2.2."""
    state = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I4I", key + nonce16))

    def rotate(x, bits):
        return (x << bits | x >> (32 - bits)) & 0xFFFFFFFF

    def quarter(a, b, c, d):
        for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & 0xFFFFFFFF
            state[z] = rotate(state[z] ^ state[x], bits)

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def xchacha(key, nonce):
    """The cipher and nonce of RFC 8439 that XChaCha20-Poly1305 comes down to."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]


# --- Key encryption keys


def kek_message(suite, version, kek_id, path):
    return string(b"keystrata v1 kek") + bytes([suite]) + u32le(version) + kek_id + encode_path(path)


def derive_kek(secret, suite, version, kek_id, path):
    both = kdf(suite, secret, kek_message(suite, version, kek_id, path), 64)
    return both[:32], both[32:]


def child_wrap_aad(parent_suite, parent_id, parent_path, child_id, child_version, child_path):
    return (
        string(b"keystrata v1 kek wrap")
        + bytes([parent_suite])
        + parent_id
        + encode_path(parent_path)
        + child_id
        + u32le(child_version)
        + encode_path(child_path)
    )


# --- KEK record, version 1


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, n):
        if n > len(self.data):
            raise Refused("malformed")
        head, self.data = self.data[:n], self.data[n:]
        return head

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def string(self, least, most):
        n = self.u32()
        if not least <= n <= most:
            raise Refused("malformed")
        return self.take(n)

    def text(self, least, most):
        try:
            return self.string(least, most).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("malformed") from None

    def path(self):
        n = self.u32()
        if not 1 <= n <= 8:
            raise Refused("malformed")
        return [self.text(1, 128) for _ in range(n)]


STATES = {1: "primary", 2: "retired", 3: "disabled", 4: "destroyed"}


def is_control(c):
    return ord(c) <= 0x1F or 0x7F <= ord(c) <= 0x9F


def parse_record(data):
    if len(data) > 131_072:
        raise Refused("malformed")
    if data[:2] != b"KR":
        raise Refused("not-a-record")
    r = Reader(data[2:])
    if r.take(1) != b"\x01":
        raise Refused("unknown-version")
    record = {}
    record["suite"] = r.take(1)[0]
    if record["suite"] not in (1, 2):
        raise Refused("unknown-suite")
    state = r.take(1)[0]
    if state not in STATES:
        raise Refused("unknown-state")
    record["state"] = STATES[state]
    record["version"] = r.u32()
    if record["version"] == 0:
        raise Refused("malformed")
    record["kek_id"] = r.take(16).hex()
    record["check"] = r.take(32).hex()
    record["created_at"] = r.u64()
    record["retired_at"] = r.u64()
    record["path"] = r.path()
    n = r.u32()
    if n != 0 if state == 4 else not 1 <= n <= 8:
        raise Refused("malformed")
    record["wraps"] = [parse_wrap(r) for _ in range(n)]
    if r.data:
        raise Refused("malformed")
    return record


def parse_wrap(r):
    kind = r.take(1)[0]
    if kind == 1:
        wrap = {"root": {"id": r.text(1, 2048)}}
        if any(map(is_control, wrap["root"]["id"])):
            raise Refused("malformed")
    elif kind == 2:
        wrap = {"parent": {"path": r.path(), "kek_id": r.take(16).hex()}}
    else:
        raise Refused("unknown-wrapper")
    next(iter(wrap.values()))["wrapped"] = r.string(1, 8192).hex()
    return wrap


# --- Envelope, version 1


def dek_wrap_aad(suite, kek_id, path):
    return string(b"keystrata v1 dek wrap") + bytes([suite]) + kek_id + encode_path(path)


def payload_message(suite, path, context):
    return string(b"keystrata v1 payload") + bytes([suite]) + encode_path(path) + context


def chunk_nonce(i):
    return i.to_bytes(12, "big")


def check_start(envelope):
    if not envelope:
        raise Refused("empty")
    if envelope[:2] != b"KS"[: len(envelope)]:
        raise Refused("not-an-envelope")
    if len(envelope) < 3:
        raise Refused("truncated")
    if envelope[2] != 1:
        raise Refused("unknown-version")
    if len(envelope) < 4:
        raise Refused("truncated")
    if envelope[3] not in (1, 2):
        raise Refused("unknown-suite")
    if len(envelope) < 124:
        raise Refused("truncated")


def unwrap_dek(kek, suite, kek_id, path, header):
    if header[3] != suite:
        raise Refused("suite-mismatch")
    if header[4:20] != kek_id:
        raise Refused("rejected")
    return wrap_open(suite, kek, header[20:44], header[44:92], dek_wrap_aad(suite, kek_id, path))


def open_envelope(kek, suite, kek_id, path, pairs, envelope):
    check_start(envelope)
    full, rest = divmod(len(envelope) - 124, 16_400)
    if rest < 16:
        raise Refused("truncated")
    if full >= 2**32:
        raise Refused("too-long")
    context = encode_context(pairs)
    dek = unwrap_dek(kek, suite, kek_id, path, envelope)
    payload = kdf(suite, dek, payload_message(suite, path, context), 64)
    key, commitment = payload[:32], payload[32:]
    if not hmac.compare_digest(commitment, envelope[92:124]):
        raise Refused("rejected")
    plaintext = bytearray()
    for i in range(full + 1):
        start = 124 + 16_400 * i
        chunk = envelope[start : start + 16_400]
        plaintext += aead_open(chunk_cipher(suite, key), chunk_nonce(i), chunk, None)
    if len(plaintext) != 16_384 * full + rest - 16 or len(envelope) != envelope_length(len(plaintext)):
        raise Disagreement("the page's formulas of length do not agree")
    return bytes(plaintext)


def envelope_length(n):
    return 124 + n + 16 * (n // 16_384 + 1)


# --- Plain form


def open_plain(cipher, key, sealed):
    nonce_len = {"XChaCha20-Poly1305": 24, "AES-256-GCM": 12}[cipher]
    if len(sealed) < nonce_len + 16:
        raise Refused("rejected")
    nonce, body = sealed[:nonce_len], sealed[nonce_len:]
    if cipher == "AES-256-GCM":
        return aead_open(AESGCM(key), nonce, body, None)
    return wrap_open(1, key, nonce, body, None)


# --- Rewrap


def rewrap(old, new, nonce, header):
    check_start(header)
    (old_kek, old_suite, old_id, old_path), (new_kek, new_suite, new_id, new_path) = old, new
    if new_suite != old_suite:
        raise Refused("rewrap-new-suite")
    if new_path != old_path:
        raise Refused("rewrap-other-account")
    dek = unwrap_dek(old_kek, old_suite, old_id, old_path, header)
    wrapped = wrap_seal(new_suite, new_kek, nonce, dek, dek_wrap_aad(new_suite, new_id, new_path))
    return header[:4] + new_id + nonce + wrapped + header[92:]


# --- Text form


def to_text(data):
    return "ks1." + base64.urlsafe_b64encode(data).decode().rstrip("=")


def from_text(text):
    if not text:
        raise Refused("text-empty")
    if not text.startswith("ks1."):
        raise Refused("text-no-prefix")
    rest = text[4:]
    if not re.fullmatch(r"[A-Za-z0-9_-]*", rest):
        raise Refused("text-bad-character")
    if len(rest) % 4 == 1:
        raise Refused("text-bad-length")
    data = base64.urlsafe_b64decode(rest + "=" * (-len(rest) % 4))
    if to_text(data) != text:
        raise Refused("text-stray-bits")
    return data


# --- The files


def unhex(text):
    if not re.fullmatch(r"(?:[0-9a-f]{2})*", text):
        raise Disagreement(f"not lower-case hexadecimal: {text[:40]}")
    return bytes.fromhex(text)


def fields(vector, *names):
    """The values of exactly these fields, besides name, comment and expected."""
    if set(vector) != {"name", "comment", "expected", *names}:
        raise Disagreement(f"fields {sorted(vector)}")
    return [vector[name] for name in names]


def run_open(vector, earlier):
    kek, suite, kek_id, path, pairs, source = fields(
        vector, "kek", "suite", "kek_id", "path", "context", "envelope"
    )
    [(form, value)] = source.items()
    if form == "hex":
        envelope = unhex(value)
    elif form == "base64":
        envelope = base64.b64decode(value, validate=True)
    elif form == "slices":
        envelope = b"".join(earlier[s["vector"]][s["start"] : s["end"]] for s in value)
    else:
        raise Disagreement(f"envelope as {form}")
    earlier[vector["name"]] = envelope
    pairs = [(unhex(name), unhex(value)) for name, value in pairs]
    return {"plaintext": open_envelope(unhex(kek), suite, unhex(kek_id), path, pairs, envelope).hex()}


def run_record(vector, _):
    (record,) = fields(vector, "record")
    return {"record": parse_record(unhex(record))}


def run_derive(vector, _):
    secret, suite, version, kek_id, path, check = fields(
        vector, "secret", "suite", "version", "kek_id", "path", "check"
    )
    kek, own = derive_kek(unhex(secret), suite, version, unhex(kek_id), path)
    if not hmac.compare_digest(own, unhex(check)):
        raise Refused("check-mismatch")
    return {"kek": kek.hex()}


def run_child(vector, _):
    kek, suite, parent_id, parent_path, version, child_id, child_path, wrapped = fields(
        vector,
        "parent_kek",
        "parent_suite",
        "parent_kek_id",
        "parent_path",
        "child_version",
        "child_kek_id",
        "child_path",
        "wrapped",
    )
    wrapped = unhex(wrapped)
    if len(wrapped) != 72:
        raise Refused("rejected")
    aad = child_wrap_aad(suite, unhex(parent_id), parent_path, unhex(child_id), version, child_path)
    return {"secret": wrap_open(suite, unhex(kek), wrapped[:24], wrapped[24:], aad).hex()}


def run_plain(vector, _):
    cipher, key, sealed = fields(vector, "cipher", "key", "sealed")
    return {"plaintext": open_plain(cipher, unhex(key), unhex(sealed)).hex()}


def run_rewrap(vector, _):
    old, new, nonce, header = fields(vector, "old", "new", "nonce", "header")
    for kek in (old, new):
        if set(kek) != {"kek", "suite", "kek_id", "path"}:
            raise Disagreement(f"fields {sorted(kek)}")
    old, new = ((unhex(k["kek"]), k["suite"], unhex(k["kek_id"]), k["path"]) for k in (old, new))
    return {"header": rewrap(old, new, unhex(nonce), unhex(header)).hex()}


def run_text(vector, _):
    (text,) = fields(vector, "text")
    return {"bytes": from_text(text).hex()}


FILES = {
    "envelope_open.json": ("open an envelope", run_open),
    "kek_record_parse.json": ("parse a KEK record", run_record),
    "kek_derive.json": ("derive a KEK and compare its check", run_derive),
    "child_unwrap.json": ("unwrap a KEK's secret with its parent", run_child),
    "plain_open.json": ("open the plain form", run_plain),
    "plain_go.json": ("open the plain form", run_plain),
    "rewrap.json": ("rewrap a header", run_rewrap),
    "text.json": ("read the text form", run_text),
}


def expected_outcome(expected):
    """What `expected` says, with a repeated plaintext written out."""
    if set(expected) != {"plaintext_repeat"}:
        return expected
    repeat = expected["plaintext_repeat"]
    pattern, length = unhex(repeat["pattern"]), repeat["len"]
    plaintext = (pattern * (length // len(pattern) + 1))[:length]
    if blake3(plaintext).hexdigest() != repeat["blake3"]:
        raise Disagreement("the repeated plaintext has another hash")
    return {"plaintext": plaintext.hex()}


def check_file(name):
    operation, run = FILES[name]
    content = json.loads((HERE / name).read_text(encoding="utf-8"))
    if set(content) != {"operation", "vectors"} or content["operation"] != operation:
        raise Disagreement(f"{name}: not a file of vectors to {operation}")
    earlier = {}
    for vector in content["vectors"]:
        where = f"{name}: {vector['name']}"
        try:
            outcome = run(vector, earlier)
        except Refused as refused:
            outcome = {"error": str(refused)}
        except Disagreement as error:
            raise Disagreement(f"{where}: {error}") from None
        expected = expected_outcome(vector["expected"])
        if outcome != expected:
            raise Disagreement(f"{where}: expected {str(expected)[:200]}, got {str(outcome)[:200]}")
    return len(content["vectors"])


# --- What was sealed once


def recorded_kek(kek):
    """The fields of a KEK's record, and the KEK."""
    secret, record = unhex(kek["secret"]), parse_record(base64.b64decode(kek["record"], validate=True))
    own, check = derive_kek(secret, record["suite"], record["version"], bytes.fromhex(record["kek_id"]), record["path"])
    if check.hex() != record["check"]:
        raise Refused("check-mismatch")
    return record, own


def open_frozen(kind, case):
    if kind == "child":
        parent, key = recorded_kek(case["parent"])
        child, _ = recorded_kek(case["child"])
        by, child_id = child["wraps"][0]["parent"], bytes.fromhex(child["kek_id"])
        if (by["path"], by["kek_id"]) != (parent["path"], parent["kek_id"]):
            raise Disagreement("wrapped by another KEK")
        parent_id, wrapped = bytes.fromhex(parent["kek_id"]), bytes.fromhex(by["wrapped"])
        aad = child_wrap_aad(parent["suite"], parent_id, parent["path"], child_id, child["version"], child["path"])
        return wrap_open(parent["suite"], key, wrapped[:24], wrapped[24:], aad) == unhex(case["child"]["secret"])
    if kind == "plain":
        plaintext = open_plain(case["cipher"], unhex(case["key"]), base64.b64decode(case["sealed"], validate=True))
    else:
        record, key = recorded_kek(case["kek"])
        pairs = [(name.encode(), value.encode()) for name, value in case["context"]]
        envelope = from_text(case["text"]) if kind == "text" else base64.b64decode(case["envelope"], validate=True)
        kek_id = bytes.fromhex(record["kek_id"])
        plaintext = open_envelope(key, record["suite"], kek_id, record["path"], pairs, envelope)
    return plaintext == unhex(case["plaintext"]["bytes"]) * case["plaintext"]["times"]


def check_frozen():
    files = sorted((HERE / "frozen").glob("*.json"))
    for path in files:
        [(kind, case)] = json.loads(path.read_text(encoding="utf-8"))["case"].items()
        try:
            opens = open_frozen(kind, case)
        except (Refused, Disagreement) as error:
            raise Disagreement(f"frozen/{path.name}: {error}") from None
        if not opens:
            raise Disagreement(f"frozen/{path.name} opens to something else")
    if len(files) < 16:
        raise Disagreement(f"only {len(files)} frozen files")
    return len(files)


# --- The worked example


def check_examples():
    page = (HERE.parent / "format.md").read_text(encoding="utf-8")
    example = page.split("<!-- example: begin -->")[1].split("<!-- example: end -->")[0]
    blocks = re.findall(r"^```text\n(.*?)^```$", example, re.DOTALL | re.MULTILINE)
    if len(blocks) != 2:
        raise Disagreement(f"format.md: {len(blocks)} examples")
    for suite, block in zip((1, 2), blocks, strict=True):
        check_example(suite, block)


def check_example(suite, block):
    values, name = {}, None
    for line in block.splitlines():
        name = line[:18].strip() or name
        value = line[18:].encode() if name == "text form" else unhex(line[18:])
        values[name] = values.get(name, b"") + value

    def check(name, value):
        if values.pop(name) != value:
            raise Disagreement(f"format.md: the example's {name} of suite {suite} is not {value.hex()}")

    secret, kek_id, dek = values.pop("secret"), values.pop("KEK id"), values.pop("DEK")
    wrap_nonce, plaintext = values.pop("wrap nonce"), values.pop("plaintext")
    child_id, child_secret = values.pop("child KEK id"), values.pop("child secret")
    child_nonce, plain_nonce = values.pop("child nonce"), values.pop("plain nonce")
    new_kek, new_id, new_nonce = values.pop("new KEK"), values.pop("new KEK id"), values.pop("new wrap nonce")
    path, child_path = ["acme"], ["acme", "billing"]

    check("path", encode_path(path))
    check("KEK message", kek_message(suite, 1, kek_id, path))
    kek, own_check = derive_kek(secret, suite, 1, kek_id, path)
    check("KEK", kek)
    check("check", own_check)
    wraps = u32le(1) + b"\x01" + string(b"example:root") + string(b"wrapped")
    times = struct.pack("<QQ", 1_700_000_000, 0)
    start = b"KR\x01" + bytes([suite]) + b"\x01"
    check("record", start + u32le(1) + kek_id + own_check + times + encode_path(path) + wraps)

    context = encode_context([(b"row", b"42")])
    check("context", context)
    aad = dek_wrap_aad(suite, kek_id, path)
    check("DEK wrap AAD", aad)
    if suite == 2:
        for name, value in zip(("L", "K1", "M1", "M2", "wrap subkey"), xaes_steps(kek, wrap_nonce), strict=True):
            check(name, value)
    wrapped = wrap_seal(suite, kek, wrap_nonce, dek, aad)
    check("wrapped DEK", wrapped)
    message = payload_message(suite, path, context)
    check("payload message", message)
    payload = kdf(suite, dek, message, 64)
    check("payload key", payload[:32])
    check("commitment", payload[32:])
    check("chunk nonce", chunk_nonce(0))
    chunk = chunk_cipher(suite, payload[:32]).encrypt(chunk_nonce(0), plaintext, None)
    check("chunk 0", chunk)
    header = b"KS\x01" + bytes([suite]) + kek_id + wrap_nonce + wrapped + payload[32:]
    check("envelope", header + chunk)
    check("text form", to_text(header + chunk).encode())
    check("new header", rewrap((kek, suite, kek_id, path), (new_kek, suite, new_id, path), new_nonce, header))

    check("child path", encode_path(child_path))
    aad = child_wrap_aad(suite, kek_id, path, child_id, 1, child_path)
    check("child wrap AAD", aad)
    check("wrapped child", child_nonce + wrap_seal(suite, kek, child_nonce, child_secret, aad))
    if suite == 1:
        check("plain form", plain_nonce + wrap_seal(1, dek, plain_nonce, plaintext, None))
    else:
        check("plain form", plain_nonce + AESGCM(dek).encrypt(plain_nonce, plaintext, None))
    if values:
        raise Disagreement(f"format.md: the example has values nobody checks: {sorted(values)}")


def check_hchacha20():
    """draft-irtf-cfrg-xchacha-03, section 2.2.1."""
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    subkey = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    if hchacha20(bytes(range(32)), nonce).hex() != subkey:
        raise Disagreement("HChaCha20 of this program does not give the draft's answer")


def check_xaes():
    """c2sp.org/XAES-256-GCM, its two vectors."""
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    for byte, aad, sealed in (
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ):
        if wrap_seal(2, bytes([byte]) * 32, nonce, b"XAES-256-GCM", aad).hex() != sealed:
            raise Disagreement("XAES-256-GCM of this program does not give its specification's answer")


def check_hkdf():
    """RFC 5869, appendix A.1."""
    prk = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    if hkdf_expand(prk, bytes(range(0xF0, 0xFA)), 42).hex() != okm:
        raise Disagreement("HKDF-Expand of this program does not give the RFC's answer")


def main():
    check_hchacha20()
    check_xaes()
    check_hkdf()
    check_examples()
    files = {path.name for path in HERE.glob("*.json")}
    if files != set(FILES):
        raise Disagreement(f"files {sorted(files ^ set(FILES))}")
    counts = {name: check_file(name) for name in FILES}
    for name, count in counts.items():
        print(f"{count:4} {name}")
    print(f"{sum(counts.values()):4} vectors, {check_frozen()} frozen files and the worked examples agree")


if __name__ == "__main__":
    try:
        main()
    except Disagreement as error:
        print(f"check.py: {error}", file=sys.stderr)
        sys.exit(1)
