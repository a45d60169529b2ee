//! The tools of a session, by what they work on.

mod code;
mod content;
mod edit;
mod files;
mod hunks;
mod jobs;
mod run;
mod search;
mod transfer;

pub use content::NewFile;
