//! When a request is sent again, and how long that waits.

use std::time::Duration;

use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use tokio::time::Instant;

use crate::error::ClientError;

/// The first pause; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that the client chooses itself.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that a server may ask for.
const MAX_ASKED: Duration = Duration::from_mins(1);

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts {
    left: u32,
    made: u32,
    deadline: Instant,
    /// Whether an earlier attempt may have arrived.
    sent: bool,
    /// Whether one is on its way of which nothing is known yet; it stays so where nobody waited for it to the end.
    in_flight: bool,
}

impl Attempts {
    pub(crate) fn new(retries: u32, deadline: Instant) -> Self {
        Self { left: retries, made: 0, deadline, sent: false, in_flight: false }
    }

    /// How long the next attempt may take.
    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits before the next attempt; whether there is one.
    pub(crate) async fn another(&mut self, asked: Option<Duration>) -> bool {
        if self.left == 0 {
            return false;
        }
        let pause = asked.map_or_else(|| self.pause(), |asked| asked.min(MAX_ASKED) + jitter(asked.min(MAX_ASKED) / 2));
        if pause >= self.time_left() {
            return false;
        }
        self.left -= 1;
        self.made += 1;
        tokio::time::sleep(pause).await;
        true
    }

    /// Between half of the step and all of it: clients that were refused together do not come back together.
    fn pause(&self) -> Duration {
        let step = FIRST_PAUSE.saturating_mul(1 << self.made.min(10)).min(MAX_PAUSE);
        step / 2 + jitter(step / 2)
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self) {
        self.sent |= self.in_flight;
        self.in_flight = true;
    }

    /// The attempt is known to have come to nothing, or not to.
    pub(crate) fn learn(&mut self, arrived: bool) {
        self.in_flight = false;
        self.sent |= arrived;
    }

    /// Whether an attempt may have arrived, of those that are over.
    pub(crate) fn may_have_arrived(&self) -> bool {
        self.sent
    }

    /// Whether a connection that failed so is worth another attempt, given whether the request may arrive twice.
    pub(crate) fn after(&mut self, error: &ClientError, may_repeat: bool) -> bool {
        let ClientError::Connection { sent, .. } = error else {
            self.learn(true);
            return false;
        };
        self.learn(*sent);
        !sent || may_repeat
    }

    /// The error of the last attempt, with what the earlier ones may have done.
    pub(crate) fn give_up(&self, error: ClientError) -> ClientError {
        match error {
            ClientError::Connection { url, why, sent } => ClientError::Connection { url, why, sent: sent || self.sent },
            other => other,
        }
    }
}

fn jitter(most: Duration) -> Duration {
    most.mul_f64(fastrand::f64())
}

/// Whether an answer with this status says that something in the way was not able to, for now.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE)
}

/// When the server wants to be asked again, in seconds (RFC 9110, section 10.2.3); a date is not looked at.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Attempts, MAX_PAUSE};
    use crate::error::ClientError;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_with_the_attempts_or_the_time() {
        let mut attempts = Attempts::new(8, Instant::now() + Duration::from_hours(1));
        for step_ms in [100, 200, 400, 800, 1600, 3200, 5000] {
            let before = Instant::now();
            assert!(attempts.another(None).await);
            let pause = before.elapsed();
            let step = Duration::from_millis(step_ms).min(MAX_PAUSE);
            // The clock of tests has a tick of a millisecond.
            assert!(pause >= step / 2 && pause <= step + Duration::from_millis(2), "{pause:?} for {step:?}");
        }
        let before = Instant::now();
        assert!(attempts.another(Some(Duration::from_secs(7))).await);
        assert!((7..=11).contains(&before.elapsed().as_secs()), "not all at once");
        assert!(!attempts.another(None).await, "there were to be eight");
        let mut short = Attempts::new(8, Instant::now() + Duration::from_secs(3));
        assert!(!short.another(Some(Duration::from_secs(3))).await, "the time would be over");
    }

    #[test]
    fn what_may_have_arrived_is_sent_again_only_where_it_may_arrive_twice() {
        let broken = |sent| ClientError::Connection { url: String::new(), why: String::new(), sent };
        let mut attempts = Attempts::new(1, Instant::now());
        assert!(attempts.after(&broken(false), false) && !attempts.may_have_arrived());
        let mut dropped = Attempts::new(1, Instant::now());
        dropped.begin();
        dropped.begin();
        assert!(dropped.may_have_arrived(), "nobody waited for the first one");
        assert!(!attempts.after(&broken(true), false) && attempts.may_have_arrived());
        assert!(attempts.after(&broken(false), true), "another attempt");
        let error = attempts.give_up(broken(false));
        assert!(
            matches!(error, ClientError::Connection { sent: true, .. }),
            "what an earlier one did is not forgotten"
        );
        assert!(attempts.after(&broken(true), true) && !attempts.after(&ClientError::Closed, true));
    }
}
