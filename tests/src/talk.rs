//! Tools of `probe` that say what they do.

use std::time::Duration;

use sandbox_runtime::prelude::*;
use tokio::time::sleep;

use crate::probe::{Probe, Session};

#[tools]
impl Probe {
    /// Write lines of `line_bytes` each, then answer how many bytes that were.
    #[tool]
    async fn talk(
        &self,
        progress: &Progress,
        lines: u64,
        #[default = 16] line_bytes: usize,
        #[default = 0] pause_ms: u64,
    ) -> Result<u64> {
        let mut total = 0;
        for line in 0..lines {
            let text = numbered(line, line_bytes);
            progress.output("stdout", &text);
            total += text.len() as u64;
            if pause_ms > 0 {
                sleep(Duration::from_millis(pause_ms)).await;
            } else if line % 16 == 15 {
                tokio::task::yield_now().await;
            }
        }
        Ok(total)
    }

    /// Say how far it is.
    #[tool]
    async fn steps(&self, progress: &Progress, to: u64, #[default = 0] pause_ms: u64) -> Result<u64> {
        for done in 1..=to {
            progress.report(done, Some(to), "steps");
            if pause_ms > 0 {
                sleep(Duration::from_millis(pause_ms)).await;
            }
        }
        Ok(to)
    }

    /// Write bytes, given as numbers, one write for each list.
    #[tool]
    async fn write(&self, progress: &Progress, stream: String, chunks: Vec<Vec<u8>>) -> Result<()> {
        for chunk in chunks {
            progress.output(&stream, chunk);
        }
        Ok(())
    }

    /// Say that it begins, then wait for the token with the session, and say that it came.
    #[tool]
    async fn wait_for_token(
        &self,
        session: &mut Session,
        progress: &Progress,
        token: &CancellationToken,
    ) -> Result<String> {
        session.total += 1;
        progress.output("stdout", "begun");
        token.cancelled().await;
        progress.output("stdout", "told");
        Ok("told".into())
    }

    /// Fail after having said something.
    #[tool]
    async fn talk_and_fail(&self, progress: &Progress) -> Result<()> {
        progress.output("stderr", "oh");
        Err(ToolError::business("no"))
    }
}

/// A line that begins with its number.
fn numbered(line: u64, bytes: usize) -> String {
    let mut text = format!("{line:08} ");
    while text.len() + 1 < bytes {
        text.push('x');
    }
    text.push('\n');
    text
}
