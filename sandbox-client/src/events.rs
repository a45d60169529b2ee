//! The events of a run.

use sandbox_types::{Envelope, GapEvent, ItemEvent, OutputEvent, ProgressEvent, StartEvent};

use crate::sse::Message;

/// One event of a run; its id is [`RunStream::last_event_id`](crate::RunStream::last_event_id) once it was read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RunEvent {
    /// The run began; the first one of a stream that is read from its beginning.
    Start(StartEvent),
    /// A tool has written something.
    Output(OutputEvent<'static>),
    /// A tool says how far it is.
    Progress(ProgressEvent<'static>),
    /// An action of a batch has ended.
    Item(Box<ItemEvent>),
    /// Events are missing: they are no longer kept.
    Gap(GapEvent),
    /// The run is over, and this is its answer; the last one.
    End(Box<Envelope>),
}

impl RunEvent {
    /// The event in a message; none for one that this version does not know.
    ///
    /// # Errors
    /// Its data is not what its name says.
    pub(crate) fn parse(message: &Message) -> serde_json::Result<Option<Self>> {
        let data = &message.data;
        Ok(Some(match message.name.as_str() {
            "start" => Self::Start(serde_json::from_str(data)?),
            "output" => Self::Output(serde_json::from_str(data)?),
            "progress" => Self::Progress(serde_json::from_str(data)?),
            "item" => Self::Item(serde_json::from_str(data)?),
            "gap" => Self::Gap(serde_json::from_str(data)?),
            "result" | "error" => Self::End(serde_json::from_str(data)?),
            _ => return Ok(None),
        }))
    }
}
