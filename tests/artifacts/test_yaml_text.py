"""What is written as YAML is read again, by our loader and by the parser's."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import get_loader

from detaux_pl import settings as _  # noqa: F401  registers the pair with the parser
from detaux_pl.artifacts.yaml_text import dump_yaml, load_yaml

WORDS = (
    "on", "off", "no", "yes", "null", "~", "", "true", "1_000", "0x1f", "0o17", "017", "1e3",
    "12e03", "1e-3", ".5", "1.", "._", "1_e3", "12:30:00", "12:30:00.5", "2024-01-01",
    "2024-01-01T10:00:00Z", " a", "a ", "a: b", "a:", ":a", "- a", "-", "--a", "#a", "a #b", "{a",
    "[a]", "{a, b}", "'a", '"a', "&a", "*a", "!a", "%a", "@a", "`a", "|", ">", "?", "=", "<<",
    ".inf", "-.INF", ".nan", "NaN", "a\nb", "\ta", "a\tb", "\u00e9", "\U0001f600", "\x7f", "\x85",
    "\u2028", "\ufeff", "a" * 200, "a b " * 50, "---", "...",
)  # fmt: skip
"""Words that YAML of one version or another takes for something else."""

words = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
values = st.recursive(
    words | numbers, lambda part: st.lists(part) | st.dictionaries(words, part), max_leaves=12
)


@settings(max_examples=100, deadline=None)
@given(values)
def test_what_is_written_is_read_again(value: object):
    text = dump_yaml({"held": value})
    assert load_yaml(text) == {"held": value}
    assert get_loader("yaml")(text) == {"held": value}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_stays_a_word_for_every_reader(word: str):
    text = dump_yaml([word, {word: word}])
    assert load_yaml(text) == [word, {word: word}]
    # A reader of YAML 1.1, such as an editor's.
    assert yaml.safe_load(text) == [word, {word: word}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0), ("1e-3", 0.001), (".5", 0.5), ("1_0.5", 10.5), ("-.inf", -math.inf),
        ("2024-01-01", "2024-01-01"), ("._", "._"), ("on", True), ("0x1f", 31), ("12:30", 750),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}), ("{a: 1}", {"a": 1}), ("", None),
        ("{<<: {a: 1}, a: 2}", {"a": 2}), ("[&x {a: 1}, *x]", [{"a": 1}, {"a": 1}]),
    ],
)  # fmt: skip
def test_numbers_and_words_are_told_apart(text: str, value: object):
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2", "a is set twice"),
        ("b: {a: 1, 'a': 2}", "a is set twice"),
        ('{"a": 1, "a": 1}', "a is set twice"),
        ("a: &x\n  b: *x", "contains itself"),
        ("a: &x [*x]", "contains itself"),
        ("[" * 5000 + "]" * 5000, "nest(ed too deep|ing depth)"),
        (
            "".join(f"x{k}: &x{k} [{', '.join([f'*x{k - 1}'] * 9)}]\n" for k in range(1, 9))
            .replace("*x0", "1"),
            "anchors stand for more than 1,000,000",
        ),
    ],
)  # fmt: skip
def test_what_has_no_one_meaning_is_refused(text: str, says: str):
    with pytest.raises(yaml.YAMLError, match=says):
        load_yaml(text)


def test_not_a_number_comes_back():
    assert math.isnan(load_yaml(dump_yaml([math.nan]))[0])
