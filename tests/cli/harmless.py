"""Code that a config from elsewhere might name: it only says that it ran."""

ran: list[str] = []


class Harmless:
    def __init__(self, word: str = "built") -> None:
        ran.append(word)

    def __call__(self, *args: object, **kwargs: object) -> None:
        ran.append("called")


def harmless(*args: object, **kwargs: object) -> None:
    ran.append("function")
