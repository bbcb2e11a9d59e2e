"""What keeps a class from being built."""

from __future__ import annotations

from detaux_pl.settings.choices import concrete_subclasses


def missing_methods(cls: type) -> str | None:
    """Say which methods a class lacks that its bases ask for.

    Args:
        cls: Any class.

    Returns:
        A sentence without its full stop; None of a class that can be built, or that is there to
        be derived from: it asks for methods itself, or has been derived from.
    """
    abstract: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    if not abstract or abstract & vars(cls).keys() or cls.__subclasses__():
        return None
    owners = {name: next(c for c in cls.__mro__ if name in vars(c)) for name in sorted(abstract)}
    parts = []
    for owner in dict.fromkeys(owners.values()):
        names = [name for name, each in owners.items() if each is owner]
        methods = f"the method{'s' * (len(names) > 1)} {' and '.join(names)}"
        parts.append(f"{methods}, which every {owner.__name__} gives")
    return f"{cls.__name__} lacks {'; and '.join(parts)}"


def why_abstract(cls: type) -> str:
    """Say why a class cannot be built, and what to do."""
    if missing := missing_methods(cls):
        return f"{missing}: write what is missing into {cls.__module__}."
    choices = sorted({each.__name__ for each in concrete_subclasses(cls)})
    what = f"choose one of {', '.join(choices)}" if choices else "and no class is"
    return f"{cls.__name__} is there to be derived from: {what}."
