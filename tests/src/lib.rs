//! End-to-end tests and benchmarks live beside this crate, in `e2e` and `benches`.
