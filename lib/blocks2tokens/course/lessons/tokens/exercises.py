"""Exercises of lesson 18: merges, their order, bytes behind characters, streams, and SentencePiece.

check.merge_pair(f)       f(parts, pair) -> parts
check.bpe(f)              f(parts, ranks) -> parts
check.token_bytes(f)      f(token) -> bytes
check.stream_text(f)      f(pieces of bytes) -> [text, ...]
check.sentencepiece(f)    f(text, scores) -> pieces
"""

from functools import partial
from itertools import pairwise

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.tokens import bpe as plain
from blocks2tokens.tokenizer import byte_characters

CHARACTERS = byte_characters()


# merge_pair: parts, tuple of str, and a pair -> parts with the pair joined


def merge_cases():
    return {
        "t h e in a word": (tuple("Ġthethe"), ("t", "h")),
        "a pair that is not there": (tuple("kettle"), ("l", "t")),
        "one part": (("the",), ("t", "he")),
        "at the end": (("k", "e", "tt", "l", "e"), ("l", "e")),
        "a a a a a": (tuple("aaaaa"), ("a", "a")),
        "the same text, cut elsewhere": (("th", "e", "t", "he"), ("t", "he")),
        "the pair's letters across two parts": (("xa", "b", "a", "b"), ("a", "b")),
        "both orders": (tuple("abba"), ("a", "b")),
    }


def first_only(parts, pair):
    i = next((i for i, p in enumerate(pairwise(parts)) if p == pair), None)
    return parts if i is None else (*parts[:i], "".join(pair), *parts[i + 2 :])


def overlapping(parts, pair):
    """Join at each place where the pair stands, whether its first part was joined already or not."""
    joined = [p == pair for p in pairwise(parts)]
    out = []
    for i, part in enumerate(parts):
        if i < len(joined) and joined[i]:
            out.append("".join(pair))
        elif i == 0 or not joined[i - 1]:
            out.append(part)
    return tuple(out)


def from_the_right(parts, pair):
    mirrored = plain.merge_pair(tuple(p[::-1] for p in parts[::-1]), tuple(p[::-1] for p in pair[::-1]))
    return tuple(p[::-1] for p in mirrored[::-1])


def loses_the_last(parts, pair):
    merged = plain.merge_pair(parts, pair)
    return merged if parts[-2:] == pair and merged[-1] == "".join(pair) else merged[:-1]


def by_text(parts, pair):
    """Compare the joined text in the place of the two parts."""
    out, i = [], 0
    while i < len(parts):
        step = 2 if len(parts[i : i + 2]) == 2 and "".join(parts[i : i + 2]) == "".join(pair) else 1
        out.append("".join(parts[i : i + step]))
        i += step
    return tuple(out)


def by_replace(parts, pair):
    return tuple(" ".join(parts).replace(" ".join(pair), "".join(pair)).split(" "))


def leaves_both(parts, pair):
    """Put the joined part in, and go on with the second part of the pair."""
    out = []
    for i, part in enumerate(parts):
        out.append("".join(pair) if parts[i : i + 2] == pair else part)
    return tuple(out)


MERGE = Exercise(
    name="merge_pair",
    engine=plain.merge_pair,
    cases=merge_cases,
    mistakes=(
        Mistake(
            overlapping,
            "in a a a you join the middle a twice: a part that was joined is used up, so go on two places "
            "further",
        ),
        Mistake(
            leaves_both,
            "the second part of the pair is still there after the join: go on two places further, not one",
        ),
        Mistake(first_only, "you join the first occurrence only: go on to the end of the word"),
        Mistake(from_the_right, "you go from right to left: a a a becomes aa a, not a aa"),
        Mistake(
            loses_the_last, "the last part is missing where no pair ends: it has no neighbour to its right"
        ),
        Mistake(
            by_text,
            "you compare the joined text: th + e spells the, and is not the pair t + he",
        ),
        Mistake(
            by_replace,
            "you replace text, and it matches across the parts' borders: xa + b ends like a + b, and is "
            "another pair. Compare whole parts",
        ),
        Mistake(
            lambda parts, pair: plain.merge_pair(plain.merge_pair(parts, pair), pair[::-1]),
            "you join the pair in both orders: b + a is another pair than a + b",
        ),
    ),
    hints=(
        "Walk with an index, in a while loop: it sometimes moves by one place, sometimes by two.",
        "parts[i : i + 2] == pair tells whether the pair stands at i. If so, append its join and move two "
        "places; if not, append parts[i] and move one.",
    ),
)


# bpe: parts, tuple of str, and ranks {pair: rank} -> parts


def ranked(*merges):
    return {tuple(merge.split()): rank for rank, merge in enumerate(merges)}


def bpe_cases():
    austen = ranked("Ġ t", "h e", "i n", "r e", "Ġt he", "e r", "n d", "Ġt h", "in g", "l l", "t h", "a in")
    return {
        "nothing to do": (tuple("xyz"), austen),
        "the merge of rank 0": (tuple("Ġto"), austen),
        "Ġthe": (tuple("Ġthe"), austen),
        "a kettle, there": (tuple("Ġthere"), austen),
        "b c before a b": (tuple("abcd"), ranked("b c", "a b", "c d", "bc d")),
        "x y before y z": (tuple("xyz"), ranked("x y", "y z")),
        "grows to the left": (tuple("slow"), ranked("o w", "l ow", "s low")),
        "the long pair is on the right": (("a", "b", "cc"), ranked("a b", "b cc")),
        "the long pair is on the left": (("aaa", "b", "c"), ranked("b c", "aaa b")),
        "rank 0 in the middle": (tuple("qrst"), ranked("r s", "q r")),
        "a run of the same": (tuple("aaaaaaa"), ranked("a a", "aa aa")),
    }


def greedy(parts, ranks, choose):
    """Join one place after another; choose(known, ranks) -> index among known [(place, pair)]."""
    parts = list(parts)
    while known := [(i, p) for i, p in enumerate(pairwise(parts)) if p in ranks]:
        i, pair = choose(known, ranks)
        parts[i : i + 2] = ["".join(pair)]
    return tuple(parts)


def leftmost(known, ranks):
    return known[0]


def highest(known, ranks):
    return max(known, key=lambda at: (ranks[at[1]], -at[0]))


def longest(known, ranks):
    return max(known, key=lambda at: (len("".join(at[1])), -at[0]))


def once(parts, ranks):
    known = [pair for pair in pairwise(parts) if pair in ranks]
    return plain.merge_pair(parts, min(known, key=ranks.get)) if known else parts


def one_sweep(parts, ranks):
    """Go through the word once; let the part in hand grow as far as it can."""
    out = [parts[0]]
    for part in parts[1:]:
        if (out[-1], part) in ranks:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def zero_is_false(parts, ranks):
    return plain.bpe(parts, {pair: rank for pair, rank in ranks.items() if rank})


def unknown_is_zero(parts, ranks):
    while len(parts) > 1:
        parts = plain.merge_pair(parts, min(pairwise(parts), key=lambda pair: ranks.get(pair, 0)))
    return parts


BPE = Exercise(
    name="bpe",
    engine=plain.bpe,
    cases=bpe_cases,
    mistakes=(
        Mistake(
            partial(greedy, choose=leftmost),
            "you join the first pair that has a rank: the lowest rank goes first, wherever it stands",
        ),
        Mistake(
            partial(greedy, choose=highest),
            "you join the highest rank first: rank 0 was learned first, and is applied first",
        ),
        Mistake(
            partial(greedy, choose=longest),
            "you join to the longest piece first: length decides nothing, the lowest rank does",
        ),
        Mistake(once, "you join once: the new part has new neighbours. Repeat until no pair has a rank"),
        Mistake(
            one_sweep,
            "you go through the word once, from left to right: choose among all pairs of the word, join, and "
            "look at all again",
        ),
        Mistake(
            zero_is_false,
            "the pair of rank 0 is never joined: 0 counts as false in Python, ask `pair in ranks`",
        ),
        Mistake(
            unknown_is_zero,
            "you join pairs that have no rank: if none of the pairs has one, the word is done",
        ),
    ),
    hints=(
        "Which pairs of neighbours have a rank? While there are any: find the one with the lowest, and join "
        "it with merge_pair.",
        "pairwise(parts) gives the neighbours; min(known, key=ranks.get) the pair of lowest rank.",
    ),
)


# token_bytes: a token of a GPT-2-style vocabulary -> the bytes that it stands for


def spelled(data: bytes) -> str:
    return "".join(CHARACTERS[byte] for byte in data)


def token_cases():
    texts = {
        "letters": b"kettle",
        "a space in front": b" the",
        "a new line": b"\n\n",
        "é": "é".encode(),
        "a quotation mark": "”".encode(),
        "half a character": b"\xf0\x9f",
        "byte 127": b"\x7f",
        "all 256 bytes": bytes(range(256)),
    }
    return {label: (spelled(data),) for label, data in texts.items()}


TOKEN_BYTES = Exercise(
    name="token_bytes",
    engine=plain.token_bytes,
    cases=token_cases,
    mistakes=(
        Mistake(
            lambda token: token.encode(),
            "you encode the characters themselves: Ġ stands for a byte, and its own UTF-8 is two others. "
            "Look each character up in BYTE_OF",
        ),
        Mistake(
            lambda token: token.replace("Ġ", " ").encode(),
            "only Ġ is undone: all 256 bytes have their character, é comes as Ã©. Look each one up",
        ),
        Mistake(
            lambda token: token.replace("Ġ", " ").replace("Ċ", "\n").encode(),
            "only Ġ and Ċ are undone: all 256 bytes have their character, é comes as Ã©. Look each one up",
        ),
        Mistake(
            lambda token: bytes(ord(character) & 255 for character in token),
            "you take the character's number modulo 256: that fits Ġ, by luck, and not the characters behind "
            "it. Look each one up in BYTE_OF",
        ),
        Mistake(
            lambda token: token.encode("latin-1", "ignore"),
            "you take the character's number for the byte, and drop what is above 255: Ġ is 288. Look each "
            "one up in BYTE_OF",
        ),
        Mistake(
            lambda token: plain.token_bytes(token).decode("utf-8", "replace"),
            "the bytes are right, and you decode them: a token may hold half a character, so return bytes",
        ),
    ),
    hints=(
        "BYTE_OF is a dict: character -> byte, a number below 256. bytes([72, 105]) makes bytes of numbers.",
        "So make the list of numbers first, one for each character of the token.",
    ),
)


# stream_text: pieces of bytes -> the text to show after each


def stream_cases():
    family = "a 👩‍👧 b".encode()
    return {
        "whole words": ([b"It", b" is", b" a"],),
        "é, byte by byte": ([b"caf", b"\xc3", b"\xa9", b"!"],),
        "an emoji in three": ([b" \xf0\x9f", b"\x98", b"\x80"],),
        "each byte alone": ([family[i : i + 1] for i in range(len(family))],),
        "two characters meet in a piece": ([b"\xc3", b"\xa9\xe2\x80", b"\x94x"],),
        "a byte that is no UTF-8": ([b"ok", b"\xff", b"!"],),
    }


def each_alone(pieces, errors):
    return [piece.decode("utf-8", errors) for piece in pieces]


def all_so_far(pieces):
    return [b"".join(pieces[: n + 1]).decode("utf-8", "ignore") for n in range(len(pieces))]


def at_the_end(pieces):
    return [""] * (len(pieces) - 1) + [b"".join(pieces).decode("utf-8", "replace")]


def all_or_nothing(pieces, give_up):
    """Wait until all bytes held are text; if they never will be, show give_up(held), or nothing if None."""
    shown, held = [], b""
    for piece in pieces:
        held += piece
        try:
            text = held.decode()
        except UnicodeDecodeError as error:
            text = give_up(held) if "unexpected end" not in error.reason else None
        shown.append(text or "")
        held = b"" if text is not None else held
    return shown


def waits_for_ever(pieces):
    """Show what is complete, and wait for what is not, even if it never can be."""
    shown, held = [], b""
    for piece in pieces:
        held += piece
        try:
            end = len(held.decode().encode())
        except UnicodeDecodeError as error:
            end = error.start
        shown.append(held[:end].decode())
        held = held[end:]
    return shown


def drops_bad_bytes(pieces):
    return [text.replace("\ufffd", "") for text in plain.stream_text(pieces)]


STREAM = Exercise(
    name="stream_text",
    engine=plain.stream_text,
    cases=stream_cases,
    mistakes=(
        Mistake(
            partial(each_alone, errors="replace"),
            "you decode each piece alone: the halves of a character become U+FFFD. Keep the bytes that wait "
            "for more",
        ),
        Mistake(
            partial(each_alone, errors="ignore"),
            "you decode each piece alone and ignore what is no text: characters that are split are lost",
        ),
        Mistake(all_so_far, "you return all text so far after each piece: return only what is new"),
        Mistake(
            at_the_end, "all comes at the end, and nobody sees it grow: show each character once it is whole"
        ),
        Mistake(
            partial(all_or_nothing, give_up=lambda held: None),
            "you wait until all bytes at hand are text, and for ever after a bad byte. Show the whole "
            "characters at once, hold back the unfinished one only, and show U+FFFD for a byte that can "
            "never be text",
        ),
        Mistake(
            partial(all_or_nothing, give_up=lambda held: held.decode("utf-8", "replace")),
            "you hold back whole characters because an unfinished one is behind them: show them at once",
        ),
        Mistake(
            waits_for_ever,
            "after a byte that is no UTF-8 nothing comes any more: it can never be text, so show U+FFFD for "
            "it and go on",
        ),
        Mistake(drops_bad_bytes, "a byte that is no UTF-8 disappears: show U+FFFD, so that one sees it"),
    ),
    hints=(
        "Something must remember the unfinished bytes from one piece to the next. Python has it: see "
        "codecs.getincrementaldecoder.",
        'codecs.getincrementaldecoder("utf-8") is a class: called with "replace" it makes a decoder. How '
        "many do you need, if it must remember?",
    ),
)


# sentencepiece: text, scores {piece: score} -> pieces


def sentencepiece_cases():
    letters = dict.fromkeys("▁abcdehklnortw", -99.0)
    scores = letters | {"he": -1.0, "▁t": -2.0, "▁the": -3.0, "the": -9.0, "th": -4.0, "re": -2.5}
    order = letters | {"bc": -1.0, "ab": -2.0, "cd": -3.0, "bcd": -4.0}
    length = letters | {"ow": -1.0, "low": -7.0, "lo": -2.0, "▁l": -3.0, "▁lo": -8.0}
    return {
        "one word": ("the", scores),
        "two words": ("there the", scores),
        "the best score is in the middle": ("abcd", order),
        "the longest is not the best": ("low", length),
        "a piece that no join reaches": ("held", letters | {"eld": -1.0}),
        "equal scores": ("aaa", letters | {"aa": -1.0}),
        "é has no piece": ("thé", scores),
        "an emoji": ("he 😀", scores),
        "no merges at all": ("kettle", letters),
    }


def sentencepiece_with(
    text, scores, key=lambda s, i, piece: (s, -i), prefix="▁", space="▁", fallback=plain.byte_pieces
):
    """Return the right pieces with a place for each mistake."""
    parts = list(prefix + text.replace(" ", space))
    while known := [(i, a + b) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]:
        i, _ = max(known, key=lambda at: key(scores[at[1]], *at))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return tuple(p for part in parts for p in ([part] if part in scores else fallback(part)))


def mark_glued_to_the_first_letter(text, scores):
    parts = ["▁" + text[0], *text[1:].replace(" ", "▁")]
    while known := [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]:
        i = -max(known)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return tuple(p for part in parts for p in ([part] if part in scores else plain.byte_pieces(part)))


def longest_match(text, scores):
    text, parts = "▁" + text.replace(" ", "▁"), []
    while text:
        pieces = [text[:n] for n in range(len(text), 0, -1) if text[:n] in scores]
        part = pieces[0] if pieces else text[0]
        parts += [part] if pieces else plain.byte_pieces(part)
        text = text[len(part) :]
    return tuple(parts)


def one_round(text, scores):
    parts = ("▁", *text.replace(" ", "▁"))
    known = [pair for pair in pairwise(parts) if "".join(pair) in scores]
    if known:
        parts = plain.merge_pair(parts, max(known, key=lambda pair: scores["".join(pair)]))
    return tuple(p for part in parts for p in ([part] if part in scores else plain.byte_pieces(part)))


SENTENCEPIECE = Exercise(
    name="sentencepiece",
    engine=plain.sentencepiece,
    cases=sentencepiece_cases,
    mistakes=(
        Mistake(
            longest_match,
            "you take the longest piece that the text begins with, again and again: begin with characters, "
            "and join two neighbours at a time, the best score first",
        ),
        Mistake(
            partial(sentencepiece_with, key=lambda s, i, piece: -i),
            "your joins ignore the scores, the first or longest one goes first: the best score does, "
            "wherever it stands",
        ),
        Mistake(
            partial(sentencepiece_with, key=lambda s, i, piece: (-s, -i)),
            "you join to the piece with the lowest score: scores are not ranks, the highest is the best",
        ),
        Mistake(
            partial(sentencepiece_with, key=lambda s, i, piece: (s, i)),
            "of equal scores you take the rightmost: the leftmost goes first, a a a becomes aa a",
        ),
        Mistake(one_round, "you join for one round only: repeat until no two neighbours spell a piece"),
        Mistake(
            partial(sentencepiece_with, fallback=lambda part: [part]),
            "a character without a piece stays as it is, and has no id: spell its UTF-8 bytes, "
            "byte_pieces(part)",
        ),
        Mistake(
            partial(sentencepiece_with, fallback=lambda part: ["<unk>"]),
            "a character without a piece becomes <unk>, and what it was is lost: spell its UTF-8 bytes, "
            "byte_pieces(part)",
        ),
        Mistake(
            partial(sentencepiece_with, fallback=lambda part: []),
            "a character without a piece is dropped: spell its UTF-8 bytes, byte_pieces(part)",
        ),
        Mistake(
            partial(sentencepiece_with, fallback=lambda part: [f"<0x{ord(part):02X}>"]),
            "your byte is the character's number, which may be above 255: it is UTF-8 that has bytes, "
            "byte_pieces(part)",
        ),
        Mistake(
            partial(sentencepiece_with, prefix=""), "the space in front is missing: the text begins with ▁"
        ),
        Mistake(
            mark_glued_to_the_first_letter,
            "the leading ▁ sticks to the first letter: it is a part by itself, as each letter is, and joins "
            'only by its score. list("▁" + ...) makes it one',
        ),
        Mistake(
            partial(sentencepiece_with, space=" "),
            "spaces inside the text stay spaces: replace each by ▁ before you merge",
        ),
    ),
    hints=(
        'Begin with list("▁" + text.replace(" ", "▁")). While two neighbours join to a piece that has a '
        "score: find the join with the best one. At the end, deal with the parts that have no score.",
        "max([(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]) holds the "
        "best score and, negated, its place.",
    ),
)

EXERCISES = [MERGE, BPE, TOKEN_BYTES, STREAM, SENTENCEPIECE]
