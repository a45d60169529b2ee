//! Calls the linked backends without HTTP, for tests: a clock of the test's own, faults on request, and what became of the
//! sessions. Behind the feature `testing`.
//!
//! ```standalone_crate
//! use sandbox_runtime::{prelude::*, testing::Harness};
//! use serde_json::json;
//!
//! #[derive(Default)]
//! struct Counter;
//!
//! /// Counts.
//! #[backend(name = "counter")]
//! impl Counter {
//!     async fn initialize(&self) -> Result<u64> {
//!         Ok(0)
//!     }
//!
//!     /// Add to the counter.
//!     #[tool]
//!     async fn add(&self, total: &mut u64, #[default = 1] by: u64) -> Result<u64> {
//!         *total += by;
//!         Ok(*total)
//!     }
//! }
//!
//! let harness = Harness::builder().resource("counter", json!({})).virtual_clock().start();
//! let agent = harness.worker("agent-7");
//! agent.create("counter", json!({})).unwrap();
//! agent.call("counter:add", json!({})).unwrap();
//! assert_eq!(agent.call("counter:add", json!({ "by": 4 })).unwrap(), 5);
//!
//! // Five minutes later the session is gone, and its worker is told.
//! harness.advance(std::time::Duration::from_secs(301));
//! let error = agent.call("counter:add", json!({})).unwrap_err();
//! assert_eq!(error.body().reason.as_deref(), Some("expired"));
//! assert_eq!(harness.ended(), [("counter".to_owned(), EndReason::Expired)]);
//! ```

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use sandbox_types::{CreateSession, CreatedSession, DestroySession, ErrorCode, ExecuteRequest, SessionMode, WorkerId};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
};

use crate::{
    answer::Answer,
    config::{FileFormat, Loader},
    error::{Result, ToolError},
    executor::ToolExecutor,
    host::assemble,
    linked::Linked,
    session::EndReason,
};

mod faults;

use faults::Faults;
pub use faults::{Fault, Point};

/// How long, on the clock of the world, something may take before the test is told that it hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the end of a harness may take on the clock of the world: a fault may hang for ever.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How often tasks get a turn before it is said that they have nothing to do.
const TURNS: usize = 64;
/// The most steps in which a virtual clock goes on.
const MAX_STEPS: u32 = 1_000;

/// What a [`Harness`] is made of.
#[derive(Default)]
#[must_use]
pub struct HarnessBuilder {
    resources: Map<String, Value>,
    apis: Map<String, Value>,
    server: Map<String, Value>,
    virtual_clock: bool,
}

impl HarnessBuilder {
    /// A resource, and what its section of a configuration file says: `config`, `session_ttl`, `max_sessions` ..
    pub fn resource(mut self, name: &str, section: Value) -> Self {
        self.resources.insert(name.to_owned(), section);
        self
    }

    /// A section of `apis`, which switches tools with that configuration on.
    pub fn api(mut self, name: &str, section: Value) -> Self {
        self.apis.insert(name.to_owned(), section);
        self
    }

    /// A key of the section `server`, such as `default_timeout_seconds`.
    pub fn server(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.server.insert(key.to_owned(), value.into());
        self
    }

    /// A clock that stands still until [`Harness::advance`], so that times to live, time limits and pauses pass when the test
    /// says so. It is the clock of `tokio::time`; what waits for the world, such as a process or a socket, is not affected.
    pub fn virtual_clock(mut self) -> Self {
        self.virtual_clock = true;
        self
    }

    /// The harness; resources start on their first use.
    ///
    /// # Panics
    /// The configuration is wrong: every fault of it is named. Or it is called within a runtime, as of `#[tokio::test]`.
    #[expect(clippy::panic, clippy::expect_used, reason = "a test without its harness has failed")]
    pub fn start(self) -> Harness {
        let mut linked = Linked::discover();
        let faults = Arc::new(Faults::default());
        linked.wrap(|backend| faults::wrap(backend, &faults));
        let within = "a harness has a runtime of its own: expected a plain `#[test]`, found one within a runtime";
        assert!(tokio::runtime::Handle::try_current().is_err(), "{within}");
        let Self { resources, apis, server, virtual_clock } = self;
        let document = json!({ "server": server, "resources": resources, "apis": apis }).to_string();
        let config = match Loader::new(&linked).text(document, FileFormat::Json).load() {
            Ok(loaded) => loaded.config,
            Err(errors) => panic!("the configuration is wrong: {errors}"),
        };
        let runtime = if virtual_clock {
            Builder::new_current_thread().enable_all().start_paused(true).build()
        } else {
            Builder::new_multi_thread().worker_threads(2).enable_all().build()
        };
        let runtime = runtime.expect("the system has threads");
        // The clock would jump to the next timer whenever every task waits, also for the world; not while this thread is busy.
        let hold_clock = virtual_clock.then(|| {
            let (hold, released) = mpsc::channel::<()>();
            runtime.spawn_blocking(move || {
                let _ = released.recv();
            });
            hold
        });
        let executor = match runtime.block_on(async { assemble(&config, &linked, runtime.handle().clone()) }) {
            Ok(executor) => executor,
            Err(error) => panic!("the backends cannot be put together: {error}"),
        };
        Harness { runtime: Some(runtime), executor, faults, hold_clock }
    }
}

/// The linked backends under a configuration, ready to be called.
///
/// Dropped, it ends every session and resource as a server does.
pub struct Harness {
    /// Until the drop.
    runtime: Option<Runtime>,
    executor: Arc<ToolExecutor>,
    faults: Arc<Faults>,
    /// Holds a virtual clock.
    hold_clock: Option<mpsc::Sender<()>>,
}

impl Harness {
    /// What a harness is made of.
    pub fn builder() -> HarnessBuilder {
        HarnessBuilder::default()
    }

    /// Somebody who calls.
    ///
    /// # Panics
    /// The name is no worker id.
    #[expect(clippy::expect_used, reason = "a test that names nobody has failed")]
    pub fn worker(&self, name: &str) -> Worker<'_> {
        let id = WorkerId::parse(name).expect("a worker id");
        Worker { harness: self, id, session: None, mode: SessionMode::Auto, timeout: None }
    }

    /// Lets time pass on a virtual clock, in steps, so that what comes due on the way happens on the way.
    ///
    /// # Panics
    /// The clock is that of the world.
    pub fn advance(&self, time: Duration) {
        assert!(self.hold_clock.is_some(), "expected a harness with `virtual_clock()`");
        let steps = u32::try_from(time.as_millis() / 10).unwrap_or(MAX_STEPS).clamp(1, MAX_STEPS);
        self.run(async move {
            for _ in 0..steps {
                settle().await;
                tokio::time::advance(time / steps).await;
            }
            settle().await;
        });
    }

    /// Waits until no task has anything to do but to wait: a cleanup that goes on behind has come as far as it can.
    pub fn settle(&self) {
        if self.hold_clock.is_some() {
            self.run(settle());
        } else {
            // Tasks run on threads of their own; sessions under cleanup count until they are gone.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// From now on something fails when a call or a hook comes to a point, so many times.
    pub fn inject(&self, point: Point, fault: Fault, times: usize) {
        self.faults.inject(point, fault, times);
    }

    /// How often the lifecycle came to a point, or a tool was called.
    pub fn count(&self, point: &Point) -> usize {
        self.faults.count(point)
    }

    /// Sessions that exist now, those under cleanup included.
    pub fn sessions(&self) -> usize {
        self.executor.resources().iter().map(|resource| resource.sessions).sum()
    }

    /// The sessions that have ended, in the order of their cleanups: resource, and why. On the clock of the world cleanups
    /// take their time: [`expect_sessions`](Self::expect_sessions) waits for them.
    pub fn ended(&self) -> Vec<(String, EndReason)> {
        self.settle();
        self.faults.ended()
    }

    /// Waits until so many sessions exist, those under cleanup included.
    ///
    /// # Panics
    /// There are more, or fewer, and it stays so.
    pub fn expect_sessions(&self, expected: usize) {
        let until = std::time::Instant::now() + PATIENCE;
        while self.sessions() != expected && std::time::Instant::now() < until && self.hold_clock.is_none() {
            self.settle();
        }
        self.settle();
        assert_eq!(self.sessions(), expected, "sessions, those under cleanup included");
    }

    /// Runs a future of the test's own beside the calls, within the runtime.
    ///
    /// # Panics
    /// It does not come to an end.
    #[expect(clippy::panic, clippy::unwrap_used, reason = "a test that hangs has failed")]
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let (ended, is_ended) = mpsc::channel::<()>();
        let (late, is_late) = oneshot::channel();
        // Not a timer of the runtime: its clock may stand still.
        let clock = std::thread::spawn(move || {
            if is_ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = late.send(());
            }
        });
        let runtime = self.runtime.as_ref().unwrap();
        let done = runtime.block_on(async {
            tokio::select! {
                done = future => Some(done),
                Ok(()) = is_late => None,
            }
        });
        drop(ended);
        let _ = clock.join();
        let held =
            if self.hold_clock.is_some() { "; it may wait for the clock: `begin` it, and `advance`" } else { "" };
        done.unwrap_or_else(|| panic!("it has not ended after {} s{held}", PATIENCE.as_secs()))
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        // Cleanups that wait for time get it.
        let limit = if self.hold_clock.take().is_some() { Duration::from_mins(5) } else { END_LIMIT };
        let Some(runtime) = self.runtime.take() else { return };
        let executor = self.executor.clone();
        let ending = async move { tokio::time::timeout(limit, executor.shutdown(Duration::ZERO, true)).await };
        let ending = runtime.spawn(ending);
        if tokio::runtime::Handle::try_current().is_err() {
            runtime.block_on(async { drop(ending.await) });
        }
        // A fault may hang for ever.
        runtime.shutdown_background();
    }
}

/// Gives every task turns until none has anything to do.
async fn settle() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// Somebody who calls tools, as a client does.
#[derive(Clone)]
pub struct Worker<'a> {
    harness: &'a Harness,
    id: WorkerId,
    session: Option<String>,
    mode: SessionMode,
    timeout: Option<f64>,
}

impl<'a> Worker<'a> {
    /// The same worker, who means the session of this name.
    #[must_use]
    pub fn session(&self, name: &str) -> Self {
        Self { session: Some(name.to_owned()), ..self.clone() }
    }

    /// The same worker, with another rule for how its calls find their sessions.
    #[must_use]
    pub fn session_mode(&self, mode: SessionMode) -> Self {
        Self { mode, ..self.clone() }
    }

    /// The same worker, whose calls have a time limit, in seconds.
    #[must_use]
    pub fn timeout(&self, seconds: f64) -> Self {
        Self { timeout: Some(seconds), ..self.clone() }
    }

    /// Makes the session on a resource.
    ///
    /// # Errors
    /// What `initialize` answered, a limit, an unknown resource, a wrong configuration.
    pub fn create(&self, resource: &str, config: Value) -> Result<CreatedSession> {
        let session_config = match config {
            Value::Object(config) => config,
            other => {
                return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "config", "an object", other.to_string()));
            }
        };
        let request = CreateSession {
            worker_id: self.id.clone(),
            resource_type: resource.to_owned(),
            session: self.session.clone(),
            session_config,
            custom_name: None,
            ttl_seconds: None,
        };
        self.harness.run(self.harness.executor.create_session(request))
    }

    /// Destroys the session on a resource, and lets its cleanup run.
    ///
    /// # Errors
    /// There is none, or it ended by itself.
    pub fn destroy(&self, resource: &str) -> Result<()> {
        let request = DestroySession {
            worker_id: self.id.clone(),
            resource_type: Some(resource.to_owned()),
            session: self.session.clone(),
            session_id: None,
        };
        let destroyed = self.harness.run(async { self.harness.executor.destroy_session(&request) });
        self.harness.settle();
        destroyed.map(drop)
    }

    /// Ends all of the worker's sessions; how many those were.
    pub fn disconnect(&self) -> usize {
        let ended = self.harness.run(async { self.harness.executor.disconnect(&self.id) });
        self.harness.settle();
        ended.sessions_cleaned
    }

    /// Calls a tool; its result.
    ///
    /// # Errors
    /// What the tool, or the runtime, answered.
    pub fn call(&self, action: &str, params: impl Serialize) -> Result<Value> {
        self.begin(action, params).end()
    }

    /// Calls a tool; its result as the type that is asked for.
    ///
    /// # Errors
    /// What the tool, or the runtime, answered, or the result is not of this type.
    pub fn call_as<T: DeserializeOwned>(&self, action: &str, params: impl Serialize) -> Result<T> {
        let result = self.call(action, params)?;
        serde_json::from_value(result)
            .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, format!("the result: {error}")))
    }

    /// Begins a call, which goes on while the test does something else.
    ///
    /// # Panics
    /// The parameters cannot be written as JSON.
    #[expect(clippy::expect_used, reason = "a test without its request has failed")]
    pub fn begin(&self, action: &str, params: impl Serialize) -> Begun<'a> {
        let mut request = ExecuteRequest::new(self.id.clone(), action);
        request.params = Some(serde_json::value::to_raw_value(&params).expect("parameters as JSON"));
        request.session.clone_from(&self.session);
        request.session_mode = self.mode;
        request.timeout = self.timeout;
        let executor = self.harness.executor.clone();
        let mut task = None;
        self.harness.run(async {
            task = Some(tokio::spawn(async move { executor.execute(request, Vec::new()).await }));
            settle().await;
        });
        Begun { harness: self.harness, task: task.expect("it was begun") }
    }
}

/// A call that has begun.
pub struct Begun<'a> {
    harness: &'a Harness,
    task: JoinHandle<Arc<Answer>>,
}

impl Begun<'_> {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for its end; its result.
    ///
    /// # Errors
    /// What the tool, or the runtime, answered.
    ///
    /// # Panics
    /// It does not end.
    pub fn end(self) -> Result<Value> {
        let answer = self.answer();
        match (&answer.data, &answer.error) {
            (data, None) => {
                Ok(data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default())
            }
            (data, Some(body)) => {
                let error = ToolError::from_answer(answer.code, answer.message.clone().into_owned(), body.clone());
                let data = data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok());
                Err(data.into_iter().fold(error, ToolError::with_data))
            }
        }
    }

    /// Waits for its end; the whole answer, with [`meta`](sandbox_types::Meta).
    ///
    /// # Panics
    /// It does not end.
    #[expect(clippy::expect_used, reason = "a panic of the runtime's own is a failed test")]
    pub fn answer(self) -> Arc<Answer> {
        self.harness.run(self.task).expect("the runtime answers panics of tools")
    }

    /// The client leaves: the call is cancelled, as when its connection ends.
    pub fn leave(self) {
        self.task.abort();
        self.harness.settle();
    }
}
