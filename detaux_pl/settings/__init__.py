"""From words to objects: parsers, classes by name, what of a setting changes a result."""

from typing import Any

from jsonargparse import set_dumper, set_loader, set_parsing_settings
from yaml import YAMLError

from detaux_pl.artifacts.yaml_text import dump_yaml, load_yaml
from detaux_pl.settings.words import as_words


def _load(text: Any) -> Any:
    """Read what a setting or a file of them says; `{a, b}` and `a:` are words that say nothing."""
    if not isinstance(text, str):  # a number that was read already, of a nested setting
        return text
    value = load_yaml(text)
    empty = isinstance(value, dict) and value and all(part is None for part in value.values())
    if isinstance(value, str) or (empty and ": " not in text and "\n" not in text.strip()):
        return text
    return as_words(value)


set_loader("yaml", _load, exceptions=(YAMLError,))
set_dumper("yaml", dump_yaml)
# A config may come from elsewhere: what is typed `Any` stays what was written, and the denied
# import paths (os, subprocess, pickle ...) are refused, not warned of.
set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=[])
