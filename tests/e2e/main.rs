//! The one integration binary: every test talks to a server process of its own over HTTP.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on has failed, and shows the log")]

mod bytes;
mod events;
mod harness;
mod postgres;
mod site;

mod admission;
mod autostart;
mod batch;
mod cli;
mod cli_runs;
mod client;
mod control;
mod data;
mod doc;
mod docs;
mod downloads;
mod facade;
mod golden;
mod idempotency;
mod limits;
mod nesting;
mod older;
mod protocol;
mod runs;
mod scaffold;
mod sessions;
mod shell;
mod shell_code;
mod shell_files;
mod shell_hostile;
mod shell_jobs;
mod shell_life;
mod shutdown;
mod sql;
mod streams;
mod uploads;
mod web_search;
mod web_visit;
