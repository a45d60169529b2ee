//! The same without `async`: for threads that have no runtime, and for those that have one.
//!
//! ```no_run
//! # fn demo() -> Result<(), sandbox_client::ClientError> {
//! use sandbox_client::blocking::Sandbox;
//! use serde_json::{Value, json};
//!
//! let sandbox = Sandbox::builder().build()?;
//! let answer: Value = sandbox.call("bash:run", json!({ "command": "uname" }))?;
//! println!("{}", answer["stdout"]);
//! # Ok(())
//! # }
//! ```
//!
//! The calls run on a thread of this crate's own; the one that makes them waits, also inside of a runtime, whose other tasks
//! on that thread wait with it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use sandbox_types::{
    BatchRequest, BatchResult, CreateSession, DestroySession, DestroyedSession, Envelope, ExecuteRequest, Health,
    InitBatch, InitResource, Ready, RefreshSessions, Refreshed, ResourceInfo, RunId, RunInfo, SessionId, SessionInfo,
    ShutdownBegun, ShutdownRequest, ToolInfo, WarmupAnswer, WarmupStatus, WorkerId, WorkerStatus,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Cancellation, NewSession, RunEvent, SandboxBuilder, Sessions, Upload, Which, background,
    client::result,
    error::{ClientError, Result},
    sandbox::checked,
};

/// How long the drop of a session waits until it is destroyed.
const DROP_LIMIT: Duration = Duration::from_secs(10);

/// What a future comes to; it runs on this crate's own runtime.
///
/// # Errors
/// There is no thread for it, or what the future says.
fn wait<T: Send + 'static>(future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    begin(future)?.recv().unwrap_or_else(|_| Err(ClientError::Invalid("the request panicked".to_owned())))
}

fn begin<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<mpsc::Receiver<T>> {
    let no_thread = || ClientError::Invalid("the system has no thread for the requests".to_owned());
    let handle = background::handle().ok_or_else(no_thread)?;
    let (done, is_done) = mpsc::sync_channel(1);
    handle.spawn(async move {
        // Who waited may have gone.
        let _ = done.send(future.await);
    });
    Ok(is_done)
}

macro_rules! twins {
    ($of:ident: $($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(
            #[doc = concat!("[`", stringify!($of), "::", stringify!($name), "`](crate::", stringify!($of), "::",
                stringify!($name), "), waited for.")]
            ///
            /// # Errors
            /// As there.
            pub fn $name(&self $(, $arg: &$type)*) -> Result<$result> {
                let inner = self.inner.clone();
                $(let $arg = $arg.to_owned();)*
                wait(async move { inner.$name($(&$arg),*).await })
            }
        )*
    };
}

/// [`HttpServiceClient`](crate::HttpServiceClient), waited for.
#[derive(Clone, Debug)]
pub struct HttpServiceClient {
    inner: crate::HttpServiceClient,
}

impl HttpServiceClient {
    /// [`HttpServiceClient::new`](crate::HttpServiceClient::new), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn new(url: impl Into<String>, worker: WorkerId) -> Result<Self> {
        Ok(Self { inner: crate::HttpServiceClient::new(url, worker)? })
    }

    /// A client with these settings. It has connections of its own: those of a runtime that waits here would not answer.
    ///
    /// # Errors
    /// As [`HttpServiceClient::new`](crate::HttpServiceClient::new).
    pub fn of(settings: &crate::HttpServiceClient) -> Result<Self> {
        Ok(Self { inner: settings.apart()? })
    }

    /// [`HttpServiceClient::request`](crate::HttpServiceClient::request).
    ///
    /// # Errors
    /// As there.
    pub fn request(&self, action: &str, params: impl Serialize) -> Result<ExecuteRequest> {
        self.inner.request(action, params)
    }

    /// [`HttpServiceClient::execute`](crate::HttpServiceClient::execute), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn execute(&self, action: &str, params: impl Serialize) -> Result<Envelope> {
        self.execute_request(&self.inner.request(action, params)?)
    }

    /// [`HttpServiceClient::warmup`](crate::HttpServiceClient::warmup), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn warmup(&self, backends: Option<Vec<String>>) -> Result<WarmupAnswer> {
        let inner = self.inner.clone();
        wait(async move { inner.warmup(backends).await })
    }

    /// [`HttpServiceClient::stream`](crate::HttpServiceClient::stream), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn stream(&self, request: &ExecuteRequest) -> Result<RunStream> {
        let (inner, request) = (self.inner.clone(), request.clone());
        wait(async move { inner.stream(&request).await }).map(RunStream::new)
    }

    /// [`HttpServiceClient::follow`](crate::HttpServiceClient::follow), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn follow(&self, run_id: &RunId, last_event_id: u64) -> Result<RunStream> {
        let (inner, run_id) = (self.inner.clone(), run_id.clone());
        wait(async move { inner.follow(&run_id, last_event_id).await }).map(RunStream::new)
    }

    /// [`HttpServiceClient::run`](crate::HttpServiceClient::run), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn run(&self, run_id: &RunId, wait_seconds: Option<f64>) -> Result<RunInfo> {
        let (inner, run_id) = (self.inner.clone(), run_id.clone());
        wait(async move { inner.run(&run_id, wait_seconds).await })
    }

    twins! { HttpServiceClient:
        execute_request(request: ExecuteRequest) -> Envelope;
        execute_batch(request: BatchRequest) -> Envelope;
        create_session(request: CreateSession) -> Envelope;
        destroy_session(request: DestroySession) -> Envelope;
        destroy_session_id(id: SessionId) -> Envelope;
        list_sessions() -> Envelope;
        refresh_sessions(request: RefreshSessions) -> Envelope;
        heartbeat() -> Envelope;
        status() -> Envelope;
        disconnect() -> Envelope;
        init_resource(request: InitResource) -> Envelope;
        init_batch(request: InitBatch) -> Envelope;
        tools() -> Vec<ToolInfo>;
        tool(name: str) -> ToolInfo;
        resources() -> Vec<ResourceInfo>;
        warmup_status() -> WarmupStatus;
        health() -> Health;
        ready() -> Ready;
        shutdown_server(request: ShutdownRequest) -> ShutdownBegun;
        detach(request: ExecuteRequest) -> RunInfo;
        runs() -> Vec<RunInfo>;
        cancel_run(run_id: RunId) -> Cancellation;
    }
}

/// [`Sandbox`](crate::Sandbox), waited for.
#[derive(Clone, Debug)]
pub struct Sandbox {
    inner: crate::Sandbox,
}

macro_rules! settings {
    ($($name:ident($value:ident: $type:ty);)*) => {
        $(
            #[doc = concat!("As [`SandboxBuilder::", stringify!($name), "`].")]
            pub fn $name(self, $value: $type) -> Self {
                Self(self.0.$name($value))
            }
        )*
    };
}

/// What a [`Sandbox`] is made of: the settings of [`SandboxBuilder`].
///
/// ```
/// use sandbox_client::blocking::Sandbox;
///
/// let sandbox = Sandbox::builder().worker_id("agent-7").retries(2).build()?;
/// assert_eq!(sandbox.worker_id().as_str(), "agent-7");
/// # Ok::<(), sandbox_client::ClientError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Builder(SandboxBuilder);

impl Builder {
    settings! {
        url(url: impl Into<String>);
        worker_id(worker: impl Into<String>);
        token(token: impl Into<String>);
        timeout(timeout: Duration);
        retries(retries: u32);
        heartbeat(every: impl Into<Option<Duration>>);
        auto_start(auto_start: bool);
        config(path: impl Into<PathBuf>);
        binary(path: impl Into<PathBuf>);
        startup_timeout(timeout: Duration);
        linger(linger: Duration);
        detach(detach: bool);
        runtime_dir(path: impl Into<PathBuf>);
    }

    /// As [`SandboxBuilder::warmup`].
    pub fn warmup<T: Into<String>>(self, resources: impl IntoIterator<Item = T>) -> Self {
        Self(self.0.warmup(resources))
    }

    /// The sandbox; no server is looked for yet.
    ///
    /// # Errors
    /// As [`SandboxBuilder::build`].
    pub fn build(self) -> Result<Sandbox> {
        Ok(Sandbox { inner: self.0.build()? })
    }
}

impl From<SandboxBuilder> for Builder {
    fn from(settings: SandboxBuilder) -> Self {
        Self(settings)
    }
}

impl Sandbox {
    /// What a sandbox is made of.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Who this sandbox is to the server.
    pub fn worker_id(&self) -> &WorkerId {
        self.inner.worker_id()
    }

    /// The address of the server; none before it was found, and after the end.
    pub fn url(&self) -> Option<String> {
        self.inner.url()
    }

    /// [`Sandbox::client`](crate::Sandbox::client), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn client(&self) -> Result<HttpServiceClient> {
        let inner = self.inner.clone();
        Ok(HttpServiceClient { inner: wait(async move { inner.client().await })? })
    }

    /// [`Sandbox::warmup`](crate::Sandbox::warmup), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn warmup<T: AsRef<str>>(&self, resources: &[T]) -> Result<WarmupAnswer> {
        let inner = self.inner.clone();
        let resources: Vec<_> = resources.iter().map(|name| name.as_ref().to_owned()).collect();
        wait(async move { inner.warmup(&resources).await })
    }

    /// [`Sandbox::create_session`](crate::Sandbox::create_session), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn create_session<S: Sessions>(&self, sessions: S) -> Result<S::Created> {
        let (wanted, names) = wanted(sessions)?;
        let inner = self.inner.inner().clone();
        let created = wait(async move { inner.create_all(wanted).await })?;
        Ok(S::created(names, created))
    }

    /// [`Sandbox::reinitialize`](crate::Sandbox::reinitialize), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn reinitialize<S: Sessions>(&self, sessions: S) -> Result<S::Created> {
        let (wanted, names) = wanted(sessions)?;
        let inner = self.inner.inner().clone();
        let created = wait(async move { inner.make_anew(wanted).await })?;
        Ok(S::created(names, created))
    }

    /// [`Sandbox::session`](crate::Sandbox::session), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn session(&self, new: impl Into<NewSession>) -> Result<Session> {
        let (inner, new) = (self.inner.clone(), new.into());
        wait(async move { inner.session(new).await }).map(|inner| Session { inner: Some(inner), sandbox: self.clone() })
    }

    /// [`Sandbox::execute`](crate::Sandbox::execute), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn execute(&self, action: &str, params: impl Serialize) -> Result<Envelope> {
        self.execute_request(&self.request(action, params)?)
    }

    /// [`Sandbox::call`](crate::Sandbox::call), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn call<T: DeserializeOwned>(&self, action: &str, params: impl Serialize) -> Result<T> {
        self.call_request(self.request(action, params)?)
    }

    fn call_request<T: DeserializeOwned>(&self, request: ExecuteRequest) -> Result<T> {
        let inner = self.inner.clone();
        result(wait(async move { inner.call_raw(&request).await })?)
    }

    /// [`Sandbox::request`](crate::Sandbox::request).
    ///
    /// # Errors
    /// As there.
    pub fn request(&self, action: &str, params: impl Serialize) -> Result<ExecuteRequest> {
        self.inner.request(action, params)
    }

    /// [`Sandbox::execute_batch`](crate::Sandbox::execute_batch), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn execute_batch<A, P>(&self, actions: impl IntoIterator<Item = (A, P)>, parallel: bool) -> Result<BatchResult>
    where
        A: Into<String>,
        P: Serialize,
    {
        self.execute_batch_request(&self.inner.batch(actions, parallel)?)
    }

    /// [`Sandbox::stream`](crate::Sandbox::stream), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn stream(&self, action: &str, params: impl Serialize) -> Result<RunStream> {
        let (inner, request) = (self.inner.clone(), self.request(action, params)?);
        wait(async move { inner.stream_request(&request).await }).map(RunStream::new)
    }

    /// [`Sandbox::upload`](crate::Sandbox::upload) of a file, waited for.
    ///
    /// # Errors
    /// As there, or the file cannot be read.
    pub fn upload_file(
        &self,
        action: &str,
        params: impl Serialize,
        parameter: &str,
        path: impl AsRef<Path>,
    ) -> Result<Envelope> {
        let (inner, request) = (self.inner.clone(), self.request(action, params)?);
        let (parameter, path) = (parameter.to_owned(), path.as_ref().to_owned());
        let answer =
            wait(async move { inner.client().await?.upload(&request, &parameter, Upload::file(path).await?).await })?;
        checked(answer)
    }

    /// [`Sandbox::download`](crate::Sandbox::download) into a file, waited for; how many bytes it has.
    ///
    /// # Errors
    /// As there, or the file cannot be written.
    pub fn download_file(&self, action: &str, params: impl Serialize, path: impl AsRef<Path>) -> Result<u64> {
        let (inner, request) = (self.inner.clone(), self.request(action, params)?);
        let path = path.as_ref().to_owned();
        wait(async move { inner.client().await?.download(&request).await?.save(path).await })
    }

    /// [`Sandbox::destroy_session`](crate::Sandbox::destroy_session), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn destroy_session(&self, which: impl Into<Which>) -> Result<Vec<DestroyedSession>> {
        let (inner, which) = (self.inner.clone(), which.into());
        wait(async move { inner.destroy_session(which).await })
    }

    /// [`Sandbox::refresh_sessions`](crate::Sandbox::refresh_sessions), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn refresh_sessions(&self, which: impl Into<Which>) -> Result<BTreeMap<String, Refreshed>> {
        let (inner, which) = (self.inner.clone(), which.into());
        wait(async move { inner.refresh_sessions(which).await })
    }

    /// [`Sandbox::close`](crate::Sandbox::close), waited for.
    pub fn close(&self) {
        let inner = self.inner.clone();
        let closed = wait(async move {
            inner.close().await;
            Ok(())
        });
        // It was never open where there is no thread for it.
        drop(closed);
    }

    twins! { Sandbox:
        start() -> ();
        get_warmup_status() -> WarmupStatus;
        execute_request(request: ExecuteRequest) -> Envelope;
        execute_batch_request(request: BatchRequest) -> BatchResult;
        list_sessions() -> Vec<SessionInfo>;
        tools() -> Vec<ToolInfo>;
        status() -> WorkerStatus;
        shutdown_server() -> ShutdownBegun;
        server_log() -> String;
    }
}

fn wanted<S: Sessions>(sessions: S) -> Result<(Vec<NewSession>, Vec<String>)> {
    let wanted = sessions.wanted()?;
    let names = wanted.iter().map(|new| new.name.label()).collect();
    Ok((wanted, names))
}

/// [`Session`](crate::Session), waited for; its drop waits until it is destroyed, ten seconds at most.
#[derive(Debug)]
pub struct Session {
    /// Until it is closed.
    inner: Option<crate::Session>,
    sandbox: Sandbox,
}

impl Session {
    fn open(&self) -> Result<&crate::Session> {
        self.inner.as_ref().ok_or(ClientError::Closed)
    }

    /// Its id; none on a resource whose tools need no session.
    pub fn id(&self) -> Option<&SessionId> {
        self.inner.as_ref().and_then(crate::Session::id)
    }

    /// The resource.
    pub fn resource(&self) -> &str {
        self.inner.as_ref().map_or("", crate::Session::resource)
    }

    /// [`Session::request`](crate::Session::request).
    ///
    /// # Errors
    /// As there.
    pub fn request(&self, tool: &str, params: impl Serialize) -> Result<ExecuteRequest> {
        self.open()?.request(tool, params)
    }

    /// [`Session::refresh`](crate::Session::refresh), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn refresh(&self) -> Result<Option<String>> {
        let refresh = self.open()?.refreshing();
        wait(refresh)
    }

    /// [`Session::call`](crate::Session::call), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn call<T: DeserializeOwned>(&self, tool: &str, params: impl Serialize) -> Result<T> {
        self.sandbox.call_request(self.open()?.request(tool, params)?)
    }

    /// [`Session::execute`](crate::Session::execute), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn execute(&self, tool: &str, params: impl Serialize) -> Result<Envelope> {
        self.sandbox.execute_request(&self.open()?.request(tool, params)?)
    }

    /// [`Session::stream`](crate::Session::stream), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn stream(&self, tool: &str, params: impl Serialize) -> Result<RunStream> {
        let (inner, request) = (self.sandbox.inner.clone(), self.open()?.request(tool, params)?);
        wait(async move { inner.stream_request(&request).await }).map(RunStream::new)
    }

    /// [`Session::close`](crate::Session::close), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn close(mut self) -> Result<()> {
        let Some(inner) = self.inner.take() else { return Ok(()) };
        wait(inner.close())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let leave = self.inner.as_mut().and_then(crate::Session::leave);
        if let Some(leave) = leave
            && let Ok(left) = begin(leave)
        {
            // Its time to live takes care of what takes longer.
            let _ = left.recv_timeout(DROP_LIMIT);
        }
    }
}

/// [`RunStream`](crate::RunStream) as an iterator; an error is its last item.
#[derive(Debug)]
pub struct RunStream {
    /// None after its end.
    inner: Option<crate::RunStream>,
    run_id: Option<RunId>,
    last_event_id: u64,
}

impl RunStream {
    fn new(inner: crate::RunStream) -> Self {
        Self { run_id: inner.run_id().cloned(), last_event_id: inner.last_event_id(), inner: Some(inner) }
    }

    /// The run; none before its first event was read.
    pub fn run_id(&self) -> Option<&RunId> {
        self.run_id.as_ref()
    }

    /// Id of the event that was read last: from here another stream goes on.
    pub fn last_event_id(&self) -> u64 {
        self.last_event_id
    }
}

impl Iterator for RunStream {
    type Item = Result<RunEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut inner = self.inner.take()?;
        let read = wait(async move {
            let event = inner.next().await;
            Ok((inner, event))
        });
        let (inner, event) = match read {
            Ok(read) => read,
            Err(error) => return Some(Err(error)),
        };
        self.run_id = inner.run_id().cloned();
        self.last_event_id = inner.last_event_id();
        if let Ok(Some(_)) = &event {
            self.inner = Some(inner);
        }
        event.transpose()
    }
}
