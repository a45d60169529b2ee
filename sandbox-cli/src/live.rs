//! What a tool says while it runs, on standard error: its output as it comes, its progress as a bar below that.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write},
    time::{Duration, Instant},
};

use anstyle::Style;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sandbox_client::{
    ClientError, RunEvent, RunStream,
    types::{Envelope, EventSource, OutputEncoding, OutputEvent, ProgressEvent},
};

use crate::{
    args,
    plain::{Plain, plain},
};

const DIM: Style = Style::new().dimmed();
const PLAIN: Style = Style::new();

/// A line that does not end is shown in pieces of this size above a bar.
const MAX_HELD_BYTES: usize = 8 * 1024;

/// How often a program is told how far a tool is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Shows the events of a run.
pub(crate) struct Live {
    to: To,
    /// From the first progress on.
    bar: Option<ProgressBar>,
    /// By action of a batch and name.
    outputs: BTreeMap<(Option<u32>, String), Output>,
    /// Whether the cursor is behind text.
    mid_line: bool,
    /// When a program was last told of progress.
    told: Option<Instant>,
}

/// Where to, and so in which form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// Nothing is shown.
    Nobody,
    /// The bytes as they are.
    Program,
    /// What cannot drive a terminal; with colours and a bar.
    Terminal,
}

#[derive(Default)]
struct Output {
    plain: Plain,
    /// What was said of a line that has not ended, where lines are printed above a bar.
    held: String,
}

/// Reads a stream to its end, and shows what it says; none when its last event was known already.
///
/// Nothing is lost if this is dropped while it waits.
///
/// # Errors
/// The stream broke.
pub(crate) async fn watch(stream: &mut RunStream, live: &mut Live) -> Result<Option<Envelope>, ClientError> {
    while let Some(event) = stream.next().await? {
        match event {
            RunEvent::End(answer) => return Ok(Some(*answer)),
            event => live.show(&event),
        }
    }
    Ok(None)
}

impl Live {
    pub(crate) fn new(args: &args::Live) -> Self {
        let to = match io::stderr().is_terminal() {
            _ if args.quiet => To::Nobody,
            true => To::Terminal,
            false if args.live => To::Program,
            false => To::Nobody,
        };
        Self { to, bar: None, outputs: BTreeMap::new(), mid_line: false, told: None }
    }

    /// Shows an event; what cannot be written is left out.
    pub(crate) fn show(&mut self, event: &RunEvent) {
        if self.to == To::Nobody {
            return;
        }
        match event {
            RunEvent::Output(output) => self.output(output),
            RunEvent::Progress(progress) if self.to == To::Terminal => self.progress(progress),
            RunEvent::Progress(progress) => self.tell(progress),
            RunEvent::Item(item) if item.answer.success => self.note(&format!("action {} succeeded", item.index)),
            RunEvent::Item(item) => {
                let text = format!("action {} failed: {}: {}", item.index, item.answer.code, item.answer.message);
                self.note(&text);
            }
            RunEvent::Gap(gap) => {
                let text =
                    format!("events {} to {} are no longer kept, and what they said is missing", gap.from, gap.to);
                self.note(&text);
            }
            _ => {}
        }
    }

    /// Says something of this command's own, also where nothing else is shown.
    pub(crate) fn say(&mut self, text: &str) {
        self.lines(&format!("{text}\n"), PLAIN);
    }

    fn note(&mut self, text: &str) {
        self.lines(&format!("{}\n", plain(text)), DIM);
    }

    fn output(&mut self, event: &OutputEvent<'_>) {
        let decoded = event.encoding.map(|OutputEncoding::Base64| BASE64_STANDARD.decode(&*event.data));
        let bytes = match &decoded {
            None => event.data.as_bytes(),
            Some(decoded) => decoded.as_deref().unwrap_or_default(),
        };
        if self.to == To::Program {
            write(io::stderr().lock(), bytes);
            self.mid_line = bytes.last().map_or(self.mid_line, |last| *last != b'\n');
            return;
        }
        let style = if event.stream == "stdout" { PLAIN } else { DIM };
        let output = self.outputs.entry((event.from.index, event.stream.clone().into_owned())).or_default();
        let text = output.plain.next(&String::from_utf8_lossy(bytes));
        if self.bar.is_none() {
            self.mid_line = text.chars().last().map_or(self.mid_line, |last| last != '\n');
            paint(&text, style);
            return;
        }
        output.held.push_str(&text);
        let end = match output.held.rfind('\n') {
            Some(end) => end + 1,
            None if output.held.len() > MAX_HELD_BYTES => {
                output.held.push('\n');
                output.held.len()
            }
            None => return,
        };
        let lines: String = output.held.drain(..end).collect();
        self.lines(&lines, style);
    }

    /// Progress as a line, where there is no bar: not more often than is of use, but the end in any case.
    fn tell(&mut self, event: &ProgressEvent<'_>) {
        let over = event.total == Some(event.done);
        if !over && self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let total = event.total.map_or_else(String::new, |total| format!("/{total}"));
        let message = event.message.as_deref().map_or_else(String::new, |message| format!(" {message}"));
        self.note(&format!("{}{total}{message}", event.done));
    }

    fn progress(&mut self, event: &ProgressEvent<'_>) {
        let first = self.bar.is_none();
        if first {
            self.end_line();
        }
        let bar = self.bar.get_or_insert_with(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        if first || bar.length() != event.total {
            let template = match event.total {
                Some(_) => "[{bar:30}] {pos}/{len} {wide_msg}",
                None => "{spinner} {pos} {wide_msg}",
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            match event.total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
        }
        bar.set_message(label(&event.from, event.message.as_deref().unwrap_or_default()));
        bar.set_position(event.done);
    }

    /// Prints whole lines above the bar.
    fn lines(&mut self, text: &str, style: Style) {
        match &self.bar {
            Some(bar) => bar.suspend(|| paint(text, style)),
            None => {
                self.end_line();
                paint(text, style);
            }
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.mid_line) {
            write(io::stderr().lock(), b"\n");
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        for ((_, stream), output) in std::mem::take(&mut self.outputs) {
            if !output.held.is_empty() {
                paint(&format!("{}\n", output.held), if stream == "stdout" { PLAIN } else { DIM });
            }
        }
        // What comes next begins a line.
        self.end_line();
    }
}

/// Whose progress it is, where that is not plain, and what is being done.
fn label(from: &EventSource<'_>, message: &str) -> String {
    let mut label = String::new();
    if let Some(index) = from.index {
        let _ = write!(label, "action {index} ");
    }
    if let Some(tool) = &from.tool {
        let _ = write!(label, "{tool} ");
    }
    // The bar is one line.
    let message = plain(message).replace(['\n', '\r', '\t'], " ");
    label + &message
}

fn paint(text: &str, style: Style) {
    write(anstream::stderr().lock(), format!("{style}{text}{style:#}").as_bytes());
}

fn write(mut stderr: impl Write, bytes: &[u8]) {
    // Nowhere is left to say that it failed.
    let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
}
