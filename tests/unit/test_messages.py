"""Messages against the vectors, the CDDL and bytes of any kind."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.link_vectors import PATH, names, vectors

from kilofed.link import messages as m
from kilofed.link.errors import MessageError, StatusCode, UnknownMessage, explain


def _flat(message: m.Message) -> list[Any]:
    """The fields as the array has them."""
    out: list[Any] = []
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if isinstance(value, m.Multiplier):
            out += [value.mantissa, value.shift]
        elif not (value is None and field.name in ("text", "proof")):
            out.append({"hex": value.hex()} if isinstance(value, bytes) else value)
    return out


@pytest.mark.parametrize("case", vectors("messages"), ids=names("messages"))
def test_message_vectors(case):
    data = bytes.fromhex(case["cbor"])
    message = m.decode(data)
    assert _flat(message) == case["fields"]
    assert m.encode(message) == data


def test_every_message_has_a_vector_from_the_side_that_sends_it():
    seen = {type(m.decode(bytes.fromhex(case["cbor"]))) for case in vectors("messages")}
    assert seen == set(m.MESSAGES)
    assert [cls.TYPE for cls in m.MESSAGES] == list(range(len(m.MESSAGES)))


@pytest.mark.parametrize("case", vectors("accepted"), ids=names("accepted"))
def test_what_follows_the_known_elements_is_ignored(case):
    (base,) = [other for other in vectors("messages") if other["name"] == case["same_as"]]
    assert m.decode(bytes.fromhex(case["cbor"])) == m.decode(bytes.fromhex(base["cbor"]))


@pytest.mark.parametrize("case", vectors("refused"), ids=names("refused"))
def test_what_is_refused(case):
    with pytest.raises(MessageError) as caught:
        m.decode(bytes.fromhex(case["cbor"]))
    unknown = isinstance(caught.value, UnknownMessage)
    assert case["status"] == (StatusCode.UNSUPPORTED if unknown else StatusCode.MESSAGE)
    assert caught.value.next_step


def test_the_vectors_are_what_the_generator_makes():
    """Which asks zcbor whether the CDDL allows each message and forbids each refused one."""
    script = PATH.parent / "make_link.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"run {script}: {done.stderr[-400:]}"


def test_type_numbers_and_states_are_those_of_the_cddl():
    cddl = (Path(__file__).resolve().parents[2] / "firmware" / "protocol.cddl").read_text()
    for cls in m.MESSAGES:
        assert f"{cls.__name__.lower()} = [{cls.TYPE}" in " ".join(cddl.split())
    for enum, name in ((m.State, "state"), (m.BlobKind, "blob-kind"), (m.Verdict, "verdict")):
        listed = ", ".join(f"{item.name.lower()}: {item.value}" for item in enum)
        assert f"{name} = &({listed})" in " ".join(cddl.split())


def test_status_codes_are_those_of_the_firmware():
    header = (Path(__file__).resolve().parents[2] / "firmware/include/kilofed/status.h").read_text()
    for code in StatusCode:
        if code:
            assert f"KF_ERR_{code.name} = -{code.value}," in header
    assert header.count("KF_ERR_") - header.count("KF_ERR_PORT_") == len(StatusCode) - 1


MULTIPLIERS = st.one_of(
    st.builds(m.Multiplier, st.integers(1 << 14, (1 << 15) - 1), st.integers(0, 255)), st.just(m.Multiplier())
)
U8, U16, U32 = st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)
HASH = st.binary(min_size=8, max_size=8)
STATES = st.sampled_from(m.State)
ANY = st.one_of(
    st.builds(m.Probe, U8),
    st.builds(
        m.Hello, U8, HASH, HASH, st.text("abcäß€", min_size=1, max_size=8), U32, st.integers(64, 1024),
        st.integers(64, 65535), U32,
    ),
    st.builds(m.Welcome, U8, HASH, HASH, st.integers(64, 1024), st.integers(100, 65535)),
    st.builds(m.Refuse, HASH, U8, U32),
    st.builds(m.Info, HASH, HASH, U16, U16, U16, U16, U16, st.none() | HASH, STATES, U32),
    st.builds(m.Offer, st.sampled_from(m.BlobKind), HASH, st.integers(1, 1 << 20)),
    st.builds(m.Accept, U16, U32, st.sampled_from(m.Verdict)),
    st.builds(m.Chunk, U16, U32, st.binary(min_size=1, max_size=1000)),
    st.builds(
        m.Train, U32, HASH, U32, U8, st.integers(1, 256), MULTIPLIERS, MULTIPLIERS, MULTIPLIERS,
        st.integers(0, 3), U8,
    ),
    st.builds(m.Status, STATES, U32, st.integers(0, 1000), U32),
    st.builds(m.Result, U32, HASH, st.integers(1, 1 << 20), U16, U16, U32, U16, U16, U32),
    st.builds(m.Result, U32, st.none(), st.just(0), U16, U16, U32, U16, U16, U32),
    st.builds(m.Commit, U32, U8),
    st.builds(m.Cancel, U32),
    st.just(m.Ping()),
    st.builds(m.Error, U8, U32, st.none() | st.text("abcä", max_size=24)),
    st.builds(m.Busy, U32),
    st.builds(m.Bye, U8),
)  # fmt: skip


@given(ANY)
def test_decode_gives_back_what_encode_took(message):
    data = m.encode(message)
    assert m.decode(data) == message
    assert data == cbor2.dumps(cbor2.loads(data), canonical=True)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_message_error(data):
    try:
        message = m.decode(data)
    except MessageError:
        return
    m.encode(message)


NESTED = st.recursive(
    st.one_of(
        st.integers(-(2**64), 2**64 - 1), st.binary(max_size=20), st.text(max_size=8), st.floats(), st.none(),
        st.booleans(),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(NESTED, max_size=16), st.integers(-1, 20))
def test_any_cbor_is_a_message_or_a_message_error(items, kind):
    try:
        message = m.decode(cbor2.dumps([kind, *items]))
    except MessageError:
        return
    m.encode(message)


@given(ANY, st.data())
def test_a_mutated_message_is_a_message_or_a_message_error(message, data):
    raw = bytearray(m.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        how = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if how == "set":
            raw[at] = data.draw(st.integers(0, 255))
        elif how == "cut" and len(raw) > 1:
            del raw[at]
        else:
            raw.insert(at, data.draw(st.integers(0, 255)))
    with contextlib.suppress(MessageError):
        m.encode(m.decode(bytes(raw)))


@given(ANY)
def test_a_truncated_message_is_refused(message):
    data = m.encode(message)
    for cut in range(len(data)):
        with pytest.raises(MessageError):
            m.decode(data[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\x0d" + b"\x81" * 1000 + b"\x00",  # nested arrays
        b"\x82\x0d" + b"\xa1\x00" * 500 + b"\x00",  # nested maps
        b"\x82\x0d" + b"\xc6" * 1000 + b"\x00",  # tags of tags
        b"\x82\x0d\xc2\x43\x01\x02\x03",  # a bignum
        b"\x82\x0d\x9b\xff\xff\xff\xff\xff\xff\xff\xff",  # 2^64 elements
        b"\x82\x0d\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",  # 2^63 pairs
        b"\x82\x0d\x5b\xff\xff\xff\xff\xff\xff\xff\xff",  # 2^64 bytes
        b"\x82\x0d\x5f\x41\x00\xff",  # a byte string in pieces
        b"\x82\x0d\x1c",  # a reserved head
        b"\x82\x0d\xff",  # a break without a beginning
        b"\x82\x0c\x18\x05",  # 5 in two bytes
        b"\x82\x0c\x1a\x00\x00\x00\x18",  # 24 in five
        b"\x98\x01\x0d",  # a length in two bytes that fits one
    ],
)
def test_hostile_cbor_is_refused_at_once(data):
    with pytest.raises(MessageError):
        m.decode(data)


BAD = [
    (m.Probe, {"version": 256}, "version"),
    (m.Probe, {"version": True}, "version"),
    (m.Cancel, {"round": -1}, "round"),
    (m.Cancel, {"round": 1.0}, "round"),
    (m.Busy, {"ms": 1 << 32}, "ms"),
    (m.Chunk, {"id": 1, "offset": 0, "data": b""}, "data"),
    (m.Chunk, {"id": 1, "offset": 0, "data": "text"}, "data"),
    (m.Error, {"code": 1, "detail": 0, "text": "w" * 49}, "text"),
    (m.Offer, {"kind": 3, "hash": bytes(8), "size": 1}, "kind"),
    (m.Offer, {"kind": 1, "hash": None, "size": 1}, "hash"),
]


@pytest.mark.parametrize(("cls", "fields", "name"), BAD)
def test_what_is_out_of_range_is_not_sent(cls, fields, name):
    with pytest.raises(MessageError, match=f"{cls.__name__}.{name}"):
        m.encode(cls(**fields))


def test_a_result_has_a_size_exactly_when_it_has_an_update():
    for update, size in ((None, 1), (bytes(8), 0)):
        with pytest.raises(MessageError):
            m.encode(m.Result(1, update, size, 1, 1, 1, 1, 1, 1))
        with pytest.raises(MessageError):
            m.decode(cbor2.dumps([10, 1, update, size, 1, 1, 1, 1, 1, 1]))


@pytest.mark.parametrize("mantissa", [1, 16383, 32768])
def test_mantissas_are_normal_or_zero(mantissa):
    train = m.Train(1, bytes(8), 1, 1, 1, m.Multiplier(mantissa, 1), m.Multiplier())
    with pytest.raises(MessageError, match="mantissa"):
        m.encode(train)


@given(st.floats(1e-70, 32767))
def test_the_nearest_multiplier_is_near(value):
    near = m.Multiplier.nearest(value)
    assert near.mantissa == 0 or 1 << 14 <= near.mantissa < 1 << 15
    assert abs(near.value - value) <= value * 2**-15 or near.shift in (0, 255)


def test_multipliers_at_the_ends():
    assert m.Multiplier.nearest(0) == m.Multiplier(0, 0)
    assert m.Multiplier.nearest(1.0) == m.Multiplier(16384, 14)
    assert m.Multiplier.nearest(32767.9) == m.Multiplier(32767, 0)
    assert m.Multiplier.nearest(1e-300) == m.Multiplier(0, 0)
    for value in (-0.1, 32768.0, float("nan"), float("inf")):
        with pytest.raises(MessageError, match="learning rate"):
            m.Multiplier.nearest(value)


def test_properties_of_messages():
    assert m.Hello(1, bytes(8), bytes(8), "pi", 0x010203, 64, 64).firmware_text == "1.2.3"
    assert m.Status(m.State.IDLE, 1, 0, 2048).loss == 0.5
    order = m.Train(1, bytes(8), 1, 1, 1, m.Multiplier(), m.Multiplier())
    assert order.wants_update
    assert not dataclasses.replace(order, epochs=0).wants_update
    assert not dataclasses.replace(order, flags=m.PERSONALISE).wants_update


@pytest.mark.parametrize("code", range(256))
def test_every_error_number_has_words_and_a_next_step(code):
    text = explain(code, 17, "own words")
    assert "17, own words" in text and text.count(": ") >= 1
    assert explain(code).endswith(text.rsplit(": ", 1)[1])
