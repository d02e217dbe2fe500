"""Words from outside: one printable line of a bounded length, whatever came in."""

import pytest

from flowerbed.words import clean, clean_all, duration


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


@pytest.mark.parametrize(
    ("seconds", "right", "short"),
    [(0, "0 seconds", "0 s"), (1.2, "1 second", "1 s"), (119, "119 seconds", "119 s"), (120, "2 minutes", "2 min"),
     (5400, "90 minutes", "90 min"), (7200, "2 hours", "2 h"), (2 * 86400 - 1, "48 hours", "48 h"),
     (31535996, "365 days", "365 d"), (-31535996, "-365 days", "-365 d")],
)  # fmt: skip
def test_a_duration_has_the_unit_that_fits_it(seconds, right, short):
    assert (duration(seconds), duration(seconds, short=True)) == (right, short)
