"""Files that are not trusted: nothing in them runs, and whatever they hold ends in a value or in one sentence."""

import gzip
import os
import pickle
import pickletools
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memmodel.base.errors import UsageError
from memmodel.snapshot import unpickle
from memmodel.snapshot.unpickle import load_plain

scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text())
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(st.integers(), st.integers())
    ),
)


def load(data: bytes, folder: Path) -> Any:
    path = folder / "data.pickle"
    path.write_bytes(data)
    return load_plain(str(path))


def refusal(data: bytes, folder: Path) -> str:
    with pytest.raises(UsageError) as refused:
        load(data, folder)
    message = str(refused.value)
    assert "\n" not in message
    return message


def loads_or_refuses(data: bytes, folder: Path) -> None:
    """Neither anything but a UsageError, nor one of several lines."""
    message = ""
    try:
        load(data, folder)
    except UsageError as error:
        message = str(error)
    assert "\n" not in message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@settings(max_examples=60, deadline=None)
@given(value=plain)
def test_plain_data_comes_back(protocol: int, value: Any, folder: Path) -> None:
    assert load(pickle.dumps(value, protocol), folder) == value


def test_a_tuple_may_lie_across_two_frames_of_the_file(tmp_path: Path) -> None:
    """Protocol 4 writes frames of 64 KiB and cuts between any two instructions."""
    value = [["x" * (index * index % 31), (index, index + 1)] for index in range(100_000)]
    data = pickle.dumps(value, 4)
    names = [opcode.name for opcode, _, _ in pickletools.genops(data)]
    cuts = [i for i, name in enumerate(names) if name == "FRAME" and names[i - 1][:6] == names[i + 1][:6] == "BININT"]
    assert cuts
    assert load(data, tmp_path) == value


class Runs:
    """Its pickle calls os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_and_does_not_run(protocol: int, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    hostile = pickle.dumps({"segments": [], "device_traces": [Runs(f"touch {sentinel}")]}, protocol)
    assert "pickle instruction" in refusal(hostile, tmp_path)
    assert not sentinel.exists()
    pickle.loads(hostile)  # the same bytes do run where they are trusted
    assert sentinel.exists()


HOSTILE = {
    "GLOBAL": b"\x80\x02cos\nsystem\n.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "INST": b"\x80\x02(ios\nsystem\n.",
    "OBJ": b"\x80\x02(]o.",
    "REDUCE": b"\x80\x02])R.",
    "BUILD": b"\x80\x02]}b.",
    "NEWOBJ": b"\x80\x02])\x81.",
    "NEWOBJ_EX": b"\x80\x04])}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"\x80\x02Pthere\n.",
    "BINPERSID": b"\x80\x02]Q.",
    "BYTEARRAY8": b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x00.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "TUPLE": b"\x80\x02(t.",
    "INT": b"I1\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_every_other_instruction_is_refused_by_name(name: str, tmp_path: Path) -> None:
    assert f"pickle instruction {name}," in refusal(HOSTILE[name], tmp_path)


PLAIN = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE"),
    *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
}


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_the_list_of_instructions_is_closed(opcode: Any, tmp_path: Path) -> None:
    """An instruction of a later protocol is refused until someone has looked at it."""
    message = refusal(b"\x80\x04" + opcode.code.encode("latin1") + b"\xff" * 300, tmp_path)
    assert (f"pickle instruction {opcode.name}," in message) == (opcode.name not in PLAIN)


@pytest.mark.parametrize("length", range(0, 17))
def test_whole_numbers_of_every_length_come_back(length: int, tmp_path: Path) -> None:
    number = 1 << max(0, 8 * length - 2)
    assert load(pickle.dumps([number, -number, (number, number)], 4), tmp_path) == [number, -number, (number, number)]


@pytest.mark.parametrize("name", ["gzip", "lzma", "bz2"])
def test_a_packed_file_is_read(name: str, tmp_path: Path) -> None:
    packer = import_module(name)
    packed = packer.compress(pickle.dumps({"segments": []}, 4))
    assert load(packed, tmp_path) == {"segments": []}
    assert "is damaged" in refusal(packed[: len(packed) // 2], tmp_path)
    assert "is damaged" in refusal(packer.compress(b"no pickle"), tmp_path)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "MAX_BYTES", 1000)
    assert "more than 1000 bytes" in refusal(gzip.compress(bytes(10**7)), tmp_path)


@pytest.mark.parametrize(("first", "name"), [(b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "zstd")])
def test_other_packers_are_named(first: bytes, name: str, tmp_path: Path) -> None:
    assert f"is packed by {name}: unpack it first" in refusal(first + bytes(50), tmp_path)


def test_the_unpickler_itself_refuses_names_without_the_scan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unpickle, "_scan", lambda path, data: None)
    assert "names os.system" in refusal(HOSTILE["GLOBAL"], tmp_path)
    assert "outside the file" in refusal(HOSTILE["PERSID"], tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps({"segments": [{"address": 1 << 40, "pool": (0, 0)}], "device_traces": [["a", 1.5, None]]}, 4)
    for cut in range(len(data)):
        assert "data.pickle" in refusal(data[:cut], tmp_path)


@settings(max_examples=300, deadline=None)
@given(garbage=st.binary(max_size=200))
def test_garbage_is_a_value_or_a_sentence(garbage: bytes, folder: Path) -> None:
    for data in (garbage, b"\x80\x04" + garbage):
        loads_or_refuses(data, folder)


@pytest.mark.parametrize("seed", range(200))
def test_damaged_bytes_are_a_value_or_a_sentence(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    data = bytearray(pickle.dumps([{"name": f"x{i}", "size": i << 20, "pool": (i, 0)} for i in range(20)], 4))
    for _ in range(dice.randrange(1, 6)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    loads_or_refuses(bytes(data), tmp_path)


def test_deep_nesting_does_not_end_the_interpreter(tmp_path: Path) -> None:
    depth = 200_000
    nested = load(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".", tmp_path)
    assert isinstance(nested, list)


def test_nested_tuples_whose_hash_would_overflow_the_stack_are_refused(tmp_path: Path) -> None:
    bomb = b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x01s."
    assert "a tuple of other things than whole numbers" in refusal(bomb, tmp_path)


def test_a_memo_place_beyond_the_file_is_refused(tmp_path: Path) -> None:
    """Python's memo is an array up to the highest index: 2 GiB of it for these 8 bytes."""
    assert "memo places" in refusal(b"\x80\x02]r\xff\xff\xff\x0f.", tmp_path)


@pytest.mark.parametrize(
    ("limit", "most", "data"),
    [
        ("MAX_BYTES", 50, b"\x80\x02X\x64\x00\x00\x00" + b"a" * 100 + b"."),
        ("MAX_INSTRUCTION_BYTES", 50, b"\x80\x02](" + b"N" * 100 + b"e."),
        ("MAX_CONTAINERS", 50, b"\x80\x02](" + b"]" * 100 + b"e."),
    ],
)
def test_more_than_the_limits_is_refused(
    limit: str, most: int, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpickle, limit, most)
    assert "record fewer events" in refusal(data, tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "missing.pickle", "cannot read"), (tmp_path, "is no regular file")):
        with pytest.raises(UsageError, match=message):
            load_plain(str(path))
    assert "is empty" in refusal(b"", tmp_path)
    assert "damaged or no pickle" in refusal(b"\xff\xd8\xff\xe0", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no regular file"):
        load_plain(str(tmp_path / "pipe"))
