"""The ledger: its rules, its formulas against the kernels' counts, and what it shows."""

import pytest

from blocks2tokens.course import ledger
from blocks2tokens.course.ledger import CLAIMS, FAILS, HOLDS, IN_PART, OPEN, VERDICTS, Ledger
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels import KERNELS


def test_every_section_of_the_report_that_claims_something_is_there():
    sections = list(dict.fromkeys(claim.section for claim in CLAIMS.values()))
    assert sections[0] == "Executive Summary" and sections[-1] == "Conclusion"
    assert len(sections) == 11 and len(CLAIMS) >= 20
    assert len({claim.quote for claim in CLAIMS.values()}) == len(CLAIMS)


@pytest.mark.parametrize(
    ("claimed", "found", "verdict"),
    [
        (120, 90, HOLDS),
        (3, 2, HOLDS),
        (2, 3, HOLDS),
        (16, 45, IN_PART),
        (0.5, 0.2, IN_PART),
        (16, 0.5, FAILS),
    ],
)
def test_judge_ratio(claimed, found, verdict):
    assert ledger.judge_ratio(claimed, found) == verdict


@pytest.mark.parametrize(
    ("parts", "verdict"), [((True,), HOLDS), ((True, False), IN_PART), ((False, False), FAILS)]
)
def test_judge_parts(parts, verdict):
    assert ledger.judge_parts(*parts) == verdict


def test_a_claim_without_parts_cannot_be_judged():
    with pytest.raises(ValueError, match="at least one"):
        ledger.judge_parts()


@pytest.mark.parametrize(("M", "K", "N"), [(128, 128, 128), (1, 256, 512), (5, 64, 256)])
def test_the_formulas_are_the_kernels_counts(M, K, N):
    fmt = FORMATS["Q5_K"]
    cost = {name: KERNELS[name].cost(M, K, N, fmt, 1) for name in ("phase0_baseline", "phase1_naive_fused")}
    baseline, naive = cost.values()
    assert ledger.decoding_ratio(M, K, N) == naive.elements_decoded / baseline.elements_decoded
    encoded = fmt.row_bytes(K * N)
    assert ledger.flop_per_byte(M, fmt.bits_per_weight) == 2 * naive.multiply_adds / encoded
    assert ledger.tokens_per_second(K * N, fmt.bits_per_weight, encoded / 1e9) == pytest.approx(1)


def test_a_ledger_knows_what_is_missing_and_shows_what_is_there():
    book = Ledger()
    assert book.missing() == list(CLAIMS) and repr(book) == ""
    book.enter("range", IN_PART, "38 & <450>×")
    book.enter("hits", FAILS, "99.9 %")
    book.enter("hits", OPEN, "99.95 %")
    assert "range" not in book.missing() and len(book.missing()) == len(CLAIMS) - 2
    assert book.counts() == {HOLDS: 0, IN_PART: 1, FAILS: 0, OPEN: 1}
    page = book._repr_html_()
    assert (
        page.index("Executive Summary")
        < page.index("38 &amp; &lt;450&gt;×")
        < page.index("2. Fused Approach")
    )
    assert "99.9 %" not in page and "? cannot be tested here" in page and CLAIMS["hits"].how in page
    assert "Conclusion" not in page
    assert "◐ holds in part: fused implementations" in repr(book)


@pytest.mark.parametrize(
    ("key", "verdict", "message"), [("rang", HOLDS, "claim"), ("range", "true", "verdict")]
)
def test_unknown_claims_and_verdicts_are_refused(key, verdict, message):
    with pytest.raises(ValueError, match=message):
        Ledger().enter(key, verdict, "")


def test_verdicts_can_be_told_apart_without_colour():
    assert len({sign for sign, _ in VERDICTS.values()}) == len(VERDICTS) == 4


def test_a_row_that_is_a_string_spans_all_columns():
    page = ledger.html_table(["a", "b"], ["over <all>", ["<b>1</b>", "2"]])
    assert 'colspan="2"' in page and "over &lt;all&gt;" in page and "<b>1</b>" in page
