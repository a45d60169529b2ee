//! The tools of a session, by what they work on.

mod jobs;
mod run;
