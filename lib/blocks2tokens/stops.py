"""Stops: strings at which an answer ends, found in text that comes in pieces.

    stops "\\nYou:", "###"     pieces  "Fine"  ".\\n"     "Yo"      "u: and"
                              shown   "Fine"  "."        -         the end
                                               "\\n" may begin a stop: held back until the next piece says

What is shown does not depend on where the pieces were cut: it is the text up to the place where the first
stop begins. Of stops that overlap, the first is the one that begins first: with "bc" and "abcd", "abc" waits
for one more character.
"""

from collections.abc import Iterable, Iterator


def checked_stops(stops: str | Iterable[str]) -> tuple[str, ...]:
    """Return the stops, one string or several, as a tuple; ValueError for an empty one or no string."""
    stops = (stops,) if isinstance(stops, str) else stops
    if not isinstance(stops, Iterable):
        raise ValueError(f"stop: expected strings, got {stops!r:.60}")
    stops = tuple(stops)
    for stop in stops:
        if not isinstance(stop, str):
            raise ValueError(f"stop: expected strings, got {stop!r:.60}")
        if not stop:
            raise ValueError("stop: expected strings of at least one character, got an empty one")
    return stops


def cut_at_stops(pieces: Iterable[str], stops: str | Iterable[str]) -> Iterator[str]:
    """Yield the text of `pieces` up to the first stop and nothing of that; take no piece behind it.

    A piece is shown at once, but for an end that a stop may begin with: that waits for what follows.
    Raises ValueError, before any piece is taken, for an empty stop or one that is no string.
    """
    return _cut(pieces, checked_stops(stops))


def _cut(pieces: Iterable[str], stops: tuple[str, ...]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        held += piece
        n, ends = shown_of(held, stops)
        shown, held = held[:n], held[n:]
        if shown:
            yield shown
        if ends:
            return
    if shown := held[: first_found(held, stops)]:
        yield shown


def shown_of(text: str, stops: tuple[str, ...]) -> tuple[int, bool]:
    """Return how many characters of text no stop can change any more, and whether a stop follows them."""
    found, begun = first_found(text, stops), _first_begun(text, stops)
    return min(found, begun), found <= begun and found < len(text)


def first_found(text: str, stops: tuple[str, ...]) -> int:
    """Return where the first stop begins that is there as a whole; the text's length if none is."""
    places = (text.find(stop) for stop in stops)
    return min((place for place in places if place >= 0), default=len(text))


def _first_begun(text: str, stops: tuple[str, ...]) -> int:
    """Return where the first stop begins that the text ends inside of; the text's length if none does."""
    return min((_begun(text, stop) for stop in stops), default=len(text))


def _begun(text: str, stop: str) -> int:
    starts = range(max(0, len(text) - len(stop) + 1), len(text))
    return next((start for start in starts if stop.startswith(text[start:])), len(text))
