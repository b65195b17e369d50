"""All tables: `make bench` or `python -m blocks2tokens.benchmarks`."""

from blocks2tokens.benchmarks import kernels, models
from blocks2tokens.course import roofline


def main() -> None:
    ceilings = roofline.measure()
    kernels.print_machine(ceilings)
    kernels.print_metadata()
    kernels.print_kernels(ceilings)
    kernels.print_phase0()
    kernels.print_formats(ceilings)
    kernels.print_errors()
    models.print_models(ceilings)
    kernels.print_report()


if __name__ == "__main__":
    main()
