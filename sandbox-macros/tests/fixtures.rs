//! Programs that must compile, and programs that must not, with what the compiler says about them.
//!
//! `TRYBUILD=overwrite cargo test -p sandbox-macros --test fixtures` accepts new messages; read them before.

#[test]
fn good_programs_compile_and_mistakes_are_explained() {
    // One run for both, so that what they need is built once.
    let fixtures = trybuild::TestCases::new();
    fixtures.pass("tests/pass/*.rs");
    fixtures.compile_fail("tests/ui/*.rs");
}
