"""llvm-mca is asked for each CPU of the table; where it is missing, the table says so."""

import pytest

from blocks2tokens.course import cycles
from blocks2tokens.kernels import listing


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A stand-in that takes a cycle for each instruction of each turn, and knows all CPUs but one."""
    tool = tmp_path / "llvm-mca"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$*" in *znver5*) exit 1;; esac\n'
        "n=$(wc -l)\n"
        f'echo "Total Cycles:      $(( (n + 1) * {cycles.TURNS} ))"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setattr(cycles, "tool", lambda: str(tool))
    cycles.knows.cache_clear()
    yield
    cycles.knows.cache_clear()


def test_cycles_are_those_of_256_weights(model):
    instructions = len(listing.loop_of("Q4_0", "skylake"))
    assert cycles.cycles("Q4_0", "skylake") == pytest.approx(listing.per_256("Q4_0", "skylake", instructions))
    assert cycles.speed("Q4_0", 48.0) == pytest.approx(144 / 48 * cycles.CLOCK)


def test_a_cpu_without_a_model_is_left_out(model, monkeypatch, capsys):
    monkeypatch.setattr(cycles, "PACKED", {"Q4_0": None})
    cycles.print_cycles()
    out = capsys.readouterr().out
    assert "znver4" in out and "apple-m1" in out and "znver5" not in out


def test_the_model_of_an_arm_cpu_has_the_instructions_of_its_set():
    assert cycles.of("apple-m2")[-1] == "-mattr=+dotprod,+i8mm"
    assert cycles.of("alderlake") == [f"-mtriple={listing.X86}", "-mcpu=alderlake"]


def test_a_missing_tool_is_said(monkeypatch, capsys):
    monkeypatch.setattr(cycles, "tool", lambda: None)
    cycles.knows.cache_clear()
    cycles.print_cycles()
    assert "not installed" in capsys.readouterr().out and not cycles.knows("haswell")
    cycles.knows.cache_clear()
