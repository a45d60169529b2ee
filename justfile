# Everything a person does here; CI runs `just ci`.

default:
    @just --list

# Format the code.
fmt:
    cargo fmt --all

# Lint everything.
check:
    cargo clippy --workspace --all-targets -- -D warnings

# Run the tests; `just test NAME` runs those whose name holds NAME.
test *NAME:
    cargo nextest run --workspace {{NAME}}

# Accept what the golden files and fixtures are now; read the diff afterwards.
golden:
    UPDATE_GOLDEN=1 TRYBUILD=overwrite cargo nextest run -p sandbox-macros -p sandbox-cli -p sandbox-tests golden good_programs

# Measure; writes tables for docs/benchmarks.md. `just bench bash` does one of them, with what it takes (`just bench bash 3 warm`).
bench NAME="http sessions streams control bytes bash caller apis" *ARGS:
    for bench in {{NAME}}; do cargo bench -p sandbox-tests --bench $bench -- {{ARGS}} || exit 1; done

# Try the shell's sandbox on a host with control groups of version 2 only, in a virtual machine.
cgroup2 *FILTER:
    scripts/cgroup2 {{FILTER}}

# Build and open the documentation.
docs:
    cargo doc --workspace --no-deps --open

# What CI runs.
ci:
    scripts/ci
