"""Words from outside: one printable line of a bounded length, whatever came in."""

import pytest

from flowerbed.words import clean, clean_all


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("the sensor is unplugged", "the sensor is unplugged"),
        ("Größe 3 × 4, 猫", "Größe 3 × 4, 猫"),
        ("\x1b[31mred\x1b[0m alert", "red alert"),
        ("\x1b]0;title\x07text", "text"),
        ("a\nrounds 1 to 99 are done", "a rounds 1 to 99 are done"),
        ("a\r\n\t b\x00c\x9bd", "a b c d"),
        ("nesutora \u202eabc\u2028d", "nesutora abc d"),
        ("half \ud800 a pair", "half a pair"),
        (RuntimeError("x\ny"), "x y"),
        ("", ""),
    ],
)
def test_text_becomes_one_printable_line(text, right):
    assert clean(text) == right


def test_long_text_is_cut_and_says_so():
    assert clean("x" * 3_500_000) == "x" * 299 + "…"
    assert clean("abcdef", longest=4) == "abc…"
    assert clean("\n" * 3_500_000) == ""


def test_every_text_in_a_value_is_cleaned():
    value = {"a\n": ["\x1b[1mb", 1.5, None, True], "deep": {"x": {"y": {"z": {"far": "gone"}}}}}
    assert clean_all(value) == {"a": ["b", 1.5, None, True], "deep": {"x": {"y": {"z": {}}}}}
    assert len(clean_all(list(range(1000)))) == 200
