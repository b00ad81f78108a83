"""Servers for sampled judges: they say True so often, as replies without logprobs do."""

import itertools
from collections.abc import Callable
from dataclasses import replace

from wire import Answer, Json, Request, chat

from guard._json import as_map


def plain(text: str | None = "True", **choice: Json) -> Answer:
    """A reply in words alone."""
    message = {"role": "assistant", "content": text}
    return Answer(chat(content=text, logprobs=None, **{"message": message, **choice}))


def counting(p: float, samples: int = 20) -> Callable[[Request], Answer]:
    """True in exactly ``round(samples * p)`` of any ``samples`` replies in a row, spread evenly."""
    true, numbers = round(samples * p), itertools.count()

    def answer(_request: Request) -> Answer:
        number = next(numbers)  # The server asks for one answer at a time.
        return plain(str((number + 1) * true // samples > number * true // samples))

    return answer


def fresh(script: Answer | Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """The same replies, each under an id of its own, as all but a cache gives them."""
    numbers = itertools.count(1)

    def answer(request: Request) -> Answer:
        found = script if isinstance(script, Answer) else script(request)
        if "id" not in as_map(found.body):
            return found
        return replace(found, body={**as_map(found.body), "id": f"chatcmpl-{next(numbers)}"})

    return answer
