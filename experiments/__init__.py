"""What is measured, tried and compared, beside the package."""

# Compiler options of what is not timed: compiling it takes longer than running it.
QUICK: dict[str, bool | int | str] = {"xla_backend_optimization_level": 0}
