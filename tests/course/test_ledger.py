"""The ledger: its rows, its rules, its formulas against the kernels' counts, what it shows and keeps."""

import json
import re

import pytest

from blocks2tokens.course import ledger, work
from blocks2tokens.course.claims import (
    AT_1,
    AT_128,
    FAILS,
    HOLDS,
    OPINION,
    UNTESTED,
    VERDICTS,
    Claim,
    about,
    at_least,
    at_most,
    judge_ratio,
    outcome,
    verdict,
)
from blocks2tokens.course.ledger import Ledger
from blocks2tokens.course.report_claims import CLAIMS, KNOWN, MEASURED, SECTIONS
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels import KERNELS


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch):
    monkeypatch.setattr(ledger, "_SESSION", {})
    monkeypatch.setattr(work, "folder", lambda: None)


def measured_in(lesson):
    """Return a value for each figure of a lesson."""
    return {figure: 1.0 + n for n, figure in enumerate(MEASURED[lesson])}


# The rows


def test_rows_are_numbered_by_section_and_order():
    expected = []
    for section in SECTIONS:
        count = sum(number.split(".")[0] == section for number in CLAIMS)
        expected += [f"{section}.{n}" for n in range(1, count + 1)]
    assert list(CLAIMS) == expected and len(expected) > 80


def test_quotations_are_short():
    for number, claim in CLAIMS.items():
        assert 0 < len(claim.quote.split()) <= 12, number
        assert claim.reason and claim.quote not in [c.quote for n, c in CLAIMS.items() if n != number], number


def test_all_figures_are_known_or_measured_and_each_is_used():
    measured = {figure for figures in MEASURED.values() for figure in figures}
    used = {figure for claim in CLAIMS.values() for figure in claim.figures}
    assert used == measured | set(KNOWN) and not measured & set(KNOWN)


@pytest.mark.parametrize("number", CLAIMS)
def test_the_lesson_that_closes_a_row_measures_what_decides(number):
    claim = CLAIMS[number]
    tested = {test.figure for test in (*claim.at_128, *claim.at_1, *claim.go)} - set(KNOWN)
    assert tested <= set(MEASURED.get(claim.closes, {}))
    ways = [bool(claim.same_as), claim.opinion, bool(claim.figures), int(claim.closes) > 22]
    assert any(ways), "nothing decides about it, and no lesson is to come"
    assert claim.same_as is None or CLAIMS[claim.same_as].closes == claim.closes


def test_what_the_program_run_again_says():
    """Phases 1 and 3a as the report has them; 2 and 3b had 16 threads there."""
    figures = {name: known.value for name, known in KNOWN.items()}
    found = {number: outcome(CLAIMS[number].go, figures) for number in ("S2.4", "S2.6", "S2.8", "S2.10")}
    assert list(found.values()) == [True, False, True, False]


def test_inference_is_judged_by_one_row_though_128_rows_say_otherwise():
    rows = {"128 rows": 12.0, "1 row": 0.4}
    ledger.enter(
        "14", {f"FLOP for each byte over what the machine balances, {row}": f for row, f in rows.items()}
    )
    (line,) = repr(ledger.show("14", {}, "S3")).splitlines()
    assert "Compute-bound" in line and "does not hold" in line and "✓ ✗ –" in line


# The rules

CASES = {"many": 4.0, "one": 0.5, "go": 2.0}
YES, NO = at_least("many", 1), at_most("many", 1)
YES_1, NO_1 = at_most("one", 1), at_least("one", 1)


@pytest.mark.parametrize(
    ("claim", "word"),
    [
        ({"at_128": YES}, HOLDS),
        ({"at_128": NO}, FAILS),
        ({"at_1": YES_1}, HOLDS),
        ({"at_1": NO_1}, FAILS),
        ({"at_128": YES, "at_1": YES_1}, HOLDS),
        ({"at_128": YES, "at_1": NO_1}, AT_128),
        ({"at_128": NO, "at_1": YES_1}, AT_1),
        ({"at_128": NO, "at_1": NO_1}, FAILS),
        ({"at_128": YES, "at_1": NO_1, "inference": True}, FAILS),
        ({"at_128": YES, "at_1": about("to come", 1)}, UNTESTED),
        ({"at_128": NO + about("to come", 1)}, FAILS),
        ({"go": about("go", 3), "at_1": YES_1}, HOLDS),
        ({"go": about("go", 4), "at_1": YES_1}, AT_1),
        ({"at_128": YES, "go": about("go", 4)}, HOLDS),
        ({}, UNTESTED),
        ({"opinion": True}, OPINION),
    ],
)
def test_verdicts(claim, word):
    assert verdict(Claim("", "13", "", **claim), CASES) == word


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ((120, 105, 90), HOLDS),
        ((3, 2, 2), HOLDS),
        ((120, 105, 2), AT_128),
        ((16, 53, 20), AT_1),
        ((2, 0.5, 20), FAILS),
    ],
)
def test_judge_ratio(given, word):
    assert judge_ratio(*given) == word


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_figure_that_is_no_factor_is_about_nothing(value):
    assert not about("x", 2)[0].holds(value)


@pytest.mark.parametrize(("M", "K", "N"), [(128, 128, 128), (1, 256, 512), (5, 64, 256)])
def test_the_formulas_are_the_kernels_counts(M, K, N):
    fmt = FORMATS["Q5_K"]
    cost = {name: KERNELS[name].cost(M, K, N, fmt, 1) for name in ("phase0_baseline", "phase1_naive_fused")}
    baseline, naive = cost.values()
    assert ledger.decoding_ratio(M, K, N) == naive.elements_decoded / baseline.elements_decoded
    encoded = fmt.row_bytes(K * N)
    assert ledger.flop_per_byte(M, fmt.bits_per_weight) == 2 * naive.multiply_adds / encoded
    assert ledger.tokens_per_second(K * N, fmt.bits_per_weight, encoded / 1e9) == pytest.approx(1)


def test_counts_that_need_no_machine_are_the_kernels_counts():
    cost = {
        name: KERNELS[name].cost(128, 128, 128, FORMATS["Q5_K"], 16) for name in KERNELS if "phase" in name
    }
    cached, column = cost["phase3a_block_cache"], cost["phase3b_column_major"]
    assert KNOWN["Phase 1's decodes"].value == cost["phase1_naive_fused"].elements_decoded
    assert cost["phase2_optimized_fused"].elements_decoded == cost["phase1_naive_fused"].elements_decoded
    assert KNOWN["hits of Phase 3a"].value == pytest.approx(1 - cached.blocks_decoded / cached.lookups)
    assert KNOWN["decodes of each block in Phase 3b"].value == column.blocks_decoded / 64


# Showing


@pytest.mark.parametrize("lesson", MEASURED)
def test_a_lesson_shows_its_rows(lesson):
    shown = ledger.show(lesson, measured_in(lesson))
    said = shown.verdicts()
    assert list(said) == ledger.rows_of(lesson)
    closed = [word for number, word in said.items() if CLAIMS[number].closes == lesson]
    assert not any(word.startswith(UNTESTED) for word in closed) or lesson == "32"
    adds = ("25", "29", "31", "32")  # figures for rows that other lessons close, or all rows
    assert closed or lesson in adds
    assert sum(shown.counts().values()) == len(said)
    page = shown._repr_html_()
    assert all(f"<b>{number}</b>" in page for number in said)
    assert page.count("<tr>") == 1 + len(said) + len({number.split(".")[0] for number in said})
    assert len(repr(shown).splitlines()) == len(said)


def test_lesson_13_opens_all_rows_and_says_where_they_close():
    assert ledger.rows_of("13") == ledger.rows_of("32") == list(CLAIMS)
    said = ledger.show("13", measured_in("13")).verdicts()
    for number, word in said.items():
        decider = CLAIMS[CLAIMS[number].same_as or number]
        late = word == f"{UNTESTED}: lesson {decider.closes}"
        assert late == (decider.closes != "13" and word != FAILS), number


def test_some_sections():
    assert {n.split(".")[0] for n in ledger.show("13", {}, "S4", "S2").numbers} == {"S2", "S4"}


def test_what_says_the_same_gets_the_same_verdict():
    said = ledger.show("13", measured_in("13")).verdicts()
    assert {n for n, c in CLAIMS.items() if c.same_as} >= {"S3.1", "S9.1"}
    assert all(said[n] == said[c.same_as] for n, c in CLAIMS.items() if c.same_as)


def test_figures_stand_in_the_table_with_what_they_would_have_to_be():
    page = ledger.show("22", {"time inside matmul": 0.934}, "S7")._repr_html_()
    assert "<b>93.4 %</b> time inside matmul (at most 50 %?)" in page and "95 %" in page


@pytest.mark.parametrize(
    ("lesson", "measured", "message"),
    [
        ("99", {}, "lesson: expected one of 13"),
        ("14", {"time inside matmul": 0.5}, "figure of lesson 14: expected one of"),
        ("22", {"time inside matmul": float("nan")}, "expected a finite number"),
    ],
)
def test_what_no_row_knows_is_refused(lesson, measured, message):
    with pytest.raises(ValueError, match=message):
        ledger.enter(lesson, measured)


def test_an_unknown_section_is_refused():
    with pytest.raises(ValueError, match="section: expected one of S1"):
        ledger.show("13", {}, "S10")


def test_verdicts_can_be_told_apart_without_colour():
    assert set(ledger.SIGNS) == set(VERDICTS)
    assert len({sign for sign, _ in ledger.SIGNS.values()}) == len(VERDICTS)


def test_a_row_that_is_a_string_spans_all_columns():
    page = ledger.html_table(["a", "b"], ["over <all>", ["<b>1</b>", "2"]])
    assert 'colspan="2"' in page and "over &lt;all&gt;" in page and "<b>1</b>" in page


# Keeping


def test_nothing_is_written_outside_of_the_learners_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger.show("22", {"time inside matmul": 0.9})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "folder", lambda: tmp_path)
    return tmp_path


def test_figures_are_kept_for_later_lessons(folder, monkeypatch):
    ledger.enter("14", {"one stream of a 14B here": 3.0})
    ledger.enter("22", {"time inside matmul": 0.9})
    ledger.enter("22", {"time inside matmul": 0.8})
    monkeypatch.setattr(ledger, "_SESSION", {})  # another session
    rows = json.loads((folder / ledger.KEPT).read_text())
    assert {(row["lesson"], row["figure"], row["value"]) for row in rows} == {
        ("14", "one stream of a 14B here", 3.0),
        ("22", "time inside matmul", 0.8),
    }
    assert all(row["cpu"] and re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]) for row in rows)
    assert ledger.show("32").verdicts()["S7.1"] == FAILS
    assert [path.name for path in folder.iterdir()] == [ledger.KEPT]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, {}]",
        '{"lesson": "22"}',
        '[{"lesson": "22", "figure": "gone", "value": 1, "cpu": "", "date": ""}]',
        '[{"lesson": "99", "figure": "time inside matmul", "value": 1, "cpu": "", "date": ""}]',
        '[{"lesson": "22", "figure": "time inside matmul", "value": "1", "cpu": "", "date": ""}]',
        '[{"lesson": ["22"], "figure": "time inside matmul", "value": 1, "cpu": "", "date": ""}]',
    ],
)
def test_what_is_damaged_is_left_out(folder, text):
    (folder / ledger.KEPT).write_text(text)
    assert ledger.evidence() == {}
    ledger.enter("22", {"time inside matmul": 0.9})
    assert list(ledger.evidence()) == ["time inside matmul"]


def test_a_folder_that_cannot_be_written_does_not_end_the_lesson(folder, monkeypatch):
    monkeypatch.setattr(work, "folder", lambda: folder / "gone")
    assert ledger.show("22", {"time inside matmul": 0.9}).verdicts()["S7.1"] == FAILS


def test_a_ledger_without_evidence_is_open():
    counts = Ledger(CLAIMS, {}).counts()
    assert counts[UNTESTED] > 40 and counts[OPINION] == 1
