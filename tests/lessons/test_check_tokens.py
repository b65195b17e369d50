"""What learners write in lesson 18, for test_check_learners.py, and what is the lesson's own."""

import random
import re
from itertools import pairwise

import pytest
import tokenizers

from blocks2tokens import GGUFFile
from blocks2tokens.course import models
from blocks2tokens.course.lessons.tokens import bpe as plain
from blocks2tokens.course.lessons.tokens import exercises as lesson
from blocks2tokens.tokenizer import Tokenizer, byte_characters

CHARACTERS = byte_characters()


# Learners' ways


def merge(same=lambda a, b, pair: (a, b) == pair, step=2, stop=False, tail=1):
    """A learner's loop over places, with room for mistakes."""

    def merge_pair(parts, pair):
        out, i, done = [], 0, False
        while i < len(parts) - 1:
            if same(parts[i], parts[i + 1], pair) and not done:
                out.append(parts[i] + parts[i + 1])
                i += step
                done = stop
            else:
                out.append(parts[i])
                i += 1
        return tuple(out) + tuple(parts[i:] if tail else ())

    return merge_pair


def overlapping(parts, pair):
    out, skip = [], False
    for i in range(len(parts)):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(parts[i] + parts[i + 1])
            skip = True
        elif not skip:
            out.append(parts[i])
        else:
            skip = False
    return out


def from_right(parts, pair):
    parts, i = list(parts), len(parts) - 2
    while i >= 0:
        if (parts[i], parts[i + 1]) == pair:
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
            i -= 1
        i -= 1
    return parts


def textually(parts, pair):
    return "\0".join(parts).replace("\0".join(pair), "".join(pair)).split("\0")


def ranked_by(choose, repeat=True, known=lambda pair, ranks: pair in ranks):
    """A learner's bpe; choose(pairs, ranks) picks one of the pairs that are known."""

    def bpe(parts, ranks):
        while pairs := [p for p in pairwise(parts) if known(p, ranks)]:
            parts = one(parts, choose(pairs, ranks))
            if not repeat:
                break
        return parts

    def one(parts, pair):
        return tuple(merge()(parts, pair))

    return bpe


def first_pair(parts, ranks):
    parts, i = list(parts), 0
    while i < len(parts) - 1:
        if (parts[i], parts[i + 1]) in ranks:
            parts[i] += parts.pop(i + 1)
            i = 0
        else:
            i += 1
    return parts


def sweep(parts, ranks):
    out = []
    for part in parts:
        if out and (out[-1], part) in ranks:
            part = out.pop() + part
        out.append(part)
    return out


def lowest(pairs, ranks):
    return sorted(pairs, key=lambda pair: ranks.get(pair, 0))[0]


def by_index(token):
    return b"".join(CHARACTERS.index(c).to_bytes() for c in token)


def only(*replaced):
    def token_bytes(token):
        for stand_in, character in replaced:
            token = token.replace(stand_in, character)
        return token.encode("utf-8")

    return token_bytes


def alone(errors):
    return lambda pieces: [str(piece, "utf-8", errors) for piece in pieces]


def cumulative(pieces):
    held, out = b"", []
    for piece in pieces:
        held += piece
        out.append(held.decode(errors="ignore"))
    return out


def whole_only(on_error):
    """Show the bytes that are held once all of them are text; on_error(held, error) -> text or None."""

    def stream_text(pieces):
        held, out = b"", []
        for piece in pieces:
            held += piece
            try:
                text = held.decode()
            except UnicodeDecodeError as error:
                text = on_error(held, error)
            if text is not None:
                held = b""
            out.append(text or "")
        return out

    return stream_text


def never(held, error):
    return None


def replaced_if_hopeless(held, error):
    return None if error.end == len(held) and "end of data" in error.reason else held.decode(errors="replace")


def stuck(pieces):
    held, out = b"", []
    for piece in pieces:
        held += piece
        n = len(held)
        while n and not decodes(held[:n]):
            n -= 1
        out.append(held[:n].decode())
        held = held[n:]
    return out


def decodes(data):
    try:
        return data.decode() is not None
    except UnicodeDecodeError:
        return False


def by_scores(best=lambda found: max(found)[1], spell=plain.byte_pieces, start="▁", gap="▁", rounds=10_000):
    """A learner's merger; found is [(score, -place)]."""

    def sentencepiece(text, scores):
        parts = [*start, *text.replace(" ", gap)]
        for _ in range(rounds):
            joined = [a + b for a, b in pairwise(parts)]
            found = [(scores[piece], -i) for i, piece in enumerate(joined) if piece in scores]
            if not found:
                break
            i = -best(found)
            parts[i : i + 2] = [joined[i]]
        out = []
        for part in parts:
            out += [part] if part in scores else spell(part)
        return out

    return sentencepiece


def best_in_all_places(text, scores):
    parts = ("▁", *text.replace(" ", "▁"))
    pairs = [pair for pair in pairwise(parts) if "".join(pair) in scores]
    if pairs:
        parts = merge()(parts, max(pairs, key=lambda pair: scores["".join(pair)]))
    return [p for part in parts for p in ([part] if part in scores else plain.byte_pieces(part))]


def longest_prefix(text, scores):
    rest, out = "▁" + text.replace(" ", "▁"), []
    longest = max(map(len, scores))
    while rest:
        n = next((n for n in range(longest, 0, -1) if rest[:n] in scores), 0)
        out += [rest[:n]] if n else plain.byte_pieces(rest[0])
        rest = rest[n or 1 :]
    return out


def glued(text, scores):
    parts = list(text.replace(" ", "▁"))
    parts[0] = "▁" + parts[0]
    while True:
        known = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not known:
            return tuple(p for part in parts for p in ([part] if part in scores else plain.byte_pieces(part)))
        i = min(known)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


WRONG = [
    ("sentencepiece", glued, "the leading ▁ sticks to the first letter"),
    ("merge_pair", overlapping, "you join the middle a twice"),
    ("merge_pair", merge(step=1), "still there after the join"),
    ("merge_pair", merge(stop=True), "the first occurrence only"),
    ("merge_pair", from_right, "from right to left"),
    ("merge_pair", merge(tail=0), "the last part is missing"),
    ("merge_pair", merge(lambda a, b, pair: a + b == "".join(pair)), "is not the pair t + he"),
    ("merge_pair", textually, "across the parts' borders"),
    ("merge_pair", lambda parts, pair: merge()(merge()(parts, pair), pair[::-1]), "in both orders"),
    ("bpe", first_pair, "the first pair that has a rank"),
    ("bpe", ranked_by(lambda pairs, ranks: max(pairs, key=ranks.get)), "the highest rank first"),
    ("bpe", ranked_by(lambda pairs, ranks: max(pairs, key=lambda p: len("".join(p)))), "longest piece"),
    ("bpe", ranked_by(lowest, repeat=False), "you join once"),
    ("bpe", sweep, "you go through the word once"),
    ("bpe", ranked_by(lowest, known=lambda pair, ranks: ranks.get(pair)), "0 counts as false"),
    ("bpe", ranked_by(lowest, known=lambda pair, ranks: True), "pairs that have no rank"),
    ("token_bytes", only(), "you encode the characters themselves"),
    ("token_bytes", only(("Ġ", " ")), "only Ġ is undone"),
    ("token_bytes", only(("Ġ", " "), ("Ċ", "\n")), "only Ġ and Ċ are undone"),
    ("token_bytes", lambda token: bytes(ord(c) % 256 for c in token), "modulo 256"),
    ("token_bytes", lambda token: bytes(ord(c) for c in token if ord(c) < 256), "drop what is above 255"),
    ("token_bytes", lambda token: by_index(token).decode(errors="replace"), "and you decode them"),
    ("stream_text", alone("replace"), "the halves of a character become U+FFFD"),
    ("stream_text", alone("ignore"), "characters that are split are lost"),
    ("stream_text", cumulative, "return only what is new"),
    (
        "stream_text",
        lambda pieces: [*[""] * (len(pieces) - 1), b"".join(pieces).decode(errors="replace")],
        "all comes at the end",
    ),
    ("stream_text", whole_only(never), "until all bytes at hand are text"),
    ("stream_text", whole_only(replaced_if_hopeless), "hold back whole characters"),
    ("stream_text", stuck, "nothing comes any more"),
    (
        "stream_text",
        lambda pieces: [text.replace("\ufffd", "") for text in lesson.STREAM.engine(pieces)],
        "a byte that is no UTF-8 disappears",
    ),
    ("sentencepiece", longest_prefix, "the longest piece that the text begins with"),
    ("sentencepiece", by_scores(lambda found: max(place for _, place in found)), "ignore the scores"),
    (
        "sentencepiece",
        by_scores(lambda found: min(found, key=lambda f: (f[0], -f[1]))[1]),
        "the piece with the lowest score",
    ),
    (
        "sentencepiece",
        by_scores(lambda found: max(found, key=lambda f: (f[0], -f[1]))[1]),
        "of equal scores you take the rightmost",
    ),
    ("sentencepiece", best_in_all_places, "for one round only"),
    ("sentencepiece", by_scores(spell=lambda part: [part]), "stays as it is"),
    ("sentencepiece", by_scores(spell=lambda part: ["<unk>"]), "becomes <unk>"),
    ("sentencepiece", by_scores(spell=lambda part: []), "is dropped"),
    ("sentencepiece", by_scores(spell=lambda part: [f"<0x{ord(part):02X}>"]), "the character's number"),
    ("sentencepiece", by_scores(start=""), "the space in front is missing"),
    ("sentencepiece", by_scores(gap=" "), "spaces inside the text stay spaces"),
]


def as_lists(parts, pair):
    parts, i = list(parts), 0
    while i < len(parts) - 1:
        if parts[i] == pair[0] and parts[i + 1] == pair[1]:
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        i += 1
    return parts


def replayed(parts, ranks):
    for pair in sorted(ranks, key=ranks.get):
        parts = merge()(parts, pair)
    return parts


def held_back(pieces):
    """Hold back an unfinished end of up to three bytes."""
    held, out = b"", []
    for piece in pieces:
        held += piece
        end = re.search(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})?\Z", held)
        out.append(held[: end.start()].decode(errors="replace"))
        held = held[end.start() :]
    return out


RIGHT = {
    "merge_pair": [merge(), as_lists],
    "bpe": [ranked_by(lowest), replayed],
    "token_bytes": [by_index],
    "stream_text": [held_back],
    "sentencepiece": [by_scores()],
}


# The answer key agrees with the engine, and with the library behind it

TEXTS = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune",
    "  Two  spaces\n\n\tand 1,813 pounds; it's “naïve” 😀 👩‍👧 Привет, 世界!",
]


def words_of(text):
    return re.findall(r" ?[a-zA-Zïа-яП]+", text)


@pytest.fixture(scope="module", params=["austen", "smollm2"])
def path(request):
    return request.getfixturevalue(f"{request.param}_path")


def read_ranks(path):
    merges = GGUFFile(path).metadata["tokenizer.ggml.merges"]
    return {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}


def test_bpe_cuts_the_words_of_real_vocabularies_as_the_engine_does(path):
    tokenizer, ranks = Tokenizer(GGUFFile(path)), read_ranks(path)
    words = [word for text in [*TEXTS, models.heldout_text()[:5000]] for word in words_of(text)]
    for word in words:
        parts = plain.bpe(tuple(CHARACTERS[byte] for byte in word.encode()), ranks)
        ids = tokenizer.encode(word)
        assert list(parts) == [tokenizer.tokens[i] for i in ids]
        assert [plain.token_bytes(part) for part in parts] == [tokenizer.token_bytes(i) for i in ids]


@pytest.mark.parametrize("text", TEXTS)
def test_streams_are_the_engine_s(path, text):
    tokenizer = Tokenizer(GGUFFile(path))
    ids = tokenizer.encode(text)
    assert plain.stream_text([tokenizer.token_bytes(i) for i in ids]) == list(tokenizer.decode_stream(ids))


@pytest.fixture(scope="module")
def scores(austen_path):
    """Austen's tokens as a SentencePiece vocabulary: minus its id is the score of a token."""
    tokenizer = Tokenizer(GGUFFile(austen_path))
    pieces = {i: tokenizer.token_bytes(i).decode(errors="replace") for i in range(1, len(tokenizer))}
    return {text.replace(" ", "▁"): -i for i, text in pieces.items() if "\ufffd" not in text}


def test_sentencepiece_cuts_as_the_library_does(scores):
    ids = {piece: i for i, piece in enumerate([*scores, *(f"<0x{byte:02X}>" for byte in range(256))])}
    splits = [(p[:i], p[i:]) for p in scores for i in range(1, len(p)) if {p[:i], p[i:]} <= scores.keys()]
    splits.sort(key=lambda split: scores["".join(split)], reverse=True)
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ids, splits, byte_fallback=True))
    chance = random.Random(0)
    texts = [*TEXTS, *("".join(chance.choices("ehtrgoniskl  é", k=60)) for _ in range(50))]
    for text in texts:
        expected = library.encode("▁" + text.replace(" ", "▁")).tokens
        assert list(plain.sentencepiece(text, scores)) == expected
