//! A call with bytes beside its JSON: the upload on its way to the parameters, and what a download lives on once the method
//! has returned.

#[cfg(feature = "server")]
mod sending;

use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::{Value, value::RawValue};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    bytes::{ByteStream, Lent, parse_with},
    error::Result,
    gate::Turn,
    session::Lease,
};

#[cfg(feature = "server")]
pub(crate) use sending::{Download, Ending, Pieces, STALL_LIMIT};

/// What one call hands over beside its JSON. Whoever waits for the call owns it: with them goes what it holds.
pub(crate) struct Transfer {
    upload: Mutex<Option<Lent>>,
    result: Mutex<Option<Streamed>>,
    kept: Mutex<Option<Kept>>,
    #[cfg(feature = "server")]
    ending: Mutex<Option<Ending>>,
}

/// The call's turn on its resource and its share of the resource's state; a download uses both until its end.
type Kept = (Turn, TaskTrackerToken);

/// A result that is sent as it is.
#[cfg_attr(not(feature = "server"), expect(dead_code, reason = "downloads go over HTTP"))]
struct Streamed {
    stream: ByteStream,
    // After the stream: what it is made of is gone before its session's cleanup starts.
    lease: Option<Arc<Lease>>,
    kept: Option<Kept>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is under the locks here is whole whenever a panic could come.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transfer {
    /// The typed parse of the call's parameters.
    pub(crate) fn parse<T: DeserializeOwned>(&self, params: &Value) -> Result<T> {
        parse_with(&mut locked(&self.upload), params)
    }

    /// Whether the call came to a stream that nobody has taken yet.
    pub(crate) fn has_download(&self) -> bool {
        locked(&self.result).is_some()
    }

    /// Takes a half of the turn for the download that may come of the call.
    pub(crate) fn keep(&self, turn: Turn, token: TaskTrackerToken) -> Turn {
        let (own, kept) = turn.share();
        *locked(&self.kept) = Some((kept, token));
        own
    }
}

/// What a call with a stream as its result is answered: `null`, where the stream itself is handed over, or the bytes in JSON.
///
/// # Errors
/// The stream's, and that it is too large for JSON.
pub(crate) async fn answer(
    transfer: Option<&Transfer>,
    stream: ByteStream,
    lease: Option<Arc<Lease>>,
) -> Result<Box<RawValue>> {
    let Some(transfer) = transfer else {
        // The lease stays until the last byte is there.
        let json = stream.into_json().await;
        drop(lease);
        return json;
    };
    let kept = locked(&transfer.kept).take();
    *locked(&transfer.result) = Some(Streamed { stream, lease, kept });
    Ok(RawValue::NULL.to_owned())
}
