"""Settings as YAML: one dumper and one loader, so that what is written is read again.

PyYAML alone takes `1e3` for a word, the parser of the command line for a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from enum import Enum
from typing import Any

import yaml

_FLOAT = re.compile(
    r"""(?: [-+]? (?: \d[\d_]*\.[\d_]* | \.\d[\d_]* | \d[\d_]*(?=[eE]) ) (?:[eE][-+]?\d+)?
    | [-+]? \d[\d_]* (?: :[0-5]?\d )+ \.[\d_]*  # of base 60
    | [-+]? \.(?:inf|Inf|INF)
    | \.(?:nan|NaN|NAN) )\Z""",
    re.VERBOSE,
)
_FLOAT_TAG = "tag:yaml.org,2002:float"
_NOT_OURS = (_FLOAT_TAG, "tag:yaml.org,2002:timestamp")  # a date is a word
_MOST = 1_000_000
"""Most values that anchors may blow a text up to."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads `1e3` as a number and a date as a word, and no key twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag not in _NOT_OURS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice, of which YAML would keep the last in silence."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                line = key_node.start_mark.line + 1
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key} is set twice, again in line {line}: keep one", None
                    )
                seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Quotes what either loader would not take for a word."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [*known] for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice, as the parser does not tell it from two."""
        return True


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Line breaks of Unicode are kept where they are escaped alone.
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
_Dumper.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
_Dumper.add_representer(str, _quoted)
_Dumper.add_multi_representer(str, _quoted)
_Dumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


def dump_yaml(value: Any) -> str:
    """Write plain values as YAML, in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def load_yaml(text: str) -> Any:
    """Read plain values from YAML or JSON.

    Raises:
        yaml.YAMLError: If it is not YAML, gives a key twice or contains itself.
    """
    if text.lstrip()[:1] in ("{", "["):  # JSON is not all YAML: "\\ud83d\\ude00" is one letter
        try:
            return json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            pass  # YAML may look alike
    value = yaml.load(str(text), Loader=_Loader)
    _count(value, {}, set())
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) < len(pairs):
        raise ValueError
    return value


def _count(value: Any, known: dict[int, int], above: set[int]) -> int:
    """Count what is written out once anchors are followed; refuse what has no end."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) in above:
        raise yaml.YAMLError("an anchor contains itself: write it out")
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        above.add(id(value))
        known[id(value)] = 1 + sum(_count(part, known, above) for part in parts)
        above.remove(id(value))
        if known[id(value)] > _MOST:
            raise yaml.YAMLError(f"its anchors stand for more than {_MOST:,} values: write less")
    return known[id(value)]
