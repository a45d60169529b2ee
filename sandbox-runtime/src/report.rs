//! What a tool says while it runs, and where that goes.

use std::sync::Arc;

use sandbox_types::{ItemEvent, WaitingFor};

use crate::{
    answer::Answer,
    context::{Inject, ToolContext},
    error::Result,
    events::{Source, written},
    registry::ToolEntry,
    run::Run,
};

/// Where a call reports to: the run of the request that it belongs to.
#[derive(Clone)]
pub(crate) struct Reports {
    pub(crate) run: Arc<Run>,
    /// Index of the action of a batch.
    pub(crate) index: Option<u32>,
    /// The tool, if another tool called it.
    pub(crate) nested: Option<Arc<ToolEntry>>,
}

impl Reports {
    /// Of the call that was asked for.
    pub(crate) fn of(run: Arc<Run>) -> Self {
        Self { run, index: None, nested: None }
    }

    /// Of one action of a batch.
    pub(crate) fn of_action(run: &Arc<Run>, index: usize) -> Self {
        Self { run: run.clone(), index: u32::try_from(index).ok(), nested: None }
    }

    /// Of a tool that this one calls.
    pub(crate) fn of_nested(&self, tool: &Arc<ToolEntry>) -> Self {
        Self { nested: Some(tool.clone()), ..self.clone() }
    }

    /// The run, if this is the call that it consists of.
    pub(crate) fn whole(&self) -> Option<&Arc<Run>> {
        (self.index.is_none() && self.nested.is_none()).then_some(&self.run)
    }

    /// The call waits before its tool is entered.
    pub(crate) fn waits_for(&self, what: WaitingFor) {
        if let Some(run) = self.whole() {
            run.waits_for(what);
        }
    }

    fn source(&self) -> Source<'_> {
        Source { index: self.index, tool: self.nested.as_ref().map(|tool| tool.full_name.as_str()) }
    }

    /// One action of a batch is over.
    pub(crate) fn item(&self, answer: &Answer) {
        let Some(index) = self.index else { return };
        let recording = self.run.events().is_recording();
        let data = recording.then(|| written(&ItemEvent { index, answer }));
        self.run.report(|events| {
            events.end_outputs(Some(index));
            events.item(index, data);
        });
    }
}

/// Reports what a call does while it runs, to whoever listens: the events of its stream.
///
/// Without a listener it costs next to nothing, and a slow one never slows the tool: what is not read in time is lost to
/// it, and it is told so.
///
/// ```
/// # use sandbox_runtime::prelude::*;
/// # async fn step(_: u64) -> Vec<u8> { Vec::new() }
/// # async fn tool(progress: &Progress) {
/// for done in 0..10 {
///     progress.output("stdout", step(done).await);
///     progress.report(done + 1, Some(10), "steps");
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Progress {
    reports: Option<Reports>,
}

impl Progress {
    /// `done` of `total` units are done; `message` may be empty.
    ///
    /// Of reports that follow each other unread, the last one counts.
    pub fn report(&self, done: u64, total: Option<u64>, message: &str) {
        if let Some(reports) = &self.reports {
            reports.run.report(|events| events.progress(reports.source(), done, total, message));
        }
    }

    /// Bytes that came on an output named `stream`, such as `stdout`, in their order; all of them arrive, or a gap is told.
    ///
    /// Text in UTF-8 travels as text, also when a character is cut by the end of `data`; what is none as base64.
    pub fn output(&self, stream: &str, data: impl AsRef<[u8]>) {
        /// Written with the events locked, so not for long at a time.
        const AT_ONCE_BYTES: usize = 256 * 1024;
        if let Some(reports) = &self.reports {
            for data in data.as_ref().chunks(AT_ONCE_BYTES) {
                reports.run.report(|events| events.output(reports.source(), stream, data));
            }
        }
    }
}

impl Inject for Progress {
    fn inject(context: &ToolContext) -> Result<Self> {
        Ok(Self { reports: context.inner().reports.clone() })
    }
}
